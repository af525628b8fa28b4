//! Reads and writes frames on a Tokio Unix socket.
//!
//! Both halves keep what is half done in themselves, so that any future of theirs may be dropped midway (in a `select!`)
//! and called again. A frame with descriptors goes out in a `sendmsg` of its own, and the kernel ends a `recvmsg`
//! after bytes that carry descriptors; so descriptors belong to the last frame that begins in the bytes received with
//! them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::scm;

/// Longest body of a frame.
pub const MAX_FRAME_BYTES: usize = 512 << 20;
/// Most descriptors with one frame.
pub const MAX_FDS: usize = 8;

const PREFIX_BYTES: usize = 4;
/// Received at once while frames are small; larger ones are read in place.
const CHUNK_BYTES: usize = 16 << 10;
/// A large frame's memory is taken in steps, as its bytes arrive, not on the word of its length.
const STEP_BYTES: usize = 1 << 20;

/// The same for any connected stream socket, such as one to another node. (`sendmsg` and `recvmsg` ask for no family.)
///
/// # Errors
/// When the runtime cannot watch it.
pub fn frames_of(socket: OwnedFd) -> io::Result<(FrameReader, FrameWriter)> {
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(frames(UnixStream::from_std(stream)?))
}

/// Splits a connected socket into its two directions.
pub fn frames(stream: UnixStream) -> (FrameReader, FrameWriter) {
    let stream = Arc::new(stream);
    let reader = FrameReader {
        stream: Arc::clone(&stream),
        buffer: BytesMut::new(),
        consumed: 0,
        batches: VecDeque::new(),
    };
    (
        reader,
        FrameWriter {
            stream,
            buffer: BytesMut::new(),
            written: 0,
            attachments: VecDeque::new(),
        },
    )
}

/// One frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub body: Bytes,
    pub fds: Vec<OwnedFd>,
}

impl Frame {
    pub fn decode<M: Message + Default>(self) -> Result<M, prost::DecodeError> {
        M::decode(self.body)
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct FrameReader {
    stream: Arc<UnixStream>,
    /// Received and not yet returned.
    buffer: BytesMut,
    /// Stream offset of the buffer's first byte.
    consumed: u64,
    /// Descriptors received, each batch with the stream offset up to which bytes had come by then.
    batches: VecDeque<(u64, Vec<OwnedFd>)>,
}

impl FrameReader {
    /// The next frame; `None` when the peer closed the connection between two frames.
    ///
    /// # Errors
    /// `UnexpectedEof` when it closed inside one, `InvalidData` when a frame is too long or carries too many
    /// descriptors. After an error the connection is of no use.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if self.receive().await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next frame's message and descriptors.
    pub async fn next_message<M: Message + Default>(&mut self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let Some(Frame { body, fds }) = self.next().await? else {
            return Ok(None);
        };
        let message = M::decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some((message, fds)))
    }

    /// A frame that was received already, without waiting: for draining a burst before acting on it.
    pub fn take_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(length) = self.next_length()? else {
            return Ok(None);
        };
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let start = self.consumed;
        self.buffer.advance(PREFIX_BYTES);
        let body = self.buffer.split_to(length).freeze();
        self.consumed += (PREFIX_BYTES + length) as u64;
        let mut fds = Vec::new();
        while self
            .batches
            .front()
            .is_some_and(|(end, _)| *end > start && *end <= self.consumed)
        {
            fds.extend(self.batches.pop_front().expect("just looked at").1);
        }
        Ok(Some(Frame { body, fds }))
    }

    fn next_length(&self) -> io::Result<Option<usize>> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes is too long"),
            ));
        }
        Ok(Some(length))
    }

    async fn receive(&mut self) -> io::Result<usize> {
        let missing = match self.next_length()? {
            Some(length) => PREFIX_BYTES + length - self.buffer.len(),
            None => 0,
        };
        let (buffer, batches, consumed) = (&mut self.buffer, &mut self.batches, self.consumed);
        let stream = &*self.stream;
        stream
            .async_io(Interest::READABLE, || {
                let mut fds = Vec::new();
                let count = if missing > CHUNK_BYTES {
                    let before = buffer.len();
                    buffer.resize(before + missing.min(STEP_BYTES), 0);
                    let outcome = scm::receive_some(stream, &mut buffer[before..], &mut fds);
                    buffer.truncate(before + *outcome.as_ref().unwrap_or(&0));
                    outcome?
                } else {
                    let mut chunk = [0; CHUNK_BYTES];
                    let count = scm::receive_some(stream, &mut chunk, &mut fds)?;
                    buffer.extend_from_slice(&chunk[..count]);
                    count
                };
                if !fds.is_empty() {
                    batches.push_back((consumed + buffer.len() as u64, fds));
                }
                Ok(count)
            })
            .await
    }
}

