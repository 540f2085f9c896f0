//! Kafka as a bus: every topic is a topic of the cluster, and a commit is one transaction over records and the offsets
//! of the consumer group.
//!
//! A stage's group subscribes to the stage's checkpoint topic and to nothing else: it has a partition for each task, so
//! whoever is given partition `n` of it runs task `n`, and reads partition `n` of all inputs, however many partitions
//! each of them has (`member`). What a task reads and commits is in `lease`; how records look on the wire, in `wire`;
//! topics and their settings, in `topics`; reading without a group, in `reader`; how clients are set up and what their
//! errors mean, in `client`.
//!
//! A task's producer has a transactional id of its own. Whoever runs the task next takes that id over, which ends what
//! the one before it left open and fences it.

mod client;
mod lease;
mod member;
mod reader;
mod topics;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::admin::AdminClient;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use self::client::{Context, failed, on_thread};
use self::member::KafkaMember;
use self::reader::Readers;
use super::{Bus, Error, Extent, Group, Limit, Log, Member, Message, Result, Topic, TopicPartition, TopicSpec};
use crate::config;

/// How long a request that changes nothing may take before the cluster counts as not reachable.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a message takes of the cluster's limits besides key, value and headers, at most.
const FRAMING_BYTES: usize = 64 << 10;

/// A cluster, as a pipeline uses it. Nothing is asked of it before it is used.
pub struct Kafka {
    shared: Arc<Shared>,
}

/// What leases, members and readers have in common.
struct Shared {
    spec: config::Kafka,
    admin: AdminClient<Context>,
    /// For questions about topics; it joins nothing.
    asker: BaseConsumer<Context>,
    /// For questions about what is not committed yet.
    uncommitted: BaseConsumer<Context>,
    /// The number of partitions of topics that are known.
    partitions: Mutex<BTreeMap<Topic, u32>>,
    readers: Readers,
    members: Mutex<Vec<member::Leaving>>,
}

impl Kafka {
    /// A client of the cluster.
    ///
    /// # Errors
    /// [`Error::Broker`] if a property is none that librdkafka knows, or has a value that it does not take.
    pub fn new(spec: config::Kafka) -> Result<Self> {
        let admin = client::admin(&spec)?;
        let asker = client::consumer(&spec, "fidelio")?;
        let uncommitted = client::uncommitted(&spec, "fidelio")?;
        let (partitions, readers, members) = (Mutex::default(), Readers::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { spec, admin, asker, uncommitted, partitions, readers, members }) })
    }
}

/// Locks; what the locks guard is never left half changed, so that somebody panicked elsewhere is no matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The number of a topic's partitions. Blocks where it is not known yet.
    fn partitions(&self, topic: &Topic) -> Result<u32> {
        if let Some(known) = lock(&self.partitions).get(topic) {
            return Ok(*known);
        }
        let found = topics::partitions(&self.asker, topic)?;
        lock(&self.partitions).insert(topic.clone(), found);
        Ok(found)
    }

    /// The offset after the last message of a partition, committed or not. Blocks.
    fn uncommitted_end(&self, of: &TopicPartition) -> Result<u64> {
        Ok(client::extent(&self.uncommitted, of)?.end)
    }

    /// What is there of a partition, up to the last committed message. Blocks.
    fn extent(&self, of: &TopicPartition) -> Result<Extent> {
        if of.partition >= self.partitions(&of.topic)? {
            return Err(Error::UnknownPartition(of.clone()));
        }
        client::extent(&self.asker, of)
    }
}

#[async_trait]
impl Log for Kafka {
    async fn topics(&self) -> Result<Vec<Topic>> {
        let shared = self.shared.clone();
        on_thread(move || {
            let metadata = shared.asker.fetch_metadata(None, PATIENCE).map_err(failed("listing topics"))?;
            let mut names: Vec<Topic> = metadata.topics().iter().map(|topic| Topic::new(topic.name())).collect();
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        let (shared, topic) = (self.shared.clone(), topic.clone());
        on_thread(move || {
            (0..shared.partitions(&topic)?).map(|number| shared.extent(&topic.partition(number))).collect()
        })
        .await
    }

    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let (shared, from) = (self.shared.clone(), from.clone());
        on_thread(move || reader::read(&shared, &from, offset, limit, wait)).await
    }

    async fn last(&self, of: &TopicPartition) -> Result<Option<Message>> {
        let (shared, of) = (self.shared.clone(), of.clone());
        on_thread(move || reader::last(&shared, &of)).await
    }
}

#[async_trait]
impl Bus for Kafka {
    async fn declare(&self, specs: &[TopicSpec]) -> Result<()> {
        topics::declare(&self.shared, specs).await
    }

