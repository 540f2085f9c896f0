//! Messages of others to rows: the value of each decoded, and beside it what else the message has. Where messages come from
//! is `others`' business.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, StringBuilder, TimestampMicrosecondArray,
};
use ::arrow::compute::{cast, filter, filter_record_batch};
use ::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use ::arrow::error::ArrowError;
use ::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use crate::bus::Message;
use crate::codec::{Decoded, Decoder, RawRows, json};
use crate::config::{Part, Spanned};
use crate::failure::{Class, Reject};

/// Decodes messages under a contract, some of whose columns are parts of a message beside its value.
pub(super) struct Envelopes {
    schema: SchemaRef,
    values: json::Decoder,
    /// For each column of the contract the part that it is; `None` for those of the value.
    parts: Vec<Option<Part>>,
}

/// Rows that are of no use, each for the first reason found.
type Rejects = BTreeMap<usize, (Class, String)>;

impl Envelopes {
    /// For messages under that contract.
    pub fn new(schema: SchemaRef, parts: &[(Part, Spanned<String>)]) -> Result<Self, json::Unsupported> {
        let part = |field: &FieldRef| parts.iter().find(|(_, name)| name.value == *field.name()).map(|(part, _)| *part);
        let parts: Vec<Option<Part>> = schema.fields().iter().map(part).collect();
        let of_value =
            schema.fields().iter().zip(&parts).filter(|(_, part)| part.is_none()).map(|(field, _)| field.clone());
        let values = json::Decoder::new(Arc::new(Schema::new(of_value.collect::<Vec<_>>())))?;
        Ok(Self { schema, values, parts })
    }

    /// The row of each message, or why it has none.
    pub fn decode(&mut self, messages: &[Message]) -> Result<Decoded, ArrowError> {
        let Decoded { batch, kept, rejects } = self.values.decode(&raw(messages));
        let mut rejects: Rejects =
            rejects.into_iter().map(|reject| (reject.row, explained(reject, messages))).collect();
        if !self.parts.contains(&Some(Part::Tombstone)) {
            refuse_tombstones(messages, &mut rejects);
        }
        let parts = self.columns(messages, &mut rejects)?;
        let good: BooleanArray = (0..messages.len()).map(|row| Some(!rejects.contains_key(&row))).collect();
        let values = match kept {
            None => filter_record_batch(&batch, &good)?,
            Some(kept) => {
                let good = kept.iter().map(|row| Some(!rejects.contains_key(&(*row as usize)))).collect();
                filter_record_batch(&batch, &good)?
            }
        };
        let batch = self.put_together(&values, &parts, &good)?;
        let kept = (!rejects.is_empty()).then(|| good.values().set_indices_u32().collect());
        let rejects = rejects.into_iter().map(|(row, (class, message))| Reject { row, class, message }).collect();
        Ok(Decoded { batch, kept, rejects })
    }

    /// The columns that are parts of the messages, in the order of the contract.
    fn columns(&self, messages: &[Message], rejects: &mut Rejects) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut columns = Vec::new();
        for (field, part) in self.schema.fields().iter().zip(&self.parts) {
            let Some(part) = part else { continue };
            let column = column(*part, field.data_type(), messages, rejects)?;
            if !field.is_nullable() {
                refuse_nulls(field.name(), &column, rejects);
            }
            columns.push(column);
        }
        Ok(columns)
    }

    fn put_together(
        &self,
        values: &RecordBatch,
        parts: &[ArrayRef],
        good: &BooleanArray,
    ) -> Result<RecordBatch, ArrowError> {
        let (mut of_value, mut of_message) = (values.columns().iter(), parts.iter());
        let columns = self.parts.iter().filter_map(|part| match part {
            None => of_value.next().cloned().map(Ok),
            Some(_) => of_message.next().map(|column| filter(column, good)),
        });
        let rows = RecordBatchOptions::new().with_row_count(Some(values.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns.collect::<Result<_, _>>()?, &rows)
    }
}

/// The values of the messages; in place of a tombstone an object without members, whose columns are null.
fn raw(messages: &[Message]) -> RawRows {
    RawRows::of(messages.iter().map(|message| message.record.value.as_deref().unwrap_or(b"{}")))
}

