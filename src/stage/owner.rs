//! Who publishes a topic of the pipeline: its owner, and nobody else. Where a bus lets others write there all the same, what
//! they wrote is told by what every message of a stage has: the number of its task, or the stage as the source of the event.

use std::sync::Arc;

use crate::bus::{Message, Record, Topic};
use crate::failure::{Class, Reject};
use crate::stage::outlet::source;
use crate::topology::Stage;

/// The header of a message of a batch that has the number of the task that published it.
pub(super) const TASK: &str = "fidelio-task";
/// The header of the last message of a step in each partition: what the task says of those behind it.
pub(super) const WATERMARK: &str = "fidelio-watermark";
/// The header of the last message of a step in each partition: how many rows the task has published there, ever.
pub(super) const SENT: &str = "fidelio-sent";
/// The header of a message of a row that has the stage that published it.
pub(super) const SOURCE: &str = "ce_source";

/// The header of a message without a value, which says that a row is deleted: that row, as JSON.
pub(super) const DELETED_ROW: &str = "fidelio-deleted";

/// The text of the row that a message is, or of the one that is deleted by it.
pub(crate) fn row_of(record: &Record) -> &[u8] {
    match &record.value {
        Some(value) => value,
        None => record.headers.get(DELETED_ROW).unwrap_or_default(),
    }
}

/// Whether a message has no rows, and is only there for what it says of those behind it.
pub(crate) fn has_no_rows(record: &Record) -> bool {
    record.value.is_none() && record.headers.get(WATERMARK).is_some() && record.headers.get(DELETED_ROW).is_none()
}

/// The stage that owns a topic.
pub(super) struct Owner {
    name: Arc<str>,
    topic: Topic,
    source: String,
    /// Whether somebody else was found to publish there.
    is_alone: bool,
}

impl Owner {
    /// The owner of a stage's results.
    pub fn new(stage: &Stage) -> Self {
        let (name, topic) = (stage.name.clone(), stage.results());
        Self { name, topic, source: source(&stage.full_name), is_alone: true }
    }

    /// The name of the stage.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Whether a record is one that the stage publishes.
    pub fn published(&self, record: &Record) -> bool {
        record.headers.get(SOURCE) == Some(self.source.as_bytes()) || record.headers.get(TASK).is_some()
    }

    /// Why a message that it did not publish goes no further. The first one is also said in the log.
    pub fn refuse(&mut self, stage: &str, message: &Message) -> Reject {
        if std::mem::take(&mut self.is_alone) {
            let Message { partition, offset, .. } = message;
            tracing::warn!(
                %stage, owner = %self.name, %partition, offset,
                "somebody else than its owner publishes to a topic of the pipeline; what is found there of others is dead letters"
            );
        }
        let message = format!("not published by stage {}, which owns the topic {}", self.name, self.topic);
        Reject { row: 0, class: Class::Foreign, message }
    }
}
