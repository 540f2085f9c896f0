//! A task's end of the log: its polls and commits.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{FutureExt, select_all};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::committer::{Request, Step};
use super::shared::Shared;
use crate::bus::limit::Budget;
use crate::bus::{
    Commit, Error, Group, Lease, Limit, Message, Outcome, Outgoing, Positions, Result, Resume, TopicPartition,
};

/// The lease of one task.
pub(super) struct EmbeddedLease {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    group: Arc<Group>,
    task: u32,
    epoch: u64,
    current_epoch: watch::Receiver<u64>,
    /// The task's partitions; the one whose turn it is comes first.
    cursors: VecDeque<Cursor>,
    /// For the next commit.
    written: Vec<Outgoing>,
}

/// How far a partition is polled.
struct Cursor {
    partition: TopicPartition,
    next: u64,
    end: watch::Receiver<u64>,
}

impl EmbeddedLease {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests: mpsc::Sender<Request>,
        group: Arc<Group>,
        task: u32,
        epoch: u64,
    ) -> Result<Self> {
        let current_epoch = shared.epoch(&group.name);
        let (cursors, written) = (VecDeque::new(), Vec::new());
        let mut lease = Self { shared, requests, group, task, epoch, current_epoch, cursors, written };
        lease.go_to(&lease.positions()?.0);
        Ok(lease)
    }

    fn positions(&self) -> Result<(Positions, u64)> {
        self.shared.view.state().positions(&self.group, self.task)
    }

    fn go_to(&mut self, positions: &Positions) {
        let cursors = positions.iter().map(|(partition, next)| Cursor {
            partition: partition.clone(),
            next: *next,
            end: self.shared.view.end_of(partition),
        });
        self.cursors = cursors.collect();
    }

    fn check_epoch(&self) -> Result<()> {
        if *self.current_epoch.borrow() == self.epoch {
            return Ok(());
        }
        Err(Error::Fenced { group: self.group.name.clone(), task: self.task })
    }

    /// What there is, without waiting.
    async fn gather(&mut self, limit: Limit) -> Result<Vec<Message>> {
        let mut budget = Budget::new(limit);
        let mut found = Vec::with_capacity(self.cursors.len());
        for cursor in &mut self.cursors {
            cursor.end.borrow_and_update();
            let (messages, rest) = self.shared.view.read(&cursor.partition, cursor.next, budget).await?;
            budget = rest;
            found.push(messages);
        }
        // Only now, since whoever drops the poll while it reads has been given nothing.
        for (cursor, messages) in self.cursors.iter_mut().zip(&found) {
            cursor.next += messages.len() as u64;
        }
        let all = found.into_iter().reduce(|mut all, next| {
            all.extend(next);
            all
        });
        Ok(all.unwrap_or_default())
    }

    /// Waits until there may be more, or the lease may have ended.
    async fn changed(&mut self) {
        let epoch = self.epoch;
        let ends = self.cursors.iter_mut().map(|cursor| cursor.end.changed());
        let fenced = self.current_epoch.wait_for(|current| *current != epoch);
        if ends.len() == 0 {
            let _ = fenced.await;
            return;
        }
        tokio::select! {
            _ = select_all(ends.map(Box::pin)) => {}
            _ = fenced => {}
        }
    }
}

#[async_trait]
impl Lease for EmbeddedLease {
    fn task(&self) -> u32 {
        self.task
    }

    async fn resume(&mut self) -> Result<Resume> {
        self.check_epoch()?;
        let (positions, missed) = self.positions()?;
        self.go_to(&positions);
        self.written.clear();
        let checkpoints = self.group.checkpoint.partition(self.task);
        let end = self.shared.view.state().partition(&checkpoints)?.extent.end;
        let checkpoint = match end.checked_sub(1) {
            Some(last) => self.shared.view.read(&checkpoints, last, Budget::new(Limit::ONE)).await?.0.pop(),
            None => None,
        };
        let checkpoint = checkpoint.and_then(|message| message.record.value);
        Ok(Resume { checkpoint, positions, missed, ..Resume::default() })
    }

    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let deadline = Instant::now() + wait;
        loop {
            self.check_epoch()?;
            let found = self.gather(limit).await?;
            if !found.is_empty() {
                self.cursors.rotate_left(1);
                return Ok(found);
            }
            // Nothing will come any more.
            self.shared.running()?;
            if timeout_at(deadline, self.changed()).await.is_err() {
                return Ok(found);
            }
        }
    }

    async fn write(&mut self, mut records: Vec<Outgoing>) -> Result<()> {
        self.written.append(&mut records);
        self.check_epoch()
    }

    async fn submit(&mut self, commit: Commit) -> Result<Outcome> {
        self.check_epoch()?;
        let mut outgoing = std::mem::take(&mut self.written);
        let positions = commit.append_to(&mut outgoing, self.group.checkpoint.partition(self.task));
        let limit = self.shared.options.max_record_bytes;
        for Outgoing { to, record } in &outgoing {
            let bytes = record.size_bytes();
            if bytes > limit {
                return Err(Error::TooLarge { to: to.clone(), bytes, limit });
            }
        }
        let (reply, answer) = oneshot::channel();
        let step =
            Step { group: self.group.name.clone(), task: self.task, epoch: self.epoch, outgoing, positions, reply };
        self.requests.send(Request::Commit(step)).map_err(|_| self.shared.refusal())?;
        let shared = self.shared.clone();
        Ok(async move { answer.await.unwrap_or_else(|_| Err(shared.refusal())) }.boxed())
    }
}
