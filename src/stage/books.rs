//! What a task writes into its books: for each row the minute it is of and what became of it.

use std::sync::Arc;

use crate::bus::Micros;
use crate::codec::time::micros_at;
use crate::failure::{Class, DeadLetter};
use crate::fidelity::{Book, Feeder, Minute, Minutes};
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
        Self { stage: stage.full_name.clone(), inputs, times, of_results, keeps, of_windows: stage.time }
    }

    /// When the event of a row of the batch happened, where that is known.
    pub fn event_time(&self, part: &Processed, row: usize) -> Option<Micros> {
        let column = match part.rows.origins {
            Origins::Windows { .. } => self.of_windows,
            _ => self.times.get(part.rows.input).copied().flatten(),
        };
        micros_at(part.rows.batch.columns().get(column?)?, row)
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
        let input = part.rows.input;
        let of_input = |columns: &[Option<usize>]| columns.get(input).copied().flatten();
        // At a source the only input is no predecessor.
        let feeder = Some(input).filter(|input| !is_of_windows && *input < self.inputs.len());
        let (time, of_results, keeps) = match is_of_windows {
            true => (self.of_windows, self.of_windows, true),
            false => (of_input(&self.times), of_input(&self.of_results), self.keeps.get(input) == Some(&true)),
        };
        let minutes = Minutes::of(&part.rows.batch, time);
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
        self.results(part, &minutes, (of_results, keeps, feeder), book);
    }

    fn results(
        &self,
        part: &Processed,
        minutes: &Minutes,
        (time, keeps, feeder): (Option<usize>, bool, Feeder),
        book: &mut Book,
    ) {
        let results = Minutes::of(&part.results, time);
        let rows = part.results.num_rows();
        results.count(0..rows, |minute, rows| book.at(minute, feeder).counts.rows_out += rows);
        let Some(lineage) = &part.lineage else { return };
        let more = lineage.array_windows().filter(|[row, next]| row == next).map(|[row, _]| *row as usize);
        minutes.count(more, |minute, rows| book.at(minute, feeder).counts.expanded += rows);
        if keeps {
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
}
