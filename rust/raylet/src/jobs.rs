//! Jobs: each has a pool in the scheduler, and a zygote as long as workers may be needed.

use ray_rs_scheduler::{Event, JobKey};
use ray_rs_types::JobId;

use crate::config::DriverConfig;
use crate::input::{ConnKey, Token, ZygoteKey, ZygoteWord};
use crate::logs;
use crate::raylet::Raylet;
use crate::zygote::Zygote;

/// A driver's run, from its launch or registration on.
#[derive(Debug)]
pub(crate) struct Job {
    pub config: DriverConfig,
    /// Given by the control store.
    pub id: Option<JobId>,
    /// The driver's connection while it lives.
    pub driver: Option<ConnKey>,
    /// Its driver is gone. Such a job stays known while a detached actor of it may be restarted.
    pub ended: bool,
    pub had_detached_actors: bool,
    pub zygote: Option<Zygote>,
    /// Why the last zygote or worker did not come to life; empty when the last one did.
    pub last_failure: String,
    /// Workers that have connected, ever.
    pub workers_seen: u32,
    pub start_failures: u32,
}

impl Raylet {
    /// Makes a job whose driver may register later, and starts its zygote and workers.
    pub fn open_job(&mut self, config: DriverConfig, zygote: Option<Zygote>) -> JobKey {
        self.next_job += 1;
        let key = JobKey(self.next_job);
        if let Some(zygote) = &zygote {
            self.zygotes.insert(zygote.key, key);
        }
        let job = Job {
            config,
            id: None,
            driver: None,
            ended: false,
            had_detached_actors: false,
            zygote,
            last_failure: String::new(),
            workers_seen: 0,
            start_failures: 0,
        };
        self.jobs.insert(key, job);
        self.decide(Event::JobStarted { job: key });
        key
    }

    pub fn job_by_id(&self, id: JobId) -> Option<JobKey> {
        self.jobs
            .iter()
            .find(|(_, job)| job.id == Some(id))
            .map(|(key, _)| *key)
    }

    /// The job's zygote, started if there is none.
    pub fn zygote_of(&mut self, key: JobKey) -> Result<&Zygote, String> {
        let job = self.jobs.get_mut(&key).ok_or("its job is over")?;
        if job.zygote.is_none() {
            self.next_zygote += 1;
            let zygote_key = ZygoteKey(self.next_zygote);
            let zygote = Zygote::spawn(zygote_key, &self.config, &job.config, &self.inputs)
                .map_err(|error| format!("{} cannot be started: {error}", job.python(&self.config.python)))?;
            tracing::debug!(pid = zygote.pid.as_raw_nonzero(), "a zygote was started");
            self.zygotes.insert(zygote_key, key);
            job.zygote = Some(zygote);
        }
        Ok(job.zygote.as_ref().expect("just made"))
    }

    pub fn take_zygote_word(&mut self, zygote: ZygoteKey, word: ZygoteWord) {
        match word {
            ZygoteWord::Forked { token, pid } => self.worker_forked(token, pid),
            ZygoteWord::Exited { pid, status } => self.process_ended(pid, Some(status)),
            ZygoteWord::Closed => self.zygote_gone(zygote, false),
        }
    }

    /// Its workers live on, as children of this process; forks under way come to nothing.
    pub fn zygote_gone(&mut self, zygote: ZygoteKey, is_reaped: bool) {
        let Some(key) = self.zygotes.remove(&zygote) else {
            return;
        };
        let job = self.jobs.get_mut(&key).expect("a zygote's job is known");
        let gone = job.zygote.take().expect("it was listed");
        if !is_reaped {
            gone.kill();
        }
        let last_words = logs::last_words(&gone.stderr_path);
        let reason = if last_words.is_empty() {
            "the process that forks workers has ended".to_owned()
        } else {
            format!("the process that forks workers has ended; its last words were:\n{last_words}")
        };
        let forking: Vec<Token> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.zygote == zygote && worker.pid.is_none())
            .map(|(token, _)| *token)
            .collect();
        for token in forking {
            self.start_failed(token, &reason);
        }
    }

    /// Its driver is gone: nothing of the job stays but detached actors.
    pub fn end_job(&mut self, key: JobKey) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        if job.ended {
            return;
        }
        job.ended = true;
        job.driver = None;
        if let Some(zygote) = job.zygote.take() {
            self.zygotes.remove(&zygote.key);
            zygote.kill();
            self.marks_to_end.push((zygote.mark, key));
            self.looks_at_orphans = 0;
        }
        self.decide(Event::JobEnded { job: key });
        let workers: Vec<(Token, bool)> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.job == key && !self.actors.is_detached(worker.actor))
            .map(|(token, worker)| (*token, worker.pid.is_some()))
            .collect();
        for (token, has_pid) in workers {
            if has_pid {
                self.kill_worker(token, "its job has ended");
            } else {
                // If it was forked all the same, it is found as an orphan, or when it registers.
                self.start_failed(token, "its job has ended");
            }
        }
        self.forget_job_if_over(key);
        self.end_orphans();
    }

    /// Forgets an ended job that nothing hangs on any more.
    pub fn forget_job_if_over(&mut self, key: JobKey) {
        let Some(job) = self.jobs.get(&key) else { return };
        if job.ended && !job.had_detached_actors && self.workers.values().all(|worker| worker.job != key) {
            self.jobs.remove(&key);
        }
    }
}

impl Job {
    pub fn python<'a>(&'a self, default: &'a str) -> &'a str {
        if self.config.executable.is_empty() {
            default
        } else {
            &self.config.executable
        }
    }
}
