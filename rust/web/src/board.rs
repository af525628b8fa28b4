//! What viewers of the page are shown, and what each has to be told: the deciding half of the stream of events.
//!
//! The page shows *sections*, each a number of rows by key. Whoever comes says which sections it wants; a section is
//! looked at while somebody wants it, and what has changed since the last look goes to all who do.
//!
//! * BOARD-1: a section is kept, and looked at, only while somebody wants it.
//! * BOARD-2: a viewer that applies what it was sent in order has the rows of the last look.
//! * BOARD-3: of the time of one processor looks take at most one part in [`SHARE`], each section for itself.
//!
//! Not here: clocks, connections, and how a look is had.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// Rows by key.
pub type Rows = Map<String, Value>;

/// Between two looks at a section at least.
const PAUSE: Duration = Duration::from_secs(1);
/// A look that took so long is followed by a pause of so many times that.
const SHARE: u32 = 30;
/// However long a look takes, the next comes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewerId(pub u64);

/// What is to be sent to a viewer.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub viewer: ViewerId,
    /// `{"section", "all": whether rows that are not in "set" are gone, "set": rows by key, "gone": keys}`, or
    /// `{"section", "trouble": why there is nothing new}`.
    pub news: Value,
}

#[derive(Debug, Default)]
struct Section {
    /// Of the last look; `None` before the first.
    rows: Option<Rows>,
    /// When the next look is due.
    due: Option<Instant>,
    /// Viewers that have been sent all rows, and since then what changed.
    up_to_date: BTreeSet<ViewerId>,
    wanted_by: BTreeSet<ViewerId>,
}

/// The sections that somebody wants.
#[derive(Debug, Default)]
pub struct Board {
    sections: BTreeMap<String, Section>,
}

impl Board {
    /// Somebody comes, and gets at once what is known already.
    pub fn viewer_came(&mut self, viewer: ViewerId, wants: &BTreeSet<String>, messages: &mut Vec<Message>) {
        for name in wants {
            let section = self.sections.entry(name.clone()).or_default();
            section.wanted_by.insert(viewer);
            if let Some(rows) = &section.rows {
                section.up_to_date.insert(viewer);
                messages.push(Message {
                    viewer,
                    news: all_of(name, rows),
                });
            }
        }
    }

    /// Somebody has gone, or is too slow.
    pub fn viewer_left(&mut self, viewer: ViewerId) {
        self.sections.retain(|_, section| {
            section.wanted_by.remove(&viewer);
            section.up_to_date.remove(&viewer);
            !section.wanted_by.is_empty()
        });
    }

    /// Which section is to be looked at now.
    pub fn due(&self, now: Instant) -> Option<&str> {
        let due = self
            .sections
            .iter()
            .filter(|(_, section)| section.due.is_none_or(|due| due <= now));
        // Those that were never looked at come first.
        due.min_by_key(|(_, section)| section.due).map(|(name, _)| &**name)
    }

    /// When the next look is due; `None`: nobody wants anything.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.sections.values().map(|section| section.due.unwrap_or(now)).min()
    }

    /// Somebody looked at a section, from `began` to `now`.
    pub fn looked(
        &mut self,
        began: Instant,
        now: Instant,
        name: &str,
        found: Result<Rows, String>,
        messages: &mut Vec<Message>,
    ) {
        // Everybody may have gone meanwhile.
        let Some(section) = self.sections.get_mut(name) else {
            return;
        };
        let pause = ((now - began) * SHARE).clamp(PAUSE, LONGEST_PAUSE);
        section.due = Some(now + pause);
        let rows = match found {
            Ok(rows) => rows,
            Err(why) => {
                let news = json!({ "section": name, "trouble": why });
                messages.extend(section.wanted_by.iter().map(|&viewer| Message {
                    viewer,
                    news: news.clone(),
                }));
                return;
            }
        };
        let change = section.rows.as_ref().and_then(|before| change(name, before, &rows));
        for &viewer in &section.wanted_by {
            let news = if section.up_to_date.contains(&viewer) {
                change.clone()
            } else {
                Some(all_of(name, &rows))
            };
            messages.extend(news.map(|news| Message { viewer, news }));
        }
        section.up_to_date = section.wanted_by.clone();
        section.rows = Some(rows);
    }

    /// # Panics
    /// An invariant does not hold.
    pub fn check_invariants(&self) {
        for (name, section) in &self.sections {
            assert!(!section.wanted_by.is_empty(), "BOARD-1: nobody wants {name}");
            assert!(section.up_to_date.is_subset(&section.wanted_by), "BOARD-2: {name}");
            assert!(
                section.up_to_date.is_empty() || section.rows.is_some(),
                "BOARD-2: {name}"
            );
        }
    }
}

