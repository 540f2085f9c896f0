//! What Fidelio does in the benchmark: a source that publishes, a stage alone, and a chain from file to file.

use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fidelio::config::{Draft, Pipeline};
use fidelio::sql::Engine;
use fidelio::stage::{Options, Worker};
use fidelio::telemetry::{Registry, Seen};
use fidelio::topology::Topology;
use tokio::runtime::Runtime;

use crate::cluster::{Broker, Watch};
use crate::support;

const TICK: Duration = Duration::from_millis(1);

/// Events, and how they go through the pipeline.
#[derive(Clone)]
pub struct Shape {
    /// Of the namespace, too.
    pub name: Cow<'static, str>,
    /// `json` or `arrow`.
    pub format: &'static str,
    /// Bytes that a note adds to an event's 97.
    pub note: usize,
    pub rows: usize,
    pub partitions: u32,
}

impl Shape {
    /// The same, in another namespace.
    pub fn named(&self, name: String) -> Shape {
        Shape { name: name.into(), ..self.clone() }
    }

    /// The topic of the source's results.
    pub fn topic(&self) -> String {
        format!("acme.{}.orders.results", self.name)
    }

    pub fn write(&self, file: &Path) {
        let mut file = File::create(file).unwrap();
        let chunk = self.rows.min(100_000);
        let text = events(chunk, self.note);
        (0..self.rows / chunk).for_each(|_| file.write_all(text.as_bytes()).unwrap());
    }

    fn pipeline(&self, broker: &Broker, input: &Path, follow: bool, stages: &str) -> (Pipeline, Arc<Topology>) {
        let Self { name, format, partitions, .. } = self;
        let (servers, input) = (&broker.servers, input.display());
        let key = if *partitions > 1 { "key = [\"id\"]" } else { "" };
        let note = if self.note > 0 { "note = \"text\"" } else { "" };
        let text = format!(
            r#"
[pipeline]
company = "acme"
namespace = "{name}"
[bus]
kind = "kafka"
brokers = "{servers}"
[stages.orders]
source = {{ kind = "file", path = "{input}", follow = {follow} }}
format = "{format}"
partitions = {partitions}
{key}
[stages.orders.schema]
id = "bigint not null"
ts = "timestamp not null"
country = "text"
amount = "double"
qty = "bigint"
sku = "text"
{note}
{stages}
"#
        );
        let draft = Draft::parse(&text, "bench.toml", Path::new(""), &|_| None);
        let (pipeline, topology) = Topology::of_draft(draft, &Engine::new()).unwrap();
        (pipeline, Arc::new(topology))
    }

    fn stage(&self, name: &str, sql: &str) -> String {
        format!("[stages.{name}]\nfrom = [\"orders\"]\nsql = \"{sql}\"\nformat = \"{}\"\n", self.format)
    }
}

/// Events of 97 bytes and a note.
fn events(count: usize, note: usize) -> String {
    let text = support::text(count);
    if note == 0 {
        return text;
    }
    let filler: String = (0..note - 10).map(|at| char::from(b'a' + (at * 7 % 26) as u8)).collect();
    text.lines().map(|line| format!("{},\"note\":\"{filler}\"}}\n", line.trim_end_matches('}'))).collect()
}

fn start(runtime: &Runtime, (pipeline, topology): (Pipeline, Arc<Topology>), stages: &[&str]) -> Worker {
    let bus = fidelio::bus::open(&pipeline.bus, None).unwrap();
    let options = Options { stages: stages.iter().map(|stage| stage.to_string()).collect(), ..Options::default() };
    runtime.block_on(Worker::start(bus, topology, Arc::new(Registry::default()), options)).unwrap()
}

fn end(runtime: &Runtime, worker: Worker) {
    worker.stop().stop();
    let summary = runtime.block_on(worker.finished()).unwrap();
    assert!(summary.stages.iter().all(|stage| stage.account.lost == 0), "rows were lost");
}

/// Publishes the events of a file, and does no more.
pub fn publish(runtime: &Runtime, broker: &Broker, shape: &Shape, input: &Path) {
    let worker = start(runtime, shape.pipeline(broker, input, false, ""), &["orders"]);
    runtime.block_on(worker.finished()).unwrap();
}

/// The share of what the source has published that a stage alone goes through in a second.
pub fn alone(runtime: &Runtime, broker: &Broker, shape: &Shape, name: &str, sql: &str) -> f64 {
    let pipeline = shape.pipeline(broker, Path::new("none.ndjson"), false, &shape.stage(name, sql));
    let worker = start(runtime, pipeline, &[name]);
    let watch = Watch::new(broker, &format!("acme.{}.{name}", shape.name), &shape.topic(), shape.partitions);
    let speed = watch.speed();
    end(runtime, worker);
    speed
}

const CHAIN: &str = "[stages.out]\nfrom = [\"kept\"]\n";

fn chain_of(shape: &Shape, out: &Path, sql: &str) -> String {
    let part = if shape.partitions > 1 { "-{partition}" } else { "" };
    let sink = format!("sink = {{ kind = \"file\", path = \"{}{part}.ndjson\" }}\n", out.display());
    format!("{}{CHAIN}{sink}", shape.stage("kept", sql))
}

/// Events a second from a file through a filter to a file, from when the source begins until the sink has committed the last.
pub fn chain(runtime: &Runtime, broker: &Broker, shape: &Shape, input: &Path, out: &Path, sql: &str) -> f64 {
    let pipeline = shape.pipeline(broker, input, false, &chain_of(shape, out, sql));
    let worker = start(runtime, pipeline, &[]);
    let meters = worker.meters();
    until(|| meters.seen("orders").input.is_some());
    let since = Instant::now();
    until(|| {
        let kept = meters.seen("kept").run;
        kept.rows_in == shape.rows as u64 && meters.seen("out").run.rows_in == kept.rows_out
    });
    let seconds = since.elapsed().as_secs_f64();
    end(runtime, worker);
    shape.rows as f64 / seconds
}

/// What the sink has seen at a steady rate, for that long.
pub fn steady(
    runtime: &Runtime,
    broker: &Broker,
    shape: &Shape,
    dir: &Path,
    sql: &str,
    rows_per_second: usize,
    time: Duration,
) -> Seen {
    let input: PathBuf = dir.join("steady.ndjson");
    let mut file = File::create(&input).unwrap();
    let worker =
        start(runtime, shape.pipeline(broker, &input, true, &chain_of(shape, &dir.join(&*shape.name), sql)), &[]);
    let meters = worker.meters();
    let each = events(rows_per_second / 1000, shape.note);
    // Everything runs once a first row has come through.
    file.write_all(each.as_bytes()).unwrap();
    until(|| meters.seen("out").run.rows_in > 0);
    let since = Instant::now();
    for tick in 1..=time.as_millis() as u32 {
        std::thread::sleep((TICK * tick).saturating_sub(since.elapsed()));
        file.write_all(each.as_bytes()).unwrap();
    }
    let written = (time.as_millis() as usize + 1) * (rows_per_second / 1000);
    until(|| {
        let kept = meters.seen("kept").run;
        kept.rows_in == written as u64 && meters.seen("out").run.rows_in == kept.rows_out
    });
    let seen = meters.seen("out");
    end(runtime, worker);
    seen
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(TICK);
    }
}
