//! Large copies into the arena.
//!
//! Which instructions copy fastest into pages that exist depends on the machine: `rep movsb` reaches twice the speed of
//! streaming stores on one and half of it on another. So a large copy goes in pieces, each way is tried now and then, and
//! the way that has been fastest lately does the rest. Copies of tens of megabytes take a second thread along while
//! a core has nothing else to do: one core alone does not reach the memory's speed. And where the copy itself turns out to
//! bring pages into this process, it has the kernel bring them in a piece at a time, not one by one.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

/// From here on it matters not to read what is overwritten.
const LARGE: usize = 1 << 20;
/// What is copied in one go, and timed.
const PIECE: usize = 1 << 20;
/// From here on a second thread pays for its start.
const SHARED: usize = 32 << 20;
const PAGE: usize = 4096;
/// So many page faults in a piece, and the next pieces are worth a system call each.
const MANY_FAULTS: i64 = (PIECE / PAGE / 4) as i64;
/// One piece in so many tries another way than the best.
const TRIED: u32 = 64;

/// Copies all of `src`.
///
/// # Panics
/// When the lengths differ.
pub fn copy_bytes(dst: &mut [u8], src: &[u8]) {
    assert_eq!(dst.len(), src.len(), "a copy needs as much room as there is to copy");
    if src.len() < LARGE {
        return dst.copy_from_slice(src);
    }
    let pieces = Pieces {
        dst: dst.as_mut_ptr(),
        src,
        next: AtomicUsize::new(0),
    };
    if src.len() < SHARED || !a_core_is_idle() {
        return pieces.copy(&AtomicBool::new(true));
    }
    let is_wanted = AtomicBool::new(true);
    std::thread::scope(|scope| {
        // Without a second thread the copy only takes longer.
        let helper = std::thread::Builder::new().name("ray_rs-copy".to_owned());
        let _ = helper.spawn_scoped(scope, || pieces.copy(&is_wanted));
        pieces.copy(&AtomicBool::new(true));
        is_wanted.store(false, Ordering::Relaxed);
    });
}

/// A copy in progress: each thread takes the next piece until none is left.
struct Pieces<'a> {
    dst: *mut u8,
    src: &'a [u8],
    next: AtomicUsize,
}

// SAFETY: `dst` comes from a unique borrow of as many bytes as `src`, which outlives this; `next` hands each piece of it
// to one thread only.
unsafe impl Sync for Pieces<'_> {}

impl Pieces<'_> {
    fn copy(&self, is_wanted: &AtomicBool) {
        let mut new = NewPages::default();
        while is_wanted.load(Ordering::Relaxed) {
            let start = self.next.fetch_add(PIECE, Ordering::Relaxed);
            if start >= self.src.len() {
                return;
            }
            let src = &self.src[start..self.src.len().min(start + PIECE)];
            // SAFETY: within the borrow (see `Sync` above), and this piece is this thread's alone.
            let dst = unsafe { std::slice::from_raw_parts_mut(self.dst.add(start), src.len()) };
            if new.dst {
                bring_in(dst);
            }
            if new.src {
                bring_in(src);
            }
            let before = page_faults();
            WAYS.copy(dst, src);
            new.seen(page_faults() - before);
        }
    }
}

/// Which side of a copy this process has not mapped yet, as it turns out.
#[derive(Debug, Default)]
struct NewPages {
    dst: bool,
    src: bool,
}

impl NewPages {
    fn seen(&mut self, faults: i64) {
        if faults > MANY_FAULTS {
            // If it is not the one side it is the other.
            self.src = self.dst;
            self.dst = true;
        }
    }
}

