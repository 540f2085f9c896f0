//! Positions whose data is gone: deleted by retention, or with a topic that was made anew.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::Producer;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::interop::{COPY, copy, delete, lags, make, producer, send, tail};
use super::{PATIENCE, tool};
use crate::support::{Running, Scratch, broker, until};

/// Writes messages with these numbers to the only partition of a topic.
fn write(topic: &str, numbers: std::ops::Range<u32>) {
    let producer = producer(None);
    numbers.for_each(|n| send(&producer, topic, "k", &format!("{{\"n\":{n}}}")));
    producer.flush(PATIENCE).unwrap();
}

/// Deletes what is before the offset, as retention does.
fn delete_before(topic: &str, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(admin.delete_records(&before, &AdminOptions::new())).unwrap();
}

/// Retention deletes five messages that a worker has had no chance to read.
fn overtake(worker: &Running, input: &str) {
    worker.signal("STOP");
    // A fetch that it has sent already is answered with what comes until the broker no longer waits.
    std::thread::sleep(Duration::from_secs(1));
    write(input, 10..20);
    delete_before(input, 15);
    worker.signal("CONT");
}

/// A topic under the name of another one, with as many messages.
fn make_anew(topic: &str, numbers: std::ops::Range<u32>) {
    delete(topic);
    make(topic, 1, &[]);
    write(topic, numbers);
}

fn go_on_from_the_earliest(scratch: &Scratch) {
    let text = scratch.read("p.toml").replace("[bus]\n", "[bus]\non_data_loss = \"earliest\"\n");
    scratch.write("p.toml", text);
}

/// What is in the copy, in its order.
fn copied(scratch: &Scratch, output: &str) -> Vec<u32> {
    tail(scratch, output).iter().map(|row| row["row"]["n"].as_u64().unwrap() as u32).collect()
}

