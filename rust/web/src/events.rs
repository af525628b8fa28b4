//! The stream of events that keeps a page up to date: the loop that looks while somebody is there, around [`Board`].
//!
//! Each viewer has a short queue; whoever does not read what was put there is dropped (browsers come again by
//! themselves, and get everything anew). A viewer that goes away is noticed by its connection's end, at the latest when the
//! next line that says nothing can't be written.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::Api;
use crate::board::{Board, Message, Rows, ViewerId};

/// What can be asked for.
pub(crate) const SECTIONS: [&str; 8] = [
    "actors", "groups", "jobs", "logs", "nodes", "objects", "tasks", "workers",
];
const MAX_VIEWERS: usize = 64;
/// Messages that a viewer may be behind with.
const MAX_BEHIND: usize = 16;
/// A line that says nothing goes out after so long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Inner {
    board: Board,
    queues: BTreeMap<ViewerId, mpsc::Sender<Value>>,
    last: u64,
}

/// Who looks, and at what.
#[derive(Default)]
pub(crate) struct Watch {
    inner: Mutex<Inner>,
    somebody_came: Notify,
}

impl Inner {
    fn send(&mut self, messages: Vec<Message>) {
        for Message { viewer, news } in messages {
            let queue = self.queues.get(&viewer);
            if queue.is_some_and(|queue| queue.try_send(news).is_err()) {
                self.forget(viewer);
            }
        }
    }

    fn forget(&mut self, viewer: ViewerId) {
        self.queues.remove(&viewer);
        self.board.viewer_left(viewer);
    }

    fn forget_who_has_gone(&mut self) {
        let gone: Vec<ViewerId> = (self.queues.iter())
            .filter(|(_, queue)| queue.is_closed())
            .map(|(&viewer, _)| viewer)
            .collect();
        for viewer in gone {
            self.forget(viewer);
        }
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics with the lock held")
    }

    /// Opens a stream of what happens in `sections`, names with commas between.
    pub fn open(&self, sections: &str) -> Response {
        let wanted: BTreeSet<String> = sections.split(',').map(str::to_owned).collect();
        if let Some(unknown) = wanted.iter().find(|name| !SECTIONS.contains(&name.as_str())) {
            let text = format!("There is no section {unknown:?}; there are {}.", SECTIONS.join(", "));
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
        let (queue, messages) = mpsc::channel(MAX_BEHIND);
        {
            let mut inner = self.lock();
            inner.forget_who_has_gone();
            if inner.queues.len() >= MAX_VIEWERS {
                return (StatusCode::SERVICE_UNAVAILABLE, "Too many look already.").into_response();
            }
            inner.last += 1;
            let viewer = ViewerId(inner.last);
            inner.queues.insert(viewer, queue);
            let mut messages = Vec::new();
            inner.board.viewer_came(viewer, &wanted, &mut messages);
            inner.send(messages);
        }
        self.somebody_came.notify_one();
        let events =
            ReceiverStream::new(messages).map(|news| Ok::<_, Infallible>(Event::default().data(news.to_string())));
        Sse::new(events)
            .keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE))
            .into_response()
    }

    /// Looks while somebody is there. Never returns.
    pub async fn run(self: Arc<Self>, api: Arc<dyn Api>) {
        loop {
            let (section, deadline) = {
                let mut inner = self.lock();
                inner.forget_who_has_gone();
                let now = Instant::now();
                (inner.board.due(now).map(str::to_owned), inner.board.next_deadline(now))
            };
            match (section, deadline) {
                (Some(section), _) => self.look(&api, &section).await,
                (None, None) => self.somebody_came.notified().await,
                (None, Some(deadline)) => tokio::select! {
                    () = tokio::time::sleep_until(deadline.into()) => {}
                    () = self.somebody_came.notified() => {}
                },
            }
        }
    }

    async fn look(&self, api: &Arc<dyn Api>, section: &str) {
        let (asked, name) = (Arc::clone(api), section.to_owned());
        let began = Instant::now();
        let answer = tokio::task::spawn_blocking(move || asked.answer("look", json!({ "section": name }))).await;
        let found = match answer {
            Ok(answer) if answer.status == 200 => {
                serde_json::from_slice::<Rows>(&answer.body).map_err(|error| error.to_string())
            }
            Ok(answer) => Err(String::from_utf8_lossy(&answer.body).into_owned()),
            Err(error) => Err(error.to_string()),
        };
        let mut messages = Vec::new();
        let mut inner = self.lock();
        inner.board.looked(began, Instant::now(), section, found, &mut messages);
        inner.send(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_or_has_gone_is_forgotten() {
        let mut inner = Inner::default();
        let mut readers = Vec::new();
        let wanted = BTreeSet::from(["jobs".to_owned()]);
        for number in 0..3 {
            let (queue, reader) = mpsc::channel(MAX_BEHIND);
            inner.queues.insert(ViewerId(number), queue);
            inner.board.viewer_came(ViewerId(number), &wanted, &mut Vec::new());
            readers.push(reader);
        }
        drop(readers.remove(2));
        inner.forget_who_has_gone();
        assert_eq!(inner.queues.len(), 2);
        let now = Instant::now();
        for number in 0..=MAX_BEHIND {
            let mut messages = Vec::new();
            let rows = Rows::from_iter([("a".to_owned(), json!(number))]);
            inner.board.looked(now, now, "jobs", Ok(rows), &mut messages);
            inner.send(messages);
            assert!(readers[0].try_recv().is_ok());
            inner.board.check_invariants();
        }
        // The other read nothing: it is sent no more, and its stream ends where the queue does.
        assert_eq!(inner.queues.keys().copied().collect::<Vec<_>>(), [ViewerId(0)]);
        let left = std::iter::from_fn(|| readers[1].try_recv().ok()).count();
        assert_eq!(left, MAX_BEHIND);
        assert!(readers[1].is_closed());
        drop(readers);
        inner.forget_who_has_gone();
        assert_eq!(inner.board.next_deadline(now), None);
    }
}
