//! What a program does that has no engine: a consumer alone, and a consumer and a producer in a loop. Neither is exactly
//! once. A thread a partition; librdkafka's own settings but for one, so the producer is not idempotent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Of every input, what comes first warms everything up and is not timed.
pub const WARM_UP: f64 = 0.25;
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(100);
const MOMENT: Duration = Duration::from_millis(1);

/// What was read, and how fast.
pub struct Read {
    pub messages: u64,
    /// Bytes of values.
    pub value_bytes: u64,
    /// Bytes of headers.
    pub header_bytes: u64,
    /// The share of it that was gone through in a second.
    pub speed: f64,
}

/// The offset of the first message of a partition, and the one after the last; a transaction's mark is the very last.
pub fn extent(client: &impl Consumer, topic: &str, partition: u32) -> (i64, i64) {
    let (start, end) = client.fetch_watermarks(topic, partition as i32, PATIENCE).unwrap();
    (start, end - 1)
}

/// Reads a topic, and copies it to another one where there is one.
pub fn run(servers: &str, from: &str, to: Option<&str>, partitions: u32) -> Read {
    let asker: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let extents: Vec<(i64, i64)> = (0..partitions).map(|number| extent(&asker, from, number)).collect();
    let total: i64 = extents.iter().map(|(start, end)| end - start).sum();
    let warm = Warm { seen: AtomicU64::new(0), at: (total as f64 * WARM_UP) as u64, since: Mutex::new(None) };
    let warm = Arc::new(warm);
    let loops: Vec<_> = (0..)
        .zip(extents)
        .map(|(number, extent)| {
            let warm = warm.clone();
            let (servers, from, to) = (servers.to_owned(), from.to_owned(), to.map(str::to_owned));
            std::thread::spawn(move || match to {
                Some(to) => copy(&servers, &from, &to, number, extent, &warm),
                None => consume(&servers, &from, number, extent, &warm, |_| {}),
            })
        })
        .collect();
    let mut read = Read { messages: 0, value_bytes: 0, header_bytes: 0, speed: 0.0 };
    for done in loops {
        let part = done.join().unwrap();
        read.messages += part.messages;
        read.value_bytes += part.value_bytes;
        read.header_bytes += part.header_bytes;
    }
    let since = warm.since.lock().unwrap().unwrap();
    read.speed = (1.0 - WARM_UP) / since.elapsed().as_secs_f64();
    read
}

/// When the first part was through.
struct Warm {
    seen: AtomicU64,
    at: u64,
    since: Mutex<Option<Instant>>,
}

fn copy(servers: &str, from: &str, to: &str, partition: i32, extent: (i64, i64), warm: &Warm) -> Read {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let mut sent = 0_u64;
    let read = consume(servers, from, partition, extent, warm, |message| {
        let mut record = BaseRecord::<[u8], [u8]>::to(to).partition(partition);
        if let Some(key) = message.key() {
            record = record.key(key);
        }
        if let Some(value) = message.payload() {
            record = record.payload(value);
        }
        if let Some(headers) = message.headers() {
            record = record.headers(headers.detach());
        }
        while let Err((error, back)) = producer.send(record) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            std::thread::sleep(MOMENT);
            producer.poll(Duration::ZERO);
            record = back;
        }
        sent += 1;
        if sent.is_multiple_of(1000) {
            producer.poll(Duration::ZERO);
        }
    });
    // `flush` would look ten times a second only.
    while producer.in_flight_count() > 0 {
        std::thread::sleep(MOMENT);
        producer.poll(Duration::ZERO);
    }
    read
}

fn consume(
    servers: &str,
    from: &str,
    partition: i32,
    (start, end): (i64, i64),
    warm: &Warm,
    mut each: impl FnMut(&BorrowedMessage<'_>),
) -> Read {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "plain")
        // Otherwise it rests for a second whenever 100,000 messages are waiting for the loop.
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(from, partition, Offset::Offset(start)).unwrap();
    consumer.assign(&place).unwrap();
    let mut read = Read { messages: 0, value_bytes: 0, header_bytes: 0, speed: 0.0 };
    loop {
        let Some(message) = consumer.poll(TICK) else { continue };
        let message = message.unwrap();
        each(&message);
        read.messages += 1;
        read.value_bytes += message.payload_len() as u64;
        let size = |headers: &rdkafka::message::BorrowedHeaders| -> u64 {
            headers.iter().map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len)).sum::<usize>() as u64
        };
        // As many in every message, about.
        if read.messages == 1 {
            read.header_bytes = message.headers().map_or(0, size);
        }
        if warm.seen.fetch_add(1, Ordering::Relaxed) == warm.at {
            *warm.since.lock().unwrap() = Some(Instant::now());
        }
        if message.offset() + 1 >= end {
            read.header_bytes *= read.messages;
            return read;
        }
    }
}
