//! The objects that left memory, the files they lie in, and the copies that were brought back.
//!
//! * `SPL-1` an object is in the table from the moment its block is set aside until its owner lets it go, or until its
//!   block is put back into use;
//! * `SPL-2` a file exists as long as an object of it does; `live` counts them;
//! * `SPL-3` memory is given up only after the bytes are on disk, and a file is removed only when no one reads it.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::Key;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// Where the bytes of an object are in memory now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    pub len: u64,
    pub generation: u64,
}

/// One object of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub key: Key,
    pub len: u64,
    /// As in the block's header: with the end of that process the object is nobody's. 0: it stays whoever ends.
    pub owner: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Set aside; the bytes are still where they were.
    Writing {
        wanted: bool,
    },
    OnDisk,
    /// On its way back.
    Reading,
    /// What was read was not what was written, or nothing could be read.
    Lost,
    /// Also in memory. `used`: whoever had it brought back has it.
    Back {
        place: Place,
        used: bool,
    },
}

#[derive(Debug)]
struct Entry {
    owner: u64,
    file: FileId,
    /// Where in the file it starts.
    at: u64,
    len: u64,
    checksum: u32,
    state: State,
    /// Let go while it was being moved.
    unwanted: bool,
}

#[derive(Debug, Default)]
struct File {
    bytes: u64,
    live: usize,
}

/// What is to be done about memory and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The block that the object was made in is no longer needed.
    ReleaseBlock(Key),
    /// The block is in use again.
    KeepBlock(Key),
    FreePlace(Place),
    RemoveFile(FileId),
}

/// Where an object is that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Not in the table: in its block, or nowhere.
    Unknown,
    /// On its way to disk or back; ask again when that is done.
    Moving,
    OnDisk {
        len: u64,
    },
    Back(Place),
    /// It could not be read back.
    Lost,
}

/// What to read to bring an object back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub file: FileId,
    pub at: u64,
    pub len: u64,
    pub checksum: u32,
}

/// Sums for people and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpillStats {
    pub objects: u64,
    /// Of objects whose bytes are on disk.
    pub disk_bytes: u64,
    pub files: u64,
    /// Since the start.
    pub spilled_objects: u64,
    pub spilled_bytes: u64,
    pub restored_objects: u64,
    pub restored_bytes: u64,
}

#[derive(Debug, Default)]
pub struct SpillTable {
    entries: FxHashMap<Key, Entry>,
    files: BTreeMap<FileId, File>,
    /// Objects that are back, by the offset of their place.
    places: FxHashMap<u64, Key>,
    next_file: u64,
    totals: SpillStats,
}

impl SpillTable {
    // ---- to disk -----------------------------------------------------------------------------------------------

    /// The blocks of `parts` were set aside, and are about to be written to one file in this order.
    pub fn begin(&mut self, parts: &[Part]) -> FileId {
        self.next_file += 1;
        let file = FileId(self.next_file);
        let mut at = 0;
        for part in parts {
            let entry = Entry {
                owner: part.owner,
                file,
                at,
                len: part.len,
                checksum: 0,
                state: State::Writing { wanted: false },
                unwanted: false,
            };
            at += part.len;
            let before = self.entries.insert(part.key, entry);
            assert!(before.is_none(), "SPL-1: an object leaves once");
        }
        self.files.insert(
            file,
            File {
                bytes: at,
                live: parts.len(),
            },
        );
        file
    }

    /// The file is written; `checksums` in the order of its parts.
    pub fn written(&mut self, file: FileId, parts: &[Part], checksums: &[u32], orders: &mut Vec<Order>) {
        for (part, checksum) in parts.iter().zip(checksums) {
            let Some(entry) = self.entries.get_mut(&part.key) else {
                continue;
            };
            let State::Writing { wanted } = entry.state else {
                continue;
            };
            entry.checksum = *checksum;
            if entry.unwanted {
                orders.push(Order::ReleaseBlock(part.key));
                self.remove(part.key, orders);
            } else if wanted {
                // Somebody asked for it meanwhile, and here it is.
                orders.push(Order::KeepBlock(part.key));
                self.remove(part.key, orders);
            } else {
                entry.state = State::OnDisk;
                self.totals.spilled_objects += 1;
                self.totals.spilled_bytes += part.len;
                orders.push(Order::ReleaseBlock(part.key));
            }
        }
        debug_assert!(self.files.get(&file).is_none_or(|file| file.live > 0), "SPL-2");
    }

