//! Whether the books of a pipeline balance, by what its topics hold: within each stage, between stages, and with what is really
//! in the topics. What the topics hold is read elsewhere; here it is only compared.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::minutes::{Minute, instant};
use super::way::{Way, ways};
use super::{Counts, JudgedMinutes, Objective, Tally};
use crate::bus::Micros;

/// Rows by minute of event time.
pub(crate) type Rows = BTreeMap<Minute, u64>;

/// What the topics of a stage say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// The stage.
    pub stage: Arc<str>,
    /// Its predecessors, with what they have published that it has not dealt with yet.
    pub from: Vec<(Arc<str>, Rows)>,
    /// What its tasks say became of rows, by the predecessor that they came from.
    pub ledger: BTreeMap<(Minute, Option<Arc<str>>), Tally>,
    /// What they say became of rows at all.
    pub counts: Counts,
    /// Minutes that end by then are final; `None` where none is.
    pub through: Option<Micros>,
    /// What was said of minutes before that is not all kept any more; `None` where all is.
    pub since: Option<Micros>,
    /// Numbers of pages of its ledger that are missing between others, or are there twice, with their tasks.
    pub pages: Vec<(u32, u64)>,
    /// Whether all of it was read between two of its commits, so that minutes which are not final can be compared as well.
    pub is_settled: bool,
    /// What is in the topic of its results, where it has one.
    pub results: Option<Found>,
    /// What is in the topic of its dead letters.
    pub letters: Found,
    /// Rows that were deleted before it first came.
    pub missed: u64,
    /// Rows that its source says it gave.
    pub given: Option<u64>,
    /// Rows that its sink says it took.
    pub taken: Option<u64>,
    /// What is promised of its minutes.
    pub slo: Option<Objective>,
    /// What each of its tasks says became of rows, by minute.
    pub by_task: BTreeMap<(u32, Minute), Tally>,
}

/// What is in a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The rows.
    pub rows: Rows,
    /// Whether some are deleted, as its retention says.
    pub is_cut: bool,
}

/// Where books do not balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Rows that a source gave against those that the stage counted in.
    Source,
    /// Rows that a predecessor published against those that the stage counted in.
    Hop,
    /// Rows that the stage counted in, and what windows yielded, against what it says became of them.
    Stage,
    /// Rows that the stage says it published against those in the topic.
    Results,
    /// Dead letters that the stage says it wrote against those in the topic.
    DeadLetters,
    /// Rows that the stage counted out against those that its sink took.
    Sink,
    /// What the stage counted at all against what it says of all minutes together.
    Books,
    /// What was said of minutes: nothing of it is missing, and nothing is there twice.
    Pages,
}

/// Rows that are not accounted for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The stage.
    pub stage: Arc<str>,
    /// What was compared.
    pub check: Check,
    /// The predecessor, of what is between two stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Arc<str>>,
    /// The minute of event time, where it is one; none is that of rows whose event time is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minute: Option<Minute>,
    /// How many: missing if positive, too many if negative. Of pages, the number of the page.
    pub rows: i64,
    /// What it is, for a person.
    pub message: String,
}

impl Finding {
    /// Whether it is of the same rows as another one.
    pub(crate) fn is_at_the_place_of(&self, other: &Self) -> bool {
        (&self.stage, self.check, &self.from, self.minute) == (&other.stage, other.check, &other.from, other.minute)
    }
}

