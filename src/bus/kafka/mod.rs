//! Kafka as a bus: every topic is a topic of the cluster, and a commit is one transaction over records and the offsets
//! of the consumer group.
//!
//! A stage's group subscribes to the stage's checkpoint topic and to nothing else: it has a partition for each task, so
//! whoever is given partition `n` of it runs task `n`, and reads partition `n` of all inputs, however many partitions
//! each of them has (`member`). What a task reads is in `lease`, from where on in `positions`, and whether a topic is
//! still the one it was in `watch`; how it commits, in `transaction`; how records look on the wire, in `wire`;
//! topics and their settings, in `topics`; reading without a group, in `reader`; how clients are set up and what their
//! errors mean, in `client`; what librdkafka can do and `rdkafka` does not offer, in `native`.
//!
//! A task's producer has a transactional id of its own. Whoever runs the task next takes that id over, which ends what
//! the one before it left open and fences it.

mod client;
mod lease;
mod member;
mod native;
mod positions;
mod reader;
mod topics;
mod transaction;
mod watch;
mod wire;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rdkafka::admin::AdminClient;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use self::client::{Clients, Context, failed, on_thread};
use self::member::KafkaMember;
use self::positions::Recorded;
use self::reader::Readers;
use self::watch::Ids;
use super::{Bus, Error, Extent, Group, Limit, Log, Member, Message, Result, Topic, TopicPartition, TopicSpec};
use crate::config;

/// How long a request that changes nothing may take before the cluster counts as not reachable.
const PATIENCE: Duration = Duration::from_secs(15);
const FORGETTING: &str = "forgetting a group";
const TRIMMING: &str = "deleting what is needed no longer";

/// What a message takes of the cluster's limits besides key, value and headers, at most.
const FRAMING_BYTES: usize = 64 << 10;

/// A cluster, as a pipeline uses it. Nothing is asked of it before it is used.
pub struct Kafka {
    shared: Arc<Shared>,
}

/// What leases, members and readers have in common.
struct Shared {
    clients: Clients,
    asking: RwLock<Arc<Asking>>,
    /// The number of partitions of topics that are known.
    partitions: Mutex<BTreeMap<Topic, u32>>,
    members: Mutex<Vec<member::Leaving>>,
    /// The threads of tasks' producers.
    writers: Mutex<Vec<JoinHandle<()>>>,
}

/// Clients for questions that come again and again. They join nothing.
struct Asking {
    admin: AdminClient<Context>,
    committed: BaseConsumer<Context>,
    /// Also sees what is not committed yet.
    uncommitted: BaseConsumer<Context>,
    /// For the positions of groups, of which a client knows one.
    groups: Mutex<HashMap<Arc<str>, Arc<BaseConsumer<Context>>>>,
    readers: Readers,
}

impl Asking {
    fn new(clients: &Clients) -> Result<Self> {
        let (committed, uncommitted) = (clients.consumer("fidelio")?, clients.uncommitted("fidelio")?);
        let (groups, readers) = (Mutex::default(), Readers::default());
        Ok(Self { admin: clients.admin()?, committed, uncommitted, groups, readers })
    }
}

impl Kafka {
    /// A client of the cluster.
    ///
    /// # Errors
    /// [`Error::Broker`] if a property is none that librdkafka knows, or has a value that it does not take.
    pub fn new(spec: config::Kafka) -> Result<Self> {
        let clients = Clients::new(spec);
        let asking = RwLock::new(Arc::new(Asking::new(&clients)?));
        Ok(Self {
            shared: Arc::new(Shared {
                clients,
                asking,
                partitions: Mutex::default(),
                members: Mutex::default(),
                writers: Mutex::default(),
            }),
        })
    }
}

