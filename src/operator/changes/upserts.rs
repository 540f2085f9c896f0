//! What changes, as rows that replace one another: of those of one identity the last that was added, or, where all were taken
//! away, one that says so.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt32Array};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::delta::{Delta, taken};
use super::groups::Bytes;
use super::plan::with_deleted;

/// The rows that say what has changed, with a column more that says which are deleted.
pub(super) fn of(delta: &Delta, identity: &[usize]) -> Result<RecordBatch> {
    let chosen = match &delta.gone {
        Some(_) => chosen(delta, identity)?,
        None => last_of_each(delta, identity)?,
    };
    let rows = taken(&delta.rows, &UInt32Array::from(chosen.clone()))?;
    let deleted: BooleanArray = chosen.iter().map(|row| Some(delta.is_gone(*row as usize))).collect();
    let columns = rows.columns().iter().cloned().chain([Arc::new(deleted) as ArrayRef]).collect();
    Ok(RecordBatch::try_new(with_deleted(rows.schema_ref()), columns)?)
}

fn last_of_each(delta: &Delta, identity: &[usize]) -> Result<Vec<u32>> {
    let bytes = Bytes::of(&[&delta.rows.project(identity)?])?;
    let mut last: HashMap<&[u8], u32> = HashMap::new();
    for row in 0..delta.len() {
        last.insert(bytes.row(0, row), row as u32);
    }
    let mut rows: Vec<u32> = last.into_values().collect();
    rows.sort_unstable();
    Ok(rows)
}

fn chosen(delta: &Delta, identity: &[usize]) -> Result<Vec<u32>> {
    let identities = delta.rows.project(identity)?;
    let (of_identity, of_row) = (Bytes::of(&[&identities])?, Bytes::of(&[&delta.rows])?);
    let mut by_identity: HashMap<&[u8], Vec<u32>> = HashMap::new();
    for row in 0..delta.len() {
        by_identity.entry(of_identity.row(0, row)).or_default().push(row as u32);
    }
    let mut chosen: Vec<u32> = Vec::new();
    for rows in by_identity.into_values() {
        // What was added and taken away again is nothing.
        let mut sums: HashMap<&[u8], i64> = HashMap::new();
        for row in &rows {
            let more = if delta.is_gone(*row as usize) { -1 } else { 1 };
            *sums.entry(of_row.row(0, *row as usize)).or_default() += more;
        }
        let sum = |row: &&u32| sums.get(of_row.row(0, **row as usize)).copied().unwrap_or_default();
        let added = rows.iter().rev().find(|row| sum(row) > 0 && !delta.is_gone(**row as usize));
        let gone = || rows.iter().rev().find(|row| sum(row) < 0 && delta.is_gone(**row as usize));
        chosen.extend(added.or_else(gone));
    }
    chosen.sort_unstable();
    Ok(chosen)
}