/// What became of the rows of a stage in a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The minute.
    pub minute: Minute,
    /// What became of them.
    #[serde(flatten)]
    pub tally: Tally,
    /// Rows of predecessors that the stage has not dealt with yet.
    #[serde(skip_serializing_if = "super::is_zero")]
    pub pending: u64,
    /// Whether the watermark has passed it.
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// The books of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Account {
    /// The stage.
    pub stage: Arc<str>,
    /// What became of its rows in all minutes together.
    pub total: Counts,
    /// Rows of predecessors that it has not dealt with yet.
    pub pending: u64,
    /// Rows that are missing at its check, less those that there are too many of.
    pub lost: i64,
    /// What was said of minutes before that is not all kept any more.
    #[serde(with = "instant", skip_serializing_if = "Option::is_none")]
    pub since: Option<Micros>,
    /// Minutes of its tasks that are final and were good or bad by what is promised, where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<JudgedMinutes>,
    /// The part of them that was good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability: Option<f64>,
    /// Rows that it has published, or dead letters, and that retention has deleted since, so that only the books say it.
    pub deleted: u64,
    /// The minutes.
    pub minutes: Vec<Line>,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Audit {
    /// The stages, in the order of the topology.
    pub stages: Vec<Account>,
    /// From end to end: the ways to each stage that nobody follows.
    pub ways: Vec<Way>,
    /// What is not accounted for.
    pub findings: Vec<Finding>,
}

/// Compares what the topics of the stages of a pipeline say, in the order of the topology, of minutes in that range.
pub(crate) fn audit(evidence: &[Evidence], range: &Range<Minute>) -> Audit {
    let mut findings = Vec::new();
    let accounts = evidence.iter().map(|stage| {
        let found = findings.len();
        let mut check = Checking { stage, range, findings: &mut findings, deleted: 0 };
        check.inside();
        check.topics();
        check.edges();
        for (name, pending) in &stage.from {
            if let Some(feeder) = evidence.iter().find(|feeder| feeder.stage == *name) {
                check.hop(feeder, pending);
            }
        }
        let deleted = check.deleted;
        let found = findings.get(found..).unwrap_or_default();
        let lost = found
            .iter()
            .filter(|found| !matches!(found.check, Check::Pages | Check::Books))
            .map(|found| found.rows)
            .sum();
        account(stage, range, deleted, lost)
    });
    let stages = accounts.collect();
    findings.sort();
    Audit { stages, ways: ways(evidence, range), findings }
}

fn account(stage: &Evidence, range: &Range<Minute>, deleted: u64, lost: i64) -> Account {
    let mut minutes: BTreeMap<Minute, (Tally, u64)> = BTreeMap::new();
    for ((minute, _), tally) in &stage.ledger {
        minutes.entry(*minute).or_default().0 += *tally;
    }
    for (minute, rows) in stage.from.iter().flat_map(|(_, pending)| pending) {
        minutes.entry(*minute).or_default().1 += rows;
    }
    let lines = minutes.into_iter().filter(|(minute, _)| range.contains(minute));
    let line = |(minute, (tally, pending)): (Minute, (Tally, u64))| Line {
        minute,
        tally,
        pending,
        is_final: minute.is_over(stage.through),
    };
    let slo = stage.slo.map(|slo| judged(stage, range, &slo));
    Account {
        stage: stage.stage.clone(),
        availability: slo.and_then(|minutes| minutes.availability()),
        slo,
        total: stage.counts,
        pending: stage.from.iter().flat_map(|(_, pending)| pending.values()).sum(),
        lost,
        since: stage.since,
        deleted,
        minutes: lines.map(line).collect(),
    }
}

fn judged(stage: &Evidence, range: &Range<Minute>, slo: &Objective) -> JudgedMinutes {
    let mut judged = JudgedMinutes::default();
    let counted = |(_, minute): &(u32, Minute)| range.contains(minute) && minute.is_over(stage.through);
    for (_, tally) in stage.by_task.iter().filter(|(key, _)| counted(key)) {
        slo.verdict(tally).into_iter().for_each(|is_good| judged.add(is_good));
    }
    judged
}

/// The checks of a stage.
struct Checking<'a> {
    stage: &'a Evidence,
    range: &'a Range<Minute>,
    findings: &'a mut Vec<Finding>,
    deleted: u64,
}

impl Evidence {
    /// Whether what is said of the minute can be compared with what others say of it.
    pub(super) fn says_all_of(&self, minute: Minute) -> bool {
        let is_kept = match (minute.start(), self.since) {
            (Some(start), Some(since)) => start >= since,
            (None, Some(_)) => false,
            (_, None) => true,
        };
        (minute.is_over(self.through) || self.is_settled) && is_kept
    }

