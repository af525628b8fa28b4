//! The control store's process on its head node: when it ends before the session does, it is started again.
//!
//! The first one is the launcher's child, all later ones are this process's. Whatever is acknowledged is on disk, so a new
//! one knows it; what it has to hear from the nodes they say when they have found it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ray_rs_transport::ProcessWatch;
use ray_rs_transport::session::GCS_SOCKET;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::config::RayletConfig;
use crate::input::{Input, Inputs};
use crate::raylet::Raylet;
use crate::timers::Timer;

/// One that has run for so long was not broken by what it found.
const SETTLED: Duration = Duration::from_secs(2);
/// Before one that follows one that ended sooner; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// At the end of the session: time to write what is to be written. One that has nodes to end takes longer.
const END_LIMIT: Duration = Duration::from_secs(25);
const END_POLL: Duration = Duration::from_millis(1);

/// What is known of the control store's process.
#[derive(Debug)]
pub(crate) struct GcsProcess {
    pid: u32,
    is_ours: bool,
    since: Instant,
    /// Ends in a row that came too soon.
    early_ends: u32,
}

impl GcsProcess {
    /// The one that the launcher has started; none where nobody starts it again.
    pub fn launched(config: &RayletConfig) -> Option<Self> {
        let pid = config.gcs_pid.filter(|_| !config.gcs_command.is_empty())?;
        Some(Self {
            pid,
            is_ours: false,
            since: Instant::now(),
            early_ends: 0,
        })
    }

    /// Tells of its end by [`Input::GcsEnded`].
    pub fn watch(&self, inputs: Inputs) -> io::Result<()> {
        let process = ProcessWatch::new(self.pid)?;
        tokio::spawn(async move {
            process.ended().await;
            let _ = inputs.send(Input::GcsEnded).await;
        });
        Ok(())
    }

    /// Its number, if it is a child of this process.
    pub fn child(&self) -> Option<Pid> {
        let pid = Pid::from_raw(self.pid.cast_signed());
        pid.filter(|_| self.is_ours)
    }

    /// The pause before the next one.
    fn ended(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.since) >= SETTLED {
            self.early_ends = 0;
            return Duration::ZERO;
        }
        self.early_ends += 1;
        (FIRST_PAUSE * (1 << (self.early_ends - 1).min(10))).min(LONGEST_PAUSE)
    }

    fn start(&mut self, config: &RayletConfig) -> io::Result<()> {
        let socket = bind_anew(&config.session_dir)?;
        let log = config.session_dir.join("logs/gcs.log");
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let (program, arguments) = config.gcs_command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let child = Command::new(program)
            .args(arguments)
            .arg(std::process::id().to_string())
            .stdin(Stdio::from(socket))
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        self.pid = child.id();
        self.is_ours = true;
        self.since = Instant::now();
        Ok(())
    }
}

/// A socket in the place of the one that ended with its process. Whoever connects meanwhile finds none, or this.
fn bind_anew(session_dir: &Path) -> io::Result<OwnedFd> {
    let place = session_dir.join(GCS_SOCKET);
    let unseen = place.with_extension("new");
    match std::fs::remove_file(&unseen) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = UnixListener::bind(&unseen)?;
    std::fs::rename(&unseen, &place)?;
    Ok(socket.into())
}

impl Raylet {
    pub fn gcs_ended(&mut self) {
        let Some(process) = &mut self.gcs_process else { return };
        let pause = process.ended(Instant::now());
        tracing::warn!(
            pid = process.pid,
            "the control store's process has ended and is started again"
        );
        self.timers.set(Instant::now() + pause, Timer::StartGcs);
    }

    pub fn start_gcs(&mut self) {
        let Some(process) = &mut self.gcs_process else { return };
        let started = process
            .start(&self.config)
            .and_then(|()| process.watch(self.inputs.clone()));
        if let Err(error) = started {
            tracing::error!(%error, "could not start the control store again");
            self.timers.set(Instant::now() + LONGEST_PAUSE, Timer::StartGcs);
        }
    }

    /// At the end of the session, after everything else: the control store that this process has started ends, too.
    pub fn end_gcs(&mut self) {
        let Some(pid) = self.gcs_process.as_ref().and_then(GcsProcess::child) else {
            return;
        };
        // It may have ended already, and even been reaped: nobody else is waited for by this number.
        let mut signal = Signal::TERM;
        let mut until = Instant::now() + END_LIMIT;
        let _ = kill_process(pid, signal);
        while let Ok(None) = waitpid(Some(pid), WaitOptions::NOHANG) {
            if Instant::now() > until && signal == Signal::TERM {
                tracing::warn!("the control store does not end, and is killed");
                signal = Signal::KILL;
                until = Instant::now() + END_LIMIT;
                let _ = kill_process(pid, signal);
            }
            std::thread::sleep(END_POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ends_at_once_is_started_more_and_more_slowly() {
        let began = Instant::now();
        let mut process = GcsProcess {
            pid: 1,
            is_ours: false,
            since: began,
            early_ends: 0,
        };
        assert_eq!(process.ended(began + SETTLED), Duration::ZERO);
        let pauses: Vec<Duration> = (0..20).map(|_| process.ended(began)).collect();
        assert_eq!(pauses[..3], [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4]);
        assert_eq!(pauses[19], LONGEST_PAUSE);
        assert_eq!(process.ended(began + SETTLED), Duration::ZERO);
        assert_eq!(process.ended(began), FIRST_PAUSE);
    }
}
