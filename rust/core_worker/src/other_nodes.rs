//! Other nodes, by small numbers of this process's own: every value has a location in it, which must not grow for the few that
//! lie elsewhere.

use std::num::NonZeroU16;

use parking_lot::RwLock;
use ray_rs_types::NodeId;

/// A node other than this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OtherNode(NonZeroU16);

static KNOWN: RwLock<Vec<NodeId>> = RwLock::new(Vec::new());

impl OtherNode {
    pub fn of(id: NodeId) -> Self {
        let number = |at: usize| u16::try_from(at + 1).ok().and_then(NonZeroU16::new);
        let find = |known: &Vec<NodeId>| known.iter().position(|other| *other == id);
        if let Some(known) = find(&KNOWN.read()).and_then(number) {
            return Self(known);
        }
        let mut known = KNOWN.write();
        let at = find(&known).unwrap_or(known.len());
        match number(at).filter(|number| *number < NonZeroU16::MAX) {
            Some(number) => {
                if at == known.len() {
                    known.push(id);
                }
                Self(number)
            }
            // No process meets so many. What lies on one of them cannot be had, and says so when it is asked for.
            None => Self(NonZeroU16::MAX),
        }
    }

    pub fn id(self) -> NodeId {
        let at = usize::from(self.0.get()) - 1;
        KNOWN.read().get(at).copied().unwrap_or(NodeId::NIL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_number_and_keeps_it() {
        let ids = [NodeId([1; 28]), NodeId([2; 28])];
        let numbers = ids.map(OtherNode::of);
        assert_ne!(numbers[0], numbers[1]);
        assert_eq!(ids.map(OtherNode::of), numbers);
        assert_eq!(numbers.map(OtherNode::id), ids);
        assert_eq!(size_of::<Option<OtherNode>>(), 2);
    }
}
