//! Files as sources and sinks.
//!
//! Reading: `discover` says which files there are, by the patterns of `walk`, `position` which of them were read and how far, `plan` what follows
//! from the two; `once` and `follow` are the threads that read, `unpack` what they read through. What the bytes mean is
//! the codec's business, and how rows lie in them that of `connector::frame`.

mod discover;
mod follow;
mod once;
mod place;
mod plan;
mod sink;
mod source;
mod unpack;
mod walk;

use super::Error;
use super::intake::{Event, Sender};
use crate::config::LineFormat;

pub use discover::Selection;
pub use follow::Pace;
pub use sink::FileSink;
pub use source::{FileSource, Mode};

/// How rows lie in a file.
#[derive(Debug, Clone, Copy)]
struct Lines {
    format: LineFormat,
    max_row_bytes: usize,
}

/// Why a reading thread ends before it is finished.
enum Stop {
    /// Nobody listens any more.
    Deaf,
    /// Reading cannot go on.
    Failed(Error),
}

impl Stop {
    fn unless_sent(sender: &Sender, event: Event) -> Result<(), Stop> {
        sender.blocking_send(event).map_err(|_| Stop::Deaf)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}
