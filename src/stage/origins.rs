//! Where the rows of a batch came from, and the dead letters they turn into when they go no further.

use std::path::Path;
use std::sync::Arc;

use ::arrow::datatypes::SchemaRef;
use ::arrow::record_batch::RecordBatch;

use crate::bus::{Message, Record};
use crate::codec::arrow;
use crate::connector::Block;
use crate::failure::{DeadLetter, Origin, Reject};
use crate::fidelity::Said;
use crate::stage::trace::{self, Context, Traces};
use crate::time_of_day::now;

/// Rows on their way through a task.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// The number of the input they came from, as in the stage's `from`; 0 at a source.
    pub input: usize,
    /// The rows.
    pub batch: RecordBatch,
    /// Where each of them came from.
    pub origins: Origins,
    /// What the task that published them, of that number, says of those behind them.
    pub watermark: Option<(u32, Said)>,
}

impl Rows {
    /// No rows of an input, of whose task something is said.
    pub fn none(input: usize, schema: &SchemaRef, said: (u32, Said)) -> Self {
        let batch = RecordBatch::new_empty(schema.clone());
        Self { input, batch, origins: Origins::Messages(Vec::new()), watermark: Some(said) }
    }
}

/// Where the rows of a batch came from. In each case, `kept` has for each row of the batch its number there; `None` if all
/// are in the batch.
#[derive(Debug, Clone)]
pub(super) enum Origins {
    /// A block of a source.
    Source {
        /// The rows of the block.
        rows: SourceRows,
        /// Those that decoded.
        kept: Option<Vec<u32>>,
        /// The traces that they are of.
        traces: Traces,
    },
    /// One message, whose payload is a batch.
    Message {
        /// The message.
        message: Message,
        /// The rows of it that conform to the contract.
        kept: Option<Vec<u32>>,
        /// The traces that its rows are of.
        traces: Traces,
    },
    /// Messages of a row each.
    Messages(Vec<Message>),
    /// Windows of the stage that have closed.
    Windows {
        /// The full name of the stage.
        stage: Arc<str>,
        /// The number of the task.
        task: u32,
        /// How many rows its windows had yielded before.
        first: u64,
    },
    /// A source that makes them up.
    Made {
        /// The full name of the stage.
        stage: Arc<str>,
        /// The number of the task.
        task: u32,
        /// How many rows the task had taken in before, ever.
        first: u64,
    },
}

/// A block of a source, and what tells its rows from all others.
#[derive(Debug, Clone)]
pub(super) struct SourceRows {
    /// The block.
    pub block: Block,
    /// The name of its origin, relative to the pipeline.
    pub name: Arc<str>,
    /// How many rows the task had taken in before it, ever. Unlike a path and an offset, which name another row once a
    /// file was rotated away, the number of a row is its own.
    pub first: u64,
}

impl Origins {
    /// Where a row of the batch came from.
    pub fn origin(&self, row: usize) -> Origin {
        match self {
            Origins::Source { rows, kept, .. } => rows.origin(number(kept.as_deref(), row)),
            Origins::Message { message, kept, .. } => message_origin(message, number(kept.as_deref(), row)),
            Origins::Messages(messages) => match messages.get(row) {
                Some(message) => message_origin(message, 0),
                None => Origin { name: "".into(), partition: None, offset: 0, row: row as u64 },
            },
            Origins::Windows { stage, task, first } | Origins::Made { stage, task, first } => {
                Origin { name: stage.clone(), partition: Some(*task), offset: first + row as u64, row: 0 }
            }
        }
    }

    /// Rows of one message, some of which may be left out.
    pub fn message(message: Message, kept: Option<Vec<u32>>) -> Self {
        let traces = Traces::of(&message.record);
        Origins::Message { message, kept, traces }
    }

    /// Whether any of the rows is of a trace.
    pub fn are_traced(&self) -> bool {
        match self {
            Origins::Windows { .. } | Origins::Made { .. } => false,
            Origins::Source { traces, .. } | Origins::Message { traces, .. } => !traces.is_empty(),
            Origins::Messages(messages) => messages.iter().any(|message| trace::is_traced(&message.record)),
        }
    }

