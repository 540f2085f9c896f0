//! The same filter as a program for Kafka Streams, which `benches/kafka/streams` compiles and runs.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{Broker, Watch};

/// Gets what it needs, which takes a while the first time.
pub fn fetch() {
    assert!(script().arg("fetch").status().unwrap().success(), "Kafka Streams is not to be had");
}

/// The share of the topic that it goes through in a second.
pub fn run(broker: &Broker, application: &str, from: &str, to: &str, partitions: u32) -> f64 {
    let mut program = script()
        .args(["run", &broker.servers, application, from, to, &partitions.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let speed = Watch::new(broker, application, from, partitions).speed();
    drop(program.stdin.take());
    program.wait().unwrap();
    speed
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kafka/streams"))
}
