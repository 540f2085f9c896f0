//! The rows that wait for their windows to close, as sorted runs: taking out the windows that close is slicing the front of
//! each run, and rows of the same groups are merged as runs are.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, UInt32Array};
use arrow::compute::{SortOptions, concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use super::leaf::{self, LeafExec};
use crate::codec::time;

/// When a window ends, as it can be read from a row of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// The column with one of its bounds.
    pub(crate) column: usize,
    /// From that bound to the end, in the unit of the column.
    pub(crate) after: i64,
    /// Nanoseconds in the unit of the column.
    pub(crate) tick: i64,
}

/// Nanoseconds since 1970; wide enough for every timestamp there is.
pub(crate) type Nanos = i128;

impl End {
    /// The end that is so many nanoseconds after a column of that type; `None` if no timestamp has it.
    pub(crate) fn of(column: usize, data_type: &DataType, nanos_after: i64) -> Option<Self> {
        let tick = time::tick(data_type)?;
        Some(Self { column, after: nanos_after / tick, tick })
    }

    /// The end of each row's window.
    pub(super) fn ends(self, batch: &RecordBatch) -> Result<Int64Array, ArrowError> {
        let missing = || ArrowError::SchemaError("the column with the window of a row is missing".into());
        let bounds = batch.columns().get(self.column).ok_or_else(missing)?;
        let bounds = arrow::compute::cast(bounds, &DataType::Int64)?;
        let bounds = bounds.as_primitive::<Int64Type>();
        // The end was computed once, when the row was put into its window, and is a timestamp.
        Ok(if self.after == 0 { bounds.clone() } else { bounds.unary(|bound| bound.saturating_add(self.after)) })
    }

    pub(super) fn nanos(self, end: i64) -> Nanos {
        Nanos::from(end) * Nanos::from(self.tick)
    }
}

/// Rows by the end of their windows.
#[derive(Debug, Clone)]
struct Run {
    batch: RecordBatch,
    /// When the window of each ends, ascending.
    ends: Int64Array,
    /// Rows of the memory that it is a part of, and its bytes.
    whole: (usize, usize),
}

impl Run {
    /// Sorts the rows of a batch.
    fn new(batch: RecordBatch, end: End) -> Result<Self, ArrowError> {
        let ends = end.ends(&batch)?;
        let (batch, ends) = match ends.values().is_sorted() {
            true => (batch, ends),
            false => {
                let order = stable_order(&ends)?;
                let sorted = arrow::compute::take(&ends, &order, None)?;
                (take_record_batch(&batch, &order)?, sorted.as_primitive::<Int64Type>().clone())
            }
        };
        let bytes = batch.get_array_memory_size() + ends.get_array_memory_size();
        let whole = (batch.num_rows(), bytes);
        Ok(Self { batch, ends, whole })
    }

    fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// The rows from the given one on. They are copied where most of the memory would be kept for nothing.
    fn from(&self, row: usize) -> Result<Self, ArrowError> {
        let rows = self.rows() - row;
        let left = Self { batch: self.batch.slice(row, rows), ends: self.ends.slice(row, rows), whole: self.whole };
        if rows * 2 >= self.whole.0 {
            return Ok(left);
        }
        let all = UInt32Array::from_iter_values(0..rows as u32);
        let ends = arrow::compute::take(&left.ends, &all, None)?.as_primitive::<Int64Type>().clone();
        let batch = take_record_batch(&left.batch, &all)?;
        let whole = (rows, batch.get_array_memory_size() + ends.get_array_memory_size());
        Ok(Self { batch, ends, whole })
    }
}

/// The order of the rows by end that leaves those of a window in theirs.
fn stable_order(ends: &Int64Array) -> Result<UInt32Array, ArrowError> {
    let rows = UInt32Array::from_iter_values(0..ends.len() as u32);
    let column = |values: Arc<dyn Array>| arrow::compute::SortColumn { values, options: Some(SortOptions::default()) };
    match ends.len() {
        0 => sort_to_indices(ends, None, None),
        _ => arrow::compute::lexsort_to_indices(&[column(Arc::new(ends.clone())), column(Arc::new(rows))], None),
    }
}

/// How many small runs wait until they are merged.
const SMALL_RUNS: usize = 64;

