//! Adding messages to the segments of their partitions. What was added counts only once the journal says so.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::Segment;
use super::segment::{self, Gathered};
use super::syncer::Unsynced;
use super::{disk, frame};
use crate::bus::{Micros, Record, Result, TopicPartition};

/// Segment files that are kept open; closing and opening them again is only a matter of speed.
const OPEN_FILES: usize = 256;

/// The ends of all partitions.
#[derive(Debug)]
pub(super) struct Appender {
    dir: PathBuf,
    segment_bytes: u64,
    /// The last segment of each partition, by its first offset.
    open: HashMap<TopicPartition, (u64, Arc<File>)>,
    gathered: Gathered,
}

impl Appender {
    pub(super) fn new(dir: &Path, segment_bytes: u64) -> Self {
        Self { dir: dir.to_owned(), segment_bytes, open: HashMap::new(), gathered: Gathered::default() }
    }

    /// Adds records to a partition that ends at `end` and whose last segment is `last`, and gives the segments that
    /// grew or came to be.
    pub(super) fn append(
        &mut self,
        to: &TopicPartition,
        end: u64,
        last: Option<Segment>,
        records: &[Record],
        written: Micros,
        unsynced: &mut Unsynced,
    ) -> Result<Vec<Segment>> {
        let mut grown = Vec::new();
        let mut current: Option<(Segment, PathBuf, Arc<File>)> = None;
        let mut to_extend = last;
        for record in records {
            let size = frame::size(record) as u64;
            let fits = |segment: &Segment| segment.bytes + size <= self.segment_bytes;
            let open = match (current.take(), to_extend.take()) {
                (Some(open), _) if fits(&open.0) => open,
                (Some((full, path, file)), _) => {
                    self.gathered.write(&path, &file)?;
                    grown.push(full);
                    self.create(to, full.end, unsynced)?
                }
                (None, Some(last)) if fits(&last) => self.reopen(to, last, unsynced)?,
                (None, _) => self.create(to, end, unsynced)?,
            };
            let (segment, path, file) = current.insert(open);
            self.gathered.add(segment.end, written, record);
            segment.bytes += size;
            segment.end += 1;
            segment.rows += u64::from(record.rows);
            segment.written = written;
            if self.gathered.is_enough() {
                self.gathered.write(path, file)?;
            }
        }
        if let Some((segment, path, file)) = current {
            self.gathered.write(&path, &file)?;
            grown.push(segment);
            self.keep_open(to, segment.base, file);
        }
        Ok(grown)
    }

    /// Lets go of a partition's file.
    pub(super) fn close(&mut self, partition: &TopicPartition) {
        self.open.remove(partition);
    }

    fn create(
        &mut self,
        to: &TopicPartition,
        base: u64,
        unsynced: &mut Unsynced,
    ) -> Result<(Segment, PathBuf, Arc<File>)> {
        let path = disk::segment_file(&self.dir, to, base);
        let file = segment::create(&path, base)?;
        unsynced.files.insert(path.clone());
        unsynced.dirs.insert(disk::topic_dir(&self.dir, &to.topic));
        Ok((Segment { base, end: base, bytes: segment::HEADER_BYTES, rows: 0, written: 0 }, path, file))
    }

    fn reopen(
        &mut self,
        to: &TopicPartition,
        last: Segment,
        unsynced: &mut Unsynced,
    ) -> Result<(Segment, PathBuf, Arc<File>)> {
        let path = disk::segment_file(&self.dir, to, last.base);
        let file = match self.open.remove(to) {
            Some((base, file)) if base == last.base => file,
            _ => segment::open(&path, last.bytes)?,
        };
        unsynced.files.insert(path.clone());
        Ok((last, path, file))
    }

    fn keep_open(&mut self, partition: &TopicPartition, base: u64, file: Arc<File>) {
        if self.open.len() >= OPEN_FILES {
            self.open.clear();
        }
        self.open.insert(partition.clone(), (base, file));
    }
}
