//! How the allocator of the programs keeps memory.

/// `mi_option_purge_delay` of mimalloc 3, which its binding does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// How long freed memory is kept in case it is wanted again, in milliseconds. The default is a second, in which a listing
/// of a million pins goes through more memory than it ever holds.
const PURGE_DELAY_MS: std::ffi::c_long = 20;

/// Gives freed memory back to the system soon. The variable `MIMALLOC_PURGE_DELAY` is stronger.
///
/// To be called before there are other threads.
pub fn give_back_soon() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: sets a number in the allocator's own table, which checks the index, and is called before there are
        // other threads.
        #[allow(unsafe_code)]
        unsafe {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS);
        }
    }
}
