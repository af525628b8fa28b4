//! The caller's side: the numbers of its calls to one durable actor, and up to which of them it has its answers.

use std::collections::BTreeSet;

/// A caller that has many calls under way says so often that it has had answers: what the actor keeps of them is part of
/// each checkpoint.
const ACKNOWLEDGED_TOGETHER: u64 = 64;

/// Numbers of one caller's calls to one actor.
#[derive(Debug, Default)]
pub struct CallNumbers {
    last: u64,
    /// Without an answer.
    open: BTreeSet<u64>,
}

impl CallNumbers {
    /// The number of a call that is sent for the first time; it keeps it when it is sent again.
    pub fn open(&mut self) -> u64 {
        self.last += 1;
        self.open.insert(self.last);
        self.last
    }

    /// There is an answer to the call, or nobody waits for one. `Some`: the actor is to be told that the caller has its
    /// answers up to this number, as perhaps no call will be there that says it.
    pub fn close(&mut self, number: u64) -> Option<u64> {
        self.open.remove(&number);
        let tells = self.open.is_empty() || number.is_multiple_of(ACKNOWLEDGED_TOGETHER);
        tells.then(|| self.acknowledged())
    }

    /// Up to which number the caller has its answers.
    pub fn acknowledged(&self) -> u64 {
        self.open.first().map_or(self.last, |first| first - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_has_no_gap() {
        let mut numbers = CallNumbers::default();
        assert_eq!((numbers.open(), numbers.open(), numbers.open()), (1, 2, 3));
        assert_eq!(numbers.acknowledged(), 0);
        assert_eq!(numbers.close(2), None, "the first is still open");
        assert_eq!(numbers.acknowledged(), 0);
        assert_eq!(numbers.close(1), None);
        assert_eq!(numbers.acknowledged(), 2);
        assert_eq!(numbers.close(3), Some(3), "nothing is under way that would say it");
    }

    #[test]
    fn who_always_has_calls_under_way_says_it_now_and_then() {
        let mut numbers = CallNumbers::default();
        for _ in 0..100 {
            numbers.open();
        }
        let told: Vec<u64> = (1..100).filter_map(|number| numbers.close(number)).collect();
        assert_eq!(told, [64]);
    }
}
