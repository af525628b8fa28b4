//! Faults on purpose, for tests: calls whose request or reply is lost, that come late or twice.
//!
//! `RAY_RS_RPC_FAULTS` says which, when a process starts: entries `NAME:FAULT=PROBABILITY,...` with `;` between them, `*`
//! for all calls that have no entry of their own, and `seed=NUMBER`. Faults are `request` and `reply` (lost), `twice`, and
//! `late` (`late=0.2@50`: up to 50 ms, 100 where nothing is said). Without the variable a call costs one look at a constant.
//!
//! Pure but for [`of_process`]: what happens to a call follows from the setting and from how many were drawn before it.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Names the setting.
pub const VARIABLE: &str = "RAY_RS_RPC_FAULTS";
const DEFAULT_LATE_MS: u64 = 100;
const ALL_NAMES: &str = "*";

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The other side never sees it.
    RequestLost,
    /// The other side does what is asked, and its answer never comes.
    ReplyLost,
    /// The other side sees it twice.
    Twice,
    /// It comes so much later.
    Late(Duration),
}

/// Why a setting makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}: {0:?} is none of NAME:request=P,reply=P,twice=P,late=P@MILLISECONDS and seed=NUMBER, with P from 0 to 1"
)]
pub struct BadSetting(String);

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Chances {
    request: f64,
    reply: f64,
    twice: f64,
    late: f64,
    late_ms: u64,
}

/// All that a setting says.
#[derive(Debug)]
pub struct Faults {
    by_name: BTreeMap<String, Chances>,
    random: Mutex<u64>,
}

impl Faults {
    /// Reads a setting.
    ///
    /// # Errors
    /// When part of it cannot be understood.
    pub fn parse(text: &str) -> Result<Self, BadSetting> {
        let mut by_name = BTreeMap::new();
        let mut seed = 0;
        for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
            let bad = || BadSetting(entry.to_owned());
            if let Some(number) = entry.strip_prefix("seed=") {
                seed = number.parse().map_err(|_| bad())?;
                continue;
            }
            let (name, chances) = entry.split_once(':').ok_or_else(bad)?;
            by_name.insert(name.trim().to_owned(), chances_of(chances).ok_or_else(bad)?);
        }
        Ok(Self {
            by_name,
            random: Mutex::new(seed),
        })
    }

    /// What happens to the next call of this name.
    pub fn draw(&self, name: &str) -> Option<Fault> {
        let chances = self.by_name.get(name).or_else(|| self.by_name.get(ALL_NAMES))?;
        self.draw_of(chances)
    }

    /// The same for what is no call (a message on a stream, a connection): only by its own name.
    pub fn draw_named(&self, name: &str) -> Option<Fault> {
        self.draw_of(self.by_name.get(name)?)
    }

    fn draw_of(&self, chances: &Chances) -> Option<Fault> {
        let mut drawn = self.next();
        let mut falls_to = |chance: f64| {
            let is_it = drawn < chance;
            drawn -= chance;
            is_it
        };
        if falls_to(chances.request) {
            Some(Fault::RequestLost)
        } else if falls_to(chances.reply) {
            Some(Fault::ReplyLost)
        } else if falls_to(chances.twice) {
            Some(Fault::Twice)
        } else if falls_to(chances.late) {
            let part = self.next();
            Some(Fault::Late(Duration::from_millis(chances.late_ms).mul_f64(part)))
        } else {
            None
        }
    }

    /// From 0 up to, not including, 1 (splitmix64).
    fn next(&self) -> f64 {
        let mut state = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn chances_of(text: &str) -> Option<Chances> {
    let mut chances = Chances {
        late_ms: DEFAULT_LATE_MS,
        ..Chances::default()
    };
    for part in text.split(',') {
        let (fault, amount) = part.trim().split_once('=')?;
        let (amount, late_ms) = match amount.split_once('@') {
            Some((amount, late_ms)) if fault == "late" => (amount, late_ms.parse().ok()?),
            Some(_) => return None,
            None => (amount, chances.late_ms),
        };
        let amount: f64 = amount.parse().ok().filter(|amount| (0.0..=1.0).contains(amount))?;
        match fault {
            "request" => chances.request = amount,
            "reply" => chances.reply = amount,
            "twice" => chances.twice = amount,
            "late" => (chances.late, chances.late_ms) = (amount, late_ms),
            _ => return None,
        }
    }
    Some(chances)
}

/// What this process's environment says; `None`: no faults. A setting that makes no sense is told once and has no effect.
pub fn of_process() -> Option<&'static Faults> {
    static FAULTS: OnceLock<Option<Faults>> = OnceLock::new();
    let read = || {
        let text = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty())?;
        match Faults::parse(&text) {
            Ok(faults) => {
                tracing::warn!(setting = text, "calls fail on purpose");
                Some(faults)
            }
            Err(error) => {
                tracing::error!(%error, "no call fails on purpose");
                None
            }
        }
    };
    FAULTS.get_or_init(read).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(setting: &str, name: &str) -> Vec<Option<Fault>> {
        let faults = Faults::parse(setting).expect("makes sense");
        (0..1000).map(|_| faults.draw(name)).collect()
    }

    #[test]
    fn each_fault_comes_about_as_often_as_it_is_to() {
        let all = drawn("KvPut:request=0.1,reply=0.2,twice=0.3,late=0.2@50;seed=7", "KvPut");
        let count = |of: &dyn Fn(&Option<Fault>) -> bool| all.iter().filter(|fault| of(fault)).count();
        assert!((70..130).contains(&count(&|fault| *fault == Some(Fault::RequestLost))));
        assert!((150..250).contains(&count(&|fault| *fault == Some(Fault::ReplyLost))));
        assert!((250..350).contains(&count(&|fault| *fault == Some(Fault::Twice))));
        let late = |fault: &Option<Fault>| matches!(fault, Some(Fault::Late(late)) if late.as_millis() < 50);
        assert!((150..250).contains(&count(&late)));
        assert!((150..250).contains(&count(&|fault| fault.is_none())));
        assert_eq!(
            all,
            drawn("KvPut:request=0.1,reply=0.2,twice=0.3,late=0.2@50;seed=7", "KvPut")
        );
        assert_ne!(
            all,
            drawn("KvPut:request=0.1,reply=0.2,twice=0.3,late=0.2@50;seed=8", "KvPut")
        );
    }

    #[test]
    fn names_go_before_all_names() {
        assert!(
            drawn("*:twice=1;KvGet:request=1", "KvPut")
                .iter()
                .all(|fault| *fault == Some(Fault::Twice))
        );
        let own = drawn("*:twice=1;KvGet:request=1", "KvGet");
        assert!(own.iter().all(|fault| *fault == Some(Fault::RequestLost)));
        assert!(drawn("KvGet:request=1", "KvPut").iter().all(Option::is_none));
        assert!(drawn("", "KvPut").iter().all(Option::is_none));
        let faults = Faults::parse("*:twice=1;NodeReport:twice=1").expect("makes sense");
        assert_eq!(faults.draw_named("NodeReport"), Some(Fault::Twice));
        assert_eq!(faults.draw_named("Visit"), None, "a stream is no call");
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in [
            "KvPut",
            "KvPut:",
            "KvPut:request",
            "KvPut:request=2",
            "*:request=0.1@5",
            "*:lost=1",
            "seed=x",
        ] {
            assert!(Faults::parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
