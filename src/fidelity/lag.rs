//! Event lag: how long after their events rows come by.

use arrow::array::Array;

use super::times::Times;
use crate::bus::Micros;

/// Lags are told apart in so many steps until they double.
const STEPS: u32 = 32;

/// The lags of rows: how many have which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lags {
    /// The rows of each bin; see [`bin`].
    bins: Vec<u64>,
    /// Rows whose events happened before the task first ran: they are not late, but history, and have no lag.
    pub(crate) backfilled: u64,
    /// Of those with a lag, rows whose events are yet to happen, by the clock of this machine. Their lag is 0.
    pub(crate) ahead: u64,
}

/// The bin of a lag in microseconds: below 32 each has its own, above there are 32 bins from each power of two to the next.
fn bin(lag: Micros) -> usize {
    let lag = lag as u64;
    let shift = (lag | 1).ilog2().saturating_sub(STEPS.ilog2());
    (u64::from(shift * STEPS) + (lag >> shift)) as usize
}

/// The middle of the lags in a bin.
fn lag(bin: usize) -> Micros {
    let steps = STEPS as usize;
    let shift = (bin / steps).saturating_sub(1);
    let least = ((bin - shift * steps) as i64) << shift;
    least + ((1i64 << shift) - 1) / 2
}

impl Lags {
    /// Those of rows with these event times, if it is now, and what happened before `since` is history. Rows without an event time
    /// have no lag.
    pub(crate) fn of(times: Option<&Times>, now: Micros, since: Micros) -> Self {
        let mut lags = Self::default();
        let Some(times) = times else { return lags };
        let Some((least, greatest)) = times.ends.map(|(least, greatest)| (times.micros(least), times.micros(greatest)))
        else {
            return lags;
        };
        if greatest < since {
            lags.backfilled = (times.values.len() - times.values.null_count()) as u64;
        } else if times.chunks.is_none() || !lags.add_alike(times.values.len(), (least, greatest), now, since) {
            lags.add(times, now, since);
        }
        lags
    }

    /// Adds so many rows that are between these times, if all have the same lag, as far as it is told.
    fn add_alike(&mut self, rows: usize, (least, greatest): (Micros, Micros), now: Micros, since: Micros) -> bool {
        let (most, fewest) = (now.saturating_sub(least), now.saturating_sub(greatest));
        let are_alike = least >= since && fewest >= 0 && bin(fewest) == bin(most);
        if are_alike {
            self.push(most, rows as u64);
        }
        are_alike
    }

    fn add(&mut self, times: &Times, now: Micros, since: Micros) {
        for (rows, ends) in times.chunks() {
            let ends = ends.map(|(least, greatest)| (times.micros(least), times.micros(greatest)));
            match ends {
                Some((_, greatest)) if greatest < since => self.backfilled += rows.len() as u64,
                Some(ends) if self.add_alike(rows.len(), ends, now, since) => {}
                _ => rows.filter_map(|row| times.at(row)).for_each(|time| self.add_one(time, now, since)),
            }
        }
    }

    fn add_one(&mut self, time: Micros, now: Micros, since: Micros) {
        if time < since {
            self.backfilled += 1;
            return;
        }
        let lag = now.saturating_sub(time);
        self.ahead += u64::from(lag < 0);
        self.push(lag.max(0), 1);
    }

    fn push(&mut self, lag: Micros, rows: u64) {
        let bin = bin(lag);
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        if let Some(count) = self.bins.get_mut(bin) {
            *count += rows;
        }
    }

    /// Adds those of other rows.
    pub(crate) fn extend(&mut self, other: &Self) {
        if self.bins.len() < other.bins.len() {
            self.bins.resize(other.bins.len(), 0);
        }
        self.bins.iter_mut().zip(&other.bins).for_each(|(count, more)| *count += more);
        self.backfilled += other.backfilled;
        self.ahead += other.ahead;
    }

    /// The lags that there are, in microseconds and to a thirty-second part, with the number of rows that have each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Micros, u64)> {
        self.bins.iter().enumerate().filter(|(_, rows)| **rows > 0).map(|(bin, rows)| (lag(bin), *rows))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = 1_000_000_000;

    fn lags(times: Vec<Option<i64>>, since: Micros) -> Lags {
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times));
        Lags::of(Times::of(&column).as_ref(), NOW, since)
    }

    proptest! {
        #[test]
        fn every_row_with_a_time_has_a_lag_or_is_history(
            times in proptest::collection::vec(proptest::option::weighted(0.9, 0..2 * NOW), 0..2_000), since in 0..NOW,
        ) {
            let known: Vec<i64> = times.iter().flatten().copied().collect();
            let lags = lags(times, since);
            let rows: u64 = lags.iter().map(|(_, rows)| rows).sum();
            prop_assert_eq!(lags.backfilled, known.iter().filter(|time| **time < since).count() as u64);
            prop_assert_eq!(rows + lags.backfilled, known.len() as u64);
            prop_assert_eq!(lags.ahead, known.iter().filter(|time| **time > NOW).count() as u64);
        }

        #[test]
        fn a_lag_is_told_to_a_thirty_second_part(times in proptest::collection::vec(0..NOW, 1..2_000), sorted in any::<bool>()) {
            let mut times = times;
            if sorted {
                times.sort_unstable();
            }
            let found = lags(times.iter().copied().map(Some).collect(), 0);
            let mut expected: Vec<i64> = times.iter().map(|time| NOW - time).collect();
            expected.sort_unstable();
            let found = found.iter().flat_map(|(lag, rows)| (0..rows).map(move |_| lag));
            for (found, lag) in found.zip(expected) {
                prop_assert!((found - lag).abs() <= lag / i64::from(STEPS), "{} for {}", found, lag);
            }
        }
    }

    #[test]
    fn a_clock_that_is_behind_is_counted() {
        let found = lags(vec![Some(NOW + 5), None, Some(NOW - 1_000), Some(3)], 10);
        assert_eq!((found.iter().collect::<Vec<_>>(), found.backfilled, found.ahead), (vec![(0, 1), (999, 1)], 1, 1));
    }
}
