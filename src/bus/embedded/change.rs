//! What can change in the log, and how a change stands in the journal. What it does to the state is in `state`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::frame::{self, Frame};
use super::wire::{self, Malformed};
use crate::bus::{Cleanup, Group, Micros, Positions, Topic, TopicPartition, TopicSpec};

/// A part of a journal record. All changes of a record happen together.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// A topic is there, or has another retention.
    Declared(TopicSpec),
    /// A group consumes topics, and keeps their messages from being deleted.
    Joined(Group),
    /// A group is no more.
    Forgotten(Arc<str>),
    /// A segment is now as long as this. Where it starts at the partition's end, it is a new one.
    Appended(TopicPartition, Segment),
    /// The one message of a partition that keeps only the last.
    Kept(TopicPartition, Frame),
    /// Positions up to which a group has dealt with its inputs; those of other partitions stay.
    Advanced(Arc<str>, Positions),
    /// Messages before `start` are deleted; `deleted` counts all that ever were.
    Trimmed {
        /// Where.
        partition: TopicPartition,
        /// The oldest offset that remains.
        start: u64,
        /// All that was ever deleted of the partition.
        deleted: Totals,
    },
}

/// A file of consecutive messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// The offset of its first message.
    pub base: u64,
    /// The offset after its last message.
    pub end: u64,
    /// Its committed length, header included.
    pub bytes: u64,
    /// Rows in its messages.
    pub rows: u64,
    /// When the last message was written.
    pub written: Micros,
}

/// A number of messages, and what they held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages.
    pub messages: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes they took on disk.
    pub bytes: u64,
}

const DECLARED: u8 = 1;
const JOINED: u8 = 2;
const FORGOTTEN: u8 = 3;
const APPENDED: u8 = 4;
const KEPT: u8 = 5;
const ADVANCED: u8 = 6;
const TRIMMED: u8 = 7;

const DELETE: u8 = 0;
const KEEP_LAST: u8 = 1;

/// Appends a change.
pub(super) fn put(to: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Declared(spec) => {
            to.put_u8(DECLARED);
            put_topic(to, &spec.topic);
            to.put_u32_le(spec.partitions);
            put_cleanup(to, spec.cleanup);
        }
        Change::Joined(group) => {
            to.put_u8(JOINED);
            wire::put_bytes(to, group.name.as_bytes());
            to.put_u32_le(group.inputs.len() as u32);
            group.inputs.iter().for_each(|topic| put_topic(to, topic));
            put_topic(to, &group.checkpoint);
            to.put_u32_le(group.tasks);
        }
        Change::Forgotten(group) => {
            to.put_u8(FORGOTTEN);
            wire::put_bytes(to, group.as_bytes());
        }
        Change::Appended(partition, segment) => {
            to.put_u8(APPENDED);
            put_partition(to, partition);
            to.put_u64_le(segment.base);
            to.put_u64_le(segment.end);
            to.put_u64_le(segment.bytes);
            to.put_u64_le(segment.rows);
            to.put_i64_le(segment.written);
        }
        Change::Kept(partition, frame) => {
            to.put_u8(KEPT);
            put_partition(to, partition);
            frame::put(to, frame);
        }
        Change::Advanced(group, positions) => {
            to.put_u8(ADVANCED);
            wire::put_bytes(to, group.as_bytes());
            to.put_u32_le(positions.len() as u32);
            for (partition, position) in positions {
                put_partition(to, partition);
                to.put_u64_le(*position);
            }
        }
        Change::Trimmed { partition, start, deleted } => {
            to.put_u8(TRIMMED);
            put_partition(to, partition);
            to.put_u64_le(*start);
            to.put_u64_le(deleted.messages);
            to.put_u64_le(deleted.rows);
            to.put_u64_le(deleted.bytes);
        }
    }
}

