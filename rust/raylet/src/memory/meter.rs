//! How much memory there is and how much of it is used, as the kernel says: of the control group, if one limits this
//! process, and of the machine; whichever is nearer to its end counts.
//!
//! Both versions of control groups are read, and the limits of all groups above as well. Clean pages of files are no use:
//! the kernel takes them when it needs them. All paths are below a root that tests choose.

use std::fs;
use std::path::{Path, PathBuf};

use ray_rs_scheduler::memory::Usage;

/// The share of the last ten seconds in which everything stood still for want of memory, in percent, above which that
/// counts as being out of it.
const STALLED_PERCENT: f64 = 10.0;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Group {
    V1(PathBuf),
    V2(PathBuf),
}

/// Reads what the node uses.
#[derive(Debug)]
pub(super) struct Meter {
    root: PathBuf,
    /// The group whose limit is the lowest, and the limit.
    group: Option<(Group, u64)>,
    page_bytes: u64,
}

impl Meter {
    pub fn new(root: &Path) -> Self {
        let mut meter = Self {
            root: root.to_owned(),
            group: None,
            page_bytes: rustix::param::page_size() as u64,
        };
        let machine = meter.machine().map_or(u64::MAX, |usage| usage.limit_bytes);
        meter.group = groups(root)
            .into_iter()
            .filter_map(|group| Some((limit_of(&group)?, group)))
            .min_by_key(|(limit, _)| *limit)
            .filter(|(limit, _)| *limit < machine)
            .map(|(limit, group)| (group, limit));
        meter
    }

    /// What is used. `closely`: worth a few more reads, since it matters now.
    pub fn read(&self, closely: bool) -> Option<Usage> {
        let machine = self.machine();
        let group = self.group.as_ref().and_then(|group| self.group_usage(group, closely));
        let fullness = |usage: &Usage| usage.used_bytes as f64 / usage.limit_bytes.max(1) as f64;
        let mut fullest = [machine, group]
            .into_iter()
            .flatten()
            .max_by(|one, other| fullness(one).total_cmp(&fullness(other)))?;
        fullest.stalled = closely && self.is_stalled();
        Some(fullest)
    }

    fn machine(&self) -> Option<Usage> {
        let text = fs::read_to_string(self.root.join("proc/meminfo")).ok()?;
        let field = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(rest.split_whitespace().next()?.parse::<u64>().ok()? << 10)
        };
        let total = field("MemTotal:")?;
        Some(Usage {
            used_bytes: total.saturating_sub(field("MemAvailable:")?),
            limit_bytes: total,
            stalled: false,
        })
    }

    fn group_usage(&self, (group, limit): &(Group, u64), closely: bool) -> Option<Usage> {
        let (dir, current, inactive, active) = match group {
            Group::V1(dir) => (
                dir,
                "memory.usage_in_bytes",
                "total_inactive_file ",
                "total_active_file ",
            ),
            Group::V2(dir) => (dir, "memory.current", "inactive_file ", "active_file "),
        };
        // The limit may be changed while we run.
        let limit = limit_of(group).unwrap_or(*limit);
        let mut used = read_number(&dir.join(current))?;
        if closely || used * 2 >= limit {
            let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            let field = |name| {
                stat.lines()
                    .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
            };
            let clean = field(inactive).unwrap_or(0) + field(active).unwrap_or(0);
            used = used.saturating_sub(clean);
        }
        Some(Usage {
            used_bytes: used,
            limit_bytes: limit,
            stalled: false,
        })
    }

    fn is_stalled(&self) -> bool {
        let path = match &self.group {
            Some((Group::V2(dir), _)) => dir.join("memory.pressure"),
            Some((Group::V1(_), _)) | None => self.root.join("proc/pressure/memory"),
        };
        let text = fs::read_to_string(path).unwrap_or_default();
        let full = text.lines().find_map(|line| line.strip_prefix("full avg10="));
        let percent = full.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        percent.is_some_and(|percent| percent >= STALLED_PERCENT)
    }

    /// The memory of one process that is its own: what comes free when it ends. (Pages that a fork still shares with its
    /// zygote are counted for each.)
    pub fn process_bytes(&self, pid: u32) -> u64 {
        let text = fs::read_to_string(self.root.join(format!("proc/{pid}/statm"))).unwrap_or_default();
        let mut pages = text
            .split_whitespace()
            .skip(1)
            .map_while(|word| word.parse::<u64>().ok());
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        resident.saturating_sub(shared) * self.page_bytes
    }

    /// The processes that use most, with their names, the largest first.
    pub fn largest(&self, count: usize) -> Vec<(u32, u64, String)> {
        let Ok(entries) = fs::read_dir(self.root.join("proc")) else {
            return Vec::new();
        };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut found: Vec<(u32, u64)> = pids.map(|pid| (pid, self.process_bytes(pid))).collect();
        found.sort_unstable_by_key(|(pid, bytes)| (std::cmp::Reverse(*bytes), *pid));
        found.truncate(count);
        let named = |(pid, bytes)| (pid, bytes, self.command(pid));
        found.into_iter().map(named).collect()
    }

    fn command(&self, pid: u32) -> String {
        let text = fs::read(self.root.join(format!("proc/{pid}/cmdline"))).unwrap_or_default();
        let words: Vec<_> = text.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.join(" ").trim().chars().take(80).collect()
    }
}

