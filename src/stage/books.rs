//! What a task writes into its books: for each row the minute it is of and what became of it.

use std::sync::Arc;

use ::arrow::record_batch::RecordBatch;

use crate::bus::Micros;
use crate::checkpoint::Checkpoint;
use crate::failure::{Class, DeadLetter};
use crate::fidelity::{Book, Feeder, Lags, Minute, Minutes, Objective, Times};
use crate::stage::origins::Origins;
use crate::stage::outlet::{Encoded, Moments};
use crate::stage::process::Processed;
use crate::topology::{Stage, Work};

/// Where the event times of a stage are.
pub(super) struct Books {
    /// The full name of the stage, as whose rows those are that its windows yield.
    stage: Arc<str>,
    /// The topics of the predecessors.
    inputs: Vec<Arc<str>>,
    /// The columns with the times of their rows.
    times: Vec<Option<usize>>,
    /// The column of the results of each input's rows.
    of_results: Vec<Option<usize>>,
    /// For each input whether results have the times of the rows that they are made of.
    keeps: Vec<bool>,
    /// The column of what windows yield.
    of_windows: Option<usize>,
    /// Whether rows come in as their events happen.
    is_live: bool,
    /// What is promised of results.
    slo: Option<Objective>,
    /// What happened before is history.
    history: Micros,
}

/// When the events of the rows of a batch, and of their results, happened.
pub(super) struct Timed {
    /// Those of the rows.
    pub rows: Option<Times>,
    results: Option<Times>,
    /// Whether each result has that of its row.
    are_same: bool,
}

/// How long after their events rows come by.
#[derive(Debug, Clone, Default)]
pub(super) struct Passed {
    /// As they come in.
    pub arrival: Lags,
    /// As their results go out.
    pub departure: Lags,
}

impl Books {
    /// Those of a stage.
    pub fn new(stage: &Stage) -> Self {
        let (times, of_results) = match &stage.work {
            // What comes in at a source, and what goes out at a sink, are the same rows.
            Work::Source(_) => (vec![stage.time], vec![stage.time]),
            Work::Sink(_) => (stage.times_of_inputs.clone(), stage.times_of_inputs.clone()),
            Work::Sql(_) => (stage.times_of_inputs.clone(), vec![stage.time; stage.times_of_inputs.len()]),
        };
        let keeps = |(input, (time, result)): (usize, (&Option<usize>, &Option<usize>))| match &stage.work {
            Work::Source(_) | Work::Sink(_) => true,
            Work::Sql(query) => match (time, result) {
                (Some(time), Some(_)) => query.carries(input, *time) == *result,
                (time, result) => time.is_none() && result.is_none(),
            },
        };
        let keeps = times.iter().zip(&of_results).enumerate().map(keeps).collect();
        let inputs = if stage.from.is_empty() { Vec::new() } else { stage.group().inputs };
        let inputs = inputs.iter().map(|topic| topic.name()).collect();
        Self {
            stage: stage.full_name.clone(),
            inputs,
            times,
            of_results,
            keeps,
            of_windows: stage.time,
            is_live: stage.is_live,
            slo: stage.slo,
            history: Micros::MAX,
        }
    }

    /// Goes to where a commit left the task.
    pub fn resume(&mut self, committed: &Checkpoint) {
        self.history = committed.began.filter(|_| self.is_live).unwrap_or(Micros::MAX);
    }

    /// The predecessor that rows came from; none of a source and of windows.
    fn feeder(&self, part: &Processed) -> Feeder {
        let is_of_windows = matches!(part.rows.origins, Origins::Windows { .. });
        // At a source the only input is no predecessor.
        Some(part.rows.input).filter(|input| !is_of_windows && *input < self.inputs.len())
    }

    /// When the events of the rows and of the results of a batch happened.
    pub fn timed(&self, part: &Processed) -> Timed {
        let of = |columns: &[Option<usize>]| columns.get(part.rows.input).copied().flatten();
        let (rows, results, are_same) = match part.rows.origins {
            Origins::Windows { .. } => (self.of_windows, self.of_windows, true),
            _ => (of(&self.times), of(&self.of_results), self.keeps.get(part.rows.input) == Some(&true)),
        };
        let column = |batch: &RecordBatch, column: Option<usize>| batch.columns().get(column?).cloned();
        let (rows, results) = (column(&part.rows.batch, rows), column(&part.results, results));
        // As a rule the column is passed on as it is.
        let is_one = matches!((&rows, &results), (Some(rows), Some(results)) if Arc::ptr_eq(rows, results));
        let times = rows.as_ref().and_then(Times::of);
        Timed {
            results: if is_one { times.clone() } else { results.as_ref().and_then(Times::of) },
            rows: times,
            are_same,
        }
    }

