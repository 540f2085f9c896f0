//! The middle of a task: the stage's query over a batch, and its domain events over the results.
//!
//! A row that came in has all of its results and events, or it is a reject and has none.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ::arrow::array::BooleanArray;
use ::arrow::compute::filter_record_batch;
use ::arrow::error::ArrowError;
use ::arrow::record_batch::RecordBatch;

use crate::codec;
use crate::failure::{Class, Reject};
use crate::fidelity::Counts;
use crate::operator::{Operator, Output};
use crate::stage::origins::Rows;

/// The queries of a stage.
pub(super) struct Queries {
    /// What makes results of rows; `None` where rows are results as they are.
    pub results: Option<Box<dyn Operator>>,
    /// The domain events: their type, and what makes their data of results.
    pub events: Vec<(Arc<str>, Box<dyn Operator>)>,
    /// The largest record that the bus takes, in bytes.
    pub max_record_bytes: usize,
}

/// What became of a batch.
pub(super) struct Processed {
    /// The rows that came in.
    pub rows: Rows,
    /// Their results.
    pub results: RecordBatch,
    /// For each result the row it came from, ascending; `None` where rows are results as they are.
    pub lineage: Option<Vec<u32>>,
    /// Events by type, in the order of the pipeline file.
    pub events: Vec<Events>,
    /// The rows that came in and go no further, ascending.
    pub rejects: Vec<Reject>,
    /// How many of the rows the query leaves out.
    pub filtered: u64,
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
    /// Results and events of each batch.
    pub fn process(&mut self, batches: Vec<Rows>) -> Result<Vec<Processed>, ArrowError> {
        batches.into_iter().map(|rows| self.process_one(rows)).collect()
    }

    fn process_one(&mut self, rows: Rows) -> Result<Processed, ArrowError> {
        let mut processed = match &mut self.results {
            Some(operator) => {
                let Output { batch, origin, rejects, filtered } = operator.process(rows.input, &rows.batch);
                Processed { rows, results: batch, lineage: Some(origin), events: Vec::new(), rejects, filtered }
            }
            None => Processed::unchanged(rows),
        };
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

impl Processed {
    /// Rows that are results as they are.
    pub fn unchanged(rows: Rows) -> Self {
        let results = rows.batch.clone();
        Self { rows, results, lineage: None, events: Vec::new(), rejects: Vec::new(), filtered: 0 }
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
        Counts {
            rows_in: 0,
            rows_out,
            filtered: self.filtered,
            expanded: rows_out.saturating_sub(with_results),
            dead_lettered: self.rejects.len() as u64,
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