impl Shared {
    /// Does what blocks where it may.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.clone();
        on_thread(move || work(&shared).map_err(|error| shared.clients.explain(error))).await
    }

    /// Asks something of the cluster, where it may block.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let asking = self.asking();
        self.run(move |shared| question(shared).inspect_err(|error| shared.unanswered(error, &asking))).await
    }

    /// After a question that had no answer, those who come next ask through other clients: one that was told by a broker
    /// that there are no brokers or leaders, as they say when they start or have been frozen, may not find back.
    fn unanswered(&self, error: &Error, asked: &Arc<Asking>) {
        if !matches!(error, Error::Broker { passing: true, .. }) {
            return;
        }
        // What a client has to say, it says when it is polled.
        while let Some(polled) = asked.committed.poll(Duration::ZERO) {
            polled.map_or_else(|error| asked.committed.context().heard(&error), drop);
        }
        let mut asking = self.asking.write();
        // One of those who asked at the same time is enough.
        if Arc::ptr_eq(&asking, asked) {
            match Asking::new(&self.clients) {
                Ok(others) => *asking = Arc::new(others),
                Err(error) => tracing::debug!(%error, "no other clients can be had"),
            }
        }
    }

    fn asking(&self) -> Arc<Asking> {
        self.asking.read().clone()
    }

    /// A client that is told the positions of a group, also while a transaction over them is open.
    fn asking_for(&self, group: &Arc<str>) -> Result<Arc<BaseConsumer<Context>>> {
        let asking = self.asking();
        let mut groups = asking.groups.lock();
        if let Some(known) = groups.get(group) {
            return Ok(known.clone());
        }
        let asker = Arc::new(self.clients.uncommitted(group)?);
        groups.insert(group.clone(), asker.clone());
        Ok(asker)
    }

    /// Whether the cluster answers. Blocks.
    fn answers(&self, patience: Duration) -> Result<()> {
        let topic = self.partitions.lock().keys().next().cloned();
        let asked = self.asking().committed.fetch_metadata(topic.as_ref().map(Topic::as_str), patience);
        asked.map(drop).map_err(failed("asking the cluster"))
    }

    /// The number of a topic's partitions. Blocks where it is not known yet.
    fn partitions(&self, topic: &Topic) -> Result<u32> {
        if let Some(known) = self.partitions.lock().get(topic) {
            return Ok(*known);
        }
        self.partitions_now(topic)
    }

    /// The number of partitions that a topic has now. Blocks.
    fn partitions_now(&self, topic: &Topic) -> Result<u32> {
        let found = topics::partitions(&self.asking().committed, topic)?;
        self.partitions.lock().insert(topic.clone(), found);
        Ok(found)
    }

    /// Whether there is such a partition. Blocks where it is not known yet: somebody can have added it.
    fn has(&self, partition: &TopicPartition) -> Result<bool> {
        let TopicPartition { topic, partition } = partition;
        Ok(*partition < self.partitions(topic)? || *partition < self.partitions_now(topic)?)
    }

    /// The offset after the last message of a partition, committed or not. Blocks.
    fn uncommitted_end(&self, of: &TopicPartition) -> Result<u64> {
        Ok(client::extent(&self.asking().uncommitted, of)?.end)
    }

    /// Where the first transaction begins that is open in a partition. Blocks.
    fn undecided(&self, of: &TopicPartition) -> Result<Option<u64>> {
        let end = self.extent(of)?.end;
        Ok((self.uncommitted_end(of)? > end).then_some(end))
    }

    /// What is there of a partition, up to the last committed message. Blocks.
    fn extent(&self, of: &TopicPartition) -> Result<Extent> {
        if !self.has(of)? {
            return Err(Error::UnknownPartition(of.clone()));
        }
        client::extent(&self.asking().committed, of)
    }
}

#[async_trait]
impl Log for Kafka {
    async fn topics(&self) -> Result<Vec<Topic>> {
        let list = |shared: &Shared| {
            let metadata =
                shared.asking().committed.fetch_metadata(None, PATIENCE).map_err(failed("listing topics"))?;
            let mut names: Vec<Topic> = metadata.topics().iter().map(|topic| Topic::new(topic.name())).collect();
            names.sort();
            Ok(names)
        };
        self.shared.ask(list).await
    }

    async fn partitions(&self, topic: &Topic) -> Result<u32> {
        let topic = topic.clone();
        self.shared.ask(move |shared| shared.partitions_now(&topic)).await
    }

    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        let topic = topic.clone();
        let look = move |shared: &Shared| {
            (0..shared.partitions_now(&topic)?).map(|number| shared.extent(&topic.partition(number))).collect()
        };
        self.shared.ask(look).await
    }

    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let from = from.clone();
        self.shared.ask(move |shared| reader::read(shared, &from, offset, limit, wait)).await
    }

    async fn last(&self, of: &TopicPartition) -> Result<Option<Message>> {
        let of = of.clone();
        self.shared.ask(move |shared| reader::last(shared, &of)).await
    }

    async fn tail(&self, of: &TopicPartition, within: Extent, count: u64) -> Result<u64> {
        let of = of.clone();
        self.shared.ask(move |shared| reader::tail(shared, &of, within, count)).await
    }

    async fn undecided(&self, topic: &Topic) -> Result<Option<(TopicPartition, u64)>> {
        let topic = topic.clone();
        let look = move |shared: &Shared| {
            for number in 0..shared.partitions_now(&topic)? {
                let partition = topic.partition(number);
                if let Some(offset) = shared.undecided(&partition)? {
                    return Ok(Some((partition, offset)));
                }
            }
            Ok(None)
        };
        self.shared.ask(look).await
    }
}

