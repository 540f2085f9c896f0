//! What `kafka` measures beside everything else: a loop that consumes and produces, in a process without the engine and its
//! allocator. Its arguments are the servers, the topics to read and to write, and their partitions.

// In a benchmark a panic is the message.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "kafka/plain.rs"]
#[allow(dead_code)]
mod plain;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` runs every benchmark there is.
    let [servers, from, to, partitions] = arguments.as_slice() else { return };
    println!("{}", plain::run(servers, from, Some(to), partitions.parse().unwrap()).speed);
}
