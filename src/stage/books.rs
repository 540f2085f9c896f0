//! What a task writes into its books: for each row the minute it is of and what became of it.

use std::sync::Arc;

use crate::bus::Micros;
use crate::checkpoint::Checkpoint;
use crate::codec::time::micros_at;
use crate::failure::{Class, DeadLetter};
use crate::fidelity::{Book, Feeder, Lags, Minute, Minutes};
use crate::stage::origins::Origins;
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
    /// What happened before is history.
    history: Micros,
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
            history: Micros::MAX,
        }
    }

    /// Goes to where a commit left the task.
    pub fn resume(&mut self, committed: &Checkpoint) {
        self.history = committed.began.filter(|_| self.is_live).unwrap_or(Micros::MAX);
    }

    /// How long after their events the rows of a batch were polled, and their results are encoded.
    pub fn lags(&self, part: &Processed, (polled, encoded): (Micros, Micros), passed: &mut Passed) {
        let Columns { rows: time, results, .. } = self.columns(part);
        if !matches!(part.rows.origins, Origins::Windows { .. }) {
            passed.arrival.extend(&Lags::of(&part.rows.batch, time, polled, self.history));
        }
        passed.departure.extend(&Lags::of(&part.results, results, encoded, self.history));
    }

    fn columns(&self, part: &Processed) -> Columns {
        let of = |columns: &[Option<usize>]| columns.get(part.rows.input).copied().flatten();
        match part.rows.origins {
            Origins::Windows { .. } => Columns { rows: self.of_windows, results: self.of_windows, are_same: true },
            _ => {
                let are_same = self.keeps.get(part.rows.input) == Some(&true);
                Columns { rows: of(&self.times), results: of(&self.of_results), are_same }
            }
        }
    }

    /// When the event of a row of the batch happened, where that is known.
    pub fn event_time(&self, part: &Processed, row: usize) -> Option<Micros> {
        micros_at(part.rows.batch.columns().get(self.columns(part).rows?)?, row)
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

    /// What became of a batch.
    pub fn part(&self, part: &Processed, book: &mut Book) {
        let rows = part.rows.batch.num_rows();
        let is_of_windows = matches!(part.rows.origins, Origins::Windows { .. });
        // At a source the only input is no predecessor.
        let feeder = Some(part.rows.input).filter(|input| !is_of_windows && *input < self.inputs.len());
        let columns = self.columns(part);
        let minutes = Minutes::of(&part.rows.batch, columns.rows);
        minutes.count(0..rows, |minute, rows| {
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
        results(part, &minutes, columns, feeder, book);
    }
}

/// Where the event times of a batch are.
#[derive(Clone, Copy)]
struct Columns {
    /// Those of its rows.
    rows: Option<usize>,
    /// Those of their results.
    results: Option<usize>,
    /// Whether each result has that of its row.
    are_same: bool,
}

/// What became of the results of a batch whose rows are of these minutes.
fn results(part: &Processed, minutes: &Minutes, columns: Columns, feeder: Feeder, book: &mut Book) {
    let results = Minutes::of(&part.results, columns.results);
    let rows = part.results.num_rows();
    results.count(0..rows, |minute, rows| book.at(minute, feeder).counts.rows_out += rows);
    let Some(lineage) = &part.lineage else { return };
    let more = lineage.array_windows().filter(|[row, next]| row == next).map(|[row, _]| *row as usize);
    minutes.count(more, |minute, rows| book.at(minute, feeder).counts.expanded += rows);
    if columns.are_same {
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
