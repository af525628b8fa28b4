//! What virtual processes say to one another.

use std::time::Duration;

use ray_rs_types::ObjectId;

/// A process: 0 is the driver, [`RAYLET`] the raylet, all others are workers. Never used twice.
pub type Proc = u32;
pub(crate) const RAYLET: Proc = u32::MAX;

/// A reference on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireRef {
    pub id: ObjectId,
    pub owner: Proc,
}

/// A value on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireValue {
    pub number: u64,
    pub is_error: bool,
    pub refs: Vec<WireRef>,
}

/// The names are those of the messages in `proto/`.
#[derive(Debug, Clone)]
pub enum Msg {
    PushTask {
        seq: u64,
        unique: u64,
        function: usize,
        deps: Vec<WireValue>,
        nested: Vec<WireRef>,
    },
    TaskReply {
        seq: u64,
        value: WireValue,
        run: Duration,
        borrowed: Vec<WireRef>,
    },
    EntriesReturned {
        seqs: Vec<u64>,
    },
    GetObject {
        request: u64,
        id: ObjectId,
    },
    ObjectValue {
        request: u64,
        value: Option<WireValue>,
    },
    BorrowAdd {
        id: ObjectId,
        borrower: Proc,
    },
    BorrowRemove {
        id: ObjectId,
        count: u32,
    },
    /// The sender's end of a socket has closed: nothing follows.
    Closed,
    RequestLease {
        request: u64,
        half_cpus: u32,
        ahead: bool,
    },
    LeaseBegun {
        lease: u64,
    },
    CancelLeaseRequest {
        request: u64,
    },
    ReturnLease {
        lease: u64,
        worker_gone: bool,
    },
    Blocked,
    Unblocked,
    WhyDied {
        worker: Proc,
    },
    LeaseGranted {
        request: u64,
        lease: u64,
        worker: Proc,
    },
    LeaseRejected {
        request: u64,
    },
    LeaseRevoked {
        lease: u64,
    },
    DeathReport {
        worker: Proc,
    },
    /// Leave, if you own nothing.
    Exit,
    /// The answer to `Exit` of one that owns something.
    Stays,
    /// It owns nothing any more.
    Unneeded,
}
