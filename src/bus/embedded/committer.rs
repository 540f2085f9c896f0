//! The one thread that writes. It takes all commits that wait, adds their messages to the segments, writes one record for
//! all of them to the journal, makes both durable, and only then shows them to readers. After the first thing that goes
//! wrong on that way nothing is committed any more: what the disk holds then is not known.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::appender::Appender;
use super::change::{Change, Segment};
use super::frame::Frame;
use super::journal::Journal;
use super::shared::Shared;
use super::state::{Partition, State};
use super::syncer::Unsynced;
use super::{disk, fault, frame, retention};
use crate::bus::memory::check_partitions;
use crate::bus::{
    Cleanup, Error, Extent, Group, Message, Micros, Outgoing, Positions, Record, Result, TopicPartition, TopicSpec,
};
use crate::config::Sync;
use crate::time_of_day::now;

/// What the committer is asked.
pub(super) enum Request {
    /// To make a step of a task visible.
    Commit(Step),
    /// To declare topics.
    Declare(Vec<TopicSpec>, oneshot::Sender<Result<()>>),
    /// To give a group's tasks to somebody; the answer is the epoch in which that holds.
    Join(Group, oneshot::Sender<Result<u64>>),
    /// To forget a group.
    Forget(Arc<str>, oneshot::Sender<Result<()>>),
    /// To delete what may be deleted.
    Retain(oneshot::Sender<Result<()>>),
    /// To delete the segments of a partition whose messages are all before that offset.
    Trim(TopicPartition, u64, oneshot::Sender<Result<()>>),
    /// To make everything durable and end.
    Close(oneshot::Sender<Result<()>>),
    /// To end as it is.
    Abandon,
}

/// One task's part of a group commit.
pub(super) struct Step {
    pub group: Arc<str>,
    pub task: u32,
    pub epoch: u64,
    pub outgoing: Vec<Outgoing>,
    pub positions: Positions,
    pub reply: oneshot::Sender<Result<()>>,
}

/// The writing end of the log.
pub(super) struct Committer {
    dir: PathBuf,
    shared: Arc<Shared>,
    journal: Journal,
    appender: Appender,
    requests: Receiver<Request>,
}

/// What a group commit has written so far.
#[derive(Default)]
struct Written {
    changes: Vec<Change>,
    messages: Vec<Message>,
    unsynced: Unsynced,
    bytes: u64,
    rolled: bool,
}

impl Committer {
    pub(super) fn new(dir: PathBuf, shared: Arc<Shared>, journal: Journal, requests: Receiver<Request>) -> Self {
        let appender = Appender::new(&dir, shared.options.segment_bytes);
        Self { dir, shared, journal, appender, requests }
    }

    /// Answers requests until it is told to end.
    pub(super) fn run(mut self) {
        let interval = self.shared.options.retention_interval;
        let mut next_retention = Instant::now() + interval;
        loop {
            let next = self.requests.recv_timeout(next_retention.saturating_duration_since(Instant::now()));
            if Instant::now() >= next_retention {
                next_retention = Instant::now() + interval;
                // A failure is told to whoever commits next.
                let _ = self.guarded(Self::retain);
            }
            let flow = match next {
                Ok(Request::Commit(step)) => self.commit_waiting(step),
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
                Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
            };
            if flow.is_break() {
                return;
            }
        }
    }

    /// Commits a step and all those that wait behind it.
    fn commit_waiting(&mut self, first: Step) -> ControlFlow<()> {
        let mut steps = vec![first];
        let other = loop {
            match self.requests.try_recv() {
                Ok(Request::Commit(step)) => steps.push(step),
                Ok(request) => break Some(request),
                Err(_) => break None,
            }
        };
        self.commit(steps);
        other.map_or(ControlFlow::Continue(()), |request| self.answer(request))
    }

