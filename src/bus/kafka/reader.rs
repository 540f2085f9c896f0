//! Reading a partition without a group, as the tools do and whoever needs a task's last checkpoint.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Context, TICK, failed};
use super::{PATIENCE, Shared, wire};
use crate::bus::limit::Budget;
use crate::bus::{Error, Extent, Limit, Message, Result, TopicPartition};

/// Readers that stay open for whoever reads on.
const OPEN: usize = 16;

/// How much is read at a time of what only its end is wanted of.
const STRETCH: Limit = Limit { rows: usize::MAX, bytes: 4 << 20 };

/// Open readers.
#[derive(Default)]
pub(super) struct Readers {
    /// By what they read.
    of: Mutex<HashMap<TopicPartition, Reader>>,
}

struct Reader {
    consumer: BaseConsumer<Context>,
    /// Where it reads on.
    next: u64,
    /// A message that was more than could be given.
    held: Option<Message>,
    /// Whether it is known that there was nothing more.
    at_end: bool,
    parser: wire::Parser,
}

/// Messages of a partition; see [`crate::bus::Log::read`]. Blocks.
pub(super) fn read(
    shared: &Shared,
    from: &TopicPartition,
    offset: u64,
    limit: Limit,
    wait: Duration,
) -> Result<Vec<Message>> {
    let extent = shared.extent(from)?;
    if !extent.has_position(offset) {
        return Err(Error::OutOfRange { partition: from.clone(), offset, extent });
    }
    if offset == extent.end && wait.is_zero() {
        return Ok(Vec::new());
    }
    let asking = shared.asking();
    let open = asking.readers.of.lock().remove(from).filter(|reader| reader.next == offset);
    let mut reader = match open {
        // It is not said again that the end is reached, and what was said of it may be old by now: it is gone to anew where
        // that could be all that is heard.
        Some(mut reader) if reader.at_end || (reader.held.is_none() && wait.is_zero()) => {
            reader.go_to(from, offset)?;
            reader
        }
        Some(reader) => reader,
        None => Reader::open(shared, from, offset)?,
    };
    let messages = reader.read(shared, from, limit, wait)?;
    let mut readers = asking.readers.of.lock();
    if readers.len() < OPEN {
        readers.insert(from.clone(), reader);
    }
    Ok(messages)
}

/// Whether there is a message at that offset or behind it. Blocks.
pub(super) fn has_more(shared: &Shared, from: &TopicPartition, offset: u64) -> Result<bool> {
    Ok(!read(shared, from, offset, Limit::ONE, Duration::ZERO)?.is_empty())
}

/// The last message of a partition, if there is one. Blocks.
pub(super) fn last(shared: &Shared, of: &TopicPartition) -> Result<Option<Message>> {
    Ok(of_last(shared, of, shared.extent(of)?, 1, |message| message)?.pop_back())
}

/// See [`crate::bus::Log::tail`]. Blocks.
pub(super) fn tail(shared: &Shared, of: &TopicPartition, within: Extent, count: u64) -> Result<u64> {
    Ok(of_last(shared, of, within, count, |message| message.offset)?.pop_front().unwrap_or(within.end))
}

/// Something of each of the last so many messages in the extent of a partition. Blocks.
fn of_last<T>(
    shared: &Shared,
    of: &TopicPartition,
    extent: Extent,
    count: u64,
    take: impl Fn(Message) -> T,
) -> Result<VecDeque<T>> {
    // What a transaction leaves behind besides its messages has offsets, too.
    let mut back = count.saturating_add(16);
    loop {
        let start = extent.end.saturating_sub(back).max(extent.start);
        let mut taken = VecDeque::new();
        let mut next = start;
        while next < extent.end {
            let messages = read(shared, of, next, STRETCH, Duration::ZERO)?;
            let Some(last) = messages.last() else { break };
            next = last.offset + 1;
            for message in messages.into_iter().filter(|message| message.offset < extent.end) {
                taken.push_back(take(message));
                if taken.len() as u64 > count {
                    taken.pop_front();
                }
            }
        }
        if taken.len() as u64 >= count || start == extent.start {
            return Ok(taken);
        }
        back = back.saturating_mul(8);
    }
}

impl Reader {
    fn open(shared: &Shared, from: &TopicPartition, offset: u64) -> Result<Self> {
        let consumer = shared.clients.consumer("fidelio")?;
        let mut reader = Self { consumer, next: offset, held: None, at_end: false, parser: wire::Parser::default() };
        reader.go_to(from, offset)?;
        Ok(reader)
    }

    fn go_to(&mut self, from: &TopicPartition, offset: u64) -> Result<()> {
        let mut place = TopicPartitionList::new();
        let to = Offset::Offset(offset as i64);
        let added = place.add_partition_offset(from.topic.as_str(), from.partition as i32, to);
        added.and_then(|()| self.consumer.assign(&place)).map_err(failed("reading a partition"))?;
        (self.next, self.held, self.at_end) = (offset, None, false);
        Ok(())
    }

    /// Reads until the limit, or until there is nothing more for now.
    fn read(&mut self, shared: &Shared, from: &TopicPartition, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let started = Instant::now();
        let mut budget = Budget::new(limit);
        let mut messages = Vec::new();
        loop {
            let message = match self.held.take() {
                Some(message) => Ok(message),
                None => match self.consumer.poll(if messages.is_empty() { TICK } else { Duration::ZERO }) {
                    Some(polled) => polled.map(|message| self.parser.message(from, &message)),
                    None if !messages.is_empty() => return Ok(messages),
                    None if self.at_end && started.elapsed() >= wait => return Ok(messages),
                    None if !self.at_end && started.elapsed() >= wait.max(PATIENCE) => {
                        let detail = "there was no answer in time".to_owned();
                        return Err(Error::Broker { action: "reading a partition", detail, passing: true });
                    }
                    None => continue,
                },
            };
            match message {
                Ok(message) if budget.take(&message.record) => {
                    self.next = message.offset + 1;
                    messages.push(message);
                }
                Ok(message) => {
                    self.held = Some(message);
                    return Ok(messages);
                }
                Err(KafkaError::PartitionEOF(_)) => {
                    self.at_end = true;
                    if !messages.is_empty() || started.elapsed() >= wait {
                        return Ok(messages);
                    }
                }
                Err(error) => match error.rdkafka_error_code() {
                    Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                        let extent = shared.extent(from)?;
                        return Err(Error::OutOfRange { partition: from.clone(), offset: self.next, extent });
                    }
                    _ => match failed("reading a partition")(error) {
                        error if error.is_passing() => {}
                        error => return Err(error),
                    },
                },
            }
        }
    }
}
