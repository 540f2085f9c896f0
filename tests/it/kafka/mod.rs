//! Pipelines on a real Kafka: what comes out is what comes out of the embedded log, on one worker or on several, whatever
//! happens to them.

mod access;
mod alone;
mod audit;
mod brokers;
mod foreign;
mod growing;
mod interop;
mod network;
mod nexmark;
mod observer;
mod positions;
mod size;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::Rng;
use proptest::test_runner::TestRunner;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use self::observer::Observer;
use crate::support::{Running, Scratch, Summary, broker, long, orders, until};

/// How long another client may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What starts brokers, and Kafka's own tools.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/broker");

/// Runs one of Kafka's own tools to its end.
fn tool(name: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(SCRIPT);
    command.args(["tool", name, "--bootstrap-server", &broker()]).args(arguments);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = pipes.spawn().unwrap();
    tool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "NAMESPACE"
BUS
[stages.orders]
source = { kind = "file", path = "in.ndjson" }
key = ["customer"]
partitions = 4
[stages.orders.schema]
id = "bigint not null"
customer = "text not null"
amount = "text"

[stages.priced]
from = ["orders"]
sql = "SELECT id, customer, CAST(amount AS INT) AS amount FROM orders WHERE id % 10 <> 3"
format = "json"
[stages.priced.events]
Large = "SELECT id FROM priced WHERE amount > 990"

[stages.tripled]
from = ["priced"]
sql = "SELECT id, customer, UNNEST([amount, 2 * amount, 3 * amount]) AS amount FROM priced"

[stages.out]
from = ["tripled"]
sink = { kind = "file", path = "out/{partition}.ndjson" }
"#;

/// A pipeline in a namespace of its own; on those brokers, or on the embedded log.
fn scratch(name: &str, brokers: Option<&str>, rows: u64) -> Scratch {
    let namespace = format!("{name}-{}", std::process::id());
    let bus = brokers.map(|brokers| {
        format!(
            "[bus]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\n[bus.properties]\n\"session.timeout.ms\" = 6000\n\
             \"heartbeat.interval.ms\" = 1000\n"
        )
    });
    let pipeline = PIPELINE.replace("NAMESPACE", &namespace).replace("BUS", &bus.unwrap_or_default());
    let scratch = Scratch::with(&pipeline);
    scratch.write("in.ndjson", orders(rows));
    scratch
}

/// How often each row is in the sink's files.
fn written(scratch: &Scratch) -> BTreeMap<String, u32> {
    let files: Vec<String> = (0..4).map(|partition| scratch.read(&format!("out/{partition}.ndjson"))).collect();
    counted(files.iter().flat_map(|file| file.lines()))
}

/// The members of a group, as the cluster sees them.
fn members(group: &str) -> BTreeSet<String> {
    let asker: BaseConsumer = ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    let found = asker.fetch_group_list(Some(group), PATIENCE).unwrap();
    found.groups().iter().flat_map(|group| group.members()).map(|member| member.id().to_owned()).collect()
}

/// How much is in the sink's files so far.
fn written_bytes(scratch: &Scratch) -> u64 {
    let size = |n: u32| std::fs::metadata(scratch.path(&format!("out/{n}.ndjson"))).map_or(0, |file| file.len());
    (0..4).map(size).sum()
}

/// How often each row of a stage is in its topic, as a reader of committed messages sees it.
fn published(scratch: &Scratch, stage: &str) -> BTreeMap<String, u32> {
    let output = scratch.fidelio(&["tail", &results_of(scratch, stage), "--pipeline", "p.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    counted(String::from_utf8(output.stdout).unwrap().lines())
}

/// How often each row is there.
fn counted<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u32> {
    let mut rows = BTreeMap::new();
    for line in lines {
        *rows.entry(line.to_owned()).or_default() += 1;
    }
    rows
}

/// The topic of a stage's results.
fn results_of(scratch: &Scratch, stage: &str) -> String {
    let output = scratch.fidelio(&["topics", "p.toml", "--json"]);
    let topics: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let ending = format!(".{stage}.results");
    topics.iter().filter_map(|topic| topic["topic"].as_str()).find(|name| name.ends_with(&ending)).unwrap().to_owned()
}

/// Watches the results of `priced` while a pipeline runs there.
fn observe(scratch: &Scratch, brokers: &str) -> Observer {
    Observer::start(brokers, &results_of(scratch, "priced"), 4)
}

#[test]
fn a_pipeline_gives_on_kafka_what_it_gives_on_the_embedded_log() {
    let (embedded, kafka) = (scratch("same", None, 20_000), scratch("same", Some(&broker()), 20_000));
    let expected = embedded.run();
    let found = kafka.run();
    found.assert_balanced();
    kafka.assert_accounted_for();
    assert_eq!(found.counts(), expected.counts());
    assert_eq!(written(&kafka), written(&embedded));
    for stage in ["orders", "priced", "tripled"] {
        assert_eq!(published(&kafka, stage), published(&embedded, stage), "{stage}");
    }
    let classes = |scratch: &Scratch| {
        let mut classes = BTreeMap::<String, u32>::new();
        for letter in scratch.dead_letters() {
            *classes.entry(letter["class"].to_string()).or_default() += 1;
        }
        classes
    };
    assert_eq!(classes(&kafka), classes(&embedded));

    // The last messages are told from what transactions leave between them.
    let last = kafka.fidelio(&["tail", &results_of(&kafka, "priced"), "--pipeline", "p.toml", "-n", "3"]);
    assert_eq!(String::from_utf8(last.stdout).unwrap().lines().count(), 3 * 4);

    // Kafka's own tool sees that nothing is left to do.
    let groups = tool("consumer-groups", &["--describe", "--all-groups"], "");
    let prefix = format!("acme.same-{}.", std::process::id());
    let lags: Vec<&str> = groups
        .lines()
        .filter(|line| line.starts_with(&prefix) && line.contains(".results"))
        .map(|line| line.split_whitespace().nth(5).unwrap())
        .collect();
    assert_eq!(lags, ["0"; 12], "{groups}");

    // What was appended since is all that a second run does.
    for scratch in [&embedded, &kafka] {
        scratch.write("in.ndjson", orders(21_000));
    }
    assert_eq!(kafka.run().counts(), embedded.run().counts());
    assert_eq!(written(&kafka), written(&embedded));
}

#[test]
fn workers_that_are_killed_lose_and_double_nothing() {
    let rows = if long() { 2_000_000 } else { 300_000 };
    let undisturbed = scratch("killed", None, rows);
    let expected = undisturbed.run();
    let scratch = scratch("killed", Some(&broker()), rows);
    let observer = observe(&scratch, &broker());
    let start = || Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
    let mut random = TestRunner::default();
    let mut workers = [start(), start()];
    for _ in 0..if long() { 30 } else { 4 } {
        std::thread::sleep(Duration::from_millis(500 + u64::from(random.rng().next_u32() % 3500)));
        let victim = &mut workers[random.rng().next_u32() as usize % 2];
        victim.kill();
        *victim = start();
    }
    for worker in workers.iter_mut() {
        worker.ended_well();
    }
    assert_same(&scratch, observer, &undisturbed, &expected);
}

/// The pipeline has ended as the undisturbed one has, and whoever watched has seen nothing else.
fn assert_same(scratch: &Scratch, observer: Observer, undisturbed: &Scratch, expected: &Summary) {
    let observed = observer.seen();
    assert_eq!(counted(observed.iter().map(String::as_str)), published(undisturbed, "priced"));
    let found = scratch.run();
    found.assert_balanced();
    scratch.assert_accounted_for();
    assert_eq!(found.counts(), expected.counts());
    assert_eq!(written(scratch), written(undisturbed));
    for stage in ["orders", "priced", "tripled"] {
        assert_eq!(published(scratch, stage), published(undisturbed, stage), "{stage}");
    }
}

#[test]
fn a_worker_that_was_frozen_while_others_took_over_changes_nothing_any_more() {
    let rows = 200_000;
    let undisturbed = scratch("frozen", None, rows);
    let expected = undisturbed.run();
    let scratch = scratch("frozen", Some(&broker()), rows);
    let observer = observe(&scratch, &broker());
    let start = || Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
    let mut frozen = start();
    until("it has written something", || written_bytes(&scratch) > 0);
    frozen.signal("STOP");
    let groups =
        ["orders", "priced", "tripled", "out"].map(|stage| format!("acme.frozen-{}.{stage}", std::process::id()));
    let before = groups.each_ref().map(|group| members(group));
    let mut other = start();
    // Its tasks are given to the other one. That need not write anything: what is frozen still holds the files it had.
    for (group, before) in groups.iter().zip(&before) {
        assert!(!before.is_empty(), "nobody had joined {group}");
        until("the tasks are another one's", || {
            let now = members(group);
            !now.is_empty() && now.is_disjoint(before)
        });
    }
    frozen.signal("CONT");
    for worker in [&mut frozen, &mut other] {
        worker.ended_well();
    }
    assert_same(&scratch, observer, &undisturbed, &expected);
}
