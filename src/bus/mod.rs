//! The bus: topics of durable messages, and the one step by which anything leaves a task.
//!
//! What lives here is the contract that the loop of a task and the tools need, in words that no broker owns: names,
//! messages, commits and the traits [`Log`], [`Bus`], [`Member`] and [`Lease`]. How a bus keeps its promises lives in
//! its own folder; `tests/it/bus/` is the suite that each of them passes.

pub mod embedded;
mod headers;
pub mod kafka;
mod limit;
pub mod memory;
mod sole;
mod topic;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::config;
pub use headers::Headers;
pub(crate) use headers::Packer;
pub use topic::{Channel, Cleanup, Topic, TopicPartition, TopicSpec};

/// Microseconds since the Unix epoch, UTC.
pub type Micros = i64;

/// For each partition the offset of the message that is read next.
pub type Positions = BTreeMap<TopicPartition, u64>;

/// What is written to a topic.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// The key that partitions and compacts; empty for Arrow results, whose rows have keys of their own.
    pub key: Option<Bytes>,
    /// The payload, in the topic's format; `None` is a tombstone, which says that there is nothing any more under the key.
    pub value: Option<Bytes>,
    /// Names and values beside the payload.
    pub headers: Headers,
    /// The number of rows in the payload.
    pub rows: u32,
    /// When the oldest row of the payload arrived in the pipeline; a bus keeps at least the millisecond.
    pub arrived: Micros,
    /// The rows of the payload, decoded, where writer and reader share a process. Never more than a shortcut: whoever
    /// finds `None` decodes the value.
    pub batch: Option<RecordBatch>,
}

impl Record {
    /// The payload; a tombstone has no bytes either.
    pub fn payload(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// Bytes that the record takes of a bus's message size: key, value and headers.
    pub fn size_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.payload().len() + self.headers.size_bytes()
    }
}

/// A record that a reader was given, with its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The partition that holds it.
    pub partition: TopicPartition,
    /// Its place there: offsets grow with every message of a partition, starting with 0; by one where the bus needs none
    /// for anything else.
    pub offset: u64,
    /// What was written.
    pub record: Record,
}

/// A record and the partition it goes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The partition to append to.
    pub to: TopicPartition,
    /// What to append.
    pub record: Record,
}

/// Everything that one step of a task brings about: visible all together, or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Commit {
    /// Results, for the next stages.
    pub results: Vec<Outgoing>,
    /// Fact events, for anyone.
    pub events: Vec<Outgoing>,
    /// What could not be processed.
    pub dead_letters: Vec<Outgoing>,
    /// What the task keeps from batch to batch.
    pub state: Vec<Outgoing>,
    /// What the task resumes from, for the task's own partition of the group's checkpoint topic.
    pub checkpoint: Bytes,
    /// How far the inputs are dealt with.
    pub positions: Positions,
}

impl Commit {
    /// Adds all records of the step to those that were written before it, the checkpoint last, for the partition it goes to;
    /// and gives the positions.
    fn append_to(self, records: &mut Vec<Outgoing>, checkpoint: TopicPartition) -> Positions {
        // A topic that keeps the last message keeps it by its key.
        let key = Some(Bytes::from_static(b"checkpoint"));
        let record = Record { key, value: Some(self.checkpoint), ..Record::default() };
        [self.results, self.events, self.dead_letters, self.state].into_iter().for_each(|part| records.extend(part));
        records.push(Outgoing { to: checkpoint, record });
        self.positions
    }
}

/// How much a poll gives at most. A message is never divided, so the first one is given whatever its size.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Rows, as [`Record::rows`] counts them; a message without rows counts as one.
    pub rows: usize,
    /// Bytes of payload.
    pub bytes: usize,
}

impl Limit {
    /// The first message, and no other.
    pub const ONE: Self = Self { rows: 1, bytes: 0 };
}

/// The part of a partition's history that is still there: offsets from `start` up to, but without, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The oldest offset that can be read.
    pub start: u64,
    /// The offset that the next committed message gets.
    pub end: u64,
}

