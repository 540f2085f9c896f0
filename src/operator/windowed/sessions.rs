//! Rows in sessions. Which session a row is in depends on those before and behind it, so what there is of sessions is known
//! apart from the rows, and these are found by what they have in common.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{cast, filter_record_batch, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::Result;

use super::kept::{ByEnd, Kept, to_merge};
use super::place::{Nanos, Place, Sessions};
use super::spans::{Key, Span, Spans};
use crate::operator::sums::Sums;

/// Where a row stands in a run: by the hash of what the rows of its session have in common, and by its time.
type At = (u64, i64);

/// Rows in that order.
#[derive(Debug)]
struct Run {
    batch: RecordBatch,
    at: Vec<At>,
    /// Bytes of its memory.
    bytes: usize,
}

impl Run {
    /// Sorts rows; those that stand at the same place stay in their order.
    fn new(batch: RecordBatch, at: Vec<At>) -> Result<Self, ArrowError> {
        let (batch, at) = match at.is_sorted() {
            true => (batch, at),
            false => {
                let mut order: Vec<(At, u32)> = at.into_iter().zip(0..).collect();
                order.sort_unstable();
                let rows = UInt32Array::from_iter_values(order.iter().map(|(_, row)| *row));
                (take_record_batch(&batch, &rows)?, order.into_iter().map(|(at, _)| at).collect())
            }
        };
        let bytes = batch.get_array_memory_size() + size_of_val(at.as_slice());
        Ok(Self { batch, at, bytes })
    }

    /// The first row from the given one on that stands there or behind.
    fn find(&self, from: usize, at: At) -> usize {
        let rest = self.at.get(from..).unwrap_or_default();
        // What is looked for is near.
        let mut near = 1;
        while rest.get(near).is_some_and(|it| *it < at) {
            near *= 2;
        }
        let rest = rest.get(..near.min(rest.len())).unwrap_or_default();
        from + rest.partition_point(|it| *it < at)
    }
}

/// What the rows of a batch have in common with others.
struct Keys(Option<Rows>);

impl Keys {
    fn of(&self, row: u32) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row as usize).data())
    }

    /// With its hash.
    fn key(&self, row: usize) -> Key<'_> {
        let bytes = self.of(row as u32);
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        Key { hash: hasher.finish(), bytes }
    }
}

/// A row of a session, in the order of its results.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    end: i64,
    /// Which of those that are wanted.
    session: u32,
    time: i64,
    run: u32,
    row: u32,
}

/// Rows of small runs that are merged, however few runs these are.
const MANY: usize = 1 << 18;

/// The rows of one leaf, or what they were added up to.
#[derive(Debug)]
pub(super) struct InSessions {
    place: Place,
    of: Sessions,
    sums: Sums,
    spans: Spans,
    /// As those of windows of a size are kept; also with rows of sessions that were let go of.
    runs: Vec<Run>,
    small: usize,
    /// How many rows at most are of sessions that were let go of.
    spare: usize,
}

impl InSessions {
    /// No rows yet, of such sessions.
    pub(super) fn new(place: &Place, of: &Sessions, sums: Sums) -> Self {
        let (place, of) = (place.clone(), of.clone());
        Self { place, of, sums, spans: Spans::new(), runs: Vec::new(), small: 0, spare: 0 }
    }

    /// Merges the runs from that one on.
    fn merge_from(&mut self, first: usize) -> Result<()> {
        let batches: Vec<RecordBatch> = self.runs.split_off(first).into_iter().map(|run| run.batch).collect();
        let merged = self.merged(&batches)?;
        if !merged.at.is_empty() {
            self.runs.push(merged);
        }
        self.small = 0;
        Ok(())
    }

