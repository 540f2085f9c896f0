//! How rows enter and leave a pipeline: sources and sinks. What their bytes mean is the codec's business.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use crate::bus::{Limit, Micros};
use crate::codec::RawRows;
use crate::failure::Reject;

/// Consecutive rows of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Where they are from: the path of the file, or `stdin`.
    pub origin: Arc<str>,
    /// The header line that governs the rows, in formats that have one, without its line end.
    pub header: Option<Bytes>,
    /// The rows.
    pub rows: RawRows,
    /// Where the buffer of `rows` starts in the origin, in bytes after decompression. Row `i` starts at
    /// `offset + rows.rows[i].start`.
    pub offset: u64,
    /// Rows of which the source itself knows that they are of no use, ascending, such as the torn last row of a
    /// truncated archive. They are not to be decoded.
    pub rejects: Vec<Reject>,
    /// When the rows arrived.
    pub arrived: Micros,
}

/// What a source has.
#[derive(Debug, Clone, PartialEq)]
pub enum Polled {
    /// Rows.
    Rows(Block),
    /// None now; there may be some later.
    Idle,
    /// None any more.
    Finished,
}

/// Where rows come from.
#[async_trait]
pub trait Source: Send {
    /// Goes to where a commit left it: a value that [`Source::position`] gave, or `None` for the beginning. Called once,
    /// first.
    async fn resume(&mut self, position: Option<Value>) -> Result<()>;

    /// The next rows, in order. Waits up to `wait` for the first one. A row over the limit's bytes is given alone.
    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Polled>;

    /// The position after everything that was given so far; becomes part of the commit.
    fn position(&self) -> Value;
}

/// Where rows go.
#[async_trait]
pub trait Sink: Send {
    /// Goes to where a commit left it: a value that [`Sink::flush`] gave, or `None` for the beginning, and takes back
    /// whatever was written after that. `head` is what the output starts with. Called once, first.
    async fn resume(&mut self, position: Option<Value>, head: Bytes) -> Result<()>;

    /// Takes encoded rows; they are out for certain only after the next flush.
    async fn write(&mut self, rows: Bytes) -> Result<()>;

    /// Makes what was written durable and gives the position after it; becomes part of the commit.
    async fn flush(&mut self) -> Result<Value>;
}

/// What a connector answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a connector cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file has that path, or matches that pattern.
    #[error("no file matches {0}")]
    NoFile(String),
    /// The operating system refused.
    #[error("{} failed on {}: {source}", .action, .path.display())]
    Io {
        /// What was tried, as a verb: `read`, `write`, `sync`, …
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The file is not the one that was read or written before.
    #[error("{}: {what}", .path.display())]
    Changed {
        /// Which one.
        path: PathBuf,
        /// What is different, and what to do.
        what: String,
    },
    /// The position of the last commit is not one that this connector gave.
    #[error("the checkpoint holds a position that this {connector} cannot read: {detail}")]
    Position {
        /// Which kind of connector.
        connector: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}
