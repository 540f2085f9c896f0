//! What a program that allocates with mimalloc, as `fidelio` does, should tell it.

/// How long free memory is kept before it is given back to the system, in milliseconds.
const PURGE_DELAY_MS: std::ffi::c_long = 10_000;

/// The steps of a task take and give back the same memory several times a second. That the system takes it away in
/// between, once a second as mimalloc has it by default, costs as much as decoding does.
#[allow(unsafe_code)]
pub fn keep_memory() {
    // SAFETY: sets a number, which can be done at any time. The bindings have no name for it.
    unsafe { libmimalloc_sys::mi_option_set(MI_OPTION_PURGE_DELAY, PURGE_DELAY_MS) };
}

const MI_OPTION_PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
