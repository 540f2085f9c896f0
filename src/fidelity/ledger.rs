//! The books of a task: what became of its rows, by the minute of their event time. They are part of its commits, so that they
//! are as exact after a crash as before it.
//!
//! Entries add up: what is said of a minute is all that was ever said of it, by all tasks of the stage. Those of minutes that can
//! still change are in the task's checkpoint until the watermark has passed them; then they are published, as one fact for many
//! minutes. Of more minutes than a checkpoint is to carry they are published as they are, and what follows is said later.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::Counts;
use super::minutes::Minute;
use super::watermark::{Status, Watermark};
use crate::bus::Micros;

/// Where rows come from: the number of a predecessor, as in the stage's `from`; `None` for a source, and for what windows yield.
pub(crate) type Feeder = Option<usize>;

/// How many entries a checkpoint carries at most, where it is not just before they are published.
const MOST: usize = 64;
/// How long entries that are final wait for others, so that there is not a fact with every commit.
const PACE: Micros = 10_000_000;

/// What became of rows of a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Rows.
    #[serde(flatten)]
    pub counts: Counts,
    /// Results of this minute that were made of rows of other minutes, less results of other minutes that were made of rows of
    /// this one. Over all minutes it is 0.
    #[serde(skip_serializing_if = "is_nothing")]
    pub shifted: i64,
    /// Results that are not history, where something is promised of them.
    #[serde(skip_serializing_if = "super::is_zero")]
    pub live: u64,
    /// Of these, such as left later after their events than is promised.
    #[serde(skip_serializing_if = "super::is_zero")]
    pub slow: u64,
    /// Rows that the predecessor says it had published before these and that have not come, less those that have come again, as the
    /// stage itself has noticed.
    #[serde(skip_serializing_if = "is_nothing")]
    pub lost: i64,
}

fn is_nothing(rows: &i64) -> bool {
    *rows == 0
}

impl Tally {
    /// By how many rows it does not balance: more came in than is accounted for if positive.
    pub fn imbalance(&self) -> i64 {
        self.counts.imbalance().wrapping_add(self.shifted)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.shifted += other.shifted;
        self.live += other.live;
        self.slow += other.slow;
        self.lost += other.lost;
    }
}

/// What became of the rows of a minute that came from the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The minute; `None` for rows whose event time is not known.
    pub minute: Minute,
    /// The predecessor that they came from; none at a source, and of what windows yield.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// What became of them.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What a task says in one go, the data of a fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The number of the task.
    pub task: u32,
    /// All minutes that end by then are final, but for rows that are late; microseconds since the epoch. `None` where the task
    /// does not know any.
    #[serde(with = "super::minutes::instant")]
    pub through: Option<Micros>,
    /// Up to when something was said of minutes before they were final, ever; microseconds since the epoch.
    #[serde(with = "super::minutes::instant", skip_serializing_if = "Option::is_none", default)]
    pub early: Option<Micros>,
    /// What is to be added to what was said before.
    pub entries: Vec<Entry>,
}

impl Page {
    /// Later than the end of every minute.
    pub(crate) const END: Micros = 253_402_300_800_000_000 - 1;
}

/// What became of rows, by minute and by where they came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book(BTreeMap<(Minute, Feeder), Tally>);

impl Book {
    /// The same happened to so many rows more.
    pub(crate) fn at(&mut self, minute: Minute, from: Feeder) -> &mut Tally {
        self.0.entry((minute, from)).or_default()
    }

    /// Adds what another one has.
    pub(crate) fn add(&mut self, other: Self) {
        for ((minute, from), tally) in other.0 {
            *self.at(minute, from) += tally;
        }
    }

    /// The entries, with predecessors by their names.
    pub(crate) fn entries(&self, names: &[impl AsRef<str>]) -> Vec<Entry> {
        let name = |from: &Feeder| Some(names.get((*from)?)?.as_ref().to_owned());
        let entry = |((minute, from), tally): (&(Minute, Feeder), &Tally)| Entry {
            minute: *minute,
            from: name(from),
            tally: *tally,
        };
        self.0.iter().map(entry).collect()
    }

    /// The book of these entries. Rows of predecessors that are gone are of none.
    pub(crate) fn of(entries: &[Entry], names: &[impl AsRef<str>]) -> Self {
        let mut book = Self::default();
        for Entry { minute, from, tally } in entries {
            let from = from.as_ref().and_then(|from| names.iter().position(|name| name.as_ref() == from));
            *book.at(*minute, from) += *tally;
        }
        book
    }

    /// Takes out what is to be published now, `since` so long after the last time: what is final, and all of it where it is a lot.
    pub(crate) fn due(&mut self, watermark: Option<Watermark>, since: Micros) -> Self {
        let open = self.0.keys().filter(|(minute, _)| !is_final(*minute, watermark)).count();
        if open > MOST {
            return std::mem::take(self);
        }
        let has_ended = watermark.is_some_and(|says| says.status == Status::End);
        if since < PACE && !has_ended && self.0.len() - open <= MOST {
            return Self::default();
        }
        let (due, open) =
            std::mem::take(&mut self.0).into_iter().partition(|((minute, _), _)| is_final(*minute, watermark));
        self.0 = open;
        Self(due)
    }

