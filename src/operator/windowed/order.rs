//! An order of rows that depends on nothing but the rows.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};

/// The rows in the order of their first so many columns, nulls first. Columns of types that have no order do not count.
pub(super) fn by_columns(batch: RecordBatch, columns: usize) -> Result<RecordBatch, ArrowError> {
    by(&[], batch, columns)
}

/// The rows in the order of those columns first.
pub(super) fn by(first: &[ArrayRef], batch: RecordBatch, columns: usize) -> Result<RecordBatch, ArrowError> {
    let field = |column: &ArrayRef| SortField::new(column.data_type().clone());
    let has_order = |column: &&ArrayRef| RowConverter::supports_fields(&[field(column)]);
    let columns = first.iter().chain(batch.columns().iter().take(columns));
    let columns: Vec<ArrayRef> = columns.filter(has_order).cloned().collect();
    if columns.is_empty() || batch.num_rows() < 2 {
        return Ok(batch);
    }
    let rows = RowConverter::new(columns.iter().map(field).collect())?.convert_columns(&columns)?;
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    take_record_batch(&batch, &UInt32Array::from(order))
}
