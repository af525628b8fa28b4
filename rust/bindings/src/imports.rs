//! Every Python name that the extension calls, in one place. Looked up on first use; `_core.pyi` says what each must do.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// A module's attribute, imported once.
pub struct Name {
    module: &'static str,
    attribute: &'static str,
    found: PyOnceLock<Py<PyAny>>,
}

impl Name {
    const fn new(module: &'static str, attribute: &'static str) -> Self {
        Self {
            module,
            attribute,
            found: PyOnceLock::new(),
        }
    }

    pub fn get<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        self.found.import(py, self.module, self.attribute)
    }
}

// Python's own.
pub static PICKLE_DUMPS: Name = Name::new("_pickle", "dumps");
pub static PICKLE_LOADS: Name = Name::new("_pickle", "loads");
pub static PICKLE_BUFFER: Name = Name::new("_pickle", "PickleBuffer");
pub static GET_FRAME: Name = Name::new("sys", "_getframe");
pub static MEMORYVIEW: Name = Name::new("builtins", "memoryview");
pub static RUNNING_LOOP: Name = Name::new("asyncio", "get_running_loop");
pub static CONCURRENT_FUTURE: Name = Name::new("concurrent.futures", "Future");
pub static GENERIC_ALIAS: Name = Name::new("types", "GenericAlias");
pub static COROUTINE_TYPE: Name = Name::new("types", "CoroutineType");
pub static GENERATOR_TYPE: Name = Name::new("types", "GeneratorType");
pub static ASYNC_GENERATOR_TYPE: Name = Name::new("types", "AsyncGeneratorType");
pub static THREAD: Name = Name::new("threading", "Thread");
pub static CONTEXT_VAR: Name = Name::new("contextvars", "ContextVar");
pub static OBJECT_GETATTRIBUTE: Name = Name::new("ray_rs._core", "_object_getattribute");

// This extension's own: pickle finds a function by module and name, and insists on the very object found there.
pub static LOAD_REF: Name = Name::new("ray_rs._core", "_load_ref");
pub static LOAD_OUT_OF_BAND: Name = Name::new("ray_rs._core", "_load_out_of_band");
pub static LOAD_ACTOR: Name = Name::new("ray_rs._core", "_load_actor");
pub static LOAD_ACTOR_OUT_OF_BAND: Name = Name::new("ray_rs._core", "_load_actor_out_of_band");

// ray_rs.
pub static BEGIN_SUBMISSION: Name = Name::new("ray_rs._tracing", "begin_submission");
pub static EXECUTE_IN_SPAN: Name = Name::new("ray_rs._tracing", "execute");
pub static AUTO_INIT: Name = Name::new("ray_rs.api", "_auto_init");
pub static DUMPS: Name = Name::new("ray_rs._serialization", "dumps");
pub static EXPLAIN_FAILURE: Name = Name::new("ray_rs._serialization", "explain_failure");
pub static RAISE_MISMATCH: Name = Name::new("ray_rs._signature", "raise_mismatch");
pub static PREPARE: Name = Name::new("ray_rs.remote_function", "_prepare");
pub static REBUILD: Name = Name::new("ray_rs.remote_function", "_rebuild");
pub static FUNCTION_OPTIONS: Name = Name::new("ray_rs.remote_function", "_options");
pub static METHOD_OPTIONS: Name = Name::new("ray_rs.actor", "_method_options");
pub static WARN_BLOCKING_GET: Name = Name::new("ray_rs._worker_main", "warn_blocking_get");
pub static OBJECT_REF_GENERATOR: Name = Name::new("ray_rs._generator", "ObjectRefGenerator");
pub static COLLECT: Name = Name::new("ray_rs._generator", "collect");
pub static CHECK_MEANT: Name = Name::new("ray_rs._generator", "check_meant");
pub static ITERATE_ASYNC: Name = Name::new("ray_rs._async_loop", "iterate");
pub static SEND_ITEMS: Name = Name::new("ray_rs._async_loop", "send_items");
pub static AWAITED: Name = Name::new("ray_rs._async_loop", "awaited");
pub static AWAITED_BY_TASKS: Name = Name::new("ray_rs._async_loop", "awaited_by_tasks");
pub static MAKE_ASYNC_LOOP: Name = Name::new("ray_rs._async_loop", "make");
pub static USE_ASYNC_LOOP: Name = Name::new("ray_rs._async_loop", "use");
pub static CONSTRUCT_ON_LOOP: Name = Name::new("ray_rs._async_loop", "construct");
pub static RUN_ASYNC_LOOP: Name = Name::new("ray_rs._async_loop", "run");

// Exceptions and the functions that compose their texts.
pub static DEADLOCK: Name = Name::new("ray_rs.exceptions", "DeadlockError");
pub static GET_TIMEOUT: Name = Name::new("ray_rs.exceptions", "GetTimeoutError");
pub static TASK_CANCELLED: Name = Name::new("ray_rs.exceptions", "TaskCancelledError");
pub static TASK_GIVEN_UP: Name = Name::new("ray_rs.exceptions", "_task_given_up");
pub static OUT_OF_DISK: Name = Name::new("ray_rs.exceptions", "OutOfDiskError");
pub static TASK_UNSCHEDULABLE: Name = Name::new("ray_rs.exceptions", "TaskUnschedulableError");
pub static TASK_GROUP_REMOVED: Name = Name::new("ray_rs.exceptions", "TaskPlacementGroupRemoved");
pub static STORE_FULL: Name = Name::new("ray_rs.exceptions", "ObjectStoreFullError");
pub static SYSTEM_ERROR: Name = Name::new("ray_rs.exceptions", "RaySystemError");
pub static RAYLET_DIED: Name = Name::new("ray_rs.exceptions", "LocalRayletDiedError");
pub static ACTOR_EXISTS: Name = Name::new("ray_rs.exceptions", "ActorAlreadyExistsError");
pub static HANDLE_NOT_FOUND: Name = Name::new("ray_rs.exceptions", "ActorHandleNotFoundError");
pub static PENDING_CALLS_LIMIT: Name = Name::new("ray_rs.exceptions", "PendingCallsLimitExceeded");
pub static WORKER_CRASHED: Name = Name::new("ray_rs.exceptions", "_worker_crashed");
pub static OUT_OF_MEMORY: Name = Name::new("ray_rs.exceptions", "OutOfMemoryError");
pub static ACTOR_DIED: Name = Name::new("ray_rs.exceptions", "_actor_died");
pub static ACTOR_UNAVAILABLE: Name = Name::new("ray_rs.exceptions", "_actor_unavailable");
pub static ENVIRONMENT_FAILED: Name = Name::new("ray_rs.exceptions", "RuntimeEnvSetupError");
pub static OBJECT_LOST: Name = Name::new("ray_rs.exceptions", "_object_lost");
pub static NOT_MADE_AGAIN: Name = Name::new("ray_rs.exceptions", "_not_made_again");
pub static DESERIALIZATION_FAILED: Name = Name::new("ray_rs.exceptions", "_deserialization_failed");