    /// Whether something is final that has waited for as long as it may.
    pub(crate) fn is_due(&self, watermark: Option<Watermark>, since: Micros) -> bool {
        since >= PACE && self.0.keys().any(|(minute, _)| is_final(*minute, watermark))
    }

    /// What became of the rows of each minute, wherever they came from.
    pub(crate) fn minutes(&self) -> BTreeMap<Minute, Tally> {
        let mut minutes: BTreeMap<Minute, Tally> = BTreeMap::new();
        self.0.iter().for_each(|((minute, _), tally)| *minutes.entry(*minute).or_default() += *tally);
        minutes
    }

    /// When its last minute is over, where that is later.
    pub(crate) fn later_than(&self, through: Option<Micros>) -> Option<Micros> {
        let ends = self.0.keys().filter_map(|(minute, _)| minute.end());
        ends.max().filter(|end| through.is_none_or(|through| *end > through))
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether nothing but late rows can still come for a minute. Of rows without an event time nobody will ever say that there are no
/// more, and they do not wait for that.
fn is_final(minute: Minute, watermark: Option<Watermark>) -> bool {
    match (minute.end(), watermark) {
        (Some(end), Some(says)) => says.status == Status::End || end <= says.time,
        (end, _) => end.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows_in(rows: u64) -> Tally {
        Tally { counts: Counts { rows_in: rows, ..Counts::default() }, ..Tally::default() }
    }

    fn said(minute: i64, status: Status) -> Option<Watermark> {
        Some(Watermark { time: minute * 60_000_000, status })
    }

    #[test]
    fn a_minute_is_published_once_the_watermark_has_passed_it() {
        let mut book = Book::default();
        for minute in [Minute::new(7), Minute::new(8), Minute::NONE] {
            *book.at(minute, None) += rows_in(2);
        }
        assert!(book.due(said(8, Status::Active), PACE - 1).is_empty());
        assert!(book.is_due(said(8, Status::Active), PACE) && !book.is_due(said(8, Status::Active), PACE - 1));
        let due = book.due(said(8, Status::Active), PACE);
        assert_eq!(due.0.into_keys().map(|(minute, _)| minute).collect::<Vec<_>>(), [Minute::NONE, Minute::new(7)]);
        assert!(book.due(said(8, Status::Active), PACE).is_empty() && !book.is_empty());
        assert!(!book.due(said(8, Status::End), 0).is_empty() && book.is_empty());
    }

    #[test]
    fn the_first_and_the_last_minute_are_read_as_they_are_written() {
        for (number, text) in
            [(-1_036_120_320, "\"0000-01-01T00:00:00Z\""), (4_223_371_679, "\"9999-12-31T23:59:00Z\"")]
        {
            assert_eq!(serde_json::to_string(&Minute::new(number)).unwrap(), text);
            assert_eq!(serde_json::from_str::<Minute>(text).unwrap(), Minute::new(number));
        }
        assert_eq!((Minute::new(-1_036_120_321), Minute::new(4_223_371_680)), (Minute::NONE, Minute::NONE));
        assert_eq!(crate::codec::time::micros("9999-12-31T23:59:59.999999Z"), Some(Page::END));
    }

    #[test]
    fn entries_are_written_as_they_are_documented() {
        let mut book = Book::default();
        let counts = Counts { rows_in: 3, rows_out: 1, late: 2, ..Counts::default() };
        *book.at(Minute::new(22_616_220), Some(1)) += Tally { counts, shifted: -1, ..Tally::default() };
        *book.at(Minute::NONE, None) += rows_in(1);
        let entries = book.entries(&["a", "b"]);
        let page = Page { task: 2, through: Some(1_356_973_200_000_000), early: None, entries: entries.clone() };
        let text = r#"{"task":2,"through":"2012-12-31T17:00:00Z","entries":[{"minute":null,"rows_in":1},{"minute":"2012-12-31T17:00:00Z","from":"b","rows_in":3,"rows_out":1,"late":2,"shifted":-1}]}"#;
        assert_eq!(serde_json::to_string(&page).unwrap(), text);
        assert_eq!(serde_json::from_str::<Page>(text).unwrap(), page);
        assert_eq!(Book::of(&entries, &["a", "b"]), book);
    }

    proptest! {
        #[test]
        fn what_is_published_and_what_is_left_is_what_was_counted(
            steps in proptest::collection::vec((0..200i64, 1..5u64, 0..120i64, 0..2 * PACE), 0..300),
        ) {
            let (mut book, mut published, mut all) = (Book::default(), Book::default(), Book::default());
            for (minute, rows, watermark, since) in steps {
                let minute = Minute::new(minute);
                *book.at(minute, None) += rows_in(rows);
                *all.at(minute, None) += rows_in(rows);
                published.add(book.due(said(watermark, Status::Active), since));
                prop_assert!(book.0.len() <= 2 * MOST);
            }
            published.add(book.due(said(0, Status::End), 0));
            prop_assert!(book.is_empty());
            prop_assert_eq!(published, all);
        }
    }
}
