//! Storing, getting and waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ray_rs_lanes::{EXEC, PROGRESS, Woke};
use ray_rs_object_store::{copy_bytes, layout};
use ray_rs_ownership::Watcher;
use ray_rs_types::config::{MAX_INLINE_BYTES, SPIN};
use smallvec::SmallVec;

use crate::core::{CoreWorker, Interrupt};
use crate::execute::Group;
use crate::executing::EXECUTING_NORMAL;
use crate::model::*;
use crate::state::{State, Waiter};

/// Signals are looked for at least so often.
const SLICE: Duration = Duration::from_millis(50);

/// Replies that a glance may find before it gives up.
const GLANCES: u32 = 4;

/// Who rests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rester<'a> {
    /// A thread that waits for an object, or for its consumer.
    Waiter,
    /// One that waits for something to run.
    Executor(Group<'a>),
}

/// Why a rest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rested {
    Something,
    TimedOut,
    Interrupted,
}

impl CoreWorker {
    // ---- storing -----------------------------------------------------------------------------------------------

    /// Copies a value once, to where it will stay. Takes over one local count of each of `refs`.
    ///
    /// # Errors
    /// [`CoreError::StoreFull`], [`CoreError::Interrupted`], [`CoreError::RayletDied`].
    pub fn store(
        &self,
        parts: ValueParts<'_>,
        refs: SmallVec<[RefSlot; 0]>,
        interrupt: Interrupt<'_>,
    ) -> Result<StoredValue, CoreError> {
        let kind = parts.kind;
        let lens: SmallVec<[u64; 4]> = parts.buffers.iter().map(|buffer| buffer.len() as u64).collect();
        let plan = (kind == ValueKind::Laid).then(|| layout::plan(parts.data.len() as u64, &lens));
        let total = plan.as_ref().map_or(parts.data.len() as u64, |plan| plan.total);
        let fill = |bytes: &mut [u8]| match &plan {
            None => copy_bytes(bytes, parts.data),
            Some(plan) => {
                layout::write_header(plan, bytes);
                copy_bytes(&mut bytes[plan.pickle.clone()], parts.data);
                for (offset, buffer) in plan.offsets.iter().zip(parts.buffers) {
                    let start = *offset as usize;
                    copy_bytes(&mut bytes[start..start + buffer.len()], buffer);
                }
            }
        };
        if kind == ValueKind::None {
            return Ok(StoredValue {
                kind,
                data: ValueData::Empty,
                refs,
            });
        }
        // Errors stay inline: they are cloned to everything that depends on them.
        if total <= MAX_INLINE_BYTES as u64 || kind == ValueKind::Error {
            let data = match &plan {
                None => Bytes::copy_from_slice(parts.data),
                Some(_) => {
                    let mut bytes = vec![0; total as usize];
                    fill(&mut bytes);
                    Bytes::from(bytes)
                }
            };
            return Ok(StoredValue {
                kind,
                data: ValueData::Inline(data),
                refs,
            });
        }
        let (arena, me) = (&self.arena, self.info().address.worker_id);
        let block = self.allocate_block(total, interrupt)?;
        let location = Location {
            offset: block.offset,
            length: block.len,
            generation: block.generation,
            holder: Some(me),
            node: None,
        };
        fill(&mut arena.writer(&block));
        arena.seal(block);
        Ok(StoredValue {
            kind,
            data: ValueData::Arena(location),
            refs,
        })
    }

    /// `site`: the line of the program that puts, if it is to be noted.
    pub fn put(&self, value: StoredValue, site: Option<&str>) -> RefSlot {
        self.with(|state| {
            let id = state.fresh_put_id();
            let slot = state.owner.value_put(id, value);
            if let Some(site) = site {
                state.made_at(&[slot], site);
            }
            slot
        })
    }

    /// A stored value that nobody will own after all.
    pub fn abandon(&self, value: StoredValue) {
        self.with(|state| {
            state.owner.value_abandoned(value, &mut state.owner_effects);
            state.run_effects();
        });
    }

