//! Topics of others, written and read by Kafka's own tools and by other clients.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use super::{PATIENCE, tool};
use crate::support::{Running, Scratch, broker, lines, long, until};

/// The name of a topic of this test alone.
pub fn name(topic: &str) -> String {
    format!("others-{}-{topic}", std::process::id())
}

pub fn make(topic: &str, partitions: u32, settings: &[&str]) {
    let partitions = partitions.to_string();
    let mut arguments = vec!["--create", "--topic", topic, "--partitions", &partitions];
    settings.iter().for_each(|setting| arguments.extend(["--config", setting]));
    tool("topics", &arguments, "");
}

/// Deletes a topic, and waits until it is gone.
pub fn delete(topic: &str) {
    tool("topics", &["--delete", "--topic", topic], "");
    until("the topic is gone", || !tool("topics", &["--list"], "").lines().any(|line| line == topic));
}

/// Writes lines of headers, key and value, with tabs between them; `NULL` stands for none of either.
pub fn produce(topic: &str, lines: &str) {
    let properties = ["parse.key=true", "parse.headers=true", "null.marker=NULL"];
    let mut arguments = vec!["--topic", topic];
    properties.iter().for_each(|property| arguments.extend(["--reader-property", property]));
    tool("console-producer", &arguments, lines);
}

