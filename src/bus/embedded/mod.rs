//! The log that comes with Fidelio: topics as segment files in one data directory, and a journal that says how far they
//! are committed.
//!
//! ```text
//! DIR/lock                                       held by the process that writes
//! DIR/journal                                    what is committed; see `journal`
//! DIR/topics/<topic>/<partition>-<offset>.log    messages; see `segment` and `frame`
//! ```
//!
//! A commit goes from `lease` to `committer`, which adds its messages to segments (`appender`), records the commit
//! (`journal`), makes both durable (`syncer`) and shows it (`view`). The one message of a partition that keeps only the
//! last is in the journal itself. `recovery` is what happens on opening; `reader` is for processes that only look.

mod appender;
mod change;
mod committer;
mod disk;
mod fault;
mod frame;
mod journal;
mod lease;
mod reader;
mod recovery;
mod retention;
mod segment;
mod shared;
mod state;
mod syncer;
mod tail;
#[cfg(test)]
mod tests;
mod view;
mod wire;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub use self::change::Totals;
pub use self::reader::Reader;

use self::committer::{Committer, Request};
use self::disk::Lock;
use self::lease::EmbeddedLease;
use self::shared::Shared;
use self::view::View;
use super::limit::Budget;
use super::sole::SoleMember;
use super::{
    Bus, Error, Extent, Group, Lease, Limit, Log, Member, Message, Result, Topic, TopicPartition, TopicSpec, read_rows,
};
use crate::config::Sync;

/// How often contents reach the disk where commits do not wait for it and no interval is given.
const UNHURRIED_SYNC: Duration = Duration::from_secs(30);

/// How the log keeps what it is given.
#[derive(Debug, Clone)]
pub struct Options {
    /// When a commit is on disk. With [`Sync::Never`] contents are still synced twice a minute, apart from commits, so
    /// that recovery knows what it need not look at.
    pub sync: Sync,
    /// The size at which a segment is full; a larger message has one of its own. Retention deletes whole segments.
    pub segment_bytes: u64,
    /// The size at which the journal starts anew with a snapshot.
    pub journal_bytes: u64,
    /// How much of the latest messages stays in memory, over all partitions.
    pub tail_bytes: usize,
    /// The largest record that is taken.
    pub max_record_bytes: usize,
    /// How often retention looks for what may go; it also does when a segment is full.
    pub retention_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: Sync::Commit,
            segment_bytes: 64 << 20,
            journal_bytes: 16 << 20,
            tail_bytes: 32 << 20,
            max_record_bytes: 256 << 20,
            retention_interval: Duration::from_secs(10),
        }
    }
}

/// What the log did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commits of tasks.
    pub commits: u64,
    /// Group commits: journal records that these commits shared.
    pub group_commits: u64,
    /// Messages appended, without those that replace the last one.
    pub messages: u64,
    /// Bytes appended to segments, and of messages that replace the last one.
    pub bytes: u64,
}

/// The log in a data directory, which this process has to itself.
///
/// Dropping it ends it as a crash would: commits that were not answered may or may not have happened. That waits for
/// the group commit that is under way.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    running: Mutex<Option<Running>>,
}

/// What ends with the log.
#[derive(Debug)]
struct Running {
    threads: Vec<JoinHandle<()>>,
    _lock: Lock,
}

