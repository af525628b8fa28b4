//! Tasks that are not coroutines but run some, as `asyncio.run` does: while such a task's event loop has nothing to do and
//! references are awaited on it, its CPU is lent to the node, as that of a thread inside `get` is.
//!
//! Whether a loop has anything to do the host tells when it looks ([`crate::awaits`]); a task that has awaited for
//! [`FIRST_LOOK`] is looked at. Here is only which tasks have lent, and what makes them take it back: anything of what they
//! await comes, they end, or a later look finds them at something else. Knows no clock but what it is told.

use std::time::Duration;

use rustc_hash::FxHashMap;

/// An await that is shorter lends nothing: that costs a message each way, and others the CPU's caches.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(10);
/// Between two looks; each costs the host some work for every reference that is awaited.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(crate) struct AwaitLending {
    /// By the number of the call: the tokens that it awaits.
    lent: FxHashMap<u64, Vec<u64>>,
    last_look: Option<Duration>,
}

/// How many tasks begin to lend, and how many take back what they lent.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Turn {
    pub lend: usize,
    pub take_back: usize,
}

impl AwaitLending {
    /// When a look is worth it for an await that begins now.
    pub fn look_at(&self, now: Duration) -> Duration {
        (now + FIRST_LOOK).max(self.last_look.map_or(now, |last| last + LOOK_PAUSE))
    }

    pub fn looked(&mut self, now: Duration) {
        self.last_look = Some(now);
    }

    /// All calls that do nothing before one of these tokens comes, or something else that nobody sees from here.
    pub fn seen(&mut self, idle: &[(u64, Vec<u64>)]) -> Turn {
        let mut turn = Turn::default();
        self.lent.retain(|call, _| {
            let stays = idle.iter().any(|(other, _)| other == call);
            turn.take_back += usize::from(!stays);
            stays
        });
        for (call, tokens) in idle {
            turn.lend += usize::from(self.lent.insert(*call, tokens.clone()).is_none());
        }
        turn
    }

    /// Something that was awaited is there; returns how many calls go on.
    pub fn came(&mut self, token: u64) -> usize {
        let before = self.lent.len();
        self.lent.retain(|_, tokens| !tokens.contains(&token));
        before - self.lent.len()
    }

    /// A call has ended; returns whether it had lent.
    pub fn ended(&mut self, call: u64) -> bool {
        self.lent.remove(&call).is_some()
    }

    pub fn is_idle(&self) -> bool {
        self.lent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_lent_is_taken_back_once() {
        let mut lending = AwaitLending::default();
        assert_eq!(
            lending.seen(&[(1, vec![7, 8]), (2, vec![8])]),
            Turn { lend: 2, take_back: 0 }
        );
        assert_eq!(lending.seen(&[(1, vec![7, 8]), (2, vec![8])]), Turn::default());
        assert_eq!(lending.came(7), 1);
        assert_eq!(lending.came(7), 0);
        // It awaits something else now.
        assert_eq!(lending.seen(&[(1, vec![9])]), Turn { lend: 1, take_back: 1 });
        assert!(lending.ended(1));
        assert!(!lending.ended(1));
        assert_eq!(lending.came(9), 0);
        assert!(lending.is_idle());
    }

    #[test]
    fn looks_keep_their_distance() {
        let at = Duration::from_millis;
        let mut lending = AwaitLending::default();
        assert_eq!(lending.look_at(at(100)), at(110));
        lending.looked(at(110));
        assert_eq!(lending.look_at(at(111)), at(160));
        assert_eq!(lending.look_at(at(500)), at(510));
    }

    proptest! {
        /// However looks, arrivals and ends fall: lent and taken back differ by those that lend now.
        #[test]
        fn the_sum_is_right(steps in prop::collection::vec((0..3u8, 0..4u64, prop::collection::vec(0..6u64, 1..4)), 0..60)) {
            let mut lending = AwaitLending::default();
            let mut blocked = 0i64;
            for (what, number, tokens) in steps {
                match what {
                    0 => {
                        let idle: Vec<_> = (0..number).map(|call| (call, tokens.clone())).collect();
                        let turn = lending.seen(&idle);
                        blocked += turn.lend as i64 - turn.take_back as i64;
                        prop_assert_eq!(blocked, idle.len() as i64);
                    }
                    1 => blocked -= lending.came(number) as i64,
                    _ => blocked -= i64::from(lending.ended(number)),
                }
                prop_assert_eq!(blocked, lending.lent.len() as i64);
            }
        }
    }
}
