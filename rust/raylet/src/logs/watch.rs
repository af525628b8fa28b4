//! The kernel's word of which files in a directory have grown.

use std::io;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

use crate::input::{Input, Inputs};

/// `struct inotify_event`: watch, mask, cookie and name length, four bytes each; then the name, padded with zeros.
const HEADER_BYTES: usize = 16;
const BUFFER_BYTES: usize = 16 << 10;

pub(super) fn start(dir: &Path, inputs: Inputs) -> io::Result<()> {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&fd, dir, WatchFlags::MODIFY)?;
    // To be read like a pipe is all that is asked of it.
    let mut events = Receiver::from_owned_fd_unchecked(fd)?;
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok(count) = read(&mut events, &mut buffer).await {
            if inputs.send(Input::LogsWritten(names(&buffer[..count]))).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

async fn read(events: &mut Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        events.readable().await?;
        match events.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

/// The names in a batch of events, each once; none when the kernel lost count and all files should be looked at.
fn names(mut events: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    while let Some((header, rest)) = events.split_first_chunk::<HEADER_BYTES>() {
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
        if ReadFlags::from_bits_retain(word(4)).contains(ReadFlags::QUEUE_OVERFLOW) {
            return Vec::new();
        }
        let (name, rest) = rest.split_at((word(12) as usize).min(rest.len()));
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if let Ok(name) = std::str::from_utf8(name)
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
        events = rest;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u32, name: &str) -> Vec<u8> {
        let padded = name.len().next_multiple_of(16);
        let mut bytes: Vec<u8> = [1, mask, 0, padded as u32]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(HEADER_BYTES + padded, 0);
        bytes
    }

    #[test]
    fn each_name_comes_once_and_lost_counts_show() {
        let modified = ReadFlags::MODIFY.bits();
        let batch = [
            event(modified, "a.out"),
            event(modified, "a.out"),
            event(modified, "b.err"),
        ]
        .concat();
        assert_eq!(names(&batch), ["a.out", "b.err"]);
        let overflow = event(ReadFlags::QUEUE_OVERFLOW.bits(), "");
        assert!(names(&[batch, overflow].concat()).is_empty());
    }
}