impl Extent {
    /// Whether a reader can go on from that offset: that of a message which is there, or of the next one.
    pub fn has_position(&self, offset: u64) -> bool {
        (self.start..=self.end).contains(&offset)
    }
}

/// A stage's consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name of the group: `<company>.<namespace>.<stage>`.
    pub name: Arc<str>,
    /// The topics it consumes. Task `n` owns partition `n` of each that has one.
    pub inputs: Vec<Topic>,
    /// Where its tasks' checkpoints go: task `n` to partition `n`.
    pub checkpoint: Topic,
    /// Number of tasks.
    pub tasks: u32,
}

/// What a task left behind in its last commit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resume {
    /// The checkpoint of that commit; `None` where the task has never committed.
    pub checkpoint: Option<Bytes>,
    /// For every input partition of the task, the offset to go on from; that of the oldest message where it has never
    /// committed.
    pub positions: Positions,
    /// Rows that retention had deleted, before the task first came, of the partitions in which it has never committed; as
    /// far as the bus knows.
    pub missed: u64,
    /// Where a position is not the one that the last commit left, since what was there is gone; only where the pipeline goes
    /// on then.
    pub gaps: Vec<Gap>,
}

/// What a group had still to read of a partition and is no longer there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset that the group has not dealt with.
    pub wanted: u64,
    /// The offset to go on from: before `wanted` where the topic is another one under the same name, or has lost its end.
    pub first: u64,
}

impl Gap {
    /// How many messages it was at most; 0 where nobody knows how many there were. What a transaction leaves behind besides
    /// its messages has offsets, too, and so has what compaction had removed before.
    pub fn messages(&self) -> u64 {
        self.first.saturating_sub(self.wanted)
    }
}

/// The read side of a bus: what `tail`, `dlq list` and the accounts need. Only committed messages are ever seen.
#[async_trait]
pub trait Log: Send + Sync {
    /// The names of all topics, ascending.
    async fn topics(&self) -> Result<Vec<Topic>>;

    /// The number of partitions that a topic has now.
    async fn partitions(&self, topic: &Topic) -> Result<u32> {
        Ok(self.extents(topic).await?.len() as u32)
    }

    /// The extent of every partition of a topic, in the order of their numbers.
    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>>;

    /// Messages of one partition from `offset` on, in order, as many as the limit allows. Waits up to `wait` for the
    /// first one and gives none if there is none by then. An offset that retention has passed is
    /// [`Error::OutOfRange`].
    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>>;

    /// The last message of a partition; `None` if there is none.
    async fn last(&self, of: &TopicPartition) -> Result<Option<Message>> {
        let extents = self.extents(&of.topic).await?;
        let extent = extents.get(of.partition as usize).ok_or_else(|| Error::UnknownPartition(of.clone()))?;
        match self.tail(of, *extent, 1).await? {
            last if last < extent.end => Ok(self.read(of, last, Limit::ONE, Duration::ZERO).await?.pop()),
            _ => Ok(None),
        }
    }

    /// The offset of the first of the last so many messages in the extent of a partition, or of all where there are fewer; its
    /// end where there are none.
    async fn tail(&self, _of: &TopicPartition, within: Extent, count: u64) -> Result<u64> {
        Ok(within.end.saturating_sub(count).max(within.start))
    }

    /// Rows in the messages of a partition from `offset` up to its end, as their publishers counted them; those that
    /// retention has passed are none.
    async fn rows(&self, from: &TopicPartition, offset: u64) -> Result<u64> {
        let extents = self.extents(&from.topic).await?;
        let extent = extents.get(from.partition as usize).ok_or_else(|| Error::UnknownPartition(from.clone()))?;
        read_rows(self, from, offset.max(extent.start)..extent.end).await
    }

