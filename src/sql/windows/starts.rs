//! When the windows start that an instant is in.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::codec;
use crate::sql::types;

/// Of a time, the size of the windows and their offset, in nanoseconds.
pub(super) const ONE: &str = "window start";
/// Of a time, the slide of the windows, their size and their offset, in nanoseconds.
pub(super) const SEVERAL: &str = "window starts";

/// Of a time, the time: it is the start of a session of which nothing else is known.
pub(super) const MOMENT: &str = "window moment";

/// The functions that queries around windows call. They have names that nobody writes by chance.
pub(super) static FUNCTIONS: LazyLock<[Arc<ScalarUDF>; 3]> = LazyLock::new(|| {
    [(ONE, false, 3), (SEVERAL, true, 4), (MOMENT, false, 1)].map(|(name, several, arguments)| {
        let signature = Signature::any(arguments, Volatility::Immutable);
        Arc::new(ScalarUDF::from(Starts { name, several, signature }))
    })
});

#[derive(Debug, PartialEq, Eq, Hash)]
struct Starts {
    name: &'static str,
    /// Whether a list of them is asked for.
    several: bool,
    signature: Signature,
}

impl Starts {
    fn item(time: &DataType) -> FieldRef {
        Arc::new(Field::new_list_field(time.clone(), false))
    }

    /// The windows over such a time.
    fn grid(&self, time: &DataType, constants: &[Option<&ScalarValue>]) -> Result<Grid> {
        check_is_timestamp(time)?;
        let constants = constants.iter().map(|constant| match constant {
            Some(ScalarValue::Int64(Some(nanos))) => whole(time, *nanos),
            _ => plan_err!("the size of windows is a constant"),
        });
        match *constants.collect::<Result<Vec<_>>>()?.as_slice() {
            [size, offset] => Ok(Grid::new(size, size, offset)),
            [slide, size, offset] => Ok(Grid::new(slide, size, offset)),
            _ => plan_err!("windows have a size"),
        }
    }
}

impl ScalarUDFImpl for Starts {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("what it yields depends on its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let (Some(time), Some(constants)) = (args.arg_fields.first(), args.scalar_arguments.get(1..)) else {
            return plan_err!("windows are over a timestamp");
        };
        let time = time.data_type();
        if self.name == MOMENT {
            check_is_timestamp(time)?;
        } else {
            self.grid(time, constants)?;
        }
        let data_type = if self.several { DataType::List(Self::item(time)) } else { time.clone() };
        Ok(Arc::new(Field::new(self.name, data_type, false)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut arguments = args.args.into_iter();
        let Some(time) = arguments.next() else {
            return exec_err!("windows are over a timestamp");
        };
        let constants: Vec<ColumnarValue> = arguments.collect();
        let constants: Vec<Option<&ScalarValue>> = constants
            .iter()
            .map(|constant| match constant {
                ColumnarValue::Scalar(value) => Some(value),
                ColumnarValue::Array(_) => None,
            })
            .collect();
        let time = time.into_array(args.number_rows)?;
        if self.name == MOMENT {
            check_are_times(&time)?;
            return Ok(ColumnarValue::Array(time));
        }
        let grid = self.grid(time.data_type(), &constants)?;
        let starts = if self.several { grid.all(&time)? } else { grid.last(&time)? };
        Ok(ColumnarValue::Array(starts))
    }
}

/// Windows that start every `slide` and are `size` long, in the unit of the time.
struct Grid {
    slide: i64,
    size: i64,
    /// When one of them starts: not before 1970, and less than a slide after.
    offset: i64,
}

impl Grid {
    fn new(slide: i64, size: i64, offset: i64) -> Self {
        Self { slide, size, offset: offset.rem_euclid(slide.max(1)) }
    }

    /// When the last window starts that the time is in.
    fn last_of(&self, time: i64) -> Result<i64> {
        let since = time.rem_euclid(self.slide) - self.offset;
        let since = if since < 0 { since + self.slide } else { since };
        time.checked_sub(since).ok_or_else(too_early)
    }

