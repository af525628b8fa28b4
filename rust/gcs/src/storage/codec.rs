//! A batch as bytes: what intents and journals are made of.

use bytes::Bytes;

use super::{Table, Write};

/// Of each write: table, length of the key, key, and a 0, or a 1, length of the value, value. Lengths are four bytes.
pub(super) fn encode(batch: &[Write]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_to(batch, &mut bytes);
    bytes
}

/// The same, behind what is in `bytes` already.
pub(super) fn encode_to(batch: &[Write], bytes: &mut Vec<u8>) {
    let with_length = |bytes: &mut Vec<u8>, data: &[u8]| {
        let length = u32::try_from(data.len()).expect("records are smaller than a message");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(data);
    };
    for write in batch {
        bytes.push(write.table as u8);
        with_length(bytes, &write.key);
        bytes.push(u8::from(write.value.is_some()));
        if let Some(value) = &write.value {
            with_length(bytes, value);
        }
    }
}

/// `None`: nonsense, which only another version or a broken disk can have written.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Write>> {
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, left) = rest.split_at_checked(count)?;
        *rest = left;
        Some(taken)
    }
    fn with_length<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
        take(rest, length as usize)
    }
    let mut rest = bytes;
    let mut batch = Vec::new();
    while !rest.is_empty() {
        let table = Table::of(take(&mut rest, 1)?[0])?;
        let key = with_length(&mut rest)?.to_vec();
        let value = match take(&mut rest, 1)?[0] {
            0 => None,
            1 => Some(Bytes::copy_from_slice(with_length(&mut rest)?)),
            _ => return None,
        };
        batch.push(Write { table, key, value });
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(key: &[u8], value: Option<&[u8]>) -> Write {
        Write {
            table: Table::KeyValue,
            key: key.to_vec(),
            value: value.map(Bytes::copy_from_slice),
        }
    }

    proptest! {
        #[test]
        fn batches_are_read_as_they_were_written(
            writes in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..9),
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..99))), 0..9)
        ) {
            let batch: Vec<Write> = writes.iter().map(|(key, value)| write(key, value.as_deref())).collect();
            prop_assert_eq!(decode(&encode(&batch)), Some(batch));
        }

        #[test]
        fn whatever_is_found_is_a_batch_or_nonsense(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(batch) = decode(&bytes) {
                prop_assert_eq!(encode(&batch), bytes);
            }
        }
    }
}
