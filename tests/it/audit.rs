//! `fidelio audit`: what is in the topics is what the books say, and where it is not, it is found and located.

use std::process::Output;

use fidelio::bus::Message;
use serde_json::{Value, json};

use crate::facts::assert_documented;
use crate::support::{Running, Scratch, lines, until};
use crate::tamper::{copy, with_rows};

pub const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "audit"
[stages.orders]
source = { kind = "file", path = "in.ndjson" }
event_time = { column = "at", out_of_orderness = "1m" }
[stages.orders.schema]
id = "bigint not null"
at = "timestamp not null"
amount = "text"
[stages.priced]
from = ["orders"]
sql = "SELECT id, at, CAST(amount AS INT) AS amount FROM orders WHERE id % 10 <> 3"
[stages.minutes]
from = ["priced"]
sql = "SELECT window_start, count(*) AS n FROM tumble(priced, at, INTERVAL '1 minute') GROUP BY window_start"
[stages.out]
from = ["priced"]
sink = { kind = "file", path = "out.ndjson" }
[stages.sums]
from = ["minutes"]
sink = { kind = "file", path = "sums.ndjson" }
"#;

/// An order a second, of which some have an amount that is no number.
fn orders(ids: std::ops::Range<u64>) -> String {
    let order = |id: u64| {
        let at = format!("2024-05-01T10:{:02}:{:02}Z", id / 60, id % 60);
        let amount = if id % 50 == 7 { "junk".to_owned() } else { id.to_string() };
        json!({ "id": id, "at": at, "amount": amount }).to_string() + "\n"
    };
    ids.map(order).collect()
}

/// Runs the pipeline, as far as these stages, and gives its folder.
fn ran(stages: &[&str]) -> Scratch {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in.ndjson", orders(0..600));
    let mut arguments = vec!["run", "p.toml"];
    stages.iter().for_each(|stage| arguments.extend(["--stage", stage]));
    assert!(scratch.fidelio(&arguments).status.success());
    scratch
}

fn audit(scratch: &Scratch, data: &str) -> Output {
    scratch.fidelio(&["audit", "p.toml", "--json", "--data-dir", data])
}

/// What does not balance.
fn findings(scratch: &Scratch, data: &str) -> Vec<Value> {
    let output = audit(scratch, data);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap().clone();
    assert_eq!(output.status.code(), Some(if findings.is_empty() { 0 } else { 1 }), "{findings:?}");
    findings
}

/// What does not balance, in the terms of the check.
fn places(findings: &[Value]) -> Vec<(String, Option<String>, i64)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let place = |finding: &Value| {
        let from = text(&finding["from"]).map(|from| from + " ").unwrap_or_default();
        let place = format!("{from}{} {}", text(&finding["stage"]).unwrap(), text(&finding["check"]).unwrap());
        (place, text(&finding["minute"]), finding["rows"].as_i64().unwrap())
    };
    findings.iter().map(place).collect()
}

fn place(place: &str, minute: u32, rows: i64) -> (String, Option<String>, i64) {
    (place.to_owned(), Some(format!("2024-05-01T10:{minute:02}:00Z")), rows)
}

/// Runs the rest of the pipeline on the copy. What the two stages behind `priced` notice is said once by each, and is in their books.
fn noticed(scratch: &Scratch, what: &str) -> String {
    let output = scratch.fidelio(&["run", "p.toml", "--data-dir", "copy"]);
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8(output.stderr).unwrap();
    let said: Vec<&str> = log.lines().filter(|line| line.contains(what)).collect();
    assert!(said.len() == 2 && said.iter().all(|line| line.contains("ERROR")), "{log}");
    let found: Value = serde_json::from_slice(&audit(scratch, "copy").stdout).unwrap();
    for stage in [2, 3] {
        let minutes = found["stages"][stage]["minutes"].as_array().unwrap();
        assert_eq!(minutes.iter().filter_map(|line| line["lost"].as_i64()).map(i64::abs).sum::<i64>(), 1);
    }
    let events = scratch.fidelio(&["tail", "acme.audit.out.events", "--data-dir", "copy"]);
    let events = lines(&events.stdout);
    let missing = events.iter().find(|event| event["type"] == "fidelio.rows.missing").unwrap();
    assert_documented("rows.missing", &missing["data"]);
    said[0].to_owned()
}