/// The sending direction. Nothing is sent before [`try_flush`](Self::try_flush) or [`flush`](Self::flush).
#[derive(Debug)]
pub struct FrameWriter {
    stream: Arc<UnixStream>,
    /// Queued and not yet written.
    buffer: BytesMut,
    /// Stream offset of the buffer's first byte.
    written: u64,
    /// Frames in the buffer that carry descriptors: their start and end in the stream, and the descriptors.
    attachments: VecDeque<Attachment>,
}

#[derive(Debug)]
struct Attachment {
    start: u64,
    end: u64,
    fds: Vec<OwnedFd>,
}

impl FrameWriter {
    /// Queues a message.
    ///
    /// # Errors
    /// `InvalidInput` when it is longer than a frame may be.
    pub fn queue(&mut self, message: &impl Message) -> io::Result<()> {
        self.queue_with_fds(message, Vec::new())
    }

    /// Queues a message and descriptors (at most [`MAX_FDS`]), which are closed here once they are sent.
    pub fn queue_with_fds(&mut self, message: &impl Message, fds: Vec<OwnedFd>) -> io::Result<()> {
        let length = message.encoded_len();
        if length > MAX_FRAME_BYTES || fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a frame of {length} bytes with {} descriptors is too large", fds.len()),
            ));
        }
        let start = self.written + self.buffer.len() as u64;
        self.buffer.reserve(PREFIX_BYTES + length);
        self.buffer
            .put_u32_le(u32::try_from(length).expect("at most MAX_FRAME_BYTES"));
        message.encode(&mut self.buffer).expect("room was made");
        if !fds.is_empty() {
            self.attachments.push_back(Attachment {
                start,
                end: self.written + self.buffer.len() as u64,
                fds,
            });
        }
        Ok(())
    }

    /// Bytes queued and not yet written.
    pub fn backlog_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what the socket takes now; true when nothing is left.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        let stream = Arc::clone(&self.stream);
        while !self.buffer.is_empty() {
            match stream.try_io(Interest::WRITABLE, || self.write_some()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes everything that is queued.
    pub async fn flush(&mut self) -> io::Result<()> {
        let stream = Arc::clone(&self.stream);
        while !self.buffer.is_empty() {
            stream.async_io(Interest::WRITABLE, || self.write_some()).await?;
        }
        Ok(())
    }

    /// Queues and writes.
    pub async fn send(&mut self, message: &impl Message) -> io::Result<()> {
        self.queue(message)?;
        self.flush().await
    }

    /// Ends the sending direction: the peer reads what was written, then the end.
    pub fn shutdown(&self) -> io::Result<()> {
        match rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write_some(&mut self) -> io::Result<()> {
        let (upto, fds): (u64, &[OwnedFd]) = match self.attachments.front() {
            Some(next) if next.start == self.written => (next.end, &next.fds),
            Some(next) => (next.start, &[]),
            None => (u64::MAX, &[]),
        };
        let within = usize::try_from(upto - self.written)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len());
        let sent = match scm::send_some(&*self.stream, &self.buffer[..within], fds) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        };
        if !fds.is_empty() && sent > 0 {
            // They went with the first byte. What is left of the frame needs no call of its own any more: its first
            // byte is out, and so no later frame can begin inside the same bytes of the peer's kernel buffer.
            self.attachments.pop_front();
        }
        self.buffer.advance(sent);
        self.written += sent as u64;
        if self.buffer.is_empty() && self.buffer.capacity() > STEP_BYTES {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom, Write};

    use proptest::prelude::*;
    use ray_rs_proto::v1::LogLines;

    use super::*;

    fn run<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test)
    }

    fn message(size: usize) -> LogLines {
        LogLines {
            name: "x".repeat(size),
            ..LogLines::default()
        }
    }

    fn file_that_says(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file.into()
    }

    fn text_of(fd: OwnedFd) -> String {
        let mut file = File::from(fd);
        file.seek(SeekFrom::Start(0)).expect("rewound");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        text
    }

    /// Sends `sizes` (with as many descriptors as said), drops the flush at every turn, and receives everything.
    async fn round_trip(plan: &[(usize, usize)]) {
        let (left, right) = UnixStream::pair().expect("a pair");
        let (_unused_reader, mut writer) = frames(left);
        let (mut reader, _unused_writer) = frames(right);
        for (index, (size, fd_count)) in plan.iter().enumerate() {
            let fds = (0..*fd_count)
                .map(|fd| file_that_says(&format!("{index}.{fd}")))
                .collect();
            writer.queue_with_fds(&message(*size), fds).expect("queued");
        }
        let receiving = async {
            for (index, (size, fd_count)) in plan.iter().enumerate() {
                let (received, fds) = loop {
                    tokio::select! {
                        biased;
                        () = tokio::task::yield_now() => {}
                        received = reader.next_message::<LogLines>() => break received.expect("whole").expect("there"),
                    }
                };
                assert_eq!(received.name.len(), *size);
                let texts: Vec<String> = fds.into_iter().map(text_of).collect();
                let expected: Vec<String> = (0..*fd_count).map(|fd| format!("{index}.{fd}")).collect();
                assert_eq!(texts, expected);
            }
        };
        let sending = async {
            loop {
                tokio::select! {
                    biased;
                    () = tokio::task::yield_now() => {}
                    done = writer.flush() => break done.expect("sent"),
                }
            }
            writer.shutdown().expect("ended");
        };
        tokio::join!(sending, receiving);
        assert!(reader.next().await.expect("a clean end").is_none());
    }

    #[test]
    fn descriptors_arrive_with_their_frame() {
        run(round_trip(&[
            (0, 0),
            (3, 2),
            (5, 0),
            (100_000, 1),
            (1, 1),
            (2, MAX_FDS),
            (0, 0),
        ]));
    }

    #[test]
    fn a_large_frame_is_received_in_place() {
        run(round_trip(&[(10, 0), (9 << 20, 1), (10, 0)]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn prost_frames_and_descriptors_survive_any_cut(
            plan in proptest::collection::vec((prop_oneof![0usize..50, 10_000usize..400_000], 0usize..3), 0..20)
        ) {
            run(round_trip(&plan));
        }
    }

    proptest! {
        /// Whatever somebody writes into the socket: frames, an end, or an error, and never a wait without end.
        #[test]
        fn nonsense_is_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000), lengths: bool) {
            let mut bytes = bytes;
            if lengths {
                // As if frames began: short ones that are there, and at last one that is not.
                for start in (0..bytes.len().saturating_sub(4)).step_by(44) {
                    bytes[start..start + 4].copy_from_slice(&40u32.to_le_bytes());
                }
            }
            run(async {
                let (left, right) = UnixStream::pair().expect("a pair");
                let (mut reader, _writer) = frames(right);
                let mut written = 0;
                while written < bytes.len() {
                    left.writable().await.expect("open");
                    written += left.try_write(&bytes[written..]).unwrap_or(0);
                }
                drop(left);
                while let Ok(Some((message, _))) = reader.next_message::<LogLines>().await {
                    let _ = message.encoded_len();
                }
            });
        }
    }

    #[test]
    fn a_frame_too_long_is_an_error_before_its_memory_is_taken() {
        run(async {
            let (left, right) = UnixStream::pair().expect("a pair");
            let (mut reader, _writer) = frames(right);
            left.try_write(&u32::MAX.to_le_bytes()).expect("sent");
            assert_eq!(
                reader.next().await.expect_err("refused").kind(),
                io::ErrorKind::InvalidData
            );
        });
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error() {
        run(async {
            let (left, right) = UnixStream::pair().expect("a pair");
            let (mut reader, _writer) = frames(right);
            left.try_write(&[9, 0, 0, 0, 1]).expect("sent");
            drop(left);
            assert_eq!(
                reader.next().await.expect_err("cut").kind(),
                io::ErrorKind::UnexpectedEof
            );
        });
    }

    #[test]
    fn a_full_socket_leaves_the_rest_queued() {
        run(async {
            let (left, right) = UnixStream::pair().expect("a pair");
            let (_reader, mut writer) = frames(left);
            left_writable(&writer).await;
            writer.queue(&message(8 << 20)).expect("queued");
            assert!(!writer.try_flush().expect("no error"));
            assert!(writer.backlog_bytes() > 0);
            drop(right);
            assert!(writer.flush().await.is_err(), "nobody reads any more");
        });
    }

    async fn left_writable(writer: &FrameWriter) {
        writer.stream.writable().await.expect("open");
    }
}