    // ---- questions ---------------------------------------------------------------------------------------------

    pub fn is_ready(&self, slot: RefSlot) -> bool {
        self.state.lock().owner.is_ready(slot)
    }

    pub fn is_error(&self, slot: RefSlot) -> bool {
        self.state
            .lock()
            .owner
            .value(slot)
            .is_some_and(|(_, is_error)| is_error)
    }

    /// Whether it is ready, an error, and of how many bytes. Waits for nothing, holds nothing and counts as no look.
    pub fn at_a_glance(&self, slot: RefSlot) -> Option<(bool, u64)> {
        self.state.lock().owner.value(slot).map(|(value, is_error)| {
            let bytes = match &value.data {
                ValueData::Inline(data) => data.len() as u64,
                ValueData::Arena(location) => location.length,
                ValueData::Empty | ValueData::Failed(_) => 0,
            };
            (is_error, bytes)
        })
    }

    /// Of these, whatever they become, only one is raised: the errors of the others count as looked at.
    pub fn errors_seen(&self, slots: &[RefSlot]) {
        let mut state = self.state.lock();
        slots.iter().for_each(|slot| state.owner.seen(*slot));
    }

    pub fn has_duplicates(&self, slots: &[RefSlot]) -> bool {
        self.state.lock().owner.has_duplicates(slots)
    }

    /// Which of `slots` are ready; looks at the lanes first when fewer than `num_wanted` are. Errors among them count as
    /// looked at.
    pub fn ready_mask(&self, slots: &[RefSlot], num_wanted: usize, out: &mut Vec<bool>) -> usize {
        let look = |state: &mut State, out: &mut Vec<bool>| {
            out.clear();
            let effects = &mut state.owner_effects;
            out.extend(slots.iter().map(|slot| state.owner.see_if_ready(*slot, effects)));
            state.run_effects();
            out.iter().filter(|ready| **ready).count()
        };
        self.with(|state| {
            let count = look(state, out);
            if count >= num_wanted || !state.drain_lanes(1024) {
                return count;
            }
            look(state, out)
        })
    }

    /// What is known of the value, if it is ready.
    pub fn try_read(&self, slot: RefSlot) -> Option<Read> {
        self.with(|state| {
            if !state.owner.is_ready(slot) {
                state.drain_lanes(64);
            }
            read_ready(state, slot)
        })
    }

    /// As [`Self::try_read`], and looks at the lanes for [`GLANCE`] more, if such looks have paid lately. For a caller that
    /// keeps its interpreter locked meanwhile: of several threads that call and get short tasks each then runs on for a
    /// while, where otherwise every single task would cost two hand-overs of the interpreter.
    pub fn glance(&self, slot: RefSlot) -> Option<Read> {
        if let Some(read) = self.try_read(slot) {
            return Some(read);
        }
        // Whoever holds it looks at the same lanes.
        let mut glancer = self.glancer.try_lock()?;
        if !glancer.is_on() {
            return None;
        }
        let probes = Arc::clone(&self.state.lock().peers.probes);
        // What is seen first may be another task's reply.
        for _ in 0..GLANCES {
            if !glancer.spin_until(|| probes.iter().any(|probe| probe.has_data())) {
                return None;
            }
            if let Some(read) = self.try_read(slot) {
                self.glances.fetch_add(1, Ordering::Relaxed);
                return Some(read);
            }
        }
        None
    }

    /// [`HostEvent::Ready`] with `token` once the object is ready, at once if it is. `is_awaited`: a coroutine waits for it.
    pub fn notify_when_ready(&self, slot: RefSlot, token: u64, is_awaited: bool) {
        self.with(|state| {
            state.owner.local_added(slot);
            if state
                .owner
                .watch(slot, Watcher::Notify(token), &mut state.owner_effects)
            {
                if is_awaited {
                    state.await_begins();
                }
                state.run_effects();
            } else {
                state.drop_local(slot);
                state.after.host.push(HostEvent::Ready(vec![token]));
            }
        });
    }

