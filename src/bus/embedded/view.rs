//! Reading what is committed: the same for the log that writes and for a reader beside it. Publishing is the writer's
//! business, following its journal that of `reader`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::change::{Change, Segment};
use super::disk;
use super::segment::Frames;
use super::state::{Misfit, State};
use super::tail::Tail;
use crate::bus::limit::Budget;
use crate::bus::{Error, Extent, Message, Result, Topic, TopicPartition};

/// Bytes that a read from disk takes at once: enough to make the call cheap, and little enough to hold.
const CHUNK_BYTES: std::ops::Range<usize> = 64 << 10..1 << 20;

/// Places that are remembered for each partition.
const PLACES: usize = 512;

/// A place is remembered at least every so many bytes that are read past.
const PLACE_EVERY_BYTES: u64 = 1 << 20;

/// The committed log.
#[derive(Debug)]
pub(super) struct View {
    dir: PathBuf,
    state: RwLock<State>,
    tail: Mutex<Tail>,
    places: Mutex<HashMap<TopicPartition, Places>>,
    ends: Mutex<HashMap<TopicPartition, watch::Sender<u64>>>,
}

/// For offsets, where in which segment they are. Filled as segments are read: whoever reads on finds where, and whoever
/// looks for an offset is near it.
type Places = BTreeMap<u64, Place>;

#[derive(Debug, Clone, Copy)]
struct Place {
    base: u64,
    at: u64,
}

/// What a look at the end of a partition found.
enum Look {
    /// The answer.
    Messages(Vec<Message>),
    /// The segment that has the answer.
    OnDisk(Segment),
}