impl Embedded {
    /// Opens the log in that folder, which is made if there is none, and recovers what a crash left.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open, [`Error::Damaged`] if something that was committed is not
    /// there, [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        disk::create_dir(&dir)?;
        let lock = Lock::take(&dir)?;
        let (state, journal) = recovery::recover(&dir)?;
        let view = Arc::new(View::new(dir.clone(), state, options.tail_bytes));
        let shared = Arc::new(Shared::new(view, options, &journal));
        let (requests, received) = mpsc::channel();
        let committer = Committer::new(dir.clone(), shared.clone(), journal, received);
        let mut threads = vec![spawn("fidelio-commit", &dir, move || committer.run())?];
        let interval = match shared.options.sync {
            Sync::Commit => None,
            Sync::Every(interval) => Some(interval),
            Sync::Never => Some(UNHURRIED_SYNC),
        };
        if let Some(interval) = interval {
            let shared = shared.clone();
            threads.push(spawn("fidelio-sync", &dir, move || {
                if let Err(error) = shared.syncer.run(interval) {
                    shared.stop(error);
                }
            })?);
        }
        Ok(Self { shared, requests, running: Mutex::new(Some(Running { threads, _lock: lock })) })
    }

    /// Deletes right now what retention lets go.
    pub async fn enforce_retention(&self) -> Result<()> {
        self.ask(Request::Retain).await
    }

    /// For every partition, what retention ever deleted of it.
    pub fn deleted(&self) -> Vec<(TopicPartition, Totals)> {
        self.shared.view.state().partitions().map(|(at, partition)| (at, partition.deleted)).collect()
    }

    /// What was done since the log was opened.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        Stats {
            commits: counters.commits.load(Ordering::Relaxed),
            group_commits: counters.groups.load(Ordering::Relaxed),
            messages: counters.messages.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).map_err(|_| self.shared.refusal())?;
        answer.await.unwrap_or_else(|_| Err(self.shared.refusal()))
    }

    fn end(&self) {
        self.shared.syncer.stop();
        if let Some(running) = self.running.lock().take() {
            for thread in running.threads {
                // One that panicked has nothing to tell that those who waited for it have not been told.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.requests.send(Request::Abandon);
        self.end();
    }
}

fn spawn(name: &str, dir: &Path, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(disk::failed("start a thread", dir))
}

#[async_trait]
impl Log for Embedded {
    async fn topics(&self) -> Result<Vec<Topic>> {
        Ok(self.shared.view.state().topics().map(|(topic, _)| topic.clone()).collect())
    }

    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        self.shared.view.extents(topic)
    }

    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let deadline = Instant::now() + wait;
        let mut end = self.shared.view.end_of(from);
        loop {
            end.borrow_and_update();
            let (messages, _) = self.shared.view.read(from, offset, Budget::new(limit)).await?;
            if !messages.is_empty() || timeout_at(deadline, end.changed()).await.is_err() {
                return Ok(messages);
            }
        }
    }

    async fn rows(&self, from: &TopicPartition, offset: u64) -> Result<u64> {
        let (whole, rest) = self.shared.view.whole_segments(from, offset)?;
        Ok(whole + read_rows(self, from, rest).await?)
    }
}

#[async_trait]
impl Bus for Embedded {
    async fn declare(&self, topics: &[TopicSpec]) -> Result<()> {
        self.ask(|reply| Request::Declare(topics.to_vec(), reply)).await
    }

    async fn enroll(&self, groups: &[Group]) -> Result<()> {
        let known: Vec<Group> = self.shared.view.state().groups().map(|state| state.group.clone()).collect();
        for group in groups.iter().filter(|group| !known.contains(group)) {
            self.ask(|reply| Request::Join(group.clone(), reply)).await?;
        }
        Ok(())
    }

    async fn join(&self, group: Group) -> Result<Box<dyn Member>> {
        let epoch = self.ask(|reply| Request::Join(group.clone(), reply)).await?;
        let group = Arc::new(group);
        let current = self.shared.epoch(&group.name);
        let leases = (0..group.tasks).map(|task| -> Result<Box<dyn Lease>> {
            let (shared, requests) = (self.shared.clone(), self.requests.clone());
            Ok(Box::new(EmbeddedLease::new(shared, requests, group.clone(), task, epoch)?))
        });
        Ok(Box::new(SoleMember::new(leases.collect::<Result<_>>()?, epoch, current)))
    }

    async fn groups(&self) -> Result<Vec<Arc<str>>> {
        let state = self.shared.view.state();
        let consumers = state.groups().filter(|state| !state.group.inputs.is_empty());
        Ok(consumers.map(|state| state.group.name.clone()).collect())
    }

    async fn forget(&self, group: &str) -> Result<()> {
        self.ask(|reply| Request::Forget(group.into(), reply)).await
    }

    async fn trim(&self, partition: &TopicPartition, before: u64) -> Result<()> {
        self.ask(|reply| Request::Trim(partition.clone(), before, reply)).await
    }

    async fn is_drained(&self, group: &Group) -> Result<bool> {
        let state = self.shared.view.state();
        for task in 0..group.tasks {
            for (at, position) in state.positions(group, task)?.0 {
                if position < state.partition(&at)?.extent.end {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn max_record_bytes(&self) -> usize {
        self.shared.options.max_record_bytes
    }

    async fn close(&self) -> Result<()> {
        let closed = self.ask(Request::Close).await;
        // Where it had stopped, its threads end without having been asked.
        let _ = self.requests.send(Request::Abandon);
        self.end();
        match closed {
            Err(Error::Closed) => Ok(()),
            closed => closed,
        }
    }
}
