//! When the events of the rows of a batch happened.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{DataType, Int64Type};

use crate::bus::Micros;
use crate::codec::time;

/// So many rows are looked at together: most of the time they are of the same minute, and have the same lag, as far as it is told.
pub(super) const CHUNK: usize = 1 << 9;

/// The event times of rows.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    /// In units of `tick`.
    pub(super) values: Int64Array,
    /// Nanoseconds.
    pub(super) tick: i64,
    /// The least and the greatest; `None` where there are none.
    pub(super) ends: Option<(i64, i64)>,
    /// The same of each chunk of rows of which each has one; `None` where one has none.
    pub(super) chunks: Option<Arc<[(i64, i64)]>>,
}

impl Times {
    /// Those in a column; `None` of one that holds something else.
    pub(crate) fn of(column: &ArrayRef) -> Option<Self> {
        let tick = time::tick(column.data_type())?;
        let values = cast(column, &DataType::Int64).ok()?.as_primitive::<Int64Type>().clone();
        if values.null_count() > 0 {
            let ends = min(&values).zip(max(&values));
            return Some(Self { values, tick, ends, chunks: None });
        }
        let of = |times: &[i64]| {
            times.iter().fold((i64::MAX, i64::MIN), |(least, most), time| (least.min(*time), most.max(*time)))
        };
        let chunks: Arc<[(i64, i64)]> = values.values().chunks(CHUNK).map(of).collect();
        let ends = chunks.iter().copied().reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
        Some(Self { values, tick, ends, chunks: Some(chunks) })
    }

    /// Chunks of rows, with their least and their greatest time where each row has one.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (Range<usize>, Option<(i64, i64)>)> {
        let rows = |number: usize| number * CHUNK..self.values.len().min((number + 1) * CHUNK);
        let ends = |number: usize| self.chunks.as_ref().and_then(|chunks| chunks.get(number).copied());
        (0..self.values.len().div_ceil(CHUNK)).map(move |number| (rows(number), ends(number)))
    }

    /// A time in microseconds since the epoch.
    pub(super) fn micros(&self, time: i64) -> Micros {
        match self.tick {
            1 => time.div_euclid(1_000),
            tick => time.saturating_mul(tick / 1_000),
        }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// That of a row, in microseconds since the epoch, where it is known.
    pub(crate) fn at(&self, row: usize) -> Option<Micros> {
        (row < self.values.len() && self.values.is_valid(row)).then(|| self.micros(self.values.value(row)))
    }
}
