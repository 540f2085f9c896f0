//! Whether a minute was as promised.

use super::Tally;
use crate::bus::Micros;

/// What is promised of the minutes of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// The part of the rows that leave the stage within so many microseconds of their events.
    pub lag: Option<(f64, Micros)>,
    /// Rows that may be lost in a minute.
    pub loss: u64,
    /// The part of the minutes that is to be good.
    pub target: f64,
}

/// How many minutes were good, and how many bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Minutes {
    /// As promised.
    pub good: u64,
    /// Not as promised.
    pub bad: u64,
}

impl Objective {
    /// Whether a minute of which that became was good; `None` where nothing says it, since its rows are history or there are none.
    pub(crate) fn verdict(&self, tally: &Tally) -> Option<bool> {
        if self.is_broken_by_loss(tally) {
            return Some(false);
        }
        let is_in_time = |(quantile, _): (f64, Micros)| tally.slow as f64 <= (1.0 - quantile) * tally.live as f64;
        (tally.live > 0).then(|| self.lag.is_none_or(is_in_time))
    }

    /// Whether so much was lost that whatever else there is of a minute does not make it good.
    pub(crate) fn is_broken_by_loss(&self, tally: &Tally) -> bool {
        tally.lost.unsigned_abs() + tally.imbalance().unsigned_abs() > self.loss
    }
}

impl Minutes {
    /// One more.
    pub(crate) fn add(&mut self, is_good: bool) {
        if is_good { self.good += 1 } else { self.bad += 1 }
    }

    /// The part of the minutes that was good; `None` where there were none.
    pub fn availability(&self) -> Option<f64> {
        let all = self.good + self.bad;
        (all > 0).then(|| self.good as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_good_if_enough_rows_were_in_time_and_none_was_lost() {
        let objective = Objective { lag: Some((0.95, 2_000_000)), loss: 0, target: 0.999 };
        let tally = |live, slow, lost| Tally { live, slow, lost, ..Tally::default() };
        assert_eq!(objective.verdict(&tally(100, 5, 0)), Some(true));
        assert_eq!(objective.verdict(&tally(100, 6, 0)), Some(false));
        assert_eq!(objective.verdict(&tally(100, 0, 1)), Some(false));
        assert_eq!(objective.verdict(&tally(0, 0, -1)), Some(false));
        assert_eq!(objective.verdict(&tally(0, 0, 0)), None);
        let lenient = Objective { lag: None, loss: 1, ..objective };
        assert_eq!([lenient.verdict(&tally(1, 1, 1)), lenient.verdict(&tally(1, 1, 2))], [Some(true), Some(false)]);
    }
}