    /// The rows of sessions that were not let go of; where they are added up, to one for each group and session.
    fn merged<'a>(&self, batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<Run> {
        let batch = self.sums.concat(batches)?;
        let (keys, times) = (keys(&batch, &self.of)?, self.place.times(&batch)?);
        let spans: Vec<Span> = spans(&batch, &times, &self.of).collect();
        let mut rows: Vec<(At, u32)> = Vec::with_capacity(spans.len());
        for (row, span) in spans.iter().enumerate() {
            let key = keys.key(row);
            // What was let go of has ended before anything else that is known.
            if span.end > self.spans.closed() || self.spans.find(key, span.start).is_some() {
                rows.push(((key.hash, span.start), row as u32));
            }
        }
        // Most of them are in order.
        rows.sort();
        let batch = take_record_batch(&batch, &UInt32Array::from_iter_values(rows.iter().map(|(_, row)| *row)))?;
        if !self.sums.any() {
            return Ok(Run::new(batch, rows.into_iter().map(|(at, _)| at).collect())?);
        }
        let mut rows: Vec<(u32, Span)> =
            rows.into_iter().filter_map(|(_, row)| Some((row, *spans.get(row as usize)?))).collect();
        together(&mut rows, &keys);
        let spans: Vec<Span> = rows.into_iter().map(|(_, span)| span).collect();
        let batch = self.sums.of(vec![with_bounds(&batch, &spans, &self.of.bounds)?])?;
        self.run(batch)
    }

    fn run(&self, batch: RecordBatch) -> Result<Run> {
        let (keys, times) = (keys(&batch, &self.of)?, self.place.times(&batch)?);
        let at = times.values().iter().enumerate().map(|(row, time)| (keys.key(row).hash, *time));
        Ok(Run::new(batch, at.collect())?)
    }

    /// The rows of these sessions, by the ends of these or all at the last one, with their bounds.
    fn rows_of<'a>(&self, sessions: impl Iterator<Item = (Key<'a>, Span)>, apart: bool) -> Result<ByEnd> {
        let mut wanted: Vec<(Key<'_>, Span)> = sessions.collect();
        if wanted.is_empty() {
            return Ok(ByEnd::new());
        }
        wanted.sort_unstable_by_key(|(key, span)| (key.hash, *span));
        let mut found = Vec::new();
        for (number, run) in self.runs.iter().enumerate() {
            let mut next = 0;
            for (session, (key, span)) in wanted.iter().enumerate() {
                // Rows of another key can have the same hash.
                next = run.find(next, (key.hash, span.start));
                let rows = run.at.get(next..run.find(next, (key.hash, span.end))).unwrap_or_default();
                found.extend(rows.iter().zip(next..).map(|((_, time), row)| Found {
                    end: span.end,
                    session: session as u32,
                    time: *time,
                    run: number as u32,
                    row: row as u32,
                }));
            }
        }
        found.sort_unstable();
        let batches: Vec<&RecordBatch> = self.batches().collect();
        let places: Vec<(usize, usize)> = found.iter().map(|it| (it.run as usize, it.row as usize)).collect();
        let mut rows = interleave_record_batch(&batches, &places)?;
        let keys = keys(&rows, &self.of)?;
        let session = |found: &Found| wanted.get(found.session as usize);
        let is_of_it =
            |(row, found): (usize, &Found)| session(found).is_some_and(|(key, _)| key.bytes == keys.of(row as u32));
        let are: Vec<bool> = found.iter().enumerate().map(is_of_it).collect();
        if are.contains(&false) {
            rows = filter_record_batch(&rows, &BooleanArray::from(are.clone()))?;
            let mut are = are.into_iter();
            found.retain(|_| are.next().unwrap_or_default());
        }
        let spans: Vec<Span> = found.iter().filter_map(session).map(|(_, span)| *span).collect();
        let rows = with_bounds(&rows, &spans, &self.of.bounds)?;
        let mut first = 0;
        let of_end = |same: &[Found]| {
            first += same.len();
            Some((self.place.nanos(same.first()?.end), vec![rows.slice(first - same.len(), same.len())]))
        };
        match found.last().filter(|_| !apart) {
            Some(last) => Ok(ByEnd::from([(self.place.nanos(last.end), vec![rows])])),
            None => Ok(found.chunk_by(|a, b| a.end == b.end).filter_map(of_end).collect()),
        }
    }

    /// The greatest end that is not after that time.
    fn until(&self, at: Nanos) -> i64 {
        self.place.before(at.saturating_add(1))
    }
}

impl Kept for InSessions {
    fn push(
        &mut self,
        batch: RecordBatch,
        (after, until): (Nanos, Nanos),
        touched: &mut BTreeSet<Nanos>,
    ) -> Result<RecordBatch> {
        if batch.num_rows() == 0 {
            return Ok(batch);
        }
        let (keys, times) = (keys(&batch, &self.of)?, self.place.times(&batch)?);
        let mut at = Vec::with_capacity(batch.num_rows());
        for (row, span) in spans(&batch, &times, &self.of).enumerate() {
            let key = keys.key(row);
            at.push((key.hash, span.start));
            self.spans.add(key, span, |end| {
                let end = self.place.nanos(end);
                if end > after && end <= until {
                    touched.insert(end);
                }
            });
        }
        let run = Run::new(batch, at)?;
        let sorted = run.batch.clone();
        self.runs.push(run);
        self.small += 1;
        let rows: Vec<usize> = self.runs.iter().map(|run| run.at.len()).collect();
        if let Some(first) = to_merge(&rows, self.small, MANY, &self.sums) {
            self.merge_from(first)?;
        }
        Ok(sorted)
    }

    fn closing(&self, closed: Nanos, until: Nanos, apart: bool) -> Result<ByEnd> {
        self.rows_of(self.spans.ending(self.until(closed), self.until(until)), apart)
    }

    fn of_windows(&self, ends: &BTreeSet<Nanos>, apart: bool) -> Result<ByEnd> {
        let sessions = ends.iter().flat_map(|end| self.spans.ending(self.place.before(*end), self.until(*end)));
        self.rows_of(sessions, apart)
    }

