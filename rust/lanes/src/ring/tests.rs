use super::*;
use crate::Lane;
use proptest::prelude::*;
use std::collections::VecDeque;

fn ring() -> (LaneSender, LaneReceiver) {
    let (lane, fd) = Lane::create().unwrap();
    // Two mappings of one file, as in two processes.
    (lane.split().0, Lane::attach(fd).unwrap().split().1)
}

/// Bytes that depend on the message's number and on each byte's place.
fn message(number: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (number.wrapping_mul(31) ^ i ^ (i >> 8)) as u8)
        .collect()
}

fn send(sender: &mut LaneSender, bytes: &[u8]) -> Sent {
    sender.send_with(bytes.len(), |room| room.copy_from_slice(bytes))
}

fn receive(receiver: &mut LaneReceiver) -> Option<Vec<u8>> {
    receiver.receive(<[u8]>::to_vec).unwrap()
}

#[test]
fn messages_of_all_lengths_come_in_order() {
    let (mut sender, mut receiver) = ring();
    assert!(receiver.is_empty());
    for len in (0..300).chain([1000, 16 << 10, 100 << 10, WHOLE_MAX, WHOLE_MAX + 1, 3 << 20]) {
        let sent = send(&mut sender, &message(len, len));
        let mut got = None;
        while got.is_none() {
            got = receive(&mut receiver);
            sender.flush();
        }
        assert_eq!(got.unwrap(), message(len, len));
        assert!(sent == Sent::InRing || len > WHOLE_MAX, "{len}");
    }
    assert!(receiver.is_empty() && receive(&mut receiver).is_none() && !sender.has_backlog());
}

#[test]
fn a_full_ring_queues_and_flushes_in_order() {
    let (mut sender, mut receiver) = ring();
    let mut queued = 0;
    for number in 0..30_000 {
        queued += usize::from(send(&mut sender, &message(number, 100)) == Sent::Queued);
    }
    assert!(queued > 0 && sender.has_backlog() && sender.backlog_bytes() == 100 * queued);
    assert!(!sender.flush(), "a ring that is still full takes nothing");
    for number in 0..30_000 {
        let got = receive(&mut receiver).or_else(|| {
            assert!(sender.flush());
            receive(&mut receiver)
        });
        assert_eq!(got, Some(message(number, 100)));
    }
    assert!(receiver.is_empty() && sender.backlog_bytes() == 0);
}

#[test]
fn the_ring_grows_when_it_was_full_and_not_otherwise() {
    let (mut sender, mut receiver) = ring();
    for number in 0..10_000 {
        send(&mut sender, &message(number, 1000));
        assert!(receive(&mut receiver).is_some());
    }
    assert_eq!(
        sender.ring_bytes(),
        RING_BYTES_MIN,
        "a ring that is drained stays small"
    );
    let (mut sender, _receiver) = ring();
    for number in 0..60 {
        assert_eq!(send(&mut sender, &message(number, 1000)), Sent::InRing);
    }
    assert_eq!(sender.ring_bytes(), RING_BYTES_MIN);
    for number in 60..600 {
        assert_eq!(
            send(&mut sender, &message(number, 1000)),
            Sent::InRing,
            "grown, although nothing was read"
        );
    }
    assert_eq!(sender.ring_bytes(), RING_BYTES_MAX);
}

#[test]
fn a_ring_whose_contents_wrap_grows_once_they_do_not() {
    let (mut sender, mut receiver) = ring();
    let mut numbers = (0.., 0..);
    // Read half, so that the next fill wraps.
    for _ in 0..60 {
        send(&mut sender, &message(numbers.0.next().unwrap(), 1000));
    }
    for _ in 0..30 {
        assert_eq!(receive(&mut receiver), Some(message(numbers.1.next().unwrap(), 1000)));
    }
    while !sender.has_backlog() {
        send(&mut sender, &message(numbers.0.next().unwrap(), 1000));
    }
    assert_eq!(sender.ring_bytes(), RING_BYTES_MIN);
    while let Some(got) = receive(&mut receiver) {
        assert_eq!(got, message(numbers.1.next().unwrap(), 1000));
        sender.flush();
    }
    assert!(!sender.has_backlog());
    send(&mut sender, &message(numbers.0.next().unwrap(), 1000));
    assert_eq!(
        sender.ring_bytes(),
        4 * RING_BYTES_MIN,
        "grown at the first message that finds it so"
    );
    assert_eq!(receive(&mut receiver), Some(message(numbers.1.next().unwrap(), 1000)));
    assert_eq!(numbers.0.next(), numbers.1.next());
}

