//! Stories: events in, effects out, and nothing else.

use ray_rs_types::{ActorId, JobId, ObjectId, TaskId};
use smallvec::{SmallVec, smallvec};

use crate::{AfterEnd, Contains, Effect, NoLineage, OwnerIndex, OwnerTable, RefKind, RefSlot, Watcher};

#[derive(Debug, PartialEq, Eq, Clone)]
struct Value(u32, Vec<RefSlot>);

impl Contains for Value {
    fn references(&self) -> &[RefSlot] {
        &self.1
    }
}

type Table = OwnerTable<Value, &'static str>;

fn task_id(unique: u64) -> TaskId {
    TaskId::new(unique, ActorId::nil_of(JobId::from_int(1)))
}

fn put_id(unique: u64) -> ObjectId {
    ObjectId::new(task_id(unique), ObjectId::FIRST_PUT_INDEX)
}

const PEER: OwnerIndex = OwnerIndex(7);
const OTHER: OwnerIndex = OwnerIndex(8);

const FORGET: AfterEnd<Value> = AfterEnd::Forget(NoLineage::NotKept);
const KEEP: AfterEnd<Value> = AfterEnd::Keep {
    bytes: 1,
    arguments: Value(0, vec![]),
};

#[test]
fn a_dropped_put_is_freed_with_what_it_contains() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let inner = table.value_put(put_id(1), Value(1, vec![]));
    table.local_added(inner);
    let outer = table.value_put(put_id(2), Value(2, vec![inner]));
    table.local_dropped(inner, &mut effects);
    assert_eq!(effects, []);
    table.check_invariants();
    table.local_dropped(outer, &mut effects);
    assert_eq!(
        effects,
        [
            Effect::Free {
                value: Value(2, vec![inner])
            },
            Effect::Free {
                value: Value(1, vec![])
            }
        ]
    );
    assert_eq!(table.reference_count(), 0);
}

#[test]
fn an_object_is_found_by_its_id_before_and_after_it_was_given_away() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let slot = table.value_put(put_id(1), Value(1, vec![]));
    assert_eq!(table.named(&put_id(2)), None);
    assert_eq!(table.named(&put_id(1)), Some(slot));
    table.index(slot);
    assert_eq!(table.named(&put_id(1)), Some(slot));
    table.local_dropped(slot, &mut effects);
    table.local_dropped(slot, &mut effects);
    assert_eq!(effects, []);
    table.check_invariants();
    table.local_dropped(slot, &mut effects);
    assert_eq!(
        effects,
        [Effect::Free {
            value: Value(1, vec![])
        }]
    );
    assert_eq!(table.named(&put_id(1)), None);
}

#[test]
fn a_task_waits_for_its_argument_and_holds_it() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let (first, returns) = table.task_submitted(task_id(1), 1, "f", smallvec![], smallvec![], 3, &mut effects);
    assert_eq!(effects, [Effect::TaskReady(first)]);
    effects.clear();
    let (second, results) =
        table.task_submitted(task_id(2), 1, "g", smallvec![returns[0]], smallvec![], 3, &mut effects);
    assert_eq!(effects, []);
    assert!(table.watch(results[0], Watcher::Waiter(5), &mut effects));
    table.task_finished(first, [(Value(10, vec![]), false)], FORGET, &mut effects);
    assert_eq!(effects, [Effect::TaskReady(second)]);
    effects.clear();
    table.check_invariants();
    table.task_finished(second, [(Value(20, vec![]), false)], FORGET, &mut effects);
    assert_eq!(
        effects,
        [
            Effect::Tell {
                watcher: Watcher::Waiter(5),
                slot: results[0]
            },
            Effect::Free {
                value: Value(10, vec![])
            }
        ]
    );
}

#[test]
fn a_failed_argument_fails_the_task() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let (first, returns) = table.task_submitted(task_id(1), 1, "f", smallvec![], smallvec![], 0, &mut effects);
    let (second, _) = table.task_submitted(task_id(2), 1, "g", smallvec![returns[0]], smallvec![], 0, &mut effects);
    effects.clear();
    table.task_finished(first, [(Value(0, vec![]), true)], FORGET, &mut effects);
    assert_eq!(
        effects,
        [Effect::ArgumentFailed {
            task: second,
            argument: returns[0]
        }]
    );
}

