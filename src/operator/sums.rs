//! Partial aggregates that are added up: what DataFusion makes of those of some rows and of others.

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use super::leaf::{self, LeafExec};

/// What adds up the rows of a group, where they are added up.
#[derive(Debug)]
pub(super) struct Sums {
    schema: SchemaRef,
    by: Option<Arc<AggregateExec>>,
}

impl Sums {
    /// Of rows of that schema, which are left as they are if there is nothing to add them up by.
    pub(super) fn new(schema: &SchemaRef, by: Option<&Arc<AggregateExec>>) -> Self {
        Self { schema: Arc::clone(schema), by: by.cloned() }
    }

    /// Whether rows are added up.
    pub(super) fn any(&self) -> bool {
        self.by.is_some()
    }

    /// All rows in one batch, as they are.
    pub(super) fn concat<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a RecordBatch>,
    ) -> Result<RecordBatch, ArrowError> {
        concat_batches(&self.schema, batches)
    }

    /// The rows of each group added up to one.
    pub(super) fn of(&self, batches: Vec<RecordBatch>) -> Result<RecordBatch> {
        let Some(by) = &self.by else { return Ok(self.concat(&batches)?) };
        let leaf = Arc::new(LeafExec::new(0, &self.schema, Vec::new()));
        let plan = AggregateExec::try_new(
            AggregateMode::PartialReduce,
            by.group_expr().as_final(),
            by.aggr_expr().to_vec(),
            vec![None; by.aggr_expr().len()],
            leaf,
            by.input_schema(),
        )?;
        Ok(self.concat(&leaf::collected(Arc::new(plan), 0, batches)?)?)
    }

    /// The same, where there is more than one batch of such as were.
    pub(super) fn of_several(&self, mut batches: Vec<RecordBatch>) -> Result<RecordBatch> {
        match (batches.pop(), batches.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => self.of(batches.into_iter().chain(last).collect()),
        }
    }
}
