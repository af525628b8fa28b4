//! One Python becomes both daemons of a head node.
//!
//! Python and the extension are loaded once, and then the process is forked: what they have relocated and made is half of
//! a daemon's memory, and the gcs and the raylet share it. The launcher is the parent of both.

use std::fs::OpenOptions;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use ray_rs_raylet::RayletConfig;
use ray_rs_transport::process::{Forked, fork_sibling};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::daemons::{GcsArguments, gcs, raylet, run, take_socket};

/// What the launcher sends with the sockets.
const GO: u8 = 1;

/// The launcher's side: gives the new process the listening sockets of the gcs and of the raylet.
pub(crate) fn hand_over(channel: &UnixStream, sockets: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(
        control.push(SendAncillaryMessage::ScmRights(&sockets)),
        "there is room for two"
    );
    rustix::net::sendmsg(channel, &[IoSlice::new(&[GO])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The launcher's side: the process id of the raylet; `None` when the new process could not be forked and is the gcs alone.
///
/// # Errors
/// It has ended before that.
pub(crate) fn raylet_of(mut channel: &UnixStream) -> io::Result<Option<u32>> {
    let mut pid = [0; 4];
    channel.read_exact(&mut pid)?;
    Ok(Some(u32::from_le_bytes(pid)).filter(|pid| *pid != 0))
}

/// Runs a gcs in this process and a raylet in a fork of it, to the end of their session; returns the exit code of
/// whichever of the two processes it returns in. `entitle` is told what each is.
///
/// Standard input is the channel to the launcher. This process has one thread.
pub fn run_head(gcs_arguments: &str, raylet_arguments: &str, entitle: impl Fn(&str)) -> i32 {
    match two_of_one() {
        Err(error) => run("gcs", || Err(error)),
        Ok(Half::Gcs(socket)) => run("gcs", || {
            let arguments: GcsArguments = serde_json::from_str(gcs_arguments).context("bad arguments")?;
            entitle(&title("gcs", &arguments.session_dir));
            gcs(arguments, socket)
        }),
        Ok(Half::Raylet(socket, gcs_pid)) => run("raylet", || {
            let mut config: RayletConfig = serde_json::from_str(raylet_arguments).context("bad arguments")?;
            separate(&config.session_dir).context("cannot leave the group and the log of the gcs")?;
            entitle(&title("raylet", &config.session_dir));
            config.gcs_pid = Some(gcs_pid);
            raylet(config, socket)
        }),
    }
}

/// What `ps` shows.
pub(crate) fn title(daemon: &str, session_dir: &Path) -> String {
    format!("ray_rs::{daemon} {}", session_dir.display())
}

enum Half {
    Gcs(OwnedFd),
    /// With the process id of the gcs.
    Raylet(OwnedFd, u32),
}

fn two_of_one() -> anyhow::Result<Half> {
    let channel = UnixStream::from(take_socket()?);
    let [gcs_socket, raylet_socket] = receive(&channel).context("the launcher gave no sockets")?;
    let gcs_pid = std::process::id();
    match fork_sibling() {
        Ok(Forked::New) => return Ok(Half::Raylet(raylet_socket, gcs_pid)),
        Ok(Forked::Old { new }) => tell(&channel, new),
        Err(error) => {
            tell(&channel, 0);
            tracing::debug!(%error, "the raylet needs a Python of its own");
        }
    }
    Ok(Half::Gcs(gcs_socket))
}

/// When the launcher is gone, so is the session soon; nobody else waits for this.
fn tell(mut channel: &UnixStream, raylet: u32) {
    let _ = channel.write_all(&raylet.to_le_bytes());
}

fn receive(channel: &UnixStream) -> io::Result<[OwnedFd; 2]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        channel.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let rights = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
        _ => Vec::new(),
    });
    let fds: Vec<OwnedFd> = rights.collect();
    <[OwnedFd; 2]>::try_from(fds).map_err(|_| io::ErrorKind::UnexpectedEof.into())
}

/// What a process has of its own that was started as a raylet.
fn separate(session_dir: &Path) -> io::Result<()> {
    rustix::process::setpgid(None, None)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_of(session_dir, "raylet"))?;
    rustix::stdio::dup2_stdout(&log)?;
    Ok(rustix::stdio::dup2_stderr(&log)?)
}

pub(crate) fn log_of(session_dir: &Path, daemon: &str) -> std::path::PathBuf {
    session_dir.join("logs").join(format!("{daemon}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_a_number_go_through_the_channel() {
        let (launcher, booted) = UnixStream::pair().expect("a pair");
        let (first, second) = UnixStream::pair().expect("a pair");
        hand_over(&launcher, [first.as_fd(), second.as_fd()]).expect("sent");
        let [one, other] = receive(&booted).expect("received");
        UnixStream::from(one).write_all(b"through").expect("open");
        let mut said = [0; 7];
        UnixStream::from(other).read_exact(&mut said).expect("open");
        assert_eq!(&said, b"through");

        tell(&booted, 4711);
        assert_eq!(raylet_of(&launcher).expect("told"), Some(4711));
        tell(&booted, 0);
        assert_eq!(raylet_of(&launcher).expect("told"), None);
        drop(booted);
        assert!(raylet_of(&launcher).is_err(), "it has ended");
        drop(launcher);
        let (launcher, booted) = UnixStream::pair().expect("a pair");
        drop(launcher);
        assert!(receive(&booted).is_err());
    }
}
