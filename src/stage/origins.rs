//! Where the rows of a batch came from, and the dead letters they turn into when they go no further.

use std::path::Path;
use std::sync::Arc;

use ::arrow::record_batch::RecordBatch;

use crate::bus::{Message, Record};
use crate::codec::arrow;
use crate::connector::Block;
use crate::failure::{DeadLetter, Origin, Reject};

/// Rows on their way through a task.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// The number of the input they came from, as in the stage's `from`; 0 at a source.
    pub input: usize,
    /// The rows.
    pub batch: RecordBatch,
    /// Where each of them came from.
    pub origins: Origins,
}

/// Where the rows of a batch came from.
#[derive(Debug, Clone)]
pub(super) enum Origins {
    /// A block of a source, whose every row is in the batch, or those in `kept`.
    Block {
        /// The block.
        block: Arc<Block>,
        /// The name of its origin, relative to the pipeline.
        name: Arc<str>,
        /// For each row of the batch its number in the block; `None` if all are there.
        kept: Option<Vec<u32>>,
    },
    /// One message, whose payload is the batch.
    Message(Message),
    /// Messages of a row each.
    Messages(Vec<Message>),
}

impl Origins {
    /// Where a row of the batch came from.
    pub fn origin(&self, row: usize) -> Origin {
        match self {
            Origins::Block { block, name, kept } => block_origin(block, name, raw_row(kept.as_deref(), row)),
            Origins::Message(message) => message_origin(message, row as u32),
            Origins::Messages(messages) => match messages.get(row) {
                Some(message) => message_origin(message, 0),
                None => Origin { name: "".into(), partition: None, offset: 0, row: row as u32 },
            },
        }
    }

    /// The dead letter of a row of the batch.
    pub fn dead_letter(&self, stage: &Arc<str>, batch: &RecordBatch, reject: Reject) -> DeadLetter {
        let original = match self {
            Origins::Block { block, kept, .. } => block_record(block, raw_row(kept.as_deref(), reject.row)),
            Origins::Message(message) => Record {
                value: arrow::encode(&batch.slice(reject.row, 1)).unwrap_or_default(),
                headers: message.record.headers.clone(),
                rows: 1,
                arrived: message.record.arrived,
                ..Record::default()
            },
            Origins::Messages(messages) => {
                messages.get(reject.row).map(|message| message.record.clone()).unwrap_or_default()
            }
        };
        letter(stage, self.origin(reject.row), original, reject)
    }
}

/// The dead letter of a row of a block that did not become a row of a batch.
pub(super) fn dead_row(stage: &Arc<str>, block: &Block, name: &Arc<str>, reject: Reject) -> DeadLetter {
    letter(stage, block_origin(block, name, reject.row), block_record(block, reject.row), reject)
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

fn letter(stage: &Arc<str>, origin: Origin, original: Record, reject: Reject) -> DeadLetter {
    DeadLetter { stage: stage.clone(), class: reject.class, message: reject.message, origin, attempts: 1, original }
}

fn raw_row(kept: Option<&[u32]>, row: usize) -> usize {
    kept.map_or(row, |kept| kept.get(row).map_or(row, |raw| *raw as usize))
}

fn block_origin(block: &Block, name: &Arc<str>, raw: usize) -> Origin {
    let start = block.rows.rows.get(raw).map_or(0, |range| u64::from(range.start));
    Origin { name: name.clone(), partition: None, offset: block.offset + start, row: 0 }
}

fn block_record(block: &Block, raw: usize) -> Record {
    Record { value: block.rows.row(raw), rows: 1, arrived: block.arrived, ..Record::default() }
}

fn message_origin(message: &Message, row: u32) -> Origin {
    Origin {
        name: message.partition.topic.as_str().into(),
        partition: Some(message.partition.partition),
        offset: message.offset,
        row,
    }
}
