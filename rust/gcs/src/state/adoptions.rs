//! Who owns what a dead process has owned: the first of its holders to ask, and, when that one dies too, the first to ask then.
//!
//! * `ADO-4`: of all that ask about one key, and take the same process for its dead owner, all get the same answer.
//!
//! Stored with the keys and values, in a name space of their own, until the job has finished: a control store that is started
//! again chooses nobody else.

use prost::Message;
use ray_rs_proto::v1::{self, WorkerAddress};
use tonic::Status;

use super::{Durable, State};
use crate::storage::Write;

/// No name space of users has such a name.
const SPACE: &str = "\u{1}adoptions";

/// Who is to own what `claimant` asks for, and whether that is to be noted. With nobody `dead` it is a question, and the answer an
/// empty address if nobody was chosen.
fn choose(
    known: Option<WorkerAddress>,
    dead: Option<&WorkerAddress>,
    claimant: &WorkerAddress,
) -> (WorkerAddress, bool) {
    match (known, dead) {
        (known, None) => (known.unwrap_or_default(), false),
        (Some(known), Some(dead)) if known.worker_id != dead.worker_id => (known, false),
        (Some(_) | None, Some(_)) => (claimant.clone(), true),
    }
}

impl State {
    /// Who owns what the keys name; of a request that names nobody dead, who is on record: an empty address when nobody is.
    ///
    /// # Errors
    /// When the request does not name who asks.
    pub fn adopt(&mut self, request: v1::AdoptRequest) -> Result<(v1::AdoptReply, Durable), Status> {
        let Some(claimant) = request.adopter else {
            return Err(Status::invalid_argument("the claimant is to be named"));
        };
        let mut adopters = Vec::with_capacity(request.keys.len());
        let mut writes: Vec<Write> = Vec::new();
        for key in request.keys {
            let key = [request.job_id.as_slice(), key.as_slice()].concat();
            let known = self.kv.value(SPACE, &key);
            let known = known.and_then(|value| WorkerAddress::decode(value).ok());
            let (adopter, is_new) = choose(known, request.dead.as_ref(), &claimant);
            if is_new {
                writes.push(self.kv.set(SPACE, key, Some(adopter.encode_to_vec().into())));
            }
            adopters.push(adopter);
        }
        let durable = match writes.is_empty() {
            true => self.durable_so_far(),
            false => self.commit(writes),
        };
        Ok((v1::AdoptReply { adopters }, durable))
    }

    /// The job has finished: nobody asks any more.
    pub(super) fn adoptions_end(&mut self, job_id: &[u8]) -> Vec<Write> {
        let keys = self.kv.keys_with_prefix(SPACE, job_id);
        keys.into_iter().map(|key| self.kv.set(SPACE, key, None)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(number: u8) -> WorkerAddress {
        WorkerAddress {
            node_id: vec![1; 28],
            worker_id: vec![number; 28],
            pid: u32::from(number),
        }
    }

    /// Asks on behalf of `claimant`, and notes the answer.
    fn ask(known: &mut Option<WorkerAddress>, dead: u8, claimant: u8) -> u8 {
        let (chosen, is_new) = choose(known.clone(), Some(&process(dead)), &process(claimant));
        if is_new {
            *known = Some(chosen.clone());
        }
        chosen.worker_id[0]
    }

    #[test]
    fn the_first_to_ask_is_chosen_for_all() {
        let mut known = None;
        assert_eq!(ask(&mut known, 1, 2), 2);
        assert_eq!(ask(&mut known, 1, 3), 2);
        assert_eq!(ask(&mut known, 1, 2), 2, "the question may come again");
    }

    #[test]
    fn a_question_chooses_nobody() {
        let nobody = WorkerAddress::default();
        assert_eq!(choose(None, None, &process(2)), (nobody, false));
        assert_eq!(choose(Some(process(1)), None, &process(2)), (process(1), false));
    }

    #[test]
    fn an_adopter_that_dies_is_followed_by_the_first_that_says_so() {
        let mut known = None;
        ask(&mut known, 1, 2);
        assert_eq!(ask(&mut known, 2, 3), 3);
        assert_eq!(ask(&mut known, 2, 4), 3);
        assert_eq!(
            ask(&mut known, 1, 4),
            3,
            "who has slept through the first adoption hears of the second"
        );
    }
}
