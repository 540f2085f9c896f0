//! Topics of others that get more partitions, between runs and while they are read.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::PATIENCE;
use super::interop::{COPY, copy, delete, lags, make, producer, tail};
use crate::support::{Running, Scratch, broker, get, is_ready, until};

/// Writes these numbers to a partition.
fn write(producer: &BaseProducer, topic: &str, partition: i32, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let value = format!("{{\"n\":{n}}}");
        producer.send(BaseRecord::to(topic).partition(partition).key("k").payload(&value)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

fn grow(topic: &str, partitions: u32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let more = NewPartitions::new(topic, partitions as usize);
    let grown = runtime.block_on(admin.create_partitions([&more], &AdminOptions::new())).unwrap();
    grown.into_iter().for_each(|grown| drop(grown.unwrap()));
}

/// How often each number is in the copy.
fn copied(scratch: &Scratch, output: &str) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    for row in tail(scratch, output) {
        *found.entry(row["row"]["n"].as_u64().unwrap()).or_default() += 1;
    }
    found
}

fn once(numbers: std::ops::Range<u64>) -> BTreeMap<u64, u32> {
    numbers.map(|n| (n, 1)).collect()
}

/// A copying pipeline that soon hears of new partitions.
fn attentive(what: &str, text: &str) -> (Scratch, String, String) {
    copy(what, &text.replace("[stages.in]", "\"topic.metadata.refresh.interval.ms\" = 1000\n[stages.in]"))
}

#[test]
fn partitions_that_others_add_between_runs_are_read_from_their_first_message_on() {
    let (scratch, input, output) = attentive("growing", COPY);
    write(&producer(None), &input, 0, 0..10);
    scratch.run().assert_balanced();
    grow(&input, 3);
    // A client that is made now knows of them.
    let producer = producer(None);
    for partition in 0..3 {
        write(&producer, &input, partition as i32, 10 * (partition + 1)..10 * (partition + 2));
    }
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(summary.of("out", "rows_in"), 40);
    assert_eq!(copied(&scratch, &output), once(0..40));
    assert_eq!(lags(&format!("acme.growing-{}.in", std::process::id()), &input), ["0"; 3]);
    assert_eq!(scratch.run().of("out", "rows_in"), 40);
}

#[test]
fn partitions_that_others_add_while_workers_run_are_read_without_a_restart() {
    let (scratch, input, output) = attentive("widening", &COPY.replace(", follow = false", ""));
    write(&producer(None), &input, 0, 0..10);
    let start =
        || Running::start(scratch.command(&["run", "p.toml", "--json", "--http", "0"]).env("FIDELIO_LOG", "info"));
    let mut workers = [start(), start()];
    let addresses = workers.each_mut().map(Running::http_address);
    until("what was there is copied", || copied(&scratch, &output).len() == 10);
    grow(&input, 4);
    let producer = producer(None);
    for partition in 0..4 {
        write(&producer, &input, partition as i32, 10 * (partition + 1)..10 * (partition + 2));
    }
    until("all partitions are copied", || copied(&scratch, &output).len() == 50);
    assert_eq!(copied(&scratch, &output), once(0..50));
    // Each of the workers has two of the four tasks.
    let tasks = |address: &String| {
        let metrics = get(address, "/metrics");
        let running = |line: &&str| line.starts_with("fidelio_task_running") && line.contains("stage=\"in\"");
        metrics.lines().filter(running).filter(|line| line.ends_with(" 1")).count()
    };
    until("tasks are shared out", || addresses.iter().map(tasks).collect::<Vec<_>>() == [2, 2]);
    assert!(addresses.iter().all(|address| is_ready(address)));
    for worker in workers.iter_mut() {
        worker.terminate();
        worker.ended_well();
    }
    // Another run finds nothing more to do, and nothing missing.
    let bounded = scratch.read("p.toml").replace("columns =", "follow = false, columns =");
    scratch.write("p.toml", bounded);
    scratch.run().assert_balanced();
    assert_eq!(copied(&scratch, &output), once(0..50));
}

#[test]
fn a_worker_that_starts_while_another_one_makes_room_for_more_partitions_waits_until_it_sees_them() {
    let (scratch, input, output) = attentive("unaware", COPY);
    write(&producer(None), &input, 0, 0..10);
    scratch.run().assert_balanced();
    // What another worker does that has seen them.
    for topic in ["events", "commands", "private.dlq", "private.checkpoint"] {
        grow(&format!("acme.unaware-{}.in.{topic}", std::process::id()), 2);
    }
    let mut worker = Running::start(scratch.command(&["run", "p.toml"]).env("FIDELIO_LOG", "info"));
    worker.wait_for_log("looking again, since there may be more partitions");
    grow(&input, 2);
    worker.ended_well();
    write(&producer(None), &input, 1, 10..20);
    scratch.run().assert_balanced();
    assert_eq!(copied(&scratch, &output), once(0..20));
}

#[test]
fn a_topic_that_was_made_anew_with_fewer_partitions_is_not_taken_for_the_same() {
    let (scratch, input, _) = attentive("shrunk", COPY);
    grow(&input, 2);
    scratch.run().assert_balanced();
    delete(&input);
    make(&input, 1, &[]);
    let refused = scratch.fidelio(&["run", "p.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&format!("one for each partition that {input} had when it last ran")), "{said}");
}
