//! Lines of the program that made objects, each kept once.

use std::fmt::Write as _;
use std::sync::Arc;

use ray_rs_ownership::RefSlot;
use ray_rs_types::ObjectId;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::core::{CoreWorker, Interrupt};
use crate::state::State;

/// Numbered from 1. A program has a bounded number of lines, so nothing is ever forgotten; generated code that has not is
/// cut off here.
#[derive(Default)]
pub(crate) struct Sites {
    numbers: FxHashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

const MOST: usize = 100_000;
/// `StoredObject.place`.
const SPILLED: u32 = 1;

fn is_put(object_id: &[u8]) -> bool {
    ObjectId::from_bytes(object_id).is_ok_and(|id| id.index() >= ObjectId::FIRST_PUT_INDEX)
}

impl Sites {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() >= MOST {
            return 0;
        }
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        let number = self.names.len() as u32;
        self.numbers.insert(name, number);
        number
    }

    /// Empty: not noted.
    pub fn name(&self, number: u32) -> &str {
        let at = (number as usize).checked_sub(1);
        at.and_then(|at| self.names.get(at)).map_or("", |name| name)
    }
}

impl State {
    pub fn made_at(&mut self, slots: &[RefSlot], site: &str) {
        let number = self.sites.number(site);
        slots.iter().for_each(|slot| self.owner.made_at(*slot, number));
    }
}

/// Lines that an error names.
const NAMED: usize = 3;
/// The part of a description with references.
const OBJECTS: u32 = 2;

impl CoreWorker {
    /// The lines of programs whose objects take the most of the store's memory: a sentence for an error, which is nothing
    /// when nobody can be asked.
    pub(crate) fn largest_holders(&self, interrupt: Interrupt<'_>) -> String {
        let Ok(listed) = self.list_objects(interrupt) else {
            return String::new();
        };
        let Ok(said) = self.descriptions(OBJECTS, 0, Vec::new(), interrupt) else {
            return String::new();
        };
        let in_memory: FxHashSet<(u64, u64)> = (listed.objects.iter())
            .filter(|stored| stored.place != SPILLED)
            .filter_map(|stored| stored.object.map(|name| (name.offset, name.generation)))
            .collect();
        let mut lines: FxHashMap<(String, u32), (u64, u64)> = FxHashMap::default();
        for process in &said.processes {
            let pid = process.process.as_ref().map_or(0, |address| address.pid);
            let owned = process
                .objects
                .iter()
                .filter(|row| row.owner.is_none() && row.place == 3);
            for row in owned.filter(|row| in_memory.contains(&(row.offset, row.generation))) {
                let site = match (row.site.is_empty(), is_put(&row.object_id)) {
                    (false, _) => format!("made at {}", row.site),
                    (true, true) => "put somewhere".to_owned(),
                    (true, false) => "returned by tasks".to_owned(),
                };
                let (count, bytes) = lines.entry((site, pid)).or_default();
                *count += 1;
                *bytes += row.size;
            }
        }
        let mut lines: Vec<_> = lines.into_iter().collect();
        lines.sort_by(|(one, (_, bytes)), (other, (_, more))| (more, one).cmp(&(bytes, other)));
        let mut text = String::new();
        for (index, ((site, pid), (count, bytes))) in lines.into_iter().take(NAMED).enumerate() {
            let objects = if count == 1 { "object" } else { "objects" };
            let begin = if index == 0 {
                " Who made most of what is there: "
            } else {
                "; "
            };
            let mib = bytes as f64 / 1024.0 / 1024.0;
            let _ = write!(text, "{begin}{mib:.1} MiB in {count} {objects} of pid {pid}, {site}");
        }
        if !text.is_empty() {
            text.push('.');
        }
        text
    }

    /// Notes the line of the program ("file.py:12") that made these objects.
    pub fn made_at(&self, slots: &[RefSlot], site: &str) {
        self.with(|state| state.made_at(slots, site));
    }

    /// The line that made it; empty: not noted, or not known here.
    pub fn site(&self, slot: RefSlot) -> String {
        let state = self.state.lock();
        let number = state.owner.object(slot).map_or(0, |object| object.site);
        state.sites.name(number).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_number_for_ever() {
        let mut sites = Sites::default();
        assert_eq!(
            (sites.number("a.py:1"), sites.number("a.py:2"), sites.number("a.py:1")),
            (1, 2, 1)
        );
        assert_eq!((sites.name(2), sites.name(0), sites.name(9)), ("a.py:2", "", ""));
    }
}
