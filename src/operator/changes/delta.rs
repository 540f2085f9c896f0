//! What changes: rows that are there now, and rows that are no more.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, make_comparator};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use crate::operator::step::with_rows;

/// Rows that are added to those that there are, and rows that are taken away.
#[derive(Debug, Clone)]
pub(super) struct Delta {
    pub(super) rows: RecordBatch,
    /// For each whether it is taken away; `None` where all are added.
    pub(super) gone: Option<BooleanArray>,
}

impl Delta {
    /// Rows that are added.
    pub(super) fn added(rows: RecordBatch) -> Self {
        Self { rows, gone: None }
    }

    /// Rows that are taken away.
    pub(super) fn removed(rows: RecordBatch) -> Self {
        Self { gone: Some(BooleanArray::from(vec![true; rows.num_rows()])), rows }
    }

    /// Nothing.
    pub(super) fn none(schema: &SchemaRef) -> Self {
        Self::added(RecordBatch::new_empty(schema.clone()))
    }

    /// Some rows in place of others.
    pub(super) fn replaced(old: &RecordBatch, new: &RecordBatch) -> Result<Self, ArrowError> {
        if old.num_rows() == 0 {
            return Ok(Self::added(new.clone()));
        }
        let rows = concat_batches(new.schema_ref(), [old, new])?;
        let gone = (0..rows.num_rows()).map(|row| Some(row < old.num_rows())).collect();
        Ok(Self { rows, gone: Some(gone) })
    }

    /// All of them, in their order.
    pub(super) fn concat(schema: &SchemaRef, deltas: Vec<Delta>) -> Result<Self, ArrowError> {
        let mut deltas: Vec<Delta> = deltas.into_iter().filter(|delta| !delta.is_empty()).collect();
        match (deltas.pop(), deltas.is_empty()) {
            (None, _) => Ok(Self::none(schema)),
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                deltas.push(last);
                let rows = concat_batches(schema, deltas.iter().map(|delta| &delta.rows))?;
                let any = deltas.iter().any(|delta| delta.gone.is_some());
                let gone =
                    any.then(|| deltas.iter().flat_map(|delta| (0..delta.len()).map(|row| Some(delta.is_gone(row)))));
                Ok(Self { rows, gone: gone.map(Iterator::collect) })
            }
        }
    }

    /// The same rows under the names of these columns.
    pub(super) fn named(self, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(Self { rows: with_rows(schema, self.rows.columns().to_vec(), self.len())?, gone: self.gone })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a row is taken away.
    pub(super) fn is_gone(&self, row: usize) -> bool {
        self.gone.as_ref().is_some_and(|gone| row < gone.len() && gone.value(row))
    }

    /// So many rows from that one on.
    pub(super) fn slice(&self, start: usize, rows: usize) -> Self {
        Self { rows: self.rows.slice(start, rows), gone: self.gone.as_ref().map(|gone| gone.slice(start, rows)) }
    }

    /// Other rows, of which each comes from one of these.
    pub(super) fn from(&self, rows: RecordBatch, origins: &[u32]) -> Self {
        let gone = |origin: &u32| Some(self.is_gone(*origin as usize));
        Self { rows, gone: self.gone.as_ref().map(|_| origins.iter().map(gone).collect()) }
    }

    /// The rows that are added, and those that are taken away.
    pub(super) fn parts(&self) -> Result<(RecordBatch, RecordBatch), ArrowError> {
        let Some(gone) = &self.gone else {
            return Ok((self.rows.clone(), self.rows.slice(0, 0)));
        };
        let stays = arrow::compute::not(gone)?;
        Ok((filter_record_batch(&self.rows, &stays)?, filter_record_batch(&self.rows, gone)?))
    }

    /// The rows with these numbers.
    pub(super) fn take(&self, rows: &UInt32Array) -> Result<Self, ArrowError> {
        Ok(self.from(taken(&self.rows, rows)?, rows.values()))
    }
}

/// The rows with these numbers; there may be no columns.
pub(super) fn taken(rows: &RecordBatch, numbers: &UInt32Array) -> Result<RecordBatch, ArrowError> {
    match rows.num_columns() {
        0 => with_rows(rows.schema_ref(), Vec::new(), numbers.len()),
        _ => take_record_batch(rows, numbers),
    }
}

/// For each pair of values whether they are the same; nulls are the same as each other.
pub(super) fn same(left: &ArrayRef, right: &ArrayRef) -> Result<BooleanArray, ArrowError> {
    if !left.data_type().is_nested() {
        return not_distinct(left, right);
    }
    let compare = make_comparator(left.as_ref(), right.as_ref(), arrow::compute::SortOptions::default())?;
    Ok((0..left.len()).map(|row| Some(compare(row, row) == Ordering::Equal)).collect())
}

/// For each pair of rows whether they are the same in these columns.
pub(super) fn same_in(left: &[ArrayRef], right: &[ArrayRef], rows: usize) -> Result<BooleanArray, ArrowError> {
    let mut all: Option<BooleanArray> = None;
    for (left, right) in left.iter().zip(right) {
        let same = same(left, right)?;
        all = Some(match all {
            Some(all) => arrow::compute::and(&all, &same)?,
            None => same,
        });
    }
    Ok(all.unwrap_or_else(|| BooleanArray::from(vec![true; rows])))
}