/// Takes a change off the front of the bytes.
pub(super) fn take(from: &mut Bytes) -> wire::Result<Change> {
    Ok(match wire::u8(from)? {
        DECLARED => {
            Change::Declared(TopicSpec { topic: topic(from)?, partitions: wire::u32(from)?, cleanup: cleanup(from)? })
        }
        JOINED => {
            let name = wire::text(from)?;
            let inputs = wire::u32(from)?;
            let inputs = (0..inputs).map(|_| topic(from)).collect::<wire::Result<_>>()?;
            Change::Joined(Group { name, inputs, checkpoint: topic(from)?, tasks: wire::u32(from)? })
        }
        FORGOTTEN => Change::Forgotten(wire::text(from)?),
        APPENDED => Change::Appended(
            partition(from)?,
            Segment {
                base: wire::u64(from)?,
                end: wire::u64(from)?,
                bytes: wire::u64(from)?,
                rows: wire::u64(from)?,
                written: wire::i64(from)?,
            },
        ),
        KEPT => Change::Kept(partition(from)?, frame::take(from).map_err(|_| Malformed)?),
        ADVANCED => {
            let group = wire::text(from)?;
            let positions = wire::u32(from)?;
            let positions =
                (0..positions).map(|_| Ok((partition(from)?, wire::u64(from)?))).collect::<wire::Result<_>>()?;
            Change::Advanced(group, positions)
        }
        TRIMMED => Change::Trimmed {
            partition: partition(from)?,
            start: wire::u64(from)?,
            deleted: Totals { messages: wire::u64(from)?, rows: wire::u64(from)?, bytes: wire::u64(from)? },
        },
        _ => return Err(Malformed),
    })
}

fn put_topic(to: &mut Vec<u8>, topic: &Topic) {
    wire::put_bytes(to, topic.as_str().as_bytes());
}

fn topic(from: &mut Bytes) -> wire::Result<Topic> {
    Ok(Topic::new(wire::text(from)?))
}

fn put_partition(to: &mut Vec<u8>, partition: &TopicPartition) {
    put_topic(to, &partition.topic);
    to.put_u32_le(partition.partition);
}

fn partition(from: &mut Bytes) -> wire::Result<TopicPartition> {
    Ok(TopicPartition { topic: topic(from)?, partition: wire::u32(from)? })
}

fn put_cleanup(to: &mut Vec<u8>, cleanup: Cleanup) {
    match cleanup {
        Cleanup::Delete { age, bytes } => {
            to.put_u8(DELETE);
            wire::put_option(to, age.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX)));
            wire::put_option(to, bytes);
        }
        Cleanup::KeepLast => to.put_u8(KEEP_LAST),
    }
}

fn cleanup(from: &mut Bytes) -> wire::Result<Cleanup> {
    match wire::u8(from)? {
        DELETE => {
            Ok(Cleanup::Delete { age: wire::option(from)?.map(Duration::from_micros), bytes: wire::option(from)? })
        }
        KEEP_LAST => Ok(Cleanup::KeepLast),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::super::frame::tests::frames;
    use super::*;

    fn topics() -> impl Strategy<Value = Topic> {
        "[a-z.]{1,8}".prop_map(Topic::new)
    }

    fn partitions() -> impl Strategy<Value = TopicPartition> {
        (topics(), 0..9u32).prop_map(|(topic, number)| topic.partition(number))
    }

    fn cleanups() -> impl Strategy<Value = Cleanup> {
        let age = (0..1u64 << 50).prop_map(Duration::from_micros);
        prop_oneof![
            Just(Cleanup::KeepLast),
            (option::of(age), option::of(any::<u64>())).prop_map(|(age, bytes)| Cleanup::Delete { age, bytes }),
        ]
    }

    pub(crate) fn changes() -> impl Strategy<Value = Change> {
        let name = || "[a-z.]{0,8}".prop_map(Arc::<str>::from);
        prop_oneof![
            (topics(), 0..9u32, cleanups()).prop_map(|(topic, partitions, cleanup)| Change::Declared(TopicSpec {
                topic,
                partitions,
                cleanup
            })),
            (name(), vec(topics(), 0..3), topics(), any::<u32>()).prop_map(|(name, inputs, checkpoint, tasks)| {
                Change::Joined(Group { name, inputs, checkpoint, tasks })
            }),
            name().prop_map(Change::Forgotten),
            (partitions(), any::<[u64; 4]>(), any::<i64>()).prop_map(
                |(partition, [base, end, bytes, rows], written)| {
                    Change::Appended(partition, Segment { base, end, bytes, rows, written })
                }
            ),
            (partitions(), frames()).prop_map(|(partition, frame)| Change::Kept(partition, frame)),
            (name(), btree_map(partitions(), any::<u64>(), 0..3))
                .prop_map(|(group, positions)| Change::Advanced(group, positions)),
            (partitions(), any::<[u64; 4]>()).prop_map(|(partition, [start, messages, rows, bytes])| {
                Change::Trimmed { partition, start, deleted: Totals { messages, rows, bytes } }
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_change_survives(change in changes()) {
            let mut bytes = Vec::new();
            put(&mut bytes, &change);
            let mut bytes = Bytes::from(bytes);
            prop_assert_eq!(take(&mut bytes), Ok(change));
            prop_assert!(bytes.is_empty());
        }
    }
}
