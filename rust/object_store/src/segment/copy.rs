//! Large copies into the arena.

/// From here on `rep movsb` beats the ordinary copy into pages that exist: it does not read what it overwrites.
#[cfg(target_arch = "x86_64")]
const LARGE: usize = 1 << 20;

/// Copies all of `src`.
///
/// # Panics
/// When the lengths differ.
pub fn copy_bytes(dst: &mut [u8], src: &[u8]) {
    assert_eq!(dst.len(), src.len(), "a copy needs as much room as there is to copy");
    #[cfg(target_arch = "x86_64")]
    if src.len() >= LARGE {
        // SAFETY: both pointers are valid for `len` bytes (they come from slices of that length) and do not overlap (one
        // is a unique borrow); the direction flag is clear by the calling convention.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") src.len() => _,
                inout("rdi") dst.as_mut_ptr() => _,
                inout("rsi") src.as_ptr() => _,
                options(nostack, preserves_flags)
            );
        }
        return;
    }
    dst.copy_from_slice(src);
}
