//! Rows of a group added up. What is kept of a group is its partial aggregate, as DataFusion makes it of rows and merges it with
//! another one; so every aggregate there is can be kept of rows that are never taken away.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::kernels::cmp::gt;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;

use super::Now;
use super::delta::{Delta, same_in, taken};
use super::plan;
use super::store::Store;
use crate::failure::Class;
use crate::operator::leaf;
use crate::operator::step::{Failure, Rows, with_rows};
use crate::operator::sums::Sums;

pub(super) struct Aggregate {
    plan: plan::Aggregate,
    schema: SchemaRef,
    sums: Sums,
    groups: Store,
}

impl Aggregate {
    pub(super) fn new(plan: plan::Aggregate, schema: SchemaRef) -> Self {
        let state = plan.partial.schema();
        let sums = Sums::new(&state, Some(&plan.partial));
        Self { sums, schema, groups: Store::by_columns(state, &(0..plan.keys).collect::<Vec<_>>(), None), plan }
    }

    /// What follows from what changes.
    pub(super) fn push(&mut self, delta: &Delta, now: &Now) -> Result<Delta, Failure> {
        let rows = self.rows(delta)?;
        let state = self.plan.partial.schema();
        let fresh = leaf::collected(self.plan.partial.clone(), 0, vec![rows])?;
        let fresh = concat_batches(&state, &fresh)?;
        let places = self.places(&fresh)?;
        let old = self.groups.rows(&places)?;
        let new = if old.num_rows() == 0 { fresh } else { self.sums.of(vec![old.clone(), fresh])? };
        let (was, is) = (self.results(&old)?, self.results(&new)?);
        let given = difference(&was, &is)?;

        // What is left of groups of which there is nothing is not kept.
        let new = match &is.there {
            Some(there) => filter_record_batch(&new, there)?,
            None => new,
        };
        let hashes = self.groups.hashes(&new)?;
        let until = now.until_of_all(self.plan.time, &delta.rows, new.num_rows());
        self.groups.remove(&places)?;
        self.groups.insert(new, &hashes, &until, &vec![0; hashes.len()])?;
        Ok(given.named(&self.schema)?)
    }

    /// The rows as they are added up.
    fn rows(&self, delta: &Delta) -> Result<RecordBatch, Failure> {
        if !self.plan.weighed {
            return match &delta.gone {
                None => Ok(delta.rows.clone()),
                Some(_) => {
                    let message = "rows were taken away that never are".to_owned();
                    Err(Failure { class: Class::Expression, message })
                }
            };
        }
        let weights: Int64Array = (0..delta.len()).map(|row| Some(if delta.is_gone(row) { -1 } else { 1 })).collect();
        let columns = delta.rows.columns().iter().cloned().chain([Arc::new(weights) as ArrayRef]).collect();
        Ok(with_rows(&self.plan.partial.input_schema(), columns, delta.len())?)
    }

    /// The places of the groups that these are more of.
    fn places(&self, fresh: &RecordBatch) -> Result<Vec<u32>> {
        let found = self.groups.find(&self.groups.hashes(fresh)?);
        let mine = taken(&self.keys(fresh)?, &UInt32Array::from(found.rows.clone()))?;
        let theirs = self.keys(&self.groups.rows(&found.places)?)?;
        Ok(found.only(&same_in(mine.columns(), theirs.columns(), mine.num_rows())?).places)
    }

    fn keys(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        Ok(rows.project(&(0..self.plan.keys).collect::<Vec<_>>())?)
    }

    /// What groups yield, one by one.
    fn results(&self, state: &RecordBatch) -> Result<Results, Failure> {
        let results = match state.num_rows() {
            0 => RecordBatch::new_empty(self.plan.last.schema()),
            _ => {
                let last: Arc<dyn ExecutionPlan> = Arc::clone(&self.plan.last);
                concat_batches(&self.plan.last.schema(), &leaf::collected(last, 0, vec![state.clone()])?)?
            }
        };
        let Some((weight, steps)) = &self.plan.weight else { return Ok(Results { rows: results, there: None }) };
        let weights = results.columns().get(*weight).and_then(|weights| weights.as_primitive_opt::<Int64Type>());
        let there = match weights {
            Some(weights) if self.plan.keys > 0 => gt(weights, &Int64Array::new_scalar(0))?,
            _ => BooleanArray::from(vec![true; results.num_rows()]),
        };
        let mut rows = Rows { batch: results, origin: None, left_out: Vec::new() };
        for step in steps {
            if rows.batch.num_rows() == 0 {
                return Ok(Results { rows: RecordBatch::new_empty(self.schema.clone()), there: Some(there) });
            }
            rows = step.apply(rows)?;
        }
        Ok(Results { rows: rows.batch, there: Some(there) })
    }

    /// What follows from the time that has passed: groups that have had no rows for so long are no more.
    pub(super) fn advance(&mut self, now: &Now) -> Result<Delta, Failure> {
        if self.plan.keys == 0 {
            // Of no rows there is something to say, too, if they are not in groups.
            return match self.groups.len() {
                0 => self.push(&Delta::none(&self.plan.rows), now),
                _ => Ok(Delta::none(&self.schema)),
            };
        }
        let over = self.groups.over(now.of(0, false));
        if self.plan.stays {
            self.groups.remove(&over)?;
            return Ok(Delta::none(&self.schema));
        }
        let results = self.results(&self.groups.rows(&over)?)?;
        self.groups.remove(&over)?;
        Ok(Delta::removed(results.there()?).named(&self.schema)?)
    }

    pub(super) fn store(&self) -> &Store {
        &self.groups
    }

    pub(super) fn store_mut(&mut self) -> &mut Store {
        &mut self.groups
    }
}

/// What groups yield.
struct Results {
    rows: RecordBatch,
    /// Whether there is anything of each of them.
    there: Option<BooleanArray>,
}

impl Results {
    fn there(&self) -> Result<RecordBatch, Failure> {
        match &self.there {
            Some(there) => Ok(filter_record_batch(&self.rows, there)?),
            None => Ok(self.rows.clone()),
        }
    }
}

/// The results that groups yield now in place of those that they did. The first of what is now are those of the groups that there
/// were, in the same order; where they were not, rows that are the same would be taken away and added.
fn difference(was: &Results, is: &Results) -> Result<Delta, Failure> {
    let rows = was.rows.num_rows().min(is.rows.num_rows());
    let (old, new) = (was.rows.slice(0, rows), is.rows.slice(0, rows));
    let same = same_in(old.columns(), new.columns(), rows)?;
    let is_there = |there: &Option<BooleanArray>, row: usize| there.as_ref().is_none_or(|there| there.value(row));
    let is_same = |row: usize| row < rows && same.value(row) && is_there(&was.there, row) == is_there(&is.there, row);
    let changed = |results: &Results| -> BooleanArray {
        let rows = 0..results.rows.num_rows();
        rows.map(|row| Some(!is_same(row) && is_there(&results.there, row))).collect()
    };
    let old = filter_record_batch(&was.rows, &changed(was))?;
    let new = filter_record_batch(&is.rows, &changed(is))?;
    Ok(Delta::replaced(&old, &new)?)
}
