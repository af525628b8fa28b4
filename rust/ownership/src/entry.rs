//! One reference known to this process.

use ray_rs_types::ObjectId;
use smallvec::SmallVec;

use crate::effect::Watcher;
use crate::task::TaskKey;

/// Index of a reference in this process's table; valid while a count of it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefSlot(pub u32);

/// The core worker's number of a process's address; [`OwnerIndex::ME`] is this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerIndex(pub u32);

impl OwnerIndex {
    pub const ME: Self = Self(0);
}

/// What the reference stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefKind {
    Value,
    /// Counts the handles of an actor; it never has a value.
    ActorHandle,
}

/// Why the task of an object would not run again if its value were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoLineage {
    /// No task made it.
    #[default]
    Put,
    /// `max_retries` is 0.
    RetriesDisabled,
    /// `max_retries` is used up.
    AttemptsExceeded,
    /// The specs of newer tasks needed the room.
    Evicted,
    /// A call of an actor's method made it, which is not repeated once it has been answered.
    ActorCall,
    /// It is an item of a generator, or its end.
    Generator,
    /// Its task was cancelled or failed, or the value is small: it lies with its owner, and cannot be lost before that.
    NotKept,
    /// Its first owner has died, and what came here with its reference would not make it.
    Adopted,
}

/// Whether the value is here.
#[derive(Debug)]
pub(crate) enum State<V> {
    /// Owned: its task has not finished. Borrowed: not asked for yet.
    Absent,
    /// Borrowed, and asked for.
    Fetching,
    Ready {
        value: V,
        is_error: bool,
    },
    /// Owned: it was there, and was lost, or was let go while only lineage named it. Its task makes it again as soon as
    /// somebody needs it (LIN-2). Of an actor's handle: its end was told.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Entry<V> {
    pub id: ObjectId,
    pub owner: OwnerIndex,
    pub kind: RefKind,
    /// The id was given to another process, so it is in the table's index by id.
    pub indexed: bool,
    /// Handles in this process (and counts in passing).
    pub local: u32,
    /// Tasks in flight that use it.
    pub submitted: u32,
    /// Stored values in this process that contain it.
    pub contained: u32,
    /// Kept specs that name it as an argument (LIN-1).
    pub lineage: u32,
    /// Borrowed: grants to be given back to the owner.
    pub grants: u32,
    /// Owned: sum of grants by borrower; none is zero.
    pub borrowers: SmallVec<[(OwnerIndex, i64); 0]>,
    pub state: State<V>,
    /// Owned: the task that makes it, until it has; then, if its value may have to be made again, its lineage.
    /// Borrowed: the inherited spec (ADO-1).
    pub task: Option<TaskKey>,
    /// Owned, and `task` is none: why.
    pub no_lineage: NoLineage,
    /// The value was looked at, or another process or task took it over: if it is an error, someone knows.
    pub seen: bool,
    /// What it takes to have it without its owner came with the reference, or goes with it.
    pub outlives: bool,
    /// Owned, and its value lies in an arena: its block is not freed with this process.
    pub shared: bool,
    /// Owned, since others say so: what it takes to have it is under way (ADO-5). Absent then, and no task makes it.
    pub awaits_will: bool,
    /// Where the program made it, by the core worker's number of the place; 0: not noted.
    pub site: u32,
    /// The last query that saw it, for finding duplicates in one pass.
    pub stamp: u32,
    pub watchers: SmallVec<[Watcher; 1]>,
}

impl<V> Entry<V> {
    pub fn new(id: ObjectId, owner: OwnerIndex, kind: RefKind) -> Self {
        Self {
            id,
            owner,
            kind,
            indexed: false,
            local: 1,
            submitted: 0,
            contained: 0,
            lineage: 0,
            grants: 0,
            borrowers: SmallVec::new(),
            state: State::Absent,
            task: None,
            no_lineage: NoLineage::Put,
            seen: false,
            outlives: false,
            shared: false,
            awaits_will: false,
            site: 0,
            stamp: 0,
            watchers: SmallVec::new(),
        }
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Nothing holds its value (whether its task still runs is another matter).
    pub fn is_unreferenced(&self) -> bool {
        self.local == 0
            && self.submitted == 0
            && self.contained == 0
            && self.borrowers.is_empty()
            && (self.lineage == 0 || self.outlives_its_value())
    }

    /// Lineage is content with the entry, and holds no value: that can be made again, or, of an actor's handle, is none.
    fn outlives_its_value(&self) -> bool {
        self.owner == OwnerIndex::ME
            && (self.task.is_some() || self.kind == RefKind::ActorHandle || matches!(self.state, State::Gone))
    }
}
