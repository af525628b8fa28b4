//! The frames of a worker: what a task does, step by step.

use super::*;

impl Process {
    pub(super) fn begin_next(&mut self, cx: &mut Context<'_>) {
        while let Some(queued) = self.queue.pop_front() {
            if !cx.claims.claim((queued.from, self.id, queued.seq)) && cx.mutation != Mutation::WithdrawnTasksRun {
                continue;
            }
            let mut frame = Frame {
                function: queued.function,
                origin: Some((queued.from, queued.seq)),
                unique: queued.unique,
                vars: Vec::new(),
                at: 0,
                number: mixed(queued.function as u64, 1),
                arg_refs: Vec::new(),
                started: cx.now,
                waiting: None,
            };
            for dep in &queued.deps {
                frame.number = mixed(frame.number, dep.number);
                frame.arg_refs.extend(self.import(&dep.refs));
            }
            frame.arg_refs.extend(self.import(&queued.nested));
            for slot in &frame.arg_refs {
                self.owner.local_added(*slot);
                frame.vars.push(Some(*slot));
            }
            cx.begun.push((queued.unique, queued.function));
            self.frame = Some(frame);
            cx.resume = Some(Duration::from_micros(2));
            return;
        }
    }

    /// A `get` is about to sleep: the worker gives back what it has not begun, and lends its CPUs.
    pub(super) fn blocks(&mut self, cx: &mut Context<'_>) {
        let mut returned: BTreeMap<Proc, Vec<u64>> = BTreeMap::new();
        for queued in std::mem::take(&mut self.queue) {
            if cx.claims.claim((queued.from, self.id, queued.seq)) {
                returned.entry(queued.from).or_default().push(queued.seq);
            }
        }
        for (owner, seqs) in returned {
            cx.out.push((owner, Msg::EntriesReturned { seqs }));
        }
        if cx.mutation != Mutation::SleepersLendNothing {
            cx.out.push((RAYLET, Msg::Blocked));
        }
    }

    pub(super) fn wake(&mut self, cx: &mut Context<'_>, slot: RefSlot) {
        let Some(frame) = &mut self.frame else { return };
        if frame.waiting == Some(slot) {
            frame.waiting = None;
            if frame.origin.is_some() {
                cx.out.push((RAYLET, Msg::Unblocked));
            }
            cx.resume = Some(Duration::from_micros(1));
        }
    }

    /// The frame goes on until it needs time, sleeps or ends.
    pub fn step(&mut self, cx: &mut Context<'_>) {
        while let Some(mut frame) = self.frame.take() {
            let ops = &cx.program.functions[frame.function].ops;
            let Some(op) = ops.get(frame.at) else {
                self.end_frame(cx, frame, false);
                break;
            };
            match op {
                Op::Work(micros) => {
                    frame.at += 1;
                    self.frame = Some(frame);
                    cx.resume = Some(Duration::from_micros(*micros));
                    break;
                }
                Op::Call { function, deps, nested } => {
                    let (deps, nested) = (frame.pick_all(deps), frame.pick_all(nested));
                    frame.vars.push(Some(self.submit(cx, *function, &deps, nested)));
                }
                Op::Put { holds } => {
                    let refs: SmallVec<[RefSlot; 0]> = frame.pick_all(holds).into();
                    refs.iter().for_each(|slot| self.owner.local_added(*slot));
                    let value = Value {
                        number: mixed(frame.number, 2),
                        is_error: false,
                        refs,
                    };
                    let id = ObjectId::new(TaskId::new(self.fresh(), ActorId::nil_of(JobId::from_int(1))), 1 << 20);
                    frame.vars.push(Some(self.owner.value_put(id, value)));
                }
                Op::Drop(which) => {
                    if !frame.vars.is_empty() {
                        let at = which % frame.vars.len();
                        if let Some(slot) = frame.vars[at].take() {
                            self.owner.local_dropped(slot, &mut self.owner_effects);
                        }
                    }
                }
                Op::Get(which) => {
                    if let Some(slot) = frame.pick(*which) {
                        let Some((value, is_error)) = self.owner.value(slot) else {
                            frame.waiting = Some(slot);
                            let is_worker = frame.origin.is_some();
                            self.frame = Some(frame);
                            self.owner.watch(slot, Watcher::Waiter(0), &mut self.owner_effects);
                            if is_worker {
                                self.blocks(cx);
                            }
                            break;
                        };
                        let value = value.clone();
                        if frame.origin.is_none() {
                            self.seen.push((!is_error).then_some(value.number));
                        }
                        if is_error {
                            self.end_frame(cx, frame, true);
                            break;
                        }
                        frame.number = mixed(frame.number, value.number);
                        for slot in &value.refs {
                            self.owner.local_added(*slot);
                            frame.vars.push(Some(*slot));
                        }
                    }
                }
            }
            frame.at += 1;
            self.frame = Some(frame);
            self.run_effects(cx);
        }
        self.after(cx);
    }

    pub(super) fn submit(
        &mut self,
        cx: &Context<'_>,
        function: usize,
        deps: &[RefSlot],
        nested: Vec<RefSlot>,
    ) -> RefSlot {
        for slot in deps.iter().chain(&nested) {
            self.owner.local_added(*slot);
        }
        let unique = self.fresh();
        let held: SmallVec<[RefSlot; 0]> = nested.clone().into();
        let spec = Spec {
            function,
            nested,
            unique,
            sent: None,
        };
        let id = TaskId::new(unique, ActorId::nil_of(JobId::from_int(1)));
        let retries = cx.program.functions[function].max_retries;
        let (_, returns) = self
            .owner
            .task_submitted(id, 1, spec, deps.into(), held, retries, &mut self.owner_effects);
        returns[0]
    }

    pub(super) fn end_frame(&mut self, cx: &mut Context<'_>, frame: Frame, failed: bool) {
        let mut value = error();
        if !failed {
            let returns = frame.pick_all(&cx.program.functions[frame.function].returns);
            value = Value {
                number: frame.number,
                is_error: false,
                refs: returns.into(),
            };
        }
        value.refs.iter().for_each(|slot| self.owner.local_added(*slot));
        for slot in frame.vars.iter().flatten() {
            self.owner.local_dropped(*slot, &mut self.owner_effects);
        }
        let Some((owner, seq)) = frame.origin else {
            if !failed {
                self.seen.push(Some(value.number));
            }
            self.is_done = true;
            for slot in value.refs {
                self.owner.local_dropped(slot, &mut self.owner_effects);
            }
            return;
        };
        if self.gone.contains(&owner) {
            self.owner.value_abandoned(value, &mut self.owner_effects);
            for slot in frame.arg_refs {
                self.owner.local_dropped(slot, &mut self.owner_effects);
            }
            return;
        }
        let wire = self.value_to_wire(&value, Some(owner));
        let kept: Vec<RefSlot> = frame
            .arg_refs
            .iter()
            .copied()
            .filter(|slot| self.owner.reported_as_borrowed(*slot, 1) && cx.mutation != Mutation::RepliesReportNothing)
            .collect();
        let borrowed = self.refs_to_wire(&kept);
        let run = cx.now - frame.started;
        let reply = Msg::TaskReply {
            seq,
            value: wire,
            run,
            borrowed,
        };
        cx.out.push((owner, reply));
        for slot in value.refs.into_iter().chain(frame.arg_refs) {
            self.owner.local_dropped(slot, &mut self.owner_effects);
        }
    }
}
