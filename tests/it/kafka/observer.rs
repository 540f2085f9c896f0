//! Somebody who reads a topic while the pipeline runs, committed messages only, and sees to it that nothing comes twice or
//! out of turn.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

pub struct Observer {
    thread: JoinHandle<Vec<String>>,
    /// Nothing more is published, so that the ends of the partitions are the end.
    over: Arc<AtomicBool>,
}

impl Observer {
    /// Reads a topic of JSON rows whose `id` grows within each `customer`.
    pub fn start(brokers: &str, topic: &str, partitions: u32) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "observer")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("topic.metadata.refresh.interval.ms", "1000")
            .create()
            .unwrap();
        assign(&consumer, topic, &vec![0; partitions as usize]);
        let over = Arc::new(AtomicBool::new(false));
        let thread = {
            let (over, topic) = (over.clone(), topic.to_owned());
            thread::spawn(move || observe(&consumer, &topic, partitions as usize, &over))
        };
        Self { thread, over }
    }

    /// All rows that it has seen, once there are no more, each on a line.
    pub fn seen(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn assign(consumer: &BaseConsumer, topic: &str, offsets: &[i64]) {
    let mut assigned = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        assigned.add_partition_offset(topic, partition, Offset::Offset(*offset)).unwrap();
    }
    consumer.assign(&assigned).unwrap();
}

fn observe(consumer: &BaseConsumer, topic: &str, partitions: usize, over: &AtomicBool) -> Vec<String> {
    let mut rows = Vec::new();
    let mut last: HashMap<String, i64> = HashMap::new();
    let mut next = vec![0; partitions];
    // Those whose end was reached since it is over.
    let mut at_end: Option<HashSet<i32>> = None;
    while at_end.as_ref().is_none_or(|at_end| at_end.len() < partitions) {
        if at_end.is_none() && over.load(Ordering::Relaxed) {
            // The end is told again to whoever starts anew.
            assign(consumer, topic, &next);
            at_end = Some(HashSet::new());
        }
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let text = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
                let row: Value = serde_json::from_str(&text).unwrap();
                let (customer, id) = (row["customer"].as_str().unwrap(), row["id"].as_i64().unwrap());
                let before = last.insert(customer.to_owned(), id);
                assert!(before.is_none_or(|before| before < id), "{customer}: {id} after {before:?}");
                next[message.partition() as usize] = message.offset() + 1;
                rows.push(text);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                at_end = at_end.map(|at_end| at_end.into_iter().chain([partition]).collect());
            }
            // While a broker is away, or the topic is not there yet.
            Some(Err(_)) | None => {}
        }
    }
    rows
}
