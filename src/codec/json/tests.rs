//! What comes out of JSON rows of every kind, and what is written.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray, TimestampSecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Decoder, Encoder, rows_to_text, rows_to_values};
use crate::codec::{Decoded, Decoder as _, Encoder as _, RawRows, Text};
use crate::failure::Class;

fn schema() -> SchemaRef {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)));
    let place = vec![Field::new("city", DataType::Utf8, true), Field::new("lat", DataType::Float64, true)];
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Float64, true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
        Field::new("price", DataType::Decimal128(10, 2), true),
        Field::new("day", DataType::Date32, true),
        Field::new("tags", list, true),
        Field::new("place", DataType::Struct(place.into()), true),
        Field::new("raw", DataType::Binary, true),
    ]))
}

fn raw<T: AsRef<[u8]>>(rows: &[T]) -> RawRows {
    let mut bytes = BytesMut::new();
    let mut ranges = Vec::new();
    for row in rows {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(row.as_ref());
        ranges.push(start..bytes.len() as u32);
        bytes.extend_from_slice(b"\n");
    }
    RawRows { bytes: bytes.freeze(), rows: ranges }
}

fn decode<T: AsRef<[u8]>>(rows: &[T]) -> Decoded {
    Decoder::new(schema()).unwrap().decode(&raw(rows))
}