fn all_of(name: &str, rows: &Rows) -> Value {
    json!({ "section": name, "all": true, "set": rows, "gone": [] })
}

/// What differs; `None`: nothing.
fn change(name: &str, before: &Rows, after: &Rows) -> Option<Value> {
    let set: Rows = after
        .iter()
        .filter(|(key, row)| before.get(*key) != Some(*row))
        .map(|(key, row)| (key.clone(), row.clone()))
        .collect();
    let gone: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    let is_news = !set.is_empty() || !gone.is_empty();
    is_news.then(|| json!({ "section": name, "all": false, "set": set, "gone": gone }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pairs: &[(&str, u32)]) -> Rows {
        pairs.iter().map(|(key, row)| ((*key).to_owned(), json!(row))).collect()
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const A: ViewerId = ViewerId(1);
    const B: ViewerId = ViewerId(2);

    #[test]
    fn nothing_is_looked_at_while_nobody_looks() {
        let (mut board, now, mut messages) = (Board::default(), Instant::now(), Vec::new());
        assert_eq!((board.due(now), board.next_deadline(now)), (None, None));
        board.viewer_came(A, &names(&["jobs"]), &mut messages);
        assert_eq!(messages, []);
        assert_eq!((board.due(now), board.next_deadline(now)), (Some("jobs"), Some(now)));
        board.viewer_left(A);
        assert_eq!((board.due(now), board.next_deadline(now)), (None, None));
        // A look that was on its way is of no use any more.
        board.looked(now, now, "jobs", Ok(rows(&[("a", 1)])), &mut messages);
        assert_eq!((messages, board.due(now)), (vec![], None));
    }

    #[test]
    fn everybody_gets_all_and_then_what_changes() {
        let (mut board, now, mut messages) = (Board::default(), Instant::now(), Vec::new());
        board.viewer_came(A, &names(&["jobs"]), &mut messages);
        board.looked(now, now, "jobs", Ok(rows(&[("a", 1), ("b", 1)])), &mut messages);
        let all = json!({ "section": "jobs", "all": true, "set": { "a": 1, "b": 1 }, "gone": [] });
        assert_eq!(
            messages.split_off(0),
            [Message {
                viewer: A,
                news: all.clone()
            }]
        );
        board.looked(now, now, "jobs", Ok(rows(&[("a", 1), ("b", 1)])), &mut messages);
        assert_eq!(messages, []);
        board.viewer_came(B, &names(&["jobs", "logs"]), &mut messages);
        assert_eq!(messages.split_off(0), [Message { viewer: B, news: all }]);
        board.looked(now, now, "jobs", Ok(rows(&[("b", 2), ("c", 1)])), &mut messages);
        let change = json!({ "section": "jobs", "all": false, "set": { "b": 2, "c": 1 }, "gone": ["a"] });
        let to = |viewer| Message {
            viewer,
            news: change.clone(),
        };
        assert_eq!(messages.split_off(0), [to(A), to(B)]);
        board.looked(now, now, "logs", Err("no disk".to_owned()), &mut messages);
        let trouble = json!({ "section": "logs", "trouble": "no disk" });
        assert_eq!(
            messages,
            [Message {
                viewer: B,
                news: trouble
            }]
        );
    }

    #[test]
    fn dear_looks_are_rare() {
        let (mut board, now, mut messages) = (Board::default(), Instant::now(), Vec::new());
        board.viewer_came(A, &names(&["tasks", "jobs"]), &mut messages);
        board.looked(now, now, "jobs", Ok(rows(&[])), &mut messages);
        assert_eq!(board.due(now), Some("tasks"), "the other was never looked at");
        let later = now + Duration::from_millis(200);
        board.looked(now, later, "tasks", Ok(rows(&[])), &mut messages);
        assert_eq!(board.due(later), None);
        assert_eq!(board.next_deadline(later), Some(now + PAUSE));
        assert_eq!(board.due(now + PAUSE), Some("jobs"));
        board.viewer_left(A);
        board.viewer_came(B, &names(&["tasks"]), &mut messages);
        board.looked(now, later, "tasks", Ok(rows(&[])), &mut messages);
        assert_eq!(
            board.next_deadline(later),
            Some(later + Duration::from_millis(200) * SHARE)
        );
        board.looked(
            now,
            now + Duration::from_secs(20),
            "tasks",
            Ok(rows(&[])),
            &mut messages,
        );
        let soon = now + Duration::from_secs(20) + LONGEST_PAUSE;
        assert_eq!(board.next_deadline(later), Some(soon));
    }

    mod random {
        use proptest::prelude::*;

        use super::*;

        #[derive(Debug, Clone)]
        enum Step {
            Came(u64, BTreeSet<String>),
            Left(u64),
            Looked(&'static str, Vec<(u8, u8)>),
        }

        const SECTIONS: [&str; 3] = ["jobs", "logs", "tasks"];

        fn step() -> impl Strategy<Value = Step> {
            let section = || prop::sample::select(SECTIONS.to_vec());
            prop_oneof![
                (
                    0..4u64,
                    prop::collection::btree_set(section().prop_map(str::to_owned), 1..3)
                )
                    .prop_map(|(viewer, wants)| Step::Came(viewer, wants)),
                (0..4u64).prop_map(Step::Left),
                (section(), prop::collection::vec((0..4u8, 0..3u8), 0..5))
                    .prop_map(|(section, rows)| Step::Looked(section, rows)),
            ]
        }

        proptest! {
            #[test]
            fn who_applies_what_it_is_sent_knows_the_last_look(steps in prop::collection::vec(step(), 1..60)) {
                let (mut board, now) = (Board::default(), Instant::now());
                let mut wants: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
                let mut last: BTreeMap<&str, Rows> = BTreeMap::new();
                let mut known: BTreeMap<(u64, String), Rows> = BTreeMap::new();
                for step in steps {
                    let mut messages = Vec::new();
                    match step {
                        Step::Came(viewer, wanted) => {
                            if wants.contains_key(&viewer) {
                                continue;
                            }
                            board.viewer_came(ViewerId(viewer), &wanted, &mut messages);
                            wants.insert(viewer, wanted);
                        }
                        Step::Left(viewer) => {
                            board.viewer_left(ViewerId(viewer));
                            wants.remove(&viewer);
                            known.retain(|(of, _), _| *of != viewer);
                        }
                        Step::Looked(section, found) => {
                            let rows: Rows = found.iter().map(|(key, row)| (key.to_string(), json!(row))).collect();
                            let is_wanted = wants.values().any(|wanted| wanted.contains(section));
                            board.looked(now, now, section, Ok(rows.clone()), &mut messages);
                            if is_wanted {
                                last.insert(section, rows);
                            }
                        }
                    }
                    for section in SECTIONS {
                        if !wants.values().any(|wanted| wanted.contains(section)) {
                            last.remove(section);
                        }
                    }
                    for message in messages {
                        let name = message.news["section"].as_str().expect("a name").to_owned();
                        prop_assert!(wants[&message.viewer.0].contains(&name));
                        let rows = known.entry((message.viewer.0, name)).or_default();
                        if message.news["all"] == json!(true) {
                            rows.clear();
                        }
                        for key in message.news["gone"].as_array().expect("keys") {
                            prop_assert!(rows.remove(key.as_str().expect("a key")).is_some());
                        }
                        rows.extend(message.news["set"].as_object().expect("rows").clone());
                    }
                    board.check_invariants();
                    for (viewer, wanted) in &wants {
                        for section in wanted {
                            prop_assert_eq!(known.get(&(*viewer, section.clone())), last.get(&**section));
                        }
                    }
                }
            }
        }
    }
}
