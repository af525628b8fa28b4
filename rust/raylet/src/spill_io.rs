//! Writes and reads the files of spilled objects, in the session's directory or wherever the crate `object_store` reaches.
//!
//! Everything here blocks, and is called on threads of its own: one that writes, two that read. They start, and files
//! are touched, when the first object leaves memory. Files carry no header: what lies where, and the checksum of each object, is in the spill table; both end with
//! the session.

use std::error::Error;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use ray_rs_object_store::SetAside;
use ray_rs_object_store::spill::{FileId, Reading};
use ray_rs_transport::session::{SPILL_LINK, spill_directory_name};
use tokio_stream::StreamExt;

/// Read, and written to far stores, in pieces of this size.
const PIECE_BYTES: u64 = 16 << 20;
/// Larger files are uploaded in pieces.
const ONE_PUT_BYTES: u64 = 128 << 20;

/// Why a file could not be written; the objects are still in memory.
#[derive(Debug, thiserror::Error)]
#[error("{needed_bytes} bytes of objects could not be spilled to {place}: {why}{hint}")]
pub(crate) struct NotWritten {
    place: String,
    needed_bytes: u64,
    why: String,
    hint: &'static str,
}

/// Why an object could not be brought back.
#[derive(Debug)]
pub(crate) struct NotRead {
    /// It never will be.
    pub lost: bool,
    pub why: String,
}

struct Backend {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    /// Of a directory: for the modes of its files.
    directory: Option<PathBuf>,
    /// Of a store that is spoken to over the network. Never dropped: that may only be done where blocking is allowed.
    runtime: Option<ManuallyDrop<tokio::runtime::Runtime>>,
}

/// What the threads are given to do.
pub(crate) type Job = Box<dyn FnOnce(&SpillIo) + Send>;

/// Jobs may take so long to end when the session does.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const READERS: usize = 2;

pub(crate) struct SpillIo {
    session_dir: PathBuf,
    /// A directory or a URL; empty: the session's own directory.
    wished: String,
    backend: Mutex<Option<Arc<Backend>>>,
    threads: Mutex<Threads>,
    idle: Condvar,
}

#[derive(Default)]
struct Threads {
    writer: Option<Sender<Job>>,
    reader: Option<Sender<Job>>,
    stopped: bool,
    /// Jobs that run.
    busy: u32,
}

impl SpillIo {
    pub fn new(session_dir: &Path, wished: &str) -> Self {
        Self {
            session_dir: session_dir.to_owned(),
            wished: wished.to_owned(),
            backend: Mutex::new(None),
            threads: Mutex::new(Threads::default()),
            idle: Condvar::new(),
        }
    }

    /// Has the job done after those that came before, by the thread that writes.
    pub fn queue_write(self: &Arc<Self>, job: Job) {
        let mut threads = lock(&self.threads);
        let sender = threads.writer.get_or_insert_with(|| self.start("spill-write", 1));
        // Without a thread nothing is ever done: the process is at its end.
        let _ = sender.send(job);
    }

    /// The same by one of those that read.
    pub fn queue_read(self: &Arc<Self>, job: Job) {
        let mut threads = lock(&self.threads);
        let sender = threads.reader.get_or_insert_with(|| self.start("spill-read", READERS));
        let _ = sender.send(job);
    }

