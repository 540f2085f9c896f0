//! From what a process left behind to a log that can be written: the journal is replayed, and what no record of it covers
//! is cut off. What was committed and is not there any more is an error, never passed over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::change::{Change, Segment};
use super::disk;
use super::journal::{self, Header, Journal, Record, Rest};
use super::segment::{self, Frames};
use super::state::{Partition, State};
use super::syncer::Unsynced;
use crate::bus::{Error, Result, TopicPartition};

/// Bytes that are read at once to see whether messages are intact.
const CHUNK_BYTES: usize = 1 << 20;

/// Recovers the state and starts a journal file with it.
pub(super) fn recover(dir: &Path) -> Result<(State, Journal)> {
    journal::remove_unfinished(dir)?;
    let Some(bytes) = journal::read(dir)? else {
        let state = State::default();
        return match files(dir)?.first() {
            Some(file) => Err(disk::damaged(
                &journal::file(dir),
                0,
                format!("there is no journal, and yet there is {}", file.display()),
            )),
            None => Ok((state.clone(), Journal::create(dir, 1, 1, &state)?)),
        };
    };
    let mut state = State::default();
    let replayed = replay(dir, &bytes, &mut state)?;
    for (partition, Partition { segments, .. }) in state.partitions() {
        for segment in segments {
            segment::cut(&disk::segment_file(dir, &partition, segment.base), segment.bytes)?;
        }
    }
    remove_unknown_files(dir, &state)?;
    replayed.unsynced.sync(None)?;
    let journal = Journal::create(dir, replayed.header.generation + 1, replayed.next_number, &state)?;
    Ok((state, journal))
}

/// What replaying a journal gave, beside the state.
struct Replayed {
    header: Header,
    next_number: u64,
    /// What the records refer to that are not known to be on disk.
    unsynced: Unsynced,
}

fn replay(dir: &Path, bytes: &bytes::Bytes, state: &mut State) -> Result<Replayed> {
    let path = journal::file(dir);
    let header =
        Header::take(&mut bytes.clone()).map_err(|_| disk::damaged(&path, 0, "this is not a journal's header"))?;
    let scan = journal::scan(bytes, journal::HEADER_BYTES, header.salt, None);
    match scan.rest {
        Rest::Damaged => {
            return Err(disk::damaged(&path, scan.end as u64, "a record that was on disk is no longer intact"));
        }
        Rest::Torn => tracing::warn!(
            journal = %path.display(),
            position = scan.end,
            "cut off an unfinished record at the end of the journal"
        ),
        Rest::Nothing => {}
    }
    let mut replayed = Replayed { header, next_number: 1, unsynced: Unsynced::default() };
    for record in scan.records {
        let changes = record
            .changes()
            .map_err(|_| disk::damaged(&path, record.at as u64, "a record of another version, or of something else"))?;
        if record.number >= scan.durable_before {
            if !is_intact(dir, state, &changes)? {
                tracing::warn!(
                    journal = %path.display(),
                    position = record.at,
                    "cut off commits that had not reached the disk"
                );
                break;
            }
            note_unsynced(dir, &changes, &mut replayed.unsynced);
        }
        apply(state, &path, &record, changes)?;
        replayed.next_number = record.number + 1;
    }
    Ok(replayed)
}

fn apply(state: &mut State, path: &Path, record: &Record, changes: Vec<Change>) -> Result<()> {
    let misfit = changes.into_iter().try_for_each(|change| state.apply(change));
    misfit.map_err(|misfit| disk::damaged(path, record.at as u64, misfit.to_string()))
}

/// Whether the messages that the changes append are there.
fn is_intact(dir: &Path, state: &State, changes: &[Change]) -> Result<bool> {
    for change in changes {
        let Change::Appended(at, segment) = change else { continue };
        match read_through(dir, state, at, segment) {
            Ok(()) => {}
            Err(Error::Damaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Reads what a change adds to a segment.
fn read_through(dir: &Path, state: &State, at: &TopicPartition, segment: &Segment) -> Result<()> {
    let path = disk::segment_file(dir, at, segment.base);
    let known = state.partition(at).ok().and_then(|partition| partition.segments.back());
    let (mut offset, place) = match known {
        Some(known) if known.base == segment.base => (known.end, Some(known.bytes)),
        _ => (segment.base, None),
    };
    let mut frames = match Frames::open(path.clone(), segment.base, place, segment.bytes, CHUNK_BYTES) {
        Ok(frames) => frames?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(disk::damaged(&path, 0, "the file is missing"));
        }
        Err(error) => return Err(disk::failed("open", &path)(error)),
    };
    while frames.next(offset)?.is_some() {
        offset += 1;
    }
    if offset == segment.end {
        Ok(())
    } else {
        Err(disk::damaged(&path, frames.position(), "the segment ends before its last message"))
    }
}

fn note_unsynced(dir: &Path, changes: &[Change], unsynced: &mut Unsynced) {
    for change in changes {
        if let Change::Appended(at, segment) = change {
            unsynced.files.insert(disk::segment_file(dir, at, segment.base));
            unsynced.dirs.insert(disk::topic_dir(dir, &at.topic));
        }
    }
}

/// Removes segment files that nothing refers to: those of commits that were never finished, and those that retention
/// was about to delete.
fn remove_unknown_files(dir: &Path, state: &State) -> Result<()> {
    let known: std::collections::HashSet<PathBuf> = state
        .partitions()
        .flat_map(|(at, partition)| {
            let files = partition.segments.iter().map(|segment| disk::segment_file(dir, &at, segment.base));
            files.collect::<Vec<_>>()
        })
        .collect();
    files(dir)?.into_iter().filter(|file| !known.contains(file)).try_for_each(|file| disk::remove(&file))
}

/// All segment files.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for topic in entries(&dir.join("topics"))? {
        files.extend(entries(&topic)?.into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "log")));
    }
    Ok(files)
}

/// What is in a folder; nothing if it is not one.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(disk::failed("read", dir)(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(disk::failed("read", dir))).collect()
}
