//! What the benchmarks share: events, as text and as a batch, and the pipeline that they run through.

// Each of them uses some of it.
#![allow(dead_code)]

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::sum;
use arrow::datatypes::{Float64Type, Int64Type, SchemaRef};
use arrow::json::ReaderBuilder;
use arrow::record_batch::RecordBatch;
use fidelio::codec::json::Decoder;
use fidelio::codec::{Decoder as _, RawRows};
use fidelio::config::Draft;
use fidelio::sql::Engine;
use fidelio::topology::Topology;

const COUNTRIES: [&str; 8] = ["US", "DE", "FR", "GB", "JP", "BR", "IN", "SE"];

/// The pipeline of pipelines/events/events.toml.
pub fn topology() -> Arc<Topology> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/events/events.toml");
    let draft = Draft::load(file).unwrap();
    Arc::new(Topology::of_draft(draft, &Engine::new()).unwrap().1)
}

/// That many events of 97 bytes, a line each.
pub fn text(events: usize) -> String {
    let mut text = String::with_capacity(events * 100);
    for id in 1..=events {
        let random = id.wrapping_mul(6_364_136_223_846_793_005) >> 33;
        let country = COUNTRIES[random % COUNTRIES.len()];
        writeln!(
            text,
            r#"{{"id":{id},"ts":"2024-01-01T{:02}:{:02}:{:02}.{:03}Z","country":"{country}","amount":{}.{:02},"qty":{},"sku":"A-{}"}}"#,
            id / 3_600_000 % 24,
            id / 60_000 % 60,
            id / 1000 % 60,
            id % 1000,
            random % 100,
            random / 100 % 100,
            1 + random % 9,
            random % 100,
        )
        .unwrap();
    }
    text
}

/// The same, cut into rows.
pub fn raw(events: usize) -> RawRows {
    let text = text(events);
    let mut rows: Vec<Range<u32>> = Vec::with_capacity(events);
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', text.as_bytes()) {
        rows.push(start..end as u32);
        start = end as u32 + 1;
    }
    RawRows { bytes: text.into(), rows }
}

/// The contract of the events.
pub fn schema() -> SchemaRef {
    topology().stage("orders").unwrap().schema.clone()
}

/// The same, decoded.
pub fn batch(events: usize) -> RecordBatch {
    Decoder::new(schema()).unwrap().decode(&raw(events)).batch
}

/// The yardstick: decodes the events and sums up two columns, without stages and durability.
pub fn bare_loop(text: &str) -> f64 {
    let reader = ReaderBuilder::new(schema()).with_batch_size(8192).build(text.as_bytes()).unwrap();
    let mut total = 0.0;
    for batch in reader {
        let batch = batch.unwrap();
        total += sum(batch["amount"].as_primitive::<Float64Type>()).unwrap_or(0.0);
        total += sum(batch["qty"].as_primitive::<Int64Type>()).unwrap_or(0) as f64;
    }
    total
}
