//! Standard input as a source.
//!
//! What was read from it is gone, so it cannot go back to a commit: a process that resumes reads its own standard input
//! from the start, and only the counts go on. Whoever pipes into Fidelio decides what is sent again after a crash.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::frame::Ending;
use super::intake::{CHUNK_BYTES, Ended, Event, FileId, Fill, Identity, Intake, Opened, Sender};
use super::{Error, Polled, Position, Result, Source, position};
use crate::bus::Limit;
use crate::config::LineFormat;
use crate::time_of_day::now;

const VERSION: u32 = 1;
const INPUT: FileId = 0;
const NAME: &str = "stdin";

/// How much was read, over all processes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Place {
    version: u32,
    bytes: u64,
}

/// Reads standard input, or whatever reads like it.
pub struct StdinSource<R> {
    input: Option<R>,
    format: LineFormat,
    max_row_bytes: usize,
    /// What former processes read.
    bytes_before: u64,
    rows_before: u64,
    intake: Option<Intake>,
}

impl<R: Read + Send + 'static> StdinSource<R> {
    /// A source of the rows of `input`.
    pub fn new(input: R, format: LineFormat, max_row_bytes: usize) -> Self {
        Self { input: Some(input), format, max_row_bytes, bytes_before: 0, rows_before: 0, intake: None }
    }
}

#[async_trait]
impl<R: Read + Send + 'static> Source for StdinSource<R> {
    async fn resume(&mut self, position: Option<Position>) -> Result<()> {
        if let Some(Position { rows, at }) = position {
            let Place { bytes, .. } = position::read_place(at, VERSION, NAME)?;
            (self.bytes_before, self.rows_before) = (bytes, rows);
        }
        if let Some(input) = self.input.take() {
            let intake =
                Intake::start(self.format, Fill::Early, self.max_row_bytes, move |sender| read(input, &sender));
            self.intake = Some(intake.map_err(Error::io("read", NAME.as_ref()))?);
        }
        Ok(())
    }

    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Polled> {
        let Some(intake) = &mut self.intake else { return Ok(Polled::Idle) };
        let mut polled = intake.poll(limit, wait).await?;
        if let Polled::Rows(block) = &mut polled {
            block.offset += self.bytes_before;
        }
        Ok(polled)
    }

    fn position(&self) -> Position {
        let (mut bytes, mut rows) = (self.bytes_before, self.rows_before);
        if let Some(intake) = &self.intake {
            bytes += intake.progress().next().map_or(0, |read| read.offset);
            rows += intake.given();
        }
        Position { rows, at: serde_json::to_value(Place { version: VERSION, bytes }).unwrap_or_default() }
    }
}

fn read(mut input: impl Read, sender: &Sender) {
    let identity = Identity { path: NAME.into(), device: 0, inode: 0, packed: false };
    let opened = Opened { identity, head: Vec::new(), header: None, offset: 0, rows: 0 };
    let say = |event| sender.blocking_send(event).is_ok();
    let mut heard = say(Event::Opened(INPUT, opened));
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut size = 0;
    while heard {
        match input.read(&mut chunk) {
            Ok(0) => {
                say(Event::Ended(INPUT, Ended { ending: Ending::Whole, size: Some(size) }));
                heard = false;
                say(Event::Finished);
            }
            Ok(read) => {
                size += read as u64;
                let bytes = Bytes::copy_from_slice(chunk.get(..read).unwrap_or_default());
                heard = say(Event::Bytes(INPUT, bytes, now()));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                say(Event::Failed(Error::Io { action: "read", path: PathBuf::from(NAME), source }));
                heard = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::connector::Block;

    const LIMIT: Limit = Limit { rows: 1000, bytes: 1 << 20 };
    const PATIENCE: Duration = Duration::from_secs(3600);

    fn position(bytes: u64, rows: u64) -> Position {
        Position { rows, at: serde_json::json!({"version": 1, "bytes": bytes}) }
    }

    async fn resumed<R: Read + Send + 'static>(input: R, position: Option<Position>) -> StdinSource<R> {
        let mut source = StdinSource::new(input, LineFormat::Ndjson, 1000);
        source.resume(position).await.unwrap();
        source
    }

    async fn block(source: &mut dyn Source) -> Block {
        match source.poll(LIMIT, PATIENCE).await.unwrap() {
            Polled::Rows(block) => block,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_row_comes_as_soon_as_it_is_complete_though_the_input_stays_open() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut source = resumed(reader, None).await;
        assert_eq!(source.poll(LIMIT, Duration::ZERO).await.unwrap(), Polled::Idle);
        writer.write_all(b"1\n2\nunfin").unwrap();
        let first = block(&mut source).await;
        assert_eq!((first.rows.len(), &*first.origin), (2, "stdin"));
        assert_eq!(source.position(), position(4, 2));
        writer.write_all(b"ished").unwrap();
        drop(writer);
        assert_eq!(block(&mut source).await.rows.row(0), &b"unfinished"[..]);
        assert_eq!(source.poll(LIMIT, PATIENCE).await.unwrap(), Polled::Finished);
        assert_eq!(source.position(), position(14, 3));
    }

    #[tokio::test]
    async fn a_new_process_reads_its_input_from_the_start_and_the_counts_go_on() {
        let mut source = resumed(&b"\xef\xbb\xbf1\n2\n"[..], Some(position(100, 10))).await;
        let first = block(&mut source).await;
        assert_eq!((first.rows.len(), first.offset), (2, 100));
        assert_eq!(source.position(), position(107, 12));
    }

    #[tokio::test]
    async fn an_empty_input_is_simply_finished() {
        let mut source = resumed(io::empty(), None).await;
        assert_eq!(source.poll(LIMIT, PATIENCE).await.unwrap(), Polled::Finished);
        assert_eq!(source.poll(LIMIT, PATIENCE).await.unwrap(), Polled::Finished);
    }

    #[tokio::test]
    async fn an_input_that_cannot_be_read_fails_the_source_after_the_rows_before() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut source = resumed((&b"1\n2\n"[..]).chain(Broken), None).await;
        assert_eq!(block(&mut source).await.rows.len(), 2);
        assert!(matches!(source.poll(LIMIT, PATIENCE).await, Err(Error::Io { action: "read", .. })));
        assert!(source.poll(LIMIT, PATIENCE).await.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_dies_without_a_word_is_an_error_and_no_end() {
        struct Dying;
        impl Read for Dying {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("a reader that dies on purpose")
            }
        }
        let mut source = resumed(Dying, None).await;
        assert!(source.poll(LIMIT, PATIENCE).await.is_err());
    }
}