/// What a consumer of committed messages sees: for each message its parts as the tool shows them.
fn consume(topic: &str, count: usize) -> Vec<Seen> {
    let properties = ["print.timestamp=true", "print.partition=true", "print.headers=true", "print.key=true"];
    let count = count.to_string();
    let mut arguments = vec!["--topic", topic, "--from-beginning", "--isolation-level", "read_committed"];
    arguments.extend(["--max-messages", &count]);
    properties.iter().for_each(|property| arguments.extend(["--formatter-property", property]));
    let output = tool("console-consumer", &arguments, "");
    let seen = output.lines().map(|line| {
        let parts: Vec<&str> = line.splitn(5, '\t').collect();
        let [time, partition, headers, key, value] = parts.try_into().unwrap();
        let headers = headers.split(',').filter_map(|header| header.split_once(':'));
        Seen {
            timestamp: time.strip_prefix("CreateTime:").unwrap().parse().unwrap(),
            partition: partition.strip_prefix("Partition:").unwrap().parse().unwrap(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            key: key.to_owned(),
            value: value.to_owned(),
        }
    });
    seen.collect()
}

/// The first so many messages of a kind. There are others between them, which say how far the stage is.
fn consume_of(topic: &str, count: usize, is_of: impl Fn(&Seen) -> bool) -> Vec<Seen> {
    let mut read = count;
    loop {
        let seen: Vec<Seen> = consume(topic, read).into_iter().filter(&is_of).collect();
        if seen.len() == count {
            return seen;
        }
        read += count - seen.len();
    }
}

struct Seen {
    timestamp: i64,
    partition: u32,
    headers: BTreeMap<String, String>,
    key: String,
    value: String,
}

/// A pipeline on the broker, with topics of others of those names in place of `IN` and `OUT`.
pub fn pipeline(namespace: &str, text: &str, (input, output): (&str, &str)) -> Scratch {
    let head = format!(
        "[pipeline]\ncompany = \"acme\"\nnamespace = \"{namespace}-{}\"\n[bus]\nkind = \"kafka\"\nbrokers = \"{}\"\n\
         [bus.properties]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1000\n",
        std::process::id(),
        broker()
    );
    Scratch::with(&(head + &text.replace("IN", input).replace("OUT", output)))
}

pub fn tail(scratch: &Scratch, topic: &str) -> Vec<Value> {
    let output = scratch.fidelio(&["tail", topic, "--pipeline", "p.toml", "--meta"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    lines(&output.stdout)
}

/// The lag of a group in a topic, as Kafka's own tool shows it, by partition.
pub fn lags(group: &str, topic: &str) -> Vec<String> {
    let groups = tool("consumer-groups", &["--describe", "--group", group], "");
    let of_topic = groups.lines().filter(|line| line.split_whitespace().nth(1) == Some(topic));
    of_topic.map(|line| line.split_whitespace().nth(5).unwrap().to_owned()).collect()
}

const PAYMENTS: &str = r#"
[stages.raw]
key = ["account"]
partitions = 2
[stages.raw.source]
kind = "topic"
topic = "IN"
format = "json"
follow = false
[stages.raw.source.columns]
key = "account"
headers = "headers"
timestamp = "sent"
partition = "of"
offset = "at"
tombstone = "gone"
[stages.raw.schema]
account = "text not null"
headers = "text"
sent = "timestamp not null"
of = "int not null"
at = "bigint not null"
gone = "boolean not null"
amount = "double"

[stages.large]
from = ["raw"]
format = "json"
event_time = { column = "sent" }
sql = "SELECT account, gone, amount, sent, headers FROM raw WHERE gone OR amount > 10"
[stages.large.events]
Large = "SELECT account FROM large WHERE amount > 10"

[stages.out]
from = ["large"]
sink = { kind = "topic", topic = "OUT", format = "json", key = ["account"], tombstone = "gone", partitions = 7 }
"#;

#[test]
fn messages_of_others_come_and_go_with_keys_headers_tombstones_and_timestamps() {
    let (input, output) = (name("payments"), name("large"));
    make(&input, 3, &[]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    produce(
        &input,
        &format!(
            "tenant:a,traceparent:{trace}\tk1\t{{\"amount\":50}}\nNULL\tk2\t{{\"amount\":5}}\nNULL\tk3\tNULL\nx:y\tk4\tjunk\n\
             NULL\tk5\t\nNULL\tNULL\t{{\"amount\":50}}\n"
        ),
    );
    let scratch = pipeline("payments", PAYMENTS, (&input, &output));
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(["raw", "large", "out"].map(|stage| summary.of(stage, "rows_in")), [6, 3, 2]);

    let prefix = format!("acme.payments-{}", std::process::id());
    let mut raw = tail(&scratch, &format!("{prefix}.raw.results"));
    raw.sort_by_key(|row| row["row"]["account"].to_string());
    let of = |account: &str| raw.iter().find(|row| row["row"]["account"] == account).unwrap()["row"].clone();
    assert_eq!(raw.len(), 3);
    let headers = of("k1")["headers"].as_str().unwrap().to_owned();
    assert_eq!(serde_json::from_str::<Value>(&headers).unwrap(), json!({ "tenant": "a", "traceparent": trace }));
    assert_eq!(
        (&of("k3")["gone"], &of("k3")["amount"], &of("k3")["headers"]),
        (&json!(true), &Value::Null, &json!("{}"))
    );
    assert_eq!((&of("k2")["gone"], &of("k2")["amount"]), (&json!(false), &json!(5.0)));

    // What does not become a row is a dead letter with its key and headers.
    let output_of = scratch.fidelio(&["dlq", "list", "p.toml", "--json"]);
    let mut letters = lines(&output_of.stdout);
    letters.sort_by_key(|letter| letter["key"].to_string());
    let found: Vec<(&str, &Value)> =
        letters.iter().map(|letter| (letter["class"].as_str().unwrap(), &letter["key"])).collect();
    assert_eq!(found, [("decode", &json!("k4")), ("decode", &json!("k5")), ("contract", &Value::Null)]);

    let seen = consume(&output, 2);
    let large = seen.iter().find(|seen| seen.key == "k1").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&large.value).unwrap()["amount"], json!(50.0));
    assert!(!large.value.contains("gone"));
    assert_eq!(large.headers["content-type"], "application/json");
    assert_eq!(large.headers["ce_specversion"], "1.0");
    assert_eq!(large.headers["traceparent"], trace);
    assert!(large.timestamp > 1_700_000_000_000);
    let gone = seen.iter().find(|seen| seen.key == "k3").unwrap();
    assert_eq!((gone.value.as_str(), gone.headers.contains_key("traceparent")), ("null", false));

    // JSON results say what CloudEvents asks of them, and when it happened.
    let results = consume_of(&format!("{prefix}.large.results"), 2, |seen| seen.value != "null");
    for seen in &results {
        assert_eq!(seen.headers["ce_type"], format!("{prefix}.large.results"));
        assert_eq!(seen.headers["ce_source"], format!("/acme/payments-{}/large", std::process::id()));
        assert!(seen.headers["ce_id"].starts_with(&format!("{prefix}.raw.results/")));
        assert!(seen.headers["ce_time"].starts_with("20"));
    }
    let traces: Vec<Option<&String>> = results.iter().map(|seen| seen.headers.get("traceparent")).collect();
    assert!(traces.contains(&Some(&trace.to_owned())) && traces.contains(&None));
    let events = consume_of(&format!("{prefix}.large.events"), 1, |seen| !seen.value.contains("\"fidelio."));
    assert_eq!(events[0].headers["traceparent"], trace);

    // Kafka's own tool sees that nothing is left to do.
    assert_eq!(lags(&format!("{prefix}.raw"), &input), ["0"; 3]);

    // What came since is all that a second run does.
    produce(&input, "NULL\tk1\t{\"amount\":70}\n");
    assert_eq!(scratch.run().of("out", "rows_in"), 3);
    assert_eq!(consume(&output, 3).iter().filter(|seen| seen.key == "k1").count(), 2);
}

/// A pipeline that copies a topic of one partition to another one, as `COPY` does, and the two.
pub fn copy(what: &str, text: &str) -> (Scratch, String, String) {
    let (input, output) = (name(what), name(&format!("{what}-copy")));
    make(&input, 1, &[]);
    make(&output, 1, &[]);
    (pipeline(what, text, (&input, &output)), input, output)
}

pub const COPY: &str = r#"
[stages.in]
source = { kind = "topic", topic = "IN", follow = false, columns = { key = "k" } }
schema = { k = "text", n = "bigint" }

[stages.out]
from = ["in"]
sink = { kind = "topic", topic = "OUT", key = ["k"] }
"#;

#[test]
fn keys_are_where_javas_own_partitioner_puts_them() {
    let (theirs, ours) = (name("java"), name("rust"));
    make(&theirs, 7, &[]);
    make(&ours, 7, &[]);
    let keys: Vec<String> =
        (0..300).map(|n| format!("{}-{n}", ["a", "ключ", "日本語", "with space", "🦀"][n % 5])).collect();
    let lines: String = keys.iter().enumerate().map(|(n, key)| format!("NULL\t{key}\t{{\"n\":{n}}}\n")).collect();
    produce(&theirs, &(lines + &"NULL\tNULL\t{\"n\":-1}\n".repeat(14)));
    let scratch = pipeline("keys", COPY, (&theirs, &ours));
    scratch.run().assert_balanced();
    let [by_java, by_us] = [&theirs, &ours].map(|topic| consume(topic, 314));
    let places = |seen: &[Seen]| -> BTreeMap<String, u32> {
        seen.iter().filter(|seen| seen.key != "null").map(|seen| (seen.key.clone(), seen.partition)).collect()
    };
    assert_eq!(places(&by_us).len(), 300);
    assert_eq!(places(&by_us), places(&by_java));
    // Messages without a key stay without, and are in more than one partition.
    let keyless: Vec<u32> = by_us.iter().filter(|seen| seen.key == "null").map(|seen| seen.partition).collect();
    assert!(keyless.len() == 14 && keyless.iter().any(|partition| *partition != keyless[0]), "{keyless:?}");
}

/// A client that is not ours.
pub fn producer(transactional: Option<&str>) -> BaseProducer {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", broker());
    if let Some(id) = transactional {
        client.set("transactional.id", id);
    }
    client.create().unwrap()
}

pub fn send(producer: &BaseProducer, topic: &str, key: &str, value: &str) {
    let record = || BaseRecord::to(topic).key(key).payload(value);
    while producer.send(record()).is_err() {
        producer.poll(std::time::Duration::from_millis(10));
    }
}

#[test]
fn only_what_others_have_committed_is_read_and_what_is_no_message_is_passed() {
    let (input, output) = (name("transactions"), name("committed"));
    make(&input, 2, &[]);
    make(&output, 1, &[]);
    let plain = producer(None);
    let transactional = producer(Some(&input));
    transactional.init_transactions(PATIENCE).unwrap();
    for round in 0..20 {
        transactional.begin_transaction().unwrap();
        for n in 0..10 {
            send(&transactional, &input, &format!("t{n}"), &format!("{{\"n\":{}}}", round * 100 + n));
        }
        match round % 2 {
            0 => transactional.commit_transaction(PATIENCE).unwrap(),
            _ => {
                transactional.flush(PATIENCE).unwrap();
                transactional.abort_transaction(PATIENCE).unwrap();
            }
        }
        send(&plain, &input, "p", &format!("{{\"n\":{}}}", round * 100 + 50));
        plain.flush(PATIENCE).unwrap();
    }
    transactional.begin_transaction().unwrap();
    send(&transactional, &input, "t0", "{\"n\":-1}");
    transactional.flush(PATIENCE).unwrap();
    transactional.abort_transaction(PATIENCE).unwrap();

    let scratch = pipeline("transactions", COPY, (&input, &output));
    let summary = scratch.run();
    summary.assert_balanced();
    let committed = (0..20).flat_map(|round| {
        let of_transaction = (0..10).map(move |n| round * 100 + n).filter(move |_| round % 2 == 0);
        of_transaction.chain([round * 100 + 50])
    });
    let mut expected: Vec<i64> = committed.collect();
    expected.sort_unstable();
    let mut found: Vec<i64> = tail(&scratch, &output).iter().map(|row| row["row"]["n"].as_i64().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(lags(&format!("acme.transactions-{}.in", std::process::id()), &input), ["0"; 2]);
}

#[test]
fn a_topic_of_others_is_followed_through_kills_and_each_message_comes_out_once() {
    let rows: i64 = if long() { 1_000_000 } else { 100_000 };
    let (input, output) = (name("followed"), name("copied"));
    make(&input, 3, &[]);
    make(&output, 5, &[]);
    let scratch = pipeline("followed", &COPY.replace(", follow = false", ""), (&input, &output));
    let start = || Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
    let written = || {
        let groups = format!("acme.followed-{}.out", std::process::id());
        lags(&groups, &format!("acme.followed-{}.in.results", std::process::id())).iter().any(|lag| lag != "-")
    };
    let producer = producer(None);
    let mut worker = start();
    for part in 0..4 {
        for n in part * rows / 4..(part + 1) * rows / 4 {
            send(&producer, &input, &format!("k{}", n % 1000), &format!("{{\"n\":{n}}}"));
        }
        producer.flush(PATIENCE).unwrap();
        if part < 2 {
            until("the pipeline has done something", written);
            worker.kill();
            worker = start();
        }
    }
    let prefix = format!("acme.followed-{}", std::process::id());
    let caught_up = |group: &str, topic: &str| {
        let lags = lags(&format!("{prefix}.{group}"), topic);
        !lags.is_empty() && lags.iter().all(|lag| lag == "0")
    };
    until("everything is read", || caught_up("in", &input) && caught_up("out", &format!("{prefix}.in.results")));
    worker.terminate();
    worker.ended_well();
    let mut found: Vec<i64> = tail(&scratch, &output).iter().map(|row| row["row"]["n"].as_i64().unwrap()).collect();
    found.sort_unstable();
    assert!(found.iter().copied().eq(0..rows), "{} of {rows}", found.len());
}

#[test]
fn a_topic_that_is_not_there_is_named_at_the_start_and_not_made() {
    let (input, output) = (name("none"), name("nowhere"));
    let scratch = pipeline("none", COPY, (&input, &output));
    let refused = scratch.fidelio(&["run", "p.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&format!("stage in reads the topic {input}, which does not exist")), "{said}");
    make(&input, 1, &[]);
    let refused = scratch.fidelio(&["run", "p.toml"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&format!("stage out writes the topic {output}, which does not exist")), "{said}");
    assert!(!tool("topics", &["--list"], "").lines().any(|topic| topic == output));
}

#[test]
fn a_topic_that_others_compact_has_gaps_and_is_read_to_its_end_nonetheless() {
    let (input, output) = (name("compacted"), name("kept"));
    let often =
        ["cleanup.policy=compact", "segment.ms=100", "min.cleanable.dirty.ratio=0.001", "max.compaction.lag.ms=100"];
    make(&input, 1, &often);
    make(&output, 1, &[]);
    let producer = producer(None);
    let write = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            send(&producer, &input, &format!("k{}", n % 7), &format!("{{\"n\":{n}}}"));
        }
        producer.flush(PATIENCE).unwrap();
    };
    let scratch = pipeline("compacted", COPY, (&input, &output));
    let is_there = |n: u32| tail(&scratch, &input).iter().any(|row| row["row"]["n"] == n);
    // Only segments that are closed are compacted, and one is when something comes after its time.
    write(0..100);
    let mut next = 100;
    until("older messages of a key are gone", || {
        write(next..next + 1);
        next += 1;
        !is_there(50)
    });
    let rows = |topic: &str| -> Vec<(String, u64)> {
        let rows = tail(&scratch, topic).into_iter();
        rows.map(|row| (row["key"].to_string(), row["row"]["n"].as_u64().unwrap())).collect()
    };
    let before = rows(&input);
    scratch.run().assert_balanced();
    let found = rows(&output);
    // More of it may have gone meanwhile, but never the last message of a key.
    let last = |rows: &[(String, u64)]| -> BTreeMap<String, u64> { rows.iter().cloned().collect() };
    assert_eq!(last(&found), last(&before));
    assert!(found.len() < next as usize && found.iter().all(|row| before.contains(row)));
    assert!(found.is_sorted_by_key(|(_, n)| *n));
    assert_eq!(lags(&format!("acme.compacted-{}.in", std::process::id()), &input), ["0"]);
}
