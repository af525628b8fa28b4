//! Sessions on this machine: where they are, which of them live, and what dead ones leave.
//!
//! Every process of a session holds a shared lock on the file `lock` in its directory. Whoever can lock it for itself
//! alone knows that the session is dead, whatever process numbers were used again meanwhile.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ray_rs_transport::session::{self as layout, GCS_ADDRESS_FILE, LATEST_LINK, SESSION_PREFIX};
use rustix::fs::{FlockOperation, IFlags, flock, ioctl_getflags, ioctl_setflags};
use serde::{Deserialize, Serialize};

/// Overrides the directory that holds all sessions.
pub const ROOT_VARIABLE: &str = "RAY_RS_TMPDIR";
const INFO_FILE: &str = "session.json";
const LOCK_FILE: &str = "lock";
/// A directory without a lock may be one that is being made.
const BEING_MADE: Duration = Duration::from_secs(10);

/// What others need to join or stop a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Name of the session and of its directory.
    pub session: String,
    pub session_dir: PathBuf,
    pub gcs_pid: u32,
    pub raylet_pid: u32,
    /// Replicas of the global scheduler.
    #[serde(default)]
    pub scheduler_pids: Vec<u32>,
    /// The driver whose end ends the session.
    pub driver_pid: Option<u32>,
    /// Where the gcs listens for other nodes; empty until it does.
    #[serde(default)]
    pub gcs_address: String,
    /// The gcs has nodes to end before it ends.
    #[serde(default)]
    pub starts_nodes: bool,
    /// It only hosts a program from outside of its cluster: no other joins there.
    #[serde(default)]
    pub is_client: bool,
    /// Where the gcs listens for such programs besides; empty: nowhere.
    #[serde(default)]
    pub client_address: String,
}

impl SessionInfo {
    pub(crate) fn write(&self) -> io::Result<()> {
        let text = serde_json::to_string(self).map_err(io::Error::other)?;
        layout::write_atomically(&self.session_dir.join(INFO_FILE), &text)
    }

    /// On a node that has joined a cluster: where that is.
    pub(crate) fn write_gcs_address(&self) -> io::Result<()> {
        layout::write_atomically(&self.session_dir.join(GCS_ADDRESS_FILE), &self.gcs_address)
    }

    /// Reads what the session in `dir` says of itself; `None` when it is no living session.
    pub fn read(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        if !is_alive(&dir) {
            return None;
        }
        let mut info: Self = serde_json::from_str(&fs::read_to_string(dir.join(INFO_FILE)).ok()?).ok()?;
        if let Ok(address) = fs::read_to_string(dir.join(GCS_ADDRESS_FILE)) {
            info.gcs_address = address.trim().to_owned();
        }
        info.session_dir = dir;
        Some(info)
    }
}

/// The directory that holds all sessions of this user; made, with mode 0700, if need be.
///
/// # Errors
/// When it cannot be made, or belongs to somebody else.
pub fn root() -> io::Result<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let root = match std::env::var_os(ROOT_VARIABLE) {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => PathBuf::from(format!("/tmp/ray_rs_{own}")),
    };
    match DirBuilder::new().recursive(true).mode(0o700).create(&root) {
        Ok(()) => {}
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", root.display()))),
    }
    let meta = fs::symlink_metadata(&root)?;
    // A directory of the user's own choice may be open to others and may be a link; the default one in /tmp may not.
    let chosen = std::env::var_os(ROOT_VARIABLE).is_some_and(|path| !path.is_empty());
    if !chosen && (!meta.is_dir() || meta.uid() != own || meta.mode() & 0o077 != 0) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} must be a directory of yours with mode 0700; set {ROOT_VARIABLE} to use another",
                root.display()
            ),
        ));
    }
    if !chosen {
        lie_apart(&root);
    }
    root.canonicalize()
}

