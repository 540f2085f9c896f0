//! The dead letter: the original message, untouched, with its provenance beside it in headers of one prefix.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::bus::{Message, Micros, Record};
use crate::codec::time;
use crate::failure::Class;

/// What every header that a dead letter adds to the original's starts with.
pub const PREFIX: &str = "fidelio-dlq-";

const STAGE: &str = "fidelio-dlq-stage";
const CLASS: &str = "fidelio-dlq-class";
const MESSAGE: &str = "fidelio-dlq-message";
const ORIGIN: &str = "fidelio-dlq-origin";
const PARTITION: &str = "fidelio-dlq-origin-partition";
const OFFSET: &str = "fidelio-dlq-origin-offset";
const ROW: &str = "fidelio-dlq-origin-row";
const EVENT_TIME: &str = "fidelio-dlq-event-time";
const ATTEMPTS: &str = "fidelio-dlq-attempts";
const FULL_BYTES: &str = "fidelio-dlq-full-bytes";

/// The longest message that is kept, in bytes.
const MESSAGE_BYTES: usize = 1024;

/// Where a row came from: the same on every run, so that whatever is made of the row can be recognised by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// A topic, or the path of a file.
    pub name: Arc<str>,
    /// The partition of the topic; none in a file.
    pub partition: Option<u32>,
    /// The offset of the message in the partition, or of the row's first byte in the file after decompression.
    pub offset: u64,
    /// The number of the row in the message, from 0; of a source's row, its number among all that the task ever took in.
    pub row: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        // Each event has one in its id.
        let mut digits = itoa::Buffer::new();
        let mut number = |number: u64| {
            f.write_str("/")?;
            f.write_str(digits.format(number))
        };
        self.partition.map_or(Ok(()), |partition| number(partition.into()))?;
        number(self.offset)?;
        number(self.row)
    }
}

/// A row, or a message that could not be taken apart into rows, that a stage could not process.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The stage that gave up on it.
    pub stage: Arc<str>,
    /// Why, as a class.
    pub class: Class,
    /// Why, for a person.
    pub message: String,
    /// Where it came from.
    pub origin: Origin,
    /// When its event happened, in microseconds since the Unix epoch, where that is known.
    pub event_time: Option<Micros>,
    /// How often it was tried.
    pub attempts: u32,
    /// Its key, value, headers and rows as they were; of a row out of an Arrow batch, the value is a stream of that row.
    pub original: Record,
}

impl DeadLetter {
    /// The record for the dead letter topic. A value that is longer than `limit` bytes is cut there, and a header then
    /// tells its full length; a message is cut at 1 KiB.
    pub fn into_record(self, limit: usize) -> Record {
        let mut record = self.original;
        let mut add = |name: &str, value: String| {
            record.headers.push(name, value.as_bytes());
        };
        add(STAGE, self.stage.to_string());
        add(CLASS, self.class.as_str().to_owned());
        add(MESSAGE, short(self.message));
        add(ORIGIN, self.origin.name.to_string());
        if let Some(partition) = self.origin.partition {
            add(PARTITION, partition.to_string());
        }
        add(OFFSET, self.origin.offset.to_string());
        add(ROW, self.origin.row.to_string());
        if let Some(time) = self.event_time {
            add(EVENT_TIME, time::instant(time));
        }
        add(ATTEMPTS, self.attempts.to_string());
        if let Some(value) = record.value.as_mut().filter(|value| value.len() > limit) {
            record.headers.push(FULL_BYTES, value.len().to_string().as_bytes());
            value.truncate(limit);
        }
        record.batch = None;
        record
    }

    /// The dead letter in a message of a dead letter topic; `None` if the message is not one.
    pub fn from_message(message: &Message) -> Option<Self> {
        let mut original = message.record.clone();
        original.headers = original.headers.filter(|name| !name.starts_with(PREFIX));
        let text =
            |name: &str| message.record.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
        let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
        let narrow = |name: &str| number(name).and_then(|value| u32::try_from(value).ok());
        Some(Self {
            stage: text(STAGE)?.into(),
            class: Class::parse(&text(CLASS)?)?,
            message: text(MESSAGE)?,
            origin: Origin {
                name: text(ORIGIN)?.into(),
                partition: narrow(PARTITION),
                offset: number(OFFSET)?,
                row: number(ROW)?,
            },
            event_time: text(EVENT_TIME).and_then(|time| time::micros(&time)),
            attempts: narrow(ATTEMPTS)?,
            original,
        })
    }
}

/// The start of a message that quotes a whole value.
fn short(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Headers, Topic};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn class() -> impl Strategy<Value = Class> {
        prop::sample::select(Class::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn a_dead_letter_reads_back_as_it_was_written(
            class in class(),
            message in ".*",
            partition in proptest::option::of(any::<u32>()),
            offset in any::<u64>(),
            row in any::<u64>(),
            event_time in proptest::option::of(any::<i32>().prop_map(|seconds| i64::from(seconds) * 1_000_001)),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..8)),
        ) {
            let letter = DeadLetter {
                stage: "delays".into(),
                class,
                message,
                origin: Origin { name: "acme.flights.departures.results".into(), partition, offset, row },
                event_time,
                attempts: 1,
                original: Record {
                    key: key.map(Bytes::from),
                    value: value.map(Bytes::from),
                    headers: Headers::from([("content-type", "text/csv")]),
                    rows: 1,
                    ..Record::default()
                },
            };
            let record = letter.clone().into_record(1 << 20);
            let message = Message { partition: Topic::new("t").partition(0), offset: 0, record };
            prop_assert_eq!(DeadLetter::from_message(&message), Some(letter));
        }
    }

    #[test]
    fn a_value_over_the_limit_is_cut_and_says_how_long_it_was() {
        let letter = DeadLetter {
            stage: "delays".into(),
            class: Class::TooLarge,
            message: "too large".into(),
            origin: Origin { name: "in.ndjson".into(), partition: None, offset: 7, row: 0 },
            event_time: None,
            attempts: 1,
            original: Record { value: Some(Bytes::from_static(b"0123456789")), ..Record::default() },
        };
        let record = letter.into_record(4);
        assert_eq!(record.payload(), b"0123");
        assert_eq!(record.headers.get(FULL_BYTES), Some(&b"10"[..]));
    }
}
