//! From what a reading thread says to the blocks that a source gives: each file's bytes are framed, and it is kept in
//! mind how far each file was given. How files are found and read lives in `file`; what its position looks like, too.
//!
//! Reading blocks, so it has a thread of its own, which runs ahead by a bounded number of chunks. Framing happens in
//! [`Intake::poll`]. Of a source that waits for more, a block takes whatever has arrived, so that blocks are as large as
//! the limit allows when there is a backlog, and as early as possible when there is not. Of one that ends, a block is as
//! large as the limit allows but for the last of a file, so that blocks do not depend on how fast it is read.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::time::Instant;

use super::frame::{Ending, Framer};
use super::{Block, Error, Polled, Result};
use crate::bus::{Limit, Micros};
use crate::config::LineFormat;
use crate::time_of_day::now;

/// The most bytes of one [`Event::Bytes`].
pub const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that a thread reads ahead.
const AHEAD: usize = 16;
/// The first bytes of a file, by which it is recognised.
pub const HEAD_BYTES: usize = 1024;

/// The number of a file, as the reading thread gives them out.
pub type FileId = u32;

/// What a reading thread says.
pub enum Event {
    /// A file is read from here on.
    Opened(FileId, Opened),
    /// The next bytes of a file, and when they were read.
    Bytes(FileId, Bytes, Micros),
    /// A file was read to its end.
    Ended(FileId, Ended),
    /// There is nothing more to read.
    Finished,
    /// Reading cannot go on.
    Failed(Error),
}

/// A file that is read from here on.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What it is.
    pub identity: Identity,
    /// Its first bytes, as many as are known of [`HEAD_BYTES`], before decompression.
    pub head: Vec<u8>,
    /// The header line, for a CSV that is not read from its start.
    pub header: Option<Bytes>,
    /// Where reading starts, in bytes after decompression.
    pub offset: u64,
    /// Rows before that.
    pub rows: u64,
}

/// Which file it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Under which path it was found.
    pub path: Arc<str>,
    /// The device it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Whether it is compressed.
    pub packed: bool,
}

/// How a file was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How its stream of bytes ends.
    pub ending: Ending,
    /// The size of the file, in bytes as they are on the disk; `None` if the file can be forgotten since it will not be
    /// met again.
    pub size: Option<u64>,
}

/// How far a file was given.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Which one.
    pub identity: Identity,
    /// Its first bytes, as many as are known.
    pub head: Vec<u8>,
    /// The end of the last row that was given, in bytes after decompression.
    pub offset: u64,
    /// Rows given.
    pub rows: u64,
    /// Once it was given to its end: how large it then was.
    pub done: Option<u64>,
    /// Whether its end was torn.
    pub torn: bool,
}

/// The way from the thread.
pub type Sender = mpsc::Sender<Event>;

/// When a block is given that could still grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// As soon as there is nothing more to put in.
    Early,
    /// Once it is full, or the file has ended.
    Full,
}

/// The receiving end of a reading thread.
pub struct Intake {
    format: LineFormat,
    fill: Fill,
    max_row_bytes: usize,
    events: mpsc::Receiver<Event>,
    /// An event that waits until the rows before it were given.
    held: Option<Event>,
    files: BTreeMap<FileId, File>,
    /// The file that the last event was about.
    active: FileId,
    unopened: FileId,
    given: u64,
    stopped: Option<Stop>,
}

#[derive(Clone, Copy)]
enum Stop {
    Finished,
    Failed,
}

struct File {
    progress: Progress,
    framer: Framer,
    ended: Option<Ended>,
    /// When the last of its bytes arrived.
    arrived: Micros,
    /// When the first of the rows arrived that can be taken.
    rows_arrived: Option<Micros>,
}

