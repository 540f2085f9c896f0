//! The commit journal: one file of checksummed records, each a list of changes that happen together. Its first record
//! is a snapshot, so nothing from before is needed. What the changes mean is in `state`.
//!
//! The file starts with `FIDJRNL1`, the generation (u64), the salt (u32) and the CRC-32C of these (u32). A record is
//!
//! ```text
//!  0  the mark                                    u32
//!  4  length of everything from byte 12 on        u32
//!  8  CRC-32C of the salt, the length, all that   u32
//! 12  number                                      u64
//! 20  number below which every record is on disk  u64
//! 28  changes
//! ```
//!
//! A record that is on disk is one whose messages are on disk as well. What comes after the last intact record, or from
//! the first record on whose messages are not, is the trace of a crash and of no meaning, as long as none of it was known
//! to be on disk. With `sync = "commit"` each record says so of all before it: there, anything but a torn end is damage.
//! The salt, new for every file, keeps payloads that hold journals from being taken for records.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use memchr::memmem;

use super::change::{self, Change};
use super::state::State;
use super::wire::{self, Malformed};
use super::{disk, fault};
use crate::bus::Result;

/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 24;

const MAGIC: &[u8; 8] = b"FIDJRNL1";
const MARK: [u8; 4] = [0xF1, 0xDE, 0x11, 0x0C];
const RECORD_HEAD_BYTES: usize = 28;

/// What a journal file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Grows by one with every file that takes the place of another.
    pub generation: u64,
    /// What its checksums start from.
    pub salt: u32,
}

/// A record whose checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Where it starts in the bytes that were scanned.
    pub at: usize,
    /// Its place in the order of all records.
    pub number: u64,
    /// The records before that number are on disk, and what they refer to. A snapshot says so of itself.
    pub durable_before: u64,
    changes: Bytes,
}

/// What a file, or the part of one, holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Intact records, one after the other.
    pub records: Vec<Record>,
    /// Where the last of them ends.
    pub end: usize,
    /// The records before that number were on disk once, whether they are intact or not.
    pub durable_before: u64,
    /// What follows them.
    pub rest: Rest,
}

/// What follows the intact records of a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// Bytes of a record that was not finished.
    Torn,
    /// Bytes of a record that is known to have been finished.
    Damaged,
}

impl Header {
    pub(super) fn take(from: &mut Bytes) -> wire::Result<Self> {
        let mut bytes = from.clone();
        let covered = wire::take(&mut bytes, HEADER_BYTES as u32 - 4)?;
        if wire::u32(&mut bytes)? != crc32c::crc32c(&covered) {
            return Err(Malformed);
        }
        let mut fields = covered.clone();
        if *wire::take(&mut fields, MAGIC.len() as u32)? != *MAGIC {
            return Err(Malformed);
        }
        from.advance(HEADER_BYTES);
        Ok(Self { generation: wire::u64(&mut fields)?, salt: wire::u32(&mut fields)? })
    }

    fn put(self, to: &mut Vec<u8>) {
        to.put_slice(MAGIC);
        to.put_u64_le(self.generation);
        to.put_u32_le(self.salt);
        to.put_u32_le(crc32c::crc32c(to));
    }
}

impl Record {
    /// The changes it consists of.
    pub(super) fn changes(&self) -> wire::Result<Vec<Change>> {
        let mut from = self.changes.clone();
        let mut changes = Vec::new();
        while !from.is_empty() {
            changes.push(change::take(&mut from)?);
        }
        Ok(changes)
    }

    fn end(&self) -> usize {
        self.at + RECORD_HEAD_BYTES + self.changes.len()
    }

    /// The record that starts there, if its checksum is right.
    fn at(bytes: &Bytes, at: usize, salt: u32) -> wire::Result<Self> {
        if at > bytes.len() {
            return Err(Malformed);
        }
        let mut from = bytes.slice(at..);
        if *wire::take(&mut from, MARK.len() as u32)? != MARK {
            return Err(Malformed);
        }
        let (length, checksum) = (wire::u32(&mut from)?, wire::u32(&mut from)?);
        let mut covered = wire::take(&mut from, length)?;
        if self::checksum(salt, length, &covered) != checksum {
            return Err(Malformed);
        }
        Ok(Self { at, number: wire::u64(&mut covered)?, durable_before: wire::u64(&mut covered)?, changes: covered })
    }
}

