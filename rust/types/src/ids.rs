//! The ids of Ray, each its own type, as plain bytes.
//!
//! A `TaskId` is 8 unique bytes followed by an `ActorId`; an `ActorId` is 12 unique bytes followed by a `JobId`; an
//! `ObjectId` is the `TaskId` that made it followed by a little-endian index (returns count from 1, puts from
//! [`ObjectId::FIRST_PUT_INDEX`]). See Ray's `src/ray/design_docs/id_specification.md`.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

/// The bytes given for an id had the wrong length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{type_name} needs {expected} bytes, got {actual}")]
pub struct IdError {
    pub type_name: &'static str,
    pub expected: usize,
    pub actual: usize,
}

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident, $size:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// Length in bytes.
            pub const SIZE: usize = $size;
            /// All bytes `0xff`: no id.
            pub const NIL: Self = Self([0xff; $size]);

            /// # Errors
            /// [`IdError`] when `bytes` is not [`Self::SIZE`] long.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
                match bytes.try_into() {
                    Ok(array) => Ok(Self(array)),
                    Err(_) => Err(IdError { type_name: stringify!($name), expected: $size, actual: bytes.len() }),
                }
            }

            /// `None` when `text` is not [`Self::SIZE`] bytes in hexadecimal digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                if text.len() != $size * 2 || !text.is_ascii() {
                    return None;
                }
                let mut bytes = [0u8; $size];
                for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digit = |digit: u8| (digit as char).to_digit(16);
                    *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
                }
                Some(Self(bytes))
            }

            pub const fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }

            pub fn is_nil(&self) -> bool {
                *self == Self::NIL
            }

            pub fn hex(&self) -> String {
                let mut text = String::with_capacity($size * 2);
                for byte in self.0 {
                    text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a nibble is a hex digit"));
                    text.push(char::from_digit(u32::from(byte & 15), 16).expect("a nibble is a hex digit"));
                }
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.hex())
            }
        }

        impl Hash for $name {
            // The first bytes of every id are its unique part (an ObjectId also ends in an index), so hashing two words
            // of it is as good as hashing all, and far cheaper.
            fn hash<H: Hasher>(&self, state: &mut H) {
                let mut first = [0u8; 8];
                let head = self.0.len().min(8);
                first[..head].copy_from_slice(&self.0[..head]);
                let mut last = [0u8; 4];
                last.copy_from_slice(&self.0[self.0.len() - 4..]);
                state.write_u64(u64::from_le_bytes(first) ^ (u64::from(u32::from_le_bytes(last)) << 29));
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.hex())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::from_hex(&text)
                    .ok_or_else(|| serde::de::Error::custom(concat!("bad hex digits for ", stringify!($name))))
            }
        }
    };
}

define_id!(/// One driver's run.
    JobId, 4);
define_id!(/// One actor, through all its restarts.
    ActorId, 16);
define_id!(/// One task or actor call, through all its attempts.
    TaskId, 24);
define_id!(/// One object.
    ObjectId, 28);
define_id!(/// One process that runs tasks, or a driver.
    WorkerId, 28);
define_id!(/// One raylet.
    NodeId, 28);
define_id!(/// A pickled function or class, by the hash of its content.
    FunctionId, 28);
define_id!(/// Any other unique id.
    UniqueId, 28);
define_id!(/// One cluster.
    ClusterId, 28);
define_id!(/// One placement group.
    PlacementGroupId, 18);

impl JobId {
    pub const fn from_int(value: u32) -> Self {
        Self(value.to_le_bytes())
    }

    pub const fn to_int(self) -> u32 {
        u32::from_le_bytes(self.0)
    }
}

impl ActorId {
    /// `unique` should be random or a counter that is unique within the job.
    pub fn new(unique: [u8; 12], job: JobId) -> Self {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&unique);
        bytes[12..].copy_from_slice(&job.0);
        Self(bytes)
    }

    /// The actor part of the ids of normal tasks.
    pub fn nil_of(job: JobId) -> Self {
        Self::new([0xff; 12], job)
    }

    pub fn job_id(&self) -> JobId {
        JobId([self.0[12], self.0[13], self.0[14], self.0[15]])
    }
}

impl TaskId {
    pub fn new(unique: u64, actor: ActorId) -> Self {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&unique.to_le_bytes());
        bytes[8..].copy_from_slice(&actor.0);
        Self(bytes)
    }

    /// The task that makes an actor.
    pub fn of_creation(actor: ActorId) -> Self {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&actor.0[..8]);
        bytes[8..].copy_from_slice(&actor.0);
        Self(bytes)
    }

    pub fn unique(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight bytes"))
    }

    pub fn actor_id(&self) -> ActorId {
        ActorId(self.0[8..].try_into().expect("sixteen bytes"))
    }

    pub fn job_id(&self) -> JobId {
        self.actor_id().job_id()
    }
}

impl ObjectId {
    /// Puts count up from here; returns count up from 1.
    pub const FIRST_PUT_INDEX: u32 = 1 << 30;

    pub fn new(task: TaskId, index: u32) -> Self {
        let mut bytes = [0; 28];
        bytes[..24].copy_from_slice(&task.0);
        bytes[24..].copy_from_slice(&index.to_le_bytes());
        Self(bytes)
    }

    pub fn task_id(&self) -> TaskId {
        TaskId(self.0[..24].try_into().expect("twenty-four bytes"))
    }

    pub fn index(&self) -> u32 {
        u32::from_le_bytes(self.0[24..].try_into().expect("four bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_nest_as_ray_nests_them() {
        let job = JobId::from_int(1);
        assert_eq!(job.hex(), "01000000");
        let actor = ActorId::new([7; 12], job);
        let task = TaskId::new(42, actor);
        let object = ObjectId::new(task, 3);
        assert_eq!(object.task_id(), task);
        assert_eq!(object.index(), 3);
        assert_eq!(task.actor_id(), actor);
        assert_eq!(task.unique(), 42);
        assert_eq!(task.job_id(), job);
    }

    #[test]
    fn wrong_length_says_what_was_expected() {
        let error = JobId::from_bytes(&[1, 2]).expect_err("two bytes are no JobId");
        assert_eq!(error.to_string(), "JobId needs 4 bytes, got 2");
    }
}
