//! What comes out of CSV rows of every kind, and what is written.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Decoder, Encoder, Error};
use crate::codec::json::rows_to_values;
use crate::codec::{Decoded, Decoder as _, Encoder as _, RawRows, Text};
use crate::failure::Class;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("delay", DataType::Float64, true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
    ]))
}

fn raw<T: AsRef<[u8]>>(rows: &[T]) -> RawRows {
    let mut bytes = BytesMut::new();
    let mut ranges = Vec::new();
    for row in rows {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(row.as_ref());
        ranges.push(start..bytes.len() as u32);
        bytes.extend_from_slice(b"\r\n");
    }
    RawRows { bytes: bytes.freeze(), rows: ranges }
}

fn decode<T: AsRef<[u8]>>(header: &str, rows: &[T]) -> Decoded {
    Decoder::new(schema(), header.as_bytes(), Some("NA")).unwrap().decode(&raw(rows))
}

/// What becomes of a row that has a neighbour before and behind it.
fn outcome(row: impl AsRef<[u8]>) -> Result<Value, (Class, String)> {
    let decoded = decode("id,name,delay,ok", &[b"1,,,".as_slice(), row.as_ref(), b"3,,,"]);
    let rows = rows_to_values(&decoded.batch).unwrap();
    assert_eq!((&rows[0]["id"], &rows.last().unwrap()["id"]), (&json!(1), &json!(3)));
    match decoded.rejects.as_slice() {
        [] => Ok(rows[1].clone()),
        [reject] => {
            assert_eq!((reject.row, decoded.kept), (1, Some(vec![0, 2])));
            Err((reject.class, reject.message.clone()))
        }
        other => panic!("{other:?}"),
    }
}

fn row(name: Value, delay: Value, ok: Value) -> Result<Value, (Class, String)> {
    Ok(json!({"id": 2, "name": name, "delay": delay, "ok": ok, "ts": null}))
}

#[test]
fn fields_become_the_values_of_their_columns() {
    assert_eq!(outcome("2,a b,-1.5e1,TRUE"), row(json!("a b"), json!(-15.0), json!(true)));
    assert_eq!(
        outcome("\"2\",\"a,\"\"b\"\"\r\nc\",\"7\",\"false\""),
        row(json!("a,\"b\"\r\nc"), json!(7.0), json!(false))
    );
    assert_eq!(outcome("2,a\"b,,"), row(json!("a\"b"), Value::Null, Value::Null));
}

#[test]
fn empty_fields_and_the_null_text_are_null_unless_they_are_quoted_text() {
    assert_eq!(outcome("2,,,"), row(Value::Null, Value::Null, Value::Null));
    assert_eq!(outcome("2,NA,NA,NA"), row(Value::Null, Value::Null, Value::Null));
    assert_eq!(outcome("2,\"\",\"\",\"\""), row(json!(""), Value::Null, Value::Null));
    assert_eq!(outcome("2,\"NA\",,"), row(json!("NA"), Value::Null, Value::Null));
}

#[test]
fn the_header_says_which_field_is_for_which_column() {
    let decoded = decode("\u{feff}delay,other,\"id\"", &["1.5,x,7"]);
    let expected = json!({"id": 7, "name": null, "delay": 1.5, "ok": null, "ts": null});
    assert_eq!(rows_to_values(&decoded.batch).unwrap(), [expected]);
    let decoded = decode("name", &["a"]);
    assert_eq!(decoded.rejects[0].message, "column `id` must not be null");
}

#[test]
fn a_header_that_says_nothing_certain_is_refused() {
    let new = |header: &[u8]| Decoder::new(schema(), header, None).err();
    assert_eq!(new(b"id,name,id"), Some(Error::Duplicate { column: "id".into() }));
    assert_eq!(new(b"id,x,x"), None);
    assert!(matches!(new(b"id,\xff"), Some(Error::Header { .. })));
    assert!(matches!(new(b"id,\"name"), Some(Error::Header { .. })));
    let list = DataType::new_list(DataType::Int32, true);
    let nested = Arc::new(Schema::new(vec![Field::new("l", list, true)]));
    assert!(matches!(Decoder::new(nested, b"l", None), Err(Error::Unsupported { .. })));
}

