//! Where rows stand in time: which windows they are in, as it can be read from them.

use arrow::array::{AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use crate::codec::time;

/// Nanoseconds since 1970; wide enough for every timestamp there is.
pub(crate) type Nanos = i128;

/// The nearest number that 64 bits hold.
pub(crate) fn saturated(number: Nanos) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// Windows of one size that start at equal distances, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spacing {
    /// How far from each other they start.
    pub(crate) slide: i64,
    /// How long they are.
    pub(crate) size: i64,
    /// When one of them starts, from 1970.
    pub(crate) offset: i64,
}

impl Spacing {
    /// The start of the last window that starts by that time.
    fn last_start(self, at: Nanos) -> Nanos {
        let [slide, offset] = [self.slide, self.offset].map(Nanos::from);
        offset + (at - offset).div_euclid(slide) * slide
    }

    /// When the first of them starts that ends after that time.
    pub(super) fn first_open(self, at: Nanos) -> Nanos {
        if at == Nanos::MIN {
            return at;
        }
        self.last_start(at - Nanos::from(self.size)) + Nanos::from(self.slide)
    }

    /// The stretches of time into which the bounds of all windows divide it: each window is some of them.
    pub(crate) fn pane(self) -> i64 {
        let (mut pane, mut rest) = (self.size, self.slide);
        while rest > 0 {
            (pane, rest) = (rest, pane % rest);
        }
        pane
    }
}

/// Windows of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Those of a size.
    Spaced(Spacing),
    /// Sessions: rows of the same values in so many columns of which each comes less than a gap, in nanoseconds, after the one
    /// before it. They end a gap after the last of them.
    Sessions {
        /// The gap.
        gap: i64,
        /// The number of columns.
        keys: usize,
    },
}

impl Kind {
    /// From the start to the end of the window of a row by itself, in nanoseconds.
    pub(crate) fn size(self) -> i64 {
        match self {
            Kind::Spaced(spacing) => spacing.size,
            Kind::Sessions { gap, .. } => gap,
        }
    }
}

/// Which sessions rows are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sessions {
    /// The gap, in units of the column with the time.
    pub(super) gap: i64,
    /// The columns whose values the rows of a session share.
    pub(super) keys: Vec<usize>,
    /// The columns with the starts, and with the ends, of sessions.
    pub(super) bounds: Vec<(usize, bool)>,
    /// The column with the end, in the same units, of what rows were added up to one; `None` where each is by itself.
    pub(super) end: Option<usize>,
}

/// How the time of a row tells the windows that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tells {
    /// It is the end of the only window.
    End,
    /// It is the start of a pane, and the row is in all windows that the pane is a part of: these windows.
    Pane(Spacing),
    /// It is that of the row itself, or of the first of those that were added up to it, which is in a session with others.
    Moment(Sessions),
}

/// How the windows of a row can be read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The column with the time that tells them.
    column: usize,
    /// From what is in the column to that time, in its unit.
    after: i64,
    /// Nanoseconds in the unit of the column.
    tick: i64,
    tells: Tells,
}

impl Place {
    /// In one window, which ends so many nanoseconds after a column of that type; `None` if it has no time.
    pub(crate) fn window(column: usize, data_type: &DataType, to_end: i64) -> Option<Self> {
        let tick = time::tick(data_type)?;
        Some(Self { column, after: to_end / tick, tick, tells: Tells::End })
    }

    /// In all windows around a pane, which starts so many nanoseconds before a column of that type.
    pub(crate) fn pane(column: usize, data_type: &DataType, from_start: i64, of: Spacing) -> Option<Self> {
        let tick = time::tick(data_type)?;
        Some(Self { column, after: -(from_start / tick), tick, tells: Tells::Pane(of) })
    }

    /// In a session, of which the row itself is so many nanoseconds before a column of that type; the gap is in nanoseconds.
    pub(crate) fn session(
        column: usize,
        data_type: &DataType,
        from_row: i64,
        gap: i64,
        keys: Vec<usize>,
        bounds: Vec<(usize, bool)>,
    ) -> Option<Self> {
        let tick = time::tick(data_type)?;
        let tells = Tells::Moment(Sessions { gap: gap / tick, keys, bounds, end: None });
        Some(Self { column, after: -(from_row / tick), tick, tells })
    }

    /// In the same sessions, where rows of one were added up: their first time and the end that the session has with them are in
    /// these columns, as numbers in units of the time.
    pub(crate) fn part_of_session(
        &self,
        [start, end]: [usize; 2],
        keys: Vec<usize>,
        mut bounds: Vec<(usize, bool)>,
    ) -> Option<Self> {
        let Sessions { gap, .. } = self.sessions()?;
        bounds.extend([(start, false), (end, true)]);
        let tells = Tells::Moment(Sessions { gap: *gap, keys, bounds, end: Some(end) });
        Some(Self { column: start, after: 0, tick: self.tick, tells })
    }

    /// Whether rows are in more windows than one.
    pub(super) fn is_pane(&self) -> bool {
        matches!(self.tells, Tells::Pane(_))
    }

    /// The sessions that rows are in, where they are.
    pub(super) fn sessions(&self) -> Option<&Sessions> {
        match &self.tells {
            Tells::Moment(sessions) => Some(sessions),
            Tells::End | Tells::Pane(_) => None,
        }
    }

    /// The columns with the bounds of what rows were added up to, where they say it.
    pub(super) fn part(&self) -> Option<[usize; 2]> {
        Some([self.column, self.sessions()?.end?])
    }