/// What becomes of a row that has a neighbour before and behind it.
fn outcome(row: impl AsRef<[u8]>) -> Result<Value, (Class, String)> {
    let decoded = decode(&[br#"{"id":1}"#.as_slice(), row.as_ref(), br#"{"id":3}"#]);
    let rows = rows_to_values(&decoded.batch).unwrap();
    let ids: Vec<&Value> = [rows.first(), rows.last()].map(|row| &row.unwrap()["id"]).into();
    assert_eq!(ids, [&json!(1), &json!(3)], "the neighbours go on");
    match decoded.rejects.as_slice() {
        [] => Ok(rows[1].clone()),
        [reject] => {
            assert_eq!((reject.row, decoded.kept), (1, Some(vec![0, 2])));
            Err((reject.class, reject.message.clone()))
        }
        other => panic!("{other:?}"),
    }
}

fn value(column: &str, text: &str) -> Result<Value, (Class, String)> {
    outcome(format!(r#"{{"id":2,"{column}":{text}}}"#)).map(|row| row[column].clone())
}

fn contract(column: &str, text: &str) -> String {
    let (class, message) = value(column, text).unwrap_err();
    assert_eq!(class, Class::Contract, "{message}");
    message
}

fn malformed(row: impl AsRef<[u8]>) -> String {
    let (class, message) = outcome(row).unwrap_err();
    assert_eq!(class, Class::Decode, "{message}");
    message
}

#[test]
fn a_full_row_becomes_its_values_and_back() {
    let row = concat!(
        r#"{"id":2,"name":"a\"\\\/\b\f\n\r\té😀","amount":6.98,"ok":true,"ts":"2024-01-01T00:00:00.001Z","price":12.34,"#,
        r#""day":"2024-02-29","tags":[1,null,3],"place":{"city":"Bern","lat":46.9},"raw":"00fF"}"#
    );
    let expected = json!({
        "id": 2, "name": "a\"\\/\u{8}\u{c}\n\r\té😀", "amount": 6.98, "ok": true, "ts": "2024-01-01T00:00:00.001Z",
        "price": 12.34, "day": "2024-02-29", "tags": [1, null, 3], "place": {"city": "Bern", "lat": 46.9}, "raw": "00ff",
    });
    assert_eq!(outcome(row).unwrap(), expected);
}

#[test]
fn a_batch_without_rejects_says_that_all_rows_were_kept() {
    assert_eq!(decode(&[r#"{"id":1}"#, r#" { "id" : 2 } "#]).kept, None);
    assert_eq!(decode::<&str>(&[]).batch.num_rows(), 0);
}

#[test]
fn a_missing_column_is_null_like_one_that_is_null() {
    assert_eq!(outcome(r#"{"id":2}"#).unwrap()["name"], Value::Null);
    assert_eq!(value("name", "null"), Ok(Value::Null));
    assert_eq!(outcome("{}").unwrap_err(), (Class::Contract, "column `id` is missing".into()));
    assert_eq!(outcome(r#"{"id":null}"#).unwrap_err(), (Class::Contract, "column `id` must not be null".into()));
}

#[test]
fn unknown_members_are_ignored_however_deep() {
    let deep = format!(r#"{{"x":{}{},"id":2}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(outcome(deep).unwrap()["id"], 2);
    let deep = format!(r#"{{"x":{}1{},"id":2}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    assert_eq!(outcome(deep).unwrap()["id"], 2);
    let open = format!(r#"{{"id":2,"x":{}"#, r#"[{"a":"#.repeat(100_000));
    assert!(malformed(open).ends_with("found the end"));
}

#[test]
fn the_last_of_duplicate_members_counts() {
    assert_eq!(outcome(r#"{"id":1,"id":2,"name":"a","name":null}"#).unwrap()["id"], 2);
    assert_eq!(outcome(r#"{"id":"x","name":"a","id":2}"#).unwrap()["id"], 2);
    assert_eq!(outcome(r#"{"\u0069d":2}"#).unwrap()["id"], 2);
}

#[test]
fn a_row_that_is_not_one_object_is_malformed() {
    assert_eq!(malformed(""), "expected an object at byte 0, found the end");
    assert_eq!(malformed("[1]"), "expected an object at byte 0, found `[`");
    assert_eq!(malformed("1"), "expected an object at byte 0, found `1`");
    assert_eq!(malformed("null"), "expected an object at byte 0, found `n`");
    assert_eq!(malformed(r#"{"id":1} {"id":2}"#), "expected nothing more at byte 9, found `{`");
    assert_eq!(malformed(r#"{"id":1"#), "expected `,` or `}` at byte 7, found the end");
    assert_eq!(malformed(r#"{"id":1,}"#), "expected a name in quotes at byte 8, found `}`");
    assert_eq!(malformed(r#"{"id":1 "name":"a"}"#), "expected `,` or `}` at byte 8, found `\\\"`");
    assert_eq!(malformed(r#"{"id":01}"#), "expected `,` or `}` at byte 7, found `1`");
    assert_eq!(malformed(r#"{"id":NaN}"#), "expected a value at byte 6, found `N`");
    assert_eq!(malformed(r#"{"id":1,"x":[1,]}"#), "expected a value at byte 15, found `]`");
    assert_eq!(
        malformed(r#"{"id":1,"name":"open}"#),
        "expected the quote that ends a string at byte 21, found the end"
    );
}

#[test]
fn a_half_row_does_not_take_its_neighbours_with_it() {
    let decoded = decode(&[r#"{"id":1,"name":"#, r#""a"}"#, r#"{"id":3}"#]);
    assert_eq!(decoded.kept, Some(vec![2]));
    assert_eq!(decoded.rejects.iter().map(|reject| reject.row).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn invalid_utf8_is_malformed_and_its_neighbours_go_on() {
    assert_eq!(malformed(b"{\"id\":2,\"name\":\"\xff\"}"), "byte 16 is not UTF-8");
    assert_eq!(malformed(b"{\"id\":2,\"x\":\"\xc3\"}"), "byte 13 is not UTF-8");
}

#[test]
fn control_characters_and_half_surrogate_pairs_are_malformed() {
    assert!(malformed("{\"id\":2,\"name\":\"a\tb\"}").starts_with("expected an escape for a control character"));
    assert!(malformed("{\"id\":2,\"name\":\"long enough \u{1} for a word\"}").contains("at byte 28"));
    assert!(malformed(r#"{"id":2,"name":"\ud83d"}"#).contains("surrogate pair"));
    assert!(malformed(r#"{"id":2,"name":"\ud83d\u0041"}"#).contains("surrogate pair"));
    assert!(malformed(r#"{"id":2,"x":"\ude00"}"#).contains("surrogate pair"));
    assert!(malformed(r#"{"id":2,"name":"\x"}"#).starts_with("expected an escape"));
    assert!(malformed(r#"{"id":2,"name":"\u12g4"}"#).starts_with("expected four hexadecimal digits"));
    assert_eq!(value("name", r#""\u0000""#), Ok(json!("\u{0}")));
}

#[test]
fn integers_are_exact_or_refused() {
    for (text, expected) in [
        ("-0", 0),
        ("5.0", 5),
        ("1e3", 1000),
        ("\"12\"", 12),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(outcome(format!(r#"{{"id":{text}}}"#)).unwrap()["id"], expected, "{text}");
    }
    for text in ["1.5", "9223372036854775808", "1e19", "\"\"", "\"x\"", "\"1.5\"", "true", "[1]", "{}"] {
        let shown = text.trim_matches('"');
        assert_eq!(contract("id", text), format!("column `id`: `{shown}` is not a value of type bigint"));
    }
}

#[test]
fn doubles_know_nan_and_infinity_as_strings_and_refuse_what_is_out_of_range() {
    assert_eq!(value("amount", "1e308"), Ok(json!(1e308)));
    assert_eq!(value("amount", "5"), Ok(json!(5.0)));
    assert_eq!(value("amount", "\"6.5\""), Ok(json!(6.5)));
    assert_eq!(value("amount", "-1e-400"), Ok(json!(-0.0)));
    for name in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(value("amount", &format!("\"{name}\"")), Ok(json!(name)));
    }
    for text in ["1e400", "-1e400", "\"inf\"", "\"nan\"", "false"] {
        let shown = text.trim_matches('"');
        assert_eq!(contract("amount", text), format!("column `amount`: `{shown}` is not a value of type double"));
    }
}

#[test]
fn decimals_keep_every_digit_or_are_refused() {
    let decimal = |text: &str| {
        let decoded = decode(&[format!(r#"{{"id":1,"price":{text}}}"#)]);
        decoded
            .rejects
            .is_empty()
            .then(|| decoded.batch.column(5).as_primitive::<arrow::datatypes::Decimal128Type>().value(0))
    };
    for (text, expected) in
        [("1", 100), ("\"1.2\"", 120), ("-1.230", -123), ("1e2", 10_000), ("99999999.99", 9_999_999_999)]
    {
        assert_eq!(decimal(text), Some(expected), "{text}");
    }
    for text in ["0.001", "100000000", "\"x\"", "1e-3", "true"] {
        assert_eq!(decimal(text), None, "{text}");
    }
}

#[test]
fn text_takes_strings_and_nested_values_as_the_text_they_are() {
    assert_eq!(value("name", r#""""#), Ok(json!("")));
    assert_eq!(value("name", r#"{"a": [1, "\u0041"]}"#), Ok(json!(r#"{"a": [1, "\u0041"]}"#)));
    assert_eq!(contract("name", "12"), "column `name`: `12` is not a value of type text");
    assert_eq!(contract("name", "true"), "column `name`: `true` is not a value of type text");
}

#[test]
fn instants_and_dates_are_text() {
    assert_eq!(value("ts", "\"2024-01-01T02:00:00+02:00\""), Ok(json!("2024-01-01T00:00:00Z")));
    assert_eq!(value("ts", "\"2024-01-01\""), Ok(json!("2024-01-01T00:00:00Z")));
    assert_eq!(contract("ts", "1704067200"), "column `ts`: `1704067200` is not a value of type timestamp");
    assert_eq!(
        contract("ts", "\"2024-02-30T00:00:00Z\""),
        "column `ts`: `2024-02-30T00:00:00Z` is not a value of type timestamp"
    );
    assert_eq!(
        contract("ts", "\"3000-01-01T00:00:00Z\""),
        "column `ts`: `3000-01-01T00:00:00Z` is not a value of type timestamp"
    );
    assert_eq!(contract("day", "\"2024-02-30\""), "column `day`: `2024-02-30` is not a value of type date");
    assert_eq!(contract("ok", "\"true\""), "column `ok`: `\"true\"` is not a value of type boolean");
    assert_eq!(contract("raw", "\"0g\""), "column `raw`: `0g` is not a value of type bytea");
}

#[test]
fn nested_values_are_checked_like_others() {
    assert_eq!(value("tags", "[]"), Ok(json!([])));
    assert_eq!(contract("tags", "[1, \"x\"]"), "column `tags[]`: `x` is not a value of type int");
    assert_eq!(contract("tags", "{}"), "column `tags` is not a list");
    assert_eq!(value("place", r#"{"x":1}"#), Ok(json!({"city": null, "lat": null})));
    assert_eq!(contract("place", r#"{"lat":"north"}"#), "column `place.lat`: `north` is not a value of type double");
    assert_eq!(contract("place", "[]"), "column `place` is not an object");
}

#[test]
fn not_null_within_lists_and_structs_rejects_only_the_rows_that_break_it() {
    let item = Field::new("item", DataType::Struct(vec![Field::new("n", DataType::Int64, false)].into()), false);
    let schema = Arc::new(Schema::new(vec![Field::new("items", DataType::List(Arc::new(item)), true)]));
    let rows = [
        r#"{"items":[{"n":1},{"n":2}]}"#,
        r#"{"items":[{"n":1},{}]}"#,
        r#"{"items":[null]}"#,
        r#"{"items":null}"#,
        r#"{"items":[]}"#,
        r#"{"items":[{"n":3}]}"#,
    ];
    let decoded = Decoder::new(schema).unwrap().decode(&raw(&rows));
    assert_eq!(decoded.kept, Some(vec![0, 3, 4, 5]));
    let kept = rows_to_values(&decoded.batch).unwrap();
    assert_eq!(kept[0], json!({"items": [{"n": 1}, {"n": 2}]}));
    assert_eq!(kept[3], json!({"items": [{"n": 3}]}));
}

#[test]
fn a_long_value_is_shown_shortened() {
    let message = contract("id", &format!("\"{}\"", "x".repeat(5_000_000)));
    assert_eq!(message.chars().count(), 80 + "column `id`: `…` is not a value of type bigint".chars().count());
}

#[test]
fn many_columns_are_found_by_name() {
    let fields: Vec<Field> = (0..40).map(|n| Field::new(format!("c{n}"), DataType::Int64, true)).collect();
    let row: Vec<String> = (0..40).rev().map(|n| format!("\"c{n}\":{n}")).collect();
    let mut decoder = Decoder::new(Arc::new(Schema::new(fields))).unwrap();
    let decoded = decoder.decode(&raw(&[format!("{{{}}}", row.join(","))]));
    assert_eq!(decoded.batch.column(39).as_primitive::<Int64Type>().value(0), 39);
}

#[test]
fn a_type_without_a_way_from_json_is_refused_beforehand() {
    let map = DataType::Map(
        Arc::new(Field::new("entries", DataType::Struct(arrow::datatypes::Fields::empty()), false)),
        false,
    );
    assert!(Decoder::new(Arc::new(Schema::new(vec![Field::new("m", map, true)]))).is_err());
}

#[test]
fn rows_are_written_with_all_columns_one_a_line() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("t", DataType::Timestamp(TimeUnit::Second, None), true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::NEG_INFINITY), Some(1.5), None, Some(1e300)])),
        Arc::new(StringArray::from(vec![Some("a\nb\"c\u{1}"), None, Some("é"), Some(""), None])),
        Arc::new(TimestampSecondArray::from(vec![Some(0), None, Some(253_402_300_799), Some(-1), None])),
    ];
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    let mut text = Text::default();
    Encoder::new().encode(&batch, &mut text).unwrap();
    assert_eq!(text.rows, 5);
    let expected = concat!(
        "{\"n\":\"NaN\",\"s\":\"a\\nb\\\"c\\u0001\",\"t\":\"1970-01-01T00:00:00Z\"}\n",
        "{\"n\":\"-Infinity\",\"s\":null,\"t\":null}\n",
        "{\"n\":1.5,\"s\":\"é\",\"t\":\"9999-12-31T23:59:59Z\"}\n",
        "{\"n\":null,\"s\":\"\",\"t\":\"1969-12-31T23:59:59Z\"}\n",
        "{\"n\":1e+300,\"s\":null,\"t\":null}\n",
    );
    assert_eq!(std::str::from_utf8(&text.bytes).unwrap(), expected);
    let lines: Vec<Bytes> = expected.lines().map(|line| Bytes::copy_from_slice(line.as_bytes())).collect();
    assert_eq!(rows_to_text(&batch).unwrap(), lines);
    assert_eq!(Encoder::new().head(), Bytes::new());
}

/// Whether serde_json takes the row for an object; of depth it knows less than we do.
fn is_object(row: &[u8]) -> bool {
    serde_json::from_slice::<std::collections::HashMap<String, serde::de::IgnoredAny>>(row).is_ok()
}

fn json_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\"id\""),
        Just("\"name\""),
        Just("1"),
        Just("-1.5e3"),
        Just("\"a\\n\""),
        Just("true"),
        Just("null"),
        Just(" "),
        Just("\""),
        Just("\\"),
        Just("0"),
        Just("\\u00e9"),
        Just("é"),
        Just("{\"id\":1"),
        Just("\"tags\":[1,2]"),
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_date_of_any_year_comes_back_as_it_was(days in any::<i32>()) {
        let schema = Arc::new(Schema::new(vec![Field::new("day", DataType::Date32, true)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(arrow::array::Date32Array::from(vec![days]))]).unwrap();
        let rows = rows_to_text(&batch).unwrap();
        let decoded = Decoder::new(schema).unwrap().decode(&raw(&rows));
        prop_assert_eq!(&decoded.rejects, &[]);
        prop_assert_eq!(decoded.batch, batch);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_is_an_object_is_agreed_on_with_serde_json(row in json_like(), inner in json_like()) {
        for row in [row, format!("{{\"id\":1,\"x\":{inner}}}"), format!("{{{inner}}}")] {
            let decoded = decode(&[&row]);
            let malformed = decoded.rejects.iter().any(|reject| reject.class == Class::Decode);
            prop_assert_eq!(malformed, !is_object(row.as_bytes()), "{}", row);
        }
    }

    #[test]
    fn what_a_row_becomes_does_not_depend_on_its_neighbours(
        rows in prop::collection::vec(
            prop_oneof![
                json_like(),
                "\\{\"id\":[0-9]{1,3}(,\"amount\":[0-9]\\.[0-9]e[0-9]{1,3})?(,\"tags\":\\[[0-9x\"]{0,3}\\])?\\}",
            ].prop_flat_map(|row| prop_oneof![
                4 => Just(row.clone().into_bytes()),
                1 => any::<prop::sample::Index>().prop_map(move |at| {
                    let mut bytes = row.clone().into_bytes();
                    let at = at.index(bytes.len().max(1));
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte = 0xff);
                    bytes
                }),
            ]),
            0..12,
        ),
    ) {
        let together = decode(&rows);
        let (mut kept, mut rejects, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            let alone = decode(&[row]);
            if alone.rejects.is_empty() {
                kept.push(at as u32);
            }
            rejects.extend(alone.rejects.into_iter().map(|reject| crate::failure::Reject { row: at, ..reject }));
            batches.push(alone.batch);
        }
        prop_assert_eq!(together.batch, arrow::compute::concat_batches(&schema(), &batches).unwrap());
        prop_assert_eq!(together.kept.unwrap_or_else(|| (0..rows.len() as u32).collect()), kept);
        prop_assert_eq!(together.rejects, rejects);
    }

    #[test]
    fn what_is_written_is_read_as_the_same_row(
        rows in prop::collection::vec((any::<i64>(), any::<Option<String>>(), any::<Option<f64>>()), 1..8),
    ) {
        let schema = Arc::new(Schema::new(schema().fields().iter().take(3).cloned().collect::<Vec<_>>()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let lines = rows_to_text(&batch).unwrap();
        prop_assert_eq!(lines.len(), rows.len());
        let decoded = Decoder::new(schema).unwrap().decode(&raw(&lines));
        prop_assert_eq!(&decoded.rejects, &[]);
        for (value, row) in rows_to_values(&batch).unwrap().iter().zip(&rows) {
            prop_assert_eq!(value["amount"].as_f64(), row.2.filter(|amount| amount.is_finite()));
        }
        prop_assert_eq!(decoded.batch.column(0), batch.column(0));
        prop_assert_eq!(decoded.batch.column(1), batch.column(1));
        let bits = |batch: &RecordBatch| {
            let column = batch.column(2).as_primitive::<Float64Type>();
            column.iter().map(|value| value.map(|value| if value.is_nan() { 0 } else { value.to_bits() })).collect::<Vec<_>>()
        };
        prop_assert_eq!(bits(&decoded.batch), bits(&batch));
    }
}