/// Page faults of this thread that needed no disk.
pub(super) fn page_faults() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage`; all zeroes is a valid one, so it is initialised even on failure.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_minflt
}

/// Maps the pages of a slice into this process, in one call instead of a fault for each. Only ever saves time: what the
/// kernel refuses is left to the copy.
fn bring_in(bytes: &[u8]) {
    use rustix::mm::{Advice, madvise};
    let start = bytes.as_ptr();
    let skipped = start.addr().next_multiple_of(PAGE) - start.addr();
    let whole = bytes.len().saturating_sub(skipped) / PAGE * PAGE;
    if whole > 0 {
        let first = start.wrapping_add(skipped).cast_mut().cast();
        // For reading, although it may be written: a fault of that kind maps the sixteen pages around it that have a
        // content, and pages of shared memory are mapped for both at once.
        // SAFETY: the range lies in a slice that is borrowed; populating for reading changes no byte of it.
        let _ = unsafe { madvise(first, whole, Advice::LinuxPopulateRead) };
    }
}

/// Whether a thread more would have a core to run on, by what the kernel says is running right now.
fn a_core_is_idle() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let running = || {
        let text = std::fs::read_to_string("/proc/loadavg").ok()?;
        text.split_ascii_whitespace()
            .nth(3)?
            .split('/')
            .next()?
            .parse::<usize>()
            .ok()
    };
    cores > 1 && running().is_some_and(|running| running < cores)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    #[cfg(target_arch = "x86_64")]
    RepMovsb,
    #[cfg(target_arch = "x86_64")]
    Streaming,
}

#[cfg(target_arch = "x86_64")]
const ALL: [Way; 3] = [Way::Streaming, Way::RepMovsb, Way::Plain];
#[cfg(not(target_arch = "x86_64"))]
const ALL: [Way; 1] = [Way::Plain];

/// How long each way took lately, in nanoseconds for a whole piece; 0: not tried.
struct Ways {
    lately: [AtomicU32; ALL.len()],
    turns: AtomicU32,
}

static WAYS: Ways = Ways {
    lately: [const { AtomicU32::new(0) }; ALL.len()],
    turns: AtomicU32::new(0),
};

impl Ways {
    fn copy(&self, dst: &mut [u8], src: &[u8]) {
        let index = self.choose();
        let began = Instant::now();
        ALL[index].copy(dst, src);
        if src.len() == PIECE {
            self.took(index, u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
    }

    /// An untried way first, else the fastest, and now and then another in turn.
    fn choose(&self) -> usize {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        if turn.is_multiple_of(TRIED) {
            return (turn / TRIED) as usize % ALL.len();
        }
        (0..ALL.len())
            .min_by_key(|index| self.lately[*index].load(Ordering::Relaxed))
            .expect("there is a way")
    }

    fn took(&self, index: usize, ns: u32) {
        let before = self.lately[index].load(Ordering::Relaxed);
        let now = if before == 0 { ns } else { before - before / 4 + ns / 4 };
        self.lately[index].store(now.max(1), Ordering::Relaxed);
    }
}

impl Way {
    fn copy(self, dst: &mut [u8], src: &[u8]) {
        match self {
            Self::Plain => dst.copy_from_slice(src),
            #[cfg(target_arch = "x86_64")]
            Self::RepMovsb => rep_movsb(dst, src),
            #[cfg(target_arch = "x86_64")]
            Self::Streaming => {
                if std::arch::is_x86_feature_detected!("avx") {
                    // SAFETY: the processor has AVX.
                    unsafe { streaming(dst, src) }
                } else {
                    dst.copy_from_slice(src);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn rep_movsb(dst: &mut [u8], src: &[u8]) {
    assert_eq!(dst.len(), src.len());
    // SAFETY: both pointers are valid for `len` bytes (they come from slices of that length) and do not overlap (one is a
    // unique borrow); the direction flag is clear by the calling convention.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") src.len() => _,
            inout("rdi") dst.as_mut_ptr() => _,
            inout("rsi") src.as_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Stores that go past the caches, over four pages at a time, so that several rows of memory are open at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
fn streaming(dst: &mut [u8], src: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    const LINES: usize = 128;
    assert_eq!(dst.len(), src.len());
    // The stores want addresses that are a multiple of 32.
    let head = dst.as_ptr().align_offset(32).min(dst.len());
    dst[..head].copy_from_slice(&src[..head]);
    let blocks = (dst.len() - head) / (4 * PAGE);
    let body = head + blocks * 4 * PAGE;
    for block in 0..blocks {
        for line in (0..PAGE).step_by(LINES) {
            for page in 0..4 {
                let at = head + (block * 4 + page) * PAGE + line;
                // SAFETY: `at + LINES <= body <= len` of both slices; `dst + at` is a multiple of 32, since `dst + head`
                // is and the rest are multiples; a prefetch may name any address.
                unsafe {
                    let from = src.as_ptr().add(at);
                    let to = dst.as_mut_ptr().add(at);
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(2 * LINES).cast());
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(2 * LINES + 64).cast());
                    let a = _mm256_loadu_si256(from.cast());
                    let b = _mm256_loadu_si256(from.add(32).cast());
                    let c = _mm256_loadu_si256(from.add(64).cast());
                    let d = _mm256_loadu_si256(from.add(96).cast());
                    _mm256_stream_si256(to.cast(), a);
                    _mm256_stream_si256(to.add(32).cast(), b);
                    _mm256_stream_si256(to.add(64).cast(), c);
                    _mm256_stream_si256(to.add(96).cast(), d);
                }
            }
        }
    }
    dst[body..].copy_from_slice(&src[body..]);
    // Streaming stores are ordered by this only: whoever is told of the copy must see it.
    _mm_sfence();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[test]
    fn each_way_copies_all_lengths_and_alignments() {
        let src = pattern(3 * PIECE / 2);
        for way in ALL {
            for (start, len) in [
                (0, 0),
                (1, 1),
                (3, 31),
                (5, 100),
                (0, 4096 * 4),
                (7, 4096 * 9 + 13),
                (9, PIECE),
            ] {
                for shift in [0, 1, 32] {
                    let mut dst = vec![0xaa; shift + len + 1];
                    way.copy(&mut dst[shift..shift + len], &src[start..start + len]);
                    assert!(
                        dst[shift..shift + len] == src[start..start + len],
                        "{way:?} {start} {len} {shift}"
                    );
                    assert_eq!(dst[shift + len], 0xaa, "{way:?} wrote past the end");
                }
            }
        }
    }

    #[test]
    fn large_copies_are_whole_whoever_takes_which_piece() {
        for len in [LARGE - 1, LARGE, LARGE + 1, SHARED + 12_345] {
            let src = pattern(len);
            let mut dst = vec![0; len];
            copy_bytes(&mut dst, &src);
            assert!(dst == src, "{len}");
        }
    }

    #[test]
    fn the_fastest_way_is_taken_and_the_others_are_tried_again() {
        let ways = Ways {
            lately: [const { AtomicU32::new(0) }; ALL.len()],
            turns: AtomicU32::new(1),
        };
        for index in 0..ALL.len() {
            assert_eq!(ways.choose(), index, "what was not tried comes first");
            ways.took(index, 100 + index as u32);
        }
        assert_eq!(ways.choose(), 0);
        for _ in 0..20 {
            ways.took(0, 1000);
        }
        let chosen: Vec<usize> = (0..TRIED as usize * ALL.len()).map(|_| ways.choose()).collect();
        for index in 0..ALL.len() {
            assert!(chosen.contains(&index), "{index} is tried now and then");
        }
        if ALL.len() > 1 {
            assert!(chosen.iter().filter(|index| **index == 1).count() > chosen.len() * 9 / 10);
        }
    }
}
