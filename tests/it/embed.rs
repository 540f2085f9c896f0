//! A program that embeds the engine: a function of its own, a run that it stops.

use std::sync::Arc;

use arrow::array::{AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use fidelio::bus::memory::Memory;
use fidelio::config::Draft;
use fidelio::sql::Engine;
use fidelio::stage::{Options, Worker};
use fidelio::telemetry::Registry;
use fidelio::topology::Topology;
use serde_json::json;

use crate::support::Scratch;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_adds_a_function_runs_a_pipeline_and_stops_it() {
    let scratch = Scratch::with(
        r#"
[pipeline]
company = "acme"
namespace = "weather"
[stages.readings]
source = { kind = "file", path = "in.ndjson", follow = true }
[stages.readings.schema]
celsius = "double"
[stages.converted]
from = ["readings"]
sql = "SELECT fahrenheit(celsius) AS fahrenheit FROM readings"
[stages.out]
from = ["converted"]
sink = { kind = "file", path = "out.ndjson" }
"#,
    );
    scratch.write("in.ndjson", "{\"celsius\":100}\n{\"celsius\":null}\n");
    let mut engine = Engine::new();
    let double = DataType::Float64;
    engine.register(create_udf(
        "fahrenheit",
        vec![double.clone()],
        double,
        Volatility::Immutable,
        Arc::new(|arguments: &[ColumnarValue]| {
            let arrays = ColumnarValue::values_to_arrays(arguments)?;
            let converted: Float64Array = arrays[0].as_primitive::<Float64Type>().unary(|celsius| celsius * 1.8 + 32.0);
            Ok(ColumnarValue::Array(Arc::new(converted)))
        }),
    ));
    let draft = Draft::load(scratch.path("p.toml")).unwrap();
    let Ok((_, topology)) = Topology::of_draft(draft, &engine) else { panic!("the pipeline was refused") };
    let (bus, registry) = (Arc::new(Memory::new()), Arc::new(Registry::default()));
    let worker = Worker::start(bus, Arc::new(topology), registry, Options::default()).await.unwrap();
    let (stop, meters) = (worker.stop(), worker.meters());
    let stopper = tokio::spawn(async move {
        while meters.seen("out").run.rows_in < 2 {
            tokio::task::yield_now().await;
        }
        stop.stop();
    });
    let summary = worker.finished().await.unwrap();
    stopper.await.unwrap();
    assert!(summary.stages.iter().all(|stage| stage.account.lost == 0 && stage.account.counts.rows_out == 2));
    assert_eq!(scratch.ndjson("out.ndjson"), [json!({"fahrenheit": 212.0}), json!({"fahrenheit": null})]);
}
