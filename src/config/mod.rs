//! TOML text to [`Pipeline`], with every fault at its place. Whether the stages fit each other is `topology`'s business.

mod spec;

pub use spec::*;
