//! Records as messages of Kafka. What a message has no place for goes into headers of our own, which readers of ours do
//! not show again.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header as KafkaHeader, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::bus::{Header, Message, Micros, Outgoing, Record, TopicPartition};

/// How many rows are in the message; 1 without it.
const ROWS: &str = "fidelio-rows";
/// When the oldest of them arrived, in microseconds since the epoch; the message's own timestamp without it.
const ARRIVED: &str = "fidelio-arrived";

/// The message that a record becomes.
pub(super) fn message(outgoing: &Outgoing, now: SystemTime) -> BaseRecord<'_, [u8], [u8]> {
    let Outgoing { to, record } = outgoing;
    let millis = timestamp(record.arrived, now);
    let mut message = BaseRecord::to(to.topic.as_str()).partition(to.partition as i32);
    if let Some(value) = &record.value {
        message = message.payload(&value[..]);
    }
    if let Some(key) = &record.key {
        message = message.key(&key[..]);
    }
    if let Some(millis) = millis {
        message = message.timestamp(millis);
    }
    let headers = headers(record, millis);
    if headers.count() > 0 { message.headers(headers) } else { message }
}

/// The arrival as a timestamp; `None` where it cannot be one: 0 is taken for none, and a broker refuses what is long past
/// now.
fn timestamp(arrived: Micros, now: SystemTime) -> Option<i64> {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    Some(arrived.div_euclid(1000)).filter(|millis| (1..=now).contains(millis))
}

fn headers(record: &Record, millis: Option<i64>) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len() + 2);
    for Header { name, value } in &record.headers {
        headers = headers.insert(KafkaHeader { key: name, value: Some(&value[..]) });
    }
    if record.rows != 1 {
        headers = headers.insert(KafkaHeader { key: ROWS, value: Some(&record.rows.to_string()) });
    }
    if millis.and_then(|millis| millis.checked_mul(1000)) != Some(record.arrived) {
        headers = headers.insert(KafkaHeader { key: ARRIVED, value: Some(&record.arrived.to_string()) });
    }
    headers
}

/// Makes records of messages. Headers are mostly those of the message before, and are shared with it then.
#[derive(Default)]
pub(super) struct Parser {
    before: Vec<Header>,
}

impl Parser {
    /// The record that a message is.
    pub(super) fn message(&mut self, from: &TopicPartition, message: &BorrowedMessage<'_>) -> Message {
        let mut record = Record {
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            rows: 1,
            arrived: message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000),
            ..Record::default()
        };
        if let Some(headers) = message.headers() {
            record.headers.reserve(headers.count());
            for header in headers.iter() {
                let value = header.value.unwrap_or_default();
                let number = if matches!(header.key, ROWS | ARRIVED) { number(value) } else { None };
                match (header.key, number) {
                    (ROWS, Some(rows)) => record.rows = u32::try_from(rows).unwrap_or(1),
                    (ARRIVED, Some(micros)) => record.arrived = micros,
                    (name, _) => {
                        let header = self.header(record.headers.len(), name, value);
                        record.headers.push(header);
                    }
                }
            }
        }
        Message { partition: from.clone(), offset: message.offset().max(0) as u64, record }
    }

    /// The header at that place of a message.
    fn header(&mut self, place: usize, name: &str, value: &[u8]) -> Header {
        let whole = || Header { name: name.into(), value: Bytes::copy_from_slice(value) };
        match self.before.get_mut(place) {
            Some(before) if *before.name != *name => *before = whole(),
            Some(before) if before.value != value => before.value = Bytes::copy_from_slice(value),
            Some(_) => {}
            None => self.before.push(whole()),
        }
        self.before.get(place).cloned().unwrap_or_else(whole)
    }
}

fn number(value: &[u8]) -> Option<Micros> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