/// Finds the records from `from` on. The first one has that number, where it is known.
pub(super) fn scan(bytes: &Bytes, from: usize, salt: u32, mut number: Option<u64>) -> Scan {
    let mut scan = Scan { records: Vec::new(), end: from, durable_before: 0, rest: Rest::Nothing };
    while let Ok(record) = Record::at(bytes, scan.end, salt)
        && number.is_none_or(|number| record.number == number)
    {
        number = Some(record.number + 1);
        scan.end = record.end();
        scan.durable_before = scan.durable_before.max(record.durable_before);
        scan.records.push(record);
    }
    if scan.end < bytes.len() {
        let rest = bytes.get(scan.end..).unwrap_or_default();
        let later = memmem::find_iter(rest, &MARK).filter_map(|at| Record::at(bytes, scan.end + at, salt).ok());
        let durable_before = later.map(|record| record.durable_before).max().unwrap_or(0);
        scan.durable_before = scan.durable_before.max(durable_before);
        let was_finished = number.is_none_or(|number| scan.durable_before > number);
        scan.rest = if was_finished { Rest::Damaged } else { Rest::Torn };
    } else if number.is_none() {
        // A file comes into being with its first record.
        scan.rest = Rest::Damaged;
    }
    scan
}

fn put_record(to: &mut Vec<u8>, salt: u32, number: u64, durable_before: u64, changes: &[Change]) {
    let start = to.len();
    to.put_slice(&MARK);
    to.put_u64_le(0);
    to.put_u64_le(number);
    to.put_u64_le(durable_before);
    changes.iter().for_each(|change| change::put(to, change));
    let covered = to.get(start + 12..).unwrap_or_default();
    let length = covered.len() as u32;
    let checksum = checksum(salt, length, covered);
    if let Some(place) = to.get_mut(start + 4..start + 12) {
        let (mut length_place, mut checksum_place) = place.split_at_mut(4);
        length_place.put_u32_le(length);
        checksum_place.put_u32_le(checksum);
    }
}

fn checksum(salt: u32, length: u32, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &length.to_le_bytes()), covered)
}

/// The file of the journal.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// The file that is to take its place.
fn new_file(dir: &Path) -> PathBuf {
    dir.join("journal.new")
}

/// The end of the journal, where records are added.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    header: Header,
    next_number: u64,
    len: u64,
    snapshot_len: u64,
}

impl Journal {
    /// A journal file that starts with a snapshot of the state, in the place of the one that is there, if any.
    /// Everything that the state refers to is on disk.
    pub(super) fn create(dir: &Path, generation: u64, number: u64, state: &State) -> Result<Self> {
        let header = Header { generation, salt: RandomState::new().hash_one(generation) as u32 };
        let mut bytes = Vec::new();
        header.put(&mut bytes);
        put_record(&mut bytes, header.salt, number, number + 1, &state.snapshot());

        let (new, path) = (new_file(dir), file(dir));
        let file = File::create(&new).map_err(disk::failed("create", &new))?;
        fault::write("journal.rotate", &file, &mut [IoSlice::new(&bytes)]).map_err(disk::failed("write", &new))?;
        fault::sync_data("journal.rotate.sync", &file).map_err(disk::failed("sync", &new))?;
        fault::pass("journal.rotate.rename").map_err(disk::failed("rename", &new))?;
        fs::rename(&new, &path).map_err(disk::failed("rename", &new))?;
        disk::sync_dir(dir)?;
        fault::pass("journal.rotate.done").map_err(disk::failed("sync", dir))?;
        let len = bytes.len() as u64;
        let (dir, next_number) = (dir.to_owned(), number + 1);
        Ok(Self { dir, path, file: Arc::new(file), header, next_number, len, snapshot_len: len })
    }

    /// The same with the next generation's file.
    pub(super) fn rotate(&mut self, state: &State) -> Result<()> {
        *self = Self::create(&self.dir, self.header.generation + 1, self.next_number, state)?;
        Ok(())
    }

    /// Adds a record, which says that those before `durable_before` are on disk.
    pub(super) fn append(&mut self, changes: &[Change], durable_before: u64) -> Result<()> {
        let mut bytes = Vec::new();
        put_record(&mut bytes, self.header.salt, self.next_number, durable_before, changes);
        fault::write("commit.journal", &self.file, &mut [IoSlice::new(&bytes)])
            .map_err(disk::failed("write", &self.path))?;
        self.next_number += 1;
        self.len += bytes.len() as u64;
        fault::pass("commit.journal.done").map_err(disk::failed("write", &self.path))
    }