#[test]
fn a_return_dropped_before_its_task_ends_is_freed_at_the_end() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let (task, returns) = table.task_submitted(task_id(1), 1, "f", smallvec![], smallvec![], 0, &mut effects);
    effects.clear();
    table.local_dropped(returns[0], &mut effects);
    assert_eq!(effects, []);
    table.task_finished(task, [(Value(1, vec![]), false)], KEEP, &mut effects);
    assert_eq!(
        effects,
        [0, 1].map(|number| Effect::Free {
            value: Value(number, vec![])
        }),
        "with the arguments that would have been kept"
    );
    assert_eq!((table.reference_count(), table.task_count()), (0, 0));
}

#[test]
fn an_error_that_nobody_looked_at_is_told_when_it_goes() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let (task, returns) = table.task_submitted(task_id(1), 3, "f", smallvec![], smallvec![], 0, &mut effects);
    effects.clear();
    let error = |number| (Value(number, vec![]), true);
    table.local_dropped(returns[0], &mut effects);
    table.task_finished(task, [error(1), error(2), error(3)], FORGET, &mut effects);
    table.seen(returns[1]);
    table.local_dropped(returns[1], &mut effects);
    table.local_dropped(returns[2], &mut effects);
    let value = |number| Value(number, vec![]);
    assert_eq!(
        effects,
        [
            Effect::FreeUnseenError { value: value(1) },
            Effect::Free { value: value(2) },
            Effect::FreeUnseenError { value: value(3) },
        ]
    );
}

#[test]
fn an_argument_of_a_task_that_was_given_up_does_not_count_for_the_next_one() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let mut submit = |table: &mut Table, unique, deps: &[RefSlot]| {
        for slot in deps {
            table.local_added(*slot);
        }
        let (task, returns) = table.task_submitted(task_id(unique), 1, "f", deps.into(), smallvec![], 0, &mut effects);
        (task, returns[0])
    };
    let (slow, late) = submit(&mut table, 1, &[]);
    let (other, later) = submit(&mut table, 2, &[]);
    let (given_up, _unused) = submit(&mut table, 3, &[late]);
    table.task_finished(given_up, [(Value(0, vec![]), true)], FORGET, &mut Vec::new());
    let (next, _result) = submit(&mut table, 4, &[later]);
    assert_eq!(next, given_up, "the key is used again");
    effects.clear();
    table.task_finished(slow, [(Value(1, vec![]), false)], FORGET, &mut effects);
    assert_eq!(effects, [], "its own argument is still to come");
    table.task_finished(other, [(Value(2, vec![]), false)], FORGET, &mut effects);
    assert_eq!(effects, [Effect::TaskReady(next)]);
    table.check_invariants();
}

#[test]
fn lineage_stays_as_long_as_a_return() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let (task, returns) = table.task_submitted(task_id(1), 2, "f", smallvec![], smallvec![], 0, &mut effects);
    table.task_finished(
        task,
        [(Value(1, vec![]), false), (Value(2, vec![]), false)],
        KEEP,
        &mut effects,
    );
    table.local_dropped(returns[0], &mut effects);
    assert_eq!(table.spec(task), Some(&"f"));
    table.local_dropped(returns[1], &mut effects);
    assert_eq!(table.spec(task), None);
}

#[test]
fn giving_back_may_overtake_giving() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let slot = table.value_put(put_id(1), Value(1, vec![]));
    table.grant_given(slot, PEER, &mut effects);
    table.local_dropped(slot, &mut effects);
    assert_eq!(effects, [], "PEER borrows it");
    // PEER granted OTHER, who has already given the grant back; PEER's message comes last.
    let id = put_id(1);
    assert!(table.borrow_returned(&id, OTHER, 1, &mut effects));
    assert!(table.borrow_returned(&id, PEER, 1, &mut effects));
    assert_eq!(effects, []);
    assert!(table.borrow_granted(&id, OTHER, &mut effects));
    assert_eq!(
        effects,
        [Effect::Free {
            value: Value(1, vec![])
        }]
    );
}

