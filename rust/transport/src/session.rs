//! A session's directory at its end: what is removed, what is kept.
//!
//! `<root>/session_<stamp>_<pid>/` holds the sockets, the token, `session.json`, the control store and `logs/`;
//! `<root>/session_latest` points to the newest session. Whoever ends last (gcs or raylet; or the sweep of the next
//! start) calls [`clean_up`]. Calling it twice, or from two processes at once, is harmless.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::process_mark;

/// A process may start another while its like are being ended; the dead are found once more before they vanish.
const MARK_SEARCHES: u32 = 5;
/// A process in the middle of `exec` has no environment yet, and nothing tells when it has. It is looked at again so
/// often, after so long.
const EXEC_SEARCHES: u32 = 100;
const EXEC_PAUSE: Duration = Duration::from_millis(2);
/// Ended sessions whose logs are kept.
pub const KEPT_SESSIONS: usize = 10;
/// Directories of sessions are called so.
pub const SESSION_PREFIX: &str = "session_";
/// Name of the link to the newest session.
pub const LATEST_LINK: &str = "session_latest";
/// File into which the gcs writes the TCP address it listens on, as soon as it does.
pub const GCS_ADDRESS_FILE: &str = "gcs_address";

/// The raylet's listening socket in a session's directory. The raylet removes it when it has ended all processes of its
/// session; so one that is left tells of a raylet that was killed.
pub const RAYLET_SOCKET: &str = "sockets/raylet";
/// The control store's listening socket there.
pub const GCS_SOCKET: &str = "sockets/gcs";
/// Variable in the environment of every process that a session's workers have started, however deep, unless it was given
/// another environment: `<session_dir>/<number of the zygote>`. See also [`process_mark`].
pub const PROCESS_MARK: &str = "RAY_RS_ZYGOTE";

/// Where spilled objects are: a directory, or a link to one that the user has named. That is called
/// [`spill_directory_name`], and ends with the session as well.
pub const SPILL_LINK: &str = "spilled";

/// What a session's directory for spilled objects is called where the user has named a place for them; what follows is
/// the raylet's.
pub fn spill_directory_name(session_dir: &Path) -> String {
    let session = session_dir.file_name().unwrap_or_default().to_string_lossy();
    format!("ray_spilled_{session}_")
}

/// Removes an ended session: everything but a log that says something, and the link that points to it. Of kept logs
/// only those of the [`KEPT_SESSIONS`] newest ended sessions stay. What a killed raylet could not end any more (programs
/// that tasks have sent into sessions of their own) is ended.
///
/// # Errors
/// `InvalidInput` when `session_dir` is no session's directory of this user's; else the first failure (the rest is
/// still removed).
pub fn clean_up(session_dir: &Path) -> io::Result<()> {
    let root = check_session_dir(session_dir)?;
    let link = root.join(LATEST_LINK);
    if fs::read_link(&link).is_ok_and(|target| target.file_name() == session_dir.file_name()) {
        gone_is_fine(fs::remove_file(&link))?;
    }
    if session_dir.join(RAYLET_SOCKET).exists() {
        end_marked_processes(session_dir);
        process_mark::end_session(session_dir);
    }
    remove_spilled_elsewhere(session_dir)?;
    let keep_logs = has_content(&session_dir.join("logs"));
    let outcome = if keep_logs {
        remove_all_but_logs(session_dir)
    } else {
        gone_is_fine(fs::remove_dir_all(session_dir))
    };
    forget_old_logs(&root)?;
    outcome
}

/// Ends all processes that carry the session's mark, those that are started meanwhile included.
fn end_marked_processes(session_dir: &Path) {
    let mark = format!("{PROCESS_MARK}={}/", session_dir.display());
    let (mut searches, mut pauses) = (0, 0);
    while searches < MARK_SEARCHES && pauses < EXEC_SEARCHES {
        let (mut ended, mut unknown) = (false, false);
        for entry in entries(Path::new("/proc")).unwrap_or_default() {
            match end_if_marked(&entry, mark.as_bytes()) {
                Searched::Ended => ended = true,
                Searched::Unknown => unknown = true,
                Searched::Other => {}
            }
        }
        if ended {
            searches += 1;
        } else if unknown {
            pauses += 1;
            std::thread::sleep(EXEC_PAUSE);
        } else {
            return;
        }
    }
}

