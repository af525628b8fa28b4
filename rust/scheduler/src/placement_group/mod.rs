//! Placement groups as the control store decides them: where their bundles go, and when they have them.
//!
//! The control store holds one [`GroupTable`] for all groups and feeds it facts: a group is wanted or not any more, a
//! node answered, came, changed or went. What comes out are orders to nodes and news for whoever waits. A group's
//! bundles are reserved in two phases, so that it has all of them or none: every node concerned is told to prepare;
//! when all have, the group is created, and they are told to commit; when one refused, the others give back. Where one node
//! is to take all of them, its preparation is the commit.
//!
//! Where a group is to be is kept while the nodes prepare, so that neither waits for the other. So after a restart a group
//! may be kept as created whose nodes do not hold it: what they lack is placed anew, and what nobody wants is given back.
//!
//! ```text
//! Pending -> Preparing -> Created -> Removed
//!    ^__________|  (refused) |
//!    ^_______________________|  (a node died: its bundles are placed anew)
//! ```
//!
//! * `PG-1`: a group is created only when a node holds each of its bundles.
//! * `PG-2`: a node that was told to prepare bundles is told to commit them or to give them back.
//! * `PG-3`: what this table reserves on a node is the sum of the bundles that it has placed there.
//! * `PG-4`: of two groups of one shape that wait, the older is placed first.

mod reservation;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub use table::GroupTable;
pub use words::{Effect, Event, GroupFacts, GroupState, GroupStatus, PendingGroup};
