//! Memory shared between Python objects and the engine without a copy: the buffers of what is stored, and read-only
//! views of what was read.

use std::ops::Range;
use std::os::raw::c_int;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use ray_rs_core_worker::ReadData;
use ray_rs_object_store::PrivateBlock;

/// Memory of a value that was read, kept in place by whoever holds this.
#[derive(Clone)]
pub enum Memory {
    Inline(Bytes),
    Arena(Arc<dyn Pinned>),
    /// The reader's own: its arrays may be written to.
    Own(Arc<Own>),
}

/// What `get(copy=...)` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Shared and read-only.
    No,
    /// All of it, at once.
    Full,
    /// Of each page that is written to, when it is.
    OnWrite,
}

/// Memory that one reader has for itself.
pub enum Own {
    /// Words, so that arrays of any element type can lie in it; and its length in bytes.
    Copied(Box<[u128]>, usize),
    OnWrite(PrivateBlock),
}

impl Own {
    fn copy_of(bytes: &[u8]) -> Self {
        let mut words = vec![0u128; bytes.len().div_ceil(16)];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks(16)) {
            let mut padded = [0; 16];
            padded[..chunk.len()].copy_from_slice(chunk);
            *word = u128::from_ne_bytes(padded);
        }
        Self::Copied(words.into_boxed_slice(), bytes.len())
    }

    fn start(&self) -> *const u8 {
        match self {
            Self::Copied(words, _) => words.as_ptr().cast(),
            Self::OnWrite(block) => block.as_ptr(),
        }
    }

    fn bytes(&self) -> &[u8] {
        let len = match self {
            Self::Copied(_, len) => *len,
            Self::OnWrite(block) => block.len(),
        };
        // SAFETY: so many bytes are there while `self` lives. Python may write to them through views; this slice is used
        // to parse and unpickle, before the first view is out of our hands, and for its address.
        unsafe { std::slice::from_raw_parts(self.start(), len) }
    }
}

/// A pinned block of the arena.
pub trait Pinned: Send + Sync {
    fn bytes(&self) -> &[u8];
}

impl<T: std::ops::Deref<Target = [u8]> + Send + Sync> Pinned for T {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Memory {
    pub fn new(data: ReadData) -> Self {
        match data {
            ReadData::Empty | ReadData::Away(_) => Self::Inline(Bytes::new()),
            ReadData::Inline(bytes) => Self::Inline(bytes),
            ReadData::Arena(pin) | ReadData::Copied(pin) => Self::Arena(Arc::new(pin)),
        }
    }

    /// As [`Self::new`], or the reader's own version.
    pub fn for_reader(data: ReadData, copy: Copy) -> std::io::Result<Self> {
        Ok(match (copy, data) {
            (Copy::No, data) => Self::new(data),
            (Copy::OnWrite, ReadData::Arena(pin) | ReadData::Copied(pin)) => {
                Self::Own(Arc::new(Own::OnWrite(pin.into_private()?)))
            }
            (Copy::Full | Copy::OnWrite, data) => Self::Own(Arc::new(Own::copy_of(Self::new(data).bytes()))),
        })
    }

    fn is_writable(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Arena(pin) => pin.bytes(),
            Self::Own(own) => own.bytes(),
        }
    }

    /// The same bytes where arrays of any element type can lie: what came inside a message starts anywhere, a fresh
    /// allocation at a multiple of 16.
    pub fn aligned(self) -> Self {
        match self {
            Self::Inline(bytes) if bytes.as_ptr().addr() % 16 != 0 => Self::Inline(Bytes::copy_from_slice(&bytes)),
            other => other,
        }
    }
}

/// A buffer over a part of a value, read-only unless it is the reader's own. The value's block stays pinned while any view of it lives.
#[pyclass(frozen, module = "ray_rs._core")]
pub struct SharedBuffer {
    memory: Memory,
    range: Range<usize>,
}

impl SharedBuffer {
    /// `range` must lie inside `memory`.
    pub fn new(memory: Memory, range: Range<usize>) -> Self {
        assert!(
            memory.bytes().get(range.clone()).is_some(),
            "the range was checked when the value was parsed"
        );
        Self { memory, range }
    }
}

#[pymethods]
impl SharedBuffer {
    fn __len__(&self) -> usize {
        self.range.len()
    }

    /// # Safety
    /// As CPython calls it: `view` is valid for writing.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("a view is needed"));
        }
        let this = slf.get();
        let bytes = &this.memory.bytes()[this.range.clone()];
        if this.memory.is_writable() {
            // SAFETY: `view` is valid by the protocol; the memory is the reader's own and lives as long as `slf`.
            return unsafe {
                fill_view(
                    &slf,
                    view,
                    bytes.as_ptr().expose_provenance(),
                    bytes.len(),
                    false,
                    flags,
                )
            };
        }
        // SAFETY: `view` is valid by the protocol. The memory neither moves nor changes while `slf` lives (it is pinned,
        // or owned by `Bytes`), and the view holds a reference to `slf`. It is marked read-only, so the cast away from
        // const is never used to write; a request for a writable view is refused by PyBuffer_FillInfo.
        let status = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len() as isize,
                1,
                flags,
            )
        };
        match status {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }
}

/// Fills a view of `len` bytes at `address`.
///
/// # Safety
/// `view` is valid for writing. The bytes stay in place while `exporter` lives; unless `readonly`, they may be written to
/// as long as a view of them lives.
pub unsafe fn fill_view<T>(
    exporter: &Bound<'_, T>,
    view: *mut ffi::Py_buffer,
    address: usize,
    len: usize,
    readonly: bool,
    flags: c_int,
) -> PyResult<()> {
    let start = std::ptr::with_exposed_provenance_mut::<u8>(address);
    // SAFETY: the caller's promises.
    let status = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            exporter.as_ptr(),
            start.cast(),
            len as isize,
            c_int::from(readonly),
            flags,
        )
    };
    match status {
        0 => Ok(()),
        _ => Err(PyErr::fetch(exporter.py())),
    }
}

/// Contiguous memory exported by a Python object, held in place until dropped.
pub struct Exported(PyUntypedBuffer);

impl Exported {
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = match PyUntypedBuffer::get(object) {
            Ok(buffer) => buffer,
            // Zero dimensions have no shape, which PyO3 does not take; `PickleBuffer.raw` gives the bytes in a row.
            Err(refusal) => match object.call_method0(intern!(object.py(), "raw")) {
                Ok(raw) => PyUntypedBuffer::get(&raw)?,
                Err(_) => return Err(refusal),
            },
        };
        if !buffer.is_c_contiguous() && !buffer.is_fortran_contiguous() {
            return Err(PyBufferError::new_err("an out-of-band buffer must be contiguous"));
        }
        Ok(Self(buffer))
    }

    pub fn bytes(&self) -> &[u8] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `len_bytes` bytes at `buf_ptr` in place and alive until the view is released, which
        // is when `self` drops; they are contiguous, as checked in `of`. Python code of another thread might write to
        // them meanwhile, as with any extension that releases the GIL over a buffer: they are only ever copied out.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }
}
