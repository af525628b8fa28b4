//! A zygote: a single-threaded Python process that has imported what workers need, and forks them on order.
//!
//! Its socket is a pair of `SOCK_SEQPACKET`; each word is one ASCII packet: down `fork <token>`, up
//! `forked <token> <pid>` and `exited <pid> <wait status>`. The end of either side ends the zygote.

use std::fs::OpenOptions;
use std::io;
use std::net::Shutdown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use ray_rs_transport::session::PROCESS_MARK;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

use crate::config::{DriverConfig, RayletConfig};
use crate::input::{Input, Inputs, Token, ZygoteKey, ZygoteWord};
use crate::reaper::{children_end, environment_mark};

/// Libraries that would start threads of their own at import, before the fork; a worker restores the driver's values.
const THREAD_COUNT_VARIABLES: [&str; 2] = ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"];

/// Takes its configuration from `argv[1]`. The socket arrives as descriptor 0 and is moved away from there, so that no
/// program started by a task reads it. `eval` reads the JSON (our own, made of strings, lists and nulls) without the
/// milliseconds that importing `json` takes.
const BOOT: &str = "\
import sys, os
config = eval(sys.argv[1], {'null': None, 'true': True, 'false': False})
config['fd'] = os.dup(0)
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 0)
os.close(null)
sys.argv[:] = ['']
sys.path[:] = config['sys_path']
from ray_rs._zygote import main
main(config)
";

#[derive(Debug)]
pub(crate) struct Zygote {
    pub key: ZygoteKey,
    pub pid: Pid,
    pub stderr_path: PathBuf,
    words: mpsc::UnboundedSender<String>,
}

impl Zygote {
    /// Starts one; it need not be waited for before `fork`.
    ///
    /// # Errors
    /// When Python cannot be started at all. What goes wrong later shows as `ZygoteWord::Closed`.
    pub fn spawn(key: ZygoteKey, raylet: &RayletConfig, driver: &DriverConfig, inputs: &Inputs) -> io::Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let log_dir = raylet.session_dir.join("logs");
        let stderr_path = log_dir.join(format!("zygote-{}.err", key.0));
        let mut command = command(key, raylet, driver);
        command
            .stdin(Stdio::from(theirs))
            .stdout(append(&log_dir.join(format!("zygote-{}.out", key.0)))?)
            .stderr(append(&stderr_path)?);
        let child = command.spawn()?;
        drop(command);
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a child's pid is positive");
        let (words, to_send) = mpsc::unbounded_channel();
        // Packets with a peer and an end of file: to a datagram's calls there is no difference.
        let socket = Arc::new(UnixDatagram::from_std(ours.into())?);
        tokio::spawn(send_words(Arc::clone(&socket), to_send));
        tokio::spawn(receive_words(key, socket, inputs.clone()));
        Ok(Self {
            key,
            pid,
            stderr_path,
            words,
        })
    }

    pub fn fork(&self, token: Token) {
        // An error means that the socket is closed, of which the loop is told.
        let _ = self.words.send(format!("fork {}", token.0));
    }

    pub fn kill(&self) {
        // It is our own child and not reaped as long as this exists, so the number is its.
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
    }
}

fn command(key: ZygoteKey, raylet: &RayletConfig, driver: &DriverConfig) -> Command {
    let mut command = Command::new(driver.python(&raylet.python));
    command
        .args(&driver.executable_args)
        .envs(&driver.env)
        .env(PROCESS_MARK, environment_mark(&raylet.session_dir, key));
    let mut thread_env = serde_json::Map::new();
    for name in THREAD_COUNT_VARIABLES {
        let inherited = || std::env::var(name).ok();
        let value = driver.env.get(name).cloned().or_else(inherited);
        thread_env.insert(
            name.to_owned(),
            value.map_or(serde_json::Value::Null, serde_json::Value::String),
        );
        command.env(name, "1");
    }
    let session = raylet
        .session_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let config = json!({
        "session": session,
        "zygote": key.0,
        "children_end": children_end(),
        "session_dir": raylet.session_dir,
        "log_dir": raylet.session_dir.join("logs"),
        "sys_path": driver.full_path(&raylet.package_dir),
        "preload": driver.preload,
        "cwd": driver.cwd,
        "thread_env": thread_env,
    });
    command.arg("-S").arg("-c").arg(BOOT).arg(config.to_string());
    if Path::new(&driver.cwd).is_dir() {
        command.current_dir(&driver.cwd);
    }
    // A group of its own: what a task starts stays in it, unless it chooses otherwise.
    command.process_group(0);
    command
}

fn append(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new().create(true).append(true).open(path)
}

async fn send_words(socket: Arc<UnixDatagram>, mut words: mpsc::UnboundedReceiver<String>) {
    while let Some(word) = words.recv().await {
        if socket.send(word.as_bytes()).await.is_err() {
            return;
        }
    }
    // The zygote was let go: the end of its socket ends it.
    let _ = socket.shutdown(Shutdown::Both);
}

async fn receive_words(zygote: ZygoteKey, socket: Arc<UnixDatagram>, inputs: Inputs) {
    let mut packet = [0; 128];
    loop {
        let word = match socket.recv(&mut packet).await {
            Ok(0) | Err(_) => ZygoteWord::Closed,
            Ok(length) => match parse(&packet[..length]) {
                Some(word) => word,
                None => {
                    tracing::warn!(packet = ?String::from_utf8_lossy(&packet[..length]), "a zygote speaks nonsense");
                    continue;
                }
            },
        };
        if inputs.send(Input::Zygote { zygote, word }).await.is_err() || word == ZygoteWord::Closed {
            return;
        }
    }
}

fn parse(packet: &[u8]) -> Option<ZygoteWord> {
    let mut words = std::str::from_utf8(packet).ok()?.split_ascii_whitespace();
    let word = match words.next()? {
        "forked" => ZygoteWord::Forked {
            token: Token(words.next()?.parse().ok()?),
            pid: words.next()?.parse().ok()?,
        },
        "exited" => ZygoteWord::Exited {
            pid: words.next()?.parse().ok()?,
            status: words.next()?.parse().ok()?,
        },
        _ => return None,
    };
    words.next().is_none().then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_nonsense_is_refused() {
        assert_eq!(
            parse(b"forked 7 1234"),
            Some(ZygoteWord::Forked {
                token: Token(7),
                pid: 1234
            })
        );
        assert_eq!(
            parse(b"exited 1234 9"),
            Some(ZygoteWord::Exited { pid: 1234, status: 9 })
        );
        for nonsense in ["", "forked", "forked 7", "forked 7 8 9", "exited x 0", "hello 1 2"] {
            assert_eq!(parse(nonsense.as_bytes()), None);
        }
    }
}