#[test]
fn a_row_that_is_not_a_record_of_the_header_is_malformed() {
    let malformed = |row: &[u8]| {
        let (class, message) = outcome(row).unwrap_err();
        assert_eq!(class, Class::Decode, "{message}");
        message
    };
    assert_eq!(malformed(b""), "the row has 1 fields, the header line 4");
    assert_eq!(malformed(b"2,a,1"), "the row has 3 fields, the header line 4");
    assert_eq!(malformed(b"2,a,1,true,"), "the row has 5 fields, the header line 4");
    assert_eq!(malformed(b"2,\"a\"b,1,true"), "there is text behind the quote that closes a field");
    assert_eq!(malformed(b"2,\"a,1,true"), "a field in quotes does not end");
    assert_eq!(malformed(b"2,\xff,1,true"), "byte 2 is not UTF-8");
}

#[test]
fn a_value_of_another_type_breaks_the_contract() {
    let contract = |row: &str| {
        let (class, message) = outcome(row).unwrap_err();
        assert_eq!(class, Class::Contract, "{message}");
        message
    };
    assert_eq!(contract("x,a,1,true"), "column `id`: `x` is not a value of type bigint");
    assert_eq!(contract("1.5,a,1,true"), "column `id`: `1.5` is not a value of type bigint");
    assert_eq!(contract(" 2,a,1,true"), "column `id`: ` 2` is not a value of type bigint");
    assert_eq!(contract("9223372036854775808,,,"), "column `id`: `9223372036854775808` is not a value of type bigint");
    assert_eq!(contract("NA,a,1,true"), "column `id` must not be null");
    assert_eq!(contract("2,a,1e999,true"), "column `delay`: `1e999` is not a value of type double");
    assert_eq!(contract("2,a,1,yes"), "column `ok`: `yes` is not a value of type boolean");
}

#[test]
fn nested_values_are_written_as_json() {
    let list = arrow::array::ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
    let schema = Arc::new(Schema::new(vec![Field::new("a,b", DataType::new_list(DataType::Int32, true), true)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(list)]).unwrap();
    let mut encoder = Encoder::new(schema);
    let mut text = Text { bytes: BytesMut::from(&encoder.head()[..]), rows: 0 };
    encoder.encode(&batch, &mut text).unwrap();
    assert_eq!(text.rows, 2);
    assert_eq!(std::str::from_utf8(&text.bytes).unwrap(), "\"a,b\"\n\"[1,null]\"\n\n");
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same_row(
        rows in prop::collection::vec(
            (any::<i64>(), any::<Option<String>>(), any::<Option<f64>>(), any::<Option<bool>>(), any::<Option<i64>>()), 1..8,
        ),
    ) {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<BooleanArray>()),
            Arc::new(rows.iter().map(|row| row.4).collect::<TimestampNanosecondArray>()),
        ];
        let batch = RecordBatch::try_new(schema(), columns).unwrap();
        let mut encoder = Encoder::new(schema());
        let header = encoder.head();
        let lines: Vec<BytesMut> = (0..rows.len()).map(|row| {
            let mut line = Text::default();
            encoder.encode(&batch.slice(row, 1), &mut line).unwrap();
            assert_eq!(line.rows, 1);
            line.bytes.split_to(line.bytes.len() - 1)
        }).collect();
        let mut decoder = Decoder::new(schema(), &header[..header.len() - 1], None).unwrap();
        let decoded = decoder.decode(&raw(&lines));
        prop_assert_eq!(&decoded.rejects, &[]);
        prop_assert_eq!(rows_to_values(&decoded.batch).unwrap(), rows_to_values(&batch).unwrap());
    }

    #[test]
    fn what_a_row_becomes_does_not_depend_on_its_neighbours(rows in prop::collection::vec("[0-9,\"aN\u{e9}]{0,8}", 0..12)) {
        let header = "id,name";
        let together = decode(header, &rows);
        let alone: Vec<Decoded> = rows.iter().map(|row| decode(header, &[row])).collect();
        let batches: Vec<RecordBatch> = alone.iter().map(|decoded| decoded.batch.clone()).collect();
        prop_assert_eq!(together.batch, arrow::compute::concat_batches(&schema(), &batches).unwrap());
        let messages: Vec<String> = alone.into_iter().flat_map(|decoded| decoded.rejects).map(|r| r.message).collect();
        prop_assert_eq!(together.rejects.into_iter().map(|r| r.message).collect::<Vec<_>>(), messages);
    }
}
