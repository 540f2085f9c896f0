//! The sink that appends to a file, so that after any crash the file holds each row once.
//!
//! A position says how many bytes of the file are committed, and what the last of them are. On resume the file is cut
//! back to there: whatever a crash left after that is written again.
//!
//! Before the first commit there is no position, and a file that is there may be anybody's. So the sink takes over only
//! a file that does not exist or is empty, and writes nothing to it before its first flush: the caller commits the
//! position of that flush, 0 bytes, and only then writes. Whenever a crash comes, the file then either is still empty,
//! or a position exists that covers it; and a file of somebody else's is never touched.
//!
//! The file is locked for as long as it is open. Somebody who was given the task while it still runs elsewhere, because the
//! process there was frozen, waits until that one has learnt that the task is no longer its.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::codec::Text;
use crate::connector::{Error, Position, Result, Sink, position};
use crate::fault;

const VERSION: u32 = 1;
/// Rows are gathered up to this before they go to the file.
const GATHERED_BYTES: usize = 1 << 20;
/// How many bytes before a position tell whether the file is still the same.
const TAIL_BYTES: u64 = 1024;

/// How much of the file is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    version: u32,
    /// Where the file was.
    path: String,
    /// How many bytes of it are committed.
    bytes: u64,
    /// The checksum of the last of them, up to [`TAIL_BYTES`].
    tail_crc32c: u32,
    /// The checksum of what the file starts with, such as the header line of a CSV.
    head_crc32c: u32,
}

/// Appends rows to a file.
pub struct FileSink {
    path: PathBuf,
    head: Bytes,
    file: Option<Arc<File>>,
    /// What is in the file.
    written: u64,
    gathered: BytesMut,
    /// Rows taken, over all processes.
    rows: u64,
    claim: Claim,
    failed: bool,
}

/// Whether the file is known to be this sink's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// Nothing may be written yet.
    Open,
    /// A position exists.
    Made,
}

impl FileSink {
    /// A sink to that path, in which `{partition}` stands for the task's number.
    pub fn new(path: &Path, task: u32) -> Self {
        Self {
            path: of_partition(path, task),
            head: Bytes::new(),
            file: None,
            written: 0,
            gathered: BytesMut::new(),
            rows: 0,
            claim: Claim::Open,
            failed: false,
        }
    }

