//! What is said on a data connection.
//!
//! The reader asks for one value at a time; one byte answers it. After [`Reply::HereItComes`] follows the rest of the value,
//! from where the reader asked on, and when the reader has it all it says so with one byte: only then may the memory be used
//! for something else, since what is sent are the pages themselves. After [`Reply::AskAnother`] follow a node and its
//! address, and the reader's next question goes there.

use ray_rs_object_store::spill::Key;
use ray_rs_types::NodeId;

use crate::copies::CopyKey;

const ID_BYTES: usize = NodeId::SIZE;
pub(crate) const REQUEST_BYTES: usize = 4 * 8 + 2 * ID_BYTES;
/// What the reader says when it has a value.
pub(crate) const HAVE_IT: u8 = 1;
/// Longest address of a node, "host:port".
pub(crate) const MAX_ADDRESS_BYTES: usize = 255;

/// A reader's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// The value's name: the node where it was made, and where it lay there.
    pub value: CopyKey,
    pub length: u64,
    /// So much of it has the reader already.
    pub skip: u64,
    /// A node that the reader was sent to, and that gave it nothing or not all.
    pub failed: Option<NodeId>,
}

/// The byte that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reply {
    /// It is not there (any more).
    Gone = 0,
    HereItComes = 1,
    /// It is on disk, and could not be brought back.
    NotBack = 2,
    AskAnother = 3,
}

impl Request {
    pub fn key(&self) -> Key {
        Key {
            offset: self.value.offset,
            generation: self.value.generation,
        }
    }

    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let numbers = [self.value.offset, self.length, self.value.generation, self.skip];
        for (part, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        bytes[32..32 + ID_BYTES].copy_from_slice(&self.value.node.0);
        bytes[32 + ID_BYTES..].copy_from_slice(&self.failed.unwrap_or(NodeId::NIL).0);
        bytes
    }

    /// `None`: nonsense.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let number = |index: usize| {
            let start = 8 * index;
            u64::from_le_bytes(bytes[start..start + 8].try_into().expect("eight bytes"))
        };
        let id = |index: usize| {
            let start = 32 + index * ID_BYTES;
            NodeId(bytes[start..start + ID_BYTES].try_into().expect("an id"))
        };
        let (length, skip) = (number(1), number(3));
        (skip <= length).then(|| Self {
            value: CopyKey {
                node: id(0),
                offset: number(0),
                generation: number(2),
            },
            length,
            skip,
            failed: Some(id(1)).filter(|node| *node != NodeId::NIL),
        })
    }
}

impl Reply {
    pub fn of(byte: u8) -> Option<Self> {
        [Self::Gone, Self::HereItComes, Self::NotBack, Self::AskAnother]
            .into_iter()
            .find(|reply| *reply as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_is_a_request_or_nonsense(bytes in proptest::array::uniform32(any::<[u8; 2]>()), more in any::<[u8; 24]>()) {
            let all: Vec<u8> = bytes.concat().into_iter().chain(more).collect();
            let all: [u8; REQUEST_BYTES] = all.try_into().expect("so many");
            if let Some(request) = Request::decode(&all) {
                prop_assert!(request.skip <= request.length);
                prop_assert_eq!(request.encode(), all);
            }
        }

        #[test]
        fn requests_survive_the_way(
            offset: u64, generation: u64, length: u64, part in 0.0..=1.0f64, node: [u8; 28], failed: Option<[u8; 28]>
        ) {
            let request = Request {
                value: CopyKey { node: NodeId(node), offset, generation },
                length,
                skip: ((length as f64 * part) as u64).min(length),
                failed: failed.map(NodeId).filter(|failed| *failed != NodeId::NIL),
            };
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
        }
    }
}
