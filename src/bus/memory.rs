//! A bus that lives as long as its process: for `fidelio test`, and for whoever embeds the engine without a disk. It
//! keeps all messages, whatever a topic's retention says, but for those that a [`Cleanup::KeepLast`] topic replaces.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{FutureExt, ready};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::limit::Budget;
use super::sole::SoleMember;
use super::{
    Bus, Cleanup, Commit, Error, Extent, Group, Lease, Limit, Log, Member, Message, Outcome, Outgoing, Positions,
    Record, Result, Resume, Topic, TopicPartition, TopicSpec,
};

/// The largest record it takes, in bytes.
const MAX_RECORD_BYTES: usize = 1 << 30;

/// A bus in memory. Clones are handles to the same one.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts what became visible, and so wakes those who wait for it.
    commits: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<Topic, Stored>,
    groups: BTreeMap<Arc<str>, Consumer>,
    /// Joins of any group so far.
    joins: u64,
}

struct Stored {
    cleanup: Cleanup,
    partitions: Vec<Partition>,
}

#[derive(Default)]
struct Partition {
    start: u64,
    records: VecDeque<Record>,
}

struct Consumer {
    /// The number of the last join; leases under an earlier one are fenced.
    epoch: watch::Sender<u64>,
    positions: Positions,
    consumes: bool,
}

impl Consumer {
    fn of(group: &Group) -> Self {
        let (epoch, positions) = (watch::Sender::new(0), Positions::new());
        Self { epoch, positions, consumes: !group.inputs.is_empty() }
    }
}

impl Memory {
    /// A bus without topics.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), commits: watch::Sender::new(0) }) }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Looks with `look` until there is something, until `deadline` at most.
    async fn wait_for(
        &self,
        deadline: Instant,
        mut look: impl FnMut(&State) -> Result<Vec<Message>>,
    ) -> Result<Vec<Message>> {
        let mut commits = self.commits.subscribe();
        loop {
            let found = look(&self.state())?;
            if !found.is_empty() || timeout_at(deadline, commits.changed()).await.is_err() {
                return Ok(found);
            }
        }
    }
}

impl State {
    fn topic(&self, topic: &Topic) -> Result<&Stored> {
        self.topics.get(topic).ok_or_else(|| Error::UnknownTopic(topic.clone()))
    }

    fn partition(&self, at: &TopicPartition) -> Result<&Partition> {
        let stored = self.topic(&at.topic)?;
        stored.partitions.get(at.partition as usize).ok_or_else(|| Error::UnknownPartition(at.clone()))
    }

    /// Those of the partitions of that number that the group's inputs have, each with the offset to go on from.
    fn positions(&self, group: &Group, task: u32) -> Result<Positions> {
        let consumer = self.groups.get(&group.name);
        let mut positions = Positions::new();
        for topic in &group.inputs {
            let at = topic.partition(task);
            if let Some(partition) = self.topic(topic)?.partitions.get(task as usize) {
                let committed = consumer.and_then(|consumer| consumer.positions.get(&at)).copied();
                positions.insert(at, committed.unwrap_or(partition.start));
            }
        }
        Ok(positions)
    }

    fn read(&self, from: &TopicPartition, offset: u64, budget: &mut Budget) -> Result<Vec<Message>> {
        let partition = self.partition(from)?;
        let extent = partition.extent();
        if !extent.has_position(offset) {
            return Err(Error::OutOfRange { partition: from.clone(), offset, extent });
        }
        let records = partition.records.iter().skip((offset - extent.start) as usize);
        let messages = (offset..).zip(records).take_while(|(_, record)| budget.take(record));
        Ok(messages
            .map(|(offset, record)| Message { partition: from.clone(), offset, record: record.clone() })
            .collect())
    }

