//! `fidelio run` as a user meets it: the example, a second run, parts of a pipeline, standard input, signals, HTTP.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Running, Scratch, Summary, get, is_ready, text, until};

const CHAIN: &str = r#"
[pipeline]
company = "acme"
namespace = "run"

[stages.numbers]
source = { kind = "file", path = "in.ndjson" }
[stages.numbers.schema]
n = "bigint not null"

[stages.odd]
from = ["numbers"]
sql = "SELECT n FROM numbers WHERE n % 2 = 1"
[stages.odd.events]
Seven = "SELECT n FROM odd WHERE n % 10 = 7"

[stages.squares]
from = ["odd"]
sql = "SELECT n, n * n AS square FROM odd"

[stages.out]
from = ["squares"]
sink = { kind = "file", path = "out.ndjson" }
"#;

fn numbers(from: u64, to: u64) -> String {
    (from..to).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

#[test]
fn the_flights_example_accounts_for_every_row() {
    let scratch = Scratch::new();
    let file = flights(&scratch);
    let output = scratch.fidelio(&["run", text(&file), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = Summary(serde_json::from_slice(&output.stdout).unwrap());
    summary.assert_balanced();
    assert!(summary.counts().len() >= 5);
    assert_eq!(summary.of("schedule", "rows_in"), 27_004);
}

/// A copy of the example, as nobody has run it yet; gives its file.
pub fn flights(scratch: &Scratch) -> PathBuf {
    let copy = scratch.path("flights");
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/flights"), &copy);
    copy.join("flights.toml")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        match entry.file_type().unwrap().is_dir() {
            // What an earlier run by hand has left there is not part of the example.
            true if name == "log" || name == "out" => {}
            true => copy_folder(&entry.path(), &to.join(name)),
            false => drop(std::fs::copy(entry.path(), to.join(name)).unwrap()),
        }
    }
}

#[test]
fn rows_come_out_with_the_windows_they_are_in() {
    let scratch = Scratch::with(
        r#"
[pipeline]
company = "acme"
namespace = "run"
[stages.visits]
source = { kind = "file", path = "in.ndjson" }
schema = { n = "bigint not null", at = "timestamp" }
[stages.hours]
from = ["visits"]
sql = "SELECT n, window_start, window_end FROM tumble(visits, at, INTERVAL '1 hour')"
[stages.days]
from = ["hours"]
sql = "SELECT n, window_end AS e FROM hop(hours, window_start, INTERVAL '12 hours', INTERVAL '1 day')"
[stages.out]
from = ["days"]
sink = { kind = "file", path = "out.ndjson" }
"#,
    );
    let rows =
        [json!({"n": 1, "at": "2013-01-01T10:59:59Z"}), json!({"n": 2}), json!({"n": 3, "at": "1969-12-31T23:00:00Z"})];
    scratch.write("in.ndjson", rows.map(|row| format!("{row}\n")).concat());
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!((summary.of("hours", "dead_lettered"), summary.of("days", "expanded")), (1, 2));
    let ends = scratch.ndjson("out.ndjson");
    let ends: Vec<String> = ends.iter().map(|row| format!("{} {}", row["n"], row["e"].as_str().unwrap())).collect();
    assert_eq!(
        ends,
        ["1 2013-01-01T12:00:00Z", "1 2013-01-02T00:00:00Z", "3 1970-01-01T00:00:00Z", "3 1970-01-01T12:00:00Z"]
    );
}

#[test]
fn a_chain_filters_derives_and_counts() {
    let scratch = Scratch::with(CHAIN);
    scratch.write("in.ndjson", numbers(0, 1000));
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(summary.of("numbers", "rows_out"), 1000);
    assert_eq!(summary.of("odd", "filtered"), 500);
    assert_eq!(summary.of("odd", "events"), 100);
    let rows = scratch.ndjson("out.ndjson");
    assert_eq!(rows.len(), 500);
    assert_eq!(rows[1], json!({"n": 3, "square": 9}));
    let is_of_domain = |event: &Value| event["row"]["type"].as_str().is_some_and(|kind| kind.starts_with("acme."));
    let events: Vec<Value> = scratch.tail("acme.run.odd.events").into_iter().filter(is_of_domain).collect();
    assert_eq!(events.len(), 100);
    assert_eq!(events[0]["row"]["type"], "acme.run.odd.Seven");
    assert_eq!(events[0]["row"]["data"], json!({"n": 7}));
    assert_eq!(events[0]["row"]["specversion"], "1.0");
    let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event["row"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 100, "ids are not unique");
}

#[test]
fn events_of_any_type_and_rows_in_any_partition_have_ids_of_their_own() {
    let pipeline = r#"
[pipeline]
company = "acme"
namespace = "ids"
[stages.lists]
source = { kind = "file", path = "in.ndjson" }
[stages.lists.schema]
id = "bigint not null"
list = "bigint[]"
[stages.items]
from = ["lists"]
sql = "SELECT id, UNNEST(list) AS item FROM lists"
format = "json"
key = ["item"]
partitions = 3
[stages.items.events]
Even = "SELECT item FROM items WHERE item % 2 = 0"
Any = "SELECT item FROM items"
[stages.out]
from = ["items"]
sink = { kind = "file", path = "out-{partition}.ndjson" }
"#;
    let scratch = Scratch::with(pipeline);
    scratch.write("in.ndjson", (0..20).map(|id| format!("{{\"id\":{id},\"list\":[1,2,3,4,5]}}\n")).collect::<String>());
    scratch.run().assert_balanced();
    let topics = scratch.topics();
    let mut ids = std::collections::BTreeSet::new();
    let mut made = 0;
    for (partition, records) in &topics {
        for record in records {
            let id = match record.headers.get("ce_id") {
                Some(id) => String::from_utf8(id.to_vec()).unwrap(),
                None if partition.topic.as_str().ends_with("items.events") => {
                    let event: Value = serde_json::from_slice(record.payload()).unwrap();
                    event["id"].as_str().unwrap().to_owned()
                }
                None => continue,
            };
            made += 1;
            ids.insert(id);
        }
    }
    assert_eq!((made, ids.len()), (100 + 40 + 100, 240));
}

#[test]
fn a_header_line_that_makes_no_sense_makes_dead_letters_and_other_files_go_on() {
    let scratch = Scratch::with(&CHAIN.replace("in.ndjson", "in/*.csv"));
    scratch.write("in/a.csv", "n,n\n1,2\n").write("in/b.csv", "n\n3\n");
    scratch.run().assert_balanced();
    assert_eq!(scratch.ndjson("out.ndjson"), [json!({"n": 3, "square": 9})]);
    assert_eq!(scratch.dead_letters()[0]["value"], "1,2");
}

#[test]
fn what_a_tool_looks_for_before_the_first_run_is_said_not_to_be_there() {
    let scratch = Scratch::with(CHAIN);
    let output = scratch.fidelio(&["tail", "odd"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no pipeline has run yet"));
}

#[test]
fn what_a_run_says_has_the_names_of_variables_and_not_what_they_hold() {
    let scratch = Scratch::with(&CHAIN.replace("in.ndjson", "${FOLDER}/in.ndjson"));
    let output = scratch.command(&["run", "p.toml"]).env("FOLDER", "hunter2hunter2").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("${FOLDER}") && !said.contains("hunter2"), "{said}");
    scratch.write("p.toml", CHAIN.replacen("[stages.", "[bus]\ndata_dir = \"${FOLDER}\"\n[stages.", 1));
    for arguments in
        [&["forget", "p.toml", "former"][..], &["tail", "out", "--pipeline", "p.toml"], &["dlq", "list", "p.toml"]]
    {
        let output = scratch.command(arguments).env("FOLDER", "hunter2hunter2").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("${FOLDER}") && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_second_run_does_nothing_twice_and_reads_what_was_appended() {
    let scratch = Scratch::with(CHAIN);
    scratch.write("in.ndjson", numbers(0, 100));
    let first = scratch.run();
    let second = scratch.run();
    assert_eq!(first.counts(), second.counts());
    scratch.write("in.ndjson", numbers(0, 150));
    let third = scratch.run();
    assert_eq!(third.of("numbers", "rows_in"), 150);
    assert_eq!(scratch.ndjson("out.ndjson").len(), 75);
}

#[test]
fn stages_can_be_run_one_at_a_time() {
    let scratch = Scratch::with(CHAIN);
    scratch.write("in.ndjson", numbers(0, 100));
    for (stage, pending) in [("numbers", 100), ("odd", 0), ("squares", 0), ("out", 0)] {
        let output = scratch.fidelio(&["run", "p.toml", "--json", "--stage", stage]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let summary = Summary(serde_json::from_slice(&output.stdout).unwrap());
        assert_eq!(summary.of("odd", "pending"), pending);
        assert_eq!(summary.of("odd", "lost"), 0);
    }
    assert_eq!(scratch.ndjson("out.ndjson").len(), 50);
    let sink = scratch.fidelio(&["tail", "out", "--pipeline", "p.toml"]);
    assert!(String::from_utf8_lossy(&sink.stderr).contains("out is a sink"));
    assert_eq!(scratch.fidelio(&["run", "p.toml", "--stage", "none"]).status.code(), Some(2));
}

#[test]
fn standard_input_goes_to_standard_output() {
    let pipeline = CHAIN
        .replace(r#"{ kind = "file", path = "in.ndjson" }"#, r#"{ kind = "stdin", format = "ndjson" }"#)
        .replace(r#"{ kind = "file", path = "out.ndjson" }"#, r#"{ kind = "stdout", format = "csv" }"#);
    let scratch = Scratch::with(&pipeline);
    let mut child = scratch
        .command(&["run", "p.toml"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(numbers(0, 6).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "n,square\n1,1\n3,9\n5,25\n");
    let table = String::from_utf8(output.stderr).unwrap();
    assert!(table.contains("squares"), "{table}");
    assert_eq!(scratch.fidelio(&["run", "p.toml", "--json"]).status.code(), Some(2));
}

#[test]
fn a_csv_without_rows_has_its_header_line() {
    let scratch = Scratch::with(&CHAIN.replace("out.ndjson", "out.csv"));
    scratch.write("in.ndjson", "{\"n\":2}\n");
    scratch.run().assert_balanced();
    assert_eq!(scratch.read("out.csv"), "n,square\n");
    scratch.write("in.ndjson", "{\"n\":2}\n{\"n\":3}\n");
    scratch.run().assert_balanced();
    assert_eq!(scratch.read("out.csv"), "n,square\n3,9\n");
}

#[test]
fn a_worker_that_follows_a_file_drains_and_ends_well_on_sigterm() {
    let pipeline = CHAIN.replace("in.ndjson\" }", "in.ndjson\", follow = true }");
    let scratch = Scratch::with(&pipeline);
    scratch.write("in.ndjson", numbers(0, 1000));
    let mut run = Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
    until("the first rows are out", || {
        scratch.path("out.ndjson").exists() && scratch.read("out.ndjson").lines().count() == 500
    });
    let mut file = std::fs::OpenOptions::new().append(true).open(scratch.path("in.ndjson")).unwrap();
    file.write_all(numbers(1000, 2000).as_bytes()).unwrap();
    until("the others are out", || scratch.read("out.ndjson").lines().count() == 1000);
    run.terminate();
    let summary = Summary(serde_json::from_str(&run.ended_well()).unwrap());
    summary.assert_balanced();
    assert_eq!(summary.of("numbers", "rows_in"), 2000);
}

#[test]
fn a_running_worker_is_seen_over_http_and_beside_it() {
    let pipeline = CHAIN.replace("in.ndjson\" }", "in.ndjson\", follow = true }");
    let scratch = Scratch::with(&pipeline);
    scratch.write("in.ndjson", numbers(0, 100) + "not a number\n");
    let mut command = scratch.command(&["run", "p.toml", "--http", "127.0.0.1:0"]);
    let mut run = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = run.http_address();

    until("it is ready", || is_ready(&address));
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    let rows_out = r#"fidelio_rows_out_total{pipeline="acme.run",stage="out",task="0"} 50"#;
    until("all rows are counted", || get(&address, "/metrics").contains(rows_out));
    until("topics are measured", || {
        let metrics = get(&address, "/metrics");
        let letters = r#"{topic="acme.run.numbers.private.dlq",partition="0"}"#;
        metrics.contains(&format!("fidelio_topic_end_offset{letters} 1"))
            && metrics.contains(&format!("fidelio_topic_first_offset{letters} 0"))
    });
    let metrics = get(&address, "/metrics");
    for expected in [
        "# HELP fidelio_rows_in_total ",
        "# TYPE fidelio_rows_in_total counter",
        r#"fidelio_rows_dead_lettered_total{pipeline="acme.run",stage="numbers",task="0"} 1"#,
        r#"fidelio_events_total{pipeline="acme.run",stage="odd",task="0"} 10"#,
        r#"fidelio_lag_seconds_bucket{pipeline="acme.run",stage="out",task="0",le="+Inf"}"#,
    ] {
        assert!(metrics.contains(expected), "no {expected} in\n{metrics}");
    }

    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(documented.contains(&format!("| `{name}` | {kind} | ")), "{line}");
    }

    let second = scratch.fidelio(&["run", "p.toml"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use by another process"), "{said}");

    assert_eq!(scratch.tail("squares").len(), 50);
    let letters = scratch.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["value"], "not a number");
    run.terminate();
    run.ended_well();
}

#[test]
fn a_worker_that_keeps_running_ends_on_sigterm_only() {
    let scratch = Scratch::with(CHAIN);
    scratch.write("in.ndjson", numbers(0, 100));
    let mut run = Running::start(&mut scratch.command(&["run", "p.toml", "--keep-running"]));
    until("all rows are out", || {
        scratch.path("out.ndjson").exists() && scratch.read("out.ndjson").lines().count() == 50
    });
    assert!(run.is_running());
    run.terminate();
    run.ended_well();
}

#[test]
fn rows_spread_over_partitions_by_key_and_none_is_lost() {
    let pipeline = r#"
[pipeline]
company = "acme"
namespace = "keys"
[stages.numbers]
source = { kind = "file", path = "in.ndjson" }
key = ["g"]
partitions = 4
[stages.numbers.schema]
n = "bigint not null"
g = "text not null"
[stages.doubled]
from = ["numbers"]
format = "json"
sql = "SELECT n * 2 AS n, g FROM numbers"
key = ["g"]
[stages.again]
from = ["doubled"]
sql = "SELECT n, g FROM doubled"
[stages.out]
from = ["again"]
sink = { kind = "file", path = "out-{partition}.ndjson" }
"#;
    let scratch = Scratch::with(pipeline);
    let rows: String = (0..1000).map(|n| format!("{{\"n\":{n},\"g\":\"g{}\"}}\n", n % 13)).collect();
    scratch.write("in.ndjson", rows);
    let summary = scratch.run();
    summary.assert_balanced();
    let mut seen = std::collections::BTreeMap::new();
    for partition in 0..4 {
        for row in scratch.ndjson(&format!("out-{partition}.ndjson")) {
            let group = row["g"].as_str().unwrap().to_owned();
            let last = seen.insert(group.clone(), (partition, row["n"].as_i64().unwrap()));
            if let Some((other, n)) = last {
                assert_eq!(other, partition, "{group} is in two partitions");
                assert!(n < row["n"].as_i64().unwrap(), "{group} is out of order");
            }
        }
    }
    assert_eq!(seen.len(), 13);
    assert!(seen.values().any(|(partition, _)| *partition != seen["g0"].0), "all in one partition");
    let message = &scratch.tail("acme.keys.doubled.results")[0];
    assert_eq!(message["key"], message["row"]["g"]);
}
