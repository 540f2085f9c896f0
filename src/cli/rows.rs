//! Messages of any format as JSON, for people and scripts.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::bus::{Message, Record};
use crate::codec;
use crate::failure::DeadLetter;

/// The rows of a message, a JSON value each. A payload of no known format is its text, or an object with its bytes in
/// base64 where it is not text.
pub fn rows(message: &Message) -> Vec<Value> {
    match DeadLetter::from_message(message) {
        Some(letter) => vec![dead_letter(&letter, message)],
        None => payload(&message.record),
    }
}

/// A dead letter as one JSON object.
pub fn dead_letter(letter: &DeadLetter, message: &Message) -> Value {
    let rows = payload(&letter.original);
    json!({
        "stage": letter.stage,
        "class": letter.class.as_str(),
        "message": letter.message,
        "origin": letter.origin,
        "attempts": letter.attempts,
        "arrived": codec::time::instant(letter.original.arrived),
        "partition": message.partition.partition,
        "offset": message.offset,
        "key": letter.original.key.as_deref().map(text_or_base64),
        "value": match rows.as_slice() {
            [only] => only.clone(),
            _ => Value::Array(rows),
        },
    })
}

fn payload(record: &Record) -> Vec<Value> {
    let content_type = record.header("content-type").map(|value| value.as_ref()).unwrap_or_default();
    if content_type == codec::arrow::CONTENT_TYPE.as_bytes()
        && let Ok(batch) = codec::arrow::decode(record.value.clone())
        && let Ok(rows) = codec::json::rows_to_values(&batch)
    {
        return rows;
    }
    if content_type.ends_with(b"json")
        && let Ok(value) = serde_json::from_slice(&record.value)
    {
        return vec![value];
    }
    vec![text_or_base64(&record.value)]
}

fn text_or_base64(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}
