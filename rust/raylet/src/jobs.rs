//! Jobs: each has a pool in the scheduler for each of its environments, and zygotes as long as workers may be needed.

use ray_rs_scheduler::{EnvKey, Event, JobKey, PoolKey, StartFailure};
use ray_rs_types::{ActorId, JobId, WorkerAddress};
use rustc_hash::FxHashSet;

use crate::config::{DriverConfig, RayletConfig};
use crate::env_spec::EnvSpec;
use crate::environments::Environment;
use crate::input::{ConnKey, Inputs, Token, ZygoteKey, ZygoteWord};
use crate::logs;
use crate::raylet::Raylet;
use crate::workers::how_ended;
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
    /// Its detached actors that are not known to be dead.
    pub detached: FxHashSet<ActorId>,
    /// By `EnvKey`: the job's own is the first. None goes before the job does.
    pub environments: Vec<Environment>,
    /// Zygotes that have ended; what descends from one ends with the job.
    pub past_zygotes: Vec<ZygoteKey>,
    /// Workers that were ready for a task, ever.
    pub workers_seen: u32,
    pub start_failures: u32,
    /// The driver, when it is on another node.
    pub remote_driver: Option<WorkerAddress>,
}

impl Raylet {
    /// Makes a job whose driver may register later, and starts its zygote and workers.
    /// Its id, if it is known: workers that are started at once may need files that lie under it.
    pub fn open_job(&mut self, config: DriverConfig, zygote: Option<Zygote>, id: Option<JobId>) -> JobKey {
        self.next_job += 1;
        let key = JobKey(self.next_job);
        let pool = PoolKey {
            job: key,
            env: EnvKey::JOB,
        };
        if let Some(zygote) = &zygote {
            self.zygotes.insert(zygote.key, pool);
        }
        let mut own = Environment::new(config.runtime_env.clone());
        own.zygote = zygote;
        let job = Job {
            config,
            id,
            driver: None,
            ended: false,
            detached: FxHashSet::default(),
            environments: vec![own],
            past_zygotes: Vec::new(),
            workers_seen: 0,
            start_failures: 0,
            remote_driver: None,
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

    pub fn take_zygote_word(&mut self, zygote: ZygoteKey, word: ZygoteWord) {
        match word {
            ZygoteWord::Forked { token, pid } => self.worker_forked(token, pid),
            ZygoteWord::Exited { pid, status } => self.process_ended(pid, Some(status)),
            // Its exit status, which comes at once then, says how it ended.
            ZygoteWord::Closed => {
                if let Some(zygote) = self.all_zygotes().find(|known| known.key == zygote) {
                    zygote.kill();
                }
            }
        }
    }

    /// Its workers live on, as children of this process; forks under way come to nothing.
    pub fn zygote_gone(&mut self, zygote: ZygoteKey, status: i32) {
        let Some(key) = self.zygotes.remove(&zygote) else {
            return;
        };
        let job = self.jobs.get_mut(&key.job).expect("a zygote's job is known");
        let gone = job.environments[key.env.0 as usize].zygote.take();
        let gone = gone.expect("it was listed");
        job.past_zygotes.push(gone.key);
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
        // However many it was to fork.
        let mut how = how_ended(Some(status), false);
        for token in forking {
            self.start_failed(token, &reason, std::mem::replace(&mut how, StartFailure::Counted));
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
        let mut marks = std::mem::take(&mut job.past_zygotes);
        for environment in &mut job.environments {
            environment.end_set_up();
            if let Some(zygote) = environment.zygote.take() {
                self.zygotes.remove(&zygote.key);
                zygote.kill();
                marks.push(zygote.key);
            }
        }
        if !marks.is_empty() {
            self.marks_to_end.extend(marks.into_iter().map(|mark| (mark, key)));
            self.looks_at_orphans = 0;
        }
        self.decide(Event::JobEnded { job: key });
        let workers: Vec<(Token, bool)> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.pool.job == key && !self.actors.is_detached(worker.actor))
            .map(|(token, worker)| (*token, worker.pid.is_some()))
            .collect();
        for (token, has_pid) in workers {
            if has_pid {
                self.kill_worker(token, "its job has ended");
            } else {
                // If it was forked all the same, it is found as an orphan, or when it registers.
                self.start_failed(token, "its job has ended", StartFailure::Counted);
            }
        }
        self.forget_job_if_over(key);
        self.end_orphans();
    }

    /// Forgets an ended job that nothing hangs on any more.
    pub fn forget_job_if_over(&mut self, key: JobKey) {
        let Some(job) = self.jobs.get(&key) else { return };
        if job.ended && job.detached.is_empty() && self.workers.values().all(|worker| worker.pool.job != key) {
            self.drop_zygotes(key);
            self.jobs.remove(&key);
        }
    }

    /// Those that were started for detached actors, after the job's end.
    fn drop_zygotes(&mut self, key: JobKey) {
        let job = self.jobs.get_mut(&key).expect("the caller has looked");
        for environment in &mut job.environments {
            environment.end_set_up();
            if let Some(zygote) = environment.zygote.take() {
                self.zygotes.remove(&zygote.key);
                zygote.kill();
                self.marks_to_end.push((zygote.key, key));
                self.looks_at_orphans = 0;
            }
        }
        let past = std::mem::take(&mut job.past_zygotes);
        self.marks_to_end.extend(past.into_iter().map(|mark| (mark, key)));
    }

    /// The control store says that an actor will not come back.
    pub fn detached_actor_ended(&mut self, actor: ActorId) {
        let Some(key) = self.job_by_id(actor.job_id()) else {
            return;
        };
        let job = self.jobs.get_mut(&key).expect("just found");
        if job.detached.remove(&actor) {
            self.forget_job_if_over(key);
            self.end_orphans();
        }
    }
}

impl Job {
    /// A zygote for the environment that the job of this driver will have, unless that has to be made first.
    pub fn first_zygote(driver: &DriverConfig, raylet: &RayletConfig, inputs: &Inputs) -> Option<Zygote> {
        let spec = EnvSpec::parse(&driver.runtime_env).ok()?;
        if spec.venv_dir(&raylet.session_dir).is_some() || !spec.has_directories(&raylet.session_dir) {
            return None;
        }
        let config = spec.applied(&driver.runtime_env, driver, &raylet.session_dir, None);
        Zygote::spawn(ZygoteKey(0), raylet, &config, inputs).ok()
    }

    /// The job's own environment.
    pub fn own(&self) -> &Environment {
        &self.environments[0]
    }
}
