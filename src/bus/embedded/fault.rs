//! The places where the write path can be made to fail: for tests of crashes, full disks and failed syncs. Without the
//! `failpoints` feature of the crate `fail`, a place costs nothing.
//!
//! What a place can be told to do, as the argument of `return(…)`: `kill` ends the process on the spot, `enospc` and
//! `eio` let the system call fail, `torn` (at a write) writes half of the bytes and then ends the process.

use std::fs::File;
use std::io::{self, IoSlice, Write};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What is to happen at a place; `None` is what always happens outside of tests.
fn action(place: &str) -> Option<String> {
    fail::fail_point!(place, |action| Some(action.unwrap_or_default()));
    let _ = place;
    None
}

/// Passes a place at which a system call is about to be made, or was.
pub(super) fn pass(place: &str) -> io::Result<()> {
    match action(place).as_deref() {
        None => Ok(()),
        Some("kill" | "torn") => std::process::abort(),
        Some("enospc") => Err(io::Error::from_raw_os_error(ENOSPC)),
        Some(_) => Err(io::Error::from_raw_os_error(EIO)),
    }
}

/// Writes all of the slices, where the file's cursor is.
pub(super) fn write(place: &str, mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    match action(place).as_deref() {
        None => {}
        Some("kill") => std::process::abort(),
        Some("torn") => {
            let bytes = slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat();
            let (half, _) = bytes.split_at(bytes.len() / 2);
            let _ = file.write_all(half);
            std::process::abort();
        }
        Some("enospc") => return Err(io::Error::from_raw_os_error(ENOSPC)),
        Some(_) => return Err(io::Error::from_raw_os_error(EIO)),
    }
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the file's contents durable.
pub(super) fn sync_data(place: &str, file: &File) -> io::Result<()> {
    pass(place)?;
    file.sync_data()
}
