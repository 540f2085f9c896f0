//! Records as messages of Kafka. What a message has no place for goes into headers of our own, which readers of ours do
//! not show again.

use bytes::{Bytes, BytesMut};
use rdkafka::message::{BorrowedMessage, Header as KafkaHeader, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::native;
use crate::bus::{Message, Micros, Outgoing, Packer, Record, TopicPartition};

/// How many rows are in the message; 1 without it.
const ROWS: &str = "fidelio-rows";
/// When the oldest of them arrived, in microseconds since the epoch; the message's own timestamp without it, which is in
/// milliseconds.
const ARRIVED: &str = "fidelio-arrived";

/// The message that a record becomes.
pub(super) fn message(outgoing: &Outgoing, now: Micros) -> BaseRecord<'_, [u8], [u8]> {
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
fn timestamp(arrived: Micros, now: Micros) -> Option<i64> {
    Some(arrived.div_euclid(1000)).filter(|millis| (1..=now.div_euclid(1000)).contains(millis))
}

fn headers(record: &Record, millis: Option<i64>) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len() + 2);
    for (name, value) in record.headers.iter() {
        headers = headers.insert(KafkaHeader { key: name, value: Some(value) });
    }
    if record.rows != 1 {
        headers = headers.insert(KafkaHeader { key: ROWS, value: Some(&record.rows.to_string()) });
    }
    if millis.is_none() {
        headers = headers.insert(KafkaHeader { key: ARRIVED, value: Some(&record.arrived.to_string()) });
    }
    headers
}

/// Bytes of memory that messages share: little enough that one which is kept keeps little else.
const PIECE_BYTES: usize = 64 << 10;

/// Makes records of messages. What small ones are made of lies in pieces of memory that they share.
#[derive(Default)]
pub(super) struct Parser {
    piece: BytesMut,
    headers: Packer,
}

impl Parser {
    /// The record that a message is.
    pub(super) fn message(&mut self, from: &TopicPartition, message: &BorrowedMessage<'_>) -> Message {
        let mut record = Record {
            key: message.key().map(|key| self.copy(key)),
            value: message.payload().map(|value| self.copy(value)),
            rows: 1,
            arrived: message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000),
            ..Record::default()
        };
        native::for_each_header(message, |name, value| {
            let number = if name.starts_with(b"fidelio-") { number(value) } else { None };
            match (name, number) {
                (name, Some(rows)) if name == ROWS.as_bytes() => record.rows = u32::try_from(rows).unwrap_or(1),
                (name, Some(micros)) if name == ARRIVED.as_bytes() => record.arrived = micros,
                _ => match std::str::from_utf8(name) {
                    Ok(name) => self.headers.put(name, value),
                    // Other clients need not write names in UTF-8.
                    Err(_) => self.headers.put(&String::from_utf8_lossy(name), value),
                },
            }
        });
        record.headers = self.headers.finish();
        Message { partition: from.clone(), offset: message.offset().max(0) as u64, record }
    }

    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > PIECE_BYTES / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.piece.capacity() < bytes.len() {
            self.piece = BytesMut::with_capacity(PIECE_BYTES);
        }
        self.piece.extend_from_slice(bytes);
        self.piece.split().freeze()
    }
}

fn number(value: &[u8]) -> Option<Micros> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