    /// The file could not be written: everything is in memory as before.
    pub fn not_written(&mut self, parts: &[Part], orders: &mut Vec<Order>) {
        for part in parts {
            let Some(entry) = self.entries.get(&part.key) else {
                continue;
            };
            orders.push(if entry.unwanted {
                Order::ReleaseBlock(part.key)
            } else {
                Order::KeepBlock(part.key)
            });
            self.remove(part.key, orders);
        }
    }

    // ---- back --------------------------------------------------------------------------------------------------

    /// Somebody asks for the object.
    pub fn find(&mut self, key: Key) -> Found {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Found::Unknown;
        };
        if entry.unwanted {
            return Found::Unknown;
        }
        match &mut entry.state {
            State::Writing { wanted } => {
                *wanted = true;
                Found::Moving
            }
            State::OnDisk => Found::OnDisk { len: entry.len },
            State::Reading => Found::Moving,
            State::Back { place, .. } => Found::Back(*place),
            State::Lost => Found::Lost,
        }
    }

    /// There is room for the object, and it is to be read; `None` unless it is on disk alone.
    pub fn begin_reading(&mut self, key: Key) -> Option<Reading> {
        let entry = self.entries.get_mut(&key)?;
        if entry.state != State::OnDisk {
            return None;
        }
        entry.state = State::Reading;
        Some(Reading {
            file: entry.file,
            at: entry.at,
            len: entry.len,
            checksum: entry.checksum,
        })
    }

    /// It was read to `place`.
    pub fn read(&mut self, key: Key, place: Place, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return orders.push(Order::FreePlace(place));
        };
        if entry.unwanted {
            orders.push(Order::FreePlace(place));
            return self.remove(key, orders);
        }
        self.totals.restored_objects += 1;
        self.totals.restored_bytes += entry.len;
        entry.state = State::Back { place, used: false };
        self.places.insert(place.offset, key);
    }

    /// It could not be read. `lost`: what was read was not what was written, or the file is gone.
    pub fn not_read(&mut self, key: Key, lost: bool, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.unwanted {
            self.remove(key, orders);
        } else {
            entry.state = if lost { State::Lost } else { State::OnDisk };
        }
    }

    /// It was read to memory outside the arena, for one reader.
    pub fn lent(&mut self, key: Key, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        self.totals.restored_objects += 1;
        self.totals.restored_bytes += entry.len;
        if entry.unwanted {
            self.remove(key, orders);
        } else {
            entry.state = State::OnDisk;
        }
    }

    /// Whoever had it brought back has it: from here on it goes first when room is needed.
    pub fn used(&mut self, key: Key) {
        if let Some(Entry {
            state: State::Back { used, .. },
            ..
        }) = self.entries.get_mut(&key)
        {
            *used = true;
        }
    }

    /// The object whose copy was brought back to `offset`, and whether that copy was used.
    pub fn at_place(&self, offset: u64) -> Option<(Key, bool)> {
        let key = *self.places.get(&offset)?;
        match self.entries.get(&key)?.state {
            State::Back { used, .. } => Some((key, used)),
            State::Writing { .. } | State::OnDisk | State::Reading | State::Lost => None,
        }
    }

    /// The copy that was brought back is no longer in memory.
    pub fn evicted(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key)
            && let State::Back { place, .. } = entry.state
        {
            self.places.remove(&place.offset);
            entry.state = State::OnDisk;
        }
    }

    // ---- owners ------------------------------------------------------------------------------------------------

    /// Its owner lets it go. False when it is not in the table.
    pub fn freed(&mut self, key: Key, orders: &mut Vec<Order>) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            return false;
        };
        match entry.state {
            State::Writing { .. } | State::Reading => entry.unwanted = true,
            State::OnDisk | State::Lost => self.remove(key, orders),
            State::Back { place, .. } => {
                orders.push(Order::FreePlace(place));
                self.remove(key, orders);
            }
        }
        true
    }

    /// From here on another process counts the references to it.
    pub fn owner_changed(&mut self, key: Key, owner: u64) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.owner = owner;
        }
    }

    pub fn owner_died(&mut self, owner: u64, orders: &mut Vec<Order>) {
        self.owners_died(|dead| dead == owner, orders);
    }

    /// The same for several.
    pub fn owners_died(&mut self, are_dead: impl Fn(u64) -> bool, orders: &mut Vec<Order>) {
        let its = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.owner != 0 && are_dead(entry.owner));
        let mut keys: Vec<Key> = its.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        for key in keys {
            self.freed(key, orders);
        }
    }

    fn remove(&mut self, key: Key, orders: &mut Vec<Order>) {
        let Some(entry) = self.entries.remove(&key) else { return };
        if let State::Back { place, .. } = entry.state {
            self.places.remove(&place.offset);
        }
        let file = self
            .files
            .get_mut(&entry.file)
            .expect("SPL-2: a file outlives its objects");
        file.live -= 1;
        if file.live == 0 {
            self.files.remove(&entry.file);
            orders.push(Order::RemoveFile(entry.file));
        }
    }

    // ---- questions ---------------------------------------------------------------------------------------------

    /// Objects and bytes that were written, since the start.
    pub fn spilled_ever(&self) -> (u64, u64) {
        (self.totals.spilled_objects, self.totals.spilled_bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every object on disk: name, owner, length, and where it was brought back to, if it was.
    pub fn on_disk(&self) -> impl Iterator<Item = (Key, u64, u64, Option<Place>)> {
        self.entries.iter().filter_map(|(key, entry)| {
            let place = match entry.state {
                State::Writing { .. } => return None,
                State::Back { place, .. } => Some(place),
                State::OnDisk | State::Reading | State::Lost => None,
            };
            Some((*key, entry.owner, entry.len, place))
        })
    }

    pub fn stats(&self) -> SpillStats {
        let on_disk = self
            .entries
            .values()
            .filter(|entry| !matches!(entry.state, State::Writing { .. }));
        SpillStats {
            objects: self.entries.len() as u64,
            disk_bytes: on_disk.map(|entry| entry.len).sum(),
            files: self.files.len() as u64,
            ..self.totals
        }
    }

    /// Recounts everything that is kept twice.
    ///
    /// # Panics
    /// Naming the invariant that is broken.
    pub fn check_invariants(&self) {
        let mut live: BTreeMap<FileId, (usize, u64)> = BTreeMap::new();
        let mut back = 0;
        for (key, entry) in &self.entries {
            let file = live.entry(entry.file).or_default();
            file.0 += 1;
            file.1 = file.1.max(entry.at + entry.len);
            if let State::Back { place, .. } = entry.state {
                back += 1;
                assert_eq!(self.places.get(&place.offset), Some(key), "SPL-1");
            }
            let moves = matches!(entry.state, State::Writing { .. } | State::Reading);
            assert!(moves || !entry.unwanted, "SPL-1: only what moves waits for its end");
        }
        assert_eq!(back, self.places.len(), "SPL-1");
        assert_eq!(live.len(), self.files.len(), "SPL-2");
        for (file, (count, end)) in live {
            let known = self.files.get(&file).expect("SPL-2");
            assert_eq!(known.live, count, "SPL-2");
            assert!(end <= known.bytes, "SPL-2");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn part(number: u64, owner: u64) -> Part {
        Part {
            key: Key {
                offset: number * 100,
                generation: number,
            },
            len: 10,
            owner,
        }
    }

    fn place(number: u64) -> Place {
        Place {
            offset: 1_000_000 + number,
            len: 10,
            generation: 7,
        }
    }

    fn spilled(table: &mut SpillTable, parts: &[Part]) -> (FileId, Vec<Order>) {
        let mut orders = Vec::new();
        let file = table.begin(parts);
        table.written(file, parts, &vec![5; parts.len()], &mut orders);
        table.check_invariants();
        (file, orders)
    }

    #[test]
    fn there_and_back_and_gone() {
        let mut table = SpillTable::default();
        let parts = [part(1, 9), part(2, 9)];
        let (file, mut orders) = spilled(&mut table, &parts);
        assert_eq!(orders, parts.map(|part| Order::ReleaseBlock(part.key)));
        assert_eq!(table.find(parts[1].key), Found::OnDisk { len: 10 });
        let reading = table.begin_reading(parts[1].key).expect("on disk");
        assert_eq!(
            (reading.file, reading.at, reading.len, reading.checksum),
            (file, 10, 10, 5)
        );
        assert_eq!(table.find(parts[1].key), Found::Moving);
        orders.clear();
        table.read(parts[1].key, place(3), &mut orders);
        table.check_invariants();
        assert_eq!((table.find(parts[1].key), orders.len()), (Found::Back(place(3)), 0));
        assert_eq!(table.at_place(place(3).offset), Some((parts[1].key, false)));
        table.used(parts[1].key);
        assert_eq!(table.at_place(place(3).offset), Some((parts[1].key, true)));
        table.evicted(parts[1].key);
        assert_eq!(table.find(parts[1].key), Found::OnDisk { len: 10 });
        assert!(table.freed(parts[0].key, &mut orders) && orders.is_empty());
        assert!(table.freed(parts[1].key, &mut orders));
        assert_eq!(orders, [Order::RemoveFile(file)]);
        assert!(table.is_empty() && !table.freed(parts[1].key, &mut orders));
        table.check_invariants();
    }

    #[test]
    fn who_asks_in_time_finds_it_in_memory() {
        let mut table = SpillTable::default();
        let parts = [part(1, 9)];
        let file = table.begin(&parts);
        assert_eq!(table.find(parts[0].key), Found::Moving);
        let mut orders = Vec::new();
        table.written(file, &parts, &[5], &mut orders);
        assert_eq!(orders, [Order::KeepBlock(parts[0].key), Order::RemoveFile(file)]);
        assert_eq!(table.find(parts[0].key), Found::Unknown);
    }

    #[test]
    fn a_full_disk_leaves_everything_in_memory() {
        let mut table = SpillTable::default();
        let parts = [part(1, 9), part(2, 9)];
        let file = table.begin(&parts);
        let mut orders = Vec::new();
        table.freed(parts[1].key, &mut orders);
        table.not_written(&parts, &mut orders);
        assert_eq!(
            orders,
            [
                Order::KeepBlock(parts[0].key),
                Order::ReleaseBlock(parts[1].key),
                Order::RemoveFile(file)
            ]
        );
        table.check_invariants();
    }

    #[test]
    fn objects_end_with_their_owner() {
        let mut table = SpillTable::default();
        let parts = [part(1, 9), part(2, 8), part(3, 0)];
        let (file, _) = spilled(&mut table, &parts);
        table.owner_changed(parts[1].key, 9);
        let mut orders = Vec::new();
        table.owner_died(9, &mut orders);
        table.owner_died(0, &mut orders);
        assert_eq!(orders, []);
        assert_eq!(table.find(parts[0].key), Found::Unknown);
        assert_eq!(table.find(parts[2].key), Found::OnDisk { len: 10 });
        table.freed(parts[2].key, &mut orders);
        assert_eq!(orders, [Order::RemoveFile(file)]);
    }

    #[test]
    fn what_cannot_be_read_back_is_lost_until_its_owner_lets_it_go() {
        let mut table = SpillTable::default();
        let parts = [part(1, 9)];
        let (file, mut orders) = spilled(&mut table, &parts);
        orders.clear();
        assert!(table.begin_reading(parts[0].key).is_some() && table.begin_reading(parts[0].key).is_none());
        table.not_read(parts[0].key, false, &mut orders);
        assert_eq!((table.find(parts[0].key), orders.len()), (Found::OnDisk { len: 10 }, 0));
        table.begin_reading(parts[0].key);
        table.not_read(parts[0].key, true, &mut orders);
        assert_eq!((table.find(parts[0].key), orders.len()), (Found::Lost, 0));
        assert!(table.begin_reading(parts[0].key).is_none());
        table.freed(parts[0].key, &mut orders);
        assert_eq!(orders, [Order::RemoveFile(file)]);
    }

    /// Where an object is, as a bystander would tell it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Naive {
        Memory,
        Leaving,
        Disk,
        Coming,
        Both,
        Gone,
    }

    proptest! {
        /// Whatever happens in whatever order: memory and files are given up exactly when nothing needs them.
        #[test]
        fn nothing_is_lost_and_nothing_stays(steps in prop::collection::vec((0u8..10, 0usize..6), 1..120)) {
            let mut table = SpillTable::default();
            let mut naive = [Naive::Memory; 6];
            let mut unwanted = [false; 6];
            let parts: Vec<Part> = (0..6).map(|number| part(number + 1, number % 2 + 1)).collect();
            let mut writing: Vec<(FileId, Vec<usize>)> = Vec::new();
            let mut files: BTreeSet<FileId> = BTreeSet::new();
            for (step, at) in steps {
                let mut orders = Vec::new();
                let key = parts[at].key;
                match step {
                    0 | 1 => {
                        // Everything in memory from here on leaves in one file.
                        let chosen: Vec<usize> = (at..6).filter(|index| naive[*index] == Naive::Memory).take(3).collect();
                        if !chosen.is_empty() {
                            let file = table.begin(&chosen.iter().map(|index| parts[*index]).collect::<Vec<_>>());
                            files.insert(file);
                            chosen.iter().for_each(|index| naive[*index] = Naive::Leaving);
                            writing.push((file, chosen));
                        }
                    }
                    2 | 3 => if let Some((file, chosen)) = writing.pop() {
                        let its: Vec<Part> = chosen.iter().map(|index| parts[*index]).collect();
                        if step == 2 {
                            table.written(file, &its, &vec![1; its.len()], &mut orders);
                        } else {
                            table.not_written(&its, &mut orders);
                        }
                        for index in chosen {
                            let kept = orders.contains(&Order::KeepBlock(parts[index].key));
                            let released = orders.contains(&Order::ReleaseBlock(parts[index].key));
                            prop_assert!(kept != released);
                            naive[index] = match (kept, unwanted[index]) {
                                (true, _) => Naive::Memory,
                                (false, true) => Naive::Gone,
                                (false, false) => { prop_assert_eq!(step, 2); Naive::Disk }
                            };
                        }
                    },
                    4 => if table.begin_reading(key).is_some() {
                        prop_assert_eq!(naive[at], Naive::Disk);
                        naive[at] = Naive::Coming;
                    },
                    5 => if naive[at] == Naive::Coming {
                        table.read(key, place(at as u64), &mut orders);
                        prop_assert_eq!(orders.contains(&Order::FreePlace(place(at as u64))), unwanted[at]);
                        naive[at] = if unwanted[at] { Naive::Gone } else { Naive::Both };
                    },
                    6 => if naive[at] == Naive::Coming {
                        table.not_read(key, false, &mut orders);
                        naive[at] = if unwanted[at] { Naive::Gone } else { Naive::Disk };
                    },
                    8 => if naive[at] == Naive::Coming {
                        table.lent(key, &mut orders);
                        naive[at] = if unwanted[at] { Naive::Gone } else { Naive::Disk };
                    },
                    7 => if naive[at] == Naive::Both {
                        table.evicted(key);
                        naive[at] = Naive::Disk;
                    },
                    _ => {
                        let known = table.freed(key, &mut orders);
                        prop_assert_eq!(known, !matches!(naive[at], Naive::Memory | Naive::Gone));
                        prop_assert_eq!(orders.contains(&Order::FreePlace(place(at as u64))), naive[at] == Naive::Both);
                        match naive[at] {
                            Naive::Leaving | Naive::Coming => unwanted[at] = true,
                            Naive::Memory | Naive::Disk | Naive::Both | Naive::Gone => naive[at] = Naive::Gone,
                        }
                    }
                }
                for order in orders {
                    if let Order::RemoveFile(file) = order {
                        prop_assert!(files.remove(&file), "removed once");
                    }
                }
                table.check_invariants();
                let found = table.find(key);
                // Asking is an event of its own: what leaves and was asked for stays.
                let expected = match (naive[at], unwanted[at]) {
                    (Naive::Memory | Naive::Gone, _) | (_, true) => Found::Unknown,
                    (Naive::Leaving | Naive::Coming, _) => Found::Moving,
                    (Naive::Disk, _) => Found::OnDisk { len: 10 },
                    (Naive::Both, _) => Found::Back(place(at as u64)),
                };
                prop_assert_eq!(found, expected);
                let needed: BTreeSet<FileId> = table.entries.values().map(|entry| entry.file).collect();
                prop_assert_eq!(&files, &needed);
            }
        }
    }
}
