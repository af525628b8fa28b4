//! The life of every actor as the GCS decides it: where it is, when it restarts, when it is dead for good.
//!
//! The GCS holds one [`Lifecycle`] for all actors. It feeds facts (a worker died, a handle count reached zero) and
//! performs the orders that come out (start, stop, publish, persist). Choosing a node is not decided here: a
//! [`Effect::ChooseNode`] asks, an [`Event::NodeChosen`] answers when some node can take the actor.
//!
//! ```text
//! WaitingForNode -> Starting -> Constructing -> Alive -> Leaving -> Dead
//!        ^______________|____________|____________|  (a restart: the next incarnation)
//! ```
//!
//! Reports of one node come on two ways (its channel, and its workers' calls), so that a constructor's end may be heard
//! before the worker's name is. There is no clock here: nothing waits for a time.
//!
//! * `ACT-1`: an incarnation begins only after the one before it was ended, and at most `max_restarts` begin anew.
//! * `ACT-2`: a worker that was given to an actor hosts it or is told to stop; no actor has two workers.
//! * `ACT-3`: nothing brings a dead actor back, and it has given up its name.
//! * `ACT-4`: an actor that leaves by its own will, or gracefully, is dead only when its worker has ended, so that its
//!   last answers are not mistaken for lost ones.

mod index;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub use table::Lifecycle;
pub use words::{ActorFacts, Death, Effect, Event, Phase, Restored, Status};