/// What one entry of `/proc` turned out to be.
enum Searched {
    Ended,
    /// This user's, alive, and without an environment: started with none, or in the middle of `exec`.
    Unknown,
    Other,
}

fn end_if_marked(entry: &fs::DirEntry, mark: &[u8]) -> Searched {
    let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
        return Searched::Other;
    };
    // Opened first, so that what is looked at is what is ended.
    let Some(Ok(process)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return Searched::Other;
    };
    let Ok(environment) = fs::read(entry.path().join("environ")) else {
        return Searched::Other;
    };
    if environment.is_empty() {
        // The dead and the kernel's own threads have no program either.
        let is_a_program = fs::read_link(entry.path().join("exe")).is_ok();
        return if is_a_program {
            Searched::Unknown
        } else {
            Searched::Other
        };
    }
    let is_marked = environment
        .split(|byte| *byte == 0)
        .any(|entry| entry.starts_with(mark));
    if is_marked && pid.cast_unsigned() != std::process::id() && pidfd_send_signal(process, Signal::KILL).is_ok() {
        return Searched::Ended;
    }
    Searched::Other
}

fn remove_spilled_elsewhere(session_dir: &Path) -> io::Result<()> {
    let Ok(target) = fs::read_link(session_dir.join(SPILL_LINK)) else {
        return Ok(());
    };
    let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.starts_with(&spill_directory_name(session_dir)) {
        return Ok(());
    }
    gone_is_fine(fs::remove_dir_all(&target))
}

/// Writes `text` to `path` so that a reader sees all of it or no file.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

/// The root of a directory that may be removed. A wrong argument must never remove anything.
fn check_session_dir(session_dir: &Path) -> io::Result<PathBuf> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", session_dir.display()));
    let name = session_dir
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if !name.starts_with(SESSION_PREFIX) || name == LATEST_LINK {
        return Err(wrong("not a session's directory"));
    }
    match fs::symlink_metadata(session_dir) {
        Ok(meta) if !meta.is_dir() => return Err(wrong("not a directory")),
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => return Err(wrong("another user's")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    session_dir
        .parent()
        .map(Path::to_owned)
        .ok_or_else(|| wrong("it has no parent"))
}

fn remove_all_but_logs(session_dir: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    for entry in entries(session_dir)? {
        if entry.file_name() == "logs" {
            continue;
        }
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
            _ => fs::remove_file(entry.path()),
        };
        outcome = outcome.and(gone_is_fine(removed));
    }
    outcome
}

/// Removes the logs of ended sessions (those that have nothing but logs) past the newest few.
fn forget_old_logs(root: &Path) -> io::Result<()> {
    let mut ended = Vec::new();
    for entry in entries(root)? {
        let is_session = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(SESSION_PREFIX));
        if !is_session || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let inside = entries(&path)?;
        if inside.len() == 1 && inside[0].file_name() == "logs" {
            let modified = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .unwrap_or(std::time::UNIX_EPOCH);
            ended.push((modified, path));
        }
    }
    ended.sort();
    let surplus = ended.len().saturating_sub(KEPT_SESSIONS);
    for (_, path) in &ended[..surplus] {
        gone_is_fine(fs::remove_dir_all(path))?;
    }
    Ok(())
}

fn has_content(dir: &Path) -> bool {
    entries(dir).is_ok_and(|inside| {
        inside
            .iter()
            .any(|entry| entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0))
    })
}

fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(reader) => reader.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn session(root: &Path, name: &str, log: &str) -> PathBuf {
        let dir = root.join(name);
        for inner in ["logs", "sockets", "gcs"] {
            fs::create_dir_all(dir.join(inner)).expect("made");
        }
        fs::write(dir.join("token"), "secret").expect("written");
        fs::write(dir.join("logs/raylet.log"), log).expect("written");
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = entries(dir)
            .expect("read")
            .iter()
            .map(|entry| entry.file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_quiet_session_leaves_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = session(root.path(), "session_1_2", "");
        std::os::unix::fs::symlink("session_1_2", root.path().join(LATEST_LINK)).expect("linked");
        clean_up(&dir).expect("cleaned");
        assert!(names(root.path()).is_empty());
        clean_up(&dir).expect("twice is harmless");
    }

    #[test]
    fn logs_that_say_something_stay_and_the_link_of_another_session_too() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = session(root.path(), "session_1_2", "warning");
        std::os::unix::fs::symlink("session_9_9", root.path().join(LATEST_LINK)).expect("linked");
        clean_up(&dir).expect("cleaned");
        assert_eq!(names(root.path()), ["session_1_2", LATEST_LINK]);
        assert_eq!(names(&dir), ["logs"]);
    }

    #[test]
    fn only_the_newest_logs_are_kept_and_live_sessions_are_left_alone() {
        let root = tempfile::tempdir().expect("a directory");
        session(root.path(), "session_live", "x");
        for number in 0..KEPT_SESSIONS + 3 {
            clean_up(&session(root.path(), &format!("session_{number:02}"), "x")).expect("cleaned");
        }
        let left = names(root.path());
        assert_eq!(left.len(), KEPT_SESSIONS + 1);
        assert!(left.contains(&"session_live".to_owned()));
    }

    #[test]
    fn what_was_spilled_elsewhere_goes_with_the_session_and_nothing_else_does() {
        let root = tempfile::tempdir().expect("a directory");
        let disk = tempfile::tempdir().expect("a directory");
        let spilled = disk.path().join("ray_spilled_session_1_2_77");
        let others = disk.path().join("ray_spilled_session_1_22_78");
        for (name, target) in [("session_1_2", &spilled), ("session_1_3", &others)] {
            let dir = session(root.path(), name, "");
            fs::create_dir(target).expect("made");
            fs::write(target.join("objects-1"), "x").expect("written");
            std::os::unix::fs::symlink(target, dir.join(SPILL_LINK)).expect("linked");
            clean_up(&dir).expect("cleaned");
        }
        assert_eq!(names(disk.path()), ["ray_spilled_session_1_22_78"]);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn what_a_killed_raylet_could_not_end_is_ended() {
        let root = tempfile::tempdir().expect("a directory");
        let start = |dir: &Path| {
            std::process::Command::new("sleep")
                .arg("60")
                .env(PROCESS_MARK, format!("{}/3", dir.display()))
                .spawn()
                .expect("started")
        };
        let dir = session(root.path(), "session_1_2", "");
        let other = session(root.path(), "session_1_22", "");
        fs::write(dir.join(RAYLET_SOCKET), "").expect("written");
        let (mut its, mut others) = (start(&dir), start(&other));
        clean_up(&dir).expect("cleaned");
        assert_eq!(
            its.wait().expect("a child").signal(),
            Some(9),
            "ended by its session's end"
        );
        // That raylet has ended in order, and what runs is not for us to judge.
        clean_up(&other).expect("cleaned");
        assert!(others.try_wait().expect("a child").is_none());
        others.kill().expect("killed");
        others.wait().expect("a child");
    }

    #[test]
    fn nothing_but_a_session_is_ever_removed() {
        let root = tempfile::tempdir().expect("a directory");
        let other = root.path().join("photos");
        fs::create_dir(&other).expect("made");
        assert_eq!(
            clean_up(&other).expect_err("refused").kind(),
            io::ErrorKind::InvalidInput
        );
        let link = root.path().join("session_x");
        std::os::unix::fs::symlink(&other, &link).expect("linked");
        assert_eq!(
            clean_up(&link).expect_err("refused").kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(other.exists());
    }
}
