//! How one pickled value lies in a block: a header, the pickle stream, then the out-of-band buffers, each 64-byte
//! aligned so that numpy and friends can use them in place.
//!
//! ```text
//! u32 magic | u32 buffers | u64 pickle_len | buffers x (u64 offset, u64 len) | pickle | pad | buffer 0 | pad | ...
//! ```
//! Little endian; offsets count from the start of the value. The reader trusts nothing: every range is checked.

use std::ops::Range;

/// Start of every stored value.
pub const MAGIC: u32 = 0x5652_4159;
/// Buffers start at multiples of this.
pub const BUFFER_ALIGN: u64 = 64;
const FIXED_HEADER: u64 = 16;
const ENTRY: u64 = 16;

/// Where each part of a value will lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of the whole value.
    pub total: u64,
    /// Where the pickle stream goes.
    pub pickle: Range<usize>,
    /// Where each buffer starts.
    pub offsets: Vec<u64>,
    lens: Vec<u64>,
}

impl Plan {
    /// Where buffer `index` goes.
    pub fn buffer(&self, index: usize) -> Range<usize> {
        let start = self.offsets[index] as usize;
        start..start + self.lens[index] as usize
    }
}

/// The parts of a stored value, as ranges of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub pickle: Range<usize>,
    pub buffers: Vec<Range<usize>>,
}

