//! The steps of the way of a row, one by one, on a batch of 32,768 events, with the bare loop as the yardstick.

// In a benchmark a panic is the message.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::hint::black_box;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fidelio::bus::{Change, Commit, Outgoing, Record};
use fidelio::codec::{Decoder as _, Encoder as _, Text, arrow, json};
use fidelio::config::{Input, Source};
use fidelio::connector::{self, Polled};
use fidelio::topology::{Topology, Work};

const EVENTS: usize = 1 << 15;

fn steps(criterion: &mut Criterion) {
    let topology = support::topology();
    let raw = support::raw(EVENTS);
    let text = support::text(EVENTS);
    let batch = support::batch(EVENTS);
    let priced = match &topology.stage("priced").unwrap().work {
        Work::Sql(query) => query,
        _ => unreachable!("priced is an SQL stage"),
    };
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(EVENTS as u64)).measurement_time(Duration::from_secs(3));

    group.bench_function("bare-loop", |bench| bench.iter(|| support::bare_loop(black_box(&text))));
    poll(&mut group, &topology, &text);
    group.bench_function("decode", |bench| {
        let mut decoder = json::Decoder::new(batch.schema()).unwrap();
        bench.iter(|| decoder.decode(black_box(&raw)));
    });
    group.bench_function("process", |bench| {
        let mut operator = priced.operator().unwrap();
        bench.iter(|| operator.process(0, black_box(&batch)));
    });
    group.bench_function("encode-arrow", |bench| bench.iter(|| arrow::encode(black_box(&batch)).unwrap()));
    group.bench_function("decode-arrow", |bench| {
        let encoded = arrow::encode(&batch).unwrap();
        bench.iter(|| arrow::decode(black_box(encoded.clone())).unwrap());
    });
    group.bench_function("encode-ndjson", |bench| {
        let mut encoder = json::Encoder::new();
        bench.iter_batched(
            || Text { bytes: BytesMut::with_capacity(EVENTS * 128), rows: 0 },
            |mut text| {
                encoder.encode(black_box(&batch), &mut text).unwrap();
                text
            },
            BatchSize::LargeInput,
        );
    });
    commit(&mut group, &topology, &batch);
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// Cuts a file into rows.
fn poll(group: &mut Group, topology: &Topology, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    std::fs::write(&path, text).unwrap();
    let Work::Source(Source::Lines(spec)) = &topology.stage("orders").unwrap().work else {
        unreachable!("orders is a source of lines")
    };
    let mut spec = spec.clone();
    spec.input = Input::File { path, compression: None, follow: false };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let limit = fidelio::bus::Limit { rows: EVENTS, bytes: 64 << 20 };
    group.bench_function("poll-file", |bench| {
        bench.to_async(&runtime).iter(async || {
            let mut source = connector::source(&spec, 0, 1);
            source.resume(None).await.unwrap();
            let mut rows = 0;
            while let Polled::Rows(block) = source.poll(limit, Duration::from_secs(1)).await.unwrap() {
                rows += block.rows.len();
            }
            assert_eq!(rows, EVENTS);
        });
    });
}

/// Commits the batch as one record, durable before it returns.
fn commit(group: &mut Group, topology: &Topology, batch: &::arrow::record_batch::RecordBatch) {
    let stage = topology.stage("orders").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let spec = fidelio::config::Bus::Embedded(fidelio::config::Embedded {
        data_dir: dir.path().to_owned(),
        sync: fidelio::config::Sync::Commit,
        retention: Default::default(),
    });
    let (bus, mut lease) = runtime.block_on(async {
        let bus = fidelio::bus::open(&spec, None).unwrap();
        bus.declare(&stage.topics).await.unwrap();
        let Change::Given(lease) = bus.join(stage.group()).await.unwrap().changed().await.unwrap() else {
            unreachable!("the only member has every task")
        };
        (bus, lease)
    });
    let record = Record {
        value: Some(arrow::encode(batch).unwrap()),
        rows: batch.num_rows() as u32,
        batch: Some(batch.clone()),
        ..Record::default()
    };
    group.bench_function("commit", |bench| {
        bench.iter(|| {
            let results = vec![Outgoing { to: stage.results().partition(0), record: record.clone() }];
            runtime.block_on(lease.commit(Commit { results, ..Commit::default() })).unwrap();
        });
    });
    runtime.block_on(bus.close()).unwrap();
}

criterion_group!(benches, steps);
criterion_main!(benches);
