//! Whatever bytes come instead of a message: an error or a message, never a panic, and what was read is written alike.

use proptest::prelude::*;
use prost::Message;
use ray_rs_proto::lane::Kind;
use ray_rs_proto::v1;
use ray_rs_types::placing::Placing;
use ray_rs_types::{ResourceSet, WorkerAddress};

/// Reads them as each kind of message that crosses a process's border.
fn read_as_everything(bytes: &[u8]) {
    fn read<M: Message + Default>(bytes: &[u8]) {
        if let Ok(message) = M::decode(bytes) {
            let again = message.encode_to_vec();
            // Maps have no order, and what is no number is not equal to itself.
            assert_eq!(M::decode(&again[..]).expect("its own words").encoded_len(), again.len());
        }
    }
    read::<v1::ToRaylet>(bytes);
    read::<v1::FromRaylet>(bytes);
    read::<v1::NodeCommand>(bytes);
    read::<v1::PickNodeReply>(bytes);
    read::<v1::NodeNews>(bytes);
    read::<v1::TaskReply>(bytes);
    read::<v1::DefineFunction>(bytes);
    read::<v1::GetObject>(bytes);
    read::<v1::ObjectValue>(bytes);
    read::<v1::GeneratorItem>(bytes);
    read::<v1::WithdrawEntries>(bytes);
    read::<v1::ActorSpec>(bytes);
    read::<v1::PlacementGroupSpec>(bytes);
    read::<v1::TaskEvents>(bytes);
    // And what is made of them.
    if let Ok(address) = v1::WorkerAddress::decode(bytes) {
        let _ = WorkerAddress::try_from(&address);
    }
    if let Ok(set) = v1::ResourceSet::decode(bytes) {
        let _ = ResourceSet::from(&set);
    }
    if let Ok(strategy) = v1::SchedulingStrategy::decode(bytes) {
        let _ = Placing::try_from(&strategy);
    }
    if let Some(kind) = bytes.first().and_then(|byte| Kind::from_byte(*byte)) {
        assert_eq!(kind as u8, bytes[0]);
    }
}

/// Something that is nearly a message.
fn a_report() -> Vec<u8> {
    let resources = v1::ResourceSet::from(&ResourceSet::new().with("CPU", 2.0).with("x_group_0_ab", 0.5));
    let node = v1::NodeInfo {
        node_id: vec![7; 28],
        total: Some(resources.clone()),
        available: Some(resources.clone()),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        ..v1::NodeInfo::default()
    };
    let body = v1::from_raylet::Body::ClusterViewReply(v1::ClusterViewReply {
        request_id: u64::MAX,
        total: Some(resources),
        nodes: vec![node; 3],
        ..v1::ClusterViewReply::default()
    });
    v1::FromRaylet { body: Some(body) }.encode_to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn a_message_with_changes(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<proptest::sample::Index>(),
        is_cut: bool,
    ) {
        let mut bytes = a_report();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_as_everything(&bytes);
    }
}

/// Cases that other decoders have stumbled over.
#[test]
fn known_oddities() {
    let nested: Vec<u8> = (0..10_000).flat_map(|_| [0x0a, 0xff, 0xff, 0x03]).collect();
    let cases: [&[u8]; 9] = [
        b"",
        b"\x00",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0b\x0b\x0b\x0b",
        b"\x0a\x02\xc3\x28",
        &nested,
    ];
    for case in cases {
        read_as_everything(case);
    }
}
