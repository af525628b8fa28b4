//! Directories of runtime environments, as archives that the nodes of the cluster fetch: in files, since they are large and read
//! once a node.
//!
//! They come and go over the calls for keys and values, in a name space of their own ([`NAMESPACE`]). A key says whose part it is:
//! `<job>/<package>/<part>`, or `<job>/<package>` for what is said when all parts are there. A part belongs to one job and
//! is gone with it.
//!
//! This is the index; whoever holds it reads and writes the files without it, between [`Packages::reserve`] and
//! [`Packages::written`].
//!
//! * `PKG-1`: all parts together, with those that are being written, take at most [`MAX_BYTES`].
//! * `PKG-2`: nothing leads out of the directory: a key that is not of the form above is refused.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ray_rs_types::JobId;
use tonic::Status;

/// The name space of packages; see `python/ray_rs/_env_packages.py`.
pub const NAMESPACE: &str = "_packages";
/// Largest part.
pub const MAX_PART_BYTES: usize = 8 << 20;
/// What all parts may take on the disk.
pub const MAX_BYTES: u64 = 4 << 30;
/// Ends the name of a part that is not whole yet.
const UNFINISHED: &str = ".new";

/// A part's key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartKey {
    pub job: JobId,
    /// Of the file.
    name: String,
}

#[derive(Debug, Default)]
pub struct Packages {
    /// Where parts lie; none: nothing is taken.
    dir: Option<PathBuf>,
    jobs: BTreeMap<JobId, BTreeMap<String, Part>>,
    /// The sum of all sizes.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    size: u64,
    is_written: bool,
}

/// What became of a request to take a part.
#[derive(Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It is there already.
    Exists,
    /// Write it to this file, then say so.
    Write(PathBuf),
}

impl PartKey {
    /// # Errors
    /// It is none.
    pub fn parse(key: &[u8]) -> Result<Self, Status> {
        let wrong = || Status::invalid_argument("the key of a package's part is <job>/<package>[/<number>]");
        let text = std::str::from_utf8(key).map_err(|_| wrong())?;
        let mut words = text.split('/');
        let (job, package, part) = (words.next(), words.next(), words.next());
        let job = job.filter(|job| is_hex(job, 2 * JobId::SIZE)).ok_or_else(wrong)?;
        let bytes: Vec<u8> = (0..job.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&job[at..at + 2], 16).expect("these are hexadecimal digits"))
            .collect();
        let job = JobId::from_bytes(&bytes).map_err(|_| wrong())?;
        let package = package.filter(|package| is_hex(package, 32)).ok_or_else(wrong)?;
        let is_number =
            |part: &str| part.len() <= 5 && !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        match part {
            _ if words.next().is_some() => Err(wrong()),
            None => Ok(Self {
                job,
                name: format!("{package}.whole"),
            }),
            Some(part) if is_number(part) => Ok(Self {
                job,
                name: format!("{package}.{part}"),
            }),
            Some(_) => Err(wrong()),
        }
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn job_of_directory(name: &str) -> Option<JobId> {
    let key = format!("{name}/{:032}", 0);
    PartKey::parse(key.as_bytes()).ok().map(|key| key.job)
}

impl Packages {
    /// What an earlier process of the session has kept in this directory, which is made when something comes.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        let mut packages = Self::default();
        for entry in entries(&dir)? {
            let Some(job) = entry.file_name().to_str().and_then(job_of_directory) else {
                continue;
            };
            for file in entries(&entry.path())? {
                let Ok(name) = file.file_name().into_string() else {
                    continue;
                };
                if name.ends_with(UNFINISHED) {
                    std::fs::remove_file(file.path())?;
                    continue;
                }
                let size = file.metadata()?.len();
                packages.bytes += size;
                let part = Part { size, is_written: true };
                packages.jobs.entry(job).or_default().insert(name, part);
            }
        }
        packages.dir = Some(dir);
        Ok(packages)
    }

