//! Rows to sessions. Which session a row is in depends on those before and behind it, so it is found out when they can be over.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};

use super::place::Sessions;

/// Rows of sessions that are over, and the others.
pub(super) struct Divided {
    /// The rows of all sessions that end at the same time, with the bounds of their sessions; by that time, ascending.
    pub(super) over: Vec<(i64, RecordBatch)>,
    /// Rows of sessions that are not over, as they were.
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
    let keys = keys(batch, of)?;
    let same = |a: u32, b: u32| keys.as_ref().is_none_or(|keys| keys.row(a as usize) == keys.row(b as usize));
    let time = |row: u32| times.values().get(row as usize).copied().unwrap_or_default();
    let mut rows: Vec<u32> = (0..batch.num_rows() as u32).collect();
    match &keys {
        Some(keys) => rows.sort_by(|a, b| {
            let by_key = keys.row(*a as usize).cmp(&keys.row(*b as usize));
            by_key.then_with(|| time(*a).cmp(&time(*b)))
        }),
        None => rows.sort_by_key(|row| time(*row)),
    }
    let (mut over, mut open) = (Vec::new(), Vec::new());
    for session in rows.chunk_by(|a, b| same(*a, *b) && time(*b).saturating_sub(time(*a)) < of.gap) {
        let (Some(first), Some(last)) = (session.first(), session.last()) else { continue };
        let (start, end) = (time(*first), time(*last).saturating_add(of.gap));
        match end <= until {
            true => over.extend(session.iter().map(|row| InSession { end, start, row: *row })),
            false => open.extend_from_slice(session),
        }
    }
    // As they came, but for the order of sessions.
    open.sort_unstable();
    over.sort_by_key(|row| (row.end, row.row));
    let over = over.chunk_by(|a, b| a.end == b.end).filter_map(|rows| Some((rows.first()?.end, rows)));
    let over = over.map(|(end, rows)| Ok((end, with_bounds(batch, rows, of)?)));
    Ok(Divided {
        over: over.collect::<Result<_, ArrowError>>()?,
        open: take_record_batch(batch, &UInt32Array::from(open))?,
    })
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

fn with_bounds(batch: &RecordBatch, rows: &[InSession], of: &Sessions) -> Result<RecordBatch, ArrowError> {
    let taken = take_record_batch(batch, &UInt32Array::from_iter_values(rows.iter().map(|row| row.row)))?;
    let mut columns = taken.columns().to_vec();
    for (column, is_end) in &of.bounds {
        let bounds = Int64Array::from_iter_values(rows.iter().map(|row| if *is_end { row.end } else { row.start }));
        if let Some(column) = columns.get_mut(*column) {
            *column = cast(&(Arc::new(bounds) as ArrayRef), column.data_type())?;
        }
    }
    RecordBatch::try_new(taken.schema(), columns)
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
        let of = Sessions { gap: 5, keys: vec![0], bounds: vec![(1, false)] };
        let Divided { over, open } = divide(&batch, &times, &of, 8).unwrap();
        let found: Vec<(i64, usize)> = over.iter().map(|(end, rows)| (*end, rows.num_rows())).collect();
        assert_eq!((found, open.num_rows()), (vec![(7, 1), (8, 2)], 2));
        let starts = over.last().unwrap().1.column(1).clone();
        assert_eq!(starts.as_ref(), &TimestampSecondArray::from(vec![1, 1]) as &dyn arrow::array::Array);
    }
}
