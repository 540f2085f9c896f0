//! Joins, and results that are replaced, while workers come and go: what they keep of rows goes with their tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::published;
use crate::support::{Running, Scratch, broker, long, until};

/// The pipeline of a query, in a namespace of its own.
fn scratch(query: &str, events: u64, brokers: Option<&str>) -> Scratch {
    let file = format!("{}/pipelines/nexmark/{query}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap().replace("10000000", &events.to_string());
    let namespace = format!("namespace = \"nexmark-{query}\"");
    assert!(text.contains(&namespace));
    let bus = brokers.map(|brokers| {
        format!(
            "[bus]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\n[bus.properties]\n\"session.timeout.ms\" = 6000\n\
             \"heartbeat.interval.ms\" = 1000\n"
        )
    });
    let own = format!("namespace = \"nexmark-{query}-{}\"\n\n{}", std::process::id(), bus.unwrap_or_default());
    Scratch::with(&text.replace(&namespace, &own))
}

/// What is left of the results of a stage that replace one another, whose order within a partition is that of their topic.
fn left(scratch: &Scratch, stage: &str, identity: &str) -> BTreeMap<String, Value> {
    let topic = super::results_of(scratch, stage);
    let output = scratch.fidelio(&["tail", &topic, "--pipeline", "p.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut left = BTreeMap::new();
    for row in crate::support::lines(&output.stdout) {
        let key = row[identity].to_string();
        match row["deleted"] == true {
            true => drop(left.remove(&key)),
            false => drop(left.insert(key, row)),
        }
    }
    left
}

#[test]
fn what_is_kept_of_rows_goes_from_worker_to_worker() {
    let queries = [("q4", "category"), ("q9", "id")];
    for (query, identity) in queries.into_iter().take(if long() { 2 } else { 1 }) {
        let events = if long() { 5_000_000 } else { 500_000 };
        let alone = scratch(query, events, None);
        alone.run().assert_balanced();
        let scratch = scratch(query, events, Some(&broker()));
        let start = || Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
        let mut first = start();
        let topic = super::results_of(&scratch, query);
        let has_begun = || {
            let output = scratch.fidelio(&["tail", &topic, "--pipeline", "p.toml", "-n", "1"]);
            !output.stdout.is_empty()
        };
        until("there are results", has_begun);
        // Another one takes over some of the tasks, then all of them, and at last none.
        let mut second = start();
        std::thread::sleep(Duration::from_secs(4));
        first.kill();
        let mut third = start();
        std::thread::sleep(Duration::from_secs(8));
        second.kill();
        third.ended_well();
        scratch.run().assert_balanced();
        scratch.assert_accounted_for();
        let (found, expected) = (left(&scratch, query, identity), left(&alone, query, identity));
        assert!(!expected.is_empty());
        assert_eq!(found, expected, "{query}");
        assert_eq!(published(&scratch, "auction").len(), published(&alone, "auction").len());
    }
}