    fn last(&self, times: &ArrayRef) -> Result<ArrayRef> {
        let numbers = numbers(times)?;
        let starts = numbers.values().iter().map(|time| self.last_of(*time)).collect::<Result<Vec<_>>>()?;
        Ok(cast(&Int64Array::from(starts), times.data_type())?)
    }

    /// The starts of all windows that each time is in, the earliest first.
    fn all(&self, times: &ArrayRef) -> Result<ArrayRef> {
        let numbers = numbers(times)?;
        let (mut starts, mut lengths) = (Vec::new(), Vec::with_capacity(numbers.len()));
        for time in numbers.values() {
            let last = self.last_of(*time)?;
            // As many as began less than a size ago.
            let before = (self.size - 1 - (time - last)).div_euclid(self.slide);
            let first = before.checked_mul(self.slide).and_then(|back| last.checked_sub(back)).ok_or_else(too_early)?;
            starts.extend((0..=before).map(|number| first + number * self.slide));
            lengths.push((before + 1) as usize);
        }
        let starts = cast(&Int64Array::from(starts), times.data_type())?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Arc::new(ListArray::try_new(Starts::item(times.data_type()), offsets, starts, None)?))
    }
}

fn numbers(times: &ArrayRef) -> Result<Int64Array> {
    check_are_times(times)?;
    Ok(cast(times, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// The number of units of a timestamp in so many nanoseconds.
pub(super) fn whole(time: &DataType, nanos: i64) -> Result<i64> {
    let unit = match check_is_timestamp(time)? {
        TimeUnit::Second => "seconds",
        TimeUnit::Millisecond => "milliseconds",
        TimeUnit::Microsecond => "microseconds",
        TimeUnit::Nanosecond => "nanoseconds",
    };
    let tick = codec::time::tick(time).unwrap_or(1);
    match nanos % tick {
        0 => Ok(nanos / tick),
        _ => plan_err!("windows over a {} are of whole {unit}", types::name(time)),
    }
}

fn check_are_times(times: &ArrayRef) -> Result<()> {
    if times.null_count() > 0 { exec_err!("a row without a time is in no window") } else { Ok(()) }
}

fn check_is_timestamp(time: &DataType) -> Result<TimeUnit> {
    match time {
        DataType::Timestamp(unit, _) => Ok(*unit),
        other => plan_err!("windows are over a timestamp, and this is a {}", types::name(other)),
    }
}

fn too_early() -> DataFusionError {
    exec_datafusion_err!("the window starts earlier than a timestamp can be")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_in_all_windows_of_the_grid_around_it_and_in_no_other(
            time in any::<i32>(), slide in 1_i64..50, more in 0_i64..500, offset in -100_i64..100,
        ) {
            let (time, size) = (i64::from(time), slide + more);
            let grid = Grid::new(slide, size, offset);
            let lists = grid.all(&(Arc::new(Int64Array::from(vec![time])) as ArrayRef)).unwrap();
            let starts = lists.as_list::<i32>().value(0).as_primitive::<Int64Type>().values().to_vec();
            let expected: Vec<i64> = (time - size + 1..=time).filter(|it| (it - offset).rem_euclid(slide) == 0).collect();
            prop_assert_eq!(&starts, &expected);
            prop_assert_eq!(Some(grid.last_of(time).unwrap()), expected.last().copied());
        }

        #[test]
        fn no_time_is_too_much(time in any::<i64>(), slide in 1..i64::MAX, offset in any::<i64>()) {
            let grid = Grid::new(slide, slide, offset);
            if let Ok(start) = grid.last_of(time) {
                prop_assert!(start <= time && time.wrapping_sub(start) < slide);
            }
            let _ = grid.all(&(Arc::new(Int64Array::from(vec![time])) as ArrayRef));
        }
    }
}