    /// A partition of a topic, and its first offset from which on something was written that is neither committed nor taken
    /// back, behind which nothing is read; `None` if there is none. Where that stays so for longer than [`HANGING`], nobody
    /// is going to end it.
    async fn undecided(&self, _topic: &Topic) -> Result<Option<(TopicPartition, u64)>> {
        Ok(None)
    }
}

/// How long a transaction may be open before it looks like one that nobody ends any more.
pub const HANGING: Duration = Duration::from_secs(150);

/// The rows of messages with these offsets, which are read.
async fn read_rows<L: Log + ?Sized>(log: &L, from: &TopicPartition, offsets: Range<u64>) -> Result<u64> {
    let mut rows = 0;
    scan(log, from, offsets, &mut |message| rows += u64::from(message.record.rows)).await?;
    Ok(rows)
}

/// Reads the messages with these offsets, as far as they are there, in order.
pub(crate) async fn scan<L: Log + ?Sized>(
    log: &L,
    from: &TopicPartition,
    offsets: Range<u64>,
    each: &mut (dyn FnMut(&Message) + Send),
) -> Result<()> {
    const LIMIT: Limit = Limit { rows: 1 << 16, bytes: 8 << 20 };
    let mut next = offsets.start;
    while next < offsets.end {
        let messages = match log.read(from, next, LIMIT, Duration::ZERO).await {
            // Retention has gone on meanwhile.
            Err(Error::OutOfRange { extent, .. }) if next < extent.start => {
                next = extent.start;
                continue;
            }
            read => read?,
        };
        let Some(last) = messages.last() else { break };
        next = last.offset + 1;
        messages.iter().filter(|message| message.offset < offsets.end).for_each(&mut *each);
    }
    Ok(())
}

/// A bus, as a worker uses it.
#[async_trait]
pub trait Bus: Log {
    /// Makes sure that the topics exist. Those that do keep their messages, under the limits of retention that are
    /// declared now; one with another number of partitions is [`Error::PartitionsDiffer`].
    async fn declare(&self, topics: &[TopicSpec]) -> Result<()>;

    /// Gives a topic that exists more partitions, if it has fewer; a bus whose topics keep theirs answers with
    /// [`Error::PartitionsDiffer`]. Who may be given the tasks of the new ones is told without further ado.
    async fn grow(&self, topic: &Topic, partitions: u32) -> Result<()> {
        let found = self.partitions(topic).await?;
        let differs = || Error::PartitionsDiffer { topic: topic.clone(), found, wanted: partitions };
        if found >= partitions { Ok(()) } else { Err(differs()) }
    }

    /// Makes sure that the groups exist, so that what they have to read is kept for them, also before they first join.
    async fn enroll(&self, groups: &[Group]) -> Result<()>;

    /// Joins a stage's consumer group. Whoever joins last gets the tasks, and the leases that others held are fenced,
    /// unless the bus shares tasks out among members.
    async fn join(&self, group: Group) -> Result<Box<dyn Member>>;

    /// The names of the groups that are enrolled or have joined and consume something, ascending. What they have to read
    /// is kept for them, whether or not anybody runs them.
    async fn groups(&self) -> Result<Vec<Arc<str>>>;

    /// Forgets that a group that nobody runs ever consumed anything: its positions are gone, and nothing is kept for it
    /// any longer. Checkpoints stay, and on a cluster they say where its tasks go on if they come back. Of one that does not exist there is nothing to forget.
    async fn forget(&self, group: &str) -> Result<()>;

    /// Lets go of the messages before that offset, whatever the topic's retention says. They may stay for a while, and with
    /// others.
    async fn trim(&self, partition: &TopicPartition, before: u64) -> Result<()>;

    /// Whether it can be reached now; says so within seconds.
    async fn answers(&self) -> Result<()> {
        Ok(())
    }

    /// Whether workers on several machines share it, so that what one of them sees of its own tasks says nothing about the
    /// others.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether a group has dealt with everything that is seen in its inputs.
    async fn is_drained(&self, group: &Group) -> Result<bool>;