    /// Room for a part. Whoever is told to write says how that ended by [`Self::written`].
    ///
    /// # Errors
    /// It is too large, or there is no room.
    pub fn reserve(&mut self, key: &PartKey, size: usize) -> Result<Reserved, Status> {
        let Some(dir) = &self.dir else {
            return Err(Status::failed_precondition("this control store keeps no packages"));
        };
        if size > MAX_PART_BYTES {
            return Err(Status::invalid_argument(format!(
                "a part of a package has at most {MAX_PART_BYTES} bytes, and this one has {size}"
            )));
        }
        let known = self.jobs.get(&key.job).and_then(|parts| parts.get(&key.name)).copied();
        if known.is_some_and(|part| part.is_written) {
            return Ok(Reserved::Exists);
        }
        // Parts are named by what is in them, so another who writes this one writes the same.
        let more = size as u64 - known.map_or(0, |part| part.size.min(size as u64));
        if self.bytes + more > MAX_BYTES {
            return Err(Status::resource_exhausted(format!(
                "the directories of runtime environments take {} MiB in the cluster, and {} MiB are allowed together; those of a \
                 job go with it",
                self.bytes >> 20,
                MAX_BYTES >> 20
            )));
        }
        let path = dir.join(key.job.hex()).join(&key.name);
        let size = known.map_or(size as u64, |part| part.size.max(size as u64));
        let part = Part {
            size,
            is_written: false,
        };
        self.jobs.entry(key.job).or_default().insert(key.name.clone(), part);
        self.bytes += more;
        Ok(Reserved::Write(path))
    }

    /// How the writing of a part ended. False: it is not wanted any more, and its file is to be removed.
    pub fn written(&mut self, key: &PartKey, is_whole: bool) -> bool {
        let Some(parts) = self.jobs.get_mut(&key.job) else {
            return false;
        };
        let Some(part) = parts.get_mut(&key.name) else {
            return false;
        };
        part.is_written |= is_whole;
        if part.is_written {
            return true;
        }
        self.bytes -= part.size;
        parts.remove(&key.name);
        if parts.is_empty() {
            self.jobs.remove(&key.job);
        }
        false
    }

    /// The file of a part that is there.
    pub fn path(&self, key: &PartKey) -> Option<PathBuf> {
        let part = self.jobs.get(&key.job)?.get(&key.name)?;
        let dir = self.dir.as_ref().filter(|_| part.is_written)?;
        Some(dir.join(key.job.hex()).join(&key.name))
    }

    /// Jobs that have parts.
    pub fn jobs(&self) -> Vec<JobId> {
        self.jobs.keys().copied().collect()
    }

    /// The job is over. The directory is to be removed.
    pub fn forget(&mut self, job: JobId) -> Option<PathBuf> {
        let parts = self.jobs.remove(&job)?;
        self.bytes -= parts.values().map(|part| part.size).sum::<u64>();
        Some(self.dir.as_ref()?.join(job.hex()))
    }

    /// # Panics
    /// With the name of the invariant that does not hold.
    #[cfg(test)]
    fn check_invariants(&self) {
        let sum: u64 = self
            .jobs
            .values()
            .flat_map(BTreeMap::values)
            .map(|part| part.size)
            .sum();
        assert_eq!(sum, self.bytes, "PKG-1: sizes are counted");
        assert!(self.bytes <= MAX_BYTES, "PKG-1: it is bounded");
        assert!(
            self.jobs.values().all(|parts| !parts.is_empty()),
            "a job without parts is not listed"
        );
    }
}

