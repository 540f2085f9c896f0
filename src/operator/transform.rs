//! All branches of a query as one operator, and which rows are at fault when a step fails.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::step::{Failure, Rows, Step};
use super::{Operator, Output};
use crate::failure::{Class, Reject, narrow};

/// One way by which rows of an input become results.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    pub(crate) input: usize,
    pub(crate) steps: Vec<Step>,
}

impl Branch {
    pub(crate) fn followed_by(&self, step: Step) -> Self {
        let steps = self.steps.iter().cloned().chain([step]).collect();
        Self { input: self.input, steps }
    }

    /// The column of the input whose values that column of the results has.
    pub(crate) fn source(&self, column: usize) -> Option<usize> {
        self.steps.iter().rev().try_fold(column, |column, step| step.source(column))
    }

    /// Whether a row can become several.
    pub(crate) fn multiplies(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Unnest(_)))
    }

    /// The rows of `schema` that the batch becomes on this way.
    fn apply(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<Rows, Failure> {
        let mut rows = Rows { batch: batch.clone(), origin: None, left_out: Vec::new() };
        for step in &self.steps {
            // An expression of constants fails even where there is no row to fail on.
            if rows.batch.num_rows() == 0 {
                return Ok(Rows { batch: RecordBatch::new_empty(Arc::clone(schema)), ..rows });
            }
            rows = step.apply(rows)?;
        }
        Ok(rows)
    }
}

/// Branches over inputs. The results of an input row stay together, in the order of the branches, so that what comes out
/// does not depend on how the input was divided into batches.
pub(crate) struct Transform {
    branches: Arc<[Branch]>,
    schema: SchemaRef,
}

impl Transform {
    pub(crate) fn new(branches: Arc<[Branch]>, schema: SchemaRef) -> Self {
        Self { branches, schema }
    }

    pub(super) fn evaluate(&self, input: usize, batch: &RecordBatch) -> Result<Rows, Failure> {
        let branches = self.branches.iter().filter(|branch| branch.input == input);
        let mut results = branches.map(|branch| branch.apply(batch, &self.schema)).collect::<Result<Vec<_>, _>>()?;
        match results.len() {
            // The query is known to want none of this input's rows.
            0 => {
                let left_out = (0..batch.num_rows() as u32).collect();
                Ok(Rows { batch: RecordBatch::new_empty(Arc::clone(&self.schema)), origin: None, left_out })
            }
            1 => Ok(results.remove(0)),
            _ => Ok(side_by_side(&results)?),
        }
    }
}

impl Operator for Transform {
    fn process(&mut self, input: usize, batch: &RecordBatch) -> Output {
        let pieces = narrow(0..batch.num_rows(), &mut |rows: Range<usize>| {
            guarded(|| self.evaluate(input, &batch.slice(rows.start, rows.len())))
        });
        let mut good = Vec::new();
        let mut rejects = Vec::new();
        for (range, result) in pieces {
            match result {
                Ok(rows) => good.push((range, rows)),
                Err(Failure { class, message }) => rejects.push(Reject { row: range.start, class, message }),
            }
        }
        match joined(&self.schema, &good) {
            Ok((batch, origin)) => {
                let left_out = left_out(good);
                Output { batch, origin, rejects, left_out }
            }
            Err(error) => all_rejected(&self.schema, &good, rejects, &error),
        }
    }
}

/// What the evaluation yields; if a function panics in it, such as one that makes a text longer than a column can hold, its
/// failure. Neither branches nor batches are changed by an evaluation, so none is left half changed.
pub(super) fn guarded<T>(evaluate: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    crate::sql::caught(evaluate).unwrap_or_else(|message| Err(Failure { class: Class::Expression, message }))
}

/// Results of several branches on one batch, ordered by the row they came from, then by branch.
fn side_by_side(results: &[Rows]) -> Result<Rows, ArrowError> {
    let mut order: Vec<(u32, usize, usize)> = Vec::new();
    for (branch, rows) in results.iter().enumerate() {
        let mut origins = Vec::new();
        push_origins(rows, 0, &mut origins);
        order.extend(origins.into_iter().enumerate().map(|(row, origin)| (origin, branch, row)));
    }
    // The branches are ascending runs, which this sort merges.
    order.sort();
    let indices: Vec<(usize, usize)> = order.iter().map(|(_, branch, row)| (*branch, *row)).collect();
    let batches: Vec<&RecordBatch> = results.iter().map(|rows| &rows.batch).collect();
    let batch = interleave_record_batch(&batches, &indices)?;
    let origin = UInt32Array::from_iter_values(order.iter().map(|(origin, _, _)| *origin));
    Ok(Rows { batch, origin: Some(origin), left_out: left_out_by_all(results) })
}

/// The rows that no branch has anything of.
pub(super) fn left_out_by_all(results: &[Rows]) -> Vec<u32> {
    let mut rows: Vec<u32> = results.iter().flat_map(|rows| rows.left_out.iter().copied()).collect();
    rows.sort_unstable();
    rows.chunk_by(|a, b| a == b)
        .filter(|same| same.len() == results.len())
        .filter_map(|same| same.first().copied())
        .collect()
}

/// Appends, for each row, which input row it came from, where the piece of the input starts with row `start`.
fn push_origins(rows: &Rows, start: u32, to: &mut Vec<u32>) {
    match &rows.origin {
        Some(origin) => to.extend(origin.values().iter().map(|row| start + row)),
        None => to.extend(start..start + rows.batch.num_rows() as u32),
    }
}

/// The rows that the query leaves out, of all pieces.
fn left_out(pieces: Vec<(Range<usize>, Rows)>) -> Vec<u32> {
    let mut left_out: Vec<u32> = Vec::new();
    for (range, rows) in pieces {
        let start = range.start as u32;
        match left_out.is_empty() && start == 0 {
            true => left_out = rows.left_out,
            false => left_out.extend(rows.left_out.into_iter().map(|row| start + row)),
        }
    }
    left_out
}

fn joined(schema: &SchemaRef, pieces: &[(Range<usize>, Rows)]) -> Result<(RecordBatch, Vec<u32>), ArrowError> {
    let mut origins = Vec::with_capacity(pieces.iter().map(|(_, rows)| rows.batch.num_rows()).sum());
    for (range, rows) in pieces {
        push_origins(rows, range.start as u32, &mut origins);
    }
    let batch = match pieces {
        [(_, rows)] => rows.batch.clone(),
        pieces => concat_batches(schema, pieces.iter().map(|(_, rows)| &rows.batch))?,
    };
    Ok((batch, origins))
}

/// Results that do not fit into one batch, such as text of more than 2 GiB in a column, fit nowhere.
fn all_rejected(
    schema: &SchemaRef,
    pieces: &[(Range<usize>, Rows)],
    mut rejects: Vec<Reject>,
    error: &ArrowError,
) -> Output {
    let message = crate::sql::clean(&error.to_string());
    let rows = pieces.iter().flat_map(|(range, _)| range.clone());
    rejects.extend(rows.map(|row| Reject { row, class: Class::TooLarge, message: message.clone() }));
    rejects.sort_by_key(|reject| reject.row);
    Output { batch: RecordBatch::new_empty(Arc::clone(schema)), origin: Vec::new(), rejects, left_out: Vec::new() }
}