    fn check_epoch(&self, group: &Group, task: u32, epoch: u64) -> Result<()> {
        match self.groups.get(&group.name) {
            Some(consumer) if *consumer.epoch.borrow() == epoch => Ok(()),
            _ => Err(Error::Fenced { group: group.name.clone(), task }),
        }
    }

    fn append(&mut self, outgoing: Outgoing) {
        let Some(stored) = self.topics.get_mut(&outgoing.to.topic) else { return };
        let Some(partition) = stored.partitions.get_mut(outgoing.to.partition as usize) else { return };
        partition.records.push_back(outgoing.record);
        if stored.cleanup == Cleanup::KeepLast && partition.records.len() > 1 {
            partition.records.pop_front();
            partition.start += 1;
        }
    }
}

impl Partition {
    fn extent(&self) -> Extent {
        Extent { start: self.start, end: self.start + self.records.len() as u64 }
    }
}

#[async_trait]
impl Log for Memory {
    async fn topics(&self) -> Result<Vec<Topic>> {
        Ok(self.shared.state().topics.keys().cloned().collect())
    }

    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        Ok(self.shared.state().topic(topic)?.partitions.iter().map(Partition::extent).collect())
    }

    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let look = |state: &State| state.read(from, offset, &mut Budget::new(limit));
        self.shared.wait_for(Instant::now() + wait, look).await
    }
}

#[async_trait]
impl Bus for Memory {
    async fn declare(&self, topics: &[TopicSpec]) -> Result<()> {
        let mut state = self.shared.state();
        for spec in topics {
            check_partitions(spec, state.topics.get(&spec.topic).map(|stored| stored.partitions.len() as u32))?;
        }
        for spec in topics {
            state.topics.entry(spec.topic.clone()).or_insert_with(|| Stored {
                cleanup: spec.cleanup,
                partitions: (0..spec.partitions).map(|_| Partition::default()).collect(),
            });
        }
        Ok(())
    }

    async fn enroll(&self, groups: &[Group]) -> Result<()> {
        let mut state = self.shared.state();
        for group in groups {
            state.groups.entry(group.name.clone()).or_insert_with(|| Consumer::of(group));
        }
        Ok(())
    }

    async fn join(&self, group: Group) -> Result<Box<dyn Member>> {
        let group = Arc::new(group);
        let mut state = self.shared.state();
        state.topic(&group.checkpoint)?;
        let positions = (0..group.tasks).map(|task| state.positions(&group, task)).collect::<Result<Vec<_>>>()?;
        state.joins += 1;
        let epoch = state.joins;
        let consumer = state.groups.entry(group.name.clone()).or_insert_with(|| Consumer::of(&group));
        consumer.epoch.send_replace(epoch);
        let leases = (0..group.tasks).zip(positions).map(|(task, positions)| -> Box<dyn Lease> {
            let cursors = positions.into_iter().collect();
            Box::new(MemoryLease {
                shared: self.shared.clone(),
                group: group.clone(),
                task,
                epoch,
                cursors,
                written: Vec::new(),
            })
        });
        let member = SoleMember::new(leases.collect(), epoch, consumer.epoch.subscribe());
        // Polls that wait under an older lease are to learn that it is fenced.
        self.shared.commits.send_modify(|commits| *commits += 1);
        Ok(Box::new(member))
    }

    async fn trim(&self, partition: &TopicPartition, before: u64) -> Result<()> {
        let mut state = self.shared.state();
        state.partition(partition)?;
        let stored = state.topics.get_mut(&partition.topic);
        let Some(found) = stored.and_then(|stored| stored.partitions.get_mut(partition.partition as usize)) else {
            return Ok(());
        };
        let gone = before.clamp(found.start, found.extent().end) - found.start;
        drop(found.records.drain(..gone as usize));
        found.start += gone;
        Ok(())
    }

    async fn groups(&self) -> Result<Vec<Arc<str>>> {
        let state = self.shared.state();
        let consumers = state.groups.iter().filter(|(_, consumer)| consumer.consumes);
        Ok(consumers.map(|(name, _)| name.clone()).collect())
    }

