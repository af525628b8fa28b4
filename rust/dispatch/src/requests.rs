//! Asking the raylet for leases: how many, when to stop asking.

use std::collections::VecDeque;
use std::time::Duration;

use ray_rs_types::config::{STALLED_LANE, WINDOW_WORK};

use crate::dispatcher::Dispatcher;
use crate::event::{ClassKey, Effect, RequestKey};
use crate::queue::TaskPlace;

/// Requests that nobody needs any more are cancelled after so long, not at once: a queue that is now empty and now is
/// not would otherwise cost two messages a task.
pub(crate) const SURPLUS: Duration = Duration::from_millis(5);
/// Pause before asking again after a rejection; doubles with each rejection up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The outstanding requests of one class.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Oldest first.
    pub(crate) outstanding: VecDeque<RequestKey>,
    /// Since when there are more requests than queued tasks.
    pub(crate) surplus_since: Option<Duration>,
    /// When the raylet last gave something, or the first of the outstanding requests was made.
    pub(crate) waiting_since: Duration,
    /// Nothing is asked before; set by a rejection.
    pub(crate) paused_until: Duration,
    pause: Duration,
}

impl Requests {
    /// Whether the request was outstanding.
    pub(crate) fn granted(&mut self, now: Duration, request: RequestKey) -> bool {
        self.pause = Duration::ZERO;
        self.paused_until = Duration::ZERO;
        self.waiting_since = now;
        self.take(request)
    }

    fn take(&mut self, request: RequestKey) -> bool {
        let at = self.outstanding.iter().position(|&other| other == request);
        if let Some(at) = at {
            self.outstanding.remove(at);
        }
        at.is_some()
    }

    fn rejected(&mut self, now: Duration, request: RequestKey) {
        if self.take(request) {
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.paused_until = now + self.pause;
        }
    }
}

impl Dispatcher {
    pub(crate) fn lease_rejected(&mut self, now: Duration, request: RequestKey, effects: &mut Vec<Effect>) {
        let class = request.class().0;
        if let Some(state) = self.classes.get_mut(class as usize) {
            state.requests.rejected(now, request);
            self.ask(now, class, effects);
        }
    }

    pub(crate) fn lease_refused(&mut self, now: Duration, request: RequestKey, effects: &mut Vec<Effect>) {
        let class = request.class().0;
        let Some(state) = self.classes.get_mut(class as usize) else {
            return;
        };
        // An answer to a request that was cancelled meanwhile says nothing of the tasks that came later.
        if !state.requests.take(request) {
            return;
        }
        while let Some(task) = state.queue.head(&self.tasks) {
            state.queue.pop();
            self.tasks[task.0 as usize].place = TaskPlace::Unknown;
            effects.push(Effect::Refused { task });
        }
        self.ask(now, class, effects);
    }

    /// Requests as many leases as the queue of the class can use (`DSP-5`).
    ///
    /// The queue's work is guessed from its length and its first task. While some lease is streaming, a rest smaller
    /// than a window is not worth another lease: there will be room for it before the raylet has answered.
    pub(crate) fn ask(&mut self, now: Duration, class: u32, effects: &mut Vec<Effect>) {
        let state = &mut self.classes[class as usize];
        let queued = state.queue.len();
        let outstanding = state.requests.outstanding.len();
        if outstanding > queued {
            if state.requests.surplus_since.is_none() {
                state.requests.surplus_since = Some(now);
                self.check_at(now + SURPLUS);
            }
            return;
        }
        state.requests.surplus_since = None;
        let most = queued.min(self.max_leases_hint);
        if outstanding >= most {
            return;
        }
        if now < state.requests.paused_until {
            let until = state.requests.paused_until;
            self.check_at(until);
            return;
        }
        let streaming = state.streaming > 0;
        let Some((first, charge)) = self.head(class) else {
            return;
        };
        let work = u64::from(charge) * queued as u64;
        let window = WINDOW_WORK.as_nanos() as u64;
        let useful = if streaming {
            work / window
        } else {
            work.div_ceil(window)
        };
        let wanted = usize::try_from(useful).unwrap_or(usize::MAX).min(most);
        if outstanding < wanted {
            if outstanding == 0 {
                self.classes[class as usize].requests.waiting_since = now;
            }
            self.check_at(now + crate::sweep::HUNGRY);
        }
        if streaming {
            // The room that is counted on may never come.
            self.check_at(now + STALLED_LANE);
        }
        for _ in outstanding..wanted {
            let request = RequestKey::new(ClassKey(class), self.requests_made);
            self.requests_made = self.requests_made.wrapping_add(1);
            self.classes[class as usize].requests.outstanding.push_back(request);
            let backlog = u32::try_from(queued).unwrap_or(u32::MAX);
            effects.push(Effect::RequestLease {
                request,
                class: ClassKey(class),
                backlog,
                first,
            });
        }
    }

    /// Requests one lease for tasks that may come; it is cancelled like any that nobody needs, unless the answer is quick.
    pub(crate) fn expect(&mut self, now: Duration, ClassKey(class): ClassKey, effects: &mut Vec<Effect>) {
        self.know_class(class);
        let state = &mut self.classes[class as usize];
        if !state.queue.is_empty() || !state.leases.is_empty() || !state.requests.outstanding.is_empty() {
            return;
        }
        let request = RequestKey::new(ClassKey(class), self.requests_made);
        self.requests_made = self.requests_made.wrapping_add(1);
        state.requests.outstanding.push_back(request);
        state.requests.waiting_since = now;
        state.requests.surplus_since = Some(now);
        self.check_at(now + SURPLUS);
        effects.push(Effect::RequestAhead {
            request,
            class: ClassKey(class),
        });
    }

    /// Cancels the newest requests beyond the number of queued tasks.
    pub(crate) fn cancel_surplus(&mut self, class: u32, effects: &mut Vec<Effect>) {
        let state = &mut self.classes[class as usize];
        state.requests.surplus_since = None;
        while state.requests.outstanding.len() > state.queue.len() {
            let request = state
                .requests
                .outstanding
                .pop_back()
                .expect("longer than another length");
            effects.push(Effect::CancelRequest { request });
        }
    }
}
