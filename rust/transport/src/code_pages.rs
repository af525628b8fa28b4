//! The code of a process that has started: most of its pages are never looked at again.
//!
//! A start runs through megabytes of code once, and brings their neighbours along, since the kernel maps sixteen pages for
//! each that is missed. An idle daemon needs few of them. What is given back stays in the kernel's cache of files; what
//! runs again is mapped again, at the cost of a microsecond for sixteen pages.

use std::ffi::{CStr, c_int, c_void};
use std::slice;

/// In `PT_DYNAMIC`: code of this object was written to when it was loaded.
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DF_TEXTREL: u64 = 4;
const DT_NULL: u64 = 0;

type ProgramHeader = libc::Elf64_Phdr;

/// Unmaps the pages of code and of constants of all that is loaded, as far as they are as in their files; whoever needs one
/// finds it again. Returns in how many pieces they lie.
///
/// Any thread may run meanwhile.
pub fn give_back_code() -> usize {
    let mut pieces: usize = 0;
    // SAFETY: `give_back_object` has the type of such a function, is done with its arguments when it returns, and gets what
    // it takes `data` for. It neither unwinds nor loads anything.
    unsafe { libc::dl_iterate_phdr(Some(give_back_object), (&raw mut pieces).cast()) };
    pieces
}

/// Called for each loaded object while the loader keeps it from being unloaded.
unsafe extern "C" fn give_back_object(info: *mut libc::dl_phdr_info, _bytes: usize, pieces: *mut c_void) -> c_int {
    // SAFETY: the loader passes a description that is valid during this call, and passes `data` on: a counter that is borrowed
    // by nobody else.
    let (info, pieces) = unsafe { (&*info, &mut *pieces.cast::<usize>()) };
    // SAFETY: a C string, as the description says.
    let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
    // The kernel's own object has no file. The name of the program itself is empty.
    if !name.is_empty() && !name.contains(&b'/') {
        return 0;
    }
    // SAFETY: so many headers lie there as long as the object is loaded.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC);
    // SAFETY: the loader has mapped the section there, with so many bytes, aligned as its entries of two words are.
    let dynamic = dynamic.map_or(&[][..], |header| unsafe {
        let at = (info.dlpi_addr as usize + header.p_vaddr as usize) as *const [u64; 2];
        slice::from_raw_parts(at, header.p_memsz as usize / size_of::<[u64; 2]>())
    });
    if was_written_to(dynamic) {
        return 0;
    }
    for header in headers.iter().filter(|header| is_as_in_the_file(header)) {
        let (start, bytes) = pages(info.dlpi_addr as usize, header);
        // SAFETY: these are pages of this segment, which has its own, stays mapped during this call and cannot be written to:
        // they are as in the file, and will be read from there again. Nobody sees a difference, whatever runs there.
        let done = unsafe { rustix::mm::madvise(start as *mut c_void, bytes, rustix::mm::Advice::LinuxDontNeed) };
        *pieces += usize::from(done.is_ok());
    }
    0
}

fn was_written_to(dynamic: &[[u64; 2]]) -> bool {
    let entries = dynamic.iter().take_while(|[tag, _]| *tag != DT_NULL);
    let mut of_code = entries.filter(|[tag, value]| *tag == DT_TEXTREL || *tag == DT_FLAGS && value & DF_TEXTREL != 0);
    of_code.next().is_some()
}

/// What is relocated when an object is loaded, and read-only from then on, lies in segments that can be written to.
fn is_as_in_the_file(header: &ProgramHeader) -> bool {
    header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 && header.p_memsz == header.p_filesz
}

/// First address and bytes of the pages of a segment.
fn pages(base: usize, header: &ProgramHeader) -> (usize, usize) {
    let page = rustix::param::page_size();
    let start = base + header.p_vaddr as usize;
    let end = (start + header.p_memsz as usize).next_multiple_of(page);
    let start = start / page * page;
    (start, end - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u32, vaddr: u64, bytes: u64) -> ProgramHeader {
        ProgramHeader {
            p_type: libc::PT_LOAD,
            p_flags: flags,
            p_offset: 0,
            p_vaddr: vaddr,
            p_paddr: 0,
            p_filesz: bytes,
            p_memsz: bytes,
            p_align: 4096,
        }
    }

    #[test]
    fn what_can_be_written_to_is_kept() {
        let code = segment(libc::PF_R | libc::PF_X, 0x1000, 1);
        assert!(is_as_in_the_file(&code) && is_as_in_the_file(&segment(libc::PF_R, 0, 1)));
        assert!(!is_as_in_the_file(&segment(libc::PF_R | libc::PF_W, 0, 1)));
        assert!(!is_as_in_the_file(&segment(libc::PF_R | libc::PF_W | libc::PF_X, 0, 1)));
        assert!(!is_as_in_the_file(&ProgramHeader { p_memsz: 2, ..code }));
        assert!(!is_as_in_the_file(&ProgramHeader {
            p_type: libc::PT_NOTE,
            ..code
        }));
    }

    #[test]
    fn code_that_was_relocated_is_kept() {
        assert!(!was_written_to(&[[1, 2], [DT_FLAGS, 8], [DT_NULL, 0], [DT_TEXTREL, 0]]));
        assert!(was_written_to(&[[1, 2], [DT_TEXTREL, 0]]));
        assert!(was_written_to(&[[DT_FLAGS, 8 | DF_TEXTREL]]));
        assert!(!was_written_to(&[]));
    }

    #[test]
    fn a_segment_has_whole_pages() {
        let page = rustix::param::page_size();
        let base = 16 * page;
        let of = |vaddr: usize, bytes: usize| pages(base, &segment(libc::PF_R, vaddr as u64, bytes as u64));
        assert_eq!(of(0, page), (base, page));
        assert_eq!(of(page + 8, 1), (base + page, page));
        assert_eq!(of(page + 8, page), (base + page, 2 * page));
    }
}
