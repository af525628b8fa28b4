//! Calls that were made and may come again, since their replies may have been lost: what was answered is answered again, and
//! nothing is done twice.
//!
//! Most calls need none of this: they say what is to be, and saying it again changes nothing. These say what has to be done. A
//! process that is started again has forgotten; a try that comes to it counts as the first.

use std::collections::VecDeque;

use ray_rs_proto::v1::{self, Empty};
use rustc_hash::FxHashMap;
use tonic::Status;

use super::{Durable, State};

/// So many are remembered: more than can be under way.
const MAX_REMEMBERED: usize = 1 << 14;

#[derive(Debug, Clone)]
enum Reply {
    Put(v1::KvPutReply),
    Deleted(v1::KvDelReply),
    Done,
}

#[derive(Debug, Default)]
pub(super) struct Once {
    replies: FxHashMap<u64, Reply>,
    order: VecDeque<u64>,
}

impl Once {
    fn note(&mut self, number: Option<u64>, reply: Reply) {
        let Some(number) = number else { return };
        if self.order.len() == MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.replies.remove(&oldest);
        }
        if self.replies.insert(number, reply).is_none() {
            self.order.push_back(number);
        }
    }

    fn reply(&self, number: Option<u64>) -> Option<Reply> {
        self.replies.get(&number?).cloned()
    }
}

impl State {
    /// [`Self::kv_put`] as the call with this number.
    pub fn kv_put_once(
        &mut self,
        number: Option<u64>,
        request: v1::KvPutRequest,
    ) -> Result<(v1::KvPutReply, Durable), Status> {
        if let Some(Reply::Put(reply)) = self.once.reply(number) {
            return Ok((reply, self.durable_so_far()));
        }
        let (reply, durable) = self.kv_put(request)?;
        self.once.note(number, Reply::Put(reply));
        Ok((reply, durable))
    }

    /// [`Self::kv_del`] as the call with this number.
    pub fn kv_del_once(&mut self, number: Option<u64>, request: &v1::KvDelRequest) -> (v1::KvDelReply, Durable) {
        if let Some(Reply::Deleted(reply)) = self.once.reply(number) {
            return (reply, self.durable_so_far());
        }
        let (reply, durable) = self.kv_del(request);
        self.once.note(number, Reply::Deleted(reply));
        (reply, durable)
    }

    /// [`Self::kill_actor`] as the call with this number: an actor that is to be restarted is killed once.
    pub fn kill_actor_once(&mut self, number: Option<u64>, request: &v1::KillActorRequest) -> Result<Durable, Status> {
        if self.once.reply(number).is_some() {
            return Ok(self.durable_so_far());
        }
        let durable = self.kill_actor(request)?;
        self.once.note(number, Reply::Done);
        Ok(durable)
    }

    /// Something that is only kept in memory, as the call with this number.
    pub fn once(
        &mut self,
        number: Option<u64>,
        perform: impl FnOnce(&mut Self) -> Result<(), Status>,
    ) -> Result<Empty, Status> {
        if self.once.reply(number).is_none() {
            perform(self)?;
            self.once.note(number, Reply::Done);
        }
        Ok(Empty {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut once = Once::default();
        for number in 0..MAX_REMEMBERED as u64 + 10 {
            once.note(Some(number), Reply::Done);
        }
        assert_eq!(once.replies.len(), MAX_REMEMBERED);
        assert!(once.reply(Some(9)).is_none() && once.reply(Some(10)).is_some());
        once.note(None, Reply::Done);
        assert!(once.reply(None).is_none());
    }
}
