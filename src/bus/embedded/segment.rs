//! Segment files: a header and frames. How far a segment is committed only the journal says; whoever reads one is told.
//!
//! The header is `FIDSEGM1`, the offset of the first message (u64) and the CRC-32C of both (u32).

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::frame::{self, Fault, Frame};
use super::{disk, fault};
use crate::bus::{Micros, Record, Result};

/// Bytes before the first frame.
pub(super) const HEADER_BYTES: u64 = 20;

const MAGIC: &[u8; 8] = b"FIDSEGM1";

/// Values up to this size are copied next to their frame's head; longer ones are written from where they are.
const COPIED_BYTES: usize = 4 << 10;
/// How much is gathered before it is written.
const GATHERED_BYTES: usize = 1 << 20;
/// How many pieces are gathered before they are written.
const GATHERED_PIECES: usize = 512;

/// Makes a segment file that holds a header and no messages yet. Its folder is to be synced before anything refers to
/// it.
pub(super) fn create(path: &Path, base: u64) -> Result<Arc<File>> {
    fault::pass("segment.create").map_err(disk::failed("create", path))?;
    let options = OpenOptions::new().write(true).create(true).truncate(true).clone();
    let file = options.open(path).map_err(disk::failed("create", path))?;
    fault::write("segment.create.header", &file, &mut [IoSlice::new(&header(base))])
        .map_err(disk::failed("write", path))?;
    fault::pass("segment.create.done").map_err(disk::failed("create", path))?;
    Ok(Arc::new(file))
}

/// Opens a segment file for adding to its first `bytes`.
pub(super) fn open(path: &Path, bytes: u64) -> Result<Arc<File>> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(disk::failed("open", path))?;
    file.seek(SeekFrom::Start(bytes)).map_err(disk::failed("seek", path))?;
    Ok(Arc::new(file))
}

/// Cuts a file to its first `bytes`, if it is longer. One that is shorter is damaged.
pub(super) fn cut(path: &Path, bytes: u64) -> Result<()> {
    let len = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(disk::damaged(path, 0, "the file is missing"));
        }
        Err(error) => return Err(disk::failed("open", path)(error)),
    };
    if len < bytes {
        return Err(disk::damaged(path, len, format!("the file ends here and {bytes} bytes of it were committed")));
    }
    if len > bytes {
        let file = OpenOptions::new().write(true).open(path).map_err(disk::failed("open", path))?;
        file.set_len(bytes).map_err(disk::failed("truncate", path))?;
    }
    Ok(())
}

fn header(base: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
    bytes.put_slice(MAGIC);
    bytes.put_u64_le(base);
    bytes.put_u32_le(crc32c::crc32c(&bytes));
    bytes
}

/// Frames on their way into a file, gathered so that few system calls are made and large values are not copied.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    copied: Vec<u8>,
    /// Long values, each with the number of copied bytes that go before it.
    values: Vec<(usize, Bytes)>,
    bytes: usize,
}

impl Gathered {
    /// Adds a frame.
    pub(super) fn add(&mut self, offset: u64, written: Micros, record: &Record) {
        frame::put_head(&mut self.copied, offset, written, record);
        match &record.value {
            Some(value) if value.len() > COPIED_BYTES => self.values.push((self.copied.len(), value.clone())),
            _ => self.copied.put_slice(record.payload()),
        }
        self.bytes += frame::size(record);
    }

    /// Whether it is time to write.
    pub(super) fn is_enough(&self) -> bool {
        self.bytes >= GATHERED_BYTES || self.values.len() >= GATHERED_PIECES
    }

    /// Writes everything where the file's cursor is, and is empty then.
    pub(super) fn write(&mut self, path: &Path, file: &File) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let mut slices = Vec::with_capacity(2 * self.values.len() + 1);
        let mut from = 0;
        for (until, value) in &self.values {
            slices.push(IoSlice::new(self.copied.get(from..*until).unwrap_or_default()));
            slices.push(IoSlice::new(value));
            from = *until;
        }
        slices.push(IoSlice::new(self.copied.get(from..).unwrap_or_default()));
        fault::write("commit.append", file, &mut slices).map_err(disk::failed("write", path))?;
        fault::pass("commit.append.done").map_err(disk::failed("write", path))?;
        self.copied.clear();
        self.values.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// The frames of a segment, from a place in it up to where it is committed.
#[derive(Debug)]
pub(super) struct Frames {
    path: PathBuf,
    file: File,
    buffer: Bytes,
    /// Where the buffer starts.
    at: u64,
    committed: u64,
    chunk: usize,
}

impl Frames {
    /// Goes to `at`, or to the first frame where `at` is `None`, of a segment with that many committed bytes. Reads
    /// `chunk` bytes at once, or as many as a frame has.
    pub(super) fn open(
        path: PathBuf,
        base: u64,
        at: Option<u64>,
        committed: u64,
        chunk: usize,
    ) -> io::Result<Result<Self>> {
        let mut file = File::open(&path)?;
        let mut head = [0; HEADER_BYTES as usize];
        Ok(match file.read_exact(&mut head) {
            Ok(()) if header(base) == head => {
                let at = at.unwrap_or(HEADER_BYTES);
                Ok(Self { path, file, buffer: Bytes::new(), at, committed, chunk })
            }
            Ok(()) => Err(disk::damaged(&path, 0, "this is not the header of the segment that should be here")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(disk::damaged(&path, 0, "the file ends inside its header"))
            }
            Err(error) => Err(disk::failed("read", &path)(error)),
        })
    }