    /// Whose row it was that did not get as far as to be one of a batch.
    pub fn dead_letter(&self, letter: &DeadLetter, book: &mut Book) {
        let rows = u64::from(letter.original.rows);
        let feeder = self.inputs.iter().position(|topic| *topic == letter.origin.name);
        let counts = &mut book.at(letter.event_time.map_or(Minute::NONE, Minute::of), feeder).counts;
        if letter.origin.name == self.stage {
            counts.emitted += rows;
        } else {
            counts.rows_in += rows;
        }
        if letter.class == Class::Foreign {
            counts.foreign += rows;
        }
        counts.dead_lettered += rows;
    }

    /// What became of a batch, polled and encoded at these moments, and how long after their events its rows came and went.
    pub fn part(&self, part: &Processed, timed: &Timed, moments: Moments, encoded: &mut Encoded) {
        let feeder = self.feeder(part);
        let (arrival, departure) = (&mut encoded.lags.arrival, &mut encoded.lags.departure);
        if !matches!(part.rows.origins, Origins::Windows { .. }) {
            arrival.extend(&Lags::of(timed.rows.as_ref(), moments.polled, self.history));
        }
        departure.extend(&Lags::of(timed.results.as_ref(), encoded.encoded, self.history));
        rows(part, timed, feeder, &mut encoded.book);
        results(part, timed, feeder, &mut encoded.book);
        self.judge(timed, encoded.encoded + moments.commit, feeder, &mut encoded.book);
    }

    /// Which results of a batch are late by what is promised, if they leave then.
    fn judge(&self, timed: &Timed, departure: Micros, feeder: Feeder, book: &mut Book) {
        let (Some(Objective { lag, .. }), Some(times)) = (self.slo.filter(|_| self.is_live), &timed.results) else {
            return;
        };
        let minutes = Minutes::of(Some(times));
        let between = |from: Micros, to: Micros| {
            (0..times.len()).filter(move |row| times.at(*row).is_some_and(|time| (from..to).contains(&time)))
        };
        minutes.count(between(self.history, Micros::MAX), |minute, rows| book.at(minute, feeder).live += rows);
        if let Some((_, most)) = lag {
            let slow = between(self.history, departure.saturating_sub(most));
            minutes.count(slow, |minute, rows| book.at(minute, feeder).slow += rows);
        }
    }
}

/// What became of the rows of a batch.
fn rows(part: &Processed, timed: &Timed, feeder: Feeder, book: &mut Book) {
    let is_of_windows = matches!(part.rows.origins, Origins::Windows { .. });
    let minutes = Minutes::of(timed.rows.as_ref());
    minutes.count_all(part.rows.batch.num_rows(), |minute, rows| {
        let counts = &mut book.at(minute, feeder).counts;
        if is_of_windows {
            counts.emitted += rows;
        } else {
            counts.rows_in += rows;
        }
        if part.absorbed > 0 {
            counts.absorbed += rows;
        }
    });
    minutes.count(part.left_out.iter().map(|row| *row as usize), |minute, rows| {
        let counts = &mut book.at(minute, feeder).counts;
        counts.filtered += rows;
        if part.absorbed > 0 {
            counts.absorbed -= rows;
        }
    });
    for reject in &part.rejects {
        let counts = &mut book.at(minutes.at(reject.row), feeder).counts;
        match reject.class {
            Class::Late => counts.late += 1,
            _ => counts.dead_lettered += 1,
        }
        if part.absorbed > 0 {
            counts.absorbed -= 1;
        }
    }
}

/// What became of the results of a batch.
fn results(part: &Processed, timed: &Timed, feeder: Feeder, book: &mut Book) {
    let (minutes, results) = (Minutes::of(timed.rows.as_ref()), Minutes::of(timed.results.as_ref()));
    results.count_all(part.results.num_rows(), |minute, rows| book.at(minute, feeder).counts.rows_out += rows);
    let Some(lineage) = &part.lineage else { return };
    let more = lineage.array_windows().filter(|[row, next]| row == next).map(|[row, _]| *row as usize);
    minutes.count(more, |minute, rows| book.at(minute, feeder).counts.expanded += rows);
    if timed.are_same {
        return;
    }
    for (result, row) in lineage.iter().enumerate() {
        let (from, to) = (minutes.at(*row as usize), results.at(result));
        if from != to {
            book.at(from, feeder).shifted -= 1;
            book.at(to, feeder).shifted += 1;
        }
    }
}
