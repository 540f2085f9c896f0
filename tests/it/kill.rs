//! kill -9 at any instant, then the same command again: everything is as if nothing had happened.

use std::collections::BTreeMap;
use std::time::Duration;

use fidelio::bus::{Record, TopicPartition};

use proptest::prelude::Rng;
use proptest::test_runner::TestRunner;

use crate::support::{Running, Scratch, long};

/// Source, filter with events and dead letters, UNNEST by key over three partitions with a file for each, and a CSV.
const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "kill"

[stages.orders]
source = { kind = "file", path = "in/*.ndjson" }
event_time = { column = "at", out_of_orderness = "20s" }
[stages.orders.schema]
id = "bigint not null"
at = "timestamp not null"
amount = "text"
tags = "text[]"

[stages.priced]
from = ["orders"]
sql = "SELECT id, at, CAST(amount AS INT) AS amount, tags FROM orders WHERE id % 10 <> 3"
[stages.priced.events]
Large = "SELECT id, amount FROM priced WHERE amount > 900"

[stages.tagged]
from = ["priced"]
sql = "SELECT id, amount, UNNEST(tags) AS tag FROM priced"
key = ["tag"]
partitions = 3

[stages.out]
from = ["tagged"]
sink = { kind = "file", path = "out/tagged-{partition}.ndjson" }

[stages.csv]
from = ["priced"]
sql = "SELECT id, amount * 2 AS double FROM priced"

[stages.kinds]
from = ["priced"]
sql = """
SELECT window_start, id % 3 AS kind, count(*) AS n, sum(amount) AS total
FROM tumble(priced, at, INTERVAL '1 minute') GROUP BY window_start, id % 3
"""

[stages.largest]
from = ["priced"]
sql = """
SELECT window_start, id, amount, place FROM (
  SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY amount DESC, id) AS place
  FROM hop(priced, at, INTERVAL '20 seconds', INTERVAL '1 minute')
) WHERE place <= 2
"""

[stages.windows]
from = ["kinds"]
sink = { kind = "file", path = "out/kinds.ndjson" }

[stages.places]
from = ["largest"]
sink = { kind = "file", path = "out/largest.ndjson" }

[stages.csvout]
from = ["csv"]
sink = { kind = "file", path = "out/double.csv" }
"#;

/// Orders of which some are torn, some have an amount that is no number, some have no tags, and some are late.
fn orders(from: u64, to: u64) -> String {
    let mut text = String::new();
    for id in from..to {
        let tags: Vec<String> = (0..id % 4).map(|tag| format!("\"t{tag}\"")).collect();
        // Some are out of their order, and a few of them by more than can be waited for.
        let second = id / 20 + 10_000 - (id * 7919 % 23) - if id % 1009 == 8 { 5_000 } else { 0 };
        let at = format!(
            "2024-01-{:02}T{:02}:{:02}:{:02}Z",
            1 + second / 86_400,
            second / 3_600 % 24,
            second / 60 % 60,
            second % 60
        );
        match id % 97 {
            5 => text.push_str(&format!("{{\"id\":{id},\"amount\"\n")),
            7 => text.push_str(&format!("{{\"id\":{id},\"at\":\"{at}\",\"amount\":\"many\",\"tags\":[]}}\n")),
            _ => {
                let (amount, tags) = (id % 1000, tags.join(","));
                text.push_str(&format!("{{\"id\":{id},\"at\":\"{at}\",\"amount\":\"{amount}\",\"tags\":[{tags}]}}\n"));
            }
        }
    }
    text
}

fn scratch(rows: u64) -> Scratch {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in/a.ndjson", orders(0, rows / 2)).write("in/b.ndjson", orders(rows / 2, rows));
    scratch
}

