//! What it costs that a chain keeps books, takes down event lags and says what happens to it: the chain with and without, in turns,
//! over a file that is history and over one that is followed, whose events have just happened.

// In a benchmark a panic is the message.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fidelio::config::{Bus, Draft, Embedded, Input, Output, Pipeline, Sink, Source, Spanned, Sync, Work};
use fidelio::sql::Engine;
use fidelio::stage::{Options, Worker};
use fidelio::telemetry::Registry;
use fidelio::topology::Topology;

const EVENTS: usize = 2_000_000;
/// Turns, an uneven number, unless the environment says otherwise.
const TURNS: usize = 11;
/// Kernel ticks a second, in which the time of a process is told.
const TICKS: f64 = 100.0;

/// What a run took: seconds by the clock, and of processors.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

fn main() {
    let turns = std::env::var("TURNS").map_or(TURNS, |turns| turns.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("events.ndjson");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    fs::write(&input, support::text(EVENTS)).unwrap();
    for follow in [false, true] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        // The first turn warms up.
        for turn in 0..=turns {
            // Each begins as often.
            for unobserved in [turn % 2 == 0, turn % 2 == 1] {
                if follow {
                    fs::write(&input, just_happening(support::text(EVENTS))).unwrap();
                }
                let took = runtime.block_on(run(&input, follow, unobserved));
                if turn > 0 {
                    if unobserved { &mut without } else { &mut with }.push(took);
                }
            }
        }
        let kind = if follow { "followed" } else { "history" };
        for (what, of) in [("wall", (|took: &Took| took.wall) as fn(&Took) -> f64), ("cpu", |took| took.cpu)] {
            let [with, without] = [&with, &without].map(|took| of_middle(took.iter().map(of)));
            let rate = EVENTS as f64 / with.1 / 1e6;
            println!(
                "{kind} {what}: {:.3} s with ({:.3} to {:.3}, {rate:.2} M events/s), {:.3} s without ({:.3} to {:.3}): {:+.1} %",
                with.1,
                with.0,
                with.2,
                without.1,
                without.0,
                without.2,
                (with.1 / without.1 - 1.0) * 100.0,
            );
        }
    }
}

/// The least, the one in the middle and the greatest.
fn of_middle(numbers: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    (numbers[0], numbers[numbers.len() / 2], numbers[numbers.len() - 1])
}

/// The same events at other times: a microsecond after the other from in a second on, when the run has begun.
fn just_happening(text: String) -> String {
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64 + 1_000_000;
    let mut moved = String::with_capacity(text.len() + 3 * EVENTS);
    for (micros, line) in (first..).zip(text.lines()) {
        let time = arrow::temporal_conversions::timestamp_us_to_datetime(micros).unwrap();
        let (before, rest) = line.split_once("\"ts\":\"").unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        moved.push_str(&format!("{before}\"ts\":\"{}Z\"{after}\n", time.format("%Y-%m-%dT%H:%M:%S%.6f")));
    }
    moved
}

async fn run(input: &Path, follow: bool, unobserved: bool) -> Took {
    let dir = tempfile::tempdir_in(input.parent().unwrap()).unwrap();
    let pipeline = pipeline(input, follow, dir.path());
    let topology = Arc::new(Topology::build(&pipeline, &Engine::new()).unwrap());
    let bus = fidelio::bus::open(&pipeline.bus, None).unwrap();
    let options = Options { unobserved, ..Options::default() };
    let (began, spent) = (Instant::now(), cpu_seconds());
    let worker = Worker::start(bus, topology, Arc::new(Registry::default()), options).await.unwrap();
    let meters = worker.meters();
    let all = |stage: &str, before: &str| {
        let (stage, before) = (meters.seen(stage).run, meters.seen(before).run);
        before.rows_in == EVENTS as u64 && stage.rows_in == before.rows_out
    };
    while !(meters.seen("orders").run.rows_in == EVENTS as u64
        && all("priced", "orders")
        && all("slim", "priced")
        && meters.seen("out").run.rows_in == meters.seen("slim").run.rows_out)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = Took { wall: began.elapsed().as_secs_f64(), cpu: cpu_seconds() - spent };
    worker.stop().stop();
    let summary = worker.finished().await.unwrap();
    assert_eq!(summary.stages.last().unwrap().account.lost, 0);
    took
}

/// What the process has spent of the processors so far.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}

/// The pipeline of the events, which knows when these happened.
fn pipeline(input: &Path, follow: bool, run: &Path) -> Pipeline {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/events/events.toml")).unwrap();
    let time = "event_time = { column = \"ts\", out_of_orderness = \"10s\" }\n[stages.orders.schema]";
    let promise = "[slo]\nlag_p95 = \"2s\"\n[stages.orders]";
    let text = text.replacen("[stages.orders.schema]", time, 1);
    let text = if follow { text.replacen("[stages.orders]", promise, 1) } else { text };
    let mut pipeline = Draft::parse(&text, "chain.toml", run, &|_| None).pipeline;
    pipeline.bus =
        Bus::Embedded(Embedded { data_dir: run.join("log"), sync: Sync::Commit, retention: Default::default() });
    for stage in &mut pipeline.stages {
        match &mut stage.work {
            Work::Source(Spanned { value: Source::Lines(source), .. }) => {
                source.input = Input::File { path: input.to_owned(), compression: None, follow };
            }
            Work::Sink(Spanned { value: Sink::Lines(sink), .. }) => {
                sink.output = Output::File { path: run.join("out.ndjson") };
            }
            _ => {}
        }
    }
    pipeline
}