    // ---- waiting -----------------------------------------------------------------------------------------------

    /// Waits until `num_wanted` of `slots` are ready (or one of them is an error, if `stop_at_error`).
    pub fn wait(
        &self,
        slots: &[RefSlot],
        num_wanted: usize,
        timeout: Option<Duration>,
        stop_at_error: bool,
        interrupt: Interrupt<'_>,
    ) -> WaitOutcome {
        if self.is_forked() {
            return WaitOutcome::Disconnected;
        }
        let began = timeout.map(|_| Instant::now());
        let Some(me) = self.with(|state| register(state, slots, num_wanted, stop_at_error)) else {
            return WaitOutcome::Satisfied;
        };
        let mut blocked = false;
        let mut spun = false;
        let mut rested_once = false;
        let mut look = None;
        let outcome = loop {
            let satisfied = self.with(|state| {
                if !is_satisfied(state, me) {
                    state.drain_lanes(256);
                }
                let satisfied = is_satisfied(state, me);
                if rested_once && !satisfied && look.is_none() {
                    look = state.note_blocked(me, slots, num_wanted, timeout.is_some());
                }
                satisfied
            });
            if satisfied {
                break WaitOutcome::Satisfied;
            }
            if let Some(look) = &mut look
                && let Some(why) = self.look_round(me, look)
            {
                break WaitOutcome::Deadlocked(why);
            }
            let mut slice = SLICE;
            if let (Some(limit), Some(began)) = (timeout, began) {
                let left = limit.saturating_sub(began.elapsed());
                if left.is_zero() {
                    break WaitOutcome::TimedOut;
                }
                slice = slice.min(left);
            }
            if self.is_disconnected() {
                break WaitOutcome::Disconnected;
            }
            if !blocked && EXECUTING_NORMAL.get() {
                if spun {
                    self.with(State::task_blocks);
                    blocked = true;
                } else {
                    slice = slice.min(SPIN);
                    spun = true;
                }
            }
            let rested = self.hold_or_park(PROGRESS, slice, Rester::Waiter);
            rested_once = true;
            if rested != Rested::Something && interrupt() {
                break WaitOutcome::Interrupted;
            }
        };
        self.with(|state| {
            unregister(state, me, slots);
            if blocked {
                state.task_unblocks();
            }
        });
        outcome
    }

