//! The middle of a task: the stage's query over a batch, and its domain events over the results.
//!
//! A row that came in has all of its results and events, or it is a reject and has none.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ::arrow::array::BooleanArray;
use ::arrow::compute::{concat_batches, filter_record_batch};
use ::arrow::error::ArrowError;
use ::arrow::record_batch::RecordBatch;

use crate::checkpoint::Checkpoint;
use crate::codec;
use crate::failure::{Class, DeadLetter, Reject};
use crate::fidelity::{Counts, Said, Status, Watermark};
use crate::operator::{Absorbed, Changes, Closed, Failed, Nanos, Operator, Output, State, Windowed, saturated};
use crate::stage::TaskError;
use crate::stage::clock::Clock;
use crate::stage::inlet::LIMIT;
use crate::stage::origins::{self, Origins, Rows};
use crate::topology::Stage;

const NANOS_PER_MICRO: Nanos = 1_000;

/// The queries of a stage.
pub(super) struct Queries {
    /// The stage.
    pub stage: Arc<Stage>,
    /// The number of the task.
    pub task: u32,
    /// What makes results of rows.
    pub results: Results,
    /// The domain events: their type, and what makes their data of results.
    pub events: Vec<(Arc<str>, Box<dyn Operator>)>,
    /// The event time.
    pub clock: Clock,
    /// Rows that windows have yielded, ever.
    pub emitted: u64,
    /// The largest record that the bus takes, in bytes.
    pub max_record_bytes: usize,
}

/// What makes results of rows.
pub(super) enum Results {
    /// Nothing: they are results as they are.
    AsTheyAre,
    /// An operator, row by row.
    Rows(Box<dyn Operator>),
    /// Windows, when they close.
    Windows(Box<Windowed>),
    /// What changes.
    Changes(Box<Changes>),
}

impl Results {
    /// What is kept from batch to batch.
    pub fn state(&mut self) -> Option<&mut dyn State> {
        match self {
            Results::AsTheyAre | Results::Rows(_) => None,
            Results::Windows(windows) => Some(windows.as_mut()),
            Results::Changes(changes) => Some(changes.as_mut()),
        }
    }
}

/// What became of what was polled.
#[derive(Default)]
pub(super) struct Made {
    /// What became of each batch, and of the windows that closed with it.
    pub parts: Vec<Processed>,
    /// What windows could not yield.
    pub dead_letters: Vec<DeadLetter>,
    /// How many results are those of windows that had closed before.
    pub corrected: u64,
}

/// What became of a batch.
pub(super) struct Processed {
    /// The rows that came in, or that windows have yielded.
    pub rows: Rows,
    /// Their results.
    pub results: RecordBatch,
    /// For each result the row it came from, ascending; `None` where rows are results as they are.
    pub lineage: Option<Vec<u32>>,
    /// Events by type, in the order of the pipeline file.
    pub events: Vec<Events>,
    /// The rows that came in and go no further, ascending.
    pub rejects: Vec<Reject>,
    /// The rows that the query leaves out, in no order.
    pub left_out: Vec<u32>,
    /// How many of the rows are in windows now.
    pub absorbed: u64,
    /// How many rows windows have yielded.
    pub emitted: u64,
    /// What is said of the results behind them, where that is news.
    pub watermark: Option<Said>,
}

/// Events of one type.
pub(super) struct Events {
    /// The type.
    pub name: Arc<str>,
    /// A row each.
    pub data: RecordBatch,
    /// For each of them the result it is about, ascending.
    pub results: Vec<u32>,
}

impl Queries {
    /// Goes to where a commit left the task. What is kept from batch to batch is restored by itself.
    pub fn resume(&mut self, committed: &Checkpoint) {
        self.clock.resume(&committed.clock);
        self.emitted = committed.counts.emitted;
    }

    /// Results and events of each batch, and of the windows that close with it.
    pub fn process(&mut self, batches: Vec<Rows>) -> Result<Made, TaskError> {
        let mut made = Made::default();
        for rows in batches {
            self.process_one(rows, &mut made)?;
        }
        Ok(made)
    }

