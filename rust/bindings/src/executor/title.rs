//! The title of a worker, as `ps` and `top` show it: what it runs, or that it is idle.
//!
//! The kernel lets a process write over its own command line. Titles are written when the function changes, and not
//! between two calls of one function.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ray_rs_core_worker::Callee;

/// Of the process; its main thread has one and only one.
pub struct Title {
    /// Addresses of the command line, without the zero at its end. Empty when the kernel does not tell.
    line: Range<usize>,
    /// How much of it the last title takes.
    used: usize,
    idle: String,
    /// What the title speaks of; `None`: of nothing, the process is idle.
    shown: Option<Arc<Callee>>,
}

impl Title {
    /// `idle` is shown from now on while nothing runs.
    pub fn new(idle: &str) -> Self {
        let line = command_line().unwrap_or_default();
        let mut title = Self {
            used: line.len(),
            line,
            idle: idle.to_owned(),
            shown: None,
        };
        title.show(idle);
        title
    }

    pub fn set_idle(&mut self, idle: String) {
        self.show(&idle);
        self.shown = None;
        self.idle = idle;
    }

    pub fn show_idle(&mut self) {
        if self.shown.take().is_some() {
            let idle = std::mem::take(&mut self.idle);
            self.show(&idle);
            self.idle = idle;
        }
    }

    pub fn is_idle(&self) -> bool {
        self.shown.is_none()
    }

    pub fn show_call(&mut self, callee: &Arc<Callee>) {
        if !self.shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, callee)) {
            self.show(&format!("ray::{}()", callee.name));
            self.shown = Some(Arc::clone(callee));
        }
    }

    /// Shows a text until something else is shown.
    pub fn show(&mut self, title: &str) {
        let text: String = title.chars().filter(|letter| !letter.is_control()).collect();
        let _ = rustix::thread::set_name(&std::ffi::CString::new(text.as_str()).unwrap_or_default());
        let length = text.len().min(self.line.len());
        let rest = self.used.saturating_sub(length);
        let bytes = text.bytes().take(length).chain(std::iter::repeat_n(0, rest));
        for (address, byte) in self.line.clone().zip(bytes) {
            // SAFETY: the kernel put the command line at these addresses when the process began, on the stack of its
            // main thread, writable, where it stays until the end. Nothing in this program holds a Rust reference to
            // it; C code that reads its arguments again finds bytes and, at the end of the range, a zero.
            let place = unsafe { AtomicU8::from_ptr(std::ptr::with_exposed_provenance_mut(address)) };
            place.store(byte, Ordering::Relaxed);
        }
        self.used = length;
    }
}

/// Where the kernel keeps the command line of this process: fields 48 and 49 of its `stat`.
fn command_line() -> Option<Range<usize>> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(48 - 3);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    (start != 0 && start < end).then(|| start..end - 1)
}