    /// The headers by which what is made of a row of the batch belongs to the trace that the row is of.
    pub fn trace(&self, row: usize) -> Context {
        match self {
            Origins::Windows { .. } | Origins::Made { .. } => Context::new(),
            Origins::Source { traces, .. } | Origins::Message { traces, .. } if traces.is_empty() => Context::new(),
            Origins::Source { traces, kept, .. } | Origins::Message { traces, kept, .. } => {
                traces.context(number(kept.as_deref(), row))
            }
            Origins::Messages(messages) => {
                messages.get(row).map(|message| trace::context(&message.record)).unwrap_or_default()
            }
        }
    }

    /// The dead letter of a row of the batch.
    pub fn dead_letter(&self, stage: &Arc<str>, batch: &RecordBatch, reject: Reject) -> DeadLetter {
        let original = match self {
            Origins::Source { rows, kept, .. } => rows.record(number(kept.as_deref(), reject.row)),
            Origins::Message { message, .. } => Record {
                value: Some(arrow::encode(&batch.slice(reject.row, 1)).unwrap_or_default()),
                headers: trace::replaced(&message.record.headers, &self.trace(reject.row)),
                rows: 1,
                arrived: message.record.arrived,
                ..Record::default()
            },
            Origins::Messages(messages) => {
                messages.get(reject.row).map(|message| message.record.clone()).unwrap_or_default()
            }
            Origins::Windows { .. } | Origins::Made { .. } => of_rows(&batch.slice(reject.row, 1)),
        };
        letter(stage, self.origin(reject.row), original, reject)
    }
}

impl SourceRows {
    /// The dead letter of a row of the block that did not become a row of a batch.
    pub fn dead_letter(&self, stage: &Arc<str>, reject: Reject) -> DeadLetter {
        letter(stage, self.origin(reject.row), self.record(reject.row), reject)
    }

    pub fn origin(&self, row: usize) -> Origin {
        let start = self.block.rows.rows.get(row).map_or(0, |range| u64::from(range.start));
        let offset = self.block.offset + start;
        Origin { name: self.name.clone(), partition: None, offset, row: self.first + row as u64 }
    }

    fn record(&self, row: usize) -> Record {
        Record { value: Some(self.block.rows.row(row)), rows: 1, arrived: self.block.arrived, ..Record::default() }
    }
}

/// Rows as the original of a dead letter.
pub(super) fn of_rows(batch: &RecordBatch) -> Record {
    let value = Some(arrow::encode(batch).unwrap_or_default());
    let headers = [("content-type", arrow::CONTENT_TYPE)].into();
    Record { value, headers, rows: 1, arrived: now(), ..Record::default() }
}

/// The dead letter of a message that could not be taken apart into rows.
pub(super) fn dead_message(stage: &Arc<str>, message: &Message, reject: Reject) -> DeadLetter {
    letter(stage, message_origin(message, 0), message.record.clone(), reject)
}

/// The name of a file as the pipeline's folder sees it, so that it is the same wherever the program was started.
pub(super) fn relative_name(origin: &Arc<str>, dir: &Path) -> Arc<str> {
    match Path::new(&**origin).strip_prefix(dir) {
        Ok(relative) => relative.to_string_lossy().into(),
        Err(_) => origin.clone(),
    }
}

pub(super) fn letter(stage: &Arc<str>, origin: Origin, original: Record, reject: Reject) -> DeadLetter {
    let Reject { class, message, .. } = reject;
    DeadLetter { stage: stage.clone(), class, message, origin, event_time: None, attempts: 1, original }
}

fn number(kept: Option<&[u32]>, row: usize) -> usize {
    kept.map_or(row, |kept| kept.get(row).map_or(row, |number| *number as usize))
}

fn message_origin(message: &Message, row: usize) -> Origin {
    Origin {
        name: message.partition.topic.name(),
        partition: Some(message.partition.partition),
        offset: message.offset,
        row: row as u64,
    }
}