    /// The number of the next record.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The file, to be synced from elsewhere.
    pub(super) fn handle(&self) -> (PathBuf, Arc<File>) {
        (self.path.clone(), self.file.clone())
    }

    /// Whether it is longer than that, and a snapshot would make it much shorter.
    pub(super) fn is_longer_than(&self, bytes: u64) -> bool {
        self.len > bytes && self.len > 2 * self.snapshot_len
    }
}

/// The whole journal as it lies on disk, or nothing where there is none.
pub(super) fn read(dir: &Path) -> Result<Option<Bytes>> {
    let path = file(dir);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk::failed("read", &path)(error)),
    }
}

/// Removes a file that was to take the journal's place when its writer crashed.
pub(super) fn remove_unfinished(dir: &Path) -> Result<()> {
    disk::remove(&new_file(dir))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::change::tests::changes;
    use super::*;

    const SALT: u32 = 77;

    /// Records numbered from 5 on, as a log with `sync = "commit"` writes them, and where each of them starts.
    fn written(records: &[Vec<Change>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let starts = (5..).zip(records).map(|(number, changes)| {
            let start = bytes.len();
            put_record(&mut bytes, SALT, number, number, changes);
            start
        });
        let starts = starts.collect();
        (bytes, starts)
    }

    fn some_records() -> impl Strategy<Value = Vec<Vec<Change>>> {
        vec(vec(changes(), 0..3), 1..6)
    }

    #[test]
    fn a_header_survives_and_none_of_its_bits_can_flip() {
        let header = Header { generation: 3, salt: SALT };
        let mut bytes = Vec::new();
        header.put(&mut bytes);
        assert_eq!(Header::take(&mut bytes.clone().into()), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::take(&mut flipped.into()), Err(Malformed));
        }
    }

    #[test]
    fn what_was_never_known_to_be_on_disk_is_no_damage() {
        let mut bytes = Vec::new();
        for number in 5..9 {
            put_record(&mut bytes, SALT, number, 6, &[]);
        }
        let size = bytes.len() / 4;
        for (damaged, rest) in [(0, Rest::Damaged), (1, Rest::Torn), (2, Rest::Torn)] {
            let mut bytes = bytes.clone();
            bytes[damaged * size + 20] ^= 1;
            let scan = scan(&bytes.into(), 0, SALT, Some(5));
            assert_eq!((scan.end, scan.rest), (damaged * size, rest));
        }
    }

    proptest! {
        #[test]
        fn records_survive(records in some_records()) {
            let (bytes, starts) = written(&records);
            let scan = scan(&bytes.clone().into(), 0, SALT, None);
            prop_assert_eq!(scan.rest, Rest::Nothing);
            prop_assert_eq!(scan.end, bytes.len());
            prop_assert_eq!(scan.records.iter().map(|record| record.at).collect::<Vec<_>>(), starts);
            let found: Vec<_> = scan.records.iter().map(|record| record.changes().unwrap()).collect();
            prop_assert_eq!(found, records);
        }

        #[test]
        fn a_torn_end_is_cut_at_the_last_whole_record(records in some_records(), at in any::<prop::sample::Index>()) {
            let (bytes, starts) = written(&records);
            let cut = at.index(bytes.len());
            let scan = scan(&Bytes::from(bytes).slice(..cut), 0, SALT, Some(5));
            prop_assert_eq!(scan.end, *starts.iter().rev().find(|start| **start <= cut).unwrap());
            prop_assert!(scan.rest != Rest::Damaged);
        }

        #[test]
        fn a_flipped_bit_is_damage_unless_it_looks_like_a_torn_end(
            records in some_records(), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let (mut bytes, starts) = written(&records);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let hit = starts.iter().rposition(|start| *start <= at).unwrap();
            let scan = scan(&bytes.into(), 0, SALT, Some(5));
            prop_assert_eq!(scan.end, starts[hit]);
            prop_assert_eq!(scan.rest, if hit + 1 == starts.len() { Rest::Torn } else { Rest::Damaged });
        }

        #[test]
        fn records_of_another_file_are_no_records(records in some_records()) {
            let (bytes, _) = written(&records);
            prop_assert_eq!(scan(&bytes.into(), 0, SALT + 1, Some(5)).records, vec![]);
        }
    }
}