    /// A number of each minute.
    fn by_minute(&self, number: impl Fn(&Counts) -> u64) -> Rows {
        let mut rows = Rows::new();
        for ((minute, _), tally) in &self.ledger {
            *rows.entry(*minute).or_insert(0) += number(&tally.counts);
        }
        rows
    }
}

impl Checking<'_> {
    fn find(&mut self, check: Check, from: Option<&Arc<str>>, minute: Option<Minute>, rows: i64, message: String) {
        let finding = Finding { stage: self.stage.stage.clone(), check, from: from.cloned(), minute, rows, message };
        self.findings.push(finding);
    }

    /// What the stage says of itself.
    fn inside(&mut self) {
        let stage = self.stage;
        for ((minute, from), tally) in stage.ledger.iter().filter(|((minute, _), _)| self.range.contains(minute)) {
            let rows = tally.imbalance();
            if rows != 0 {
                let message = amount(rows, "of the rows that came in or were yielded by windows", "not accounted for");
                self.find(Check::Stage, from.as_ref(), Some(*minute), rows, message);
            }
        }
        for (task, page) in &stage.pages {
            let message =
                format!("page {page} of the ledger of task {task} is missing, damaged, or there more than once");
            self.find(Check::Pages, None, None, *page as i64, message);
        }
        if stage.since.is_some() {
            return;
        }
        let mut sum = Tally::default();
        stage.ledger.values().for_each(|tally| sum += *tally);
        for (name, count) in NUMBERS {
            let rows = count(&stage.counts).wrapping_sub(count(&sum.counts)) as i64;
            if rows != 0 {
                let message = format!(
                    "{name}: the checkpoints of its tasks say {}, and its ledger of all minutes together {}",
                    count(&stage.counts),
                    count(&sum.counts)
                );
                self.find(Check::Books, None, None, rows, message);
            }
        }
        if sum.shifted != 0 {
            let message = "results of other minutes than their rows do not add up to nothing".to_owned();
            self.find(Check::Books, None, None, sum.shifted, message);
        }
    }

    /// What it says against what is in its topics.
    fn topics(&mut self) {
        let stage = self.stage;
        if let Some(results) = &stage.results {
            self.topic(Check::Results, "published", &stage.by_minute(|counts| counts.rows_out), results);
        }
        self.topic(Check::DeadLetters, "dead letters", &stage.by_minute(Counts::dead_letters), &stage.letters);
    }

    fn topic(&mut self, check: Check, what: &str, says: &Rows, found: &Found) {
        for minute in minutes(says, &found.rows) {
            if !self.range.contains(&minute) || !self.stage.says_all_of(minute) {
                continue;
            }
            let (says, found_rows) = (of(says, minute), of(&found.rows, minute));
            match says.wrapping_sub(found_rows) as i64 {
                0 => {}
                deleted if deleted > 0 && found.is_cut => self.deleted += deleted as u64,
                rows => {
                    let message = format!("its ledger says {says} {what}, and its topic has {found_rows}");
                    self.find(check, None, Some(minute), rows, message);
                }
            }
        }
    }

    /// What came in at a source, and went out at a sink.
    fn edges(&mut self) {
        let Counts { rows_in, rows_out, .. } = self.stage.counts;
        let edges = [
            (Check::Source, self.stage.given, self.stage.given.unwrap_or(0).wrapping_sub(rows_in), "source gave"),
            (Check::Sink, self.stage.taken, rows_out.wrapping_sub(self.stage.taken.unwrap_or(0)), "sink took"),
        ];
        for (check, rows, difference, what) in edges {
            if let (Some(rows), true) = (rows, difference != 0) {
                let counted = if check == Check::Source { rows_in } else { rows_out };
                let message = format!("its {what} {rows} rows, and it counted {counted}");
                self.find(check, None, None, difference as i64, message);
            }
        }
    }

    /// What a predecessor published against what came in of it.
    fn hop(&mut self, feeder: &Evidence, pending: &Rows) {
        let stage = self.stage;
        let published = feeder.by_minute(|counts| counts.rows_out);
        let mut arrived = Rows::new();
        for ((minute, from), tally) in &stage.ledger {
            if from.as_ref() == Some(&feeder.stage) {
                *arrived.entry(*minute).or_insert(0) += tally.counts.rows_in - tally.counts.foreign;
            }
        }
        let mut missed = stage.missed;
        for minute in minutes(&published, &arrived).union(&pending.keys().copied().collect()) {
            if !self.range.contains(minute) || !stage.says_all_of(*minute) || !feeder.says_all_of(*minute) {
                continue;
            }
            let (given, taken) = (of(&published, *minute), of(&arrived, *minute) + of(pending, *minute));
            let mut rows = given.wrapping_sub(taken) as i64;
            if rows > 0 {
                let before = missed.min(rows as u64);
                missed -= before;
                rows -= before as i64;
            }
            if rows != 0 {
                let message = format!(
                    "{} published {given} rows, {} came in, and {} are still in the topic",
                    feeder.stage,
                    of(&arrived, *minute),
                    of(pending, *minute)
                );
                self.find(Check::Hop, Some(&feeder.stage), Some(*minute), rows, message);
            }
        }
    }
}

