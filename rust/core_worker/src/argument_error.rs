//! The error of a task that never ran because an argument of it failed: the argument's error, and who was waiting for it.
//!
//! Errors are pickles, and the engine reads none. It writes a pickle around them that calls
//! `ray_rs.exceptions._argument_failed(names, inner)` when it is loaded: `inner` is the first error, as bytes or, when it
//! lies in the arena, as a reference to its object; `names` are the tasks of a chain, one a line, the latest first.

use bytes::Bytes;

/// What every pickle made here begins with.
const HEAD: &[u8] = b"\x80\x05cray_rs.exceptions\n_argument_failed\nX";
/// `_load_ref(0)`: the reference that stands first in the value's table.
const FIRST_REFERENCE: &[u8] = b"cray_rs._core\n_load_ref\nK\0\x85R";
const BYTES: u8 = 0x8e;
/// Makes a tuple of two, calls, and ends.
const TAIL: &[u8] = b"\x86R.";
/// A longer chain leaves out the tasks between the first so many and the one that is asked for.
const MOST_NAMES: usize = 32;

/// The error of `task` after `error`, the pickled error of its argument.
pub(crate) fn after(task: &str, error: &[u8]) -> Bytes {
    let task = one_line(task);
    if let Some((names, rest)) = parts(error) {
        let earlier = names.split('\n').count();
        let kept = match earlier < MOST_NAMES {
            true => names,
            false => names.split_once('\n').map_or("", |(_, kept)| kept),
        };
        return assemble(&format!("{task}\n{kept}"), rest);
    }
    let mut rest = Vec::with_capacity(error.len() + 16);
    rest.push(BYTES);
    rest.extend_from_slice(&(error.len() as u64).to_le_bytes());
    rest.extend_from_slice(error);
    rest.extend_from_slice(TAIL);
    assemble(&task, &rest)
}

/// The same for an error that is too large to be copied: the value's first reference leads to it.
pub(crate) fn after_referenced(task: &str) -> Bytes {
    assemble(&one_line(task), &[FIRST_REFERENCE, TAIL].concat())
}

fn one_line(name: &str) -> String {
    name.replace('\n', " ")
}

fn assemble(names: &str, rest: &[u8]) -> Bytes {
    let length = (names.len() as u32).to_le_bytes();
    [HEAD, &length, names.as_bytes(), rest].concat().into()
}

/// The names, and what follows them, of a pickle made here.
fn parts(pickle: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = pickle.strip_prefix(HEAD)?.split_first_chunk::<4>()?;
    let (names, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((std::str::from_utf8(names).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_wrapped_once() {
        let second = after("second", &after("first", b"the error"));
        let (names, rest) = parts(&second).expect("made here");
        assert_eq!(names, "second\nfirst");
        assert_eq!(
            rest,
            [&[BYTES, 9, 0, 0, 0, 0, 0, 0, 0][..], b"the error", TAIL].concat()
        );
    }

    #[test]
    fn a_long_chain_stays_short() {
        let mut error = after("0", b"");
        for step in 1..1000 {
            error = after(&step.to_string(), &error);
        }
        let (names, _) = parts(&error).expect("made here");
        assert_eq!(names.split('\n').count(), MOST_NAMES);
        assert!(names.starts_with("999\n"));
        assert!(names.ends_with("\n1\n0"), "{names}");
    }

    #[test]
    fn names_stay_on_their_lines() {
        let error = after("a\nb", &after_referenced("c\n"));
        assert_eq!(parts(&error).expect("made here").0, "a b\nc ");
    }
}
