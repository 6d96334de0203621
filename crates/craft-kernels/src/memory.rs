//! What the allocator does with freed memory. It is here because setting its options is a foreign
//! call.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_get, mi_option_set, mi_option_t};

/// `mi_option_purge_delay`, and its value of old, in milliseconds.
const PURGE_DELAY: mi_option_t = 15;
const OLD: c_long = 1000;
/// Half a minute.
const NEW: c_long = 30_000;

/// Lets mimalloc keep freed memory for half a minute instead of a second before it gives it back to
/// the system.
///
/// Every step of a training frees and allocates the same hundreds of megabytes. mimalloc gives
/// *all* that is free at the end of the delay back at once, so that with a second much of it would
/// come anew from the system, page by page and filled with zeros. Changes nothing where the user
/// has set `MIMALLOC_PURGE_DELAY`, or where mimalloc is not the program's allocator.
pub fn keep_freed_memory() {
    // SAFETY: both calls read and write a static table of mimalloc's under an index inside it; they
    // may come at any time.
    unsafe {
        if mi_option_get(PURGE_DELAY) == OLD {
            mi_option_set(PURGE_DELAY, NEW);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_the_option_meant() {
        // SAFETY: as above.
        let before = unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(before, OLD, "mimalloc's options have another order or default now");
        keep_freed_memory();
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, NEW);
    }
}
