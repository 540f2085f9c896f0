//! Minutes of event time, and those that the rows of a batch are of.

use std::collections::HashMap;

use arrow::array::{Array, Int64Array};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::times::Times;
use crate::bus::Micros;
use crate::codec::time;

const MICROS: i64 = 60_000_000;
/// The number of 0000-01-01T00:00Z.
const FIRST: i64 = -1_036_120_320;
/// That of 9999-12-31T23:59Z.
const LAST: i64 = 4_223_371_679;

/// So many minutes are counted without looking them up.
const NEAR: usize = 1 << 12;

/// A minute of event time, UTC, or none: that of rows whose event time is not known. As text it is when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Minute(Option<i64>);

impl Minute {
    /// Of rows whose event time is not known.
    pub const NONE: Self = Self(None);

    /// Later than every minute.
    pub(crate) const AFTER_ALL: Self = Self(Some(LAST + 1));

    /// The minute of that number since the epoch; none outside the years 0 to 9999, which RFC 3339 ends at.
    pub fn new(number: i64) -> Self {
        Self(Some(number).filter(|number| (FIRST..=LAST).contains(number)))
    }

    /// The minute that an instant is in.
    pub fn of(time: Micros) -> Self {
        Self::new(time.div_euclid(MICROS))
    }

    /// When it begins, in microseconds since the epoch; `None` where it is no minute.
    pub fn start(self) -> Option<Micros> {
        self.0.map(|number| number.saturating_mul(MICROS))
    }

    /// When it is over.
    pub fn end(self) -> Option<Micros> {
        self.start().map(|start| start.saturating_add(MICROS))
    }
}

impl Serialize for Minute {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        instant::serialize(&self.start(), to)
    }
}

impl<'de> Deserialize<'de> for Minute {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(instant::deserialize(from)?.map_or(Self::NONE, Self::of))
    }
}

/// Instants, in microseconds since the epoch, as text, RFC 3339; null where there is none.
pub(super) mod instant {
    use std::borrow::Cow;

    use serde::de::Error;

    use super::{Deserialize, Deserializer, Micros, Serializer, time};

    pub fn serialize<S: Serializer>(instant: &Option<Micros>, to: S) -> Result<S::Ok, S::Error> {
        match instant {
            Some(micros) => to.serialize_str(&time::instant(*micros)),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Micros>, D::Error> {
        let Some(text) = Option::<Cow<'de, str>>::deserialize(from)? else { return Ok(None) };
        let micros = time::micros(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is no instant")))?;
        Ok(Some(micros))
    }
}

/// The minutes of the rows of a batch.
pub(crate) enum Minutes<'a> {
    /// All are of the same one.
    Same(Minute),
    /// Each is of its own.
    Each {
        /// When the event of each row happened.
        times: &'a Int64Array,
        /// How long a minute is, in the unit of these.
        minute: i64,
        /// The numbers of the first and of the last minute.
        ends: (i64, i64),
    },
}

impl<'a> Minutes<'a> {
    /// Those of rows with these event times; without them, they are of none.
    pub fn of(times: Option<&'a Times>) -> Self {
        let Some(Times { values, tick, ends: Some((least, greatest)) }) = times else {
            return Self::Same(Minute::NONE);
        };
        let minute = 60_000_000_000 / tick;
        let ends = (least.div_euclid(minute), greatest.div_euclid(minute));
        match ends.0 == ends.1 && values.null_count() == 0 {
            true => Self::Same(Minute::new(ends.0)),
            false => Self::Each { times: values, minute, ends },
        }
    }

    /// The minute of a row.
    pub fn at(&self, row: usize) -> Minute {
        match self {
            Self::Same(minute) => *minute,
            Self::Each { times, minute, .. } if row < times.len() && times.is_valid(row) => {
                Minute::new(times.value(row).div_euclid(*minute))
            }
            Self::Each { .. } => Minute::NONE,
        }
    }

    /// Gives the minutes that these rows are of, each with a number of them.
    pub fn count(&self, rows: impl Iterator<Item = usize>, mut each: impl FnMut(Minute, u64)) {
        let (times, minute, (first, last)) = match self {
            Self::Same(minute) => return some(*minute, rows.count() as u64, each),
            Self::Each { times, minute, ends } => (times, *minute, *ends),
        };
        // Most batches are of few minutes.
        let mut near = vec![0; usize::try_from(last - first + 1).unwrap_or(usize::MAX).min(NEAR)];
        let (mut far, mut unknown) = (HashMap::new(), 0);
        let (values, nulls) = (times.values(), times.nulls());
        // Where the minute of the last row begins, and its number: the next row is of the same one as a rule.
        let (mut start, mut number) = (first * minute, first);
        for row in rows {
            let Some(time) = values.get(row).filter(|_| nulls.is_none_or(|nulls| nulls.is_valid(row))) else {
                unknown += 1;
                continue;
            };
            if time.wrapping_sub(start) as u64 >= minute as u64 {
                number = time.div_euclid(minute);
                start = number * minute;
            }
            match near.get_mut((number - first) as usize) {
                Some(rows) => *rows += 1,
                None => *far.entry(number).or_insert(0) += 1,
            }
        }
        some(Minute::NONE, unknown, &mut each);
        (first..).zip(near).chain(far).for_each(|(number, rows)| some(Minute::new(number), rows, &mut each));
    }
}

/// Gives a minute that rows are of.
fn some(minute: Minute, rows: u64, mut each: impl FnMut(Minute, u64)) {
    if rows > 0 {
        each(minute, rows);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, TimestampMillisecondArray};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_counted_in_the_minutes_that_they_are_of(
            times in proptest::collection::vec(proptest::option::weighted(0.9, prop_oneof![-200_000..200_000i64, any::<i32>().prop_map(|minute| i64::from(minute) * 60_000)]), 0..40),
        ) {
            let column: ArrayRef = Arc::new(TimestampMillisecondArray::from(times.clone()));
            let found = Times::of(&column);
            let minutes = Minutes::of(found.as_ref());
            let expected: Vec<Minute> = times
                .iter()
                .map(|time| time.map_or(Minute::NONE, |time| Minute::of(time * 1_000)))
                .collect();
            prop_assert_eq!((0..times.len()).map(|row| minutes.at(row)).collect::<Vec<_>>(), expected.clone());
            let mut found = BTreeMap::new();
            minutes.count((0..times.len()).step_by(2), |minute, rows| *found.entry(minute).or_insert(0) += rows);
            let mut counted = BTreeMap::new();
            expected.iter().step_by(2).for_each(|minute| *counted.entry(*minute).or_insert(0) += 1);
            prop_assert_eq!(found, counted);
        }
    }

    #[test]
    fn without_a_time_rows_are_of_no_minute() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        for times in [None, Times::of(&column)] {
            let mut runs = Vec::new();
            Minutes::of(times.as_ref()).count(0..2, |minute, rows| runs.push((minute, rows)));
            assert_eq!(runs, [(Minute::NONE, 2)]);
        }
    }
}
