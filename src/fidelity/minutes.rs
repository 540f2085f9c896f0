//! Minutes of event time, and those that the rows of a batch are of.

use std::collections::HashMap;

use arrow::array::Array;
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

    /// Whether it is over at that time; `None` is before all times.
    pub(crate) fn is_over(self, by: Option<Micros>) -> bool {
        self.end().is_some_and(|end| by.is_some_and(|by| end <= by))
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
    Each(Each<'a>),
}

/// Rows whose minutes differ.
pub(crate) struct Each<'a> {
    /// When the event of each happened.
    times: &'a Times,
    /// How long a minute is, in the unit of these.
    minute: i64,
    /// The numbers of the first and of the last minute.
    ends: (i64, i64),
}

impl<'a> Minutes<'a> {
    /// Those of rows with these event times; without them, they are of none.
    pub fn of(times: Option<&'a Times>) -> Self {
        let Some((times, (least, greatest))) = times.and_then(|times| Some((times, times.ends?))) else {
            return Self::Same(Minute::NONE);
        };
        let minute = 60_000_000_000 / times.tick;
        let ends = (least.div_euclid(minute), greatest.div_euclid(minute));
        match ends.0 == ends.1 && times.chunks.is_some() {
            true => Self::Same(Minute::new(ends.0)),
            false => Self::Each(Each { times, minute, ends }),
        }
    }

    /// The minute of a row.
    pub fn at(&self, row: usize) -> Minute {
        match self {
            Self::Same(minute) => *minute,
            Self::Each(Each { times, .. }) => times.at(row).map_or(Minute::NONE, Minute::of),
        }
    }

    /// Gives the minutes that these rows are of, each with a number of them.
    pub fn count(&self, rows: impl Iterator<Item = usize>, each: impl FnMut(Minute, u64)) {
        match self {
            Self::Same(minute) => some(*minute, rows.count() as u64, each),
            Self::Each(of) => {
                let mut counted = Counted::new(of);
                counted.add(rows);
                counted.give(each);
            }
        }
    }

    /// The same of all rows, of which there are so many.
    pub fn count_all(&self, rows: usize, each: impl FnMut(Minute, u64)) {
        match self {
            Self::Same(minute) => some(*minute, rows as u64, each),
            Self::Each(of) => {
                let mut counted = Counted::new(of);
                for (rows, ends) in of.times.chunks() {
                    let numbers =
                        ends.map(|(least, greatest)| (least.div_euclid(of.minute), greatest.div_euclid(of.minute)));
                    match numbers {
                        Some((first, last)) if first == last => counted.add_to(first, rows.len() as u64),
                        _ => counted.add(rows),
                    }
                }
                counted.give(each);
            }
        }
    }
}

/// Rows by minute.
struct Counted<'a> {
    of: &'a Each<'a>,
    /// Those of the first minutes, in their order: most batches are of few.
    near: Vec<u64>,
    far: HashMap<i64, u64>,
    /// Those of no minute.
    unknown: u64,
}

impl<'a> Counted<'a> {
    fn new(of: &'a Each<'a>) -> Self {
        let minutes = usize::try_from(of.ends.1 - of.ends.0 + 1).unwrap_or(usize::MAX);
        Self { of, near: vec![0; minutes.min(NEAR)], far: HashMap::new(), unknown: 0 }
    }

    fn add_to(&mut self, number: i64, rows: u64) {
        match self.near.get_mut((number - self.of.ends.0) as usize) {
            Some(count) => *count += rows,
            None => *self.far.entry(number).or_insert(0) += rows,
        }
    }

    fn add(&mut self, rows: impl Iterator<Item = usize>) {
        let Each { times, minute, ends: (first, _) } = *self.of;
        let (values, nulls) = (times.values.values(), times.values.nulls());
        // Where the minute of the last row begins, and its number: the next row is of the same one as a rule.
        let (mut start, mut number) = (first * minute, first);
        for row in rows {
            let Some(time) = values.get(row).filter(|_| nulls.is_none_or(|nulls| nulls.is_valid(row))) else {
                self.unknown += 1;
                continue;
            };
            if time.wrapping_sub(start) as u64 >= minute as u64 {
                number = time.div_euclid(minute);
                start = number * minute;
            }
            self.add_to(number, 1);
        }
    }

    fn give(self, mut each: impl FnMut(Minute, u64)) {
        some(Minute::NONE, self.unknown, &mut each);
        let minutes = (self.of.ends.0..).zip(self.near).chain(self.far);
        minutes.for_each(|(number, rows)| some(Minute::new(number), rows, &mut each));
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

    use arrow::array::{ArrayRef, Int64Array, TimestampMillisecondArray};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_counted_in_the_minutes_that_they_are_of(
            times in proptest::collection::vec(proptest::option::weighted(0.999, prop_oneof![-200_000..200_000i64, any::<i32>().prop_map(|minute| i64::from(minute) * 60_000)]), 0..1_200),
            sorted in any::<bool>(),
        ) {
            let mut times = times;
            if sorted {
                times.sort_unstable();
            }
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
            let (mut found, mut counted) = (BTreeMap::new(), BTreeMap::new());
            minutes.count_all(times.len(), |minute, rows| *found.entry(minute).or_insert(0) += rows);
            expected.iter().for_each(|minute| *counted.entry(*minute).or_insert(0) += 1);
            prop_assert_eq!(found, counted);
        }
    }

    #[test]
    fn without_a_time_rows_are_of_no_minute() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        for times in [None, Times::of(&column)] {
            let mut runs = Vec::new();
            Minutes::of(times.as_ref()).count_all(2, |minute, rows| runs.push((minute, rows)));
            assert_eq!(runs, [(Minute::NONE, 2)]);
        }
    }
}