    /// Does a step off the runtime. Once one has failed, nobody knows what is in the file, and every further one fails.
    async fn blocking<T: Send + 'static>(
        &mut self,
        action: &'static str,
        step: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let failed = |path: &Path, source| Error::Io { action, path: path.to_path_buf(), source };
        let file = match &self.file {
            Some(file) if !self.failed => file.clone(),
            _ => return Err(failed(&self.path, io::Error::other("the sink has stopped after a failure"))),
        };
        // Stands as well if the caller drops this half way.
        self.failed = true;
        let done = tokio::task::spawn_blocking(move || step(&file)).await.unwrap_or_else(|error| Err(error.into()));
        self.failed = done.is_err();
        done.map_err(|error| failed(&self.path, error))
    }

    async fn append(&mut self, rows: Bytes) -> Result<()> {
        let bytes = rows.len() as u64;
        self.blocking("write", move |mut file| {
            fault::point("sink.write")?;
            file.write_all(&rows)?;
            fault::point("sink.write.done")
        })
        .await?;
        self.written += bytes;
        Ok(())
    }

    async fn write_gathered(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let rows = self.gathered.split().freeze();
        self.append(rows).await
    }

    /// What the file starts with goes before the first row, or into a file that stays without one.
    async fn write_head(&mut self) -> Result<()> {
        match self.written {
            0 if !self.head.is_empty() => self.append(self.head.clone()).await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn resume(&mut self, position: Option<Position>, head: Bytes) -> Result<()> {
        self.rows = position.as_ref().map_or(0, |position| position.rows);
        let place: Option<Place> =
            position.map(|position| position::read_place(position.at, VERSION, "file sink")).transpose()?;
        let path = self.path.clone();
        if let Some(Place { bytes: 1.., head_crc32c, .. }) = place
            && head_crc32c != crc32c::crc32c(&head)
        {
            let what = "what was written to it has other columns: give the sink another path and start with another data \
                        directory, or give the stages before it their old columns";
            return Err(Error::Changed { path, what: what.into() });
        }
        let bytes = place.as_ref().map_or(0, |place| place.bytes);
        self.claim = if place.is_some() { Claim::Made } else { Claim::Open };
        let opened = tokio::task::spawn_blocking(move || open(&path, place.as_ref())).await;
        let file = opened.map_err(|error| Error::io("open", &self.path)(error.into()))??;
        self.file = Some(Arc::new(file));
        self.written = bytes;
        self.head = head;
        Ok(())
    }

    async fn write(&mut self, text: Text) -> Result<()> {
        if self.claim == Claim::Open {
            let detail = "rows came before a first position was committed".into();
            return Err(Error::Position { connector: "file sink", detail });
        }
        self.write_head().await?;
        self.rows += text.rows;
        if self.gathered.len() + text.bytes.len() < GATHERED_BYTES {
            self.gathered.extend_from_slice(&text.bytes);
            return Ok(());
        }
        self.write_gathered().await?;
        self.append(text.bytes.freeze()).await
    }

    async fn flush(&mut self) -> Result<Position> {
        if self.claim == Claim::Made {
            self.write_head().await?;
            self.write_gathered().await?;
        }
        let bytes = self.written;
        let tail_crc32c = self
            .blocking("sync", move |file| {
                fault::point("sink.sync")?;
                file.sync_data()?;
                fault::point("sink.sync.done")?;
                tail_of(file, bytes)
            })
            .await?;
        self.claim = Claim::Made;
        let path = self.path.display().to_string();
        let head_crc32c = crc32c::crc32c(&self.head);
        let place = Place { version: VERSION, path, bytes, tail_crc32c, head_crc32c };
        Ok(Position { rows: self.rows, at: serde_json::to_value(place).unwrap_or_default() })
    }
}

fn of_partition(path: &Path, task: u32) -> PathBuf {
    match path.to_str() {
        Some(text) => text.replace("{partition}", &task.to_string()).into(),
        None => path.to_path_buf(),
    }
}

/// Opens the file for appending after the position.
fn open(path: &Path, place: Option<&Place>) -> Result<File> {
    let failed = |action| Error::io(action, path);
    let bytes = place.map_or(0, |place| place.bytes);
    // A file that was written before is not made anew, not even an empty one.
    if bytes == 0 {
        make_folder(folder_of(path))?;
    }
    let mut options = OpenOptions::new();
    let opened = options.read(true).append(true).create(bytes == 0).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened.map_err(failed("open"))?),
    };
    match file.as_ref().map_or(Ok(()), File::try_lock) {
        Err(TryLockError::WouldBlock) => return Err(Error::InUse(path.to_path_buf())),
        Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        Ok(()) => {}
    }
    if let Some(what) = change(file.as_ref(), place).map_err(failed("read"))? {
        return Err(Error::Changed { path: path.to_path_buf(), what });
    }
    let file = file.ok_or(io::ErrorKind::NotFound.into()).map_err(failed("open"))?;
    file.set_len(bytes).map_err(failed("truncate"))?;
    file.sync_all().map_err(failed("sync"))?;
    sync_folder(folder_of(path))?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    for made in missing.iter().filter(|made| !made.as_os_str().is_empty()) {
        sync_folder(folder_of(made))?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

/// What keeps rows from being appended after the position.
fn change(file: Option<&File>, place: Option<&Place>) -> io::Result<Option<String>> {
    let size = file.map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
    let Some(Place { bytes, path, tail_crc32c, .. }) = place else {
        let taken = "it is not empty, and nothing in the present data directory says that this pipeline wrote it: move it \
                     away, or choose another path";
        return Ok((size > 0).then(|| taken.to_string()));
    };
    let advice = "put it back as it was, or start with another data directory and another path";
    let there = file.filter(|_| size >= *bytes);
    let same = there.map(|file| tail_of(file, *bytes)).transpose()?.map(|tail| tail == *tail_crc32c);
    Ok(match same {
        Some(true) => None,
        Some(false) => {
            Some(format!("the {bytes} bytes that were written to {path} are not what is there now: {advice}"))
        }
        None => Some(format!("{bytes} bytes were written to {path}, and only {size} are there: {advice}")),
    })
}

fn tail_of(file: &File, bytes: u64) -> io::Result<u32> {
    let mut tail = vec![0; bytes.min(TAIL_BYTES) as usize];
    let start = bytes - tail.len() as u64;
    file.read_exact_at(&mut tail, start)?;
    Ok(crc32c::crc32c(&tail))
}

#[cfg(test)]
mod tests;
