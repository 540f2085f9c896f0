//! Fidelio on a real Kafka: a stage exactly once beside a plain loop over the same messages, whole chains, latency, and the
//! same filter in Kafka Streams.
//!
//! `cargo bench --bench kafka` measures everything, in rounds in which what is compared takes turns; a word behind `--` picks
//! a part (`copy`, `chain`, `latency`, `streams`) or a shape (`json-100`, `json-1k`, `arrow`, `json-100-2`, `arrow-2`), and a
//! number is that of the rounds. It starts a broker of its own, see `tests/kafka/broker`.

// In a benchmark a panic is the message.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod cluster;
mod pipelines;
mod plain;
mod program;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::cluster::Broker;
use crate::pipelines::Shape;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ALL: &str = "SELECT * FROM orders";
const FILTER: &str = "SELECT * FROM orders WHERE qty > 1";

static SHAPES: [Shape; 5] = [
    Shape { name: Cow::Borrowed("json-100"), format: "json", note: 0, rows: 1_500_000, partitions: 1 },
    Shape { name: Cow::Borrowed("json-1k"), format: "json", note: 920, rows: 600_000, partitions: 1 },
    Shape { name: Cow::Borrowed("arrow"), format: "arrow", note: 0, rows: 4_000_000, partitions: 1 },
    Shape { name: Cow::Borrowed("json-100-2"), format: "json", note: 0, rows: 1_500_000, partitions: 2 },
    Shape { name: Cow::Borrowed("arrow-2"), format: "arrow", note: 0, rows: 4_000_000, partitions: 2 },
];

/// What was asked for.
struct Wanted {
    words: Vec<String>,
    rounds: usize,
}

impl Wanted {
    fn parse() -> Self {
        let arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
        let (numbers, words): (Vec<_>, Vec<_>) = arguments.partition(|word| word.parse::<usize>().is_ok());
        Self { words, rounds: numbers.first().map_or(3, |number| number.parse().unwrap()) }
    }

    /// Whether that is among the words, or none of its kind is.
    fn has(&self, name: &str, kind: &[&str]) -> bool {
        self.words.iter().any(|word| word == name) || !self.words.iter().any(|word| kind.contains(&word.as_str()))
    }

    fn part(&self, name: &str) -> bool {
        self.has(name, &["copy", "chain", "latency", "streams"])
    }
}