/// The bytes are no stored value.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("these bytes are no stored value: {0}")]
pub struct BadLayout(pub &'static str);

/// Lays out a pickle of `pickle_len` bytes and buffers of the given lengths.
pub fn plan(pickle_len: u64, buffer_lens: &[u64]) -> Plan {
    let pickle_start = FIXED_HEADER + ENTRY * buffer_lens.len() as u64;
    let mut end = pickle_start + pickle_len;
    let mut offsets = Vec::with_capacity(buffer_lens.len());
    for len in buffer_lens {
        let start = end.next_multiple_of(BUFFER_ALIGN);
        offsets.push(start);
        end = start + len;
    }
    Plan {
        total: end,
        pickle: pickle_start as usize..(pickle_start + pickle_len) as usize,
        offsets,
        lens: buffer_lens.to_vec(),
    }
}

/// Lays out a pickle in front of the one buffer that lies at `offset` already; `None` when there is no room for it.
pub fn plan_in_front(pickle_len: u64, offset: u64, len: u64) -> Option<Plan> {
    let start = FIXED_HEADER + ENTRY;
    let fits = start.checked_add(pickle_len)? <= offset && offset.is_multiple_of(BUFFER_ALIGN);
    fits.then(|| Plan {
        total: offset + len,
        pickle: start as usize..(start + pickle_len) as usize,
        offsets: vec![offset],
        lens: vec![len],
    })
}

/// Writes the header to the start of `into`, which must hold the whole planned value.
///
/// # Panics
/// When `into` is shorter than the plan.
pub fn write_header(plan: &Plan, into: &mut [u8]) {
    assert!(into.len() as u64 >= plan.total, "the block holds the planned value");
    into[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    into[4..8].copy_from_slice(&(plan.lens.len() as u32).to_le_bytes());
    into[8..16].copy_from_slice(&(plan.pickle.len() as u64).to_le_bytes());
    let entries = into[FIXED_HEADER as usize..plan.pickle.start].chunks_exact_mut(ENTRY as usize);
    for (entry, (offset, len)) in entries.zip(plan.offsets.iter().zip(&plan.lens)) {
        entry[..8].copy_from_slice(&offset.to_le_bytes());
        entry[8..].copy_from_slice(&len.to_le_bytes());
    }
}

/// Finds the parts of a stored value.
///
/// # Errors
/// [`BadLayout`] when the bytes don't start with a header, or the header names bytes that are not there.
pub fn parse(bytes: &[u8]) -> Result<Parsed, BadLayout> {
    let word = |at: usize| -> Result<u64, BadLayout> {
        let word = bytes.get(at..at + 8).ok_or(BadLayout("it ends inside its header"))?;
        Ok(u64::from_le_bytes(word.try_into().expect("eight bytes")))
    };
    let first = word(0)?;
    if first as u32 != MAGIC {
        return Err(BadLayout("its first bytes are not those of a value"));
    }
    let count = (first >> 32) as usize;
    let range = |start: u64, len: u64, what: &'static str| -> Result<Range<usize>, BadLayout> {
        let end = start
            .checked_add(len)
            .filter(|end| *end <= bytes.len() as u64)
            .ok_or(BadLayout(what))?;
        Ok(start as usize..end as usize)
    };
    let pickle_start = FIXED_HEADER + ENTRY * count as u64;
    let pickle = range(pickle_start, word(8)?, "its pickle is longer than the value")?;
    // The check above bounds `count` by the length of `bytes`.
    let mut buffers = Vec::with_capacity(count);
    for index in 0..count {
        let entry = (FIXED_HEADER + ENTRY * index as u64) as usize;
        let (start, len) = (word(entry)?, word(entry + 8)?);
        if start < pickle.end as u64 || !start.is_multiple_of(BUFFER_ALIGN) {
            return Err(BadLayout("a buffer starts where none can"));
        }
        buffers.push(range(start, len, "a buffer is longer than the value")?);
    }
    Ok(Parsed { pickle, buffers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_value_is_its_header() {
        let plan = plan(0, &[]);
        let mut bytes = vec![0; plan.total as usize];
        write_header(&plan, &mut bytes);
        assert_eq!(
            parse(&bytes),
            Ok(Parsed {
                pickle: 16..16,
                buffers: vec![]
            })
        );
    }

    #[test]
    fn a_pickle_in_front_of_its_buffer_is_parsed() {
        let plan = plan_in_front(100, 4096, 1000).expect("there is room");
        let mut bytes = vec![0; plan.total as usize];
        write_header(&plan, &mut bytes);
        let parsed = parse(&bytes).expect("a planned value parses");
        assert_eq!(parsed.pickle, 32..132);
        assert_eq!(parsed.buffers.len(), 1);
        assert_eq!(parsed.buffers[0], 4096..5096);
        assert!(plan_in_front(4064, 4096, 1).is_some());
        assert_eq!(plan_in_front(4065, 4096, 1), None);
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let plan = plan(10, &[100]);
        let mut good = vec![0; plan.total as usize];
        write_header(&plan, &mut good);
        assert!(parse(&good[..good.len() - 1]).is_err());
        assert!(parse(&good[..7]).is_err());
        assert!(parse(b"not a value at all, surely").is_err());
        for (at, byte) in [(4, 255), (7, 255), (15, 255), (23, 255), (31, 255), (16, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(parse(&bad).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_planned_is_parsed(pickle in 0u64..500, lens in prop::collection::vec(0u64..300, 0..12)) {
            let plan = plan(pickle, &lens);
            let mut bytes = vec![0; plan.total as usize];
            write_header(&plan, &mut bytes);
            let parsed = parse(&bytes).expect("a planned value parses");
            prop_assert_eq!(&parsed.pickle, &plan.pickle);
            for (index, range) in parsed.buffers.iter().enumerate() {
                prop_assert_eq!(range, &plan.buffer(index));
                prop_assert_eq!(range.start % 64, 0);
                prop_assert!(range.start >= plan.pickle.end);
            }
            prop_assert_eq!(parsed.buffers.len(), lens.len());
        }

        #[test]
        fn parsing_any_bytes_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool, few: bool) {
            if magic && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
                if few { bytes[5..8].fill(0); }
            }
            if let Ok(parsed) = parse(&bytes) {
                for range in parsed.buffers.iter().chain([&parsed.pickle]) {
                    prop_assert!(range.end <= bytes.len());
                }
            }
        }
    }
}
