//! Who looks at a session without being part of it: a connection to the raylet that never registers, so it has no job, no
//! worker starts for it, and nobody waits for it. The raylet answers what changes nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use ray_rs_explain::Subject;
use ray_rs_proto::convert::kind_of_number;
use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body as From;
use ray_rs_proto::v1::to_raylet::Body as To;
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::RecvFlags;

use crate::core::{Interrupt, connect_raylet};
use crate::describe::LISTING;
use crate::frames::{self, Filled, FrameReader};
use crate::look::{ALL_PARTS, explained, first_rows};
use crate::model::CoreError;
use crate::task_rows::{TaskPage, TaskQuery, TaskRow, Unfinished, unfinished};

/// As in `TaskCount.state`.
const FINISHED: u32 = 5;
/// Time between two looks at interrupts.
const SLICE: Duration = Duration::from_millis(50);

/// One connection; questions are asked one after another.
pub struct Observer {
    inner: Mutex<Inner>,
}

struct Inner {
    socket: OwnedFd,
    reader: FrameReader,
    last: u64,
}

impl Observer {
    /// # Errors
    /// [`CoreError::ConnectionFailed`] when no raylet listens in the session's directory.
    pub fn connect(session_dir: &Path) -> Result<Self, CoreError> {
        let socket = connect_raylet(&session_dir.join("sockets/raylet")).map_err(|error| {
            CoreError::ConnectionFailed(format!("cannot reach the raylet in {}: {error}", session_dir.display()))
        })?;
        Ok(Self {
            inner: Mutex::new(Inner {
                socket,
                reader: FrameReader::default(),
                last: 0,
            }),
        })
    }

