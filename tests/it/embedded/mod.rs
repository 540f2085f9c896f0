//! The embedded log as a process among others: killed, out of disk, or read beside.

mod beside;
mod crashes;
mod faults;
mod worker;
