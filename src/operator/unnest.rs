//! One row to many: elements of lists become rows. DataFusion's operator does it; here it is fed one batch, and told to
//! carry along which row each came from.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::UnnestOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use futures::TryStreamExt;

use super::step::{Failure, Rows, with_rows};

/// Which columns become what.
#[derive(Debug, Clone)]
pub(crate) struct Unnest {
    /// Lists whose elements become rows.
    pub(crate) lists: Vec<ListUnnest>,
    /// Structs whose fields become columns.
    pub(crate) structs: Vec<usize>,
    pub(crate) options: UnnestOptions,
    /// The columns afterwards.
    pub(crate) schema: SchemaRef,
}

impl Unnest {
    /// The column that is passed on as that one; only known where every column stays in its place.
    pub(super) fn source(&self, column: usize) -> Option<usize> {
        let of_list = |index: usize| self.lists.iter().filter(|list| list.index_in_input_schema == index).count();
        let in_place =
            self.structs.is_empty() && self.lists.iter().all(|list| of_list(list.index_in_input_schema) == 1);
        Some(column).filter(|column| in_place && of_list(*column) == 0)
    }

    pub(super) fn apply(&self, rows: Rows) -> Result<Rows, Failure> {
        let before = rows.origin.unwrap_or_else(|| UInt32Array::from_iter_values(0..rows.batch.num_rows() as u32));
        let input = with_column(&rows.batch, Arc::new(before.clone()))?;
        let mut output = self.run(input)?;
        let origin = output.remove_column(output.num_columns() - 1);
        let batch = with_rows(&self.schema, output.columns().to_vec(), output.num_rows())?;
        let origin = origin.as_primitive::<UInt32Type>().clone();
        let mut left_out = rows.left_out;
        left_out.extend(missing(before.values(), origin.values()));
        Ok(Rows { batch, origin: Some(origin), left_out })
    }

    fn run(&self, input: RecordBatch) -> Result<RecordBatch, Failure> {
        let schema = with_field(&self.schema);
        let source = MemorySourceConfig::try_new_exec(&[vec![input.clone()]], input.schema(), None)?;
        let (lists, structs) = (self.lists.clone(), self.structs.clone());
        let plan = UnnestExec::new(source, lists, structs, Arc::clone(&schema), self.options.clone())?;
        let batches = plan.execute(0, Arc::new(TaskContext::default()))?.try_collect::<Vec<_>>();
        // Nothing here waits, but Tokio would make it wait for its turn, which never comes to a blocked thread.
        let batches = futures::executor::block_on(tokio::task::unconstrained(batches))?;
        Ok(concat_batches(&schema, &batches)?)
    }
}

/// The origins that are in `before` and no longer in `after`; both ascending.
fn missing(before: &[u32], after: &[u32]) -> impl Iterator<Item = u32> {
    let mut after = after.iter().peekable();
    before.chunk_by(|a, b| a == b).filter_map(|rows| rows.first()).copied().filter(move |origin| {
        while after.next_if(|next| *next < origin).is_some() {}
        after.peek() != Some(&origin)
    })
}

fn with_column(batch: &RecordBatch, origin: ArrayRef) -> Result<RecordBatch, Failure> {
    let columns = batch.columns().iter().cloned().chain([origin]).collect();
    Ok(with_rows(&with_field(batch.schema_ref()), columns, batch.num_rows())?)
}

fn with_field(schema: &Schema) -> SchemaRef {
    // A name that no query can give.
    let origin = Arc::new(Field::new("\0origin", DataType::UInt32, false));
    Arc::new(Schema::new(schema.fields().iter().cloned().chain([origin]).collect::<Vec<_>>()))
}