    /// Sleeps until something may have changed: as the holder on the doorbell, or in-process behind the holder.
    pub(crate) fn hold_or_park(&self, wants: u32, slice: Duration, who: Rester<'_>) -> Rested {
        let is_executor = matches!(who, Rester::Executor(_));
        enum Place {
            Hold(Arc<Vec<ray_rs_lanes::LaneProbe>>, Arc<AtomicBool>),
            Park,
            Again,
        }
        let (mut slice, mut wants) = (slice, wants);
        let place = self.with(|state| {
            // From here on a nudge is for this thread; what came before it is looked at now.
            if !state.holder {
                state.nudged.store(false, Ordering::SeqCst);
            }
            if let Rester::Executor(group) = who
                && state.has_work_for(group)
            {
                return Place::Again;
            }
            if state.holder {
                let thread = std::thread::current();
                if is_executor {
                    state.execution.parked.push(thread);
                } else if let Some(waiter) = state
                    .waiters
                    .iter_mut()
                    .flatten()
                    .find(|waiter| waiter.thread.id() == thread.id())
                {
                    if waiter.satisfied {
                        return Place::Again;
                    }
                    waiter.parked = true;
                }
                return Place::Park;
            }
            state.holder = true;
            state.holder_rests = true;
            if state.execution.calls_begin_on_others() {
                wants |= EXEC;
            }
            self.bell.disarm_eventfd();
            if let Some(at) = state.next_deadline() {
                slice = slice.min(at.saturating_sub(state.now()).max(Duration::from_micros(100)));
            }
            if state.peers.in_flight > 1 && !is_executor {
                // Replies may be there whose ring is still held back.
                slice = slice.min(Duration::from_millis(1));
            }
            Place::Hold(Arc::clone(&state.peers.probes), Arc::clone(&state.nudged))
        });
        match place {
            Place::Again => Rested::Something,
            Place::Park => {
                std::thread::park_timeout(slice.min(SLICE));
                if is_executor {
                    let id = std::thread::current().id();
                    self.state.lock().execution.parked.retain(|thread| thread.id() != id);
                }
                Rested::TimedOut
            }
            Place::Hold(probes, nudged) => {
                let woke = {
                    let mut spinner = self.spinner.lock();
                    self.bell.wait(wants, &mut spinner, slice, || {
                        nudged.load(Ordering::SeqCst) || probes.iter().any(|probe| probe.has_data())
                    })
                };
                self.with(|state| {
                    state.holder_rests = false;
                    state.drain_lanes(256);
                    state.on_deadline();
                    state.pass_holder_on();
                    if !state.holder && state.progress_sleeping {
                        self.bell.arm_eventfd(PROGRESS | state.execution.loops.wants());
                        state.drain_lanes(64);
                    }
                });
                match woke {
                    Woke::Ready | Woke::Rung => Rested::Something,
                    Woke::TimedOut => Rested::TimedOut,
                    Woke::Interrupted => Rested::Interrupted,
                }
            }
        }
    }
}

fn read_ready(state: &mut State, slot: RefSlot) -> Option<Read> {
    let value = state.owner.value(slot)?.0.clone();
    state.owner.seen(slot);
    Some(match state.read_value(&value) {
        // Memory ends with its owner, unless it was made to outlive it.
        Ok(away)
            if matches!(away.data, ReadData::Away(_))
                && state.peers.is_dead(state.owner.owner(slot))
                && !state.owner.does_outlive_owner(slot) =>
        {
            away.refs.iter().for_each(|slot| state.drop_local(*slot));
            Read::Failed(Failure::owner_died_and("its memory with it"))
        }
        Ok(value) => Read::Value(value),
        Err(failure) => Read::Failed(*failure),
    })
}

fn is_satisfied(state: &State, me: u32) -> bool {
    state
        .waiters
        .get(me as usize)
        .and_then(Option::as_ref)
        .is_none_or(|waiter| waiter.satisfied)
}

/// `None` when there is nothing to wait for.
fn register(state: &mut State, slots: &[RefSlot], num_wanted: usize, stop_at_error: bool) -> Option<u32> {
    state.drain_lanes(256);
    let mut ready = 0;
    for slot in slots {
        if let Some((_, is_error)) = state.owner.value(*slot) {
            if is_error && stop_at_error {
                return None;
            }
            ready += 1;
        }
    }
    if ready >= num_wanted {
        return None;
    }
    let waiter = Waiter {
        blocked: None,
        remaining: num_wanted - ready,
        stop_at_error,
        satisfied: false,
        thread: std::thread::current(),
        parked: false,
    };
    let me = match state.waiters.iter().position(Option::is_none) {
        Some(free) => {
            state.waiters[free] = Some(waiter);
            free as u32
        }
        None => {
            state.waiters.push(Some(waiter));
            state.waiters.len() as u32 - 1
        }
    };
    for slot in slots {
        state.owner.watch(*slot, Watcher::Waiter(me), &mut state.owner_effects);
    }
    state.run_effects();
    Some(me)
}

fn unregister(state: &mut State, me: u32, slots: &[RefSlot]) {
    state.waiters[me as usize] = None;
    for slot in slots {
        if !state.owner.is_ready(*slot) {
            state.owner.unwatch(*slot, Watcher::Waiter(me));
        }
    }
}
