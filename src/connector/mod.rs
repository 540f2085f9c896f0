//! How rows enter and leave a pipeline: sources and sinks. What their bytes mean is the codec's business.

mod file;
mod frame;
mod intake;
pub(crate) mod nexmark;
mod position;
mod stdin;
mod stdout;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::bus::{Limit, Micros};
use crate::codec::{RawRows, Text};
use crate::config::{self, Input, Output};
use crate::failure::Reject;
use file::{FileSink, FileSource, Mode, Selection};
pub use position::Position;
use stdin::StdinSource;
use stdout::StdoutSink;

/// The source that the pipeline asks for, as task number `task` of `tasks` reads it.
pub fn source(spec: &config::LineSource, task: u32, tasks: u32) -> Box<dyn Source> {
    let (format, max_row_bytes) = (spec.format, spec.max_row_bytes);
    match &spec.input {
        Input::File { path, compression, follow } => {
            let selection = Selection { path: path.clone(), compression: *compression, task, tasks };
            let mode = if *follow { Mode::Follow(file::Pace::default()) } else { Mode::Once };
            Box::new(FileSource::new(selection, format, max_row_bytes, mode))
        }
        // There is one standard input, so one task has it.
        Input::Stdin if task > 0 => Box::new(StdinSource::new(io::empty(), format, max_row_bytes)),
        Input::Stdin => Box::new(StdinSource::new(io::stdin(), format, max_row_bytes)),
    }
}

/// The sink that the pipeline asks for, as task number `task` writes to it.
pub fn sink(spec: &config::LineSink, task: u32) -> Box<dyn Sink> {
    match &spec.output {
        Output::File { path } => Box::new(FileSink::new(path, task)),
        Output::Stdout => Box::new(StdoutSink::new(io::stdout())),
    }
}

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

/// How much of the files that a run reads is behind it, in bytes as they lie there, with what former runs read of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputBytes {
    /// What is behind it.
    pub read: u64,
    /// What there is of them.
    pub total: u64,
}

/// Where rows come from.
#[async_trait]
pub trait Source: Send {
    /// Goes to where a commit left it: a value that [`Source::position`] gave, or `None` for the beginning. Called once,
    /// first.
    async fn resume(&mut self, position: Option<Position>) -> Result<()>;

    /// The next rows, in order. Waits up to `wait` for the first one. A row over the limit's bytes is given alone.
    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Polled>;

    /// The position after everything that was given so far; becomes part of the commit.
    fn position(&self) -> Position;

    /// How much of its input it has read; `None` where nobody knows how much there is.
    fn input(&self) -> Option<InputBytes> {
        None
    }
}

/// Where rows go.
#[async_trait]
pub trait Sink: Send {
    /// Goes to where a commit left it: a value that [`Sink::flush`] gave, or `None` for the beginning, and takes back
    /// whatever was written after that. `head` is what the output starts with. Called once, first.
    ///
    /// After `None` the caller flushes and commits that position before it writes anything, so that whatever a crash
    /// leaves in the output is known to be this sink's.
    async fn resume(&mut self, position: Option<Position>, head: Bytes) -> Result<()>;

    /// Takes encoded rows; they are out for certain only after the next flush.
    async fn write(&mut self, rows: Text) -> Result<()>;

    /// Makes what was written durable and gives the position after it; becomes part of the commit.
    async fn flush(&mut self) -> Result<Position>;
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
    /// Another task still writes to the file, such as one of a worker that is cut off from the cluster and does not know it
    /// yet.
    #[error("{} is written to by another task", .0.display())]
    InUse(PathBuf),
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

impl Error {
    /// What a failed system call on that file is.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::config::LineFormat;

    #[tokio::test]
    async fn rows_go_from_the_source_of_a_pipeline_to_its_sink() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("in.ndjson"), dir.path().join("out-{partition}.ndjson"));
        std::fs::write(&from, "1\n2\n").unwrap();
        let input = Input::File { path: from, compression: None, follow: false };
        let format = LineFormat::Ndjson;
        let mut source = source(&config::LineSource { input, format, null: None, max_row_bytes: 1000 }, 0, 1);
        let mut sink = sink(&config::LineSink { output: Output::File { path: to }, format }, 3);
        source.resume(None).await.unwrap();
        sink.resume(None, Bytes::new()).await.unwrap();
        sink.flush().await.unwrap();
        let limit = Limit { rows: 10, bytes: 1000 };
        while let Polled::Rows(block) = source.poll(limit, Duration::from_secs(3600)).await.unwrap() {
            let rows = block.rows.len() as u64;
            sink.write(Text { bytes: BytesMut::from(&block.rows.bytes[..]), rows }).await.unwrap();
        }
        assert_eq!(sink.flush().await.unwrap().rows, 2);
        assert_eq!(source.position().rows, 2);
        assert_eq!(std::fs::read_to_string(dir.path().join("out-3.ndjson")).unwrap(), "1\n2\n");
    }
}
