//! Rows in windows of a size, as sorted runs: taking out the windows that close is slicing the front of each run, and rows of
//! the same groups are merged as runs are.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray, Int64Array, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::kept::{ByEnd, Kept, to_merge};
use super::place::{Kind, Nanos, Place};
use crate::codec::time;
use crate::operator::sums::Sums;

/// Rows by the windows that they are in.
#[derive(Debug, Clone)]
struct Run {
    batch: RecordBatch,
    /// What tells the windows of each, ascending.
    times: Int64Array,
    /// Rows of the memory that it is a part of, and its bytes.
    whole: (usize, usize),
}

impl Run {
    /// Sorts the rows of a batch.
    fn new(batch: RecordBatch, place: &Place) -> Result<Self, ArrowError> {
        let times = place.times(&batch)?;
        let (batch, times) = match times.values().is_sorted() {
            true => (batch, times),
            false => {
                let order = stable_order(&times);
                (take_record_batch(&batch, &order)?, taken(&times, &order)?)
            }
        };
        Ok(Self::of(batch, times))
    }

    /// All rows of their memory.
    fn of(batch: RecordBatch, times: Int64Array) -> Self {
        let whole = (batch.num_rows(), batch.get_array_memory_size() + times.get_array_memory_size());
        Self { batch, times, whole }
    }

    fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// The rows from the given one on. They are copied where most of the memory would be kept for nothing.
    fn from(&self, row: usize) -> Result<Self, ArrowError> {
        let rows = self.rows() - row;
        let left = Self { batch: self.batch.slice(row, rows), times: self.times.slice(row, rows), whole: self.whole };
        if rows * 2 >= self.whole.0 {
            return Ok(left);
        }
        let all = UInt32Array::from_iter_values(0..rows as u32);
        Ok(Self::of(take_record_batch(&left.batch, &all)?, taken(&left.times, &all)?))
    }

    /// The first row whose time is after the given one.
    fn after(&self, time: i64) -> usize {
        self.times.values().partition_point(|it| *it <= time)
    }
}

fn taken(times: &Int64Array, rows: &UInt32Array) -> Result<Int64Array, ArrowError> {
    Ok(arrow::compute::take(times, rows, None)?.as_primitive::<Int64Type>().clone())
}