    async fn forget(&self, group: &str) -> Result<()> {
        if let Some(consumer) = self.shared.state().groups.remove(group) {
            // Who had its tasks learns that they are taken.
            consumer.epoch.send_replace(0);
        }
        self.shared.commits.send_modify(|commits| *commits += 1);
        Ok(())
    }

    async fn is_drained(&self, group: &Group) -> Result<bool> {
        let state = self.shared.state();
        for task in 0..group.tasks {
            for (at, position) in state.positions(group, task)? {
                if position < state.partition(&at)?.extent().end {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn max_record_bytes(&self) -> usize {
        MAX_RECORD_BYTES
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Refuses a topic that is there with another number of partitions.
pub(super) fn check_partitions(spec: &TopicSpec, found: Option<u32>) -> Result<()> {
    match found {
        Some(found) if found != spec.partitions => {
            Err(Error::PartitionsDiffer { topic: spec.topic.clone(), found, wanted: spec.partitions })
        }
        _ => Ok(()),
    }
}

struct MemoryLease {
    shared: Arc<Shared>,
    group: Arc<Group>,
    task: u32,
    epoch: u64,
    /// The task's partitions with the offset that is polled next; the one whose turn it is comes first.
    cursors: VecDeque<(TopicPartition, u64)>,
    /// For the next commit.
    written: Vec<Outgoing>,
}

#[async_trait]
impl Lease for MemoryLease {
    fn task(&self) -> u32 {
        self.task
    }

    async fn resume(&mut self) -> Result<Resume> {
        let state = self.shared.state();
        state.check_epoch(&self.group, self.task, self.epoch)?;
        let positions = state.positions(&self.group, self.task)?;
        let checkpoints = state.partition(&self.group.checkpoint.partition(self.task))?;
        self.cursors = positions.clone().into_iter().collect();
        self.written.clear();
        Ok(Resume {
            checkpoint: checkpoints.records.back().and_then(|record| record.value.clone()),
            positions,
            ..Resume::default()
        })
    }

    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let Self { shared, group, task, epoch, cursors, .. } = self;
        let look = |state: &State| {
            state.check_epoch(group, *task, *epoch)?;
            let mut budget = Budget::new(limit);
            let mut found = Vec::new();
            for (partition, next) in cursors.iter_mut() {
                let mut messages = state.read(partition, *next, &mut budget)?;
                *next += messages.len() as u64;
                found.append(&mut messages);
            }
            Ok(found)
        };
        let found = shared.wait_for(Instant::now() + wait, look).await?;
        let turns = cursors.len().min(1);
        cursors.rotate_left(turns);
        Ok(found)
    }

    async fn write(&mut self, mut records: Vec<Outgoing>) -> Result<()> {
        self.written.append(&mut records);
        Ok(())
    }

    async fn submit(&mut self, commit: Commit) -> Result<Outcome> {
        let mut outgoing = std::mem::take(&mut self.written);
        let positions = commit.append_to(&mut outgoing, self.group.checkpoint.partition(self.task));
        let mut state = self.shared.state();
        state.check_epoch(&self.group, self.task, self.epoch)?;
        for Outgoing { to, record } in &outgoing {
            state.partition(to)?;
            let bytes = record.size_bytes();
            if bytes > MAX_RECORD_BYTES {
                return Err(Error::TooLarge { to: to.clone(), bytes, limit: MAX_RECORD_BYTES });
            }
        }
        for partition in positions.keys() {
            state.partition(partition)?;
        }
        outgoing.into_iter().for_each(|outgoing| state.append(outgoing));
        if let Some(consumer) = state.groups.get_mut(&self.group.name) {
            consumer.positions.extend(positions);
        }
        drop(state);
        self.shared.commits.send_modify(|commits| *commits += 1);
        Ok(ready(Ok(())).boxed())
    }
}
