//! The thread that follows files: it waits for more at their ends, for new files that match, and goes along with rotation.
//!
//! - A file is known by its inode, not by its path. When it is renamed (`mv log log.1`), what is still written to it is
//!   read under its new name; once it is at no path that matches and has not grown for a while, it is over, and what is
//!   left of an unfinished row is its last one.
//! - When another file is at a path (`create log`), that one is read from its start, after everything that was in the old
//!   one by then.
//! - When a file gets shorter than what was read of it (`copytruncate`), it is read from its start. What was written
//!   between the last read and the truncation is lost to any reader; so is the truncation itself, if by the next look the
//!   file has grown past where it was. Renaming has neither weakness.
//! - Only the file at a path and those known before are looked for. Where a log may be rotated more than once while
//!   nobody reads, let the pattern match the rotated names, too. With several tasks it must not, since a file's path
//!   says whose it is.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::discover::{Seen, Selection};
use super::once::opened;
use super::place::Entry;
use super::plan::{Plan, Start, is_rest_of};
use super::unpack::{fill, header};
use super::{Lines, Stop};
use crate::config::Compression;
use crate::connector::Error;
use crate::connector::frame::Ending;
use crate::connector::intake::{CHUNK_BYTES, Ended, Event, FileId, Identity, Opened, Sender};
use crate::time_of_day::now;

/// Chunks of one file before another one gets its turn.
const TURN: usize = 16;

/// How often a follower looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The shortest time between two looks at the end of a file, after something was found there.
    pub busy: Duration,
    /// The longest, which is reached when nothing comes.
    pub idle: Duration,
    /// The least time between two looks at which files there are.
    pub scan: Duration,
    /// How long a file that was rotated away may stay without growing before it is over.
    pub grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            busy: Duration::from_millis(1),
            idle: Duration::from_millis(20),
            scan: Duration::from_millis(100),
            grace: Duration::from_secs(10),
        }
    }
}

/// Follows the files of a selection.
pub struct Follower {
    selection: Selection,
    lines: Lines,
    pace: Pace,
    sender: Sender,
    next_id: FileId,
    files: Vec<Followed>,
    chunk: Vec<u8>,
    /// Paths that were said to be left out.
    warned: HashSet<PathBuf>,
}

struct Followed {
    id: FileId,
    file: File,
    path: PathBuf,
    device: u64,
    inode: u64,
    /// How much of it was read.
    read: u64,
    /// When it was last seen to grow, once it is at no path that matches.
    gone: Option<Instant>,
}

impl Follower {
    /// A follower that says what it finds to `sender`.
    pub fn new(selection: Selection, lines: Lines, pace: Pace, sender: Sender) -> Self {
        let chunk = vec![0; CHUNK_BYTES];
        Self { selection, lines, pace, sender, next_id: 0, files: Vec::new(), chunk, warned: HashSet::new() }
    }

