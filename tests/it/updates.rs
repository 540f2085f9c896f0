//! Results that are replaced as they change, through stages, formats and sinks, killed on the way.

use std::collections::BTreeMap;
use std::io::Write;

use fidelio::bus::Record;
use serde_json::{Value, json};

use crate::support::{Running, Scratch, lines, until};

/// Sums by customer, and how many customers have ordered how often, of which there are fewer and fewer kinds.
const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "updates"
[stages.orders]
source = { kind = "file", path = "in/*.ndjson" }
event_time = { column = "at" }
[stages.orders.schema]
id = "bigint not null"
at = "timestamp not null"
customer = "text not null"
amount = "bigint"
[stages.totals]
from = ["orders"]
format = "json"
sql = "SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer"
[stages.numbers]
from = ["totals"]
format = "json"
sql = "SELECT n, count(*) AS customers, max(total) AS most FROM totals GROUP BY n"
[stages.often]
from = ["numbers"]
sql = "SELECT n, customers, most FROM numbers WHERE customers > 1"
[stages.out]
from = ["often"]
sink = { kind = "file", path = "out/often.ndjson" }
[stages.csv]
from = ["totals"]
sink = { kind = "file", path = "out/totals.csv" }
"#;

fn orders(numbers: std::ops::Range<u64>) -> String {
    let line = |n: u64| {
        let at = format!("2024-03-31T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60);
        json!({ "id": n, "at": at, "customer": format!("c{}", n * n % 37), "amount": n % 11 }).to_string() + "\n"
    };
    numbers.map(line).collect()
}

/// How many customers have ordered so often, and the largest of their sums, where they are more than one.
fn often(orders: u64) -> BTreeMap<u64, (u64, u64)> {
    let mut totals: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for n in 0..orders {
        let (count, total) = totals.entry(n * n % 37).or_default();
        (*count, *total) = (*count + 1, *total + n % 11);
    }
    let mut numbers: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (count, total) in totals.into_values() {
        let (customers, most) = numbers.entry(count).or_default();
        (*customers, *most) = (*customers + 1, total.max(*most));
    }
    numbers.retain(|_, (customers, _)| *customers > 1);
    numbers
}

/// What is left of rows that replace one another.
fn left(rows: &[Value]) -> BTreeMap<u64, (u64, u64)> {
    let mut left = BTreeMap::new();
    for row in rows {
        let number = |name: &str| row[name].as_u64().unwrap();
        match row["deleted"].as_bool().unwrap() {
            true => assert_eq!(left.remove(&number("n")), Some((number("customers"), number("most"))), "{row}"),
            false => assert_ne!(
                left.insert(number("n"), (number("customers"), number("most"))),
                Some((number("customers"), number("most"))),
                "{row} is no news"
            ),
        }
    }
    left
}

#[test]
fn results_that_are_replaced_stay_right_through_stages_and_kills() {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in/a.ndjson", orders(0..70_000));
    let mut kills = 0;
    for passes in [2, 4, 6, 9] {
        let fail = format!("commit.publish={passes}*off->1*return(kill)->off");
        let output = scratch.command(&["run", "p.toml"]).env("FAILPOINTS", fail).output().unwrap();
        kills += u32::from(output.status.code().is_none());
    }
    assert!(kills > 1);
    scratch.run().assert_balanced();
    assert_eq!(left(&scratch.ndjson("out/often.ndjson")), often(70_000));
    scratch.assert_accounted_for();
    // More comes in a later run, which takes back what it makes wrong.
    scratch.write("in/b.ndjson", orders(70_000..70_100));
    scratch.run().assert_balanced();
    let rows = scratch.ndjson("out/often.ndjson");
    assert_eq!(left(&rows), often(70_100));
    assert!(rows.iter().any(|row| row["deleted"] == true));
    assert!(scratch.read("out/totals.csv").starts_with("customer,n,total,deleted\n"));
    scratch.assert_accounted_for();
}

#[test]
fn what_is_deleted_is_a_tombstone_under_its_key() {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in/a.ndjson", orders(0..5));
    scratch.run();
    scratch.write("in/b.ndjson", orders(5..80));
    scratch.run();
    let messages = scratch.topics();
    let of_topic = |topic: &str| {
        let records = messages.iter().filter(move |(partition, _)| partition.topic.as_str() == topic);
        records.flat_map(|(_, records)| records).filter(|record| record.rows > 0).collect::<Vec<_>>()
    };
    let numbers = of_topic("acme.updates.numbers.results");
    let (tombstones, values): (Vec<&Record>, Vec<&Record>) =
        numbers.into_iter().partition(|record| record.value.is_none());
    assert!(!tombstones.is_empty() && !values.is_empty());
    for tombstone in tombstones {
        let row: Value = serde_json::from_slice(tombstone.headers.get("fidelio-deleted").unwrap()).unwrap();
        assert_eq!(row["n"].to_string().as_bytes(), tombstone.key.as_ref().unwrap());
        assert_eq!(row["deleted"], true);
    }
    for value in values {
        let row: Value = serde_json::from_slice(value.payload()).unwrap();
        assert_eq!(row["n"].to_string().as_bytes(), value.key.as_ref().unwrap());
        assert_eq!(row["deleted"], false);
    }
}

#[test]
fn what_is_kept_can_be_looked_at_and_has_a_limit() {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in/a.ndjson", orders(0..1000));
    scratch.run();
    let kept = lines(&scratch.fidelio(&["state", "p.toml", "totals"]).stdout);
    assert_eq!(kept.len(), 19);
    let limited = PIPELINE.replace("[stages.totals]\n", "[stages.totals]\nstate_limit = \"1KB\"\n");
    let scratch = Scratch::with(&limited);
    scratch.write("in/a.ndjson", orders(0..1000));
    let output = scratch.fidelio(&["run", "p.toml"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("what it keeps takes") && said.contains("state_limit"), "{said}");
}

/// Orders and their payments, within ten seconds; an order that is not paid by then is said so.
const PAID: &str = r#"
[pipeline]
company = "acme"
namespace = "paid"
[stages.orders]
source = { kind = "file", path = "orders.ndjson", follow = true }
event_time = { column = "at", out_of_orderness = "2s" }
[stages.orders.schema]
id = "bigint not null"
at = "timestamp not null"
[stages.payments]
source = { kind = "file", path = "payments.ndjson", follow = true }
event_time = { column = "at", out_of_orderness = "2s" }
[stages.payments.schema]
id = "bigint not null"
at = "timestamp not null"
amount = "bigint"
[stages.paid]
from = ["orders", "payments"]
sql = """
SELECT o.id, o.at, p.amount FROM orders o LEFT JOIN payments p
ON o.id = p.id AND p.at BETWEEN o.at AND o.at + INTERVAL '10 seconds'
"""
[stages.out]
from = ["paid"]
sink = { kind = "file", path = "out.ndjson" }
"#;

#[test]
fn a_row_without_a_partner_leaves_an_outer_join_when_none_can_come_any_more() {
    let scratch = Scratch::with(PAID);
    let row = |id: u64, second: u64| {
        json!({ "id": id, "at": format!("2024-01-01T00:00:{second:02}Z"), "amount": id * 10 }).to_string() + "\n"
    };
    scratch.write("orders.ndjson", row(1, 0) + &row(2, 1)).write("payments.ndjson", row(2, 3));
    let append = |name: &str, text: String| {
        let file = std::fs::OpenOptions::new().append(true).open(scratch.path(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    };
    let mut run = Running::start(&mut scratch.command(&["run", "p.toml"]));
    let out = || if scratch.path("out.ndjson").exists() { scratch.ndjson("out.ndjson") } else { Vec::new() };
    until("the pair", || out().len() == 1);
    assert_eq!(out()[0]["amount"], 20);
    // Payments go on, but by no more than the bound and what can be out of order; then by more.
    append("payments.ndjson", row(7, 12));
    append("orders.ndjson", row(3, 12));
    run.kill();
    let mut run = Running::start(&mut scratch.command(&["run", "p.toml"]));
    append("payments.ndjson", row(8, 13));
    until("the order that was not paid", || out().len() == 2);
    assert_eq!(out()[1], json!({ "id": 1, "at": "2024-01-01T00:00:00Z", "amount": null }));
    // A payment that comes now is too late.
    append("payments.ndjson", row(1, 5));
    until("the payment that is late", || !scratch.fidelio(&["dlq", "list", "p.toml"]).stdout.is_empty());
    run.terminate();
    run.ended();
    assert_eq!(scratch.dead_letters()[0]["class"], "late");
}

#[test]
fn windows_over_a_join_hold_the_rows_that_have_no_partner_too() {
    let pipeline = PAID.replace(", follow = true", "").replace(
        "[stages.out]\nfrom = [\"paid\"]",
        "[stages.minutes]\nfrom = [\"paid\"]\nsql = \"\"\"\nSELECT window_start AS minute, count(*) AS orders, count(amount) AS paid\n\
         FROM tumble(paid, at, INTERVAL '1 minute') GROUP BY window_start\n\"\"\"\n[stages.out]\nfrom = [\"minutes\"]",
    );
    let scratch = Scratch::with(&pipeline);
    let at = |second: u64| format!("2024-01-01T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60);
    let (mut orders, mut payments) = (String::new(), String::new());
    for id in 0..40_000 {
        orders += &(json!({ "id": id, "at": at(id) }).to_string() + "\n");
        if id % 3 > 0 {
            // Of those that are paid, some too late.
            let later = if id % 7 == 0 { 11 } else { id % 11 };
            payments += &(json!({ "id": id, "at": at(id + later), "amount": 1 }).to_string() + "\n");
        }
    }
    payments += &(json!({ "id": 50_000, "at": at(40_100), "amount": 1 }).to_string() + "\n");
    // Payments are as late as they may be in the file.
    scratch.write("orders.ndjson", orders).write("payments.ndjson", {
        let mut lines: Vec<&str> = payments.lines().collect();
        lines.sort_by_key(|line| serde_json::from_str::<Value>(line).unwrap()["at"].as_str().unwrap().to_owned());
        lines.join("\n") + "\n"
    });
    for passes in [3, 7] {
        let fail = format!("commit.publish={passes}*off->1*return(kill)->off");
        scratch.command(&["run", "p.toml"]).env("FAILPOINTS", fail).output().unwrap();
    }
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!((summary.of("minutes", "late"), summary.of("paid", "late")), (0, 0));
    scratch.assert_accounted_for();
    let mut expected: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for id in 0..40_000 {
        let (orders, paid) = expected.entry(id / 60).or_default();
        *orders += 1;
        *paid += u64::from(id % 3 > 0 && id % 7 > 0);
    }
    let found = scratch.ndjson("out.ndjson");
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
    let found: Vec<(u64, u64)> = found.iter().map(|row| (number(row, "orders"), number(row, "paid"))).collect();
    assert_eq!(found, expected.into_values().collect::<Vec<_>>());
    // When the events of joined rows happened is known, so they are in the books by minute.
    let audit = scratch.fidelio(&["audit", "p.toml", "--json"]);
    let audit: Value = serde_json::from_slice(&audit.stdout).unwrap();
    assert!(audit.to_string().contains("paid"));
}
