//! The queries of Nexmark: each ends with what batch DataFusion answers over the same events, with several partitions, and killed
//! on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use arrow::json::LineDelimitedWriter;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use fidelio::bus::{Record, TopicPartition};

use crate::support::{Scratch, long};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/nexmark");

/// What is asked of batch DataFusion where the query of the pipeline is over windows, or in several stages. Of all others it is
/// that of the pipeline itself.
const IN_BATCH: &[(&str, &str)] = &[
    (
        "q4",
        "SELECT category, avg(price) AS price FROM (
           SELECT a.id, a.category, max(b.price) AS price
           FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
           GROUP BY a.id, a.category
         ) GROUP BY category",
    ),
    (
        "q5",
        "WITH counts AS (
           SELECT starts, starts + INTERVAL '10 seconds' AS ends, auction, count(*) AS num FROM (
             SELECT auction, date_bin(INTERVAL '2 seconds', date_time) AS starts FROM bid
             UNION ALL SELECT auction, date_bin(INTERVAL '2 seconds', date_time) - INTERVAL '2 seconds' FROM bid
             UNION ALL SELECT auction, date_bin(INTERVAL '2 seconds', date_time) - INTERVAL '4 seconds' FROM bid
             UNION ALL SELECT auction, date_bin(INTERVAL '2 seconds', date_time) - INTERVAL '6 seconds' FROM bid
             UNION ALL SELECT auction, date_bin(INTERVAL '2 seconds', date_time) - INTERVAL '8 seconds' FROM bid
           ) GROUP BY starts, auction
         )
         SELECT starts, ends, auction, num FROM (
           SELECT *, rank() OVER (PARTITION BY starts ORDER BY num DESC) AS place FROM counts
         ) WHERE place = 1",
    ),
    (
        "q6",
        "SELECT id, seller, expires, avg(price) OVER (
           PARTITION BY seller ORDER BY expires, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW
         ) AS price FROM (
           SELECT a.id, a.seller, a.expires, max(b.price) AS price
           FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
           GROUP BY a.id, a.seller, a.expires
         )",
    ),
    (
        "q7",
        "WITH w AS (SELECT *, date_bin(INTERVAL '10 seconds', date_time) AS window_start FROM bid)
         SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
         FROM w b JOIN (SELECT window_start, max(price) AS price FROM w GROUP BY window_start) m
         ON b.window_start = m.window_start AND b.price = m.price",
    ),
    (
        "q8",
        "SELECT p.id, p.name, p.window_start
         FROM (SELECT DISTINCT id, name, date_bin(INTERVAL '10 seconds', date_time) AS window_start FROM person) p
         JOIN (SELECT DISTINCT seller, date_bin(INTERVAL '10 seconds', date_time) AS window_start FROM auction) a
         ON p.id = a.seller AND p.window_start = a.window_start",
    ),
    (
        "q11",
        "SELECT bidder, count(*) AS bids, min(date_time) AS window_start, max(date_time) + INTERVAL '10 seconds' AS window_end
         FROM (
           SELECT bidder, date_time, sum(starts) OVER (PARTITION BY bidder ORDER BY date_time) AS session FROM (
             SELECT bidder, date_time, CASE WHEN
               date_time < lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) + INTERVAL '10 seconds'
               THEN 0 ELSE 1 END AS starts
             FROM bid
           )
         ) GROUP BY bidder, session",
    ),
];

/// The pipeline of a query over so many events, and the text of the query itself.
fn pipeline(query: &str, events: u64) -> (String, String) {
    let text = std::fs::read_to_string(format!("{FOLDER}/{query}.toml")).unwrap();
    let pipeline: toml::Table = text.parse().unwrap();
    let sql = pipeline["stages"][query]["sql"].as_str().unwrap().to_owned();
    assert!(text.contains("events = 10000000"), "{query}");
    (text.replace("events = 10000000", &format!("events = {events}")), sql)
}

/// The rows of a topic, in the order of its partitions.
fn rows(topics: &BTreeMap<TopicPartition, Vec<Record>>, topic: &str) -> Option<RecordBatch> {
    let records =
        topics.iter().filter(|(partition, _)| partition.topic.as_str() == topic).flat_map(|(_, records)| records);
    let batches = records.filter(|record| record.rows > 0).flat_map(|record| {
        StreamReader::try_new(record.payload(), None).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    });
    let batches: Vec<RecordBatch> = batches.collect();
    batches.first().map(|first| concat_batches(&first.schema(), &batches).unwrap())
}