    fn apart(&self, together: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let bounds = self.of.bounds.iter();
        let bound = bounds.clone().find(|(_, is_end)| *is_end).or(bounds.clone().next());
        let Some(bound) = bound.and_then(|(column, _)| together.columns().get(*column)) else { return Ok(Vec::new()) };
        let bound = cast(bound, &DataType::Int64)?;
        let mut first = 0;
        let windows = bound.as_primitive::<Int64Type>().values().chunk_by(|a, b| a == b).map(|same| {
            first += same.len();
            together.slice(first - same.len(), same.len())
        });
        Ok(windows.collect())
    }

    fn release(&mut self, closed: Nanos, gone: Nanos) -> Result<()> {
        self.spans.close(self.until(closed));
        self.spare += self.spans.release(self.until(gone));
        let rows: usize = self.runs.iter().map(|run| run.at.len()).sum();
        if self.spare > rows / 2 {
            self.merge_from(0)?;
            self.spare = 0;
        }
        Ok(())
    }

    fn left(&self, batches: Vec<RecordBatch>, _gone: Nanos) -> Result<Option<RecordBatch>> {
        let left = self.merged(&batches)?.batch;
        Ok((left.num_rows() > 0).then_some(left))
    }

    fn batches(&self) -> Box<dyn Iterator<Item = &RecordBatch> + '_> {
        Box::new(self.runs.iter().map(|run| &run.batch))
    }

    fn first_open(&self, closed: Nanos) -> Nanos {
        self.spans.first_start().map_or(closed, |first| self.place.nanos(first).min(closed))
    }

    fn sums(&self) -> &Sums {
        &self.sums
    }

    fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.bytes).sum::<usize>() + self.spans.bytes()
    }
}

/// The sessions that rows of these times, or what they were added up to, would be by themselves.
fn spans<'a>(batch: &'a RecordBatch, times: &'a Int64Array, of: &Sessions) -> impl Iterator<Item = Span> + use<'a> {
    let ends = of.end.and_then(|column| batch.columns().get(column)?.as_primitive_opt::<Int64Type>());
    let gap = of.gap;
    times.values().iter().enumerate().map(move |(row, start)| {
        let end = ends.and_then(|ends| ends.values().get(row).copied());
        Span { start: *start, end: end.unwrap_or(start.saturating_add(gap)) }
    })
}

/// Rows of these times, with the bounds of the sessions that they would be in if there were no others, and these once more, as
/// numbers.
pub(super) fn bounded(
    batch: &RecordBatch,
    times: &Int64Array,
    of: &Sessions,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let keys = keys(batch, of)?;
    let mut rows: Vec<(u32, Span)> = (0..).zip(spans(batch, times, of)).collect();
    rows.sort_unstable_by(|(a, of_a), (b, of_b)| keys.of(*a).cmp(keys.of(*b)).then_with(|| of_a.cmp(of_b)));
    together(&mut rows, &keys);
    rows.sort_unstable_by_key(|(row, _)| *row);
    let rows: Vec<Span> = rows.into_iter().map(|(_, span)| span).collect();
    let numbers = [bounds(&rows, false), bounds(&rows, true)];
    let columns = with_bounds(batch, &rows, &of.bounds)?.columns().iter().cloned().chain(numbers).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Rows in the order of their keys and then of their times, with the bounds of the sessions that they would be in if there were no
/// others.
fn together(rows: &mut [(u32, Span)], keys: &Keys) {
    let mut reach = i64::MIN;
    let goes_on = |(a, of_a): &(u32, Span), (b, of_b): &(u32, Span)| {
        reach = reach.max(of_a.end);
        let goes_on = of_b.start < reach && keys.of(*a) == keys.of(*b);
        reach = if goes_on { reach } else { i64::MIN };
        goes_on
    };
    for session in rows.chunk_by_mut(goes_on) {
        let whole = session.iter().map(|(_, span)| *span).reduce(Span::with);
        session.iter_mut().zip(whole.into_iter().cycle()).for_each(|((_, span), whole)| *span = whole);
    }
}

/// What rows of a session have in common.
fn keys(batch: &RecordBatch, of: &Sessions) -> Result<Keys, ArrowError> {
    let columns = of.keys.iter().filter_map(|column| batch.columns().get(*column));
    let columns: Vec<ArrayRef> = columns.map(with_one_zero).collect();
    if columns.is_empty() {
        return Ok(Keys(None));
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    Ok(Keys(Some(RowConverter::new(fields)?.convert_columns(&columns)?)))
}

/// The column with one zero: SQL takes 0.0 and -0.0 for the same.
fn with_one_zero(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| value + 0.0))
        }
        DataType::Float32 => {
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| value + 0.0))
        }
        _ => Arc::clone(column),
    }
}

fn bounds(rows: &[Span], is_end: bool) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows.iter().map(|span| if is_end { span.end } else { span.start })))
}

/// The rows with the bounds of their sessions in these columns.
fn with_bounds(batch: &RecordBatch, rows: &[Span], to: &[(usize, bool)]) -> Result<RecordBatch, ArrowError> {
    let mut columns = batch.columns().to_vec();
    for (column, is_end) in to {
        if let Some(column) = columns.get_mut(*column) {
            *column = cast(&bounds(rows, *is_end), column.data_type())?;
        }
    }
    RecordBatch::try_new(batch.schema(), columns)
}