/// The order of the rows by time that leaves those of the same time in theirs.
fn stable_order(times: &Int64Array) -> UInt32Array {
    let mut rows: Vec<(i64, u32)> = times.values().iter().copied().zip(0..).collect();
    rows.sort_unstable();
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The rows of one leaf.
#[derive(Debug)]
pub(super) struct Runs {
    place: Place,
    windows: Kind,
    sums: Sums,
    /// The columns with the starts and the ends of windows, to be filled in where rows are in several.
    bounds: Vec<(usize, bool)>,
    /// From the oldest on; each is larger than those behind it taken together, but for those that were not merged yet.
    runs: Vec<Run>,
    /// How many of the last runs were not merged yet.
    small: usize,
}

impl Runs {
    /// No rows yet, of windows like these.
    pub(super) fn new(windows: Kind, place: &Place, sums: Sums, bounds: &[(usize, bool)]) -> Self {
        Self { place: place.clone(), windows, sums, bounds: bounds.to_vec(), runs: Vec::new(), small: 0 }
    }

    /// Merges runs where it is time to.
    fn tidy(&mut self) -> Result<()> {
        let rows: Vec<usize> = self.runs.iter().map(Run::rows).collect();
        let Some(first) = to_merge(&rows, self.small, usize::MAX, &self.sums) else { return Ok(()) };
        let runs = self.runs.split_off(first);
        let merged = self.sums.of(runs.into_iter().map(|run| run.batch).collect())?;
        if merged.num_rows() > 0 {
            self.runs.push(Run::new(merged, &self.place)?);
        }
        self.small = 0;
        Ok(())
    }

    /// The rows of the windows that end then.
    fn of_window(&self, end: Nanos) -> Result<Vec<RecordBatch>> {
        let (before, last) = self.place.of_window(end);
        let mut batches = Vec::new();
        for run in &self.runs {
            let (first, behind) = (run.after(before), run.after(last));
            if first < behind {
                batches.push(self.in_window(run.batch.slice(first, behind - first), end)?);
            }
        }
        Ok(batches)
    }

    /// When the windows of rows of these times, ascending, end: after the first and not after the second of the others. A window
    /// ends after the times of its rows, or with them.
    fn ends_of(&self, times: &Int64Array, after: Nanos, until: Nanos) -> impl Iterator<Item = Nanos> {
        let different = times.values().chunk_by(|a, b| a == b).filter_map(|same| same.first());
        let near = different.take_while(move |time| self.place.nanos(**time) <= until);
        near.flat_map(move |time| self.place.ends(*time, after, until))
    }

    /// Rows as they are in the window that ends then.
    fn in_window(&self, batch: RecordBatch, end: Nanos) -> Result<RecordBatch> {
        if !self.place.is_pane() {
            return Ok(batch);
        }
        let mut columns = batch.columns().to_vec();
        for (column, is_end) in &self.bounds {
            let nanos = if *is_end { end } else { self.place.start_of(end) };
            if let Some(column) = columns.get_mut(*column) {
                let ticks = nanos / Nanos::from(time::tick(column.data_type()).unwrap_or(1));
                let bounds = Int64Array::from_value(ticks as i64, batch.num_rows());
                *column = cast(&bounds, column.data_type())?;
            }
        }
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }
}

impl Kept for Runs {
    fn push(
        &mut self,
        batch: RecordBatch,
        (after, until): (Nanos, Nanos),
        touched: &mut BTreeSet<Nanos>,
    ) -> Result<RecordBatch> {
        let run = Run::new(batch, &self.place)?;
        if after < until {
            touched.extend(self.ends_of(&run.times, after, until));
        }
        let sorted = run.batch.clone();
        if sorted.num_rows() > 0 {
            self.runs.push(run);
            self.small += 1;
        }
        self.tidy()?;
        Ok(sorted)
    }

    fn closing(&self, closed: Nanos, until: Nanos, apart: bool) -> Result<ByEnd> {
        self.of_windows(&self.runs.iter().flat_map(|run| self.ends_of(&run.times, closed, until)).collect(), apart)
    }

    fn of_windows(&self, ends: &BTreeSet<Nanos>, _apart: bool) -> Result<ByEnd> {
        ends.iter().map(|end| Ok((*end, self.of_window(*end)?))).collect()
    }

    fn apart(&self, together: &RecordBatch) -> Result<Vec<RecordBatch>> {
        Ok(vec![together.clone()])
    }

    fn release(&mut self, _closed: Nanos, gone: Nanos) -> Result<()> {
        let done = self.place.done_until(gone);
        let small_from = self.runs.len() - self.small;
        self.small = 0;
        for (number, run) in std::mem::take(&mut self.runs).into_iter().enumerate() {
            let left = run.after(done);
            if left < run.rows() {
                self.runs.push(if left == 0 { run } else { run.from(left)? });
                self.small += usize::from(number >= small_from);
            }
        }
        Ok(())
    }

    fn left(&self, batches: Vec<RecordBatch>, gone: Nanos) -> Result<Option<RecordBatch>> {
        let done = self.place.done_until(gone);
        let open = batches.into_iter().map(|batch| {
            let run = Run::new(batch, &self.place)?;
            let left = run.after(done);
            Ok(run.batch.slice(left, run.rows() - left))
        });
        let mut open = open.collect::<Result<Vec<_>>>()?;
        open.retain(|batch| batch.num_rows() > 0);
        let left = Run::new(self.sums.of_several(open)?, &self.place)?.batch;
        Ok((left.num_rows() > 0).then_some(left))
    }

    fn batches(&self) -> Box<dyn Iterator<Item = &RecordBatch> + '_> {
        Box::new(self.runs.iter().map(|run| &run.batch))
    }

    fn first_open(&self, closed: Nanos) -> Nanos {
        match self.windows {
            Kind::Spaced(spacing) => spacing.first_open(closed),
            Kind::Sessions { .. } => closed,
        }
    }

    fn sums(&self) -> &Sums {
        &self.sums
    }

    fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.whole.1).sum()
    }
}