/// Rows as JSON.
fn lines(batch: &RecordBatch) -> Vec<String> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(batch).unwrap();
    String::from_utf8(writer.into_inner()).unwrap().lines().map(str::to_owned).collect()
}

/// What results are in the end, where they replace one another by these columns.
fn latest(results: &RecordBatch, identity: &[&str]) -> Vec<String> {
    let Some(deleted) = results.column_by_name("deleted") else { return lines(results) };
    let width = results.num_columns() - 1;
    let plain = results.project(&(0..width).collect::<Vec<_>>()).unwrap();
    let columns = identity.iter().map(|name| results.schema().index_of(name).unwrap()).collect::<Vec<_>>();
    let mut latest = BTreeMap::new();
    let rows = lines(&results.project(&columns).unwrap()).into_iter().zip(lines(&plain));
    for ((key, row), deleted) in rows.zip(deleted.as_boolean()) {
        latest.insert(key, (!deleted.unwrap()).then_some(row));
    }
    latest.into_values().flatten().collect()
}

fn in_batch(sql: &str, topics: &BTreeMap<TopicPartition, Vec<Record>>, query: &str) -> Vec<String> {
    let context = SessionContext::new();
    for table in ["person", "auction", "bid"] {
        if let Some(rows) = rows(topics, &format!("acme.nexmark-{query}.{table}.results")) {
            let table_of_rows = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
            context.register_table(table, Arc::new(table_of_rows)).unwrap();
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches = runtime.block_on(async { context.sql(sql).await.unwrap().collect().await.unwrap() });
    batches.iter().flat_map(lines).collect()
}

/// Runs the pipeline of a query, which is killed again and again, and compares what it ends with.
fn check(query: &str, identity: &[&str], events: u64) {
    let (pipeline, sql) = pipeline(query, events);
    let scratch = Scratch::with(&pipeline);
    let mut kills = 0;
    for passes in [1, 2, 3, 5, 8, 13, 21] {
        let fail = format!("commit.publish={passes}*off->1*return(kill)->off");
        let output = scratch.command(&["run", "p.toml"]).env("FAILPOINTS", fail).output().unwrap();
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.code(), None, "{query}: {}", String::from_utf8_lossy(&output.stderr));
        kills += 1;
    }
    assert!(kills > 1, "{query} was not killed");
    scratch.run().assert_balanced();
    scratch.assert_accounted_for();
    let topics = scratch.topics();
    let results = rows(&topics, &format!("acme.nexmark-{query}.{query}.results"))
        .unwrap_or_else(|| panic!("{query} has no results"));
    let mut found = latest(&results, identity);
    let sql = IN_BATCH.iter().find(|(name, _)| *name == query).map_or(sql.as_str(), |(_, sql)| sql);
    let mut expected = in_batch(sql, &topics, query);
    found.sort();
    expected.sort();
    assert!(!expected.is_empty(), "{query} has no results");
    assert!(
        found == expected,
        "{query} ends with {} rows, and in batch it is {}: {:?} {:?}",
        found.len(),
        expected.len(),
        found.iter().find(|row| expected.binary_search(row).is_err()),
        expected.iter().find(|row| found.binary_search(row).is_err())
    );
}

fn events() -> u64 {
    if long() { 1_000_000 } else { 60_000 }
}

#[test]
fn queries_over_each_event_end_with_what_they_are_in_batch() {
    for query in ["q0", "q1", "q2", "q10", "q14", "q21", "q22"] {
        check(query, &[], events());
    }
}

#[test]
fn queries_over_windows_end_with_what_they_are_in_batch() {
    for query in ["q5", "q7", "q8", "q11"] {
        check(query, &[], events());
    }
}

#[test]
fn joins_end_with_what_they_are_in_batch() {
    for query in ["q3", "q20"] {
        check(query, &[], events());
    }
}

#[test]
fn queries_whose_results_are_replaced_end_with_what_they_are_in_batch() {
    for (query, identity) in [
        ("q4", &["category"][..]),
        ("q6", &["id"]),
        ("q9", &["id"]),
        ("q15", &["day"]),
        ("q16", &["channel", "day"]),
        ("q17", &["auction", "day"]),
        ("q18", &["auction", "bidder"]),
        ("q19", &["auction", "place"]),
    ] {
        check(query, identity, events());
    }
}