/// Asks ext4 to lay each session's directory into a group of blocks of its own, as it does for people's homes.
///
/// A place where a file was deleted within the last minutes is not taken for a new one, and they are looked at one by one:
/// where sessions come and go side by side, each worker's log and socket would pass thousands of them, which was a sixth of
/// what an actor's start costs. Other file systems refuse, and need no such thing.
fn lie_apart(root: &Path) {
    let ask = || -> io::Result<()> {
        let dir = File::open(root)?;
        let flags = ioctl_getflags(&dir)?;
        if !flags.contains(IFlags::TOPDIR) {
            ioctl_setflags(&dir, flags | IFlags::TOPDIR)?;
        }
        Ok(())
    };
    if let Err(error) = ask() {
        tracing::debug!(%error, root = %root.display(), "sessions lie side by side on the disk");
    }
}

/// Finds a living session: `auto` (the newest), a session's directory, or the address of its gcs.
pub fn discover(address: &str) -> Option<SessionInfo> {
    if address.contains('/') {
        return SessionInfo::read(Path::new(address));
    }
    let root = root().ok()?;
    if address == "auto" {
        let latest = SessionInfo::read(&root.join(LATEST_LINK));
        return latest.or_else(|| living().into_iter().rev().find(|info| !info.is_client));
    }
    living()
        .into_iter()
        .filter(|info| !info.is_client)
        .find(|info| info.gcs_address == address)
}

/// All living sessions of this user, oldest first.
pub fn living() -> Vec<SessionInfo> {
    let dirs = root().map(|root| session_dirs(&root)).unwrap_or_default();
    dirs.iter().filter_map(|dir| SessionInfo::read(dir)).collect()
}

/// Removes what sessions left that were killed whole. Living ones are not touched.
pub fn sweep() -> io::Result<()> {
    let root = root()?;
    for dir in session_dirs(&root) {
        // Another sweep may have been here first.
        let Ok(inside) = fs::read_dir(&dir) else { continue };
        let only_logs = inside.flatten().all(|entry| entry.file_name() == "logs");
        // In this order: what is just being made may live in a moment.
        if !only_logs
            && !is_being_made(&dir)
            && !is_alive(&dir)
            && let Err(error) = layout::clean_up(&dir)
        {
            tracing::warn!(%error, dir = %dir.display(), "could not remove a dead session");
        }
    }
    Ok(())
}

/// Oldest first: names begin with the time.
fn session_dirs(root: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(SESSION_PREFIX))
        .map(|entry| entry.path())
        .collect();
    dirs.sort();
    dirs
}

/// Makes the lock of a new session and holds it. The file appears when it is locked already: whoever sweeps meanwhile
/// sees a session that is being made, or one that lives.
pub fn found(dir: &Path) -> io::Result<File> {
    let unseen = dir.join(format!("{LOCK_FILE}.new"));
    let file = File::options().create_new(true).write(true).open(&unseen)?;
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    fs::rename(unseen, dir.join(LOCK_FILE))?;
    Ok(file)
}

/// Holds the session's lock as one of its processes, until dropped.
pub fn join(dir: &Path) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK_FILE))?;
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    Ok(file)
}

fn is_alive(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(LOCK_FILE)) else {
        return false;
    };
    // The lock, if this gets it, ends with `file`.
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

fn is_being_made(dir: &Path) -> bool {
    let age = fs::metadata(dir)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|when| when.elapsed().ok());
    !dir.join(LOCK_FILE).exists() && age.is_none_or(|age| age < BEING_MADE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_lie_apart_where_the_file_system_can() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = || ioctl_getflags(File::open(dir.path()).expect("there"));
        let can = flags()
            .and_then(|flags| ioctl_setflags(File::open(dir.path()).expect("there"), flags))
            .is_ok()
            && rustix::fs::statfs(dir.path()).expect("mounted").f_type == EXT4_MAGIC;
        lie_apart(dir.path());
        lie_apart(dir.path());
        let is_apart = flags().is_ok_and(|flags| flags.contains(IFlags::TOPDIR));
        assert!(is_apart || !can);
        assert!(dir.path().is_dir(), "and elsewhere nothing happens");
    }

    const EXT4_MAGIC: i64 = 0xEF53;
}