fn main() {
    fidelio::allocator::keep_memory();
    tracing_subscriber::fmt().with_env_filter("off,fidelio=error").with_writer(std::io::stderr).init();
    let wanted = Wanted::parse();
    let (broker, runtime) = (Broker::start(), Runtime::new().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<&str> = SHAPES.iter().map(|shape| &*shape.name).collect();
    for shape in SHAPES.iter().filter(|shape| wanted.has(&shape.name, &names)) {
        measure(&wanted, &runtime, &broker, shape, dir.path());
        broker.delete(&runtime, "acme.");
    }
}

/// Everything about events of one shape.
fn measure(wanted: &Wanted, runtime: &Runtime, broker: &Broker, shape: &Shape, dir: &Path) {
    let input = dir.join("in.ndjson");
    println!("\n{}: {} rows, {} partition(s), load {}", shape.name, shape.rows, shape.partitions, load());
    shape.write(&input);
    pipelines::publish(runtime, broker, shape, &input);
    let (topic, rows) = (shape.topic(), shape.rows as f64);
    let read = plain::run(&broker.servers, &topic, None, shape.partitions);
    let (value, header) = (read.value_bytes as f64 / rows, read.header_bytes as f64 / rows);
    println!("{} messages; {value:.1} bytes of value and {header:.1} of headers a row", read.messages);

    let program = wanted.part("copy").then(program::compile).unwrap_or_default();
    let mut table = Table { lines: Vec::new(), row_bytes: value + header };
    for round in 0..=wanted.rounds {
        let mut add = |name, measured: &mut dyn FnMut() -> f64| {
            let before = cpu_seconds();
            let sample = Sample { speed: measured(), cpu: (cpu_seconds() - before) / rows };
            // The first round warms up.
            if round > 0 {
                table.add(name, sample);
            }
        };
        let own = format!("{}.round{round}", shape.name);
        let to = format!("acme.{own}.to");
        let stage = |name: &str, sql| rows * pipelines::alone(runtime, broker, shape, &format!("{name}{round}"), sql);
        if wanted.part("copy") {
            let plain = |to| rows * plain::run(&broker.servers, &topic, to, shape.partitions).speed;
            add("plain consumer", &mut || plain(None));
            broker.create(runtime, &to, shape.partitions);
            add("plain copy", &mut || plain(Some(&to)));
            broker.delete(runtime, &to);
            let to = format!("acme.{own}.malloc");
            broker.create(runtime, &to, shape.partitions);
            let malloc = || rows * program::run(&program, &broker.servers, &topic, &to, shape.partitions);
            add("plain copy, malloc", &mut { malloc });
            broker.delete(runtime, &to);
            add("stage, pass-through", &mut || stage("pass", ALL));
        }
        if wanted.part("chain") || wanted.part("streams") {
            add("stage, filter", &mut || stage("filter", FILTER));
        }
        if wanted.part("chain") {
            let chain = shape.named(format!("{}-chain{round}", shape.name));
            let out = dir.join(&*chain.name);
            add("file, filter, file", &mut || pipelines::chain(runtime, broker, &chain, &input, &out, FILTER));
            broker.delete(runtime, &format!("acme.{}.", chain.name));
        }
        if wanted.part("streams") && shape.format == "json" {
            streams::fetch();
            let to = format!("acme.{own}.streams");
            broker.create(runtime, &to, shape.partitions);
            let application = format!("streams-{}-{round}", shape.name);
            let streams = || rows * streams::run(broker, &application, &topic, &to, shape.partitions);
            add("Kafka Streams, filter", &mut { streams });
            broker.delete(runtime, &to);
        }
        for name in ["pass", "filter"] {
            broker.delete(runtime, &format!("acme.{}.{name}{round}.", shape.name));
        }
    }
    table.print();
    if wanted.part("latency") && shape.partitions == 1 {
        latency(runtime, broker, shape, dir);
    }
}

fn latency(runtime: &Runtime, broker: &Broker, shape: &Shape, dir: &Path) {
    const TIME: Duration = Duration::from_secs(30);
    let steady = |name: &str| {
        let shape = shape.named(format!("{}-{name}", shape.name));
        let seen = pipelines::steady(runtime, broker, &shape, dir, FILTER, 20_000, TIME);
        (seen, broker.commits(&format!("acme.{}.out", shape.name)))
    };
    // A broker that has just started is several times as slow at small transactions.
    steady("warm-up");
    let (seen, commits) = steady("steady");
    let lag = |quantile| seen.lag(quantile).unwrap().as_secs_f64() * 1e3;
    println!(
        "from arrival to the sink's commit at 20,000 rows/s: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms; it commits every \
         {:.1} ms",
        lag(0.5),
        lag(0.99),
        lag(1.0),
        TIME.as_secs_f64() * 1e3 / commits as f64
    );
}

/// What one round gave.
struct Sample {
    /// Rows a second.
    speed: f64,
    /// Seconds of this process on a core, a row: what a busy machine does not change much.
    cpu: f64,
}

/// Samples, one a round, by what was measured.
struct Table {
    lines: Vec<(&'static str, Vec<Sample>)>,
    row_bytes: f64,
}

impl Table {
    fn add(&mut self, name: &'static str, sample: Sample) {
        match self.lines.iter_mut().find(|line| line.0 == name) {
            Some(line) => line.1.push(sample),
            None => self.lines.push((name, vec![sample])),
        }
    }

    /// The median of the ratios to another line, round by round.
    fn of(&self, samples: &[Sample], other: &str) -> String {
        let other = self.lines.iter().find(|line| line.0 == other);
        let ratios = other.map(|other| samples.iter().zip(&other.1).map(|(one, other)| one.speed / other.speed));
        ratios.map_or(String::new(), |ratios| format!("{:.2}", median(ratios.collect())))
    }

    fn print(&self) {
        println!(
            "{:24}{:>12}{:>26}{:>8}{:>9}{:>9}{:>11}{:>11}",
            "", "rows/s", "(least to most)", "MB/s", "CPU us", "of copy", "of malloc", "of Streams"
        );
        for (name, samples) in &self.lines {
            let speed = median(samples.iter().map(|sample| sample.speed).collect());
            let cpu = median(samples.iter().map(|sample| sample.cpu).collect()) * 1e6;
            let least = samples.iter().map(|sample| sample.speed).fold(f64::INFINITY, f64::min);
            let most = samples.iter().map(|sample| sample.speed).fold(0.0, f64::max);
            let range = format!("({least:.0} to {most:.0})");
            let megabytes = speed * self.row_bytes / 1e6;
            let (copy, malloc) = (self.of(samples, "plain copy"), self.of(samples, "plain copy, malloc"));
            let streams = self.of(samples, "Kafka Streams, filter");
            println!("{name:24}{speed:>12.0}{range:>26}{megabytes:>8.1}{cpu:>9.2}{copy:>9}{malloc:>11}{streams:>11}");
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What this process and those that it has waited for have used of all cores so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name can have spaces; what comes behind it is numbered from 3 on.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks = rest.split(' ').skip(11).take(4).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>();
    ticks / 100.0
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .map_or("unknown".into(), |load| load.split(' ').take(2).collect::<Vec<_>>().join(" "))
}
