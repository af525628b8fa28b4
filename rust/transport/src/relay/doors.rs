//! Whose door is open, and which calls wait for an answer. `D` stands for a door, `C` for who called.

use std::collections::HashMap;

use ray_rs_types::NodeId;

use super::CallId;

/// More calls at a time wait for no answer: each takes a socket.
const MAX_CALLS: usize = 1024;

#[derive(Debug)]
pub(super) struct Doors<D, C> {
    open: HashMap<NodeId, (u64, D)>,
    /// Numbers of doors are given once.
    last: u64,
    calls: HashMap<CallId, C>,
}

impl<D, C> Default for Doors<D, C> {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            last: 0,
            calls: HashMap::new(),
        }
    }
}

impl<D: Clone, C> Doors<D, C> {
    /// In the place of an earlier one of that node (`REL-2`). Returns the number by which it is closed.
    pub fn opened(&mut self, node: NodeId, door: D) -> u64 {
        self.last += 1;
        self.open.insert(node, (self.last, door));
        self.last
    }

    /// A later door of that node stays.
    pub fn closed(&mut self, node: NodeId, number: u64) {
        if self.open.get(&node).is_some_and(|(known, _)| *known == number) {
            self.open.remove(&node);
        }
    }

    pub fn door_of(&self, node: NodeId) -> Option<D> {
        self.open.get(&node).map(|(_, door)| door.clone())
    }

    /// False: too many wait, or the number is taken.
    pub fn called(&mut self, call: CallId, caller: C) -> bool {
        if self.calls.len() >= MAX_CALLS || self.calls.contains_key(&call) {
            return false;
        }
        self.calls.insert(call, caller);
        true
    }

    /// Who called so, once (`REL-1`); also for a caller that has given up.
    pub fn answered(&mut self, call: &CallId) -> Option<C> {
        self.calls.remove(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 28]);

    #[test]
    fn a_later_door_takes_the_place_of_an_earlier_one_whose_end_changes_nothing() {
        let mut doors: Doors<&str, ()> = Doors::default();
        assert_eq!(doors.door_of(NODE), None);
        let first = doors.opened(NODE, "first");
        let second = doors.opened(NODE, "second");
        doors.closed(NODE, first);
        assert_eq!(doors.door_of(NODE), Some("second"));
        doors.closed(NODE, second);
        assert_eq!(doors.door_of(NODE), None);
    }

    #[test]
    fn a_call_is_answered_once() {
        let mut doors: Doors<(), &str> = Doors::default();
        assert!(doors.called([5; 28], "who"));
        assert!(!doors.called([5; 28], "another"));
        assert_eq!(doors.answered(&[6; 28]), None);
        assert_eq!(doors.answered(&[5; 28]), Some("who"));
        assert_eq!(doors.answered(&[5; 28]), None);
    }

    #[test]
    fn calls_have_a_bound() {
        let mut doors: Doors<(), usize> = Doors::default();
        let call = |number: usize| {
            let mut call = [0; 28];
            call[..8].copy_from_slice(&number.to_le_bytes());
            call
        };
        assert!((0..MAX_CALLS).all(|number| doors.called(call(number), number)));
        assert!(!doors.called(call(MAX_CALLS), MAX_CALLS));
        assert_eq!(doors.answered(&call(3)), Some(3));
        assert!(doors.called(call(MAX_CALLS), MAX_CALLS));
    }
}
