//! The wait of a process that joins a session for the raylet's answer.
//!
//! Who waits: the thread in [`crate::CoreWorker::connect`]. For what: [`v1::Registered`]. How it ends: by that answer, by the
//! end of the raylet's socket, by an interrupt (Ctrl-C), and for a driver by a limit. The raylet has a shorter limit of its
//! own for what *it* waits for, and says what that is; the one here is for a raylet that says nothing. A worker has none: its
//! raylet ends it when it comes too late.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ray_rs_proto::v1::{self, from_raylet::Body};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::RecvFlags;

use crate::frames::{Filled, FrameReader};
use crate::model::{CoreError, HostEvent};

/// A raylet that says nothing to a driver for so long is given up.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(45);
/// How often a wait with a limit looks whether it was interrupted.
const SLICE: Duration = Duration::from_millis(50);

/// What comes with the answer stays in `reader`. Notices that come before it are passed to `on_event`.
///
/// # Errors
/// [`CoreError::ConnectionFailed`] says what went wrong; [`CoreError::Interrupted`].
pub(crate) fn await_registration(
    raylet: impl AsFd,
    reader: &mut FrameReader,
    limit: Option<Duration>,
    on_event: &dyn Fn(HostEvent),
    interrupt: &mut dyn FnMut() -> bool,
) -> Result<v1::Registered, CoreError> {
    let began = Instant::now();
    loop {
        let frame = reader.next::<v1::FromRaylet>();
        let frame = frame.map_err(|e| CoreError::ConnectionFailed(format!("the raylet speaks nonsense: {e}")))?;
        match frame.map(|message| message.body) {
            Some(Some(Body::Registered(registered))) if registered.error.is_empty() => return Ok(registered),
            Some(Some(Body::Registered(registered))) => return Err(CoreError::ConnectionFailed(registered.error)),
            Some(Some(Body::Notice(notice))) => on_event(HostEvent::Notice {
                level: notice.level,
                text: notice.text,
            }),
            Some(_) => {}
            None => {
                if let Some(limit) = limit {
                    await_bytes(&raylet, began, limit, interrupt)?;
                }
                if reader.fill(&raylet, RecvFlags::empty()) == Filled::Closed {
                    return Err(CoreError::ConnectionFailed(
                        "the raylet closed the connection; see its log".to_owned(),
                    ));
                }
            }
        }
    }
}

/// Returns when there is something to read, or the socket has ended.
fn await_bytes(
    raylet: &impl AsFd,
    began: Instant,
    limit: Duration,
    interrupt: &mut dyn FnMut() -> bool,
) -> Result<(), CoreError> {
    loop {
        let Some(left) = limit.checked_sub(began.elapsed()) else {
            return Err(CoreError::ConnectionFailed(format!(
                "the raylet of this node has not answered for {limit:?}, nor said what it waits for. Is its process stopped, \
                 or the machine very busy? See its log"
            )));
        };
        let slice = rustix::time::Timespec::try_from(left.min(SLICE)).expect("short");
        match poll(&mut [PollFd::new(raylet, PollFlags::IN)], Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => {
                return Err(CoreError::ConnectionFailed(format!(
                    "cannot wait for the raylet: {error}"
                )));
            }
        }
        if interrupt() {
            return Err(CoreError::Interrupted);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::frames;

    const SHORT: Duration = Duration::from_millis(120);

    fn say(raylet: &UnixStream, body: Body) {
        let mut bytes = Vec::new();
        frames::append(&mut bytes, &v1::FromRaylet { body: Some(body) });
        frames::write_all(raylet.as_fd(), &bytes).expect("written");
    }

    fn notice(text: &str) -> Body {
        Body::Notice(v1::Notice {
            level: 1,
            text: text.to_owned(),
        })
    }

    /// What the wait gave, and which notices it passed on.
    fn wait(
        driver: &UnixStream,
        limit: Option<Duration>,
        interrupt: &mut dyn FnMut() -> bool,
    ) -> (Result<v1::Registered, CoreError>, Vec<String>) {
        let told = RefCell::new(Vec::new());
        let listen = |event| {
            if let HostEvent::Notice { text, .. } = event {
                told.borrow_mut().push(text);
            }
        };
        let outcome = await_registration(driver, &mut FrameReader::default(), limit, &listen, interrupt);
        (outcome, told.into_inner())
    }

    #[test]
    fn notices_before_the_answer_are_passed_on() {
        let (driver, raylet) = UnixStream::pair().expect("a pair");
        say(&raylet, notice("the control store is slow"));
        let namespace = "here".to_owned();
        say(
            &raylet,
            Body::Registered(v1::Registered {
                namespace,
                ..v1::Registered::default()
            }),
        );
        let (outcome, told) = wait(&driver, Some(Duration::from_secs(60)), &mut || false);
        assert_eq!(outcome.expect("registered").namespace, "here");
        assert_eq!(told, ["the control store is slow"]);
    }

    #[test]
    fn a_refusal_says_why() {
        let (driver, raylet) = UnixStream::pair().expect("a pair");
        let error = "the control store (gcs) has not answered".to_owned();
        say(
            &raylet,
            Body::Registered(v1::Registered {
                error: error.clone(),
                ..v1::Registered::default()
            }),
        );
        let (outcome, _) = wait(&driver, None, &mut || false);
        assert_eq!(outcome.expect_err("refused").to_string(), error);
    }

    #[test]
    fn a_raylet_that_says_nothing_is_given_up() {
        let (driver, raylet) = UnixStream::pair().expect("a pair");
        say(&raylet, notice("only this"));
        let (outcome, told) = wait(&driver, Some(SHORT), &mut || false);
        let text = outcome.expect_err("given up").to_string();
        assert!(text.contains("has not answered for 120ms"), "{text}");
        assert_eq!(told, ["only this"]);
    }

    #[test]
    fn a_raylet_that_ends_ends_the_wait() {
        let (driver, raylet) = UnixStream::pair().expect("a pair");
        drop(raylet);
        for limit in [None, Some(Duration::from_secs(60))] {
            let text = wait(&driver, limit, &mut || false).0.expect_err("closed").to_string();
            assert!(text.contains("closed the connection"), "{text}");
        }
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        let (driver, _raylet) = UnixStream::pair().expect("a pair");
        let mut asked = 0;
        let mut interrupt = || {
            asked += 1;
            asked == 2
        };
        let (outcome, _) = wait(&driver, Some(Duration::from_secs(60)), &mut interrupt);
        assert!(matches!(outcome, Err(CoreError::Interrupted)), "{outcome:?}");
    }
}
