//! Messages of any format as JSON, for people and scripts.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::bus::{Message, Record};
use crate::codec;
use crate::failure::DeadLetter;
use crate::stage::has_no_rows;

/// The rows of a message, each as the text of a JSON value, columns in the order of the schema. A payload of no known
/// format is its text, or an object with its bytes in base64 where it is not text; a tombstone is null.
pub(super) fn rows(message: &Message) -> Vec<String> {
    if has_no_rows(&message.record) {
        return Vec::new();
    }
    match DeadLetter::from_message(message) {
        Some(letter) => vec![dead_letter(&letter, message).to_string()],
        // Others need not say of their messages what they are.
        None if message.record.headers.get("content-type").is_none() && is_json(message.record.payload()) => {
            vec![String::from_utf8_lossy(message.record.payload()).into_owned()]
        }
        None => payload(&message.record),
    }
}

/// A dead letter as one JSON object.
pub(super) fn dead_letter(letter: &DeadLetter, message: &Message) -> Value {
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
            [only] => parsed(only),
            rows => rows.iter().map(|row| parsed(row)).collect(),
        },
    })
}

fn parsed(row: &str) -> Value {
    serde_json::from_str(row).unwrap_or_else(|_| Value::from(row))
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

fn payload(record: &Record) -> Vec<String> {
    let Some(value) = &record.value else { return vec![Value::Null.to_string()] };
    let content_type = record.headers.get("content-type").unwrap_or_default();
    if content_type == codec::arrow::CONTENT_TYPE.as_bytes()
        && let Ok(batch) = codec::arrow::decode(value.clone())
        && let Ok(rows) = codec::json::rows_to_text(&batch)
    {
        return rows.iter().map(|row| String::from_utf8_lossy(row).into_owned()).collect();
    }
    if content_type.ends_with(b"json")
        && let Ok(text) = std::str::from_utf8(value)
        && is_json(value)
    {
        return vec![text.to_owned()];
    }
    vec![text_or_base64(value).to_string()]
}

fn text_or_base64(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}
