//! What workers print: each writes to files of its own in the session's `logs/`, from which whole lines go to the
//! driver of its job.
//!
//! Files are called `worker-<worker id>-<job id>-<pid>.out` or `.err`. A line `:task_name:<name>` or
//! `:actor_name:<name>` names the lines after it and is not passed on. The kernel says (inotify) which file has grown;
//! nothing is polled.

mod lines;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ray_rs_proto::v1;
use ray_rs_types::JobId;

use crate::input::Inputs;
use lines::LineCutter;

/// Read from one file at a time, so that one that prints a lot does not hold up the others.
const READ_BYTES: usize = 256 << 10;
/// At the end of a process so much of its stderr is looked at.
const LAST_WORDS_BYTES: u64 = 16 << 10;
const LAST_WORDS_LINES: usize = 20;

/// What a log file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    job: JobId,
    pid: u32,
    is_stderr: bool,
}

#[derive(Debug)]
struct Followed {
    origin: Origin,
    offset: u64,
    cutter: LineCutter,
}

/// Where lines go.
pub(crate) trait Sink {
    /// Whether there is room; what is not taken now stays in the file until [`LogAgent::read`] is called again.
    fn takes(&self, job: JobId) -> bool;
    fn give(&mut self, job: JobId, lines: v1::LogLines);
}

#[derive(Debug)]
pub(crate) struct LogAgent {
    dir: PathBuf,
    /// Every file that something was written to, also of a process that has ended: else its lines would be read again.
    followed: BTreeMap<String, Followed>,
}

impl LogAgent {
    /// Watches `dir` in the background; files that grew arrive as `Input::LogsWritten`.
    pub fn start(dir: &Path, inputs: Inputs) -> io::Result<Self> {
        watch::start(dir, inputs)?;
        Ok(Self {
            dir: dir.to_owned(),
            followed: BTreeMap::new(),
        })
    }

    /// Reads what is new in one file. True: there is more.
    pub fn read(&mut self, name: &str, sink: &mut impl Sink) -> bool {
        if !self.followed.contains_key(name) {
            let Some(origin) = parse_name(name) else { return false };
            self.followed.insert(
                name.to_owned(),
                Followed {
                    origin,
                    offset: 0,
                    cutter: LineCutter::default(),
                },
            );
        }
        let followed = self.followed.get_mut(name).expect("just entered");
        if !sink.takes(followed.origin.job) {
            return false;
        }
        // Opened each time: an idle worker should cost no descriptor.
        let Ok(file) = File::open(self.dir.join(name)) else {
            return false;
        };
        let mut chunk = vec![0; READ_BYTES.min(remaining(&file, followed.offset))];
        let Ok(count) = file.read_at(&mut chunk, followed.offset) else {
            return false;
        };
        followed.offset += count as u64;
        followed.cutter.push(&chunk[..count]);
        followed.give(sink);
        count > 0 && count == chunk.len() && remaining(&file, followed.offset) > 0
    }

    /// Reads every file to its end, half lines included.
    pub fn read_everything(&mut self, sink: &mut impl Sink) {
        let unknown = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for name in unknown.filter_map(|entry| entry.file_name().into_string().ok()) {
            while self.read(&name, sink) {}
        }
        for followed in self.followed.values_mut() {
            if !sink.takes(followed.origin.job) {
                continue;
            }
            followed.cutter.finish();
            followed.give(sink);
        }
    }

    /// Files that hold something their driver had no room for.
    pub fn unread(&self) -> Vec<String> {
        let grown = |(name, followed): &(&String, &Followed)| {
            std::fs::metadata(self.dir.join(name)).is_ok_and(|meta| meta.len() > followed.offset)
        };
        self.followed
            .iter()
            .filter(grown)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Reads the files of a process that has ended to their end, removes empty ones, and returns the last lines of stderr.
    pub fn process_ended(&mut self, file_stem: &str, sink: &mut impl Sink) -> String {
        let last_words = last_words(&self.dir.join(format!("{file_stem}.err")));
        for suffix in ["out", "err"] {
            let name = format!("{file_stem}.{suffix}");
            while self.read(&name, sink) {}
            let Some(followed) = self
                .followed
                .get_mut(&name)
                .filter(|followed| sink.takes(followed.origin.job))
            else {
                continue;
            };
            followed.cutter.finish();
            followed.give(sink);
            let path = self.dir.join(&name);
            if followed.offset == 0 && std::fs::metadata(&path).is_ok_and(|meta| meta.len() == 0) {
                self.followed.remove(&name);
                // Should it stay, it is one empty file more.
                let _ = std::fs::remove_file(path);
            }
        }
        last_words
    }
}

impl Followed {
    fn give(&mut self, sink: &mut impl Sink) {
        for (name, lines) in self.cutter.take() {
            let Origin { job, pid, is_stderr } = self.origin;
            sink.give(
                job,
                v1::LogLines {
                    name,
                    pid,
                    is_stderr,
                    lines,
                },
            );
        }
    }
}

fn remaining(file: &File, offset: u64) -> usize {
    let length = file.metadata().map_or(0, |meta| meta.len());
    usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX)
}

