//! The environments of a job: its own, and those of single tasks and actors. Each has a zygote and workers of its own.
//!
//! Nothing of the node waits while one is made: packages are fetched and a virtual environment is installed by a process of its own, and the
//! worker starts that were ordered meanwhile are carried out when it says that it is done. One that can't be made fails
//! whoever asks for it, at once, until [`KEPT_FAILURE`] is over; then it is tried again. One that nobody has used for
//! [`KEPT_ZYGOTE`] loses its zygote.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ray_rs_proto::v1;
use ray_rs_scheduler::{EnvKey, JobKey, PoolKey};
use ray_rs_transport::session::PROCESS_MARK;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::io::{AsyncReadExt, BufReader};

use crate::config::{DriverConfig, RayletConfig};
use crate::env_spec::{EnvSpec, Venv};
use crate::input::{Input, Inputs};
use crate::logs;
use crate::raylet::Raylet;
use crate::timers::Timer;
use crate::zygote::Zygote;

/// A failure is told to those who ask so long, without another try.
const KEPT_FAILURE: Duration = Duration::from_secs(10);
/// From the end of its last worker, the zygote of an environment that is not its job's own stays so long.
const KEPT_ZYGOTE: Duration = Duration::from_secs(10);
/// Longest answer of a set-up that is read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// As the zygote's own, but for what runs then: see `python/ray_rs/_env_install.py`.
const BOOT: &str = "\
import sys
config = eval(sys.argv[1], {'null': None, 'true': True, 'false': False})
sys.argv[:] = ['']
sys.path[:] = config['sys_path']
from ray_rs._env_install import main
main(config)
";

#[derive(Debug)]
pub(crate) struct Environment {
    /// JSON, as it was asked for; empty: nothing besides what the driver has.
    pub text: String,
    set_up: SetUp,
    pub zygote: Option<Zygote>,
    /// Why the last zygote or worker did not come to life; empty when the last one did.
    pub last_failure: String,
    /// When somebody first asked for it.
    since: SystemTime,
    /// Counts the times that it was used again, so that a timer knows whether it is meant.
    uses: u64,
}

#[derive(Debug)]
enum SetUp {
    Untried,
    /// `child` installs; so many worker starts wait for it.
    UnderWay {
        child: SetUpProcess,
        orders: usize,
    },
    Ready(Box<DriverConfig>),
    Failed {
        reason: String,
        until: Instant,
    },
}

#[derive(Debug)]
struct SetUpProcess {
    /// `None` when it was reaped.
    pid: Option<Pid>,
    stderr_path: PathBuf,
}

/// Whether workers can be forked.
enum Readiness {
    Now,
    Later,
    Never(String),
}

impl Environment {
    pub fn new(text: String) -> Self {
        Self {
            text,
            set_up: SetUp::Untried,
            zygote: None,
            last_failure: String::new(),
            since: SystemTime::now(),
            uses: 0,
        }
    }

    /// Something is being fetched or installed.
    pub fn is_under_way(&self) -> bool {
        matches!(self.set_up, SetUp::UnderWay { .. })
    }

    /// As the state API lists it; the caller adds whose it is.
    pub fn described(&self) -> v1::KnownEnvironment {
        let (state, error) = match &self.set_up {
            SetUp::Untried => (0, self.last_failure.clone()),
            SetUp::UnderWay { .. } => (1, String::new()),
            SetUp::Ready(_) => (2, self.last_failure.clone()),
            SetUp::Failed { reason, .. } => (3, reason.clone()),
        };
        v1::KnownEnvironment {
            text: self.text.clone(),
            state,
            since_us: self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64,
            error,
            ..v1::KnownEnvironment::default()
        }
    }