#[test]
fn the_reader_learns_that_the_writer_waits_for_room() {
    let (mut sender, mut receiver) = ring();
    assert!(!receiver.peer_waits_for_room());
    while send(&mut sender, &message(0, 4000)) == Sent::InRing {}
    assert!(!receiver.peer_waits_for_room(), "there is no room yet");
    while receive(&mut receiver).is_some() {}
    assert!(receiver.peer_waits_for_room());
    assert!(!receiver.peer_waits_for_room(), "said once");
    assert!(sender.flush() && !sender.has_backlog());
}

#[test]
fn a_long_message_that_is_partly_in_the_ring_is_reported_by_flush() {
    let (mut sender, mut receiver) = ring();
    assert_eq!(send(&mut sender, &message(1, 5 << 20)), Sent::Queued);
    assert!(sender.flush(), "the peer has to be rung for the first parts");
    assert!(!sender.flush());
    assert!(receive(&mut receiver).is_none() && receiver.is_empty());
    let mut got = None;
    while got.is_none() {
        assert!(sender.flush());
        got = receive(&mut receiver);
    }
    assert_eq!(got.unwrap(), message(1, 5 << 20));
}

#[test]
fn a_panic_on_either_side_leaves_the_ring_in_order() {
    let (mut sender, mut receiver) = ring();
    let panicked = |result: std::thread::Result<()>| assert!(result.is_err());
    panicked(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        sender.send_with(10, |_| panic!("encoder"));
    })));
    assert!(receiver.is_empty(), "nothing was sent");
    send(&mut sender, b"one");
    send(&mut sender, b"two");
    panicked(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = receiver.receive(|_| panic!("reader"));
    })));
    assert_eq!(
        receive(&mut receiver).unwrap(),
        b"two",
        "what the reader choked on counts as read"
    );
}

#[derive(Debug, Clone)]
enum Op {
    Send(usize),
    Flush,
    Receive(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..600).prop_map(Op::Send),
        3 => (0usize..40_000).prop_map(Op::Send),
        1 => (0usize..700_000).prop_map(Op::Send),
        3 => Just(Op::Flush),
        6 => (0usize..12).prop_map(Op::Receive),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_is_a_queue(ops in proptest::collection::vec(op(), 1..300)) {
        let (mut sender, mut receiver) = ring();
        let mut model = VecDeque::new();
        let mut number = 0;
        for op in ops {
            match op {
                Op::Send(len) => {
                    let bytes = message(number, len);
                    send(&mut sender, &bytes);
                    model.push_back((number, len));
                    number += 1;
                }
                Op::Flush => drop(sender.flush()),
                Op::Receive(times) => for _ in 0..times {
                    match receive(&mut receiver) {
                        Some(got) => {
                            let (number, len) = model.pop_front().expect("received what nobody sent");
                            prop_assert!(got == message(number, len), "message {number} of {len} bytes");
                        }
                        None => {
                            prop_assert!(receiver.is_empty());
                            prop_assert!(model.is_empty() || sender.has_backlog(), "a message is lost");
                        }
                    }
                },
            }
        }
        while let Some((number, len)) = model.pop_front() {
            let got = loop {
                match receive(&mut receiver) {
                    Some(got) => break got,
                    None => prop_assert!(sender.flush(), "stuck with a backlog of {}", sender.backlog_bytes()),
                }
            };
            prop_assert!(got == message(number, len));
        }
        prop_assert!(receiver.is_empty() && !sender.has_backlog() && sender.backlog_bytes() == 0);
    }

