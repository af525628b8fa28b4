//! Gets a value of another node: from there, or from whom its node names.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ray_rs_object_store::Restore;
use ray_rs_transport::visit::{Greeting, Roads};
use ray_rs_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{RwLock, watch};
use tokio::time::timeout;

use super::wire::{HAVE_IT, Reply, Request};
use super::{Progress, SILENCE_LIMIT};

/// Read at once; then those who read from the same room hear of it, and other transfers get their turn.
const PIECE_BYTES: usize = 1 << 20;
/// A fetch is given up after so many nodes that had nothing. Each is another one, so there are seldom two.
const MAX_TURNS: usize = 64;
/// A connection that broke is made again, after the first pause at first and twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A node that lives, as all say, and from which nothing came for so long is given up.
const BROKEN_LIMIT: Duration = Duration::from_secs(60);

/// One value that is being fetched.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(super) request: Request,
    /// Of the value's node.
    pub(super) address: String,
    pub(super) roads: Roads,
    pub(super) greeting: Greeting,
    /// Says how much is here, for those who read the same value from this node.
    pub(super) progress: Arc<watch::Sender<Progress>>,
    /// Held by those of whom parts of the room may be on the way.
    pub(super) in_flight: Arc<RwLock<()>>,
    pub(super) fetched_bytes: Arc<AtomicU64>,
    /// Says when the value's node is known to be dead.
    pub(super) home_is_dead: watch::Receiver<bool>,
}

/// What is known of a way that broke.
struct Broken {
    since: Instant,
    /// Of the value that had come.
    bytes: u64,
    pause: Duration,
}

/// How one visit ended.
enum Turn {
    Whole,
    /// The one that was asked names another.
    Elsewhere(NodeId, String),
    /// It gave nothing, or not all.
    Failed(String),
    /// The same, as the way to it broke, which tells nothing of the value.
    Broken(String),
    /// Nobody can give it.
    Never(String),
}

impl Fetch {
    /// Fills the room with the value. When that fails the room is handed back only when nobody can be reading from it.
    pub(super) async fn run(mut self, mut restore: Restore) -> (Restore, Result<(), String>) {
        // The kernel may have to find each page first.
        let with_pages = tokio::task::spawn_blocking(move || {
            let made = restore.reserve_pages();
            (restore, made)
        });
        let (mut restore, made) = with_pages.await.expect("making pages does not panic");
        let outcome = match made {
            true => self.fill(&mut restore).await,
            false => Err("the machine has no memory left for it".to_owned()),
        };
        if outcome.is_err() {
            self.progress.send_replace(Progress::Failed);
            // Pages that were sent are on their way until the readers have closed; each does when it hears no more.
            let _ = timeout(SILENCE_LIMIT, self.in_flight.write()).await;
        }
        (restore, outcome)
    }

    async fn fill(&mut self, room: &mut Restore) -> Result<(), String> {
        let home = (self.request.value.node, self.address.clone());
        let (mut node, mut address) = home.clone();
        let mut trouble = None;
        let mut turns = 0;
        while turns < MAX_TURNS {
            match self.turn(room, &address, node == home.0).await {
                Turn::Whole => return Ok(()),
                Turn::Broken(why) if node == home.0 => {
                    self.pause(&mut trouble, why).await?;
                    continue;
                }
                Turn::Elsewhere(other, there) => (node, address) = (other, self.roads.address_of(other, there)),
                Turn::Failed(why) if node == home.0 => return Err(why),
                Turn::Failed(why) | Turn::Broken(why) => {
                    tracing::debug!(node_id = %node, why, "a copy could not be read there");
                    self.request.failed = Some(node);
                    (node, address) = home.clone();
                }
                Turn::Never(why) => return Err(why),
            }
            turns += 1;
        }
        Err("too many nodes that should have had a copy of it had none".to_owned())
    }