/// The name of a worker's log files without the suffix.
pub(crate) fn file_stem(worker_id: &ray_rs_types::WorkerId, job: JobId, pid: u32) -> String {
    format!("worker-{worker_id}-{job}-{pid}")
}

fn parse_name(name: &str) -> Option<Origin> {
    let (stem, suffix) = name.strip_prefix("worker-")?.rsplit_once('.')?;
    let is_stderr = match suffix {
        "out" => false,
        "err" => true,
        _ => return None,
    };
    let mut parts = stem.split('-');
    let (_, job, pid) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || job.len() != 2 * JobId::SIZE || !job.is_ascii() {
        return None;
    }
    let mut bytes = [0; JobId::SIZE];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&job[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(Origin {
        job: JobId(bytes),
        pid: pid.parse().ok()?,
        is_stderr,
    })
}

/// The last lines of a file of stderr, for a message to people.
pub(crate) fn last_words(path: &Path) -> String {
    let Ok(file) = File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |meta| meta.len());
    let start = length.saturating_sub(LAST_WORDS_BYTES);
    let mut bytes = vec![0; (length - start) as usize];
    let Ok(count) = file.read_at(&mut bytes, start) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes[..count]);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| lines::marker(line.as_bytes()).is_none())
        .collect();
    lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Collected(Vec<(String, u32, bool, Vec<String>)>, bool);

    impl Sink for Collected {
        fn takes(&self, _: JobId) -> bool {
            self.1
        }

        fn give(&mut self, _: JobId, lines: v1::LogLines) {
            self.0.push((lines.name, lines.pid, lines.is_stderr, lines.lines));
        }
    }

    #[test]
    fn lines_reach_the_sink_once_with_their_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut agent = LogAgent {
            dir: dir.path().to_owned(),
            followed: BTreeMap::new(),
        };
        let mut sink = Collected(Vec::new(), true);
        let stem = format!("worker-{}-01000000-77", "ab".repeat(28));
        let path = dir.path().join(format!("{stem}.out"));
        std::fs::write(&path, ":task_name:f\nhello\nwor").expect("written");
        assert!(!agent.read(&format!("{stem}.out"), &mut sink));
        assert_eq!(sink.0, [("f".to_owned(), 77, false, vec!["hello".to_owned()])]);
        std::fs::write(&path, ":task_name:f\nhello\nworld\n:actor_name:A\nx").expect("written");
        sink.1 = false;
        agent.read(&format!("{stem}.out"), &mut sink);
        assert_eq!(agent.unread(), [format!("{stem}.out")]);
        sink.1 = true;
        sink.0.clear();
        std::fs::write(dir.path().join(format!("{stem}.err")), ":task_name:f\nboom\n").expect("written");
        agent.read_everything(&mut sink);
        sink.0.sort();
        let expected = [
            ("A".to_owned(), 77, false, vec!["x".to_owned()]),
            ("f".to_owned(), 77, false, vec!["world".to_owned()]),
            ("f".to_owned(), 77, true, vec!["boom".to_owned()]),
        ];
        assert_eq!(sink.0, expected);
        assert_eq!(agent.process_ended(&stem, &mut sink), "boom");
        // News of a file may come after the end of its process.
        sink.0.clear();
        agent.read(&format!("{stem}.out"), &mut sink);
        agent.read_everything(&mut sink);
        assert_eq!(sink.0, []);
    }

    #[test]
    fn who_has_printed_nothing_leaves_no_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut agent = LogAgent {
            dir: dir.path().to_owned(),
            followed: BTreeMap::new(),
        };
        let stem = format!("worker-{}-01000000-77", "ab".repeat(28));
        std::fs::write(dir.path().join(format!("{stem}.out")), "").expect("written");
        std::fs::write(dir.path().join(format!("{stem}.err")), "half a line").expect("written");
        let mut sink = Collected(Vec::new(), true);
        assert_eq!(agent.process_ended(&stem, &mut sink), "half a line");
        assert_eq!(sink.0, [(String::new(), 77, true, vec!["half a line".to_owned()])]);
        let left = std::fs::read_dir(dir.path()).expect("read").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, [std::ffi::OsString::from(format!("{stem}.err"))]);
    }

    #[test]
    fn other_files_are_left_alone() {
        for name in [
            "raylet.log",
            "worker-a.out",
            "worker-ab-0100-7.out",
            "worker-ab-01000000-7.txt",
            "zygote-1.err",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
