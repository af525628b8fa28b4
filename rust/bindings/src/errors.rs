//! The one mapping from the engine's failures to Python exceptions.

use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyConnectionError, PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use ray_rs_core_worker::{ActorDeathCause, CoreError, CoreWorker, Failure, NotMadeAgain};
use ray_rs_types::ObjectId;

use crate::imports::{self, Name};
use crate::{core, pickle};

/// Calls an exception class, or a function that makes an exception.
fn made<'py>(py: Python<'py>, name: &'static Name, args: impl PyCallArgs<'py>) -> PyErr {
    match name.get(py).and_then(|class| class.call1(args)) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// What a refusal of the engine becomes.
pub fn from_core(py: Python<'_>, error: CoreError) -> PyErr {
    let text = error.to_string();
    match error {
        CoreError::ConnectionFailed(_) => PyConnectionError::new_err(text),
        CoreError::RayletDied => made(py, &imports::RAYLET_DIED, ()),
        CoreError::StoreFull(_) => made(py, &imports::STORE_FULL, (text,)),
        CoreError::OutOfDisk(_) => made(py, &imports::OUT_OF_DISK, (text,)),
        CoreError::Closed | CoreError::TimedOut { .. } | CoreError::Gcs(_) => system(py, text),
        // Whoever waited raises what interrupted it; this is for a wait that no signal ended.
        CoreError::Interrupted => PyKeyboardInterrupt::new_err(()),
        CoreError::NotFound(_) => PyValueError::new_err(text),
        CoreError::AlreadyExists(_) => made(py, &imports::ACTOR_EXISTS, (text,)),
        CoreError::PendingCallsLimit { .. } => made(py, &imports::PENDING_CALLS_LIMIT, (text,)),
    }
}

/// What became of a task, as the exception that `get` raises. `object` is what was asked for.
pub fn from_failure(py: Python<'_>, failure: Failure, object: Option<ObjectId>) -> PyErr {
    match failure {
        Failure::WorkerCrashed {
            task_name,
            pid,
            exit_code,
            signal,
            last_stderr,
            detail,
        } => made(
            py,
            &imports::WORKER_CRASHED,
            (task_name, pid, exit_code, signal, last_stderr, detail),
        ),
        Failure::EnvironmentFailed { message }
        | Failure::ActorDied {
            cause: ActorDeathCause::EnvironmentFailed,
            message,
            ..
        } => made(py, &imports::ENVIRONMENT_FAILED, (message,)),
        Failure::ActorDied {
            actor_id,
            class_name,
            pid,
            node_ip,
            name,
            namespace,
            cause,
            message,
            creation_error,
        } => {
            let creation_error = match creation_error.is_empty() {
                true => None,
                // A constructor's error that can't be read leaves its text, which is in `message`.
                false => pickle::loads(py, &creation_error).ok().map(Bound::unbind),
            };
            made(
                py,
                &imports::ACTOR_DIED,
                (
                    actor_id.hex(),
                    class_name,
                    (pid != 0).then_some(pid),
                    name,
                    namespace,
                    cause_name(cause),
                    message,
                    creation_error,
                    node_ip,
                ),
            )
        }
        Failure::ActorUnavailable { actor_id, message } => {
            made(py, &imports::ACTOR_UNAVAILABLE, (actor_id.hex(), message))
        }
        Failure::ObjectLost { owner_died, message } => {
            let hex = object.map(|id| id.hex()).unwrap_or_default();
            made(py, &imports::OBJECT_LOST, (hex, owner_died, message))
        }
        Failure::NotMadeAgain { why, message } => {
            let hex = object.map(|id| id.hex()).unwrap_or_default();
            made(py, &imports::NOT_MADE_AGAIN, (hex, not_made_name(why), message))
        }
        Failure::OutOfMemory { message } => made(py, &imports::OUT_OF_MEMORY, (message,)),
        Failure::StoreFull { message } => made(py, &imports::STORE_FULL, (message,)),
        Failure::Cancelled { task_id, timed_out } => made(py, &imports::TASK_GIVEN_UP, (task_id.hex(), timed_out)),
        Failure::Unschedulable { message } => made(py, &imports::TASK_UNSCHEDULABLE, (message,)),
        Failure::GroupRemoved => made(py, &imports::TASK_GROUP_REMOVED, ()),
        // Nobody gets hold of it: iteration ends there.
        Failure::StreamEnded => pyo3::exceptions::PyStopIteration::new_err(()),
        Failure::System { message } => system(py, message),
    }
}

fn not_made_name(why: NotMadeAgain) -> &'static str {
    match why {
        NotMadeAgain::Put => "put",
        NotMadeAgain::RetriesDisabled => "retries_disabled",
        NotMadeAgain::AttemptsExceeded => "attempts_exceeded",
        NotMadeAgain::LineageEvicted => "lineage_evicted",
        NotMadeAgain::ActorCall => "actor_call",
        NotMadeAgain::Generator => "generator",
        NotMadeAgain::NotKept => "not_kept",
    }
}

fn cause_name(cause: ActorDeathCause) -> &'static str {
    match cause {
        ActorDeathCause::Unknown => "unknown",
        ActorDeathCause::WorkerDied => "worker_died",
        ActorDeathCause::Killed => "killed",
        ActorDeathCause::CreationFailed => "creation_failed",
        ActorDeathCause::OutOfScope => "out_of_scope",
        ActorDeathCause::ExitedItself => "exited_itself",
        ActorDeathCause::OwnerDied => "owner_died",
        ActorDeathCause::Unschedulable => "unschedulable",
        ActorDeathCause::EnvironmentFailed => "runtime_env_failed",
        ActorDeathCause::GroupRemovedBefore => "group_removed_before",
        ActorDeathCause::GroupRemoved => "group_removed",
        ActorDeathCause::NoNode => "no_node",
    }
}

pub fn system(py: Python<'_>, text: impl Into<String>) -> PyErr {
    made(py, &imports::SYSTEM_ERROR, (text.into(),))
}

pub fn get_timeout(py: Python<'_>) -> PyErr {
    made(py, &imports::GET_TIMEOUT, ("Get timed out: some object(s) not ready.",))
}

/// A wait that is part of a cycle.
pub fn deadlock(py: Python<'_>, why: String) -> PyErr {
    made(py, &imports::DEADLOCK, (why,))
}

/// A wait that can never be satisfied.
pub fn disconnected(py: Python<'_>, core: &CoreWorker) -> PyErr {
    if core.is_closed() {
        return system(py, "the session was shut down while this thread waited");
    }
    made(py, &imports::RAYLET_DIED, ())
}

/// An `ObjectRef` of a session that has ended.
pub fn old_reference(py: Python<'_>) -> PyErr {
    if core::is_forked() {
        return system(py, core::FORK_TEXT);
    }
    system(
        py,
        "this ObjectRef belongs to a session that has ended; its object is gone",
    )
}

pub fn old_handle(py: Python<'_>, actor_id_hex: &str) -> PyErr {
    if core::is_forked() {
        return system(py, core::FORK_TEXT);
    }
    let text = format!(
        "ActorHandle objects are not valid across Ray sessions. This actor handle (actor id {actor_id_hex}) belongs to \
         a session that has ended; make a new actor, or look it up with get_actor()."
    );
    made(py, &imports::HANDLE_NOT_FOUND, (text,))
}

/// A value whose bytes would not unpickle.
pub fn deserialization_failed(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
        return error;
    }
    made(py, &imports::DESERIALIZATION_FAILED, (error.into_value(py),))
}