    /// Before the next try to reach the value's node.
    ///
    /// # Errors
    /// Why there is none: the node is dead, or nothing has come from it for too long.
    async fn pause(&mut self, trouble: &mut Option<Broken>, why: String) -> Result<(), String> {
        let (now, bytes) = (Instant::now(), self.request.skip);
        let broken = match trouble.take().filter(|broken| broken.bytes == bytes) {
            Some(broken) => trouble.insert(Broken {
                pause: (2 * broken.pause).min(LONGEST_PAUSE),
                ..broken
            }),
            None => trouble.insert(Broken {
                since: now,
                bytes,
                pause: FIRST_PAUSE,
            }),
        };
        if now - broken.since > BROKEN_LIMIT {
            return Err(format!("{why} (for {} s)", BROKEN_LIMIT.as_secs()));
        }
        tracing::debug!(why, "it is tried again");
        // Whoever would tell of the death is gone itself when this fails.
        match timeout(broken.pause, self.home_is_dead.wait_for(|is_dead| *is_dead)).await {
            Ok(_) => Err(why),
            Err(_) => Ok(()),
        }
    }

    async fn turn(&mut self, room: &mut Restore, address: &str, is_home: bool) -> Turn {
        let mut stream = match self.roads.visit(address, &self.greeting).await {
            Ok(stream) => stream,
            Err(error) if error.may_pass() => return Turn::Broken(error.to_string()),
            Err(error) => return Turn::Failed(error.to_string()),
        };
        let asked = async {
            stream.write_all(&self.request.encode()).await?;
            stream.read_u8().await
        };
        let byte = match in_time(asked).await {
            Ok(byte) => byte,
            Err(error) => return Turn::Broken(broken(&error)),
        };
        match Reply::of(byte) {
            Some(Reply::HereItComes) => match self.receive(room, &mut stream).await {
                Ok(()) => {
                    let _ = stream.write_u8(HAVE_IT).await;
                    Turn::Whole
                }
                Err(error) => Turn::Broken(broken(&error)),
            },
            Some(Reply::AskAnother) => match in_time(read_address(&mut stream)).await {
                Ok((node, address)) => Turn::Elsewhere(node, address),
                Err(error) => Turn::Broken(broken(&error)),
            },
            Some(Reply::NotBack) if is_home => {
                Turn::Never("it is on disk there, and could not be brought back".to_owned())
            }
            Some(Reply::Gone) if is_home => Turn::Never("its memory was freed there".to_owned()),
            Some(Reply::NotBack | Reply::Gone) => Turn::Failed("there is no copy (any more)".to_owned()),
            None => Turn::Failed("the other side speaks another language".to_owned()),
        }
    }

    /// Straight from the socket into the room.
    async fn receive(&mut self, room: &mut Restore, stream: &mut TcpStream) -> io::Result<()> {
        let data_offset = room.data_offset();
        while self.request.skip < self.request.length {
            in_time(stream.readable()).await?;
            let start = self.request.skip as usize;
            let end = start.saturating_add(PIECE_BYTES).min(self.request.length as usize);
            match stream.try_read(&mut room.bytes()[start..end]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.request.skip += count as u64;
                    self.fetched_bytes.fetch_add(count as u64, Ordering::Relaxed);
                    self.progress.send_replace(Progress::Filled {
                        data_offset,
                        bytes: self.request.skip,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

async fn read_address(stream: &mut TcpStream) -> io::Result<(NodeId, String)> {
    let mut node = [0; NodeId::SIZE];
    stream.read_exact(&mut node).await?;
    let mut address = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut address).await?;
    let address = String::from_utf8(address).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((NodeId(node), address))
}

/// A side that says nothing for so long is given up. It may have to make room first, and to read from its disk.
async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(SILENCE_LIMIT, step).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came for {} s", SILENCE_LIMIT.as_secs()),
        )),
    }
}

fn broken(error: &io::Error) -> String {
    format!("the connection to its node broke: {error}")
}
