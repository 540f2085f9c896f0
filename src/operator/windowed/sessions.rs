//! Rows to sessions. Which session a row is in depends on those before and behind it, so it is found out when they can be over.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};

use super::place::Sessions;

/// Rows of sessions that are over, and the others.
pub(super) struct Divided {
    /// The rows of all sessions that end at the same time, with the bounds of their sessions; by that time, ascending.
    pub(super) over: Vec<(i64, RecordBatch)>,
    /// Rows of sessions that are not over: as they were or, where rows were added up, with the bounds that the sessions have so far.
    pub(super) open: RecordBatch,
}

/// A row of a session.
#[derive(Clone, Copy)]
struct InSession {
    end: i64,
    start: i64,
    row: u32,
}

/// Divides rows of these times into those of sessions that end by `until` and the others.
pub(super) fn divide(
    batch: &RecordBatch,
    times: &Int64Array,
    of: &Sessions,
    until: i64,
) -> Result<Divided, ArrowError> {
    let (mut over, mut open): (Vec<InSession>, Vec<InSession>) =
        in_sessions(batch, times, of)?.into_iter().partition(|row| row.end <= until);
    // As they came, but for the order of sessions.
    open.sort_unstable_by_key(|row| row.row);
    over.sort_unstable_by_key(|row| (row.end, row.row));
    let together = with_bounds(&taken(batch, &over)?, &over, &of.bounds)?;
    let mut first = 0;
    let of_end = |rows: &[InSession]| {
        let of_end = together.slice(first, rows.len());
        first += rows.len();
        Some((rows.first()?.end, of_end))
    };
    let over = over.chunk_by(|a, b| a.end == b.end).filter_map(of_end).collect();
    let rows = taken(batch, &open)?;
    // The bounds of rows that were not added up are their own times.
    let open = if of.end.is_some() { with_bounds(&rows, &open, &of.bounds)? } else { rows };
    Ok(Divided { over, open })
}

/// Rows of these times, with the bounds of the sessions that they would be in if there were no others, and these once more, as
/// numbers.
pub(super) fn bounded(
    batch: &RecordBatch,
    times: &Int64Array,
    of: &Sessions,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let mut rows = in_sessions(batch, times, of)?;
    rows.sort_unstable_by_key(|row| row.row);
    let numbers = [bounds(&rows, false), bounds(&rows, true)];
    let columns = with_bounds(batch, &rows, &of.bounds)?.columns().iter().cloned().chain(numbers).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Rows of these times in their sessions.
fn in_sessions(batch: &RecordBatch, times: &Int64Array, of: &Sessions) -> Result<Vec<InSession>, ArrowError> {
    let keys = keys(batch, of)?;
    let same = |a: u32, b: u32| keys.as_ref().is_none_or(|keys| keys.row(a as usize) == keys.row(b as usize));
    let time = |row: u32| times.values().get(row as usize).copied().unwrap_or_default();
    let ends =
        of.end.and_then(|column| batch.columns().get(column)).and_then(|ends| ends.as_primitive_opt::<Int64Type>());
    let end = |row: u32| match ends {
        Some(ends) => ends.values().get(row as usize).copied().unwrap_or_default(),
        None => time(row).saturating_add(of.gap),
    };
    let mut rows: Vec<u32> = (0..batch.num_rows() as u32).collect();
    match &keys {
        Some(keys) => rows.sort_by(|a, b| {
            let by_key = keys.row(*a as usize).cmp(&keys.row(*b as usize));
            by_key.then_with(|| time(*a).cmp(&time(*b)))
        }),
        None => rows.sort_by_key(|row| time(*row)),
    }
    let mut found = Vec::with_capacity(rows.len());
    let mut reach = i64::MIN;
    let goes_on = |a: &u32, b: &u32| {
        reach = reach.max(end(*a));
        let goes_on = same(*a, *b) && time(*b) < reach;
        reach = if goes_on { reach } else { i64::MIN };
        goes_on
    };
    for session in rows.chunk_by(goes_on) {
        let start = session.first().map_or(0, |row| time(*row));
        let end = session.iter().map(|row| end(*row)).max().unwrap_or(start);
        found.extend(session.iter().map(|row| InSession { end, start, row: *row }));
    }
    Ok(found)
}

/// What rows of a session have in common, in a form that can be compared; `None` where it is nothing.
fn keys(batch: &RecordBatch, of: &Sessions) -> Result<Option<Rows>, ArrowError> {
    let columns = of.keys.iter().filter_map(|column| batch.columns().get(*column));
    let columns: Vec<ArrayRef> = columns.map(with_one_zero).collect();
    if columns.is_empty() {
        return Ok(None);
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    Ok(Some(RowConverter::new(fields)?.convert_columns(&columns)?))
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

fn taken(batch: &RecordBatch, rows: &[InSession]) -> Result<RecordBatch, ArrowError> {
    take_record_batch(batch, &UInt32Array::from_iter_values(rows.iter().map(|row| row.row)))
}

fn bounds(rows: &[InSession], is_end: bool) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| if is_end { row.end } else { row.start })))
}

/// The rows with the bounds of their sessions in these columns.
fn with_bounds(batch: &RecordBatch, rows: &[InSession], to: &[(usize, bool)]) -> Result<RecordBatch, ArrowError> {
    let mut columns = batch.columns().to_vec();
    for (column, is_end) in to {
        if let Some(column) = columns.get_mut(*column) {
            *column = cast(&bounds(rows, *is_end), column.data_type())?;
        }
    }
    RecordBatch::try_new(batch.schema(), columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, TimestampSecondArray};
    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;

    #[test]
    fn both_zeros_are_of_the_same_session() {
        let time = DataType::Timestamp(TimeUnit::Second, None);
        let fields = vec![Field::new("k", DataType::Float64, true), Field::new("start", time, false)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(vec![Some(0.0), None, Some(-0.0), Some(0.0), None])),
            Arc::new(TimestampSecondArray::from(vec![1, 2, 3, 9, 9])),
        ];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let times = Int64Array::from(vec![1, 2, 3, 9, 9]);
        let of = Sessions { gap: 5, keys: vec![0], bounds: vec![(1, false)], end: None };
        let Divided { over, open } = divide(&batch, &times, &of, 8).unwrap();
        let found: Vec<(i64, usize)> = over.iter().map(|(end, rows)| (*end, rows.num_rows())).collect();
        assert_eq!((found, open.num_rows()), (vec![(7, 1), (8, 2)], 2));
        let starts = over.last().unwrap().1.column(1).clone();
        assert_eq!(starts.as_ref(), &TimestampSecondArray::from(vec![1, 1]) as &dyn arrow::array::Array);
    }
}
