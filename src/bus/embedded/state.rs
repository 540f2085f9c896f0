//! What the log holds, as far as it is committed: plain data, and what each change does to it. The journal is the list
//! of changes that lead to it, so that the log that writes, its recovery and a reader beside it come to the same state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::change::{Change, Segment, Totals};
use super::frame::Frame;
use crate::bus::{Cleanup, Error, Extent, Group, Positions, Result, Topic, TopicPartition, TopicSpec};

/// Everything that is committed, but for the messages in segments.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    topics: BTreeMap<Topic, TopicState>,
    groups: BTreeMap<Arc<str>, GroupState>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TopicState {
    pub cleanup: Cleanup,
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Partition {
    pub extent: Extent,
    /// Its files, oldest first; each starts where the one before it ends.
    pub segments: VecDeque<Segment>,
    /// Its one message, where the topic keeps only the last.
    pub kept: Option<Frame>,
    /// All that retention ever deleted.
    pub deleted: Totals,
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupState {
    pub group: Group,
    pub positions: Positions,
}

/// A change that does not fit what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record that does not fit those before it: {0}")]
pub(super) struct Misfit(&'static str);

impl State {
    pub(super) fn topic(&self, topic: &Topic) -> Result<&TopicState> {
        self.topics.get(topic).ok_or_else(|| Error::UnknownTopic(topic.clone()))
    }

    pub(super) fn partition(&self, at: &TopicPartition) -> Result<&Partition> {
        let partition = self.topic(&at.topic)?.partitions.get(at.partition as usize);
        partition.ok_or_else(|| Error::UnknownPartition(at.clone()))
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = (&Topic, &TopicState)> {
        self.topics.iter()
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        self.topics.iter().flat_map(|(topic, state)| {
            (0..).zip(&state.partitions).map(|(number, partition)| (topic.partition(number), partition))
        })
    }

    pub(super) fn group(&self, name: &str) -> Option<&GroupState> {
        self.groups.get(name)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &GroupState> {
        self.groups.values()
    }

    /// Those partitions of that number that the group's inputs have, each with the offset to go on from; and the rows that
    /// were deleted of those in which it has no position.
    pub(super) fn positions(&self, group: &Group, task: u32) -> Result<(Positions, u64)> {
        let committed = self.groups.get(&group.name).map(|group| &group.positions);
        let (mut positions, mut missed) = (Positions::new(), 0);
        for topic in &group.inputs {
            let at = topic.partition(task);
            if let Some(partition) = self.topic(topic)?.partitions.get(task as usize) {
                let position = committed.and_then(|positions| positions.get(&at)).copied();
                missed += if position.is_none() { partition.deleted.rows } else { 0 };
                positions.insert(at, position.unwrap_or(partition.extent.start));
            }
        }
        Ok((positions, missed))
    }

    /// The offset from which on some group still has to read the partition.
    pub(super) fn claimed_from(&self, at: &TopicPartition) -> Option<u64> {
        let consumers = self.groups.values().filter(|state| state.group.inputs.contains(&at.topic));
        consumers.map(|state| state.positions.get(at).copied().unwrap_or(0)).min()
    }

    /// Makes a change.
    pub(super) fn apply(&mut self, change: Change) -> std::result::Result<(), Misfit> {
        match change {
            Change::Declared(spec) => self.declare(&spec)?,
            Change::Joined(group) => {
                let state = self.groups.entry(group.name.clone());
                state
                    .and_modify(|state| state.group = group.clone())
                    .or_insert_with(|| GroupState { group, positions: Positions::new() });
            }
            Change::Forgotten(group) => {
                self.groups.remove(&group);
            }
            Change::Appended(at, segment) => self.at(&at, false)?.append(segment)?,
            Change::Kept(at, frame) => {
                let partition = self.at(&at, true)?;
                partition.extent = Extent { start: frame.offset, end: frame.offset.saturating_add(1) };
                partition.kept = Some(frame);
            }
            Change::Advanced(group, positions) => {
                let state = self.groups.get_mut(&group).ok_or(Misfit("positions of a group that never joined"))?;
                state.positions.extend(positions);
            }
            Change::Trimmed { partition, start, deleted } => {
                self.at(&partition, false)?.trim(start, deleted);
            }
        }
        Ok(())
    }

    /// Changes that lead from nothing to this state.
    pub(super) fn snapshot(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (topic, state) in &self.topics {
            let partitions = state.partitions.len() as u32;
            changes.push(Change::Declared(TopicSpec { topic: topic.clone(), partitions, cleanup: state.cleanup }));
        }
        for (at, partition) in self.partitions() {
            let Partition { extent, segments, kept, deleted } = partition;
            if extent.start > 0 && kept.is_none() {
                changes.push(Change::Trimmed { partition: at.clone(), start: extent.start, deleted: *deleted });
            }
            changes.extend(segments.iter().map(|segment| Change::Appended(at.clone(), *segment)));
            changes.extend(kept.iter().map(|frame| Change::Kept(at.clone(), frame.clone())));
        }
        for state in self.groups.values() {
            changes.push(Change::Joined(state.group.clone()));
            changes.push(Change::Advanced(state.group.name.clone(), state.positions.clone()));
        }
        changes
    }

    fn declare(&mut self, spec: &TopicSpec) -> std::result::Result<(), Misfit> {
        let state = self.topics.entry(spec.topic.clone()).or_insert_with(|| TopicState {
            cleanup: spec.cleanup,
            partitions: vec![Partition::default(); spec.partitions as usize],
        });
        if state.partitions.len() != spec.partitions as usize {
            return Err(Misfit("a topic with another number of partitions"));
        }
        if (state.cleanup == Cleanup::KeepLast) != (spec.cleanup == Cleanup::KeepLast) {
            return Err(Misfit("a topic that is kept in another way"));
        }
        state.cleanup = spec.cleanup;
        Ok(())
    }

    /// A partition of a topic that keeps only the last message, or of one that does not.
    fn at(&mut self, at: &TopicPartition, keeps_last: bool) -> std::result::Result<&mut Partition, Misfit> {
        let topic = self.topics.get_mut(&at.topic).ok_or(Misfit("a topic that was never declared"))?;
        if (topic.cleanup == Cleanup::KeepLast) != keeps_last {
            return Err(Misfit("a topic that is kept in another way"));
        }
        topic.partitions.get_mut(at.partition as usize).ok_or(Misfit("a partition that its topic does not have"))
    }
}

impl Partition {
    fn append(&mut self, segment: Segment) -> std::result::Result<(), Misfit> {
        if segment.end < self.extent.end {
            return Err(Misfit("a segment that ends before the partition does"));
        }
        match self.segments.back_mut() {
            Some(last) if last.base == segment.base => *last = segment,
            _ if segment.base == self.extent.end => self.segments.push_back(segment),
            _ => return Err(Misfit("a segment that does not start where the one before it ends")),
        }
        self.extent.end = segment.end;
        Ok(())
    }

    fn trim(&mut self, start: u64, deleted: Totals) {
        self.segments.retain(|segment| segment.base >= start);
        self.extent = Extent { start, end: self.extent.end.max(start) };
        self.deleted = deleted;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::change::tests::changes;
    use super::*;

    /// The state after those of the changes that fit.
    pub(crate) fn after(changes: Vec<Change>) -> State {
        let mut state = State::default();
        for change in changes {
            let mut next = state.clone();
            if next.apply(change).is_ok() {
                state = next;
            }
        }
        state
    }

    fn topic() -> Topic {
        Topic::new("t")
    }

    /// A topic of one partition with a segment for each of the ranges.
    fn with_segments(ends: &[u64]) -> State {
        let spec = TopicSpec { topic: topic(), partitions: 1, cleanup: Cleanup::Delete { age: None, bytes: None } };
        let mut changes = vec![Change::Declared(spec)];
        let mut base = 0;
        for &end in ends {
            let segment = Segment { base, end, bytes: 10, rows: 1, written: 0 };
            changes.push(Change::Appended(topic().partition(0), segment));
            base = end;
        }
        after(changes)
    }

    fn joined(state: &mut State, name: &str, position: Option<u64>) {
        let group = Group { name: name.into(), inputs: vec![topic()], checkpoint: Topic::new("c"), tasks: 1 };
        state.apply(Change::Joined(group)).unwrap();
        let positions = position.map(|position| (topic().partition(0), position)).into_iter().collect();
        state.apply(Change::Advanced(name.into(), positions)).unwrap();
    }

    #[test]
    fn the_slowest_group_claims_a_partition() {
        let mut state = with_segments(&[10]);
        let at = topic().partition(0);
        assert_eq!(state.claimed_from(&at), None);
        joined(&mut state, "a", Some(7));
        joined(&mut state, "b", Some(3));
        assert_eq!(state.claimed_from(&at), Some(3));
        joined(&mut state, "c", None);
        assert_eq!(state.claimed_from(&at), Some(0));
        state.apply(Change::Forgotten("c".into())).unwrap();
        state.apply(Change::Forgotten("b".into())).unwrap();
        assert_eq!(state.claimed_from(&at), Some(7));
    }

    #[test]
    fn a_trimmed_partition_goes_on_where_it_ended() {
        let mut state = with_segments(&[4, 9]);
        let partition = topic().partition(0);
        state.apply(Change::Trimmed { partition: partition.clone(), start: 9, deleted: Totals::default() }).unwrap();
        let segment = Segment { base: 9, end: 12, bytes: 10, rows: 1, written: 0 };
        state.apply(Change::Appended(partition.clone(), segment)).unwrap();
        assert_eq!(state.partition(&partition).unwrap().extent, Extent { start: 9, end: 12 });
    }

    #[test]
    fn a_segment_with_a_gap_before_it_does_not_fit() {
        let mut state = with_segments(&[4]);
        let segment = Segment { base: 5, end: 6, bytes: 10, rows: 1, written: 0 };
        state.apply(Change::Appended(topic().partition(0), segment)).unwrap_err();
    }

    proptest! {
        #[test]
        fn a_snapshot_leads_to_the_same_state(changes in vec(changes(), 0..40), ends in vec(1..9u64, 0..5)) {
            let ends: Vec<u64> = ends.iter().scan(0, |sum, step| { *sum += step; Some(*sum) }).collect();
            let mut state = with_segments(&ends);
            state = after(state.snapshot().into_iter().chain(changes).collect());
            prop_assert_eq!(after(state.snapshot()), state);
        }
    }
}
