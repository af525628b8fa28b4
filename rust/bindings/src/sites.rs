//! Which line of the program makes an object.

use std::sync::OnceLock;

use pyo3::intern;
use pyo3::prelude::*;
use ray_rs_core_worker::{CoreWorker, RefSlot};

use crate::imports;

/// As Ray's: the line of every reference is noted. Without it, only that of large objects which are put.
const RECORD: &str = "RAY_record_ref_creation_sites";

fn records_all() -> bool {
    static RECORDS: OnceLock<bool> = OnceLock::new();
    *RECORDS.get_or_init(|| {
        std::env::var(RECORD).is_ok_and(|text| matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "true"))
    })
}

/// "file.py:12", of the Python code that called; nothing where there is none.
fn caller(py: Python<'_>) -> PyResult<String> {
    let frame = imports::GET_FRAME.get(py)?.call0()?;
    let line: u32 = frame.getattr(intern!(py, "f_lineno"))?.extract()?;
    let code = frame.getattr(intern!(py, "f_code"))?;
    let file = code.getattr(intern!(py, "co_filename"))?;
    Ok(format!("{}:{line}", file.extract::<&str>()?))
}

/// Of an object that is put: a large one costs far more than the look.
pub fn of_put(py: Python<'_>, is_large: bool) -> Option<String> {
    (is_large || records_all()).then(|| caller(py).ok()).flatten()
}

/// Notes it of what a call returns, if that is wished.
pub fn note(py: Python<'_>, core: &CoreWorker, slots: &[RefSlot]) {
    if records_all()
        && let Ok(site) = caller(py)
    {
        core.made_at(slots, &site);
    }
}