fn explained(reject: Reject, messages: &[Message]) -> (Class, String) {
    match messages.get(reject.row) {
        Some(message) if message.record.value.is_none() => {
            (reject.class, format!("the message is a tombstone, without a value: {}", reject.message))
        }
        _ => (reject.class, reject.message),
    }
}

fn refuse_tombstones(messages: &[Message], rejects: &mut Rejects) {
    for (row, _) in messages.iter().enumerate().filter(|(_, message)| message.record.value.is_none()) {
        let reason = "the message is a tombstone, and the source has no column that would say so: add \
                      columns = { tombstone = \"…\" }";
        rejects.insert(row, (Class::Contract, reason.to_owned()));
    }
}

fn refuse_nulls(name: &str, column: &ArrayRef, rejects: &mut Rejects) {
    for row in (0..column.len()).filter(|row| column.is_null(*row)) {
        let reason = format!("column `{name}` must not be null, and the message has nothing for it");
        rejects.entry(row).or_insert((Class::Contract, reason));
    }
}

/// A part of each message, as a column of that type.
fn column(
    part: Part,
    data_type: &DataType,
    messages: &[Message],
    rejects: &mut Rejects,
) -> Result<ArrayRef, ArrowError> {
    let number = |of: fn(&Message) -> i64| Int64Array::from_iter_values(messages.iter().map(of));
    let column: ArrayRef = match part {
        Part::Key if *data_type == DataType::Binary => {
            Arc::new(BinaryArray::from_iter(messages.iter().map(|message| message.record.key.as_deref())))
        }
        Part::Key => text_keys(messages, rejects),
        Part::Headers => headers(messages),
        Part::Timestamp => {
            let micros = TimestampMicrosecondArray::from_iter_values(messages.iter().map(|it| it.record.arrived));
            let zone = match data_type {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            Arc::new(micros.with_timezone_opt(zone))
        }
        Part::Partition => Arc::new(number(|message| i64::from(message.partition.partition))),
        Part::Offset => Arc::new(number(|message| message.offset as i64)),
        Part::Tombstone => {
            Arc::new(messages.iter().map(|message| Some(message.record.value.is_none())).collect::<BooleanArray>())
        }
    };
    cast(&column, data_type)
}

fn text_keys(messages: &[Message], rejects: &mut Rejects) -> ArrayRef {
    let mut keys = StringBuilder::with_capacity(messages.len(), messages.len() * 16);
    for (row, message) in messages.iter().enumerate() {
        match message.record.key.as_deref().map(std::str::from_utf8) {
            Some(Ok(key)) => keys.append_value(key),
            None => keys.append_null(),
            Some(Err(_)) => {
                let reason = "the key is not UTF-8; a column of type `bytea` takes any".to_owned();
                rejects.entry(row).or_insert((Class::Decode, reason));
                keys.append_null();
            }
        }
    }
    Arc::new(keys.finish())
}

/// The headers of each message as a JSON object; a value that is not UTF-8 is an object with its bytes in base64.
fn headers(messages: &[Message]) -> ArrayRef {
    let mut objects = StringBuilder::with_capacity(messages.len(), messages.len() * 16);
    for message in messages {
        let value = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(text) => Value::from(text),
            Err(_) => Value::from_iter([("base64", BASE64_STANDARD.encode(value))]),
        };
        let members = message.record.headers.iter().map(|(name, text)| (name.to_owned(), value(text)));
        objects.append_value(Value::Object(members.collect::<Map<_, _>>()).to_string());
    }
    Arc::new(objects.finish())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bus::{Headers, Record, Topic};
    use crate::codec::json::rows_to_text;
    use ::arrow::datatypes::{Field, TimeUnit};

    fn message(offset: u64, key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Message {
        let (key, value) = (key.map(Bytes::from_static), value.map(Bytes::from_static));
        let headers = Headers::from([("h", "first"), ("h", "last")]);
        let record = Record { key, value, headers, rows: 1, arrived: 1_000_001, batch: None };
        Message { partition: Topic::new("t").partition(2), offset, record }
    }

    fn envelopes(columns: &[(&str, DataType, bool, Option<Part>)]) -> Envelopes {
        let fields: Vec<Field> =
            columns.iter().map(|(name, kind, nullable, _)| Field::new(*name, kind.clone(), *nullable)).collect();
        let parts =
            columns.iter().filter_map(|(name, _, _, part)| Some(((*part)?, Spanned::new((*name).to_owned(), 0..0))));
        Envelopes::new(Arc::new(Schema::new(fields)), &parts.collect::<Vec<_>>()).unwrap()
    }

    fn rows(decoded: &Decoded) -> Vec<String> {
        let texts = rows_to_text(&decoded.batch).unwrap();
        texts.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    }

    #[test]
    fn every_part_of_a_message_can_be_a_column_wherever_it_stands_in_the_contract() {
        let instant = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let mut envelopes = envelopes(&[
            ("k", DataType::Utf8, true, Some(Part::Key)),
            ("id", DataType::Int64, true, None),
            ("h", DataType::Utf8, true, Some(Part::Headers)),
            ("at", instant, false, Some(Part::Timestamp)),
            ("p", DataType::Int32, false, Some(Part::Partition)),
            ("o", DataType::Int64, false, Some(Part::Offset)),
            ("name", DataType::Utf8, true, None),
            ("gone", DataType::Boolean, false, Some(Part::Tombstone)),
        ]);
        let messages = [message(7, Some(b"a"), Some(br#"{"name":"x","id":1,"k":"not this"}"#)), message(9, None, None)];
        let decoded = envelopes.decode(&messages).unwrap();
        assert_eq!((decoded.rejects.as_slice(), &decoded.kept), (&[][..], &None));
        let first = r#"{"k":"a","id":1,"h":"{\"h\":\"last\"}","at":"1970-01-01T00:00:01.000001Z","p":2,"o":7,"name":"x","gone":false}"#;
        let second = r#"{"k":null,"id":null,"h":"{\"h\":\"last\"}","at":"1970-01-01T00:00:01.000001Z","p":2,"o":9,"name":null,"gone":true}"#;
        assert_eq!(rows(&decoded), [first, second]);
    }

    #[test]
    fn a_message_that_is_no_row_does_not_stop_its_neighbours_and_says_why() {
        let mut envelopes = envelopes(&[
            ("id", DataType::Int64, false, None),
            ("k", DataType::Utf8, false, Some(Part::Key)),
            ("gone", DataType::Boolean, true, Some(Part::Tombstone)),
        ]);
        let good: Option<&'static [u8]> = Some(br#"{"id":1}"#);
        let messages = [
            message(0, Some(b"a"), Some(b"")),
            message(1, Some(b"a"), good),
            message(2, Some(b"a"), None),
            message(3, None, good),
            message(4, Some(b"\xff"), good),
            message(5, Some(b"b"), good),
        ];
        let decoded = envelopes.decode(&messages).unwrap();
        assert_eq!(rows(&decoded), [r#"{"id":1,"k":"a","gone":false}"#, r#"{"id":1,"k":"b","gone":false}"#]);
        assert_eq!(decoded.kept, Some(vec![1, 5]));
        let reasons: Vec<String> =
            decoded.rejects.iter().map(|it| format!("{} {}: {}", it.row, it.class.as_str(), it.message)).collect();
        assert_eq!(
            reasons,
            [
                "0 decode: expected an object at byte 0, found the end",
                "2 contract: the message is a tombstone, without a value: column `id` is missing",
                "3 contract: column `k` must not be null, and the message has nothing for it",
                "4 decode: the key is not UTF-8; a column of type `bytea` takes any",
            ]
        );
    }

    #[test]
    fn a_tombstone_that_nothing_would_tell_from_an_empty_object_is_no_row() {
        let mut envelopes = envelopes(&[("id", DataType::Int64, true, None)]);
        let decoded = envelopes.decode(&[message(0, None, Some(b"{}")), message(1, None, None)]).unwrap();
        assert_eq!(rows(&decoded), [r#"{"id":null}"#]);
        assert!(decoded.rejects[0].row == 1 && decoded.rejects[0].message.contains("columns = { tombstone"));
    }
}