    /// The largest record it takes, in bytes as [`Record::size_bytes`] counts them.
    fn max_record_bytes(&self) -> usize;

    /// Makes everything that was committed durable, whatever `sync` says, and gives back what the process holds.
    async fn close(&self) -> Result<()>;
}

/// A worker's membership of a group. Dropping it leaves the group.
#[async_trait]
pub trait Member: Send {
    /// Waits for the next change of what this member has to do.
    async fn changed(&mut self) -> Result<Change>;
}

/// A change of what a member of a group has to do.
pub enum Change {
    /// A task is this member's from now on.
    Given(Box<dyn Lease>),
    /// All that is this member's for now was given. Only said where tasks are shared out.
    Settled,
    /// The task of that number is no longer this member's; what it has not committed is void.
    Taken(u32),
}

/// The right to run one task of a group, until it ends or somebody else is given it.
#[async_trait]
pub trait Lease: Send {
    /// The number of the task, which is that of the partitions it owns.
    fn task(&self) -> u32;

    /// Another lease of the task, to go on with after this one has failed; `None` where a failure is for good.
    fn again(&self) -> Option<Box<dyn Lease>> {
        None
    }

    /// What the last commit left. Polls go on from there.
    async fn resume(&mut self) -> Result<Resume>;

    /// The next messages of the task's partitions, those of each in order. Waits up to `wait` for the first one; gives
    /// none if there is none by then.
    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Vec<Message>>;

    /// Called when nothing came: where there is something behind the task's positions that is no message, they are brought
    /// past it, so that whoever looks at the group sees that it has dealt with everything.
    async fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes records that the next commit makes visible, before its own. They are not seen before that, and never if it does
    /// not come. A bus can begin to send them; what is wrong with them, the commit says at the latest.
    async fn write(&mut self, records: Vec<Outgoing>) -> Result<()>;

    /// Makes a step visible and, as far as the bus was told to, durable: all of it, or none. On a cluster it is seen a
    /// moment after this has returned, and not in all topics at the same instant. When this gives
    /// [`Error::Fenced`], nothing of it happened. After any other error the outcome is unknown and the lease is of no
    /// more use: the task is to be resumed under a new one.
    async fn commit(&mut self, commit: Commit) -> Result<()> {
        self.submit(commit).await?.await
    }

    /// Hands a step over, to go on with polls and writes while it is committed. The outcome is that of
    /// [`Lease::commit`]; the next step may be handed over once it is known.
    async fn submit(&mut self, commit: Commit) -> Result<Outcome>;
}

/// What becomes of a commit.
pub type Outcome = BoxFuture<'static, Result<()>>;

/// Opens the bus that a pipeline names, to work with it. `data_dir` is used instead of the pipeline's.
pub fn open(spec: &config::Bus, data_dir: Option<&Path>) -> Result<Arc<dyn Bus>> {
    match spec {
        config::Bus::Embedded(spec) => {
            let options = embedded::Options { sync: spec.sync, ..embedded::Options::default() };
            Ok(Arc::new(embedded::Embedded::open(data_dir.unwrap_or(&spec.data_dir), options)?))
        }
        config::Bus::Kafka(spec) => Ok(Arc::new(kafka::Kafka::new(spec.clone())?)),
    }
}

/// Opens the bus that a pipeline names, to look at it beside whoever works with it.
pub fn open_log(spec: &config::Bus, data_dir: Option<&Path>) -> Result<Arc<dyn Log>> {
    match spec {
        config::Bus::Embedded(spec) => Ok(Arc::new(embedded::Reader::open(data_dir.unwrap_or(&spec.data_dir))?)),
        config::Bus::Kafka(spec) => Ok(Arc::new(kafka::Kafka::new(spec.clone())?)),
    }
}