    fn start(self: &Arc<Self>, name: &str, count: usize) -> Sender<Job> {
        let (sender, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..count {
            let (io, jobs) = (Arc::clone(self), Arc::clone(&jobs));
            let spawned = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || io.work(&jobs));
            if let Err(error) = spawned {
                tracing::error!(%error, "no thread for spilled objects");
            }
        }
        sender
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = lock(jobs).recv();
            let Ok(job) = job else { return };
            {
                let mut threads = lock(&self.threads);
                if threads.stopped {
                    return;
                }
                threads.busy += 1;
            }
            job(self);
            lock(&self.threads).busy -= 1;
            self.idle.notify_all();
        }
    }

    /// Begins nothing more, and waits for what runs: the directory is about to be removed. What lies in a far store goes
    /// here, since nobody else would find it.
    pub fn stop(&self) {
        let mut threads = lock(&self.threads);
        if std::mem::replace(&mut threads.stopped, true) {
            return;
        }
        (threads.writer, threads.reader) = (None, None);
        let waited = self
            .idle
            .wait_timeout_while(threads, STOP_LIMIT, |threads| threads.busy > 0);
        drop(waited);
        let far = lock(&self.backend)
            .clone()
            .filter(|backend| backend.directory.is_none());
        let Some(far) = far else { return };
        let (done, ended) = channel();
        // Whoever calls this may be inside of another runtime.
        let removing = std::thread::Builder::new()
            .name("spill-remove".to_owned())
            .spawn(move || {
                let removed = far.run(far.remove_all());
                let _ = done.send(removed);
            });
        let removed = removing.is_ok().then(|| ended.recv_timeout(STOP_LIMIT));
        match removed {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => tracing::warn!(%error, place = self.wished, "spilled objects were left behind"),
            Some(Err(_)) | None => tracing::warn!(place = self.wished, "spilled objects were left behind"),
        }
    }

    /// Where files go, for people.
    pub fn place(&self) -> String {
        match self.wished.is_empty() {
            true => self.session_dir.join(SPILL_LINK).display().to_string(),
            false => self.wished.clone(),
        }
    }

    /// Writes the objects one behind the other; their checksums.
    ///
    /// # Errors
    /// [`NotWritten`]; then no file is left.
    pub fn write(&self, file: FileId, parts: Vec<SetAside>) -> Result<Vec<u32>, NotWritten> {
        let needed_bytes = parts.iter().map(|part| part.len() as u64).sum();
        let checksums = parts.iter().map(|part| crc32fast::hash(part)).collect();
        let failed = |error: &(dyn Error + 'static)| NotWritten {
            place: self.place(),
            needed_bytes,
            why: reason(error),
            hint: hint(error),
        };
        let backend = self.backend().map_err(|error| failed(&*error))?;
        let key = backend.key(file);
        let pieces = parts.into_iter().map(Bytes::from_owner).flat_map(in_pieces);
        let written = backend.run(async {
            if needed_bytes <= ONE_PUT_BYTES {
                return backend.store.put(&key, PutPayload::from_iter(pieces)).await.map(drop);
            }
            let mut upload = backend.store.put_multipart(&key).await?;
            for piece in pieces {
                if let Err(error) = upload.put_part(piece.into()).await {
                    let _ = upload.abort().await;
                    return Err(error);
                }
            }
            upload.complete().await.map(drop)
        });
        match written.and_then(|()| backend.protect(file)) {
            Ok(()) => Ok(checksums),
            Err(error) => {
                self.remove(file);
                Err(failed(&error))
            }
        }
    }

    /// Reads one object back, piece by piece.
    ///
    /// # Errors
    /// [`NotRead`].
    pub fn read(&self, reading: &Reading, take: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> Result<(), NotRead> {
        let place = format!("{}/{}", self.place(), name(reading.file));
        let backend = self.backend().map_err(|error| NotRead {
            lost: false,
            why: reason(&*error),
        })?;
        let key = backend.key(reading.file);
        let mut hasher = crc32fast::Hasher::new();
        let mut at = 0;
        while at < reading.len {
            let end = (at + PIECE_BYTES).min(reading.len);
            let range = reading.at + at..reading.at + end;
            let piece = backend.run(backend.store.get_range(&key, range));
            let piece = piece.map_err(|error| NotRead {
                // What is on this machine's own disk does not become readable by waiting.
                lost: backend.directory.is_some() || matches!(error, object_store::Error::NotFound { .. }),
                why: format!("its spill file {place} cannot be read: {}", reason(&error)),
            })?;
            if piece.len() as u64 != end - at {
                return Err(NotRead {
                    lost: true,
                    why: format!("its spill file {place} has been cut short"),
                });
            }
            hasher.update(&piece);
            take(at, &piece).map_err(|error| NotRead {
                lost: false,
                why: format!("there was no memory to read it to: {error}"),
            })?;
            at = end;
        }
        if hasher.finalize() != reading.checksum {
            return Err(NotRead {
                lost: true,
                why: format!("its spill file {place} is corrupt: the checksum is not that of what was written"),
            });
        }
        Ok(())
    }

    /// Removes a file of which nothing is needed any more.
    pub fn remove(&self, file: FileId) {
        let Ok(backend) = self.backend() else { return };
        let key = backend.key(file);
        match backend.run(backend.store.delete(&key)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, file = name(file), "a spill file could not be removed"),
        }
    }

    fn backend(&self) -> Result<Arc<Backend>, Box<dyn Error>> {
        let mut known = lock(&self.backend);
        if let Some(backend) = &*known {
            return Ok(Arc::clone(backend));
        }
        let backend = Arc::new(self.open()?);
        *known = Some(Arc::clone(&backend));
        Ok(backend)
    }

    fn open(&self) -> Result<Backend, Box<dyn Error>> {
        let own_name = format!("{}{}", spill_directory_name(&self.session_dir), std::process::id());
        if self.wished.contains("://") && !self.wished.starts_with("file://") {
            let url = url::Url::parse(&self.wished)?;
            let (store, prefix) = object_store::parse_url_opts(&url, variables())?;
            return Ok(Backend {
                store: store.into(),
                prefix: prefix.join(own_name.as_str()),
                directory: None,
                runtime: Some(ManuallyDrop::new(
                    tokio::runtime::Builder::new_current_thread().enable_all().build()?,
                )),
            });
        }
        let link = self.session_dir.join(SPILL_LINK);
        let directory = if self.wished.is_empty() {
            make_private(&link)?;
            link
        } else {
            let directory = Path::new(self.wished.trim_start_matches("file://")).join(own_name);
            // Named in the session's directory first, so that whoever cleans up after a kill finds it.
            match std::os::unix::fs::symlink(&directory, &link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
            make_private(&directory)?;
            directory
        };
        Ok(Backend {
            store: Arc::new(LocalFileSystem::new_with_prefix(&directory)?),
            prefix: Key::default(),
            directory: Some(directory),
            runtime: None,
        })
    }
}