    /// The time that tells the windows of each row, in units of the column. Rows that are sorted by it are sorted by the
    /// windows that they are in.
    pub(super) fn times(&self, batch: &RecordBatch) -> Result<Int64Array, ArrowError> {
        let missing = || ArrowError::SchemaError("the column with the window of a row is missing".into());
        let column = batch.columns().get(self.column).ok_or_else(missing)?;
        let times = cast(column, &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>();
        // An end was computed once, when the row was put into its window, and is a timestamp.
        Ok(if self.after == 0 { times.clone() } else { times.unary(|time| time.saturating_add(self.after)) })
    }

    pub(super) fn nanos(&self, time: i64) -> Nanos {
        Nanos::from(time) * Nanos::from(self.tick)
    }

    /// The greatest time that is before the given one.
    pub(super) fn before(&self, at: Nanos) -> i64 {
        saturated((at - 1).div_euclid(Nanos::from(self.tick)))
    }

    /// The greatest time of rows that were in a window which ends by then, or could have been; `None` where nothing has ended.
    pub(super) fn late_until(&self, closed: Nanos) -> Option<i64> {
        if closed == Nanos::MIN {
            return None;
        }
        Some(match self.tells {
            Tells::End => self.before(closed.saturating_add(1)),
            // The last window that has closed ends a slide before the first that has not.
            Tells::Pane(of) => self.before(of.first_open(closed) + Nanos::from(of.size) - Nanos::from(of.slide)),
            Tells::Moment(_) => self.before(closed),
        })
    }

    /// The greatest time of rows of which it can be said that all of their windows end by then.
    pub(super) fn done_until(&self, closed: Nanos) -> i64 {
        match self.tells {
            _ if closed == Nanos::MIN => i64::MIN,
            Tells::End => self.before(closed.saturating_add(1)),
            Tells::Pane(of) => self.before(of.first_open(closed)),
            Tells::Moment(_) => i64::MIN,
        }
    }

    /// When the windows of a row of that time end: after the first and not after the second of these.
    pub(super) fn ends(&self, time: i64, after: Nanos, until: Nanos) -> impl Iterator<Item = Nanos> {
        let time = self.nanos(time);
        let (first, last, slide) = match self.tells {
            Tells::End | Tells::Moment(_) => (time, time, 1),
            Tells::Pane(of) => {
                let size = Nanos::from(of.size);
                let (slide, after) = (Nanos::from(of.slide), after.max(time));
                // Ends are on a grid as starts are.
                (of.first_open(after) + size, of.last_start(time) + size, slide)
            }
        };
        let mut next = first;
        std::iter::from_fn(move || {
            let end = next;
            next += slide;
            (end <= last && end <= until).then_some(end)
        })
        .filter(move |end| *end > after)
    }

    /// The times of rows in the window that ends then.
    pub(super) fn of_window(&self, end: Nanos) -> (i64, i64) {
        match self.tells {
            Tells::End | Tells::Moment(_) => (self.before(end), self.before(end + 1)),
            Tells::Pane(of) => (self.before(end - Nanos::from(of.size)), self.before(end)),
        }
    }

    /// The start of the window of panes that ends then.
    pub(super) fn start_of(&self, end: Nanos) -> Nanos {
        match self.tells {
            Tells::Pane(of) => end - Nanos::from(of.size),
            Tells::End | Tells::Moment(_) => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;
    use proptest::prelude::*;

    use super::*;

    /// All windows of the spacing around a pane that starts then.
    fn around(of: Spacing, pane: i64) -> Vec<Nanos> {
        let starts = (pane - of.size + 1..=pane).filter(|start| (start - of.offset).rem_euclid(of.slide) == 0);
        starts.map(|start| Nanos::from(start + of.size)).collect()
    }

    proptest! {
        #[test]
        fn panes_are_in_all_windows_around_them(
            slide in 1_i64..12, more in 0_i64..40, offset in -20_i64..20, number in -30_i64..30, closed in -100_i64..100,
        ) {
            let of = Spacing { slide, size: slide + more, offset };
            let pane = of.offset + number * of.pane();
            prop_assert_eq!((of.size % of.pane(), of.slide % of.pane()), (0, 0));
            let place = Place::pane(0, &DataType::Timestamp(TimeUnit::Nanosecond, None), 0, of).unwrap();
            let ends = around(of, pane);
            let closed = Nanos::from(closed);
            prop_assert_eq!(place.ends(pane, Nanos::MIN / 4, Nanos::MAX).collect::<Vec<_>>(), ends.clone());
            let later: Vec<Nanos> = ends.iter().copied().filter(|end| *end > closed && *end <= closed + 9).collect();
            prop_assert_eq!(place.ends(pane, closed, closed + 9).collect::<Vec<_>>(), later);
            prop_assert_eq!(Some(pane) <= place.late_until(closed), ends.iter().any(|end| *end <= closed));
            prop_assert_eq!(pane <= place.done_until(closed), ends.iter().all(|end| *end <= closed));
            for end in &ends {
                let (before, last) = place.of_window(*end);
                prop_assert!(before < pane && pane <= last);
                prop_assert_eq!(place.start_of(*end), end - Nanos::from(of.size));
            }
        }
    }

    #[test]
    fn a_window_of_milliseconds_is_closed_as_soon_as_its_end_is_reached() {
        let place = Place::window(0, &DataType::Timestamp(TimeUnit::Millisecond, None), 60_000_000_000).unwrap();
        assert_eq!((place.late_until(5_999_999), place.late_until(6_000_000)), (Some(5), Some(6)));
        assert_eq!((place.late_until(Nanos::MIN), place.late_until(Nanos::MAX)), (None, Some(i64::MAX)));
        assert_eq!(place.ends(6, 0, 6_000_000).collect::<Vec<_>>(), [6_000_000]);
        assert_eq!(place.ends(6, 6_000_000, 9_000_000).count(), 0);
    }
}
