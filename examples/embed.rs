//! A program of its own that runs a pipeline with an SQL function of its own: `cargo run --example embed`.

use std::sync::Arc;

use arrow::array::{AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::exec_err;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use fidelio::bus::memory::Memory;
use fidelio::config::{Draft, Error};
use fidelio::sql::Engine;
use fidelio::stage::{Options, Worker};
use fidelio::telemetry::Registry;
use fidelio::topology::Topology;

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "weather"

[stages.readings]
source = { kind = "file", path = "readings.ndjson" }
[stages.readings.schema]
place = "text not null"
celsius = "double"

[stages.converted]
from = ["readings"]
sql = "SELECT place, fahrenheit(celsius) AS fahrenheit FROM readings"

[stages.out]
from = ["converted"]
sink = { kind = "file", path = "converted.ndjson" }
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("fidelio-embed-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    std::fs::write(
        dir.join("readings.ndjson"),
        "{\"place\":\"Oslo\",\"celsius\":-3}\n{\"place\":\"Rome\",\"celsius\":15}\n",
    )?;
    std::fs::write(dir.join("weather.toml"), PIPELINE)?;

    // A function is vectorised: arrays in, an array out. It must be immutable, as everything in a stage.
    let fahrenheit = create_udf(
        "fahrenheit",
        vec![DataType::Float64],
        DataType::Float64,
        Volatility::Immutable,
        Arc::new(|arguments: &[ColumnarValue]| {
            let arrays = ColumnarValue::values_to_arrays(arguments)?;
            let [celsius] = arrays.as_slice() else { return exec_err!("fahrenheit takes one argument") };
            let fahrenheit: Float64Array = celsius.as_primitive::<Float64Type>().unary(|celsius| celsius * 1.8 + 32.0);
            Ok(ColumnarValue::Array(Arc::new(fahrenheit)))
        }),
    );
    let mut engine = Engine::new();
    engine.register(fahrenheit);

    let draft = Draft::load(dir.join("weather.toml"))?;
    let (pipeline, topology) = Topology::of_draft(draft, &engine).map_err(Error::Faulty)?;

    // A bus in memory forgets everything at the end; `fidelio::bus::open` gives the one that the pipeline names.
    let options = Options { dir: pipeline.dir.clone(), ..Options::default() };
    let worker =
        Worker::start(Arc::new(Memory::new()), Arc::new(topology), Arc::new(Registry::default()), options).await?;
    // A worker whose sources are bounded ends by itself; `stop` ends any other.
    let stop = worker.stop();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.stop();
        }
    });
    let summary = worker.finished().await?;
    for stage in &summary.stages {
        println!(
            "{}: {} in, {} out, {} lost",
            stage.account.stage, stage.account.counts.rows_in, stage.account.counts.rows_out, stage.account.lost
        );
    }
    print!("{}", std::fs::read_to_string(dir.join("converted.ndjson"))?);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