    /// Its processes, if they live; the caller sees to the zygote.
    pub fn end_set_up(&mut self) {
        if let SetUp::UnderWay { child, .. } = &self.set_up
            && let Some(pid) = child.pid
        {
            // Not reaped: the number is its.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Raylet {
    /// The environment that a request names, known from here on. Environments of a job are told apart by their texts.
    pub fn environment_key(&mut self, job: JobKey, text: String) -> EnvKey {
        let Some(known) = self.jobs.get_mut(&job) else {
            return EnvKey::JOB;
        };
        if text.is_empty() {
            return EnvKey::JOB;
        }
        let found = known.environments.iter().position(|each| each.text == text);
        let index = found.unwrap_or_else(|| {
            known.environments.push(Environment::new(text));
            known.environments.len() - 1
        });
        EnvKey(index as u32)
    }

    pub fn environment(&mut self, pool: PoolKey) -> Option<&mut Environment> {
        self.jobs.get_mut(&pool.job)?.environments.get_mut(pool.env.0 as usize)
    }

    /// The pool's zygote, started if there is none. `Ok(None)`: its environment is being made, and the start is noted.
    ///
    /// # Errors
    /// With the reason, and whether another try would end the same way.
    pub fn zygote_for(&mut self, pool: PoolKey) -> Result<Option<&Zygote>, (String, bool)> {
        match self.made_ready(pool) {
            Readiness::Never(reason) => return Err((reason, true)),
            Readiness::Later => return Ok(None),
            Readiness::Now => {}
        }
        self.next_zygote += 1;
        let key = crate::input::ZygoteKey(self.next_zygote);
        let job = self.jobs.get_mut(&pool.job).expect("it is ready");
        let environment = &mut job.environments[pool.env.0 as usize];
        environment.uses += 1;
        if environment.zygote.is_none() {
            let SetUp::Ready(config) = &environment.set_up else {
                unreachable!("it is ready")
            };
            let zygote = Zygote::spawn(key, &self.config, config, &self.inputs).map_err(|error| {
                let python = config.python(&self.config.python);
                (format!("{python} cannot be started: {error}"), false)
            })?;
            tracing::debug!(pid = zygote.pid.as_raw_nonzero(), "a zygote was started");
            self.zygotes.insert(key, pool);
            environment.zygote = Some(zygote);
        }
        Ok(environment.zygote.as_ref())
    }

    fn made_ready(&mut self, pool: PoolKey) -> Readiness {
        let Some(job) = self.jobs.get_mut(&pool.job) else {
            return Readiness::Never("its job is over".to_owned());
        };
        let Some(environment) = job.environments.get_mut(pool.env.0 as usize) else {
            return Readiness::Never("its runtime environment is not known".to_owned());
        };
        match &mut environment.set_up {
            SetUp::Ready(_) => return Readiness::Now,
            SetUp::UnderWay { orders, .. } => {
                *orders += 1;
                return Readiness::Later;
            }
            SetUp::Failed { reason, until } if Instant::now() < *until => return Readiness::Never(reason.clone()),
            SetUp::Failed { .. } | SetUp::Untried => {}
        }
        let spec = match EnvSpec::parse(&environment.text) {
            Ok(spec) => spec,
            Err(reason) => return Readiness::Never(reason),
        };
        let dir = spec.venv_dir(&self.config.session_dir);
        let venv = dir.as_deref().map(Venv::find);
        if let None | Some(Some(_)) = venv
            && spec.has_directories(&self.config.session_dir)
        {
            let session_dir = &self.config.session_dir;
            let config = spec.applied(&environment.text, &job.config, session_dir, venv.flatten().as_ref());
            environment.set_up = SetUp::Ready(Box::new(config));
            return Readiness::Now;
        }
        let id = job.id.map(|id| id.hex()).unwrap_or_default();
        match spawn_set_up((pool, &id), &self.config, &job.config, &environment.text, &self.inputs) {
            Ok(child) => {
                environment.set_up = SetUp::UnderWay { child, orders: 1 };
                Readiness::Later
            }
            Err(error) => Readiness::Never(format!("its runtime environment cannot be set up: {error}")),
        }
    }

    /// A set-up has said how it ended, or has ended without a word.
    pub fn environment_made(&mut self, pool: PoolKey, answer: &str) {
        let Some(environment) = self.environment(pool) else {
            return;
        };
        let SetUp::UnderWay { child, orders } = &environment.set_up else {
            return;
        };
        let orders = *orders;
        environment.set_up = match answer.strip_prefix("error ") {
            // The next look finds it.
            None if answer == "ok" => SetUp::Untried,
            failed => {
                let last_words = logs::last_words(&child.stderr_path);
                let reason = failed.map_or_else(
                    || format!("the process that sets it up has ended; its last words were:\n{last_words}"),
                    str::to_owned,
                );
                let until = Instant::now() + KEPT_FAILURE;
                SetUp::Failed { reason, until }
            }
        };
        for _ in 0..orders {
            self.start_worker(pool);
        }
        self.settle_registrations();
    }

    /// Whether the ended process was a set-up; its number is not its own any more.
    pub fn set_up_reaped(&mut self, pid: Pid) -> bool {
        let environments = self.jobs.values_mut().flat_map(|job| &mut job.environments);
        for environment in environments {
            if let SetUp::UnderWay { child, .. } = &mut environment.set_up
                && child.pid == Some(pid)
            {
                child.pid = None;
                return true;
            }
        }
        false
    }

    /// Nobody needs a worker of the environment: its zygote stays for a while.
    pub fn pool_emptied(&mut self, pool: PoolKey) {
        if let Some(environment) = self.environment(pool) {
            let timer = Timer::EnvironmentUnused(pool, environment.uses);
            self.timers.set(Instant::now() + KEPT_ZYGOTE, timer);
        }
    }

    pub fn environment_unused(&mut self, pool: PoolKey, uses: u64) {
        if self.workers.values().any(|worker| worker.pool == pool) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&pool.job) else {
            return;
        };
        let Some(environment) = job.environments.get_mut(pool.env.0 as usize) else {
            return;
        };
        if environment.uses == uses
            && let Some(zygote) = environment.zygote.take()
        {
            self.zygotes.remove(&zygote.key);
            zygote.kill();
            job.past_zygotes.push(zygote.key);
        }
    }
}

/// Starts a process that fetches and installs what the environment asks for, in a group of its own. Its one line of output, or its
/// end, comes as `Input::EnvironmentMade`.
fn spawn_set_up(
    (pool, job): (PoolKey, &str),
    raylet: &RayletConfig,
    driver: &DriverConfig,
    text: &str,
    inputs: &Inputs,
) -> io::Result<SetUpProcess> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let name = format!("runtime_env_setup-{}-{}.log", pool.job.0, pool.env.0);
    let stderr_path = raylet.session_dir.join("logs").join(name);
    let config = json!({
        "sys_path": driver.full_path(&raylet.package_dir),
        "session_dir": raylet.session_dir,
        "job_id": job,
        "runtime_env": text,
    });
    let mut command = Command::new(driver.python(&raylet.python));
    command
        .envs(&driver.env)
        .env(PROCESS_MARK, format!("{}/set-up", raylet.session_dir.display()))
        .args(["-S", "-c", BOOT])
        .arg(config.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stderr(OpenOptions::new().create(true).append(true).open(&stderr_path)?)
        .process_group(0);
    let child = command.spawn()?;
    drop(command);
    ours.set_nonblocking(true)?;
    let answers = BufReader::new(tokio::net::UnixStream::from_std(ours)?);
    let inputs = inputs.clone();
    tokio::spawn(async move {
        let mut answer = String::new();
        let _ = answers.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).await;
        let _ = inputs.send(Input::EnvironmentMade { pool, answer }).await;
    });
    Ok(SetUpProcess {
        pid: Pid::from_raw(child.id().cast_signed()),
        stderr_path,
    })
}