    /// Where the next frame starts.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// The next frame, whose offset has to be the one given; `None` at the end.
    pub(super) fn next(&mut self, offset: u64) -> Result<Option<Frame>> {
        if self.at >= self.committed {
            return Ok(None);
        }
        loop {
            let before = self.buffer.len();
            match frame::take(&mut self.buffer) {
                Ok(frame) if frame.offset == offset => {
                    self.at += (before - self.buffer.len()) as u64;
                    return Ok(Some(frame));
                }
                Ok(frame) => {
                    let what = format!("here is the message with offset {}, not {offset}", frame.offset);
                    return Err(disk::damaged(&self.path, self.at, what));
                }
                Err(Fault::Short(needed)) => self.fill(needed)?,
                Err(Fault::Damaged(what)) => return Err(disk::damaged(&self.path, self.at, what)),
            }
        }
    }

    /// Reads on from the start of the next frame, `needed` bytes at least.
    fn fill(&mut self, needed: usize) -> Result<()> {
        let available = self.committed - self.at;
        if needed as u64 > available {
            return Err(disk::damaged(&self.path, self.at, "a frame that goes past what was committed"));
        }
        let len = needed.max(self.chunk.min(available.try_into().unwrap_or(usize::MAX)));
        let mut bytes = vec![0; len];
        self.file.seek(SeekFrom::Start(self.at)).map_err(disk::failed("seek", &self.path))?;
        match self.file.read_exact(&mut bytes) {
            Ok(()) => {
                self.buffer = bytes.into();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(disk::damaged(&self.path, self.at, "the file ends before what was committed does"))
            }
            Err(error) => Err(disk::failed("read", &self.path)(error)),
        }
    }

    /// Bytes that were read and belong to frames that were not asked for.
    #[cfg(test)]
    fn unused(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::frame::tests::records;
    use super::*;
    use crate::bus::Error;

    const BASE: u64 = 9;

    fn write(path: &Path, records: &[Record]) -> u64 {
        let file = create(path, BASE).unwrap();
        let mut gathered = Gathered::default();
        for (offset, record) in (BASE..).zip(records) {
            gathered.add(offset, 1, record);
            if gathered.is_enough() {
                gathered.write(path, &file).unwrap();
            }
        }
        gathered.write(path, &file).unwrap();
        fs::metadata(path).unwrap().len()
    }

    fn read(path: &Path, committed: u64, chunk: usize) -> Result<Vec<Record>> {
        let mut frames = Frames::open(path.to_owned(), BASE, None, committed, chunk).unwrap()?;
        let mut records = Vec::new();
        while let Some(frame) = frames.next(BASE + records.len() as u64)? {
            records.push(frame.record);
        }
        assert_eq!(frames.unused(), 0);
        Ok(records)
    }

    #[test]
    fn values_of_every_size_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let sizes = [0, 1, COPIED_BYTES, COPIED_BYTES + 1, GATHERED_BYTES + 1, 3, 70_000];
        let records: Vec<_> =
            sizes.iter().map(|size| Record { value: Some(vec![7; *size].into()), ..Record::default() }).collect();
        let bytes = write(&path, &records);
        for chunk in [1, 100, 1 << 16, 1 << 30] {
            assert_eq!(read(&path, bytes, chunk).unwrap(), records);
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_located(
            records in vec(records(), 1..5), at in any::<prop::sample::Index>(), bit in 0..8u8, chunk in 1..200usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("segment");
            let len = write(&path, &records);
            prop_assert_eq!(&read(&path, len, chunk).unwrap(), &records);
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();
            let ends = records.iter().scan(HEADER_BYTES, |end, record| { *end += frame::size(record) as u64; Some(*end) });
            let starts: Vec<u64> = [0, HEADER_BYTES].into_iter().chain(ends).collect();
            let hit = *starts.iter().rev().find(|start| **start <= at as u64).unwrap();
            let Err(Error::Damaged { position, .. }) = read(&path, len, chunk) else { panic!("unseen") };
            prop_assert_eq!(position, hit);
        }
    }
}