#[test]
fn a_pipeline_that_is_killed_again_and_again_ends_as_one_that_never_was() {
    let rows = 300_000;
    let kills = if long() { 1000 } else { 100 };
    let undisturbed = scratch(rows);
    let expected = undisturbed.run();
    expected.assert_balanced();
    assert!(expected.of("kinds", "emitted") > 500 && expected.of("largest", "late") > 50, "{expected:?}");
    let expected_topics = undisturbed.topics();

    let mut runner = TestRunner::default();
    let mut killed = 0;
    while killed < kills {
        let disturbed = scratch(rows);
        loop {
            let mut run = Running::start(&mut disturbed.command(&["run", "p.toml", "--json"]));
            let pause = Duration::from_micros(u64::from(runner.rng().next_u32()) % 900_000);
            std::thread::sleep(pause);
            let status = run.kill();
            if status.success() {
                break;
            }
            assert_eq!(status.code(), None, "it ended by itself, and badly");
            killed += 1;
        }
        let last = disturbed.run();
        assert_eq!(last.counts(), expected.counts());
        assert_same_files(&disturbed, &undisturbed, "kills");
        assert_same_topics(&disturbed, &expected_topics, "kills");
        disturbed.assert_accounted_for();
    }
}

fn assert_same_files(found: &Scratch, expected: &Scratch, after: &str) {
    for file in
        ["tagged-0.ndjson", "tagged-1.ndjson", "tagged-2.ndjson", "double.csv", "kinds.ndjson", "largest.ndjson"]
    {
        let file = format!("out/{file}");
        assert!(found.read(&file) == expected.read(&file), "{file} differs after {after}");
    }
}

fn assert_same_topics(scratch: &Scratch, expected: &BTreeMap<TopicPartition, Vec<Record>>, after: &str) {
    let found = scratch.topics();
    assert!(found.keys().eq(expected.keys()), "other partitions after {after}");
    for (partition, expected) in expected {
        let found = &found[partition];
        let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        assert!(
            found.len() == expected.len() && same == expected.len(),
            "{partition} differs at offset {same} of {} after {after}: {}",
            expected.len(),
            difference(found.get(same), expected.get(same)),
        );
    }
}

fn difference(found: Option<&Record>, expected: Option<&Record>) -> String {
    let (Some(found), Some(expected)) = (found, expected) else { return "one of them ends".to_owned() };
    let at = found.payload().iter().zip(expected.payload()).position(|(found, expected)| found != expected);
    let bytes = |record: &Record| record.payload().iter().skip(at.unwrap_or(0)).take(16).copied().collect::<Vec<u8>>();
    format!(
        "values of {} and {} bytes differ at {at:?}: {:?} {:?}; {:?} {:?}, {} {} rows",
        found.payload().len(),
        expected.payload().len(),
        bytes(found),
        bytes(expected),
        found.headers,
        expected.headers,
        found.rows,
        expected.rows,
    )
}

/// Every step of a commit, and every way in which it can fail.
const POINTS: [&str; 14] = [
    "commit.append",
    "commit.append.done",
    "commit.sync-data",
    "commit.sync-data.done",
    "commit.journal",
    "commit.journal.done",
    "commit.sync-journal",
    "commit.sync-journal.done",
    "commit.publish",
    "sink.write",
    "sink.write.done",
    "sink.sync",
    "sink.sync.done",
    "segment.create",
];

#[test]
fn a_pipeline_that_fails_at_any_step_of_a_commit_goes_on_as_if_it_had_not() {
    let rows = 20_000;
    let undisturbed = scratch(rows);
    let expected = undisturbed.run();
    let expected_topics = undisturbed.topics();
    for point in POINTS {
        for action in ["return(kill)", "return(eio)", "return(enospc)"] {
            let disturbed = scratch(rows);
            for passes in [0, 1, 2, 5] {
                let fail = format!("{point}={passes}*off->1*{action}->off");
                let output = disturbed.command(&["run", "p.toml", "--json"]).env("FAILPOINTS", &fail).output().unwrap();
                let reached = !output.status.success();
                let by_itself = action != "return(kill)";
                if reached && by_itself {
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert_eq!(output.status.code(), Some(1), "{fail}: {said}");
                }
                assert!(reached || passes > 0, "{fail} was never reached");
            }
            assert_eq!(disturbed.run().counts(), expected.counts(), "{point} {action}");
            assert_same_files(&disturbed, &undisturbed, &format!("{point} {action}"));
            assert_same_topics(&disturbed, &expected_topics, &format!("{point} {action}"));
        }
    }
}
