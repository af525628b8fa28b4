//! What the dispatcher is told, what it orders, and the numbers both speak in.

use std::time::Duration;

/// A task of this owner. A small dense number (an index into the owner's own table): the dispatcher keeps an array over
/// it. It may be used again once the dispatcher has let the task go: finished, gone, or reported as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey(pub u32);

/// A lease as the raylet numbers it; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey(pub u64);

/// A request for a lease, numbered by the dispatcher; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey(pub u64);

impl RequestKey {
    /// A request's number carries its class, so that a grant that crosses a cancellation can still be used.
    pub fn class(self) -> ClassKey {
        ClassKey((self.0 >> 32) as u32)
    }

    /// Whether it was made before the one of that number. Numbers go round: it must be one of the last two thousand million.
    pub(crate) fn is_before(self, serial: u32) -> bool {
        (self.0 as u32).wrapping_sub(serial) > u32::MAX / 2
    }

    pub(crate) fn new(class: ClassKey, serial: u32) -> Self {
        Self(u64::from(class.0) << 32 | u64::from(serial))
    }
}

/// A scheduling class: tasks that may share a lease (the same resources and environment). Small and dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassKey(pub u32);

/// A function, for its usual run time. Small and dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionKey(pub u32);

/// A fact. Those that speak of a task or lease that the dispatcher no longer knows are ignored: an answer may always
/// cross a death, a cancellation or a withdrawal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All arguments of the task are there. The key must be free (see [`TaskKey`]).
    TaskReady {
        task: TaskKey,
        class: ClassKey,
        function: FunctionKey,
        /// It was in flight on a lease that died, unclaimed: those that were submitted after it do not overtake it.
        again: bool,
    },
    /// Tasks of the class are likely to come soon: a worker is asked for at once, unless there is one.
    Expected { class: ClassKey },
    /// The worker of `lease` replied; `run` is the time that the body took.
    TaskFinished {
        lease: LeaseKey,
        task: TaskKey,
        run: Duration,
    },
    /// The owner dropped the task: cancelled while queued, or in flight and withdrawn by the owner itself.
    TaskGone { task: TaskKey },
    /// The raylet answered `request` with a worker.
    LeaseGranted { request: RequestKey, lease: LeaseKey },
    /// The raylet will not answer `request` with a worker. Asked again after a pause if tasks still wait.
    LeaseRejected { request: RequestKey },
    /// The raylet can give no worker to this class: the tasks that wait for one fail.
    LeaseRefused { request: RequestKey },
    /// Push no more to it; it is returned as soon as it runs nothing. Also the way to tell that a worker leaves after
    /// its current task: send it before that task's `TaskFinished`.
    LeaseRevoked { lease: LeaseKey },
    /// The worker or its lane is dead.
    LeaseDied { lease: LeaseKey },
    /// The worker's current task is about to block: the worker gives these entries back, unclaimed.
    EntriesReturned { lease: LeaseKey, tasks: Vec<TaskKey> },
    /// Answer to [`Effect::Withdraw`]: `withdrawn` when the claim word says that the worker will not run it.
    WithdrawResult {
        lease: LeaseKey,
        task: TaskKey,
        withdrawn: bool,
    },
    /// [`next_deadline`](crate::Dispatcher::next_deadline) has come.
    Tick,
}

/// An order to the owner's shell, to be carried out in sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Write the task to the lane of the lease's worker.
    Push { lease: LeaseKey, task: TaskKey },
    /// Ask the raylet for a worker; `backlog` tasks of the class are queued, and it is the turn of `first`.
    RequestLease {
        request: RequestKey,
        class: ClassKey,
        backlog: u32,
        first: TaskKey,
    },
    /// The same for a class that has no task yet, see [`Event::Expected`].
    RequestAhead { request: RequestKey, class: ClassKey },
    /// The request is no longer wanted. A grant that crosses it is handled.
    CancelRequest { request: RequestKey },
    /// Give the lease back to the raylet; the dispatcher has forgotten it.
    ReturnLease { lease: LeaseKey },
    /// Try to withdraw the entry; answer with [`Event::WithdrawResult`], before anything else about this task.
    Withdraw { lease: LeaseKey, task: TaskKey },
    /// No worker will ever run the task, which the dispatcher has forgotten.
    Refused { task: TaskKey },
    /// The task was in flight on a lease that died, and the dispatcher has forgotten it. The owner looks at the claim
    /// word: unclaimed tasks come back with [`Event::TaskReady`] for free (`again`), claimed ones cost a retry. The last
    /// task comes first, as each that comes back goes before the others.
    LostClaimed { task: TaskKey },
}