    /// Follows, from the plan on, until nobody listens.
    pub fn run(&mut self, plan: Plan) -> Result<(), Stop> {
        for entry in plan.missing {
            self.find_again(entry)?;
        }
        for start in plan.starts {
            self.follow(start)?;
        }
        let mut pause = self.pace.busy;
        let mut next_scan = Instant::now();
        while !self.sender.is_closed() {
            if Instant::now() >= next_scan {
                let scan = Instant::now();
                self.scan()?;
                // Looking through a large folder is not to become all it does.
                next_scan = Instant::now() + self.pace.scan.max(scan.elapsed() * 20);
            }
            let grown = self.read()?;
            pause = if grown { self.pace.busy } else { (pause * 2).min(self.pace.idle) };
            if !grown {
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }

    /// Finds out which files there are, and which are gone.
    fn scan(&mut self) -> Result<(), Stop> {
        let mut there = HashMap::new();
        let mut new = Vec::new();
        for path in self.selection.paths(&mut self.warned)? {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let key = (metadata.dev(), metadata.ino());
            if !self.files.iter().any(|file| file.key() == key) {
                new.push(path.clone());
            }
            there.insert(key, path);
        }
        self.retire(&there)?;
        for path in new {
            if let Some(seen) = self.selection.look_at(path)?
                && seen.mine
                && seen.compression == Compression::None
            {
                self.follow(Start::new(seen))?;
            }
        }
        Ok(())
    }

    fn retire(&mut self, there: &HashMap<(u64, u64), PathBuf>) -> Result<(), Stop> {
        for file in &mut self.files {
            if there.contains_key(&file.key()) {
                file.gone = None;
            } else if file.gone.is_none() {
                file.gone = Some(Instant::now());
                while file.read_on(&mut self.chunk, &self.sender)? {}
            }
        }
        let over = |file: &mut Followed| file.gone.is_some_and(|since| since.elapsed() >= self.pace.grace);
        for file in self.files.extract_if(.., over) {
            Stop::unless_sent(&self.sender, Event::Ended(file.id, forgotten(Ending::Whole)))?;
        }
        Ok(())
    }

    /// Reads what has come; true if there was anything.
    fn read(&mut self) -> Result<bool, Stop> {
        let mut grown = false;
        for file in &mut self.files {
            for _ in 0..TURN {
                if !file.read_on(&mut self.chunk, &self.sender)? {
                    break;
                }
                grown = true;
            }
            if file.was_truncated()? {
                file.start_again(self.next_id, &self.sender)?;
                self.next_id += 1;
            }
        }
        Ok(grown)
    }

    fn follow(&mut self, start: Start) -> Result<(), Stop> {
        let Start { file: seen, offset, former, .. } = &start;
        let Ok(mut file) = File::open(&seen.path) else { return self.missed(former.clone()) };
        let failed = Error::io("read", &seen.path);
        let metadata = file.metadata().map_err(&failed)?;
        if metadata.ino() != seen.inode || metadata.len() < *offset {
            return self.missed(former.clone());
        }
        let header = if *offset > 0 { header(seen, self.lines.format, self.lines.max_row_bytes)? } else { None };
        file.seek(SeekFrom::Start(*offset)).map_err(&failed)?;
        self.say_opened(opened(&start, header))?;
        let Seen { path, device, inode, .. } = start.file;
        self.files.push(Followed { id: self.next_id - 1, file, path, device, inode, read: start.offset, gone: None });
        Ok(())
    }

    /// A file went away just when it was to be opened: the next scan finds a new one, and a known one is looked for.
    fn missed(&mut self, former: Option<Entry>) -> Result<(), Stop> {
        match former {
            Some(entry) => self.find_again(entry),
            None => {
                self.next_id += 1;
                Ok(())
            }
        }
    }

    /// Looks for a file that was rotated away in the folder where it was. Where it is gone, so is whatever was in it and
    /// was not read, which is put on record.
    fn find_again(&mut self, entry: Entry) -> Result<(), Stop> {
        if let Some(seen) = self.sibling(&entry)? {
            return self.follow(Start::after(entry, seen));
        }
        let message = format!(
            "{} is gone, or was cut short, after {} bytes ({} rows) of it were read; whatever else was in it is not read",
            entry.path, entry.offset, entry.rows
        );
        tracing::warn!(path = entry.path, offset = entry.offset, "{message}");
        let identity =
            Identity { path: entry.path.as_str().into(), device: entry.device, inode: entry.inode, packed: false };
        let lost = Opened { identity, head: Vec::new(), header: None, offset: entry.offset, rows: entry.rows };
        self.say_opened(lost)?;
        Stop::unless_sent(&self.sender, Event::Ended(self.next_id - 1, forgotten(Ending::Torn(message))))
    }

    fn sibling(&self, entry: &Entry) -> Result<Option<Seen>, Stop> {
        let folder = match Path::new(&entry.path).parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let Ok(siblings) = fs::read_dir(folder) else { return Ok(None) };
        for sibling in siblings.filter_map(Result::ok) {
            let same = sibling.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.ino() == entry.inode);
            if same
                && let Some(seen) = self.selection.look_at(sibling.path())?
                && is_rest_of(entry, &seen)
            {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    fn say_opened(&mut self, opened: Opened) -> Result<(), Stop> {
        let id = self.next_id;
        self.next_id += 1;
        Stop::unless_sent(&self.sender, Event::Opened(id, opened))
    }
}

impl Followed {
    fn key(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Reads the next chunk; false at the end of the file.
    fn read_on(&mut self, chunk: &mut [u8], sender: &Sender) -> Result<bool, Stop> {
        let (filled, fault) = fill(&mut self.file, chunk);
        if filled > 0 {
            self.read += filled as u64;
            self.gone = self.gone.map(|_| Instant::now());
            let bytes = Bytes::copy_from_slice(chunk.get(..filled).unwrap_or_default());
            Stop::unless_sent(sender, Event::Bytes(self.id, bytes, now()))?;
        }
        match fault {
            Some(error) => Err(Error::io("read", &self.path)(error).into()),
            None => Ok(filled > 0),
        }
    }

    fn was_truncated(&self) -> Result<bool, Stop> {
        let metadata = self.file.metadata().map_err(Error::io("read", &self.path))?;
        Ok(metadata.len() < self.read)
    }

    fn start_again(&mut self, id: FileId, sender: &Sender) -> Result<(), Stop> {
        tracing::warn!(path = %self.path.display(), read = self.read, "the file was cut short and is read from its start");
        Stop::unless_sent(sender, Event::Ended(self.id, forgotten(Ending::Whole)))?;
        self.file.seek(SeekFrom::Start(0)).map_err(Error::io("read", &self.path))?;
        (self.id, self.read) = (id, 0);
        let path = self.path.to_string_lossy().into();
        let identity = Identity { path, device: self.device, inode: self.inode, packed: false };
        let opened = Opened { identity, head: Vec::new(), header: None, offset: 0, rows: 0 };
        Stop::unless_sent(sender, Event::Opened(id, opened))
    }
}

/// How a file ends that will not be met again.
fn forgotten(ending: Ending) -> Ended {
    Ended { ending, size: None }
}

#[cfg(test)]
mod tests;