impl Intake {
    /// Starts a thread that runs `read`, which says what there is until it is finished, or until nobody listens.
    pub fn start(
        format: LineFormat,
        fill: Fill,
        max_row_bytes: usize,
        read: impl FnOnce(Sender) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, events) = mpsc::channel(AHEAD);
        std::thread::Builder::new().name("fidelio-read".into()).spawn(move || read(sender))?;
        let files = BTreeMap::new();
        Ok(Self {
            format,
            fill,
            max_row_bytes,
            events,
            held: None,
            files,
            active: 0,
            unopened: 0,
            given: 0,
            stopped: None,
        })
    }

    /// The next rows; see [`super::Source::poll`].
    pub async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Polled> {
        let deadline = Instant::now() + wait;
        loop {
            if self.is_full(limit) {
                return Ok(self.give());
            }
            let event = match self.next_event() {
                Some(event) => event,
                None if self.fill == Fill::Early && self.has_rows() => return Ok(self.give()),
                None => match self.stopped {
                    Some(Stop::Finished) => return Ok(Polled::Finished),
                    Some(Stop::Failed) => return Err(self.gone()),
                    None => match tokio::time::timeout_at(deadline, self.events.recv()).await {
                        Ok(Some(event)) => event,
                        Ok(None) => Event::Failed(self.gone()),
                        Err(_) => return Ok(Polled::Idle),
                    },
                },
            };
            if self.has_rows() && event.file() != Some(self.active) {
                self.held = Some(event);
                return Ok(self.give());
            }
            self.apply(event)?;
        }
    }

    /// How far each file was given that was opened and is not to be forgotten.
    pub fn progress(&self) -> impl Iterator<Item = &Progress> {
        self.files.values().map(|file| &file.progress)
    }

    /// Rows given so far, whatever became of their files.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// The least number of a file that was not opened yet. Files are opened in the order of their numbers.
    pub fn unopened(&self) -> FileId {
        self.unopened
    }

    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.held.take() {
            return Some(event);
        }
        match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Disconnected) if self.stopped.is_none() => Some(Event::Failed(self.gone())),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    fn has_rows(&self) -> bool {
        self.files.get(&self.active).is_some_and(|file| file.framer.has_rows())
    }

    fn is_full(&mut self, limit: Limit) -> bool {
        let Some(file) = self.files.get_mut(&self.active) else { return false };
        let full = file.framer.search(limit);
        if !file.framer.has_rows() {
            self.settle();
            return false;
        }
        file.rows_arrived.get_or_insert(file.arrived);
        full
    }

    fn give(&mut self) -> Polled {
        let Some(file) = self.files.get_mut(&self.active) else { return Polled::Idle };
        let Some(cut) = file.framer.take() else { return Polled::Idle };
        file.progress.offset = cut.next;
        file.progress.rows += cut.rows.len() as u64;
        self.given += cut.rows.len() as u64;
        let block = Block {
            origin: file.progress.identity.path.clone(),
            header: cut.header,
            rows: cut.rows,
            offset: cut.offset,
            rejects: cut.rejects,
            arrived: file.rows_arrived.take().unwrap_or(file.arrived),
        };
        self.settle();
        Polled::Rows(block)
    }

    /// Takes note if the active file was given to its end.
    fn settle(&mut self) {
        let Some(file) = self.files.get_mut(&self.active) else { return };
        let Some(ended) = file.ended.take_if(|_| file.framer.is_exhausted()) else { return };
        match ended.size {
            Some(size) => {
                file.progress.offset = file.framer.received();
                file.progress.done = Some(size);
                file.progress.torn = ended.ending != Ending::Whole;
            }
            None => {
                self.files.remove(&self.active);
            }
        }
    }

    fn apply(&mut self, event: Event) -> Result<()> {
        if let Some(id) = event.file() {
            self.active = id;
        }
        match event {
            Event::Opened(id, opened) => {
                self.unopened = id + 1;
                self.files.insert(id, self.open(opened));
            }
            Event::Bytes(id, bytes, arrived) => {
                if let Some(file) = self.files.get_mut(&id) {
                    file.receive(&bytes, arrived);
                }
            }
            Event::Ended(id, ended) => {
                if let Some(file) = self.files.get_mut(&id) {
                    file.framer.end(ended.ending.clone());
                    file.ended = Some(ended);
                }
            }
            Event::Finished => self.stopped = Some(Stop::Finished),
            Event::Failed(error) => {
                self.stopped = Some(Stop::Failed);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The reading thread ended without a word, or after an error that was given already.
    fn gone(&self) -> Error {
        let path = self.files.get(&self.active).map_or("", |file| &file.progress.identity.path);
        Error::io("read", path.as_ref())(io::Error::other("reading has stopped after a failure"))
    }

    fn open(&self, opened: Opened) -> File {
        let Opened { identity, head, header, offset, rows } = opened;
        File {
            progress: Progress { identity, head, offset, rows, done: None, torn: false },
            framer: Framer::new(self.format, self.max_row_bytes, offset, header),
            ended: None,
            arrived: now(),
            rows_arrived: None,
        }
    }
}

impl File {
    fn receive(&mut self, bytes: &[u8], arrived: Micros) {
        let head = &mut self.progress.head;
        if !self.progress.identity.packed && head.len() < HEAD_BYTES {
            let known = (head.len() as u64).saturating_sub(self.framer.received()) as usize;
            let missing = bytes.iter().skip(known).take(HEAD_BYTES - head.len());
            head.extend(missing);
        }
        self.framer.push(bytes);
        self.arrived = arrived;
    }
}

impl Event {
    fn file(&self) -> Option<FileId> {
        match self {
            Event::Opened(id, _) | Event::Bytes(id, ..) | Event::Ended(id, _) => Some(*id),
            Event::Finished | Event::Failed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { rows: 1000, bytes: 1 << 20 };
    const PATIENCE: Duration = Duration::from_secs(3600);

    fn opened(id: FileId) -> Event {
        let identity = Identity { path: format!("file {id}").into(), device: 0, inode: id.into(), packed: false };
        Event::Opened(id, Opened { identity, head: Vec::new(), header: None, offset: 0, rows: 0 })
    }

    fn bytes(id: FileId, bytes: &'static str, arrived: Micros) -> Event {
        Event::Bytes(id, Bytes::from_static(bytes.as_bytes()), arrived)
    }

    fn ended(id: FileId, size: Option<u64>) -> Event {
        Event::Ended(id, Ended { ending: Ending::Whole, size })
    }

    /// An intake to which all of that was said.
    fn told(events: Vec<Event>) -> Intake {
        let (done, told) = std::sync::mpsc::channel();
        let intake = Intake::start(LineFormat::Ndjson, Fill::Early, 1000, move |sender| {
            for event in events {
                assert!(sender.blocking_send(event).is_ok());
            }
            done.send(()).unwrap();
        });
        told.recv().unwrap();
        intake.unwrap()
    }

    async fn blocks(intake: &mut Intake, limit: Limit) -> Vec<(String, Vec<String>, Micros)> {
        let mut blocks = Vec::new();
        while let Polled::Rows(block) = intake.poll(limit, PATIENCE).await.unwrap() {
            let rows = (0..block.rows.len()).map(|row| String::from_utf8_lossy(&block.rows.row(row)).into_owned());
            blocks.push((block.origin.to_string(), rows.collect(), block.arrived));
        }
        blocks
    }

    fn block(file: &str, rows: &[&str], arrived: Micros) -> (String, Vec<String>, Micros) {
        (file.into(), rows.iter().map(|row| row.to_string()).collect(), arrived)
    }

    #[tokio::test]
    async fn a_block_takes_whatever_has_arrived_and_says_when_its_first_row_did() {
        let events = vec![opened(0), bytes(0, "1\n2", 10), bytes(0, "2\n3\n", 20), ended(0, Some(7)), Event::Finished];
        assert_eq!(blocks(&mut told(events), LIMIT).await, [block("file 0", &["1", "22", "3"], 10)]);

        let events = vec![opened(0), bytes(0, "1\n2", 10), bytes(0, "2\n3\n", 20), ended(0, Some(7)), Event::Finished];
        let limit = Limit { rows: 1, ..LIMIT };
        let single = [block("file 0", &["1"], 10), block("file 0", &["22"], 20), block("file 0", &["3"], 20)];
        assert_eq!(blocks(&mut told(events), limit).await, single);
    }

    #[tokio::test]
    async fn a_block_of_a_source_that_ends_does_not_depend_on_how_fast_it_is_read() {
        let (say, said) = std::sync::mpsc::channel();
        let read = move |sender: Sender| said.into_iter().for_each(|event| drop(sender.blocking_send(event)));
        let mut intake = Intake::start(LineFormat::Ndjson, Fill::Full, 1000, read).unwrap();
        let limit = Limit { rows: 3, ..LIMIT };
        say.send(opened(0)).unwrap();
        say.send(bytes(0, "1\n2\n", 10)).unwrap();
        while intake.progress().count() == 0 {
            assert_eq!(intake.poll(limit, Duration::from_millis(1)).await.unwrap(), Polled::Idle);
        }
        assert_eq!(intake.poll(limit, Duration::from_millis(1)).await.unwrap(), Polled::Idle);
        say.send(bytes(0, "3\n4\n", 20)).unwrap();
        say.send(ended(0, Some(8))).unwrap();
        say.send(Event::Finished).unwrap();
        let expected = [block("file 0", &["1", "2", "3"], 10), block("file 0", &["4"], 20)];
        assert_eq!(blocks(&mut intake, limit).await, expected);
    }

    #[tokio::test]
    async fn rows_of_two_files_do_not_share_a_block_and_each_file_keeps_its_unfinished_row() {
        let events = vec![
            opened(0),
            opened(1),
            bytes(0, "1\n{", 10),
            bytes(1, "2\n[", 20),
            bytes(0, "}\n", 30),
            bytes(1, "]\n", 40),
            Event::Finished,
        ];
        let expected = [
            block("file 0", &["1"], 10),
            block("file 1", &["2"], 20),
            block("file 0", &["{}"], 30),
            block("file 1", &["[]"], 40),
        ];
        assert_eq!(blocks(&mut told(events), LIMIT).await, expected);
    }

    #[tokio::test]
    async fn a_file_is_done_only_when_its_last_row_was_given() {
        let mut intake = told(vec![opened(0), bytes(0, "1\n2\n\n", 10), ended(0, Some(5)), Event::Finished]);
        let limit = Limit { rows: 1, ..LIMIT };
        let mut progress = Vec::new();
        while let Polled::Rows(_) = intake.poll(limit, PATIENCE).await.unwrap() {
            progress.extend(intake.progress().map(|file| (file.offset, file.rows, file.done)));
        }
        progress.extend(intake.progress().map(|file| (file.offset, file.rows, file.done)));
        assert_eq!(progress, [(2, 1, None), (4, 2, None), (5, 2, Some(5))]);
    }

    #[tokio::test]
    async fn a_file_to_be_forgotten_is_known_until_its_last_row_was_given() {
        let mut intake = told(vec![opened(0), bytes(0, "1\n2", 10), ended(0, None)]);
        let limit = Limit { rows: 1, ..LIMIT };
        assert!(matches!(intake.poll(limit, PATIENCE).await, Ok(Polled::Rows(_))));
        assert_eq!(intake.progress().count(), 1);
        assert!(matches!(intake.poll(limit, PATIENCE).await, Ok(Polled::Rows(_))));
        assert_eq!(intake.progress().count(), 0);
    }

    #[tokio::test]
    async fn rows_that_came_before_a_failure_are_given_first() {
        let failure = Error::io("read", "file 0".as_ref())(io::ErrorKind::Other.into());
        let mut intake = told(vec![opened(0), bytes(0, "1\n", 10), Event::Failed(failure)]);
        assert!(matches!(intake.poll(LIMIT, PATIENCE).await, Ok(Polled::Rows(_))));
        assert!(intake.poll(LIMIT, PATIENCE).await.is_err());
    }
}
