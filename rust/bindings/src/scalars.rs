//! Pickle without the pickler, for the values that most calls carry: `None`, `bool`, `int`, `float`, short `str`, and
//! one flat tuple of these. What is written is an ordinary pickle, and what is read too: anything else in a stream, and
//! the C unpickler takes over. Setting up a C pickler costs more than such a value does.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyNone, PyString, PyTuple};
use smallvec::SmallVec;

/// Longest tuple and longest text that are handled here.
const MOST_ITEMS: usize = 8;
const LONGEST_TEXT: usize = 255;

// The opcodes of pickle's protocols 2 to 5 that occur.
const PROTO: u8 = 0x80;
const FRAME: u8 = 0x95;
const STOP: u8 = b'.';
const NONE: u8 = b'N';
const NEW_TRUE: u8 = 0x88;
const NEW_FALSE: u8 = 0x89;
const INT_1: u8 = b'K';
const INT_2: u8 = b'M';
const INT_4: u8 = b'J';
const FLOAT: u8 = b'G';
const TEXT: u8 = 0x8c;
const MEMOIZE: u8 = 0x94;
const MARK: u8 = b'(';
const TUPLE: u8 = b't';
const TUPLE_1: u8 = 0x85;
const TUPLE_3: u8 = 0x87;
const EMPTY_TUPLE: u8 = b')';

pub type Stream = SmallVec<[u8; 64]>;

/// The pickle of a value, when it is simple enough.
pub fn dumps(value: &Bound<'_, PyAny>) -> Option<Stream> {
    let mut stream = Stream::from_slice(&[PROTO, 4]);
    match value.cast_exact::<PyTuple>() {
        Ok(tuple) => {
            let count = tuple.len();
            if count == 0 || count > MOST_ITEMS {
                return None;
            }
            if count > 3 {
                stream.push(MARK);
            }
            for item in tuple.iter_borrowed() {
                write(&item, &mut stream)?;
            }
            stream.push(if count > 3 { TUPLE } else { TUPLE_1 + count as u8 - 1 });
        }
        Err(_) => write(value, &mut stream)?,
    }
    stream.push(STOP);
    Some(stream)
}

fn write(value: &Bound<'_, PyAny>, stream: &mut Stream) -> Option<()> {
    if value.is_exact_instance_of::<PyInt>() {
        let number: i32 = value.extract().ok()?;
        match number {
            0..=0xff => stream.extend_from_slice(&[INT_1, number as u8]),
            0x100..=0xffff => {
                stream.push(INT_2);
                stream.extend_from_slice(&(number as u16).to_le_bytes());
            }
            _ => {
                stream.push(INT_4);
                stream.extend_from_slice(&number.to_le_bytes());
            }
        }
    } else if let Ok(text) = value.cast_exact::<PyString>() {
        // Lone surrogates are left to the pickler.
        let text = text.to_str().ok()?;
        if text.len() > LONGEST_TEXT {
            return None;
        }
        stream.extend_from_slice(&[TEXT, text.len() as u8]);
        stream.extend_from_slice(text.as_bytes());
    } else if let Ok(number) = value.cast_exact::<PyFloat>() {
        stream.push(FLOAT);
        stream.extend_from_slice(&number.value().to_be_bytes());
    } else if let Ok(flag) = value.cast_exact::<PyBool>() {
        stream.push(if flag.is_true() { NEW_TRUE } else { NEW_FALSE });
    } else if value.is_exact_instance_of::<PyNone>() {
        stream.push(NONE);
    } else {
        return None;
    }
    Some(())
}

/// The value of a stream, when it is one of those.
pub fn loads<'py>(py: Python<'py>, stream: &[u8]) -> Option<Bound<'py, PyAny>> {
    let mut rest = stream;
    let [PROTO, _] = take(&mut rest)? else { return None };
    let mut items: SmallVec<[Bound<'py, PyAny>; MOST_ITEMS]> = SmallVec::new();
    let mut marked = false;
    loop {
        let [opcode] = take(&mut rest)?;
        let item = match opcode {
            FRAME => {
                take::<8>(&mut rest)?;
                continue;
            }
            // Nothing here is ever fetched from the memo.
            MEMOIZE => continue,
            MARK if items.is_empty() && !marked => {
                marked = true;
                continue;
            }
            STOP => return if items.len() == 1 && !marked { items.pop() } else { None },
            NONE => py.None().into_bound(py),
            NEW_TRUE | NEW_FALSE => PyBool::new(py, opcode == NEW_TRUE).to_owned().into_any(),
            INT_1 => integer(py, i32::from(take::<1>(&mut rest)?[0])),
            INT_2 => integer(py, i32::from(u16::from_le_bytes(take(&mut rest)?))),
            INT_4 => integer(py, i32::from_le_bytes(take(&mut rest)?)),
            FLOAT => PyFloat::new(py, f64::from_be_bytes(take(&mut rest)?)).into_any(),
            TEXT => {
                let length = usize::from(take::<1>(&mut rest)?[0]);
                let (text, after) = rest.split_at_checked(length)?;
                rest = after;
                PyString::new(py, std::str::from_utf8(text).ok()?).into_any()
            }
            EMPTY_TUPLE => PyTuple::empty(py).into_any(),
            TUPLE_1..=TUPLE_3 if items.len() == usize::from(opcode - TUPLE_1) + 1 && !marked => {
                PyTuple::new(py, items.drain(..)).ok()?.into_any()
            }
            TUPLE if marked => {
                marked = false;
                PyTuple::new(py, items.drain(..)).ok()?.into_any()
            }
            _ => return None,
        };
        if items.len() == MOST_ITEMS {
            return None;
        }
        items.push(item);
    }
}

fn integer(py: Python<'_>, number: i32) -> Bound<'_, PyAny> {
    PyInt::new(py, number).into_any()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}