    /// LANE-4: whatever a peer writes, the reader answers with messages or `Corrupt`, and the writer goes on queueing.
    #[test]
    fn a_broken_peer_is_an_error(
        sends in proptest::collection::vec(0usize..3000, 0..40),
        head in proptest::option::of(prop_oneof![any::<u64>(), 0u64..200_000, (0u64..20_000).prop_map(|n| n * 8)]),
        tail in proptest::option::of(any::<u64>()),
        headers in proptest::collection::vec((0usize..1000, 0u32..8, prop_oneof![any::<u32>(), 0u32..5000, Just(1 << 18)]), 0..30),
    ) {
        let (lane, fd) = Lane::create().unwrap();
        let evil = LaneMap::attach(&fd).unwrap();
        let (mut sender, ..) = lane.split();
        let (_, mut receiver, ..) = Lane::attach(fd).unwrap().split();
        for (number, len) in sends.iter().enumerate() {
            send(&mut sender, &message(number, *len));
        }
        let memory = RingMemory::new(std::sync::Arc::new(evil), 0);
        for (unit, kind, len) in headers {
            memory.set_header(unit as u64 * 8, Header(u64::from(kind) << 32 | u64::from(len)));
        }
        if let Some(head) = head {
            memory.words().head.0.store(head, Relaxed);
        }
        if let Some(tail) = tail {
            memory.words().tail.0.store(tail, Relaxed);
        }
        let mut corrupt = None;
        for _ in 0..200_000 {
            match receiver.receive(<[u8]>::len) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(why) => {
                    prop_assert!(corrupt.is_none() || corrupt == Some(why));
                    if corrupt.replace(why).is_some() { break; }
                }
            }
        }
        for number in 0..100 {
            send(&mut sender, &message(number, 2000));
            sender.flush();
        }
    }
}

#[test]
fn every_kind_of_nonsense_has_its_answer() {
    let cases = [
        (Header::WHOLE, 100, 16, "longer than"),
        (9, 0, 8, "unknown kind"),
        (0, 0, 8, "unknown kind"),
        (Header::GROW, 12345, 8, "size"),
        (Header::GROW, 1 << 30, 8, "size"),
        (Header::PART, 8, 16, "part of no"),
        (Header::START, 3, 16, "malformed start"),
        (Header::START, 8, 16, "impossible length"),
        (Header::WHOLE, 0, 5, "head"),
    ];
    for (kind, len, head, says) in cases {
        let (lane, fd) = Lane::create().unwrap();
        let (_, mut receiver, ..) = Lane::attach(fd.try_clone().unwrap()).unwrap().split();
        let memory = RingMemory::new(std::sync::Arc::new(LaneMap::attach(&fd).unwrap()), 0);
        memory.set_header(0, Header::new(kind, len));
        memory.words().head.0.store(head, Relaxed);
        for _ in 0..2 {
            let why = receiver.receive(|_| ()).unwrap_err().to_string();
            assert!(why.contains(says), "{why} / {says}");
        }
        drop(lane);
    }
}

#[test]
fn two_threads_pass_a_hundred_thousand_messages() {
    let (mut sender, mut receiver) = ring();
    const COUNT: usize = 100_000;
    let len = |number: usize| {
        if number.is_multiple_of(5000) {
            300_000
        } else {
            number % 777
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..COUNT {
                let bytes = (number as u32).to_le_bytes();
                sender.send_with(4 + len(number), |room| room[..4].copy_from_slice(&bytes));
                while sender.has_backlog() {
                    sender.flush();
                    std::thread::yield_now();
                }
            }
        });
        let mut number = 0;
        while number < COUNT {
            let got = receiver.receive(|bytes| {
                assert_eq!(bytes[..4], (number as u32).to_le_bytes());
                assert_eq!(bytes.len(), 4 + len(number));
            });
            match got.unwrap() {
                Some(()) => number += 1,
                None => std::thread::yield_now(),
            }
        }
    });
}