#[async_trait]
impl Bus for Kafka {
    async fn declare(&self, specs: &[TopicSpec]) -> Result<()> {
        self.shared.ask(|shared| shared.answers(PATIENCE)).await?;
        topics::declare(&self.shared, specs).await
    }

    async fn grow(&self, topic: &Topic, partitions: u32) -> Result<()> {
        topics::grow(&self.shared, topic, partitions).await
    }

    /// A broker deletes what is too old whether or not a group has read it. With a position from the start, a group that
    /// comes too late is told so.
    async fn enroll(&self, groups: &[Group]) -> Result<()> {
        for group in groups {
            let group = group.clone();
            self.shared.ask(move |shared| enroll(shared, &group)).await?;
        }
        Ok(())
    }

    async fn join(&self, group: Group) -> Result<Box<dyn Member>> {
        Ok(Box::new(KafkaMember::join(&self.shared, group)?))
    }

    async fn groups(&self) -> Result<Vec<Arc<str>>> {
        let list = |shared: &Shared| {
            let groups =
                shared.asking().committed.fetch_group_list(None, PATIENCE).map_err(failed("listing groups"))?;
            let mut names: Vec<Arc<str>> = groups.groups().iter().map(|group| group.name().into()).collect();
            names.sort();
            Ok(names)
        };
        self.shared.ask(list).await
    }

    async fn forget(&self, group: &str) -> Result<()> {
        let deleted = self.shared.asking().admin.delete_groups(&[group], &client::patient()).await;
        match deleted.map_err(failed(FORGETTING))?.into_iter().next() {
            None | Some(Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound))) => Ok(()),
            Some(Err((name, code))) => Err(client::refused(FORGETTING, code, &name)),
        }
    }

    async fn trim(&self, partition: &TopicPartition, before: u64) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        let (topic, number) = (partition.topic.as_str(), partition.partition as i32);
        let offset = Offset::Offset(before as i64);
        offsets.add_partition_offset(topic, number, offset).map_err(failed(TRIMMING))?;
        let deleted = self.shared.asking().admin.delete_records(&offsets, &client::patient()).await;
        let deleted = deleted.map_err(failed(TRIMMING))?;
        let outcome = deleted.find_partition(topic, number).map_or(Ok(()), |deleted| deleted.error());
        outcome.map_err(failed(TRIMMING))
    }

    async fn answers(&self) -> Result<()> {
        self.shared.ask(|shared| shared.answers(PATIENCE / 5)).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn is_drained(&self, group: &Group) -> Result<bool> {
        let group = group.clone();
        self.shared.ask(move |shared| is_drained(shared, &group)).await
    }

    fn max_record_bytes(&self) -> usize {
        self.shared.clients.spec.max_message_bytes
    }

    async fn close(&self) -> Result<()> {
        let leaving = std::mem::take(&mut *self.shared.members.lock());
        let writers = std::mem::take(&mut *self.shared.writers.lock());
        on_thread(move || {
            writer::await_all(&writers);
            leaving.into_iter().for_each(member::Leaving::wait);
            Ok(())
        })
        .await
    }
}

/// Whether nothing that is committed is behind a group's positions. Blocks.
fn is_drained(shared: &Shared, group: &Group) -> Result<bool> {
    let asker = shared.asking_for(&group.name)?;
    let known = (&Recorded::default(), &Ids::new());
    for task in 0..group.tasks {
        for (partition, position) in positions::of_task(shared, &asker, group, task, known)?.positions {
            if reader::has_more(shared, &partition, position)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Gives a group that nobody runs a position in each partition in which it has none: the oldest message. Blocks.
fn enroll(shared: &Shared, group: &Group) -> Result<()> {
    let asker = shared.asking_for(&group.name)?;
    let mut wanted = TopicPartitionList::new();
    for topic in &group.inputs {
        wanted.add_partition_range(topic.as_str(), 0, shared.partitions(topic)?.saturating_sub(1) as i32);
    }
    let mut missing = without_position(&asker, wanted, PATIENCE)?;
    if missing.count() > 0 {
        // A first position that an open transaction is about to bring must not be overtaken. Where that is why there is no
        // answer, the group has begun.
        let stable = shared.clients.consumer(&group.name)?;
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
