//! All rows of a group anew whenever one of them changes: what can be said of any query, and is slow for large groups. Of the
//! first rows of a group, by an order, only these are kept.

use std::collections::HashMap;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::Result;

use super::Now;
use super::delta::{Delta, taken};
use super::plan;
use super::store::Store;
use crate::operator::leaf;
use crate::operator::step::{Failure, with_rows};

pub(super) struct Groups {
    plan: plan::Groups,
    schema: SchemaRef,
    rows: Store,
}

impl Groups {
    pub(super) fn new(plan: plan::Groups, schema: SchemaRef) -> Self {
        Self { rows: Store::by_columns(plan.rows.clone(), &plan.keys, plan.time), plan, schema }
    }

    /// What follows from what changes.
    pub(super) fn push(&mut self, delta: &Delta, now: &Now) -> Result<Delta, Failure> {
        let mut touched = self.rows.hashes(&delta.rows)?;
        touched.sort_unstable();
        touched.dedup();
        let places = self.rows.find(&touched).places;
        let old = self.rows.rows(&places)?;
        let (added, gone) = delta.parts()?;
        let new = concat_batches(&self.plan.rows, [&without(&old, &gone)?, &added])?;
        let (was, is) = (self.results(&old)?, self.results(&new)?);
        let kept = match self.plan.keeps_results {
            true => {
                let columns: Vec<usize> = (0..self.plan.rows.fields().len()).collect();
                let rows = is.project(&columns)?;
                with_rows(&self.plan.rows, rows.columns().to_vec(), rows.num_rows())?
            }
            false => new,
        };
        let given = difference(&was, &is)?;
        let (left, came) = (unmatched(&old, &kept)?, unmatched(&kept, &old)?);
        let came = taken(&kept, &UInt32Array::from(came))?;
        let of_came = self.rows.hashes(&came)?;
        let until = now.until_of_all(self.plan.time, &came, came.num_rows());
        let left: Vec<u32> = left.iter().filter_map(|row| places.get(*row as usize).copied()).collect();
        self.rows.remove(&left)?;
        self.rows.insert(came, &of_came, &until, &vec![0; of_came.len()])?;
        Ok(given.named(&self.schema)?)
    }

    fn results(&self, rows: &RecordBatch) -> Result<RecordBatch, Failure> {
        if rows.num_rows() == 0 {
            return Ok(RecordBatch::new_empty(self.plan.plan.schema()));
        }
        Ok(concat_batches(&self.plan.plan.schema(), &leaf::evaluate(&self.plan.plan, &[vec![rows.clone()]])?)?)
    }

    /// What follows from the time that has passed.
    pub(super) fn advance(&mut self, now: &Now) -> Result<Delta, Failure> {
        let over = self.rows.over(now.of(0, false));
        if over.is_empty() {
            return Ok(Delta::none(&self.schema));
        }
        self.push(&Delta::removed(self.rows.rows(&over)?), now)
    }

    pub(super) fn store(&self) -> &Store {
        &self.rows
    }

    pub(super) fn store_mut(&mut self) -> &mut Store {
        &mut self.rows
    }
}

/// Rows that are the same have the same bytes.
pub(super) struct Bytes(Vec<Rows>);

impl Bytes {
    /// Of the rows of each of these.
    pub(super) fn of(batches: &[&RecordBatch]) -> Result<Self, ArrowError> {
        let Some(first) = batches.first() else { return Ok(Self(Vec::new())) };
        let field = |column: &ArrayRef| SortField::new(column.data_type().clone());
        let converter = RowConverter::new(first.columns().iter().map(field).collect())?;
        let rows = batches.iter().map(|batch| converter.convert_columns(batch.columns()));
        Ok(Self(rows.collect::<Result<_, _>>()?))
    }

    /// Those of one of them.
    pub(super) fn row(&self, batch: usize, row: usize) -> &[u8] {
        self.0.get(batch).filter(|rows| row < rows.num_rows()).map_or(&[], |rows| rows.row(row).data())
    }
}

/// The numbers of rows that have no counterpart among others.
fn unmatched(rows: &RecordBatch, others: &RecordBatch) -> Result<Vec<u32>, ArrowError> {
    if others.num_rows() == 0 || rows.num_rows() == 0 || rows.num_columns() == 0 {
        return Ok((others.num_rows().min(rows.num_rows()) as u32..rows.num_rows() as u32).collect());
    }
    let bytes = Bytes::of(&[rows, others])?;
    let mut counts: HashMap<&[u8], usize> = HashMap::new();
    for row in 0..others.num_rows() {
        *counts.entry(bytes.row(1, row)).or_default() += 1;
    }
    let is_unmatched = |row: &u32| match counts.get_mut(bytes.row(0, *row as usize)) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        _ => true,
    };
    Ok((0..rows.num_rows() as u32).filter(is_unmatched).collect())
}

/// The rows less one for each of the others.
fn without(rows: &RecordBatch, others: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if others.num_rows() == 0 {
        return Ok(rows.clone());
    }
    taken(rows, &UInt32Array::from(unmatched(rows, others)?))
}

/// What is now in place of what was, less what is the same.
fn difference(was: &RecordBatch, is: &RecordBatch) -> Result<Delta, ArrowError> {
    let old = taken(was, &UInt32Array::from(unmatched(was, is)?))?;
    let new = taken(is, &UInt32Array::from(unmatched(is, was)?))?;
    Delta::replaced(&old, &new)
}
