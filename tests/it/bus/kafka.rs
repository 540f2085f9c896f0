//! The suite, on a real broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fidelio::bus::{
    Bus, Change, Error, Extent, Group, Limit, Log, Member, Message, Result, Topic, TopicPartition, TopicSpec,
    kafka::Kafka,
};
use fidelio::config;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::support::{results, stage, writer};
use super::{Fixture, run};
use crate::support::broker;

const PATIENCE: Duration = Duration::from_secs(30);

struct OnBroker {
    prefix: String,
    bus: Settled,
}

/// The bus, seen only once all that is committed can be seen: a broker answers a commit before that.
struct Settled {
    bus: Kafka,
    uncommitted: BaseConsumer,
    committed: BaseConsumer,
}

impl Settled {
    fn settle(&self, topic: &Topic) {
        let Ok(metadata) = self.committed.fetch_metadata(Some(topic.as_str()), PATIENCE) else { return };
        for partition in metadata.topics()[0].partitions() {
            let end = |consumer: &BaseConsumer| {
                consumer.fetch_watermarks(topic.as_str(), partition.id(), PATIENCE).ok().map(|(_, end)| end)
            };
            while end(&self.committed) != end(&self.uncommitted) {
                std::thread::yield_now();
            }
        }
    }
}

#[async_trait]
impl Log for Settled {
    async fn topics(&self) -> Result<Vec<Topic>> {
        self.bus.topics().await
    }

    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        self.settle(topic);
        self.bus.extents(topic).await
    }

    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        if wait.is_zero() {
            self.settle(&from.topic);
        }
        self.bus.read(from, offset, limit, wait).await
    }
}

#[async_trait]
impl Bus for Settled {
    fn is_shared(&self) -> bool {
        self.bus.is_shared()
    }

    async fn declare(&self, topics: &[TopicSpec]) -> Result<()> {
        self.bus.declare(topics).await
    }

    async fn enroll(&self, groups: &[Group]) -> Result<()> {
        self.bus.enroll(groups).await
    }

    async fn join(&self, group: Group) -> Result<Box<dyn Member>> {
        for topic in &group.inputs {
            self.settle(topic);
        }
        self.bus.join(group).await
    }

    async fn groups(&self) -> Result<Vec<Arc<str>>> {
        self.bus.groups().await
    }

    async fn forget(&self, group: &str) -> Result<()> {
        self.bus.forget(group).await
    }

    async fn trim(&self, partition: &TopicPartition, before: u64) -> Result<()> {
        self.bus.trim(partition, before).await
    }

    async fn is_drained(&self, group: &Group) -> Result<bool> {
        self.bus.is_drained(group).await
    }

    fn max_record_bytes(&self) -> usize {
        self.bus.max_record_bytes()
    }

    async fn close(&self) -> Result<()> {
        self.bus.close().await
    }
}

fn open() -> Settled {
    let consumer = |isolation: &str| {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", broker()).set("isolation.level", isolation).create().unwrap()
    };
    let bus = Kafka::new(config::Kafka {
        brokers: broker(),
        replication: None,
        min_insync_replicas: None,
        max_message_bytes: 20_000_000,
        retention: config::Retention::default(),
        on_data_loss: config::OnDataLoss::Stop,
        properties: vec![],
    });
    Settled { bus: bus.unwrap(), uncommitted: consumer("read_uncommitted"), committed: consumer("read_committed") }
}

impl OnBroker {
    fn new() -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        Self { prefix: format!("acme.case-{}-{case}", std::process::id()), bus: open() }
    }
}

#[async_trait]
impl Fixture for OnBroker {
    fn bus(&self) -> &dyn Bus {
        &self.bus
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn is_cluster(&self) -> bool {
        true
    }

    async fn crash(&mut self) {
        self.bus = open();
    }

    async fn reopen(&mut self) {
        self.bus.close().await.unwrap();
        self.bus = open();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_every_promise() {
    run(|| Box::new(OnBroker::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_messages_are_gone_is_told_so_and_does_not_go_on_elsewhere() {
    let f = OnBroker::new();
    let (_feeder, mut feeder, topic) = writer(&f, "feeder").await;
    let group = stage(&f, "a", &[&topic], 1).await;
    f.bus().enroll(std::slice::from_ref(&group)).await.unwrap();
    feeder.commit(results(&topic.partition(0), &["gone"; 10])).await.unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic.as_str(), 0, Offset::Offset(7)).unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();
    let mut member = f.bus().join(group.clone()).await.unwrap();
    let Change::Given(mut lease) = member.changed().await.unwrap() else { panic!("it has its task") };
    let error = lease.resume().await.unwrap_err();
    assert!(
        matches!(&error, Error::Gone { partition, wanted: 0, first: 7, .. } if *partition == topic.partition(0)),
        "{error}"
    );
    assert!(!error.is_passing() && error.to_string().contains("7 messages"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_position_that_a_transaction_is_about_to_bring_is_not_overtaken() {
    let f = OnBroker::new();
    let (_feeder, mut feeder, topic) = writer(&f, "feeder").await;
    let group = stage(&f, "a", &[&topic], 1).await;
    feeder.commit(results(&topic.partition(0), &["row"; 10])).await.unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker())
        .set("transactional.id", format!("{}.0", group.name))
        .create()
        .unwrap();
    let mut client = ClientConfig::new();
    let consumer: BaseConsumer =
        client.set("bootstrap.servers", broker()).set("group.id", &*group.name).create().unwrap();
    let mut positions = TopicPartitionList::new();
    positions.add_partition_offset(topic.as_str(), 0, Offset::Offset(5)).unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    let metadata = consumer.group_metadata().unwrap();
    producer.send_offsets_to_transaction(&positions, &metadata, PATIENCE).unwrap();
    f.bus().enroll(std::slice::from_ref(&group)).await.unwrap();
    producer.commit_transaction(PATIENCE).unwrap();

    let mut member = f.bus().join(group).await.unwrap();
    let Change::Given(mut lease) = member.changed().await.unwrap() else { panic!("it has its task") };
    assert_eq!(lease.resume().await.unwrap().positions, [(topic.partition(0), 5)].into());
}
