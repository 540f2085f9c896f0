//! When the events of the rows of a batch happened.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

use crate::bus::Micros;
use crate::codec::time;

/// The event times of rows.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    /// In units of `tick`.
    pub(super) values: Int64Array,
    /// Nanoseconds.
    pub(super) tick: i64,
    /// The least and the greatest; `None` where there are none.
    pub(super) ends: Option<(i64, i64)>,
}

impl Times {
    /// Those in a column; `None` of one that holds something else.
    pub(crate) fn of(column: &ArrayRef) -> Option<Self> {
        let tick = time::tick(column.data_type())?;
        let values = cast(column, &DataType::Int64).ok()?.as_primitive::<Int64Type>().clone();
        let mut ends = (i64::MAX, i64::MIN);
        let mut see = |time: i64| ends = (ends.0.min(time), ends.1.max(time));
        match values.null_count() {
            0 => values.values().iter().copied().for_each(&mut see),
            _ => values.iter().flatten().for_each(&mut see),
        }
        Some(Self { values, tick, ends: Some(ends).filter(|(least, greatest)| least <= greatest) })
    }

    /// Whether each row has one.
    pub(super) fn are_whole(&self) -> bool {
        self.values.null_count() == 0
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
