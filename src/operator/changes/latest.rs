//! The rows of an input that replace one another: the latest of each is kept, so that it can be taken away when another one comes.

use std::collections::HashSet;

use arrow::array::{AsArray, UInt32Array};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::Now;
use super::delta::{Delta, same_in, taken};
use super::groups::Bytes;
use super::plan;
use super::store::Store;
use crate::operator::step::with_rows;

pub(super) struct Latest {
    plan: plan::Latest,
    rows: Store,
}

impl Latest {
    pub(super) fn new(plan: plan::Latest) -> Self {
        Self { rows: Store::by_columns(plan.schema.clone(), &plan.identity, None), plan }
    }

    /// The number of the input.
    pub(super) fn input(&self) -> usize {
        self.plan.input
    }

    /// What changes with a batch of the input, whose last column says which rows are deleted; and for each of these rows from
    /// which of the batch it comes. Nothing is kept of them yet.
    pub(super) fn changes(&self, batch: &RecordBatch) -> Result<(Delta, Vec<u32>)> {
        let width = self.plan.schema.fields().len();
        let rows = batch.project(&(0..width).collect::<Vec<_>>())?;
        let rows = with_rows(&self.plan.schema, rows.columns().to_vec(), batch.num_rows())?;
        let deleted = batch.columns().get(width).and_then(|column| column.as_boolean_opt());
        let is_deleted = |row: usize| deleted.is_some_and(|deleted| deleted.value(row));
        // Of each only the last counts.
        let identities = rows.project(&self.plan.identity)?;
        let bytes = Bytes::of(&[&identities])?;
        let mut seen = HashSet::new();
        let mut last: Vec<u32> =
            (0..rows.num_rows()).rev().filter(|row| seen.insert(bytes.row(0, *row))).map(|row| row as u32).collect();
        last.reverse();

        let numbers = UInt32Array::from(last.clone());
        let identities = taken(&identities, &numbers)?;
        let found = self.rows.find(&self.rows.hashes(&taken(&rows, &numbers)?)?);
        let mine = taken(&identities, &UInt32Array::from(found.rows.clone()))?;
        let old = self.rows.rows(&found.places)?;
        let is_it = same_in(mine.columns(), old.project(&self.plan.identity)?.columns(), mine.num_rows())?;
        let found = found.only(&is_it);
        let old = self.rows.rows(&found.places)?;
        let of_old: Vec<u32> = found.rows.iter().filter_map(|row| last.get(*row as usize).copied()).collect();
        let new = taken(&rows, &UInt32Array::from(of_old.clone()))?;
        let same = same_in(old.columns(), new.columns(), old.num_rows())?;
        let is_same = |number: usize, row: u32| same.value(number) && !is_deleted(row as usize);
        let unchanged: HashSet<u32> =
            of_old.iter().enumerate().filter(|(number, row)| is_same(*number, **row)).map(|(_, row)| *row).collect();

        let gone: Vec<u32> = (0..of_old.len() as u32)
            .filter(|number| of_old.get(*number as usize).is_some_and(|row| !unchanged.contains(row)))
            .collect();
        let came: Vec<u32> =
            last.into_iter().filter(|row| !unchanged.contains(row) && !is_deleted(*row as usize)).collect();
        let mut origins: Vec<u32> = gone.iter().filter_map(|number| of_old.get(*number as usize).copied()).collect();
        origins.extend(&came);
        let old = taken(&old, &UInt32Array::from(gone))?;
        let new = taken(&rows, &UInt32Array::from(came))?;
        Ok((Delta::replaced(&old, &new)?, origins))
    }

    /// Keeps what has changed.
    pub(super) fn keep(&mut self, delta: &Delta, now: &Now) -> Result<()> {
        let (came, gone) = delta.parts()?;
        let of_gone = self.rows.hashes(&gone)?;
        let all: Vec<u32> = (0..gone.num_rows() as u32).collect();
        let places = self.rows.places_of(&gone, &all, &of_gone)?;
        self.rows.remove(&places)?;
        let of_came = self.rows.hashes(&came)?;
        let until = now.until_of_all(None, &came, came.num_rows());
        self.rows.insert(came, &of_came, &until, &vec![0; of_came.len()])
    }

    /// Rows that are kept no longer, and so are taken away.
    pub(super) fn advance(&mut self, now: &Now) -> Result<Delta> {
        let over = self.rows.over(now.of(0, false));
        let rows = self.rows.rows(&over)?;
        self.rows.remove(&over)?;
        Ok(Delta::removed(rows))
    }

    pub(super) fn store(&self) -> &Store {
        &self.rows
    }

    pub(super) fn store_mut(&mut self) -> &mut Store {
        &mut self.rows
    }
}
