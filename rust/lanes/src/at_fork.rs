//! Code around a `fork` of this process.

use std::io;

/// Has the C library call `before` in each `fork` of this process, and then one of the others on either side. For good:
/// there is no way to take it back.
///
/// All three run inside the call of `fork` itself, so nothing else of the forking thread runs between `before` and the
/// fork: a lock that is taken there and let go in `in_parent` is never held while hooks of an interpreter run, which may
/// hand the interpreter to a thread that waits for that very lock. `vfork` and `posix_spawn` do not call them.
///
/// # Errors
/// The C library is out of memory.
pub fn at_fork(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the three are safe functions that live as long as the program: shared objects with a registered handler
    // have it removed by the C library when they are unloaded. Handlers of a multi-threaded process may do in the child
    // what the C library does there itself; it makes `malloc` usable before it calls them.
    let code = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