    /// Asks the raylet. An answer to an earlier question, whose asker has given up, is passed over.
    pub fn ask(
        &self,
        body: impl FnOnce(u64) -> To,
        limit: Duration,
        interrupt: Interrupt<'_>,
    ) -> Result<From, CoreError> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.last += 1;
        let mut bytes = Vec::new();
        frames::append(
            &mut bytes,
            &v1::ToRaylet {
                body: Some(body(inner.last)),
            },
        );
        frames::write_all(inner.socket.as_fd(), &bytes).map_err(|_| CoreError::RayletDied)?;
        let start = Instant::now();
        loop {
            match inner.reader.next::<v1::FromRaylet>() {
                Ok(Some(v1::FromRaylet { body: Some(body) })) if request_of(&body) == inner.last => return Ok(body),
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(error) => return Err(CoreError::Gcs(format!("the raylet speaks nonsense: {error}"))),
            }
            if interrupt() {
                return Err(CoreError::Interrupted);
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                return Err(CoreError::TimedOut {
                    what: "a question to the raylet".to_owned(),
                    after: limit,
                });
            };
            let slice = rustix::time::Timespec::try_from(left.min(SLICE)).expect("short");
            let mut ready = [PollFd::new(&inner.socket, PollFlags::IN)];
            match poll(&mut ready, Some(&slice)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(CoreError::Gcs(format!("cannot wait for the raylet: {error}"))),
            }
            if inner.reader.fill(&inner.socket, RecvFlags::DONTWAIT) == Filled::Closed {
                return Err(CoreError::RayletDied);
            }
        }
    }

    /// Why something is not there yet, or where it is; as [`crate::CoreWorker::why`].
    pub fn why(&self, subject: Subject, limit: Duration, interrupt: Interrupt<'_>) -> Result<String, CoreError> {
        let body = |request_id| {
            To::Describe(v1::Describe {
                request_id,
                parts: ALL_PARTS,
                limit: 0,
                first: first_rows(subject),
                own_node: false,
                task_filters: Vec::new(),
            })
        };
        let From::Descriptions(answer) = self.ask(body, limit, interrupt)? else {
            return Err(other_answer());
        };
        Ok(explained(answer, subject, None))
    }

    /// Tasks, page by page. Of those that have not ended the first page has all that there are room for.
    ///
    /// # Errors
    /// The raylet or the control store is gone or does not answer; a filter is about a column that there is not.
    pub fn list_tasks(
        &self,
        query: &TaskQuery,
        limit: Duration,
        interrupt: Interrupt<'_>,
    ) -> Result<TaskPage, CoreError> {
        let is_first = query.cursor == 0;
        let mut found = Unfinished::default();
        if is_first {
            // In this order: owners send what has ended before they say what has not.
            found = self.unfinished(query, Vec::new(), 0, limit, interrupt)?;
            let room = (query.limit as usize).saturating_sub(found.rows.len());
            let some_are_left = found.total > found.rows.len() as u64 && found.refused > 0;
            if room > 0 && !query.ended_only && (some_are_left || !found.without_row.is_empty()) {
                let wanted = found.without_row.iter().take(room);
                let wanted = wanted.map(|task| task.0.to_vec()).collect();
                let spare = if some_are_left { found.running as u32 } else { 0 };
                found = self.unfinished(query, wanted, spare, limit, interrupt)?;
            }
            if query.ended_only {
                found = Unfinished::default();
            }
            found.rows.truncate(query.limit as usize);
        }
        let request = v1::ListTasksRequest {
            filters: query.filters.clone(),
            limit: query.limit - found.rows.len() as u32,
            cursor: query.cursor,
            oldest_first: query.ended_only,
            unfinished: found.rows.iter().flat_map(TaskRow::key).collect(),
            counts: query.counts,
        };
        let ended: v1::ListTasksReply = self.ask_gcs("ListTasks", &request, limit, interrupt)?;
        let gone: FxHashSet<u32> = ended.ended.iter().copied().collect();
        for row in gone.iter().filter_map(|index| found.rows.get(*index as usize)) {
            found.total = found.total.saturating_sub(1);
            if let Some(count) = found.counts.get_mut(&(row.name.clone(), row.kind, row.state)) {
                *count = count.saturating_sub(1);
            }
        }
        let counts = if query.counts {
            found.counts
        } else {
            FxHashMap::default()
        };
        let counts = counts
            .into_iter()
            .map(|((name, kind, state), count)| (name, kind, state, count));
        let of_ended = ended.counts.into_iter().map(|row| {
            let state = if row.state == FINISHED { "FINISHED" } else { "FAILED" };
            (row.name, kind_of_number(row.kind), state, row.count)
        });
        let unfinished = (found.rows.into_iter().zip(0..)).filter(|(_, index)| !gone.contains(index));
        Ok(TaskPage {
            total: found.total + ended.total,
            cursor: ended.cursor,
            dropped: ended.dropped,
            counts: counts.filter(|(.., count)| *count > 0).chain(of_ended).collect(),
            rows: unfinished
                .map(|(row, _)| row)
                .chain(ended.rows.into_iter().filter_map(TaskRow::of_ended))
                .collect(),
        })
    }

    /// `first`: the tasks of which rows are wanted before all. `spare`: how many rows more than the query's limit owners may
    /// give, in place of those that do not pass for what executors say.
    fn unfinished(
        &self,
        query: &TaskQuery,
        first: Vec<Vec<u8>>,
        spare: u32,
        limit: Duration,
        interrupt: Interrupt<'_>,
    ) -> Result<Unfinished, CoreError> {
        let body = |request_id| {
            To::Describe(v1::Describe {
                request_id,
                parts: LISTING,
                // None at all is the usual number.
                limit: if query.ended_only {
                    1
                } else {
                    query.limit.max(1).saturating_add(spare)
                },
                first,
                own_node: false,
                task_filters: query.filters.clone(),
            })
        };
        let From::Descriptions(said) = self.ask(body, limit, interrupt)? else {
            return Err(other_answer());
        };
        unfinished(&said, &query.filters).map_err(|column| CoreError::Gcs(format!("there is no column {:?}", column.0)))
    }

    /// Asks the control store, through the raylet.
    pub fn ask_gcs<Reply: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
        limit: Duration,
        interrupt: Interrupt<'_>,
    ) -> Result<Reply, CoreError> {
        let body = |request_id| {
            To::GcsCall(v1::GcsCall {
                request_id,
                method: method.to_owned(),
                payload: request.encode_to_vec(),
            })
        };
        match self.ask(body, limit, interrupt)? {
            From::GcsReply(reply) if reply.error.is_empty() => Reply::decode(&*reply.payload)
                .map_err(|error| CoreError::Gcs(format!("{method} gave an unreadable answer: {error}"))),
            From::GcsReply(reply) => Err(CoreError::Gcs(reply.error)),
            _ => Err(other_answer()),
        }
    }
}

fn other_answer() -> CoreError {
    CoreError::Gcs("the raylet answered something else".to_owned())
}

fn request_of(body: &From) -> u64 {
    match body {
        From::GcsReply(reply) => reply.request_id,
        From::ClusterViewReply(reply) => reply.request_id,
        From::StoreStatsReply(reply) => reply.request_id,
        From::ListObjectsReply(reply) => reply.request_id,
        From::Descriptions(reply) => reply.request_id,
        _ => 0,
    }
}
