//! Bad input, one kind a test: what comes out, what becomes a dead letter, and that its neighbours go on.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::{Scratch, Summary};

fn pipeline(path: &str, more: &str) -> String {
    format!(
        r#"
[pipeline]
company = "acme"
namespace = "bad"

[stages.readings]
source = {{ kind = "file", path = "{path}" }}
[stages.readings.schema]
id = "bigint not null"
name = "text"
value = "double"

[stages.kept]
from = ["readings"]
sql = "SELECT id, name, value FROM readings"

[stages.out]
from = ["kept"]
sink = {{ kind = "file", path = "out.ndjson" }}
{more}"#
    )
}

/// What a run makes of a file: its summary, the sink's rows and the dead letters.
fn run(path: &str, content: impl AsRef<[u8]>) -> (Summary, Vec<Value>, Vec<Value>) {
    let scratch = Scratch::with(&pipeline(path, ""));
    scratch.write(path, content);
    let summary = scratch.run();
    summary.assert_balanced();
    // Whatever was wrong, it is wrong only once.
    assert_eq!(scratch.run().counts(), summary.counts());
    let rows = if scratch.path("out.ndjson").exists() { scratch.ndjson("out.ndjson") } else { Vec::new() };
    (summary, rows, scratch.dead_letters())
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

/// The good rows around a bad one in the middle; the bad one must be the only dead letter.
fn between_neighbours(bad: &[u8]) -> Value {
    let mut content = b"{\"id\":1}\n".to_vec();
    content.extend_from_slice(bad);
    content.extend_from_slice(b"\n{\"id\":2}\n");
    let (summary, rows, letters) = run("in.ndjson", content);
    assert_eq!(ids(&rows), [1, 2]);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(summary.of("readings", "dead_lettered"), 1);
    assert_eq!(letters[0]["stage"], "readings");
    assert_eq!(letters[0]["origin"], json!({"name": "in.ndjson", "partition": null, "offset": 9, "row": 1}));
    letters.into_iter().next().unwrap()
}

#[test]
fn a_line_that_is_no_json_is_a_dead_letter_with_its_bytes() {
    let letter = between_neighbours(b"this is \"not\" json");
    assert_eq!(letter["class"], "decode");
    assert_eq!(letter["value"], "this is \"not\" json");
}

#[test]
fn half_an_object_an_array_a_scalar_and_two_objects_are_dead_letters() {
    for bad in ["{\"id\":3", "[1]", "7", "{\"id\":3}{\"id\":4}", "\"x\"", "null", "}"] {
        let letter = between_neighbours(bad.as_bytes());
        assert_eq!((letter["class"].as_str(), letter["value"].as_str()), (Some("decode"), Some(bad)));
    }
}

#[test]
fn invalid_utf8_is_a_dead_letter_with_its_bytes_untouched() {
    let letter = between_neighbours(b"{\"id\":3,\"name\":\"\xff\xfe\"}");
    assert_eq!(letter["class"], "decode");
    assert_eq!(letter["value"]["base64"], "eyJpZCI6MywibmFtZSI6Iv/+In0=");
}

#[test]
fn a_missing_value_a_wrong_type_and_a_number_out_of_range_break_the_contract() {
    for bad in
        ["{\"name\":\"x\"}", "{\"id\":null}", "{\"id\":{}}", "{\"id\":9223372036854775808}", "{\"id\":3,\"value\":[]}"]
    {
        let letter = between_neighbours(bad.as_bytes());
        assert_eq!((letter["class"].as_str(), letter["value"].as_str()), (Some("contract"), Some(bad)));
    }
}

#[test]
fn nan_is_no_json_number_and_becomes_a_dead_letter() {
    assert_eq!(between_neighbours(b"{\"id\":3,\"value\":NaN}")["class"], "decode");
}

#[test]
fn nan_in_a_csv_is_a_number_and_comes_out_as_the_string_that_reads_back_as_it() {
    let (_, rows, letters) = run("in.csv", "id,name,value\n1,a,NaN\n2,b,-Infinity\n");
    assert_eq!(letters, Vec::<Value>::new());
    assert_eq!(rows[0]["value"], "NaN");
    assert_eq!(rows[1]["value"], "-Infinity");
    let (_, again, letters) = run("in.ndjson", "{\"id\":1,\"value\":\"NaN\"}\n{\"id\":2,\"value\":\"-Infinity\"}\n");
    assert_eq!(letters, Vec::<Value>::new());
    assert_eq!((&again[0]["value"], &again[1]["value"]), (&json!("NaN"), &json!("-Infinity")));
}

#[test]
fn of_duplicate_keys_the_last_one_counts() {
    let (_, rows, letters) = run("in.ndjson", "{\"id\":1,\"name\":\"first\",\"name\":\"last\"}\n");
    assert_eq!(letters, Vec::<Value>::new());
    assert_eq!(rows, [json!({"id": 1, "name": "last", "value": null})]);
}

#[test]
fn a_line_of_50_mb_goes_through_and_a_bad_one_is_a_dead_letter_in_full() {
    let name = "x".repeat(50 << 20);
    let (_, rows, letters) = run("in.ndjson", format!("{{\"id\":1,\"name\":\"{name}\"}}\n{{\"id\":2}}\n"));
    assert_eq!(letters, Vec::<Value>::new());
    assert_eq!(ids(&rows), [1, 2]);
    assert_eq!(rows[0]["name"].as_str().unwrap().len(), name.len());

    let letter = between_neighbours(format!("{{\"id\":\"no number\",\"name\":\"{name}\"}}").as_bytes());
    assert_eq!(letter["class"], "contract");
    assert!(letter["value"].as_str().unwrap().len() > name.len());
}

#[test]
fn a_line_over_the_limit_is_a_dead_letter_that_says_how_long_it_was() {
    let scratch = Scratch::with(
        &pipeline("in.ndjson", "").replace("path = \"in.ndjson\"", "path = \"in.ndjson\", max_row_bytes = \"1MB\""),
    );
    let name = "x".repeat(2 << 20);
    scratch.write("in.ndjson", format!("{{\"id\":1}}\n{{\"id\":2,\"name\":\"{name}\"}}\n{{\"id\":3}}\n"));
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(ids(&scratch.ndjson("out.ndjson")), [1, 3]);
    let letters = scratch.dead_letters();
    assert_eq!(letters[0]["class"], "too-large");
    assert!(letters[0]["message"].as_str().unwrap().contains("2097"), "{}", letters[0]["message"]);
}

#[test]
fn a_hundred_thousand_levels_of_nesting_neither_crash_nor_stop_the_others() {
    let deep = format!("{{\"id\":3,\"other\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let (_, rows, letters) = run("in.ndjson", format!("{{\"id\":1}}\n{deep}\n{{\"id\":2}}\n"));
    assert_eq!(letters, Vec::<Value>::new());
    // The column is not in the contract, so how deep it goes is nobody's business.
    assert_eq!(ids(&rows), [1, 3, 2]);
    let unclosed = format!("{{\"id\":3,\"other\":{}", "[".repeat(100_000));
    assert_eq!(between_neighbours(unclosed.as_bytes())["class"], "decode");
}

#[test]
fn crlf_blank_lines_a_byte_order_mark_and_a_missing_last_newline_change_nothing() {
    let (_, rows, letters) = run("in.ndjson", "\u{feff}{\"id\":1}\r\n\r\n{\"id\":2}\n\n\n{\"id\":3}");
    assert_eq!(letters, Vec::<Value>::new());
    assert_eq!(ids(&rows), [1, 2, 3]);
    let (_, rows, letters) = run("in.csv", "id,name,value\r\n1,\"a\r\nb\",2\r\n3,c,4");
    assert_eq!(letters, Vec::<Value>::new());
    assert_eq!(rows, [json!({"id": 1, "name": "a\r\nb", "value": 2.0}), json!({"id": 3, "name": "c", "value": 4.0})]);
}

#[test]
fn an_empty_file_and_a_header_alone_have_no_rows() {
    for (path, content) in [("in.ndjson", ""), ("in.ndjson", "\n\r\n"), ("in.csv", ""), ("in.csv", "id,name,value\n")] {
        let (summary, rows, letters) = run(path, content);
        assert_eq!(summary.of("readings", "rows_in"), 0);
        assert_eq!((rows, letters), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_csv_row_with_too_few_or_too_many_fields_is_a_dead_letter() {
    let (_, rows, letters) = run("in.csv", "name,id,value\na,1,1.5\nb,2\nc,3,2.5,x\nd,no,1\ne,4,\n");
    assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "e"]);
    let classes: Vec<_> =
        letters.iter().map(|letter| (letter["value"].as_str().unwrap(), letter["class"].as_str().unwrap())).collect();
    assert_eq!(classes, [("b,2", "decode"), ("c,3,2.5,x", "decode"), ("d,no,1", "contract")]);
}

#[test]
fn a_truncated_gzip_gives_its_whole_rows_and_one_dead_letter_for_the_torn_rest() {
    let scratch = Scratch::with(&pipeline("in.ndjson.gz", ""));
    scratch.write("in.ndjson.gz", gzip(1000, 0.5));
    let summary = scratch.run();
    summary.assert_balanced();
    let rows = scratch.ndjson("out.ndjson");
    assert!(!rows.is_empty() && rows.len() < 1000);
    assert_eq!(ids(&rows), (0..rows.len() as i64).collect::<Vec<_>>());
    let letters = scratch.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["class"], "decode");
    assert!(letters[0]["message"].as_str().unwrap().contains("in.ndjson.gz"), "{}", letters[0]["message"]);
    assert_eq!(scratch.run().counts(), summary.counts());
}

fn gzip(rows: u64, share: f64) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for id in 0..rows {
        writeln!(encoder, "{{\"id\":{id},\"value\":{}}}", id.wrapping_mul(0x9e37_79b9_7f4a_7c15) as f64).unwrap();
    }
    let mut bytes = encoder.finish().unwrap();
    bytes.truncate((bytes.len() as f64 * share) as usize);
    bytes
}

#[test]
fn a_row_that_an_expression_fails_on_is_a_dead_letter_of_its_stage_and_its_neighbours_go_on() {
    let pipeline = pipeline("in.ndjson", "").replace(
        "SELECT id, name, value FROM readings",
        "SELECT id * 4611686018427387904 AS id, CAST(name AS INT) AS name, 10 / (id + 1) AS value FROM readings",
    );
    let scratch = Scratch::with(&pipeline);
    let given = [(0, "1"), (1, "x"), (2, "3"), (-1, "4")];
    let rows: String = given.iter().map(|(id, name)| format!("{{\"id\":{id},\"name\":\"{name}\"}}\n")).collect();
    scratch.write("in.ndjson", rows);
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(scratch.ndjson("out.ndjson"), [json!({"id": 0, "name": 1, "value": 10})]);
    let letters = scratch.dead_letters();
    assert_eq!(letters.len(), 3);
    for (letter, (row, about)) in letters.iter().zip([(1, "x"), (2, "verflow"), (3, "by zero")]) {
        assert_eq!((letter["stage"].as_str(), letter["class"].as_str()), (Some("kept"), Some("expression")));
        assert_eq!(
            letter["origin"],
            json!({"name": "acme.bad.readings.results", "partition": 0, "offset": 0, "row": row})
        );
        assert_eq!(letter["value"], json!({"id": given[row].0, "name": given[row].1, "value": null}));
        assert!(letter["message"].as_str().unwrap().contains(about), "{letter}");
    }
}