/// The rows of one leaf.
#[derive(Debug)]
pub(super) struct Runs {
    schema: SchemaRef,
    end: End,
    /// What adds up the rows of a group; `None` where rows are as they came.
    merge: Option<Arc<AggregateExec>>,
    /// From the oldest on; each is larger than those behind it taken together, but for those that were not merged yet.
    runs: Vec<Run>,
    /// How many of the last runs were not merged yet.
    small: usize,
}

impl Runs {
    pub(super) fn new(schema: &SchemaRef, end: End, merge: Option<Arc<AggregateExec>>) -> Self {
        Self { schema: Arc::clone(schema), end, merge, runs: Vec::new(), small: 0 }
    }

    /// Adds rows, and gives them as they were added: sorted.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let run = Run::new(batch, self.end)?;
        let sorted = run.batch.clone();
        if sorted.num_rows() > 0 {
            self.runs.push(run);
            self.small += 1;
        }
        if self.small >= SMALL_RUNS {
            self.tidy()?;
        }
        Ok(sorted)
    }

    /// Merges the small runs, with the larger ones before them that are not much larger.
    fn tidy(&mut self) -> Result<()> {
        let mut first = self.runs.len() - self.small;
        let mut rows: usize = self.runs.iter().skip(first).map(Run::rows).sum();
        // Rows that are as they came do not get fewer.
        while self.merge.is_some() && first > 0 {
            match self.runs.get(first - 1) {
                Some(before) if before.rows() <= 2 * rows => rows += before.rows(),
                _ => break,
            }
            first -= 1;
        }
        let runs = self.runs.split_off(first);
        let merged = self.merged(runs)?;
        self.runs.extend(merged);
        self.small = 0;
        Ok(())
    }

    fn merged(&self, runs: Vec<Run>) -> Result<Option<Run>> {
        let batches: Vec<RecordBatch> = runs.into_iter().map(|run| run.batch).collect();
        let batch = concat_batches(&self.schema, &self.reduced(batches)?)?;
        Ok(if batch.num_rows() == 0 { None } else { Some(Run::new(batch, self.end)?) })
    }

    /// The rows of each group added up to one.
    pub(super) fn reduced(&self, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let Some(merge) = self.merge.as_ref().filter(|_| batches.len() > 1) else { return Ok(batches) };
        let leaf = Arc::new(LeafExec::new(0, &self.schema, Vec::new()));
        let plan = AggregateExec::try_new(
            AggregateMode::PartialReduce,
            merge.group_expr().as_final(),
            merge.aggr_expr().to_vec(),
            vec![None; merge.aggr_expr().len()],
            leaf,
            merge.input_schema(),
        )?;
        leaf::step(&plan, 0, batches)
    }

    /// Takes out the rows of all windows that end by then, or of all there are, by the ends of the windows.
    pub(super) fn take(&mut self, until: Option<Nanos>) -> Result<BTreeMap<Nanos, Vec<RecordBatch>>> {
        let mut taken: BTreeMap<Nanos, Vec<RecordBatch>> = BTreeMap::new();
        let small_from = self.runs.len() - self.small;
        self.small = 0;
        for (number, run) in std::mem::take(&mut self.runs).into_iter().enumerate() {
            let is_closed = |end: &i64| until.is_none_or(|until| self.end.nanos(*end) <= until);
            let closed = run.ends.values().partition_point(is_closed);
            let mut start = 0;
            for window in run.ends.slice(0, closed).values().chunk_by(|a, b| a == b) {
                let end = window.first().map_or(0, |end| self.end.nanos(*end));
                taken.entry(end).or_default().push(run.batch.slice(start, window.len()));
                start += window.len();
            }
            if closed < run.rows() {
                self.runs.push(if closed == 0 { run } else { run.from(closed)? });
                self.small += usize::from(number >= small_from);
            }
        }
        Ok(taken)
    }

    /// All rows, in batches.
    pub(super) fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.runs.iter().map(|run| &run.batch)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.whole.1).sum()
    }

    /// The batch without the rows of windows that end by then, from the front of which they are.
    pub(super) fn open(&self, sorted: RecordBatch, closed: Nanos) -> Result<RecordBatch, ArrowError> {
        let ends = self.end.ends(&sorted)?;
        let gone = ends.values().partition_point(|end| self.end.nanos(*end) <= closed);
        Ok(sorted.slice(gone, sorted.num_rows() - gone))
    }
}