/// None if there is no such directory.
fn entries(dir: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Writes a part so that it is there whole or not at all. Blocks.
///
/// # Errors
/// As those of files.
pub fn write_part(path: &Path, number: u64, data: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = path.parent().expect("a part lies in its job's directory");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Another may be writing the same.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{number}{UNFINISHED}"));
    let outcome = std::fs::write(&unfinished, data).and_then(|()| std::fs::rename(&unfinished, path));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    outcome
}

/// Removes what [`Packages::forget`] named, or a part that is not wanted. Blocks. What can't be removed goes with the session.
pub fn remove_all(paths: impl IntoIterator<Item = PathBuf>) {
    for path in paths {
        let outcome = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "what is left of a package could not be removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: &str = "0123456789abcdef0123456789abcdef";

    fn key(job: u32, part: Option<u32>) -> PartKey {
        let job = JobId::from_int(job).hex();
        let part = part.map(|part| format!("/{part}")).unwrap_or_default();
        PartKey::parse(format!("{job}/{PACKAGE}{part}").as_bytes()).expect("well-formed")
    }

    #[test]
    fn nothing_but_a_parts_key_is_one() {
        let job = JobId::from_int(7).hex();
        assert_eq!(key(7, Some(3)).job, JobId::from_int(7));
        for wrong in [
            String::new(),
            job.clone(),
            format!("{job}/.."),
            format!("{job}/{PACKAGE}/"),
            format!("{job}/{PACKAGE}/.."),
            format!("{job}/{PACKAGE}/1/2"),
            format!("{job}/{PACKAGE}/123456"),
            format!("{job}/{PACKAGE}/-1"),
            format!("../{job}/{PACKAGE}"),
            format!("{}/{PACKAGE}", job.to_uppercase() + "0"),
            format!("{job}/{}", PACKAGE.to_uppercase()),
        ] {
            assert!(PartKey::parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(PartKey::parse(b"\xff").is_err());
    }

    #[test]
    fn parts_are_there_when_they_are_written_and_until_their_job_is_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut packages = Packages::open(dir.path().join("packages")).expect("nothing is there");
        let Ok(Reserved::Write(path)) = packages.reserve(&key(1, Some(0)), 3) else {
            panic!("there is room")
        };
        assert_eq!(packages.path(&key(1, Some(0))), None);
        write_part(&path, 1, b"abc").expect("written");
        assert!(packages.written(&key(1, Some(0)), true));
        assert_eq!(packages.reserve(&key(1, Some(0)), 3).expect("known"), Reserved::Exists);
        assert_eq!(packages.path(&key(1, Some(0))), Some(path.clone()));
        assert_eq!(packages.path(&key(2, Some(0))), None, "it is another job's");
        // One that could not be written takes no room; nor does one whose job has ended meanwhile.
        packages.reserve(&key(2, None), 5).expect("room");
        packages.check_invariants();
        assert!(!packages.written(&key(2, None), false));
        packages.reserve(&key(3, None), 5).expect("room");
        assert!(packages.forget(JobId::from_int(3)).is_some());
        assert!(!packages.written(&key(3, None), true));
        packages.check_invariants();
        assert_eq!(packages.bytes, 3);

        // A later process finds what is whole.
        std::fs::write(path.with_extension("1.5.new"), b"ab").expect("written");
        let mut packages = Packages::open(dir.path().join("packages")).expect("readable");
        packages.check_invariants();
        assert_eq!((packages.bytes, packages.jobs()), (3, vec![JobId::from_int(1)]));
        let gone = packages.forget(JobId::from_int(1)).expect("it has parts");
        remove_all([gone]);
        assert!(!path.exists());
        assert_eq!((packages.bytes, packages.jobs().len()), (0, 0));
    }

    #[test]
    fn what_all_take_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut packages = Packages::open(dir.path().to_owned()).expect("readable");
        let count = (MAX_BYTES / MAX_PART_BYTES as u64) as u32;
        for part in 0..count {
            packages.reserve(&key(1, Some(part)), MAX_PART_BYTES).expect("room");
        }
        packages.check_invariants();
        assert!(packages.reserve(&key(1, Some(0)), MAX_PART_BYTES + 1).is_err());
        packages
            .reserve(&key(1, Some(0)), MAX_PART_BYTES)
            .expect("its room is there");
        let refused = packages.reserve(&key(2, None), 1).expect_err("full");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        packages.forget(JobId::from_int(1));
        packages.reserve(&key(2, None), 1).expect("room again");
        packages.check_invariants();
        assert!(
            Packages::default().reserve(&key(1, None), 1).is_err(),
            "one without a directory"
        );
    }
}