fn is_of(message: &Message, topic: &str) -> bool {
    message.partition.topic.as_str() == format!("acme.audit.{topic}")
}

/// Whether a message is a page of the ledger of a stage.
fn is_page(message: &Message, stage: &str) -> bool {
    let text = String::from_utf8_lossy(message.record.payload()).into_owned();
    is_of(message, &format!("{stage}.events")) && text.contains("\"type\":\"fidelio.ledger\"")
}

#[test]
fn every_row_of_a_run_is_accounted_for_by_stage_and_minute() {
    let scratch = ran(&[]);
    assert!(findings(&scratch, "data").is_empty());
    copy(&scratch, "copy", |message| vec![message.record.clone()]);
    assert!(findings(&scratch, "copy").is_empty());

    let found: Value = serde_json::from_slice(&audit(&scratch, "data").stdout).unwrap();
    let minutes = |stage: usize| found["stages"][stage]["minutes"].as_array().unwrap().clone();
    let expected = json!({
        "minute": "2024-05-01T10:03:00Z", "rows_in": 60, "rows_out": 53, "filtered": 6, "dead_lettered": 1, "final": true,
    });
    assert_eq!((found["stages"][1]["stage"].as_str(), &minutes(1)[3]), (Some("priced"), &expected));
    // What a window yields is of the minute in which it begins.
    let expected = json!({
        "minute": "2024-05-01T10:03:00Z", "rows_in": 53, "rows_out": 1, "absorbed": 53, "emitted": 1, "final": true,
    });
    assert_eq!((found["stages"][2]["stage"].as_str(), &minutes(2)[3]), (Some("minutes"), &expected));

    // From end to end, each row that is read by two stages is there once more.
    let ways = found["ways"].as_array().unwrap();
    let of = |way: &Value| [&way["from"][0], &way["to"]].map(|stage| stage.as_str().unwrap().to_owned());
    assert_eq!(ways.iter().map(of).collect::<Vec<_>>(), [["orders", "out"], ["orders", "sums"]]);
    let expected = [
        json!({ "rows_in": 600, "rows_out": 528, "filtered": 60, "dead_lettered": 12, "lost": 0 }),
        json!({ "rows_in": 600, "rows_out": 10, "filtered": 60, "dead_lettered": 12, "absorbed": 528, "emitted": 10, "lost": 0 }),
    ];
    assert_eq!([&ways[0]["total"], &ways[1]["total"]], [&expected[0], &expected[1]]);
    let minute = json!({ "minute": "2024-05-01T10:03:00Z", "rows_in": 60, "rows_out": 53, "filtered": 6, "dead_lettered": 1, "lost": 0 });
    assert_eq!(ways[0]["minutes"][3], minute);

    let part = scratch.fidelio(&[
        "audit",
        "p.toml",
        "--json",
        "--from",
        "2024-05-01T10:03:00Z",
        "--to",
        "2024-05-01T10:05:00Z",
    ]);
    let found: Value = serde_json::from_slice(&part.stdout).unwrap();
    assert_eq!(found["stages"][0]["minutes"].as_array().unwrap().len(), 2);
    let shown = scratch.fidelio(&["audit", "p.toml"]);
    assert!(String::from_utf8_lossy(&shown.stdout).ends_with("every row is accounted for\n"));
    for wrong in ["yesterday", "99999-01-01"] {
        assert_eq!(scratch.fidelio(&["audit", "p.toml", "--from", wrong]).status.code(), Some(2));
    }
}