/// The memory groups of this process, and those above them.
fn groups(root: &Path) -> Vec<Group> {
    let mine = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let mut found = Vec::new();
    for line in mine.lines() {
        let mut words = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (words.next(), words.next()) else {
            continue;
        };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|one| one == "memory") {
            continue;
        }
        let Some((top, mount_root)) = mount_of(&mounts, is_v2) else {
            continue;
        };
        let top = root.join(top.trim_start_matches('/'));
        // In a container the mount may begin below the root of the tree that the path counts from.
        let below = Path::new(path);
        let below = below.strip_prefix(&mount_root).or_else(|_| below.strip_prefix("/"));
        let mut dir = top.join(below.unwrap_or(Path::new("")));
        if !dir.is_dir() {
            dir.clone_from(&top);
        }
        for above in dir.ancestors().take_while(|above| above.starts_with(&top)) {
            let above = above.to_owned();
            found.push(if is_v2 { Group::V2(above) } else { Group::V1(above) });
        }
    }
    found
}

/// Where the memory groups are mounted, and what of their tree is.
fn mount_of(mounts: &str, is_v2: bool) -> Option<(String, String)> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?;
        let options = file_system.nth(1)?;
        let matches = match is_v2 {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|one| one == "memory"),
        };
        let mut words = mount.split(' ').skip(3);
        let (mount_root, top) = (words.next()?, words.next()?);
        matches.then(|| (top.to_owned(), mount_root.to_owned()))
    })
}