/// Runs the pipeline, which must refuse to, and gives why.
fn refusal(scratch: &Scratch) -> String {
    let refused = scratch.fidelio(&["run", "p.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    String::from_utf8(refused.stderr).unwrap()
}

#[test]
fn a_stage_whose_messages_are_gone_stops_or_goes_on_from_the_first_one_and_counts_them_as_lost() {
    let (scratch, input, output) = copy("overtaken", COPY);
    write(&input, 0..10);
    scratch.run().assert_balanced();
    write(&input, 10..20);
    delete_before(&input, 15);
    let said = refusal(&scratch);
    let expected = format!(
        "{input}/0: acme.overtaken-{}.in has still to read from offset 10 on, and the oldest message that is left is at 15: 5 \
         messages at most are gone",
        std::process::id()
    );
    assert!(said.contains(&expected), "{said}");
    assert_eq!(copied(&scratch, &output), Vec::from_iter(0..10));

    go_on_from_the_earliest(&scratch);
    let run = scratch.fidelio(&["run", "p.toml", "--json"]);
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(said.matches("it goes on from the oldest message there is").count(), 1, "{said}");
    assert!(said.contains(&format!("partition={input}/0 wanted=10 first=15")) && said.contains("lost=5"), "{said}");
    let summary = crate::support::Summary(serde_json::from_slice(&run.stdout).unwrap());
    assert_eq!(["in", "out"].map(|stage| summary.of(stage, "lost")), [5, 0]);
    assert_eq!(copied(&scratch, &output), Vec::from_iter((0..10).chain(15..20)));
    // It is lost once.
    assert_eq!(scratch.run().of("in", "lost"), 5);
}

#[test]
fn a_running_stage_that_retention_has_overtaken_goes_on_where_the_pipeline_says_so() {
    let (scratch, input, output) = copy("late", &COPY.replace(", follow = false", ""));
    go_on_from_the_earliest(&scratch);
    write(&input, 0..10);
    let mut worker = Running::start(&mut scratch.command(&["run", "p.toml"]));
    until("what was there is copied", || copied(&scratch, &output).len() == 10);
    overtake(&worker, &input);
    worker.wait_for_log("it goes on from the oldest message there is");
    until("the rest is copied", || copied(&scratch, &output).len() == 15);
    worker.terminate();
    worker.ended_well();
    assert_eq!(copied(&scratch, &output), Vec::from_iter((0..10).chain(15..20)));
}

#[test]
fn a_running_stage_that_retention_has_overtaken_stops_by_default() {
    let (scratch, input, output) = copy("too-late", &COPY.replace(", follow = false", ""));
    write(&input, 0..10);
    let mut worker = Running::start(&mut scratch.command(&["run", "p.toml"]));
    until("what was there is copied", || copied(&scratch, &output).len() == 10);
    overtake(&worker, &input);
    worker.wait_for_log("has still to read from offset 10 on, and the oldest message that is left is at 15");
    assert_eq!(worker.ended().code(), Some(1));
}

#[test]
fn a_topic_that_was_made_anew_between_runs_is_noticed_also_where_it_has_grown_past_the_old_one() {
    let (scratch, input, output) = copy("anew", COPY);
    write(&input, 0..10);
    scratch.run().assert_balanced();
    make_anew(&input, 100..130);
    let said = refusal(&scratch);
    let expected = format!(
        "{input}/0: the topic was deleted and made anew since acme.anew-{}.in began to read it",
        std::process::id()
    );
    assert!(said.contains(&expected), "{said}");

    go_on_from_the_earliest(&scratch);
    scratch.run();
    assert_eq!(copied(&scratch, &output), Vec::from_iter((0..10).chain(100..130)));
    scratch.run();
    assert_eq!(copied(&scratch, &output).len(), 40);
}

#[test]
fn a_topic_that_is_made_anew_while_it_is_read_is_noticed_also_where_it_has_grown_past_the_old_one() {
    let (scratch, input, output) = copy("swapped", &COPY.replace(", follow = false", ""));
    write(&input, 0..10);
    let mut worker = Running::start(&mut scratch.command(&["run", "p.toml"]));
    until("what was there is copied", || copied(&scratch, &output).len() == 10);
    make_anew(&input, 100..130);
    worker.wait_for_log("deleted");
    assert_eq!(worker.ended().code(), Some(1));

    // So is whoever runs it next, until the pipeline says that it goes on with all that is there.
    assert!(refusal(&scratch).contains("the topic was deleted and made anew"));
    go_on_from_the_earliest(&scratch);
    let mut worker = Running::start(&mut scratch.command(&["run", "p.toml"]));
    let all_of = |numbers: std::ops::Range<u32>| {
        let copied = copied(&scratch, &output);
        numbers.into_iter().all(|n| copied.contains(&n))
    };
    until("all of it is copied", || all_of(100..130));
    make_anew(&input, 200..250);
    until("all of the next one is copied", || all_of(200..250));
    worker.terminate();
    worker.ended_well();
}

#[test]
fn a_topic_that_was_made_anew_is_noticed_also_after_a_worker_has_read_of_it_and_was_killed() {
    let (scratch, input, output) = copy("unnoticed", &COPY.replace(", follow = false", ""));
    write(&input, 0..10);
    let mut worker = Running::start(&mut scratch.command(&["run", "p.toml"]));
    until("what was there is copied", || copied(&scratch, &output).len() == 10);
    worker.signal("STOP");
    make_anew(&input, 100..130);
    worker.signal("CONT");
    until("something of the new one is read, or it is noticed", || {
        copied(&scratch, &output).len() > 10 || !worker.is_running()
    });
    worker.kill();
    assert!(refusal(&scratch).contains("the topic was deleted and made anew"));
}

#[test]
fn a_stage_whose_group_the_cluster_has_forgotten_goes_on_from_its_checkpoint() {
    let (scratch, input, output) = copy("forgotten", COPY);
    go_on_from_the_earliest(&scratch);
    write(&input, 0..10);
    scratch.run().assert_balanced();
    let group = format!("acme.forgotten-{}.in", std::process::id());
    tool("consumer-groups", &["--delete", "--group", &group], "");
    write(&input, 10..12);
    scratch.run().assert_balanced();
    assert_eq!(copied(&scratch, &output), Vec::from_iter(0..12));
    assert_eq!(lags(&group, &input), ["0"]);
    // What somebody sets back is brought forward; what is set forward is left out.
    write(&input, 12..15);
    let reset = |to: &str| {
        let at = ["--group", &group, "--topic", &input, "--reset-offsets", "--to-offset", to, "--execute"];
        tool("consumer-groups", &at, "");
    };
    reset("3");
    scratch.run().assert_balanced();
    assert_eq!(copied(&scratch, &output), Vec::from_iter(0..15));
    assert_eq!(lags(&group, &input), ["0"]);
    write(&input, 15..20);
    reset("18");
    scratch.run();
    assert_eq!(copied(&scratch, &output), Vec::from_iter((0..15).chain(18..20)));
}
