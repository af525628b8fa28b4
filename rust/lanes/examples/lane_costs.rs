//! What do a send, a receive, a ring and a round trip cost? `cargo run --release -p ray-rs-lanes --example lane_costs`

use ray_rs_lanes::{Doorbell, Lane, PROGRESS, RemoteBell, SpinPolicy, SpinTable, Spinner, Woke};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn per_item(what: &str, items: u32, run: impl FnOnce()) {
    let began = Instant::now();
    run();
    println!(
        "{what:<52} {:>8.1} ns",
        began.elapsed().as_nanos() as f64 / f64::from(items)
    );
}

fn main() {
    const N: u32 = 1_000_000;
    for len in [16usize, 64, 200] {
        let (lane, fd) = Lane::create().unwrap();
        let (mut sender, ..) = lane.split();
        let (_, mut receiver, ..) = Lane::attach(fd).unwrap().split();
        let payload = vec![7u8; len];
        let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..N / 100 {
            let began = Instant::now();
            for _ in 0..100 {
                sender.send_with(len, |room| room.copy_from_slice(black_box(&payload)));
            }
            sending += began.elapsed();
            let began = Instant::now();
            while receiver.receive(|bytes| black_box(bytes).len()).unwrap().is_some() {}
            receiving += began.elapsed();
        }
        let each = |time: Duration| time.as_nanos() as f64 / f64::from(N);
        println!(
            "{len:>4} bytes, one thread: send {:.1} ns, receive {:.1} ns",
            each(sending),
            each(receiving)
        );
    }

    let doorbell = Doorbell::create().unwrap();
    let (memfd, eventfd) = doorbell.share().unwrap();
    let bell = RemoteBell::attach(memfd, eventfd).unwrap();
    per_item("ring, nobody asleep", N, || {
        (0..N).for_each(|_| assert!(!bell.ring(PROGRESS)))
    });
    let (lane, _fd) = Lane::create().unwrap();
    let (.., claims, _) = lane.split();
    per_item("publish and withdraw a claim word", N, || {
        for seq in 0..u64::from(N) {
            claims.publish(seq);
            black_box(claims.withdraw(seq));
        }
    });

    for (name, policy) in [("spin", SpinPolicy::detect()), ("sleep", SpinPolicy::off())] {
        let rounds = if policy.enabled { 300_000 } else { 5_000 };
        let (here, there) = pair(Doorbell::create().unwrap(), Doorbell::create().unwrap(), policy);
        let echo = std::thread::spawn(move || there.echo(rounds));
        let mut end = here;
        per_item(&format!("round trip of 64 bytes, two threads, {name}"), rounds, || {
            end.ask(rounds)
        });
        println!("     {:?}", end.spinner.stats());
        println!("     {:?}", echo.join().unwrap());
    }

    let (lane, fd) = Lane::create().unwrap();
    let (mut sender, ..) = lane.split();
    let (_, mut receiver, ..) = Lane::attach(fd).unwrap().split();
    let reader = std::thread::spawn(move || {
        let mut got = 0;
        while got < N {
            got += u32::from(receiver.receive(|bytes| black_box(bytes).len()).unwrap().is_some());
        }
    });
    per_item("64 bytes one way, two threads", N, || {
        for _ in 0..N {
            sender.send_with(64, |room| room.fill(1));
            while sender.has_backlog() {
                sender.flush();
                std::hint::spin_loop();
            }
        }
        reader.join().unwrap();
    });
}

struct End {
    sender: ray_rs_lanes::LaneSender,
    receiver: ray_rs_lanes::LaneReceiver,
    own: Doorbell,
    peer: RemoteBell,
    spinner: Spinner,
}

fn pair(a: Doorbell, b: Doorbell, policy: SpinPolicy) -> (End, End) {
    let (lane, fd) = Lane::create().unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    let table = Arc::new(SpinTable::create(SpinTable::slots_for(cores)).unwrap().0);
    let (a_shared, b_shared) = (a.share().unwrap(), b.share().unwrap());
    let end = |lane: Lane, own, (memfd, eventfd)| {
        let (sender, receiver, ..) = lane.split();
        let peer = RemoteBell::attach(memfd, eventfd).unwrap();
        End {
            sender,
            receiver,
            own,
            peer,
            spinner: Spinner::new(Some(table.clone()), policy),
        }
    };
    (end(lane, a, b_shared), end(Lane::attach(fd).unwrap(), b, a_shared))
}

impl End {
    fn send(&mut self) {
        self.sender.send_with(64, |room| room.fill(1));
        self.peer.ring(PROGRESS);
    }

    fn receive(&mut self) {
        while self.receiver.receive(|bytes| black_box(bytes).len()).unwrap().is_none() {
            let woke = self.own.wait(PROGRESS, &mut self.spinner, Duration::from_secs(5), || {
                !self.receiver.is_empty()
            });
            assert_ne!(woke, Woke::TimedOut);
        }
    }

    fn ask(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.send();
            self.receive();
        }
    }

    fn echo(mut self, rounds: u32) -> ray_rs_lanes::SpinStats {
        for _ in 0..rounds {
            self.receive();
            self.send();
        }
        self.spinner.stats()
    }
}
