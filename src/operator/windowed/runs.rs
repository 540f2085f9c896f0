//! The rows that wait for their windows to close, as sorted runs: taking out the windows that close is slicing the front of
//! each run, and rows of the same groups are merged as runs are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use super::Partial;
use super::leaf::{self, LeafExec};
use super::place::{Nanos, Place, Sessions};
use super::sessions::{self, Divided};
use crate::codec::time;

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

/// How many small runs wait until they are merged.
const SMALL_RUNS: usize = 64;

/// The rows of one leaf.
#[derive(Debug)]
pub(super) struct Runs {
    schema: SchemaRef,
    place: Place,
    /// What adds up the rows of a group; `None` where rows are as they came.
    merge: Option<Arc<AggregateExec>>,
    /// The columns with the starts and the ends of windows, to be filled in where rows are in several.
    bounds: Vec<(usize, bool)>,
    /// From the oldest on; each is larger than those behind it taken together, but for those that were not merged yet.
    runs: Vec<Run>,
    /// How many of the last runs were not merged yet.
    small: usize,
}

impl Runs {
    /// Of rows as they came.
    pub(super) fn of_rows(schema: &SchemaRef, place: &Place) -> Self {
        Self {
            schema: schema.clone(),
            place: place.clone(),
            merge: None,
            bounds: Vec::new(),
            runs: Vec::new(),
            small: 0,
        }
    }

    /// Of partial aggregates.
    pub(super) fn of_partial(partial: &Partial) -> Self {
        let Partial { aggregate, place, bounds } = partial;
        let merge = Some(Arc::clone(aggregate));
        Self { merge, bounds: bounds.clone(), ..Self::of_rows(&aggregate.schema(), place) }
    }

    /// Rows in the order of their windows.
    pub(super) fn sorted(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        Ok(Run::new(batch, &self.place)?.batch)
    }

    /// Adds rows, and gives them as they were added: sorted.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let run = Run::new(batch, &self.place)?;
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
        let batch = self.added_up(runs.into_iter().map(|run| run.batch).collect())?;
        Ok(if batch.num_rows() == 0 { None } else { Some(Run::new(batch, &self.place)?) })
    }

    /// The rows of each group and window added up to one.
    pub(super) fn added_up(&self, batches: Vec<RecordBatch>) -> Result<RecordBatch> {
        match self.place.sessions().filter(|_| self.merge.is_some()) {
            None => Ok(concat_batches(&self.schema, &self.reduced(batches)?)?),
            Some(sessions) => Ok(self.divided(&batches, sessions, i64::MIN)?.open),
        }
    }

    /// The rows of sessions that end by then, and the others, those of each group and session added up to one.
    fn divided<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a RecordBatch>,
        of: &Sessions,
        until: i64,
    ) -> Result<Divided> {
        let batch = concat_batches(&self.schema, batches)?;
        let Divided { over, open } = sessions::divide(&batch, &self.place.times(&batch)?, of, until)?;
        Ok(Divided { over, open: concat_batches(&self.schema, &self.reduce(vec![open])?)? })
    }

    /// The rows of each group added up to one, where there is more than one batch of such as were.
    pub(super) fn reduced(&self, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        if batches.len() > 1 { self.reduce(batches) } else { Ok(batches) }
    }

    fn reduce(&self, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let Some(merge) = &self.merge else { return Ok(batches) };
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

    /// The rows of all windows that end by then, or of all there are, by the ends of the windows. Those that end by `closed` were
    /// given before. Rows of sessions are taken out.
    pub(super) fn closing(&mut self, closed: Nanos, until: Option<Nanos>) -> Result<BTreeMap<Nanos, Vec<RecordBatch>>> {
        let until = until.unwrap_or(Nanos::MAX);
        if let Some(sessions) = self.place.sessions().cloned() {
            return self.take_sessions(&sessions, until);
        }
        let ends: BTreeSet<Nanos> = self.runs.iter().flat_map(|run| self.ends_of(&run.times, closed, until)).collect();
        ends.into_iter().map(|end| Ok((end, self.of_window(end)?))).collect()
    }

    /// The rows of the windows that end then.
    pub(super) fn of_window(&self, end: Nanos) -> Result<Vec<RecordBatch>> {
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

    /// When the windows of rows end: after the first and not after the second of these.
    pub(super) fn ends(&self, rows: &RecordBatch, after: Nanos, until: Nanos) -> Result<BTreeSet<Nanos>, ArrowError> {
        if after >= until || self.place.sessions().is_some() {
            return Ok(BTreeSet::new());
        }
        Ok(self.ends_of(&self.place.times(rows)?, after, until).collect())
    }

    /// The same of rows of these times, ascending. A window ends after the times of its rows, or with them.
    fn ends_of(&self, times: &Int64Array, after: Nanos, until: Nanos) -> impl Iterator<Item = Nanos> {
        let different = times.values().chunk_by(|a, b| a == b).filter_map(|same| same.first());
        let near = different.take_while(move |time| self.place.nanos(**time) <= until);
        near.flat_map(move |time| self.place.ends(*time, after, until))
    }

    /// Lets go of rows all of whose windows end by then.
    pub(super) fn release(&mut self, gone: Nanos) -> Result<()> {
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

    /// Takes out the rows of all sessions that end by then.
    fn take_sessions(&mut self, of: &Sessions, until: Nanos) -> Result<BTreeMap<Nanos, Vec<RecordBatch>>> {
        let until = self.place.before(until.saturating_add(1));
        let can_be_over =
            |run: &Run| run.times.values().first().is_some_and(|time| time.saturating_add(of.gap) <= until);
        if !self.runs.iter().any(can_be_over) {
            return Ok(BTreeMap::new());
        }
        let Divided { over, open } = self.divided(self.batches(), of, until)?;
        (self.runs, self.small) = (Vec::new(), 0);
        if open.num_rows() > 0 {
            self.runs.push(Run::new(open, &self.place)?);
        }
        Ok(over.into_iter().map(|(end, rows)| (self.place.nanos(end), vec![rows])).collect())
    }

    /// Drops the rows of sessions that end by then, which are there until all that there is is written anew.
    pub(super) fn forget(&mut self, closed: Nanos) -> Result<()> {
        match self.place.sessions().cloned() {
            Some(sessions) => self.take_sessions(&sessions, closed).map(drop),
            None => Ok(()),
        }
    }

    /// The first time of all rows.
    pub(super) fn first_time(&self) -> Option<Nanos> {
        self.runs.iter().filter_map(|run| run.times.values().first()).min().map(|time| self.place.nanos(*time))
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

    /// All rows, in batches.
    pub(super) fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.runs.iter().map(|run| &run.batch)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.whole.1).sum()
    }

    /// The batch without the rows all of whose windows end by then, from the front of which they are.
    pub(super) fn open(&self, sorted: RecordBatch, closed: Nanos) -> Result<RecordBatch, ArrowError> {
        let done = self.place.done_until(closed);
        let gone = self.place.times(&sorted)?.values().partition_point(|time| *time <= done);
        Ok(sorted.slice(gone, sorted.num_rows() - gone))
    }
}
