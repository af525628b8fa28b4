//! Where in a list something is that was registered before: functions and methods with the same options share an entry,
//! so that `f.options(...)` in a loop leaves nothing behind.

use std::hash::{BuildHasher, Hash};

use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

/// By the hash of what is there.
#[derive(Debug, Default)]
pub(crate) struct Positions(FxHashMap<u64, SmallVec<[u32; 1]>>);

impl Positions {
    /// The position of what equals `wanted`; else it is noted as about to stand at `next`.
    pub fn find_or_note<'a, T: Hash + PartialEq + 'a>(
        &mut self,
        wanted: &T,
        at: impl Fn(u32) -> &'a T,
        next: u32,
    ) -> Option<u32> {
        let candidates = self.0.entry(FxBuildHasher.hash_one(wanted)).or_default();
        if let Some(known) = candidates.iter().find(|known| at(**known) == wanted) {
            return Some(*known);
        }
        candidates.push(next);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_found_and_the_rest_is_new() {
        let mut list: Vec<&str> = Vec::new();
        let mut positions = Positions::default();
        let mut register = |text: &'static str| {
            let next = list.len() as u32;
            positions
                .find_or_note(&text, |known| &list[known as usize], next)
                .unwrap_or_else(|| {
                    list.push(text);
                    next
                })
        };
        assert_eq!(["a", "b", "a", "c", "b"].map(&mut register), [0, 1, 0, 2, 1]);
    }
}
