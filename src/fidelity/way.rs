//! From end to end: what became of the rows of all sources before a stage that nobody follows, on every way to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::audit::Evidence;
use super::minutes::Minute;
use super::{Counts, Tally};

/// The ways to a stage that nobody follows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Way {
    /// The sources that they begin at.
    pub from: Vec<Arc<str>>,
    /// The stage that they end at.
    pub to: Arc<str>,
    /// All minutes together of which every stage on the way has said all.
    pub total: Passage,
    /// These minutes.
    pub minutes: Vec<WayLine>,
}

/// What became of rows between sources and an end, in a minute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WayLine {
    /// The minute.
    pub minute: Minute,
    /// What became of them.
    #[serde(flatten)]
    pub passage: Passage,
}

/// What became of rows between sources and an end: what came in at sources and went out at the end, and in between what all stages
/// counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Passage {
    /// What all stages counted but `rows_in` and `rows_out`, which are those of the sources and of the end.
    #[serde(flatten)]
    pub counts: Counts,
    /// Rows beyond the first of such as go more than one way to the end.
    #[serde(skip_serializing_if = "super::is_zero")]
    pub copied: u64,
    /// Rows that wait in a topic on the way.
    #[serde(skip_serializing_if = "super::is_zero")]
    pub pending: u64,
    /// Rows that came in and are nowhere, less those of which there are too many.
    pub lost: i64,
    #[serde(skip)]
    shifted: i64,
}

impl Passage {
    /// By how many rows it does not balance.
    fn balance(mut self) -> Self {
        let more = i128::from(self.copied) + i128::from(self.counts.foreign) + i128::from(self.shifted);
        let lost = i128::from(self.counts.imbalance()) + more - i128::from(self.pending);
        self.lost = lost as i64;
        self
    }

    fn add(&mut self, other: &Self) {
        self.counts += other.counts;
        self.copied += other.copied;
        self.pending += other.pending;
        self.lost += other.lost;
    }
}

/// The ways of a pipeline whose stages say that, in the order of the topology, as far as they are in minutes of that range.
pub(super) fn ways(evidence: &[Evidence], range: &Range<Minute>) -> Vec<Way> {
    let is_followed =
        |stage: &Evidence| evidence.iter().any(|next| next.from.iter().any(|(from, _)| *from == stage.stage));
    evidence.iter().filter(|stage| !is_followed(stage)).map(|end| way(evidence, end, range)).collect()
}

fn way(evidence: &[Evidence], end: &Evidence, range: &Range<Minute>) -> Way {
    // Each stage is behind those that feed it.
    let mut names = BTreeSet::from([&end.stage]);
    for stage in evidence.iter().rev() {
        if names.contains(&stage.stage) {
            names.extend(stage.from.iter().map(|(from, _)| from));
        }
    }
    let stages: Vec<&Evidence> = evidence.iter().filter(|stage| names.contains(&stage.stage)).collect();
    let mut minutes: BTreeMap<Minute, Passage> = BTreeMap::new();
    for stage in &stages {
        let follow = |next: &&&Evidence| next.from.iter().any(|(from, _)| *from == stage.stage);
        let ways = stages.iter().filter(follow).count() as u64;
        for ((minute, _), Tally { counts, shifted, .. }) in &stage.ledger {
            let passage = minutes.entry(*minute).or_default();
            let is_source = stage.from.is_empty();
            passage.counts += Counts {
                rows_in: if is_source { counts.rows_in } else { 0 },
                rows_out: if stage.stage == end.stage { counts.rows_out } else { 0 },
                foreign: if is_source { 0 } else { counts.foreign },
                ..*counts
            };
            passage.copied += counts.rows_out * ways.saturating_sub(1);
            passage.shifted += shifted;
        }
        for (minute, rows) in stage.from.iter().flat_map(|(_, pending)| pending) {
            minutes.entry(*minute).or_default().pending += rows;
        }
    }
    // What was deleted before a stage first came is not lost; of which minute it was nobody knows.
    let mut missed = stages.iter().map(|stage| stage.missed).sum::<u64>();
    let mut total = Passage::default();
    let known = minutes
        .into_iter()
        .filter(|(minute, _)| range.contains(minute) && stages.iter().all(|stage| stage.says_all_of(*minute)));
    let line = |(minute, passage): (Minute, Passage)| {
        let mut passage = passage.balance();
        let before = missed.min(passage.lost.max(0) as u64);
        missed -= before;
        passage.lost -= before as i64;
        total.add(&passage);
        WayLine { minute, passage }
    };
    let minutes = known.map(line).collect();
    let from = stages.iter().filter(|stage| stage.from.is_empty()).map(|stage| stage.stage.clone()).collect();
    Way { from, to: end.stage.clone(), total, minutes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A source that feeds two stages, which feed a sink; each leaves out what it is told to, and so many rows are lost before the sink.
    fn diamond(rows: &[(i64, u64, u64, u64)], lost: u64) -> Vec<Evidence> {
        let stage = |name: &str, from: &[&str]| Evidence {
            stage: name.into(),
            from: from.iter().map(|from| ((*from).into(), BTreeMap::new())).collect(),
            is_settled: true,
            ..Evidence::default()
        };
        let mut stages = vec![
            stage("source", &[]),
            stage("left", &["source"]),
            stage("right", &["source"]),
            stage("sink", &["left", "right"]),
        ];
        let mut lost = lost;
        for (minute, rows, left, right) in rows {
            let minute = Minute::new(*minute);
            let mut count = |stage: usize, from: Option<&str>, rows_in: u64, filtered: u64| {
                let counts = Counts { rows_in, rows_out: rows_in - filtered, filtered, ..Counts::default() };
                let tally = Tally { counts, ..Tally::default() };
                *stages[stage].ledger.entry((minute, from.map(Into::into))).or_default() += tally;
            };
            let [left, right] = [*left.min(rows), *right.min(rows)];
            count(0, None, *rows, 0);
            count(1, Some("source"), *rows, left);
            count(2, Some("source"), *rows, right);
            let gone = lost.min(rows - left);
            lost -= gone;
            count(3, Some("left"), rows - left - gone, 0);
            count(3, Some("right"), rows - right, 0);
        }
        stages
    }

    proptest! {
        #[test]
        fn what_comes_in_is_what_goes_out_and_what_became_of_the_rest_on_all_ways(
            rows in prop::collection::vec((0..5i64, 0..9u64, 0..9u64, 0..9u64), 1..12), lost in 0..4u64,
        ) {
            let evidence = diamond(&rows, lost);
            let found = ways(&evidence, &(Minute::NONE..Minute::AFTER_ALL));
            prop_assert_eq!(found.len(), 1);
            let Way { from, to, total, minutes } = &found[0];
            prop_assert_eq!((&*from[0], &**to), ("source", "sink"));
            let came = rows.iter().map(|(_, rows, ..)| rows).sum::<u64>();
            prop_assert_eq!((total.counts.rows_in, total.copied), (came, came));
            let most = rows.iter().map(|(_, rows, left, _)| rows - left.min(rows)).sum::<u64>();
            prop_assert_eq!(total.lost as u64, lost.min(most));
            prop_assert_eq!(minutes.iter().map(|line| line.passage.lost).sum::<i64>(), total.lost);
        }
    }
}
