//! Windows on a cluster: what they hold follows the partition, whoever runs its task.

use std::process::Stdio;
use std::time::Duration;

use proptest::prelude::Rng;
use proptest::test_runner::TestRunner;

use super::tool;
use crate::support::{Running, Scratch, Summary, broker, long, until};
use crate::windows::{PIPELINE, minutes_of, visits, written};

/// The pipeline in a namespace of its own.
fn scratch(name: &str) -> (Scratch, String) {
    let namespace = format!("{name}-{}", std::process::id());
    let bus = format!(
        "[bus]\nkind = \"kafka\"\nbrokers = \"{}\"\n[bus.properties]\n\"session.timeout.ms\" = 6000\n\
         \"heartbeat.interval.ms\" = 1000\n[stages.visits]",
        broker()
    );
    let pipeline = PIPELINE
        .replace("namespace = \"windows\"", &format!("namespace = \"{namespace}\""))
        .replace("[stages.visits]", &bus);
    (Scratch::with(&pipeline), format!("acme.{namespace}"))
}

#[test]
fn windows_yield_the_same_on_one_worker_and_on_four_that_are_killed() {
    let rows = if long() { 3_000_000 } else { 400_000 };
    let (scratch, prefix) = scratch("windows");
    let text = visits(0..rows);
    scratch.write("in/a.ndjson", &text);
    let start = || Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
    let mut random = TestRunner::default();
    let mut pause = || std::thread::sleep(Duration::from_millis(300 + u64::from(random.rng().next_u32() % 2500)));
    // From one worker to four.
    let mut workers = vec![start()];
    pause();
    workers.extend([start(), start(), start()]);
    for victim in (0..4).cycle().take(if long() { 20 } else { 4 }) {
        pause();
        workers[victim].kill();
        workers[victim] = start();
    }
    // And back to one.
    pause();
    for mut worker in workers.split_off(1) {
        worker.kill();
    }
    workers[0].ended_well();
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(summary.of("minutes", "dead_lettered"), 0);
    assert_eq!(written(&scratch, 4), minutes_of(&text));

    // Run once more, it goes on.
    scratch.write("in/b.ndjson", visits(rows..rows + 1000));
    let after = scratch.run();
    after.assert_balanced();
    scratch.assert_accounted_for();
    assert!(after.of("minutes", "rows_in") > summary.of("minutes", "rows_in"));

    // The state's topic is one of the pipeline's own, and kept for as long as it is needed.
    let described = tool("topics", &["--describe", "--topic", &format!("{prefix}.minutes.private.state")], "");
    assert!(described.contains("PartitionCount: 4") && described.contains("retention.ms=-1"), "{described}");
}

/// Sensors on a topic with two partitions, counted by minute.
const READINGS: &str = r#"
[pipeline]
company = "acme"
namespace = "NAMESPACE"
[bus]
kind = "kafka"
brokers = "BROKERS"
[stages.readings]
source = { kind = "topic", topic = "TOPIC" }
event_time = { column = "at", out_of_orderness = "10s", idle_after = "1s" }
key = ["sensor"]
[stages.readings.schema]
at = "timestamp not null"
sensor = "text not null"
[stages.minutes]
from = ["readings"]
sql = "SELECT window_start AS minute, sensor, count(*) AS n FROM tumble(readings, at, INTERVAL '1 minute') GROUP BY window_start, sensor"
[stages.out]
from = ["minutes"]
sink = { kind = "file", path = "out/minutes.ndjson" }
"#;

#[test]
fn a_partition_without_rows_keeps_windows_open_until_it_is_idle() {
    let id = std::process::id();
    let topic = format!("readings-{id}");
    tool("topics", &["--create", "--topic", &topic, "--partitions", "2"], "");
    let pipeline = READINGS
        .replace("NAMESPACE", &format!("idle-{id}"))
        .replace("BROKERS", &broker())
        .replace("TOPIC", &topic)
        .replace("path = \"out/minutes.ndjson\"", "path = \"out/{partition}.ndjson\"");
    let scratch = Scratch::with(&pipeline);
    // Java's own partitioner puts all messages of one key into the same partition, so the other one has none.
    let reading = |second: u32| {
        format!("k:{{\"at\":\"2024-01-01T00:{:02}:{:02}Z\",\"sensor\":\"s\"}}\n", second / 60, second % 60)
    };
    let write = |seconds: std::ops::Range<u32>| {
        let property = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"];
        let arguments = [&["--topic", topic.as_str()], &property[..]].concat();
        tool("console-producer", &arguments, &seconds.map(reading).collect::<String>());
    };
    write(0..200);
    let mut worker = Running::start(scratch.command(&["run", "p.toml", "--json"]).stdout(Stdio::piped()));
    let minutes = || {
        let files = (0..2).map(|file| std::fs::read_to_string(scratch.path(&format!("out/{file}.ndjson"))));
        files.flatten().collect::<String>().lines().count()
    };
    until("three minutes have closed", || minutes() == 3);
    write(200..400);
    until("six minutes have closed", || minutes() == 6);
    worker.terminate();
    let summary = Summary(serde_json::from_str(&worker.ended_well()).unwrap());
    summary.assert_balanced();
    assert_eq!((summary.of("minutes", "rows_in"), summary.of("minutes", "dead_lettered")), (400, 0));
}