/// What a bus answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a bus did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The topic was never declared.
    #[error("there is no topic {0}")]
    UnknownTopic(Topic),
    /// The topic has no partition of that number.
    #[error("there is no partition {}", .0)]
    UnknownPartition(TopicPartition),
    /// The topic exists with another number of partitions. Rows are where their keys put them, so it stays.
    #[error(
        "topic {topic} has {found} partitions and the pipeline asks for {wanted}; a topic keeps its partitions: \
             give the stage its old number, or start with another data directory or, on a cluster, in another namespace"
    )]
    PartitionsDiffer {
        /// Which one.
        topic: Topic,
        /// What it has.
        found: u32,
        /// What was asked for.
        wanted: u32,
    },
    /// The offset is no longer, or not yet, there.
    #[error("{partition} holds offsets {} up to {}, and {offset} was asked for", .extent.start, .extent.end)]
    OutOfRange {
        /// Where.
        partition: TopicPartition,
        /// What was asked for.
        offset: u64,
        /// What is there.
        extent: Extent,
    },
    /// What a group has still to read is no longer there.
    #[error(
        "{partition}: {group} has still to read from offset {wanted} on, and the oldest message that is left is at {first}: \
             {} messages at most are gone, because retention, or somebody, has deleted them. Start over \
             with another namespace, or go on without them with on_data_loss = \"earliest\" in [bus]",
        .first.saturating_sub(*.wanted)
    )]
    Gone {
        /// The group.
        group: Arc<str>,
        /// Where.
        partition: TopicPartition,
        /// The offset that it has not dealt with.
        wanted: u64,
        /// The oldest offset that is left.
        first: u64,
    },
    /// A group has read another topic of that name.
    #[error(
        "{partition}: the topic was deleted and made anew since {group} began to read it. Start over with another namespace, or \
             go on from the oldest message there is with on_data_loss = \"earliest\" in [bus]"
    )]
    Anew {
        /// The group.
        group: Arc<str>,
        /// Where.
        partition: TopicPartition,
    },
    /// Somebody else was given the task.
    #[error("task {task} of {group} was given to another worker")]
    Fenced {
        /// The group.
        group: Arc<str>,
        /// The task.
        task: u32,
    },
    /// The record is over [`Bus::max_record_bytes`].
    #[error("a record of {bytes} bytes for {to} is over the limit of {limit}")]
    TooLarge {
        /// Where it was to go.
        to: TopicPartition,
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// Nothing was ever written there.
    #[error("no pipeline has run yet in {}", .dir.display())]
    Nothing {
        /// The data directory.
        dir: PathBuf,
    },
    /// Another process works in the data directory.
    #[error("the data directory {} is in use by another process{}", .dir.display(), .holder.map(|pid| format!(" ({pid})")).unwrap_or_default())]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, where that is known.
        holder: Option<u32>,
    },
    /// Bytes that were committed are not what was written.
    #[error("{} is damaged at byte {position}: {what}", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damaged frame or record starts, in bytes.
        position: u64,
        /// What is wrong there.
        what: String,
    },
    /// A cluster has lost sight of a transaction.
    #[error(
        "{partition} has a transaction, from offset {offset} on, that the cluster has neither committed nor aborted and has lost \
             sight of; kafka-transactions.sh finds and aborts it"
    )]
    Hanging {
        /// Where.
        partition: TopicPartition,
        /// Its first offset there.
        offset: u64,
    },
    /// A cluster did not do what was asked of it.
    #[error("{action} failed: {detail}")]
    Broker {
        /// What was tried, as a verb with its object.
        action: &'static str,
        /// The cluster's answer, or the client's.
        detail: String,
        /// Whether trying again may help, as it may not with what nobody is allowed to do.
        passing: bool,
    },
    /// The operating system refused.
    #[error("{} failed on {}: {source}", .action, .path.display())]
    Io {
        /// What was tried, as a verb: `write`, `sync`, …
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        source: Arc<std::io::Error>,
    },
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
    /// An earlier write or sync failed, so nothing that came after it can be trusted to be there.
    #[error("the log stopped taking commits: {0}")]
    Stopped(Arc<Error>),
}

impl Error {
    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::Broker { passing: true, .. } | Error::Fenced { .. })
    }
}