impl View {
    pub(super) fn new(dir: PathBuf, state: State, tail_bytes: usize) -> Self {
        Self {
            dir,
            state: RwLock::new(state),
            tail: Mutex::new(Tail::new(tail_bytes)),
            places: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// Makes changes visible, all at once, and wakes those who wait for them. `messages` are those that the changes
    /// append.
    pub(super) fn publish(
        &self,
        changes: Vec<Change>,
        messages: impl IntoIterator<Item = Message>,
    ) -> std::result::Result<(), Misfit> {
        let touched: Vec<TopicPartition> = changes.iter().filter_map(touched).cloned().collect();
        // Readers look at the tail only up to the end that the state says, so the messages can be there before.
        let mut tail = self.tail.lock();
        messages.into_iter().for_each(|message| tail.push(message));
        drop(tail);
        let mut state = self.state.write();
        changes.into_iter().try_for_each(|change| state.apply(change))?;
        drop(state);
        self.wake(touched);
        Ok(())
    }

    /// Takes another state in place of the one there is.
    pub(super) fn replace(&self, state: State) {
        let touched: Vec<TopicPartition> = state.partitions().map(|(at, _)| at).collect();
        *self.state.write() = state;
        self.wake(touched);
    }

    fn wake(&self, touched: Vec<TopicPartition>) {
        let ends = self.ends.lock();
        if ends.is_empty() {
            return;
        }
        let state = self.state();
        for at in touched {
            if let (Some(sender), Ok(partition)) = (ends.get(&at), state.partition(&at)) {
                sender.send_replace(partition.extent.end);
            }
        }
    }

    /// Follows the end of a partition.
    pub(super) fn end_of(&self, at: &TopicPartition) -> watch::Receiver<u64> {
        let mut ends = self.ends.lock();
        ends.entry(at.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    pub(super) fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        Ok(self.state().topic(topic)?.partitions.iter().map(|partition| partition.extent).collect())
    }

    /// Rows in the segments that start at the offset or behind it, and what is before the first of them from the offset
    /// on.
    pub(super) fn whole_segments(&self, from: &TopicPartition, offset: u64) -> Result<(u64, Range<u64>)> {
        let state = self.state();
        let partition = state.partition(from)?;
        let whole = partition.segments.iter().filter(|segment| segment.base >= offset);
        let start = whole.clone().map(|segment| segment.base).next().unwrap_or(partition.extent.end);
        Ok((whole.map(|segment| segment.rows).sum(), offset.max(partition.extent.start)..start))
    }

    /// Messages from an offset on, as far as the budget goes; none at the end.
    pub(super) async fn read(
        self: &Arc<Self>,
        from: &TopicPartition,
        offset: u64,
        mut budget: Budget,
    ) -> Result<(Vec<Message>, Budget)> {
        let segment = match self.look(from, offset, &mut budget)? {
            Look::Messages(messages) => return Ok((messages, budget)),
            Look::OnDisk(segment) => segment,
        };
        let (view, from) = (self.clone(), from.clone());
        let read = tokio::task::spawn_blocking(move || {
            let messages = view.read_segment(&from, offset, segment, &mut budget)?;
            Ok((messages, budget))
        });
        match read.await {
            Ok(read) => read,
            Err(join) => Err(disk::failed("read", &self.dir)(io::Error::other(join))),
        }
    }

    fn look(&self, from: &TopicPartition, offset: u64, budget: &mut Budget) -> Result<Look> {
        let state = self.state();
        let partition = state.partition(from)?;
        let extent = partition.extent;
        if !extent.has_position(offset) {
            return Err(Error::OutOfRange { partition: from.clone(), offset, extent });
        }
        if offset == extent.end || budget.is_spent() {
            return Ok(Look::Messages(Vec::new()));
        }
        if let Some(frame) = &partition.kept {
            let record = budget.take(&frame.record).then(|| frame.record.clone());
            let message = record.map(|record| Message { partition: from.clone(), offset, record });
            return Ok(Look::Messages(message.into_iter().collect()));
        }
        if let Some(messages) = self.tail.lock().read(from, offset, extent.end, budget) {
            return Ok(Look::Messages(messages));
        }
        let segment = partition.segments.partition_point(|segment| segment.end <= offset);
        match partition.segments.get(segment) {
            Some(segment) => Ok(Look::OnDisk(*segment)),
            None => Err(Error::OutOfRange { partition: from.clone(), offset, extent }),
        }
    }

    fn read_segment(
        &self,
        from: &TopicPartition,
        offset: u64,
        segment: Segment,
        budget: &mut Budget,
    ) -> Result<Vec<Message>> {
        let path = disk::segment_file(&self.dir, from, segment.base);
        let chunk = budget.bytes().clamp(CHUNK_BYTES.start, CHUNK_BYTES.end);
        let (mut next, at) = self.place_before(from, offset, segment.base);
        let mut frames = match Frames::open(path.clone(), segment.base, at, segment.bytes, chunk) {
            Ok(frames) => frames?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.missing(from, offset, path)),
            Err(error) => return Err(disk::failed("open", &path)(error)),
        };
        let mut remembered = frames.position();
        let mut messages = Vec::new();
        let at = loop {
            let at = frames.position();
            if at - remembered > PLACE_EVERY_BYTES {
                remembered = at;
                self.remember(from, next, Place { base: segment.base, at });
            }
            if budget.is_spent() {
                break at;
            }
            let Some(frame) = frames.next(next)? else { break at };
            if next >= offset {
                if !budget.take(&frame.record) {
                    break at;
                }
                messages.push(Message { partition: from.clone(), offset: next, record: frame.record });
            }
            next += 1;
        };
        if at >= segment.bytes && next < segment.end {
            return Err(disk::damaged(&path, at, "the segment ends before its last message"));
        }
        self.remember(from, next, Place { base: segment.base, at });
        Ok(messages)
    }

    /// Why a segment that the state had is not there.
    fn missing(&self, from: &TopicPartition, offset: u64, path: PathBuf) -> Error {
        match self.state().partition(from) {
            // Retention was faster.
            Ok(partition) if offset < partition.extent.start => {
                Error::OutOfRange { partition: from.clone(), offset, extent: partition.extent }
            }
            _ => disk::damaged(&path, 0, "the file is missing"),
        }
    }

    /// The nearest known place at or before the offset in the segment: an offset and where it is.
    fn place_before(&self, from: &TopicPartition, offset: u64, base: u64) -> (u64, Option<u64>) {
        let places = self.places.lock();
        let place = places.get(from).and_then(|places| places.range(base..=offset).next_back());
        match place {
            Some((offset, place)) if place.base == base => (*offset, Some(place.at)),
            _ => (base, None),
        }
    }

    fn remember(&self, from: &TopicPartition, offset: u64, place: Place) {
        let mut places = self.places.lock();
        let places = places.entry(from.clone()).or_default();
        if places.len() >= PLACES {
            places.pop_first();
        }
        places.insert(offset, place);
    }
}

/// The partition whose messages a change is about.
fn touched(change: &Change) -> Option<&TopicPartition> {
    match change {
        Change::Appended(partition, _) | Change::Kept(partition, _) => Some(partition),
        _ => None,
    }
}
