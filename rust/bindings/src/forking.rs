//! What a zygote does once, so that none of its children has to; and how its children are told apart.

use std::mem;
use std::path::PathBuf;

use pyo3::prelude::*;
use ray_rs_cli::process_mark::{ProcessMark, end_session};
use ray_rs_core_worker::SpinPolicy;

/// The allocator of the C library puts a block of up to this size where one of its size was freed.
const LARGEST_FILLED: usize = 4096;
/// Sizes of blocks differ by this.
const STEP: usize = 16;
/// Too large to fit into a gap that start-up leaves, in all likelihood, and small enough not to get a mapping of its own.
const FENCE_BYTES: usize = 100 << 10;
const FENCES: usize = 3;
/// Bytes spent on gaps, at most.
const MAX_FILL_BYTES: usize = 8 << 20;

/// To be called by a zygote that is about to fork for the first time.
#[pyfunction]
pub fn prepare_to_fork() {
    SpinPolicy::remember();
    fill_gaps();
}

/// Marks this process, and all that it starts from now on. False where the kernel refuses that.
#[pyfunction]
pub fn mark_process(session_dir: PathBuf, zygote: u64, worker: u64) -> bool {
    ProcessMark::new(&session_dir, zygote, worker).set().is_ok()
}

/// Kills all workers of a session whose raylet is gone, and what they started.
#[pyfunction]
pub fn end_marked_processes(py: Python<'_>, session_dir: PathBuf) {
    py.detach(|| end_session(&session_dir));
}

/// To be called by a zygote that has nothing to do: its children map for themselves what they need of the code.
#[pyfunction]
pub fn give_back_code() {
    ray_rs_cli::give_back_code();
}

/// Fills the gaps that start-up has left in the heap, for good: what workers allocate lies together in fresh pages then.
/// In the gaps it would make each worker copy a page of the zygote's for every few blocks.
fn fill_gaps() {
    let fences: Vec<Vec<u8>> = (0..FENCES).map(|_| Vec::with_capacity(FENCE_BYTES)).collect();
    // From here on nothing has been allocated yet.
    let frontier = fences.iter().map(|fence| fence.as_ptr().addr()).max().unwrap_or(0);
    drop(fences);
    let mut spent = 0;
    for bytes in (STEP..=LARGEST_FILLED).rev().step_by(STEP) {
        while spent < MAX_FILL_BYTES {
            let block = Vec::<u8>::with_capacity(bytes - mem::size_of::<usize>());
            let is_beyond = block.as_ptr().addr() >= frontier;
            if is_beyond {
                break;
            }
            spent += bytes;
            mem::forget(block);
        }
    }
}
