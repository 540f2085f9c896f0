//! The whole chain, file to file and durable at every commit: through four stages, and through windows; with the bare loop
//! over the same events as the yardstick.

// In a benchmark a panic is the message.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fidelio::config::{Bus, Draft, Embedded, Input, Output, Pipeline, Sink, Source, Spanned, Sync, Work};
use fidelio::sql::Engine;
use fidelio::stage::{Options, Worker};
use fidelio::telemetry::Registry;
use fidelio::topology::Topology;

const EVENTS: usize = 1_000_000;

fn chain(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let text = support::text(EVENTS);
    let input = dir.path().join("events.ndjson");
    std::fs::write(&input, &text).unwrap();
    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10).measurement_time(Duration::from_secs(15));

    group.bench_function("bare-loop", |bench| bench.iter(|| support::bare_loop(&text)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let slim = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/events/events.toml")).unwrap();
    let windows =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/events/windows.toml")).unwrap();
    let over = |columns: &str, from: &str, groups: &str| {
        let sql = format!(
            "SELECT window_start, {columns}, sum(amount) AS total\nFROM {from}\nGROUP BY window_start, {groups}"
        );
        let start = windows.find("SELECT").unwrap();
        let end = start + windows[start..].find("\n\"\"\"").unwrap();
        format!("{}{sql}{}", &windows[..start], &windows[end..])
    };
    let keys = |keys: u32| {
        over(&format!("id % {keys} AS key"), "tumble(orders, ts, INTERVAL '1 day')", &format!("id % {keys}"))
    };
    let hop = over("country", "hop(orders, ts, INTERVAL '1 second', INTERVAL '1 minute')", "country");
    let sessions =
        |gap: &str| over("sku, window_end", &format!("session(orders, ts, INTERVAL '{gap}', sku)"), "window_end, sku");
    for (name, text) in [
        ("file-to-file", slim),
        ("tumble", windows.clone()),
        ("tumble-1000-keys", keys(1_000)),
        ("tumble-1000000-keys", keys(1_000_000)),
        ("hop-of-60-slides", hop),
        ("sessions-short", sessions("500 milliseconds")),
        ("sessions-without-end", sessions("30 seconds")),
    ] {
        group.bench_function(name, |bench| {
            bench.to_async(&runtime).iter(async || {
                let run = tempfile::tempdir_in(dir.path()).unwrap();
                let pipeline = pipeline(&text, &input, run.path());
                let topology = Arc::new(Topology::build(&pipeline, &Engine::new()).unwrap());
                let bus = fidelio::bus::open(&pipeline.bus, None).unwrap();
                let worker =
                    Worker::start(bus, topology, Arc::new(Registry::default()), Options::default()).await.unwrap();
                let summary = worker.finished().await.unwrap();
                assert_eq!(summary.stages.last().unwrap().account.lost, 0);
            });
        });
    }
    group.finish();
}

fn pipeline(text: &str, input: &std::path::Path, run: &std::path::Path) -> Pipeline {
    let mut pipeline = Draft::parse(text, "chain.toml", run, &|_| None).pipeline;
    pipeline.bus =
        Bus::Embedded(Embedded { data_dir: run.join("log"), sync: Sync::Commit, retention: Default::default() });
    for stage in &mut pipeline.stages {
        match &mut stage.work {
            Work::Source(Spanned { value: Source::Lines(source), .. }) => {
                source.input = Input::File { path: input.to_owned(), compression: None, follow: false };
            }
            Work::Sink(Spanned { value: Sink::Lines(sink), .. }) => {
                sink.output = Output::File { path: run.join("out.ndjson") };
            }
            _ => {}
        }
    }
    pipeline
}

criterion_group!(benches, chain);
criterion_main!(benches);