    fn process_one(&mut self, rows: Rows, made: &mut Made) -> Result<(), TaskError> {
        // Those behind are to know it before there are rows: they would not wait for more.
        if rows.batch.num_rows() > 0
            && let Some(said) = self.clock.go_on()
        {
            let nothing = Processed::unchanged(Rows::none(rows.input, &self.stage.schema, (self.task, said)));
            made.parts.push(Processed { watermark: Some(said), ..nothing });
        }
        self.clock.hear(rows.input, rows.watermark);
        let mut processed = Processed::unchanged(rows);
        match &mut self.results {
            Results::AsTheyAre => {}
            Results::Rows(operator) => {
                let Output { batch, origin, rejects, left_out } =
                    operator.process(processed.rows.input, &processed.rows.batch);
                processed = Processed { results: batch, lineage: Some(origin), rejects, left_out, ..processed };
            }
            Results::Windows(_) | Results::Changes(_) => {
                let (input, batch) = (processed.rows.input, &processed.rows.batch);
                let absorbed = match &mut self.results {
                    Results::Windows(windows) => windows.absorb(input, batch)?,
                    Results::Changes(changes) => {
                        changes.see(&self.clock.marks());
                        changes.absorb(input, batch)?
                    }
                    Results::AsTheyAre | Results::Rows(_) => Absorbed::default(),
                };
                let Absorbed { rejects, left_out, absorbed } = absorbed;
                let results = RecordBatch::new_empty(self.stage.schema.clone());
                processed = Processed { results, lineage: Some(Vec::new()), rejects, left_out, absorbed, ..processed };
            }
        }
        let processed = self.with_events(processed)?;
        self.clock.see(&processed.results);
        made.parts.push(processed);
        let of_rows = self.clock.of_inputs();
        let of_results = self.close(of_rows, made)?;
        if let Some(last) = made.parts.last_mut() {
            last.watermark = self.clock.say(of_results);
        }
        Ok(())
    }

    /// Takes what comes of the rows so far and of the time that has passed, and gives what that says of the results behind it.
    fn close(&mut self, said: Option<Watermark>, made: &mut Made) -> Result<Option<Watermark>, TaskError> {
        let (closed, says) = match &mut self.results {
            Results::AsTheyAre | Results::Rows(_) => return Ok(said),
            Results::Windows(windows) => closed(windows, said, made)?,
            Results::Changes(changes) => {
                let mark = changes.advance(self.clock.marks())?;
                let says = said.map(|said| Watermark { time: said.time.min(mark.time), ..said });
                (vec![changes.given()?], says)
            }
        };
        self.yielded(closed, made)?;
        Ok(says)
    }

    /// Makes results of what was yielded, and dead letters of what could not be.
    fn yielded(&mut self, closed: Vec<Closed>, made: &mut Made) -> Result<(), TaskError> {
        let mut results = Vec::new();
        for closed in closed {
            results.push(closed.results);
            for Failed { rows, class, message } in closed.failed {
                let origin = self.origins().origin(0);
                let reject = Reject { row: 0, class, message };
                made.dead_letters.push(origins::letter(&self.stage.name, origin, origins::of_rows(&rows), reject));
                self.emitted += 1;
                if let Some(part) = made.parts.last_mut() {
                    part.emitted += 1;
                }
            }
        }
        let results = concat_batches(&self.stage.schema, &results)?;
        for start in (0..results.num_rows()).step_by(LIMIT.rows) {
            let batch = results.slice(start, LIMIT.rows.min(results.num_rows() - start));
            let emitted = batch.num_rows() as u64;
            let rows = Rows { input: 0, batch, origins: self.origins(), watermark: None };
            let part = self.with_events(Processed { emitted, ..Processed::unchanged(rows) })?;
            made.parts.push(part);
            self.emitted += emitted;
        }
        Ok(())
    }

    /// Where the rows come from that windows yield next.
    fn origins(&self) -> Origins {
        Origins::Windows { stage: self.stage.full_name.clone(), task: self.task, first: self.emitted }
    }

    fn with_events(&mut self, mut processed: Processed) -> Result<Processed, ArrowError> {
        let mut late = processed.oversized(self.max_record_bytes);
        for (name, operator) in &mut self.events {
            let Output { batch, origin, rejects, .. } = operator.process(0, &processed.results);
            late.extend(rejects.into_iter().map(|reject| {
                let message = format!("event {name}: {}", reject.message);
                (processed.origin(reject.row), Reject { message, ..reject })
            }));
            processed.events.push(Events { name: name.clone(), data: batch, results: origin });
        }
        if late.is_empty() { Ok(processed) } else { processed.without(late) }
    }
}

