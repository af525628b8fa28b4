//! Whose packages are kept: those of jobs that go on, or of which a detached actor may still be started.

use std::path::PathBuf;

use ray_rs_actors::lifecycle::Phase;
use ray_rs_types::JobId;
use tonic::Status;

use super::State;
use crate::packages::{Packages, PartKey, Reserved, remove_all};

impl State {
    /// Set before anything is served. What an earlier process kept of jobs that are over goes.
    pub fn keep_packages(&mut self, packages: Packages) {
        self.packages = packages;
        self.release_packages();
    }

    /// Room for a part of a package; see [`Packages::reserve`].
    ///
    /// # Errors
    /// There is no room, or the job is over.
    pub fn reserve_part(&mut self, key: &PartKey, size: usize) -> Result<Reserved, Status> {
        if self.is_over(key.job) {
            return Err(Status::failed_precondition("the job is over"));
        }
        self.packages.reserve(key, size)
    }

    /// See [`Packages::written`].
    pub fn part_written(&mut self, key: &PartKey, is_whole: bool) -> bool {
        self.packages.written(key, is_whole)
    }

    /// The file of a part, if it is there.
    pub fn part_path(&self, key: &PartKey) -> Option<PathBuf> {
        self.packages.path(key)
    }

    fn is_over(&self, job: JobId) -> bool {
        self.jobs.has_finished(job) && !self.has_living_detached(job)
    }

    fn has_living_detached(&self, job: JobId) -> bool {
        let lives = |actor| {
            self.lifecycle
                .status(actor)
                .is_some_and(|life| life.phase != Phase::Dead)
        };
        self.actors.detached_of(job).any(lives)
    }

    /// A job or a detached actor has ended.
    pub(super) fn release_packages(&mut self) {
        let jobs = self.packages.jobs();
        let over: Vec<JobId> = jobs.into_iter().filter(|job| self.is_over(*job)).collect();
        let dirs: Vec<PathBuf> = over.into_iter().filter_map(|job| self.packages.forget(job)).collect();
        if dirs.is_empty() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            // Nobody waits for it.
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove_all(dirs))),
            Err(_) => remove_all(dirs),
        }
    }
}