    fn answer(&mut self, request: Request) -> ControlFlow<()> {
        match request {
            Request::Commit(step) => self.commit(vec![step]),
            Request::Declare(topics, reply) => {
                let _ = reply.send(self.guarded(|committer| committer.declare(&topics)));
            }
            Request::Join(group, reply) => {
                let _ = reply.send(self.guarded(|committer| committer.join(group)));
            }
            Request::Forget(group, reply) => {
                let _ = reply.send(self.guarded(|committer| committer.forget(group)));
            }
            Request::Retain(reply) => {
                let _ = reply.send(self.guarded(Self::retain));
            }
            Request::Trim(partition, before, reply) => {
                let _ = reply.send(self.guarded(|committer| committer.trim(&partition, before)));
            }
            Request::Close(reply) => {
                let _ = reply.send(self.guarded(Self::settle));
                return ControlFlow::Break(());
            }
            Request::Abandon => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Does something, unless an earlier thing failed; if this one fails in a way that leaves the disk unknown, it is
    /// the last.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.shared.running()?;
        work(self).map_err(|error| match error {
            Error::Io { .. } | Error::Damaged { .. } => self.shared.stop(error),
            error => error,
        })
    }

    fn commit(&mut self, steps: Vec<Step>) {
        let mut replies = Vec::with_capacity(steps.len());
        let mut outgoing = Vec::new();
        let mut positions = BTreeMap::<Arc<str>, Positions>::new();
        for step in steps {
            if let Err(error) = self.shared.running().and_then(|()| self.check(&step)) {
                let _ = step.reply.send(Err(error));
                continue;
            }
            outgoing.push(step.outgoing);
            positions.entry(step.group).or_default().extend(step.positions);
            replies.push(step.reply);
        }
        if replies.is_empty() {
            return;
        }
        let commits = replies.len() as u64;
        let result = self.guarded(|committer| committer.write(outgoing, positions));
        if let Ok(rolled) = result {
            self.shared.counters.commits.fetch_add(commits, Ordering::Relaxed);
            self.shared.counters.groups.fetch_add(1, Ordering::Relaxed);
            replies.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
            // The commit stands, whatever becomes of this; a failure is told to whoever commits next.
            let _ = self.guarded(|committer| committer.tidy(rolled));
        } else if let Err(error) = result {
            replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
        }
    }

    /// Whether the step may be committed, and can be.
    fn check(&self, step: &Step) -> Result<()> {
        if !self.shared.is_current(&step.group, step.epoch) {
            return Err(Error::Fenced { group: step.group.clone(), task: step.task });
        }
        let state = self.shared.view.state();
        let mut last = None;
        for outgoing in &step.outgoing {
            if last != Some(&outgoing.to) {
                state.partition(&outgoing.to)?;
                last = Some(&outgoing.to);
            }
        }
        step.positions.keys().try_for_each(|partition| state.partition(partition).map(drop))
    }

    /// Writes a group commit, makes it durable and shows it. Gives whether a segment came to its end.
    fn write(&mut self, outgoing: Vec<Vec<Outgoing>>, positions: BTreeMap<Arc<str>, Positions>) -> Result<bool> {
        let mut written = self.append(outgoing)?;
        let advanced = positions.into_iter().filter(|(_, positions)| !positions.is_empty());
        written.changes.extend(advanced.map(|(group, positions)| Change::Advanced(group, positions)));
        self.log(&written.changes, written.unsynced)?;
        fault::pass("commit.publish").map_err(disk::failed("publish", &self.dir))?;
        self.shared.counters.messages.fetch_add(written.messages.len() as u64, Ordering::Relaxed);
        self.shared.counters.bytes.fetch_add(written.bytes, Ordering::Relaxed);
        self.publish(written.changes, written.messages)?;
        Ok(written.rolled)
    }

    /// Adds messages to their partitions.
    fn append(&mut self, outgoing: Vec<Vec<Outgoing>>) -> Result<Written> {
        let now = now();
        let mut written = Written::default();
        for (to, records) in by_partition(outgoing.into_iter().flatten()) {
            let (cleanup, extent, last) = self.end_of(&to)?;
            if cleanup == Cleanup::KeepLast {
                let offset = extent.end + records.len() as u64 - 1;
                if let Some(record) = records.into_iter().next_back() {
                    written.bytes += frame::size(&record) as u64;
                    written.changes.push(Change::Kept(to, Frame { offset, written: now, record }));
                }
                continue;
            }
            let grown = self.appender.append(&to, extent.end, last, &records, now, &mut written.unsynced)?;
            written.rolled |=
                grown.len() > 1 || grown.first().map(|segment| segment.base) != last.map(|last| last.base);
            written.bytes += records.iter().map(|record| frame::size(record) as u64).sum::<u64>();
            written.changes.extend(grown.into_iter().map(|segment| Change::Appended(to.clone(), segment)));
            let messages = (extent.end..).zip(records);
            written.messages.extend(messages.map(|(offset, record)| Message { partition: to.clone(), offset, record }));
        }
        Ok(written)
    }

    fn end_of(&self, partition: &TopicPartition) -> Result<(Cleanup, Extent, Option<Segment>)> {
        let state = self.shared.view.state();
        let cleanup = state.topic(&partition.topic)?.cleanup;
        let partition = state.partition(partition)?;
        Ok((cleanup, partition.extent, partition.segments.back().copied()))
    }

    fn publish(&self, changes: Vec<Change>, messages: Vec<Message>) -> Result<()> {
        let published = self.shared.view.publish(changes, messages);
        published.map_err(|misfit| disk::damaged(&self.dir, 0, misfit.to_string()))
    }

    /// Commits changes that append nothing.
    fn record(&mut self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.log(&changes, Unsynced::default())?;
        self.publish(changes, Vec::new())
    }

    /// Writes changes to the journal, and waits until they and what they refer to are durable, if that is to be waited
    /// for.
    fn log(&mut self, changes: &[Change], unsynced: Unsynced) -> Result<()> {
        self.journal.append(changes, self.shared.syncer.durable_before())?;
        self.shared.syncer.add(unsynced, self.journal.next_number());
        match self.shared.options.sync {
            Sync::Commit => self.shared.syncer.sync(),
            Sync::Every(_) | Sync::Never => Ok(()),
        }
    }

    /// Makes everything durable and writes down that it is.
    fn settle(&mut self) -> Result<()> {
        self.shared.syncer.sync()?;
        self.log(&[], Unsynced::default())?;
        self.shared.syncer.sync()
    }

    fn declare(&mut self, topics: &[TopicSpec]) -> Result<()> {
        let changes = declared(&self.shared.view.state(), topics)?;
        for change in &changes {
            if let Change::Declared(spec) = change
                && spec.cleanup != Cleanup::KeepLast
            {
                disk::create_topic_dir(&self.dir, &spec.topic)?;
            }
        }
        self.record(changes)
    }

    fn join(&mut self, group: Group) -> Result<u64> {
        let state = self.shared.view.state();
        for topic in group.inputs.iter().chain([&group.checkpoint]) {
            state.topic(topic)?;
        }
        let is_new = state.group(&group.name).is_none_or(|state| state.group != group);
        drop(state);
        let name = group.name.clone();
        if is_new {
            self.record(vec![Change::Joined(group)])?;
        }
        Ok(self.shared.begin_epoch(name))
    }

    fn forget(&mut self, group: Arc<str>) -> Result<()> {
        self.shared.begin_epoch(group.clone());
        self.record(vec![Change::Forgotten(group)])
    }

    /// Does what is due after a commit.
    fn tidy(&mut self, rolled: bool) -> Result<()> {
        if rolled {
            self.retain()?;
        }
        if self.journal.is_longer_than(self.shared.options.journal_bytes) {
            self.shared.syncer.sync()?;
            self.journal.rotate(&self.shared.view.state())?;
            self.shared.syncer.follow(self.journal.handle(), self.journal.next_number());
        }
        Ok(())
    }

    /// Deletes the segments that may go.
    fn retain(&mut self) -> Result<()> {
        let (changes, files) = self.expired(now());
        self.delete(changes, &files)
    }

    fn trim(&mut self, partition: &TopicPartition, before: u64) -> Result<()> {
        let state = self.shared.view.state();
        let found = state.partition(partition)?;
        let gone = found.segments.iter().take_while(|segment| segment.end <= before).count();
        let trimmed = self.trimmed(partition.clone(), found, gone);
        drop(state);
        let (changes, files) = trimmed.unzip();
        self.delete(changes.into_iter().collect(), &files.unwrap_or_default())
    }

    /// Deletes files once it is durable that their segments are gone.
    fn delete(&mut self, changes: Vec<Change>, files: &[PathBuf]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        for change in &changes {
            if let Change::Trimmed { partition, .. } = change {
                self.appender.close(partition);
            }
        }
        self.record(changes)?;
        // Otherwise a power cut could take the record back, but not the deletion.
        self.settle()?;
        fault::pass("retain.delete").map_err(disk::failed("remove", &self.dir))?;
        files.iter().try_for_each(|file| disk::remove(file))
    }

    fn expired(&self, now: Micros) -> (Vec<Change>, Vec<PathBuf>) {
        let state = self.shared.view.state();
        let (mut changes, mut files) = (Vec::new(), Vec::new());
        for (topic, topic_state) in state.topics() {
            for (number, partition) in (0..).zip(&topic_state.partitions) {
                let at = topic.partition(number);
                if partition.segments.is_empty() {
                    continue;
                }
                let claimed_from = state.claimed_from(&at);
                let gone = retention::expired(&partition.segments, topic_state.cleanup, claimed_from, now);
                if let Some((change, of_partition)) = self.trimmed(at, partition, gone) {
                    changes.push(change);
                    files.extend(of_partition);
                }
            }
        }
        (changes, files)
    }

    /// What it is to delete so many of the oldest segments of a partition, and their files; `None` if there are none.
    fn trimmed(&self, at: TopicPartition, partition: &Partition, gone: usize) -> Option<(Change, Vec<PathBuf>)> {
        let last = partition.segments.get(gone.checked_sub(1)?)?;
        let segments = partition.segments.iter().take(gone);
        let files = segments.clone().map(|segment| disk::segment_file(&self.dir, &at, segment.base)).collect();
        let deleted = partition.deleted + retention::totals(segments);
        Some((Change::Trimmed { partition: at, start: last.end, deleted }, files))
    }
}

/// What declaring topics changes. One that is there keeps its kind; the limits of its retention become the new ones.
fn declared(state: &State, topics: &[TopicSpec]) -> Result<Vec<Change>> {
    let mut changes = BTreeMap::new();
    for spec in topics {
        let found = match (changes.get(&spec.topic), state.topic(&spec.topic)) {
            (Some(Change::Declared(other)), _) => Some((other.partitions, other.cleanup)),
            (_, Ok(topic)) => Some((topic.partitions.len() as u32, topic.cleanup)),
            _ => None,
        };
        check_partitions(spec, found.map(|(partitions, _)| partitions))?;
        let differs = match found.map(|(_, cleanup)| cleanup) {
            None => true,
            Some(Cleanup::KeepLast) => false,
            Some(cleanup) => spec.cleanup != cleanup && spec.cleanup != Cleanup::KeepLast,
        };
        if differs {
            changes.insert(spec.topic.clone(), Change::Declared(spec.clone()));
        }
    }
    Ok(changes.into_values().collect())
}

/// Records by where they go, those of each partition in order.
fn by_partition(outgoing: impl Iterator<Item = Outgoing>) -> BTreeMap<TopicPartition, Vec<Record>> {
    let mut sorted = BTreeMap::<TopicPartition, Vec<Record>>::new();
    let mut run: Option<(TopicPartition, Vec<Record>)> = None;
    for Outgoing { to, record } in outgoing {
        match &mut run {
            // Mostly many records in a row go to the same place.
            Some((place, records)) if *place == to => records.push(record),
            _ => {
                if let Some((place, records)) = run.replace((to, vec![record])) {
                    sorted.entry(place).or_default().extend(records);
                }
            }
        }
    }
    if let Some((place, records)) = run {
        sorted.entry(place).or_default().extend(records);
    }
    sorted
}