/// Closes the windows that nothing more comes into.
fn closed(
    windows: &mut Windowed,
    said: Option<Watermark>,
    made: &mut Made,
) -> Result<(Vec<Closed>, Option<Watermark>), TaskError> {
    let mut closed = windows.correct()?;
    made.corrected += closed.iter().map(|closed| closed.results.num_rows() as u64).sum::<u64>();
    let mut says = said;
    if let Some(Watermark { time, status }) = &mut says {
        let until = Nanos::from(*time) * NANOS_PER_MICRO;
        match status {
            Status::Active | Status::Idle => closed.extend(windows.close(Some(until))?),
            Status::End => closed.extend(windows.close(None)?),
        }
        *time = saturated(windows.first_open().div_euclid(NANOS_PER_MICRO));
    }
    closed.extend(windows.early()?);
    Ok((closed, says))
}

impl Processed {
    /// Rows that are results as they are.
    pub fn unchanged(rows: Rows) -> Self {
        let results = rows.batch.clone();
        Self {
            rows,
            results,
            lineage: None,
            events: Vec::new(),
            rejects: Vec::new(),
            left_out: Vec::new(),
            absorbed: 0,
            emitted: 0,
            watermark: None,
        }
    }

    /// The row that a result came from.
    pub fn origin(&self, result: usize) -> usize {
        match &self.lineage {
            Some(lineage) => lineage.get(result).map_or(0, |row| *row as usize),
            None => result,
        }
    }

    /// What became of the rows, in numbers; how many came in is not counted here.
    pub fn counts(&self) -> Counts {
        let rows_out = self.results.num_rows() as u64;
        let with_results = match &self.lineage {
            Some(lineage) => lineage.chunk_by(|a, b| a == b).count() as u64,
            None => rows_out,
        };
        let late = self.rejects.iter().filter(|reject| reject.class == Class::Late).count() as u64;
        Counts {
            rows_in: 0,
            rows_out,
            filtered: self.left_out.len() as u64,
            expanded: rows_out.saturating_sub(with_results),
            dead_lettered: self.rejects.len() as u64 - late,
            late,
            absorbed: self.absorbed,
            emitted: self.emitted,
            events: self.events.iter().map(|events| events.data.num_rows() as u64).sum(),
            foreign: 0,
        }
    }

    /// Rows with a result that is too large for a record even by itself.
    fn oversized(&self, max_record_bytes: usize) -> BTreeMap<usize, Reject> {
        let mut late = BTreeMap::new();
        let mut pending = vec![(0, self.results.num_rows())];
        while let Some((result, rows)) = pending.pop() {
            let part = self.results.slice(result, rows);
            if codec::arrow::size_bytes(&part) < max_record_bytes / 2 {
                continue;
            }
            if rows > 1 {
                pending.extend([(result, rows / 2), (result + rows / 2, rows - rows / 2)]);
                continue;
            }
            let bytes = codec::arrow::encode(&part).map_or(usize::MAX, |record| record.len());
            if bytes > max_record_bytes - max_record_bytes / 8 {
                let message =
                    format!("a result of {bytes} bytes is too large for the bus, which takes {max_record_bytes}");
                let row = self.origin(result);
                late.insert(row, Reject { row, class: Class::TooLarge, message });
            }
        }
        late
    }

    /// The same without the results and events of rows of which it turned out late that they go no further.
    pub fn without(mut self, late: BTreeMap<usize, Reject>) -> Result<Self, ArrowError> {
        let keep: BooleanArray =
            (0..self.results.num_rows()).map(|result| Some(!late.contains_key(&self.origin(result)))).collect();
        // Events are numbered by result, and results move up when others before them go.
        let mut moved = Vec::with_capacity(keep.len());
        let mut kept = 0u32;
        for stays in keep.values().iter() {
            moved.push(stays.then_some(kept));
            kept += u32::from(stays);
        }
        for events in &mut self.events {
            let target = |result: &u32| moved.get(*result as usize).copied().flatten();
            let stays: BooleanArray = events.results.iter().map(|result| Some(target(result).is_some())).collect();
            events.data = filter_record_batch(&events.data, &stays)?;
            events.results = events.results.iter().filter_map(target).collect();
        }
        let lineage: Vec<u32> =
            (0..keep.len()).filter(|result| keep.value(*result)).map(|result| self.origin(result) as u32).collect();
        self.results = filter_record_batch(&self.results, &keep)?;
        self.lineage = Some(lineage);
        let gone: HashSet<usize> = self.rejects.iter().map(|reject| reject.row).collect();
        self.rejects.extend(
            late.into_iter().filter(|(row, _)| !gone.contains(row)).map(|(row, reject)| Reject { row, ..reject }),
        );
        self.rejects.sort_by_key(|reject| reject.row);
        Ok(self)
    }
}
