use super::*;
use crate::spin::SpinPolicy;
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

fn bells() -> (Doorbell, RemoteBell) {
    let doorbell = Doorbell::create().unwrap();
    let (memfd, eventfd) = doorbell.share().unwrap();
    (doorbell, RemoteBell::attach(memfd, eventfd).unwrap())
}

fn sleeper() -> Spinner {
    Spinner::new(None, SpinPolicy::off())
}

fn readable(doorbell: &Doorbell) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(doorbell.eventfd(), PollFlags::IN)];
    poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_ring_with_nobody_asleep_is_no_system_call() {
    let (doorbell, peer) = bells();
    assert!(!peer.ring(PROGRESS) && !peer.ring(EXEC) && doorbell.wakes() == 0);
    assert_eq!(doorbell.wait(PROGRESS, &mut sleeper(), LONG, || true), Woke::Ready);
    assert_eq!(
        doorbell.wait(PROGRESS, &mut sleeper(), Duration::ZERO, || false),
        Woke::TimedOut
    );
    assert_eq!(doorbell.sleepers(), (0, 0));
}

#[test]
fn a_ring_between_announcement_and_sleep_is_not_lost() {
    let (doorbell, peer) = bells();
    let mut looks = 0;
    let woke = doorbell.wait(PROGRESS | EXEC, &mut sleeper(), LONG, || {
        looks += 1;
        if looks == 2 {
            assert!(!doorbell.sleepers().eq(&(0, 0)) && peer.ring(EXEC) && !peer.ring(PROGRESS));
        }
        false
    });
    assert_eq!((woke, looks), (Woke::Rung, 2));
    assert_eq!(doorbell.sleepers(), (0, 0));
}

#[test]
fn only_wanted_rings_wake() {
    let (doorbell, peer) = bells();
    let mut looks = 0;
    let woke = doorbell.wait(EXEC, &mut sleeper(), Duration::from_millis(2), || {
        looks += 1;
        assert!(!peer.ring(PROGRESS));
        false
    });
    assert_eq!((woke, looks, doorbell.wakes()), (Woke::TimedOut, 2, 0));
}

#[test]
fn futex_and_eventfd_sleepers_are_apart() {
    let (doorbell, peer) = bells();
    doorbell.arm_eventfd(PROGRESS);
    assert!(!peer.ring(EXEC) && !readable(&doorbell));
    let woke = doorbell.wait(EXEC, &mut sleeper(), LONG, || {
        if doorbell.sleepers() == (EXEC, PROGRESS) {
            assert!(peer.ring(PROGRESS) && readable(&doorbell));
            assert_eq!(doorbell.sleepers(), (EXEC, 0), "the futex sleeper sleeps on");
            assert!(peer.ring(EXEC));
        }
        false
    });
    assert_eq!(woke, Woke::Rung);
    assert!(readable(&doorbell));
    doorbell.drain_eventfd();
    assert!(!readable(&doorbell) && !peer.ring(PROGRESS), "a ring disarms");
    doorbell.arm_eventfd(PROGRESS);
    doorbell.arm_eventfd(EXEC);
    assert!(!peer.ring(PROGRESS), "arming again replaces");
    doorbell.arm_eventfd(0);
    assert!(!peer.ring(EXEC) && !readable(&doorbell));
    doorbell.arm_eventfd(PROGRESS | EXEC);
    doorbell.ring_self(EXEC);
    assert!(readable(&doorbell));
    doorbell.disarm_eventfd();
}

#[test]
fn wake_all_makes_up_for_a_ringer_that_died() {
    let (doorbell, _) = bells();
    let mut looks = 0;
    let woke = doorbell.wait(PROGRESS, &mut sleeper(), LONG, || {
        looks += 1;
        if looks == 2 {
            // A peer that takes the announcement and dies: nobody else sees a sleeper now.
            doorbell.bell.words().take_sleepers(0);
            doorbell.bell.words().leave_futex();
            doorbell.ring_self(PROGRESS);
            doorbell.wake_all();
        }
        false
    });
    assert_eq!(woke, Woke::Rung);
    assert!(readable(&doorbell));
}

#[test]
fn a_signal_ends_a_sleep() {
    extern "C" fn nothing(_: libc::c_int) {}
    let (doorbell, _) = bells();
    let asleep = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let (doorbell, asleep) = (&doorbell, &asleep);
        let waiter = scope.spawn(move || {
            // SAFETY: a handler that does nothing, for a signal that nothing else here uses; without SA_RESTART.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
                assert_eq!(libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()), 0);
                tell.send(libc::pthread_self()).unwrap();
            }
            let woke = doorbell.wait(PROGRESS, &mut sleeper(), LONG, || false);
            asleep.store(true, SeqCst);
            woke
        });
        let thread = told.recv().unwrap();
        while !asleep.load(SeqCst) {
            // Again until it was asleep: a signal before the sleep does not end it.
            // SAFETY: the scope keeps the thread joinable, so its id is valid.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
            std::thread::yield_now();
        }
        assert_eq!(waiter.join().unwrap(), Woke::Interrupted);
    });
}

/// Two threads, each asleep until the other has rung, many times over; a lost ring would take a minute.
#[test]
fn ping_pong_loses_no_ring() {
    const ROUNDS: u64 = 2000;
    let (ours, to_us) = bells();
    let (theirs, to_them) = bells();
    let counters = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        let counters = &counters;
        scope.spawn(move || {
            let mut spinner = sleeper();
            for round in 1..=ROUNDS {
                while counters[0].load(Relaxed) < round {
                    assert_ne!(
                        theirs.wait(EXEC, &mut spinner, LONG, || counters[0].load(Relaxed) >= round),
                        Woke::TimedOut
                    );
                }
                counters[1].store(round, Relaxed);
                to_us.ring(PROGRESS);
            }
        });
        let mut spinner = sleeper();
        for round in 1..=ROUNDS {
            counters[0].store(round, Relaxed);
            to_them.ring(EXEC);
            while counters[1].load(Relaxed) < round {
                assert_ne!(
                    ours.wait(PROGRESS, &mut spinner, LONG, || counters[1].load(Relaxed) >= round),
                    Woke::TimedOut
                );
            }
        }
        assert_eq!(ours.sleepers(), (0, 0));
    });
}

#[test]
fn a_bell_that_would_stop_its_ringer_is_refused() {
    let doorbell = Doorbell::create().unwrap();
    let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    assert!(RemoteBell::attach(doorbell.share().unwrap().0, blocking).is_err());
    let (memfd, eventfd) = doorbell.share().unwrap();
    assert!(RemoteBell::attach(eventfd, memfd).is_err());
}