type Number = fn(&Counts) -> u64;

/// What is counted, by name.
const NUMBERS: [(&str, Number); 9] = [
    ("rows in", |counts| counts.rows_in),
    ("rows out", |counts| counts.rows_out),
    ("filtered", |counts| counts.filtered),
    ("expanded", |counts| counts.expanded),
    ("absorbed", |counts| counts.absorbed),
    ("emitted", |counts| counts.emitted),
    ("dead-lettered", |counts| counts.dead_lettered),
    ("late", |counts| counts.late),
    ("foreign", |counts| counts.foreign),
];

fn amount(rows: i64, what: &str, missing: &str) -> String {
    match rows {
        rows if rows > 0 => format!("{rows} {what} are {missing}"),
        rows => format!("{} more {what} are accounted for than there are", rows.unsigned_abs()),
    }
}

fn minutes(one: &Rows, other: &Rows) -> BTreeSet<Minute> {
    one.keys().chain(other.keys()).copied().collect()
}

fn of(rows: &Rows, minute: Minute) -> u64 {
    rows.get(&minute).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two stages one behind the other, whose books balance.
    fn chain(minutes: &[(i64, u64, u64, u64)]) -> [Evidence; 2] {
        let [mut first, mut second] = ["first", "second"].map(|name| Evidence {
            stage: name.into(),
            is_settled: true,
            results: Some(Found::default()),
            ..Evidence::default()
        });
        second.from.push(("first".into(), Rows::new()));
        for (minute, rows, dead, pending) in minutes {
            let minute = Minute::new(*minute);
            let (dead, pending) = (*dead.min(rows), *pending.min(rows));
            let came = Counts { rows_in: rows + dead, rows_out: *rows, dead_lettered: dead, ..Counts::default() };
            let (taken, results) = (rows - pending, |stage: &mut Evidence, rows: u64| {
                let found = stage.results.get_or_insert_default();
                *found.rows.entry(minute).or_insert(0) += rows;
            });
            let went = Counts { rows_in: taken, rows_out: taken, ..Counts::default() };
            for (stage, from, counts) in [(&mut first, None, came), (&mut second, Some("first".into()), went)] {
                *stage.ledger.entry((minute, from)).or_default() += Tally { counts, ..Tally::default() };
                stage.counts += counts;
                results(stage, counts.rows_out);
                *stage.letters.rows.entry(minute).or_insert(0) += counts.dead_lettered;
            }
            if let Some((_, before)) = second.from.first_mut() {
                *before.entry(minute).or_insert(0) += pending;
            }
        }
        [first, second]
    }

    fn all() -> Range<Minute> {
        Minute::NONE..Minute::AFTER_ALL
    }

    fn minutes() -> impl Strategy<Value = Vec<(i64, u64, u64, u64)>> {
        proptest::collection::vec((0..9i64, 1..9u64, 0..9u64, 0..9u64), 1..20)
    }

    proptest! {
        #[test]
        fn books_that_balance_are_found_to(minutes in minutes()) {
            prop_assert_eq!(audit(&chain(&minutes), &all()).findings, []);
        }

        #[test]
        fn a_row_more_or_less_anywhere_is_found_in_its_minute(
            minutes in minutes(), place in 0..6usize, more in any::<bool>(), at in any::<prop::sample::Index>(),
        ) {
            let mut evidence = chain(&minutes);
            let minute = Minute::new(at.get(&minutes).0);
            let change = |rows: &mut u64| *rows = if more { *rows + 1 } else { rows.saturating_sub(1) };
            let before = format!("{evidence:?}");
            let [first, second] = &mut evidence;
            let given = &mut second.from.first_mut().unwrap().1;
            match place {
                0 => change(first.results.as_mut().unwrap().rows.get_mut(&minute).unwrap()),
                1 => change(&mut first.ledger.get_mut(&(minute, None)).unwrap().counts.rows_out),
                2 => change(&mut second.ledger.get_mut(&(minute, Some("first".into()))).unwrap().counts.rows_in),
                3 => change(given.get_mut(&minute).unwrap()),
                4 => change(first.letters.rows.get_mut(&minute).unwrap()),
                _ => change(&mut first.ledger.get_mut(&(minute, None)).unwrap().counts.dead_lettered),
            }
            let found = audit(&evidence, &all()).findings;
            let is_changed = format!("{evidence:?}") != before;
            prop_assert_eq!(found.iter().any(|found| found.minute == Some(minute)), is_changed);
            prop_assert!(found.iter().all(|found| found.minute.is_none_or(|of| of == minute)), "{:?}", found);
        }

        #[test]
        fn what_retention_has_deleted_is_not_missed(minutes in minutes(), at in any::<prop::sample::Index>()) {
            let mut evidence = chain(&minutes);
            let [first, _] = &mut evidence;
            let results = first.results.as_mut().unwrap();
            results.is_cut = true;
            let rows = results.rows.remove(&Minute::new(at.get(&minutes).0)).unwrap();
            let audit = audit(&evidence, &all());
            prop_assert_eq!((audit.findings, audit.stages[0].deleted), (Vec::new(), rows));
        }
    }

    #[test]
    fn minutes_that_can_still_change_are_left_out_while_the_pipeline_runs() {
        let mut evidence = chain(&[(3, 5, 0, 0), (4, 5, 0, 0)]);
        for stage in &mut evidence {
            stage.is_settled = false;
            stage.through = Minute::new(4).start();
            stage.results.as_mut().unwrap().rows.insert(Minute::new(4), 9);
        }
        assert_eq!(audit(&evidence, &all()).findings, []);
        evidence[0].results.as_mut().unwrap().rows.insert(Minute::new(3), 4);
        assert_eq!(audit(&evidence, &all()).findings[0].minute, Some(Minute::new(3)));
    }

    #[test]
    fn rows_that_were_deleted_before_the_stage_first_came_are_not_lost() {
        let mut evidence = chain(&[(3, 5, 0, 0)]);
        let counts = Counts { rows_in: 2, rows_out: 2, ..Counts::default() };
        evidence[1].ledger.insert((Minute::new(3), Some("first".into())), Tally { counts, ..Tally::default() });
        evidence[1].results.as_mut().unwrap().rows.insert(Minute::new(3), 2);
        (evidence[1].counts, evidence[1].missed) = (counts, 3);
        assert_eq!(audit(&evidence, &all()).findings, []);
        evidence[1].missed = 2;
        assert_eq!(audit(&evidence, &all()).findings[0].rows, 1);
    }
}
