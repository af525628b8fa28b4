//! Whether a call fits a signature. Only the yes is decided here, quickly; Python words the no.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use crate::imports;

// As in `inspect.Parameter.kind`.
const POSITIONAL_OR_KEYWORD: u8 = 1;
const VAR_POSITIONAL: u8 = 2;
const KEYWORD_ONLY: u8 = 3;
const VAR_KEYWORD: u8 = 4;

struct Parameter {
    name: String,
    kind: u8,
}

struct Known {
    parameters: Vec<Parameter>,
    /// How many can be given by position, and how many of them must be given.
    positional: usize,
    required_positional: usize,
    /// A bit for each parameter that has no default.
    required: u64,
    takes_more: bool,
    takes_any_keyword: bool,
}

pub struct Signature {
    /// `None`: every call is let through.
    known: Option<Known>,
    python: Py<PyAny>,
}

impl Signature {
    pub fn new(signature: &Bound<'_, PyAny>) -> PyResult<Self> {
        let python = signature.clone().unbind();
        if signature.is_none() {
            return Ok(Self { known: None, python });
        }
        let given: Vec<(String, u8, bool)> = signature.extract()?;
        let mut known = Known {
            parameters: Vec::with_capacity(given.len()),
            positional: 0,
            required_positional: 0,
            required: 0,
            takes_more: false,
            takes_any_keyword: false,
        };
        // More than the bits of a word are left to Python.
        let many = given.len() > 64;
        for (name, kind, has_default) in given {
            match kind {
                VAR_POSITIONAL => known.takes_more = true,
                VAR_KEYWORD => known.takes_any_keyword = true,
                _ => {
                    if !has_default && !many {
                        known.required |= 1 << known.parameters.len();
                    }
                    if kind <= POSITIONAL_OR_KEYWORD {
                        known.positional += 1;
                        known.required_positional += usize::from(!has_default);
                    }
                    known.parameters.push(Parameter { name, kind });
                }
            }
        }
        Ok(Self {
            known: (!many).then_some(known),
            python,
        })
    }

    pub fn python(&self, py: Python<'_>) -> Py<PyAny> {
        self.python.clone_ref(py)
    }

    /// Raises `TypeError` when the arguments don't fit.
    pub fn check(&self, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        match &self.known {
            Some(known) if known.accepts(args.len(), kwargs) => Ok(()),
            None if self.python.is_none(args.py()) => Ok(()),
            _ => self.ask_python(args, kwargs),
        }
    }

    #[cold]
    fn ask_python(&self, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let py = args.py();
        let kwargs = kwargs.cloned().unwrap_or_else(|| PyDict::new(py));
        imports::RAISE_MISMATCH
            .get(py)?
            .call1((self.python.bind(py), args, kwargs))
            .map(drop)
    }
}

impl Known {
    fn accepts(&self, given: usize, kwargs: Option<&Bound<'_, PyDict>>) -> bool {
        if given > self.positional && !self.takes_more {
            return false;
        }
        // The positional ones come first among the parameters.
        let by_position = given.min(self.positional);
        let mut bound = if by_position == 64 {
            u64::MAX
        } else {
            (1 << by_position) - 1
        };
        for (name, _) in kwargs.into_iter().flatten() {
            match self.keyword(&name) {
                Some(index) if bound & (1 << index) == 0 => bound |= 1 << index,
                Some(_) => return false,
                None if self.takes_any_keyword => {}
                None => return false,
            }
        }
        self.required & !bound == 0
    }

    fn keyword(&self, name: &Bound<'_, PyAny>) -> Option<usize> {
        let name = name.cast::<PyString>().ok()?.to_str().ok()?;
        let named = |parameter: &Parameter| {
            (parameter.kind == POSITIONAL_OR_KEYWORD || parameter.kind == KEYWORD_ONLY) && parameter.name == name
        };
        self.parameters.iter().position(named)
    }
}
