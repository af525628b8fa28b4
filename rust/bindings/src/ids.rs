//! Ray's id classes.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use ray_rs_types::{ActorId, ClusterId, FunctionId, JobId, NodeId, PlacementGroupId, TaskId, UniqueId, WorkerId};

/// Checks what Python gives for an id.
pub fn bytes_of<'a, const N: usize>(id: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8; N]> {
    let Ok(bytes) = id.cast::<PyBytes>() else {
        return Err(PyTypeError::new_err(format!(
            "Unsupported type: {}, expected bytes",
            id.get_type()
        )));
    };
    let bytes = bytes.as_bytes();
    bytes.try_into().map_err(|_| {
        PyValueError::new_err(format!(
            "ID string needs to have length {N}, got length {}",
            bytes.len()
        ))
    })
}

fn bytes_of_hex<const N: usize>(hex: &str) -> PyResult<[u8; N]> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N || !hex.is_ascii() {
        return Err(PyValueError::new_err(format!(
            "hex string needs to have length {}, got length {}",
            2 * N,
            hex.len()
        )));
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16)
            .map_err(|_| PyValueError::new_err(format!("non-hexadecimal digit found in {hex:?}")))?;
    }
    Ok(bytes)
}

/// Ids are random or counters in their first bytes, and end in a counter: two words of them are a good hash.
pub fn hash_of(bytes: &[u8]) -> isize {
    let mut first = [0; 8];
    let head = bytes.len().min(8);
    first[..head].copy_from_slice(&bytes[..head]);
    let mut last = [0; 4];
    last.copy_from_slice(&bytes[bytes.len() - 4..]);
    (u64::from_le_bytes(first) ^ (u64::from(u32::from_le_bytes(last)) << 29)) as isize
}

macro_rules! define_id_class {
    ($class:ident, $name:literal, $doc:literal, $id:ty, {$($more:tt)*}) => {
        #[doc = $doc]
        #[pyclass(frozen, module = "ray_rs", name = $name)]
        pub struct $class(pub $id);

        #[pymethods]
        impl $class {
            #[new]
            fn new(id: &Bound<'_, PyAny>) -> PyResult<Self> {
                Ok(Self(<$id>::from_bytes(bytes_of::<{ <$id>::SIZE }>(id)?).expect("the length was checked")))
            }

            /// The id of these bytes; ValueError when there are too many or too few.
            #[classmethod]
            fn from_binary(_class: &Bound<'_, PyType>, id: &Bound<'_, PyAny>) -> PyResult<Self> {
                Self::new(id)
            }

            /// The id of these hexadecimal digits; ValueError when they are none.
            #[classmethod]
            fn from_hex(_class: &Bound<'_, PyType>, hex_id: &str) -> PyResult<Self> {
                let bytes = bytes_of_hex::<{ <$id>::SIZE }>(hex_id)?;
                Ok(Self(<$id>::from_bytes(&bytes).expect("the length was checked")))
            }

            /// A new id that nothing has yet.
            #[classmethod]
            fn from_random(_class: &Bound<'_, PyType>) -> PyResult<Self> {
                let mut bytes = [0; <$id>::SIZE];
                getrandom::fill(&mut bytes).map_err(|error| PyValueError::new_err(error.to_string()))?;
                Ok(Self(<$id>::from_bytes(&bytes).expect("the length is right")))
            }

            /// The id that stands for nothing.
            #[classmethod]
            fn nil(_class: &Bound<'_, PyType>) -> Self {
                Self(<$id>::NIL)
            }

            /// Length in bytes.
            #[classmethod]
            fn size(_class: &Bound<'_, PyType>) -> usize {
                <$id>::SIZE
            }

            /// The id as bytes.
            fn binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
                PyBytes::new(py, self.0.as_bytes())
            }

            /// The id in hexadecimal digits.
            fn hex(&self) -> String {
                self.0.hex()
            }

            /// Whether it stands for nothing: all of its bits are set.
            fn is_nil(&self) -> bool {
                self.0.is_nil()
            }

            fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
                other.cast::<Self>().is_ok_and(|other| other.get().0 == self.0)
            }

            fn __hash__(&self) -> isize {
                hash_of(self.0.as_bytes())
            }

            fn __repr__(&self) -> String {
                format!(concat!($name, "({})"), self.0.hex())
            }

            fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyType>, (Bound<'py, PyBytes>,)) {
                (slf.get_type(), (slf.get().binary(slf.py()),))
            }

            $($more)*
        }
    };
}

define_id_class!(
    PyJobId,
    "JobID",
    "The id of a job: what one driver does, from its connection to its end.",
    JobId,
    {
        /// The id of the job with this number.
        #[classmethod]
        fn from_int(_class: &Bound<'_, PyType>, value: u32) -> Self {
            Self(JobId::from_int(value))
        }

        /// The job's number in its cluster.
        fn int(&self) -> u32 {
            self.0.to_int()
        }
    }
);
define_id_class!(PyActorId, "ActorID", "The id of an actor.", ActorId, {
    /// The job that it belongs to.
    #[getter]
    fn job_id(&self) -> PyJobId {
        PyJobId(self.0.job_id())
    }
});
define_id_class!(
    PyTaskId,
    "TaskID",
    "The id of one task, or of one call of an actor's method.",
    TaskId,
    {
        /// The actor whose method it is; nil for a task.
        fn actor_id(&self) -> PyActorId {
            PyActorId(self.0.actor_id())
        }

        /// The job that it belongs to.
        fn job_id(&self) -> PyJobId {
            PyJobId(self.0.job_id())
        }
    }
);
define_id_class!(PyNodeId, "NodeID", "The id of a node.", NodeId, {});
define_id_class!(
    PyWorkerId,
    "WorkerID",
    "The id of a process: a worker or a driver.",
    WorkerId,
    {}
);
define_id_class!(
    PyFunctionId,
    "FunctionID",
    "The id of a remote function, by the content of its pickle.",
    FunctionId,
    {}
);
define_id_class!(
    PyActorClassId,
    "ActorClassID",
    "The id of an actor class.",
    FunctionId,
    {}
);
define_id_class!(PyUniqueId, "UniqueID", "The id of anything.", UniqueId, {});
define_id_class!(PyClusterId, "ClusterID", "The id of a cluster.", ClusterId, {});
define_id_class!(
    PyPlacementGroupId,
    "PlacementGroupID",
    "The id of a placement group.",
    PlacementGroupId,
    {}
);
