//! A broker of the benchmark's own, and what is asked of it from outside: how far a group has got.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::plain::{self, WARM_UP};

const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(5);

/// Java's, as Kafka's own scripts start a broker; the heap is theirs, too.
const COLLECTOR: &str =
    "-XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent";

pub struct Broker {
    dir: tempfile::TempDir,
    pub servers: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Broker {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let started = script()
            .args(["start".as_ref(), dir.path()])
            // Room for the next round is there soon after a topic was deleted.
            .env("EXTRA", "log.segment.delete.delay.ms=500")
            .env("HEAP", "1g")
            .env("COLLECTOR", COLLECTOR)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(started.status.success(), "the broker does not start");
        let servers = String::from_utf8(started.stdout).unwrap().trim().to_owned();
        let admin = ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
        Self { dir, servers, admin }
    }

    pub fn create(&self, runtime: &tokio::runtime::Runtime, topic: &str, partitions: u32) {
        let topic = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1));
        let made = runtime.block_on(self.admin.create_topics([&topic], &AdminOptions::new())).unwrap();
        made.into_iter().for_each(|made| drop(made.unwrap()));
    }

    /// How often the first task of a stage has committed: each time it leaves a checkpoint, and the mark of a transaction.
    pub fn commits(&self, stage: &str) -> i64 {
        let topic = format!("{stage}.private.checkpoint");
        self.admin.inner().fetch_watermarks(&topic, 0, PATIENCE).unwrap().1 / 2
    }

    /// Deletes the topics whose names start like this.
    pub fn delete(&self, runtime: &tokio::runtime::Runtime, prefix: &str) {
        let all = self.admin.inner().fetch_metadata(None, PATIENCE).unwrap();
        let names: Vec<&str> =
            all.topics().iter().map(|topic| topic.name()).filter(|name| name.starts_with(prefix)).collect();
        if names.is_empty() {
            return;
        }
        runtime.block_on(self.admin.delete_topics(&names, &AdminOptions::new())).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = script().args(["stop".as_ref(), self.dir.path()]).status();
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/broker"))
}

/// Looks at how far a group has got in a topic.
pub struct Watch {
    consumer: BaseConsumer,
    partitions: TopicPartitionList,
    start: i64,
    end: i64,
}

impl Watch {
    pub fn new(broker: &Broker, group: &str, topic: &str, partitions: u32) -> Self {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", &broker.servers)
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions as i32 - 1);
        let extents = (0..partitions).map(|number| plain::extent(&consumer, topic, number));
        let (start, end) = extents.fold((0, 0), |sum, extent| (sum.0 + extent.0, sum.1 + extent.1));
        Self { consumer, partitions: list, start, end }
    }

    /// The share of the topic that the group has dealt with.
    fn share(&self) -> f64 {
        let Ok(committed) = self.consumer.committed_offsets(self.partitions.clone(), PATIENCE) else { return 0.0 };
        let at: i64 =
            committed.elements().iter().filter_map(|element| element.offset().to_raw()).map(|at| at.max(0)).sum();
        (at - self.start) as f64 / (self.end - self.start) as f64
    }

    /// Waits until the group is at the end, and gives the share of the topic it went through in a second.
    pub fn speed(&self) -> f64 {
        let mut from = None;
        loop {
            let (share, now) = (self.share(), Instant::now());
            match from {
                None if share >= WARM_UP => from = Some((share, now)),
                Some((first, since)) if share >= 1.0 => return (share - first) / (now - since).as_secs_f64(),
                _ => {}
            }
            std::thread::sleep(TICK);
        }
    }
}