#[test]
fn a_pipeline_that_never_ran_has_nothing_to_account_for() {
    let scratch = Scratch::with(PIPELINE);
    let output = scratch.fidelio(&["audit", "p.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no pipeline has run yet"));
}

#[test]
fn a_row_that_is_deleted_from_a_topic_is_missed_where_it_was() {
    let scratch = ran(&[]);
    copy(&scratch, "copy", |message| match is_of(message, "priced.results") && message.record.rows > 0 {
        true => vec![with_rows(&message.record, 1..message.record.rows as usize)],
        false => vec![message.record.clone()],
    });
    assert_eq!(places(&findings(&scratch, "copy")), [place("priced results", 0, 1)]);
    let shown = scratch.fidelio(&["audit", "p.toml", "--data-dir", "copy"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("priced 2024-05-01T10:00:00Z +1: its ledger says 52 published, and its topic has 51"),
        "{shown}"
    );
}

#[test]
fn a_row_that_is_deleted_before_the_next_stage_has_read_it_is_missed_between_the_two() {
    let scratch = ran(&["orders", "priced"]);
    copy(&scratch, "copy", |message| match is_of(message, "priced.results") && message.record.rows > 0 {
        true => vec![with_rows(&message.record, 0..message.record.rows as usize - 1)],
        false => vec![message.record.clone()],
    });
    let said = noticed(&scratch, "rows are lost");
    assert!(said.contains("from=priced") && said.contains("rows=1"), "{said}");
    let found = places(&findings(&scratch, "copy"));
    let expected = [place("priced minutes hop", 9, 1), place("priced out hop", 9, 1), place("priced results", 9, 1)];
    assert_eq!(found, expected);
    let found: Value = serde_json::from_slice(&audit(&scratch, "copy").stdout).unwrap();
    let way = |number: usize| [&found["ways"][number]["minutes"][9]["lost"], &found["ways"][number]["total"]["lost"]];
    assert_eq!([way(0), way(1)], [[&json!(1), &json!(1)]; 2]);
}

#[test]
fn a_row_that_is_there_twice_is_one_too_many() {
    let scratch = ran(&["orders", "priced"]);
    copy(&scratch, "copy", |message| match is_of(message, "priced.results") && message.record.rows > 0 {
        true => vec![message.record.clone(), with_rows(&message.record, 100..101)],
        false => vec![message.record.clone()],
    });
    assert!(places(&findings(&scratch, "copy")).contains(&place("priced results", 1, -1)));
    let said = noticed(&scratch, "rows have come more than once");
    assert!(said.contains("from=priced") && said.contains("rows=1"), "{said}");
    let found = places(&findings(&scratch, "copy"));
    let expected = [place("priced minutes hop", 1, -1), place("priced out hop", 1, -1), place("priced results", 1, -1)];
    assert_eq!(found, expected);
}

#[test]
fn a_count_that_was_tampered_with_gives_itself_away() {
    let scratch = ran(&[]);
    copy(&scratch, "copy", |message| {
        let mut record = message.record.clone();
        if is_page(message, "priced") {
            let text = String::from_utf8(record.payload().to_vec()).unwrap();
            let minute = r#"{"minute":"2024-05-01T10:04:00Z","from":"orders","rows_in":60,"rows_out":53,"#;
            assert!(text.contains(minute), "{text}");
            record.value = Some(text.replace(minute, &minute.replace("53", "52")).into());
        }
        vec![record]
    });
    let found = places(&findings(&scratch, "copy"));
    let of_all = |stage: &str, rows| (format!("{stage} books"), None, rows);
    let expected = [
        place("priced minutes hop", 4, -1),
        place("priced out hop", 4, -1),
        place("orders priced stage", 4, 1),
        place("priced results", 4, -1),
        of_all("priced", 1),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_dead_letter_or_a_page_of_the_ledger_that_is_gone_is_missed() {
    let scratch = ran(&[]);
    scratch.write("in.ndjson", orders(0..900));
    assert!(scratch.fidelio(&["run", "p.toml"]).status.success());
    let mut letters = 0;
    copy(&scratch, "copy", |message| {
        letters += u32::from(is_of(message, "priced.private.dlq"));
        let is_gone = is_of(message, "priced.private.dlq") && letters == 3;
        if is_gone { Vec::new() } else { vec![message.record.clone()] }
    });
    assert_eq!(places(&findings(&scratch, "copy")), [place("priced dead-letters", 1, 1)]);

    let mut pages = 0;
    copy(&scratch, "torn", |message| {
        pages += u32::from(is_page(message, "orders"));
        let is_twice = is_page(message, "orders") && pages == 2;
        vec![message.record.clone(); if is_twice { 2 } else { 1 }]
    });
    let found = places(&findings(&scratch, "torn"));
    assert!(found.contains(&("orders pages".to_owned(), None, 2)), "{found:?}");
}

#[test]
fn a_running_pipeline_is_audited_while_rows_flow() {
    audited_while_rows_flow(PIPELINE);
}

/// The pipeline, which follows its input, is audited again and again: nothing is missing, and all that came in is seen in time.
pub fn audited_while_rows_flow(pipeline: &str) {
    let scratch = Scratch::with(&pipeline.replace("path = \"in.ndjson\" }", "path = \"in.ndjson\", follow = true }"));
    scratch.write("in.ndjson", orders(0..60));
    let mut running = Running::start(&mut scratch.command(&["run", "p.toml"]));
    until("there is something to look at", || !audit(&scratch, "data").stdout.is_empty());
    let mut input = std::fs::OpenOptions::new().append(true).open(scratch.path("in.ndjson")).unwrap();
    for minute in 1..9 {
        std::io::Write::write_all(&mut input, orders(minute * 60..minute * 60 + 60).as_bytes()).unwrap();
        let rows = |line: &Value| line["rows_in"].as_u64().unwrap_or(0);
        until("the rows of the minute are in the books", || {
            assert_eq!(findings(&scratch, "data"), [] as [Value; 0]);
            let found: Value = serde_json::from_slice(&audit(&scratch, "data").stdout).unwrap();
            let minutes = found["stages"][3]["minutes"].as_array().unwrap().clone();
            let priced = (0..minute * 60 + 60).filter(|id| id % 10 != 3 && id % 50 != 7).count() as u64;
            minutes.iter().map(rows).sum::<u64>() == priced
        });
    }
    running.terminate();
    running.ended_well();
    assert!(findings(&scratch, "data").is_empty());
}

#[test]
fn results_that_are_of_another_minute_than_their_rows_are_accounted_for_in_both() {
    let stage = "[stages.due]\nfrom = [\"priced\"]\nevent_time = { column = \"due\" }\n\
                 sql = \"SELECT id, at + INTERVAL '90 seconds' AS due FROM priced\"\n";
    let pipeline =
        PIPELINE.replace("[stages.out]\nfrom = [\"priced\"]", &format!("{stage}[stages.out]\nfrom = [\"due\"]"));
    let scratch = Scratch::with(&pipeline);
    scratch.write("in.ndjson", orders(0..600));
    scratch.run().assert_balanced();
    let output = audit(&scratch, "data");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["findings"], json!([]));
    let due = found["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "due").unwrap();
    let minutes = due["minutes"].as_array().unwrap();
    // All rows of the first minute are of later ones now, and in the last ones are only such.
    assert_eq!(
        (&minutes[0]["rows_in"], &minutes[0]["shifted"], minutes[0].get("rows_out")),
        (&json!(52), &json!(-52), None)
    );
    let last = minutes.last().unwrap();
    assert_eq!((last.get("rows_in"), &last["rows_out"]), (None, &last["shifted"]));
    let shifted = |line: &Value| line["shifted"].as_i64().unwrap_or(0);
    assert_eq!((minutes.len(), minutes.iter().map(shifted).sum::<i64>()), (12, 0));
}