impl Backend {
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => block_on(work),
        }
    }

    async fn remove_all(&self) -> Result<(), object_store::Error> {
        let mut listed = self.store.list(Some(&self.prefix));
        let mut keys = Vec::new();
        while let Some(entry) = listed.next().await {
            keys.push(Ok(entry?.location));
        }
        let mut removed = self.store.delete_stream(Box::pin(tokio_stream::iter(keys)));
        while let Some(outcome) = removed.next().await {
            outcome?;
        }
        Ok(())
    }

    fn key(&self, file: FileId) -> Key {
        self.prefix.clone().join(name(file).as_str())
    }

    /// Objects are nobody's business but their owner's (the directory is closed to others from the start).
    fn protect(&self, file: FileId) -> Result<(), object_store::Error> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(directory.join(name(file)), mode).map_err(|error| object_store::Error::Generic {
            store: "spill directory",
            source: error.into(),
        })
    }
}

fn name(file: FileId) -> String {
    format!("objects-{}", file.0)
}

fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}

/// What the stores' own tools would read from the environment.
fn variables() -> impl Iterator<Item = (String, String)> {
    let of_a_store = |name: &String| {
        ["AWS_", "GOOGLE_", "AZURE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(move |(name, _)| of_a_store(name))
        .map(|(name, value)| (name.to_lowercase(), value))
}

fn in_pieces(mut bytes: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(bytes.len() / PIECE_BYTES as usize + 1);
    while bytes.len() > PIECE_BYTES as usize {
        pieces.push(bytes.split_to(PIECE_BYTES as usize));
    }
    pieces.push(bytes);
    pieces
}

/// What goes to a directory is done in place when no runtime is there, so there is hardly ever anything to wait for.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut work = pin!(work);
    loop {
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The innermost cause that is an I/O error, else the error itself.
fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref::<io::Error>().or(found);
        cause = error.source();
    }
    found
}

fn reason(error: &(dyn Error + 'static)) -> String {
    io_cause(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn hint(error: &(dyn Error + 'static)) -> &'static str {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match io_cause(error).map(io::Error::kind) {
        Some(StorageFull | QuotaExceeded | FileTooLarge) => {
            ". Free room there, or start with another object_spilling_directory. What was stored is still in memory"
        }
        Some(_) | None => ". What was stored is still in memory",
    }
}

#[cfg(test)]
mod tests {
    use ray_rs_object_store::spill::Part;
    use ray_rs_object_store::{ArenaClient, ArenaHost, Class, SetAsideBlocks};

    use super::*;

    const LEN: u64 = 3 << 20;

    /// An arena with two objects, set aside.
    fn aside() -> (ArenaHost, SetAsideBlocks) {
        let (mut host, fd) = ArenaHost::create(64 << 20).expect("shared memory");
        let row = host.allocate_client();
        let client = ArenaClient::attach(fd, row, 1).expect("mapped");
        for byte in [7, 8] {
            let need = client.allocate(LEN).err().map_or(LEN, |need| need.min_bytes);
            let extent = host.grant(row, need).expect("room");
            client.add_extent(extent.offset, extent.len);
            let block = client.allocate(LEN).expect("room");
            client.writer(&block).fill(byte);
            client.seal(block);
        }
        let regions = host.survey(|_| Class::Ordinary);
        let aside = host.set_aside(&regions, |_| Class::Ordinary);
        (host, aside)
    }

    fn bytes(host: &ArenaHost, parts: &[Part]) -> Vec<SetAside> {
        parts
            .iter()
            .map(|part| host.bytes_of(part).expect("in bounds"))
            .collect()
    }

    fn read(io: &SpillIo, host: &mut ArenaHost, at: u64, checksum: u32) -> Result<(), NotRead> {
        let mut restore = host.begin_restore(LEN).expect("room");
        assert!(restore.reserve_pages());
        let (file, len) = (FileId(1), LEN);
        let outcome = io.read(
            &Reading {
                file,
                at,
                len,
                checksum,
            },
            &mut |at, bytes| {
                restore.write(at, bytes);
                Ok(())
            },
        );
        host.cancel_restore(restore);
        outcome
    }

    #[test]
    fn what_is_written_is_read_and_what_was_changed_is_noticed() {
        let session = tempfile::tempdir().expect("a directory");
        let io = SpillIo::new(session.path(), "");
        let (mut host, aside) = aside();
        let checksums = io.write(FileId(1), bytes(&host, &aside.parts)).expect("written");
        let path = session.path().join(SPILL_LINK).join("objects-1");
        let meta = std::fs::metadata(&path).expect("there");
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (2 * LEN, 0o600));
        assert!(read(&io, &mut host, 0, checksums[0]).is_ok());
        assert!(read(&io, &mut host, LEN, checksums[1]).is_ok());
        let mut damaged = std::fs::read(&path).expect("read");
        damaged[LEN as usize + 5] ^= 1;
        std::fs::write(&path, &damaged).expect("written");
        assert!(
            read(&io, &mut host, 0, checksums[0]).is_ok(),
            "only the object that was changed is lost"
        );
        let error = read(&io, &mut host, LEN, checksums[1]).expect_err("damaged");
        assert!(error.lost && error.why.contains("corrupt"), "{}", error.why);
        std::fs::write(&path, &damaged[..LEN as usize + 9]).expect("written");
        assert!(read(&io, &mut host, LEN, checksums[1]).expect_err("cut short").lost);
        io.remove(FileId(1));
        assert!(!path.exists());
        assert!(read(&io, &mut host, 0, checksums[0]).expect_err("gone").lost);
        io.remove(FileId(1));
    }

    #[test]
    fn what_cannot_be_written_says_where_and_how_much() {
        let session = tempfile::tempdir().expect("a directory");
        std::fs::write(session.path().join(SPILL_LINK), "a file in the way").expect("written");
        let io = SpillIo::new(session.path(), "");
        let (host, aside) = aside();
        let error = io
            .write(FileId(1), bytes(&host, &aside.parts))
            .expect_err("no directory");
        let text = error.to_string();
        assert!(text.contains("6291456 bytes") && text.contains(SPILL_LINK), "{text}");
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let session = tempfile::tempdir().expect("a directory");
        let io = Arc::new(SpillIo::new(session.path(), ""));
        let (done, ended) = channel();
        let other = done.clone();
        io.queue_write(Box::new(move |_| other.send("ran").expect("listens")));
        assert_eq!(ended.recv(), Ok("ran"));
        io.stop();
        io.queue_write(Box::new(move |_| done.send("ran").expect("listens")));
        assert_eq!(ended.recv(), Err(std::sync::mpsc::RecvError));
    }
}
