//! `fidelio state`: what a stage keeps from batch to batch, also beside a running worker.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::bus;
use crate::cli::{exit, pipeline};
use crate::codec::json;
use crate::stage::{self, Held};

/// Print what a stage keeps for open windows, joins and aggregates as NDJSON, also beside a running worker
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// The pipeline file.
    file: PathBuf,
    /// The stage.
    stage: String,
    /// Where the embedded log lives, instead of where the pipeline says.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let (pipeline, topology) = match pipeline::load(&args.file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let Some(stage) = topology.stage(&args.stage) else {
        return exit::usage(&format!("the pipeline has no stage {}", args.stage));
    };
    if !stage.has_state() {
        return exit::usage(&format!("stage {} keeps no rows from one to the next, and so has no state", args.stage));
    }
    let held = match bus::open_log(&pipeline.bus, args.data_dir.as_deref()) {
        Ok(log) => stage::held(log.as_ref(), stage).await.map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    match held.and_then(|held| print(&held)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => exit::failed_with(error.as_ref(), &pipeline.secrets),
        },
    }
}

fn print(held: &[Held]) -> Result<(), Box<dyn Error>> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for Held { task, batches } in held {
        for batch in batches {
            for row in json::rows_to_text(&shown(*task, batch)?)? {
                out.write_all(&row)?;
                out.write_all(b"\n")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// The rows behind the number of their task; what JSON has no type for, such as a sketch of distinct values, as text.
fn shown(task: u32, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let tasks = vec![Some(task.to_string()); batch.num_rows()];
    let mut fields = vec![Field::new("task", DataType::Utf8, false)];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(tasks))];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let is_bytes = matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
        let column = if is_bytes { text(column)? } else { column.clone() };
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    Ok(Arc::new(StringArray::from_iter_values((0..column.len()).map(|row| formatter.value(row).to_string()))))
}
