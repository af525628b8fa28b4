//! Copies in this node's arena of values that lie in other nodes': which are here, which are coming, and who waits.
//!
//! A copy is named by where the value lies, which never means another value, and fetched once however many ask. It stays
//! until its owner gives the value up, or until room is short: of all that lies in the arena copies go first, since they
//! can be fetched again. Numbers and states only; [`crate::transfer`] moves the bytes.
//!
//! * `CPY-1` a copy that is here is found by the value's name and by its own place, or by neither.

use ray_rs_object_store::spill::Place;
use ray_rs_types::NodeId;
use rustc_hash::FxHashMap;

use crate::input::ConnKey;

/// Where a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CopyKey {
    pub node: NodeId,
    pub offset: u64,
    pub generation: u64,
}

/// A request of a client.
pub(crate) type Asked = (ConnKey, u64);

#[derive(Debug)]
enum Copy {
    Coming(Vec<Asked>),
    Here(Place),
}

/// What becomes of a request for a copy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Here(Place),
    /// It will be told.
    Coming,
    /// It will be told, and the value has to be fetched.
    Fetch,
}

#[derive(Debug, Default)]
pub(crate) struct Copies {
    copies: FxHashMap<CopyKey, Copy>,
    at_place: FxHashMap<u64, CopyKey>,
}

impl Copies {
    pub fn wanted(&mut self, key: CopyKey, asked: Asked) -> Wanted {
        match self.copies.get_mut(&key) {
            Some(Copy::Here(place)) => Wanted::Here(*place),
            Some(Copy::Coming(waiting)) => {
                waiting.push(asked);
                Wanted::Coming
            }
            None => {
                self.copies.insert(key, Copy::Coming(vec![asked]));
                Wanted::Fetch
            }
        }
    }

    /// It is here, or could not be had; who waits for it.
    pub fn came(&mut self, key: CopyKey, place: Option<Place>) -> Vec<Asked> {
        let before = match place {
            Some(place) => {
                self.at_place.insert(place.offset, key);
                self.copies.insert(key, Copy::Here(place))
            }
            None => self.copies.remove(&key),
        };
        match before {
            Some(Copy::Coming(waiting)) => waiting,
            Some(Copy::Here(_)) | None => Vec::new(),
        }
    }

    /// The value was given up. (A copy that is coming is wanted by somebody who asks: it stays until it is in the way.)
    pub fn forget(&mut self, key: CopyKey) -> Option<Place> {
        let Some(Copy::Here(place)) = self.copies.get(&key) else {
            return None;
        };
        let place = *place;
        self.copies.remove(&key);
        self.at_place.remove(&place.offset);
        Some(place)
    }

    /// Where the whole copy is.
    pub fn here(&self, key: CopyKey) -> Option<Place> {
        match self.copies.get(&key) {
            Some(Copy::Here(place)) => Some(*place),
            Some(Copy::Coming(_)) | None => None,
        }
    }

    /// Whether the block at this data offset is a copy.
    pub fn is_copy(&self, offset: u64) -> bool {
        self.at_place.contains_key(&offset)
    }

    /// The block at this data offset was in the way.
    pub fn evicted(&mut self, offset: u64) {
        if let Some(key) = self.at_place.remove(&offset) {
            self.copies.remove(&key);
        }
    }

    /// Panics when `CPY-1` does not hold.
    #[cfg(test)]
    fn check_invariants(&self) {
        let here: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(key, copy)| match copy {
                Copy::Here(place) => Some((place.offset, *key)),
                Copy::Coming(_) => None,
            })
            .collect();
        assert_eq!(here.len(), self.at_place.len(), "CPY-1");
        assert!(
            here.iter().all(|(offset, key)| self.at_place.get(offset) == Some(key)),
            "CPY-1"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: CopyKey = CopyKey {
        node: NodeId([7; 28]),
        offset: 64,
        generation: 3,
    };
    const PLACE: Place = Place {
        offset: 4096,
        len: 10,
        generation: 9,
    };

    fn asked(number: u64) -> Asked {
        (ConnKey(number), number)
    }

    #[test]
    fn a_value_is_fetched_once_for_all_who_ask() {
        let mut copies = Copies::default();
        assert_eq!(copies.wanted(KEY, asked(1)), Wanted::Fetch);
        assert_eq!(copies.wanted(KEY, asked(2)), Wanted::Coming);
        assert_eq!(copies.came(KEY, Some(PLACE)), vec![asked(1), asked(2)]);
        assert_eq!(copies.wanted(KEY, asked(3)), Wanted::Here(PLACE));
        assert!(copies.is_copy(PLACE.offset));
        copies.check_invariants();
    }

    #[test]
    fn what_could_not_be_had_is_fetched_anew_for_the_next_who_asks() {
        let mut copies = Copies::default();
        copies.wanted(KEY, asked(1));
        assert_eq!(copies.came(KEY, None), vec![asked(1)]);
        assert_eq!(copies.wanted(KEY, asked(2)), Wanted::Fetch);
        copies.check_invariants();
    }

    #[test]
    fn a_copy_goes_with_its_value_or_when_it_is_in_the_way() {
        let mut copies = Copies::default();
        copies.wanted(KEY, asked(1));
        assert_eq!(copies.forget(KEY), None, "it is only coming");
        copies.came(KEY, Some(PLACE));
        assert_eq!(copies.forget(KEY), Some(PLACE));
        assert!(!copies.is_copy(PLACE.offset));
        copies.wanted(KEY, asked(2));
        copies.came(KEY, Some(PLACE));
        copies.evicted(PLACE.offset);
        assert_eq!(copies.forget(KEY), None);
        assert_eq!(copies.wanted(KEY, asked(3)), Wanted::Fetch);
        copies.check_invariants();
    }
}
