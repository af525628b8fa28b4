//! Real processes, killed in the middle of what they do: the survivor sees whole messages only (`LANE-1`).
//!
//! The other process is this test binary again, told by its environment which part to play.

use ray_rs_lanes::{
    Doorbell, IncomingClaims, Lane, LaneReceiver, LaneSender, OutgoingClaims, PROGRESS, RemoteBell, Sent, SpinPolicy,
    Spinner,
};
use rustix::io::{FdFlags, fcntl_setfd};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PART: &str = "RAY_RS_LANES_TEST_PART";
const LIMIT: Duration = Duration::from_secs(30);

/// Lengths from nothing to several rings' worth, most of them short.
fn len(number: u64) -> usize {
    let draw = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    match draw % 100 {
        0 => 250_000 + (draw % 2_000_000) as usize,
        1..=10 => (draw % 30_000) as usize,
        _ => (draw % 500) as usize,
    }
}

fn write(number: u64, room: &mut [u8]) {
    room[..8].copy_from_slice(&number.to_le_bytes());
    room[8..].fill(number as u8);
}

fn check(number: u64, bytes: &[u8]) {
    assert_eq!(bytes.len(), 8 + len(number), "message {number}");
    assert_eq!(bytes[..8], number.to_le_bytes());
    assert!(
        bytes[8..].iter().all(|&byte| byte == number as u8),
        "message {number} is torn"
    );
}

/// What the other process does until it is killed, or until nobody is left to kill it.
fn play(part: &str) {
    let mut words = part.split(',');
    let role = words.next().unwrap().to_owned();
    let mut fd = || {
        let fd = words.next().unwrap().parse().unwrap();
        // SAFETY: the parent has left exactly these descriptors open for us, and names each once.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    let (mut sender, mut receiver, _, incoming) = Lane::attach(fd()).unwrap().split();
    let bell = RemoteBell::attach(fd(), fd()).unwrap();
    let began = Instant::now();
    let mut number = 0u64;
    while began.elapsed() < LIMIT {
        if role == "writer" {
            if sender.send_with(8 + len(number), |room| write(number, room)) == Sent::Queued {
                while sender.has_backlog() && began.elapsed() < LIMIT {
                    if sender.flush() {
                        bell.ring(PROGRESS);
                    }
                    std::thread::yield_now();
                }
            }
            bell.ring(PROGRESS);
            number += 1;
        } else if receiver.receive(|bytes| check(number, bytes)).unwrap().is_some() {
            incoming.claim(number);
            number += 1;
            bell.ring(PROGRESS);
        }
    }
}

struct Peer {
    child: Child,
    sender: LaneSender,
    receiver: LaneReceiver,
    outgoing: OutgoingClaims,
    _incoming: IncomingClaims,
    doorbell: Doorbell,
}

impl Peer {
    fn start(role: &str) -> Self {
        let (lane, lane_fd) = Lane::create().unwrap();
        let doorbell = Doorbell::create().unwrap();
        let (memfd, eventfd) = doorbell.share().unwrap();
        let fds = [lane_fd, memfd, eventfd];
        fds.iter().for_each(|fd| fcntl_setfd(fd, FdFlags::empty()).unwrap());
        let part = format!(
            "{role},{},{},{}",
            fds[0].as_raw_fd(),
            fds[1].as_raw_fd(),
            fds[2].as_raw_fd()
        );
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture"])
            .env(PART, part)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, receiver, outgoing, _incoming) = lane.split();
        Self {
            child,
            sender,
            receiver,
            outgoing,
            _incoming,
            doorbell,
        }
    }

    fn kill(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "it has ended by itself");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn the_other_process() {
    if let Ok(part) = std::env::var(PART) {
        play(&part);
    }
}

#[test]
fn a_writer_killed_in_the_middle_leaves_whole_messages() {
    let mut spinner = Spinner::new(None, SpinPolicy::detect());
    for round in 0..16u64 {
        let mut peer = Peer::start("writer");
        let mut number = 0;
        let enough = 1 + round * round * 7;
        let began = Instant::now();
        while number < enough {
            peer.doorbell
                .wait(PROGRESS, &mut spinner, Duration::from_millis(100), || {
                    !peer.receiver.is_empty()
                });
            while number < enough && peer.receiver.receive(|bytes| check(number, bytes)).unwrap().is_some() {
                number += 1;
            }
            assert!(began.elapsed() < LIMIT, "nothing comes any more");
        }
        peer.kill();
        while peer.receiver.receive(|bytes| check(number, bytes)).unwrap().is_some() {
            number += 1;
        }
        assert!(peer.receiver.is_empty() && peer.receiver.receive(|_| ()).unwrap().is_none());
    }
}

#[test]
fn a_reader_killed_in_the_middle_never_blocks_its_writer_and_its_claims_tell_what_ran() {
    for round in 0..8u64 {
        let mut peer = Peer::start("reader");
        let began = Instant::now();
        let mut number = 0u64;
        let mut claimed = 0;
        // Keep fewer unresolved than there are claim words.
        while claimed < 1 + round * 300 {
            if number - claimed < 500 {
                peer.outgoing.publish(number);
                peer.sender.send_with(8 + len(number), |room| write(number, room));
                number += 1;
            }
            peer.sender.flush();
            while claimed < number && peer.outgoing.is_claimed(claimed) {
                claimed += 1;
            }
            assert!(began.elapsed() < LIMIT, "nothing is claimed any more");
        }
        peer.kill();
        // What was not claimed can be withdrawn and run elsewhere; claims are a prefix, because entries are in order.
        let ran = (claimed..number)
            .take_while(|&seq| peer.outgoing.is_claimed(seq))
            .count() as u64
            + claimed;
        assert!((ran..number).all(|seq| peer.outgoing.withdraw(seq)));
        for _ in 0..2000 {
            peer.sender.send_with(8 + len(number), |room| write(number, room));
            number += 1;
        }
        peer.sender.flush();
        assert!(
            peer.sender.has_backlog() && !peer.sender.flush(),
            "full for good, and nothing blocks"
        );
    }
}