    /// A broker deletes what is too old whether or not a group has read it. With a position from the start, a group that
    /// comes too late is told so.
    async fn enroll(&self, groups: &[Group]) -> Result<()> {
        for group in groups {
            let (shared, group) = (self.shared.clone(), group.clone());
            on_thread(move || enroll(&shared, &group)).await?;
        }
        Ok(())
    }

    async fn join(&self, group: Group) -> Result<Box<dyn Member>> {
        Ok(Box::new(KafkaMember::join(&self.shared, group)?))
    }

    async fn groups(&self) -> Result<Vec<Arc<str>>> {
        let shared = self.shared.clone();
        on_thread(move || {
            let groups = shared.asker.fetch_group_list(None, PATIENCE).map_err(failed("listing groups"))?;
            let mut names: Vec<Arc<str>> = groups.groups().iter().map(|group| group.name().into()).collect();
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn forget(&self, group: &str) -> Result<()> {
        let deleted = self.shared.admin.delete_groups(&[group], &client::patient()).await;
        match deleted.map_err(failed("forgetting a group"))?.into_iter().next() {
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound))) => Ok(()),
            Some(Err((name, code))) => Err(client::refused("forgetting a group", code, &name)),
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn is_drained(&self, group: &Group) -> Result<bool> {
        let (shared, group) = (self.shared.clone(), group.clone());
        on_thread(move || is_drained(&shared, &group)).await
    }

    fn max_record_bytes(&self) -> usize {
        self.shared.spec.max_message_bytes
    }

    async fn close(&self) -> Result<()> {
        let leaving = std::mem::take(&mut *lock(&self.shared.members));
        on_thread(move || {
            leaving.into_iter().for_each(member::Leaving::wait);
            Ok(())
        })
        .await
    }
}

/// Whether there is nothing behind a group's positions, neither what is committed nor what may still be. Blocks.
fn is_drained(shared: &Shared, group: &Group) -> Result<bool> {
    let asker = client::uncommitted(&shared.spec, &group.name)?;
    for task in 0..group.tasks {
        for (partition, position) in lease::positions(shared, &asker, group, task)? {
            let end = shared.extent(&partition)?.end;
            if shared.uncommitted_end(&partition)? != end {
                return Ok(false);
            }
            let limit = Limit { rows: 1, bytes: 0 };
            if !reader::read(shared, &partition, position, limit, Duration::ZERO)?.is_empty() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Gives a group that nobody runs a position in each partition in which it has none: the oldest message. Blocks.
fn enroll(shared: &Shared, group: &Group) -> Result<()> {
    let asker = client::uncommitted(&shared.spec, &group.name)?;
    let mut wanted = TopicPartitionList::new();
    for topic in &group.inputs {
        wanted.add_partition_range(topic.as_str(), 0, shared.partitions(topic)?.saturating_sub(1) as i32);
    }
    let mut missing = without_position(&asker, wanted, PATIENCE)?;
    if missing.count() > 0 {
        // A first position that an open transaction is about to bring must not be overtaken. Where that is why there is no
        // answer, the group has begun.
        let stable = client::consumer(&shared.spec, &group.name)?;
        missing = match without_position(&stable, missing, PATIENCE / 5) {
            Err(error) if error.is_passing() => return Ok(()),
            answer => answer?,
        };
    }
    for mut element in missing.elements() {
        let start = shared.extent(&Topic::new(element.topic()).partition(element.partition() as u32))?.start;
        element.set_offset(Offset::Offset(start as i64)).map_err(failed(FIRST_POSITIONS))?;
    }
    if missing.count() == 0 {
        return Ok(());
    }
    match asker.commit(&missing, CommitMode::Sync) {
        // Somebody runs it, who commits positions of their own.
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownMemberId) => Ok(()),
        committed => committed.map_err(failed(FIRST_POSITIONS)),
    }
}

const FIRST_POSITIONS: &str = "giving a group its first positions";

/// Of these partitions those in which the group has no position.
fn without_position(
    asker: &BaseConsumer<Context>,
    partitions: TopicPartitionList,
    patience: Duration,
) -> Result<TopicPartitionList> {
    let mut missing = TopicPartitionList::new();
    for (at, committed) in client::committed(asker, partitions, patience)? {
        if committed.is_none() {
            missing.add_partition(at.topic.as_str(), at.partition as i32);
        }
    }
    Ok(missing)
}
