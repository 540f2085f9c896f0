//! One step on a batch: select columns, filter, project, bring to a schema. A step works on all rows or fails as a whole;
//! finding the rows at fault is left to `transform`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{CastOptions, cast_with_options, filter, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use super::Unnest;
use crate::failure::Class;

/// One step of a branch.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Columns by number.
    Select(Arc<[usize]>),
    /// Rows for which the expression is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// An expression a column.
    Project(Project),
    /// Elements of lists as rows, fields of structs as columns.
    Unnest(Unnest),
    /// Types and nullability of a schema.
    Conform(Conform),
}

/// The columns that expressions yield.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) expressions: Arc<[Arc<dyn PhysicalExpr>]>,
    pub(crate) schema: SchemaRef,
}

/// The columns of a schema: for each the number of the column it is made of, cast where the types differ.
#[derive(Debug, Clone)]
pub(crate) struct Conform {
    columns: Vec<usize>,
    schema: SchemaRef,
    /// What a row that does not conform is guilty of.
    class: Class,
}

/// Rows on their way through a branch.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    /// For each row, which row of the branch's input it came from, ascending; `None` if row by row the same.
    pub(super) origin: Option<UInt32Array>,
    /// The rows of the branch's input that a step has left out, as the query wants it.
    pub(super) left_out: Vec<u32>,
}

impl Rows {
    /// Which row of the branch's input a row came from.
    pub(super) fn origin_of(&self, row: usize) -> u32 {
        match &self.origin {
            Some(origin) => origin.values().get(row).copied().unwrap_or_default(),
            None => row as u32,
        }
    }
}

/// Why some row of a batch cannot take a step.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) message: String,
}

impl Step {
    pub(super) fn apply(&self, rows: Rows) -> Result<Rows, Failure> {
        match self {
            Step::Select(columns) => Ok(Rows { batch: rows.batch.project(columns)?, ..rows }),
            Step::Filter(condition) => keep(condition, rows),
            Step::Project(project) => Ok(Rows { batch: project.apply(&rows.batch)?, ..rows }),
            Step::Unnest(unnest) => unnest.apply(rows),
            Step::Conform(conform) => Ok(Rows { batch: conform.apply(&rows.batch)?, ..rows }),
        }
    }

    /// The column before the step whose values that column has after it, in the rows that are left; `None` where they are others,
    /// or other values at times.
    pub(crate) fn source(&self, column: usize) -> Option<usize> {
        match self {
            Step::Select(columns) => columns.get(column).copied(),
            Step::Filter(_) => Some(column),
            Step::Project(project) => Some(project.expressions.get(column)?.downcast_ref::<Column>()?.index()),
            Step::Unnest(unnest) => unnest.source(column),
            Step::Conform(conform) => conform.columns.get(column).copied(),
        }
    }
}

fn keep(condition: &Arc<dyn PhysicalExpr>, rows: Rows) -> Result<Rows, Failure> {
    let mask = condition.evaluate(&rows.batch)?.into_array(rows.batch.num_rows())?;
    let Some(mask) = mask.as_boolean_opt() else {
        return Err(DataFusionError::Execution("the condition is neither true nor false".into()).into());
    };
    if mask.true_count() == mask.len() {
        return Ok(rows);
    }
    let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
    let batch = filter_record_batch(&rows.batch, &mask)?;
    let mut left_out = rows.left_out;
    let origin = match &rows.origin {
        Some(origin) => {
            left_out.extend(without_any(origin.values(), mask.values()));
            filter(origin, &mask)?.as_primitive().clone()
        }
        None => {
            left_out.extend((!mask.values()).set_indices_u32());
            UInt32Array::from_iter_values(mask.values().set_indices_u32())
        }
    };
    Ok(Rows { batch, origin: Some(origin), left_out })
}

/// The origins none of whose rows stay.
fn without_any(origins: &[u32], stays: &BooleanBuffer) -> impl Iterator<Item = u32> {
    let mut start = 0;
    origins.chunk_by(|a, b| a == b).filter_map(move |rows| {
        let stay = stays.slice(start, rows.len());
        start += rows.len();
        rows.first().copied().filter(|_| stay.count_set_bits() == 0)
    })
}

impl Project {
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, Failure> {
        let rows = batch.num_rows();
        let column = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(rows);
        let columns = self.expressions.iter().map(column).collect::<Result<_, _>>()?;
        Ok(with_rows(&self.schema, columns, rows)?)
    }
}

impl Conform {
    pub(crate) fn new(columns: Vec<usize>, schema: &SchemaRef, class: Class) -> Self {
        Self { columns, schema: Arc::clone(schema), class }
    }

    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, Failure> {
        let broken = |message: String| Failure { class: self.class, message };
        let mut columns = Vec::with_capacity(self.columns.len());
        for (index, field) in self.columns.iter().zip(self.schema.fields()) {
            let Some(column) = batch.columns().get(*index) else {
                return Err(broken(format!("column `{}` is missing", field.name())));
            };
            let options = CastOptions { safe: false, ..CastOptions::default() };
            let column: ArrayRef = match column.data_type() == field.data_type() {
                true => Arc::clone(column),
                false => cast_with_options(column, field.data_type(), &options)
                    .map_err(|error| broken(format!("column `{}`: {}", field.name(), text(&error))))?,
            };
            if !field.is_nullable() && column.logical_null_count() > 0 {
                return Err(broken(format!("column `{}` must not be null", field.name())));
            }
            columns.push(column);
        }
        with_rows(&self.schema, columns, batch.num_rows()).map_err(|error| broken(text(&error)))
    }
}

pub(super) fn with_rows(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn text(error: &ArrowError) -> String {
    crate::sql::clean(&error.to_string())
}

impl From<Failure> for DataFusionError {
    fn from(failure: Failure) -> Self {
        Self::Execution(failure.message)
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Self { class: Class::Expression, message: text(&error) }
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        Self { class: Class::Expression, message: crate::sql::clean(&error.strip_backtrace()) }
    }
}