#[test]
fn a_borrower_reports_once_and_returns_all() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let slot = table.imported(put_id(9), PEER, RefKind::Value);
    table.local_added(slot);
    assert!(
        table.reported_as_borrowed(slot, 1),
        "somebody else in the process holds it"
    );
    table.local_dropped(slot, &mut effects);
    assert!(!table.reported_as_borrowed(slot, 0), "reported already");
    assert_eq!(effects, []);
    table.local_dropped(slot, &mut effects);
    assert_eq!(
        effects,
        [Effect::ReturnBorrow {
            owner: PEER,
            id: put_id(9),
            count: 1
        }]
    );
}

#[test]
fn a_borrowed_value_is_fetched_once() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let slot = table.imported(put_id(9), PEER, RefKind::Value);
    assert!(table.watch(slot, Watcher::Waiter(1), &mut effects));
    assert!(table.watch(slot, Watcher::Notify(2), &mut effects));
    assert_eq!(
        effects,
        [Effect::Fetch {
            slot,
            id: put_id(9),
            owner: PEER
        }]
    );
    effects.clear();
    table.fetched(slot, Value(3, vec![]), false, &mut effects);
    assert_eq!(
        effects,
        [
            Effect::Tell {
                watcher: Watcher::Waiter(1),
                slot
            },
            Effect::Tell {
                watcher: Watcher::Notify(2),
                slot
            }
        ]
    );
    table.check_invariants();
}

#[test]
fn a_dead_borrower_holds_nothing() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let slot = table.value_put(put_id(1), Value(1, vec![]));
    table.grant_given(slot, PEER, &mut effects);
    table.local_dropped(slot, &mut effects);
    table.borrower_died(PEER, &mut effects);
    assert_eq!(
        effects,
        [Effect::Free {
            value: Value(1, vec![])
        }]
    );
}

#[test]
fn what_is_granted_to_the_dead_is_not_held() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let slot = table.value_put(put_id(1), Value(1, vec![]));
    table.index(slot);
    table.borrower_died(OwnerIndex(7), &mut effects);
    // A third process granted it before it knew; its word comes after the death.
    assert!(table.borrow_granted(&put_id(1), OwnerIndex(7), &mut effects));
    table.grant_given(slot, OwnerIndex(7), &mut effects);
    table.check_invariants();
    table.local_dropped(slot, &mut effects);
    assert_eq!(
        effects,
        vec![Effect::Free {
            value: Value(1, vec![])
        }]
    );
    assert_eq!(table.reference_count(), 0);
}

#[test]
fn the_last_actor_handle_is_reported() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let handle = table.actor_handle_created(put_id(4));
    table.local_added(handle);
    let held: SmallVec<[RefSlot; 0]> = smallvec![handle];
    let (call, returns) = table.task_submitted(task_id(1), 1, "m", smallvec![], held, 0, &mut effects);
    table.local_dropped(returns[0], &mut effects);
    table.local_dropped(handle, &mut effects);
    effects.clear();
    table.task_finished(call, [(Value(1, vec![]), false)], FORGET, &mut effects);
    assert_eq!(
        effects,
        [
            Effect::ActorHandlesGone { id: put_id(4) },
            Effect::Free {
                value: Value(1, vec![])
            }
        ]
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
    );
}

#[test]
fn duplicates_are_found() {
    let mut table = Table::default();
    let slots: Vec<_> = (0..4).map(|i| table.value_put(put_id(i), Value(0, vec![]))).collect();
    assert!(!table.has_duplicates(&slots));
    assert!(!table.has_duplicates(&slots));
    assert!(table.has_duplicates(&[slots[1], slots[2], slots[1]]));
}

#[test]
fn retries_are_counted() {
    let (mut table, mut effects) = (Table::default(), vec![]);
    let (task, _) = table.task_submitted(task_id(1), 1, "f", smallvec![], smallvec![], 1, &mut effects);
    assert!(table.may_retry(task));
    assert_eq!(table.attempt(task), 1);
    assert!(!table.may_retry(task));
    let (task, _) = table.task_submitted(task_id(2), 1, "f", smallvec![], smallvec![], -1, &mut effects);
    assert!((0..100).all(|_| table.may_retry(task)));
}