fn limit_of(group: &Group) -> Option<u64> {
    match group {
        Group::V1(dir) => read_number(&dir.join("memory.limit_in_bytes")),
        // "max" is no number, and no limit.
        Group::V2(dir) => read_number(&dir.join("memory.max")),
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// A made-up machine of 1000 MB, of which 400 are used.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, text).expect("written");
        };
        put(
            "proc/meminfo",
            "MemTotal:  1024000 kB\nMemFree: 1 kB\nMemAvailable:  614400 kB\n",
        );
        for (path, text) in files {
            put(path, text);
        }
        dir
    }

    fn bytes(mb: u64) -> String {
        format!("{}\n", mb * MB)
    }

    fn usage(used: u64, limit: u64) -> Option<Usage> {
        Some(Usage {
            used_bytes: used * MB,
            limit_bytes: limit * MB,
            stalled: false,
        })
    }

    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                            33 25 0:30 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";

    #[test]
    fn without_a_group_it_is_the_machine() {
        let dir = machine(&[("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", V2_MOUNT)]);
        assert_eq!(Meter::new(dir.path()).read(true), usage(400, 1000));
    }

    #[test]
    fn version_2_counts_the_lowest_limit_above_and_not_the_pages_of_files() {
        let dir = machine(&[
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/pod/box/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/box/memory.current", &bytes(1)),
            ("sys/fs/cgroup/pod/memory.max", &bytes(200)),
            ("sys/fs/cgroup/pod/memory.current", &bytes(190)),
            (
                "sys/fs/cgroup/pod/memory.stat",
                &format!("anon 5\ninactive_file {}active_file {}", bytes(30), bytes(10)),
            ),
            (
                "sys/fs/cgroup/pod/memory.pressure",
                "some avg10=60.00 avg60=0 avg300=0 total=0\nfull avg10=55.10 avg60=0 avg300=0 total=0\n",
            ),
        ]);
        let meter = Meter::new(dir.path());
        let closely = meter.read(true).expect("read");
        assert_eq!((closely.used_bytes, closely.limit_bytes), (150 * MB, 200 * MB));
        assert!(closely.stalled);
        assert_eq!(
            meter.read(false),
            usage(150, 200),
            "half is used: the clean pages matter"
        );
        fs::write(dir.path().join("sys/fs/cgroup/pod/memory.max"), bytes(300)).expect("written");
        assert_eq!(meter.read(false), usage(150, 300), "a limit may be changed");
    }

    #[test]
    fn version_1_in_a_container_counts_from_where_its_mount_begins() {
        let dir = machine(&[
            ("proc/self/cgroup", "4:memory:/docker/x/inner\n2:cpu:/docker/x\n"),
            ("proc/self/mountinfo", V1_MOUNT),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", &bytes(100)),
            ("sys/fs/cgroup/memory/inner/memory.usage_in_bytes", &bytes(90)),
            (
                "sys/fs/cgroup/memory/inner/memory.stat",
                &format!("inactive_file 7\ntotal_inactive_file {}", bytes(20)),
            ),
        ]);
        assert_eq!(Meter::new(dir.path()).read(true), usage(70, 100));
    }

    #[test]
    fn a_machine_fuller_than_its_group_counts() {
        let dir = machine(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/memory.max", &bytes(500)),
            ("sys/fs/cgroup/memory.current", &bytes(50)),
        ]);
        assert_eq!(Meter::new(dir.path()).read(true), usage(400, 1000));
    }

    #[test]
    fn this_machine_can_be_read() {
        let meter = Meter::new(Path::new("/"));
        let usage = meter.read(true).expect("there is /proc");
        assert!(
            usage.used_bytes > 0 && usage.used_bytes <= usage.limit_bytes,
            "{usage:?}"
        );
        let before = meter.process_bytes(std::process::id());
        let block = vec![1u8; 64 << 20];
        let after = meter.process_bytes(std::process::id());
        assert!(after >= before + (60 << 20), "{before} {after} {}", block.len());
        let largest = meter.largest(3);
        assert!(largest.windows(2).all(|pair| pair[0].1 >= pair[1].1), "{largest:?}");
    }

    /// A group of our own in the kernel's tree, where the kernel has version 1 and lets us make one.
    #[test]
    fn a_real_group_of_version_1_is_read() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there is /proc");
        let Some((top, _)) = mount_of(&mounts, false) else {
            return;
        };
        let name = format!("ray_rs_test_{}", std::process::id());
        let group = Path::new(&top).join(&name);
        if fs::create_dir(&group).is_err() {
            return;
        }
        let limited = fs::write(group.join("memory.limit_in_bytes"), bytes(64));
        let dir = machine(&[("proc/self/cgroup", &format!("4:memory:/{name}\n"))]);
        // The tree is real; what says where we are in it is ours.
        let info = format!(
            "33 25 0:30 / {}/real rw - cgroup cgroup rw,memory\n",
            dir.path().display()
        );
        fs::write(dir.path().join("proc/self/mountinfo"), info).expect("written");
        std::os::unix::fs::symlink(&top, dir.path().join("real")).expect("linked");
        let found = Meter {
            root: dir.path().to_owned(),
            group: limit_of(&Group::V1(group.clone())).map(|limit| (Group::V1(group.clone()), limit)),
            page_bytes: 4096,
        };
        let read = found.group.as_ref().and_then(|known| found.group_usage(known, true));
        fs::remove_dir(&group).expect("removed");
        if limited.is_ok() {
            let read = read.expect("it is there");
            assert_eq!(read.limit_bytes, 64 * MB);
            assert!(read.used_bytes <= 64 * MB);
        }
    }
}
