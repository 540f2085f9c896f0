//! The latest messages, as they were given to the log: whoever reads them in the same process gets the decoded batch and
//! needs no disk. Its size is bounded; the oldest message goes first, whatever partition it is of.

use std::collections::{HashMap, VecDeque};

use crate::bus::limit::Budget;
use crate::bus::{Message, Record, TopicPartition};

/// What a message takes beside its payload.
const OVERHEAD_BYTES: usize = 256;

/// The latest messages of all partitions.
#[derive(Debug)]
pub(super) struct Tail {
    limit_bytes: usize,
    bytes: usize,
    /// The partition of every message, oldest message first.
    order: VecDeque<TopicPartition>,
    partitions: HashMap<TopicPartition, Run>,
}

/// Consecutive messages up to the end of a partition.
#[derive(Debug)]
struct Run {
    first: u64,
    records: VecDeque<Record>,
}

impl Tail {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, bytes: 0, order: VecDeque::new(), partitions: HashMap::new() }
    }

    /// Adds the message that comes next in its partition.
    pub(super) fn push(&mut self, message: Message) {
        let Message { partition, offset, record } = message;
        self.bytes += weight(&record);
        self.order.push_back(partition.clone());
        let run = self.partitions.entry(partition).or_insert_with(|| Run { first: offset, records: VecDeque::new() });
        run.records.push_back(record);
        while self.bytes > self.limit_bytes
            && let Some(partition) = self.order.pop_front()
        {
            self.drop_oldest(&partition);
        }
    }

    /// Messages from `offset` on and before `end`; `None` where the message with that offset is no longer here.
    pub(super) fn read(
        &self,
        from: &TopicPartition,
        offset: u64,
        end: u64,
        budget: &mut Budget,
    ) -> Option<Vec<Message>> {
        let run = self.partitions.get(from)?;
        let skip = usize::try_from(offset.checked_sub(run.first)?).ok()?;
        if skip >= run.records.len() {
            return None;
        }
        let records = (offset..end).zip(run.records.range(skip..));
        let records = records.take_while(|(_, record)| budget.take(record));
        Some(
            records
                .map(|(offset, record)| Message { partition: from.clone(), offset, record: record.clone() })
                .collect(),
        )
    }

    fn drop_oldest(&mut self, partition: &TopicPartition) {
        let Some(run) = self.partitions.get_mut(partition) else { return };
        if let Some(record) = run.records.pop_front() {
            self.bytes -= weight(&record);
            run.first += 1;
        }
        if run.records.is_empty() {
            self.partitions.remove(partition);
        }
    }
}

/// Bytes of memory, about: a decoded batch takes what its payload takes.
fn weight(record: &Record) -> usize {
    let payload = record.size_bytes();
    OVERHEAD_BYTES + if record.batch.is_some() { 2 * payload } else { payload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Limit, Topic};

    const ALL: Limit = Limit { rows: usize::MAX, bytes: usize::MAX };

    fn message(partition: u32, offset: u64, bytes: usize) -> Message {
        let record = Record { value: Some(vec![0; bytes].into()), ..Record::default() };
        Message { partition: Topic::new("t").partition(partition), offset, record }
    }

    fn offsets(tail: &Tail, partition: u32, offset: u64, end: u64) -> Option<Vec<u64>> {
        let messages = tail.read(&Topic::new("t").partition(partition), offset, end, &mut Budget::new(ALL))?;
        Some(messages.iter().map(|message| message.offset).collect())
    }

    #[test]
    fn messages_past_the_committed_end_are_not_given() {
        let mut tail = Tail::new(1 << 20);
        (5..9).for_each(|offset| tail.push(message(0, offset, 1)));
        assert_eq!(offsets(&tail, 0, 6, 8), Some(vec![6, 7]));
        assert_eq!(offsets(&tail, 0, 4, 8), None);
        assert_eq!(offsets(&tail, 0, 9, 9), None);
        assert_eq!(offsets(&tail, 1, 0, 9), None);
    }

    #[test]
    fn the_oldest_message_makes_room_whatever_its_partition() {
        let mut tail = Tail::new(3 * (OVERHEAD_BYTES + 100));
        tail.push(message(0, 0, 100));
        tail.push(message(1, 0, 100));
        tail.push(message(0, 1, 100));
        tail.push(message(0, 2, 100));
        assert_eq!(offsets(&tail, 0, 0, 3), None);
        assert_eq!(offsets(&tail, 0, 1, 3), Some(vec![1, 2]));
        assert_eq!(offsets(&tail, 1, 0, 1), Some(vec![0]));
        tail.push(message(0, 3, 100));
        assert_eq!(offsets(&tail, 1, 0, 1), None);
    }

    #[test]
    fn a_message_over_the_limit_empties_it() {
        let mut tail = Tail::new(1000);
        tail.push(message(0, 0, 10));
        tail.push(message(0, 1, 1000));
        assert_eq!((tail.bytes, tail.order.len(), tail.partitions.len()), (0, 0, 0));
    }
}
