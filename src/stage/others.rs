//! The near side of a task whose rows are messages of others: the topic is an input of the stage's group like the results of
//! a predecessor, but it is a source, which is followed until somebody stops it or read up to where it ended.

use std::sync::Arc;
use std::time::Duration;

use ::arrow::datatypes::SchemaRef;

use crate::bus::{Bus, Lease, Limit, Message, Topic, TopicPartition};
use crate::checkpoint::Checkpoint;
use crate::config::{Part, Spanned, TopicSource};
use crate::stage::TaskError;
use crate::stage::envelope::Envelopes;
use crate::stage::inlet::{Arrived, Polled, STEP, without_rejects};
use crate::stage::origins::{Origins, Rows};
use crate::time_of_day::now;
use crate::topology::Stage;

/// How long a poll of a topic that is not followed waits before it looks whether that was all.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// Rows from a topic of others.
pub(super) struct OthersInlet {
    stage: Arc<str>,
    schema: SchemaRef,
    columns: Vec<(Part, Spanned<String>)>,
    envelopes: Option<Envelopes>,
    bus: Arc<dyn Bus>,
    partition: TopicPartition,
    follow: bool,
    /// Where the task reads on.
    next: u64,
    /// Where the partition ended when the task started.
    end: u64,
}

impl OthersInlet {
    /// The inlet of the task of that number.
    pub fn new(stage: &Stage, source: &TopicSource, task: u32, bus: Arc<dyn Bus>) -> Self {
        Self {
            stage: stage.name.clone(),
            schema: stage.schema.clone(),
            columns: source.columns.clone(),
            envelopes: None,
            bus,
            partition: Topic::new(source.topic.value.as_str()).partition(task),
            follow: source.follow,
            next: 0,
            end: 0,
        }
    }

    /// Goes to where a commit left the task, and looks how far it is to the end where the topic is not followed.
    pub async fn resume(&mut self, committed: &Checkpoint) -> Result<(), TaskError> {
        if self.follow {
            return Ok(());
        }
        let extents = self.bus.extents(&self.partition.topic).await?;
        let extent = extents.get(self.partition.partition as usize).copied().unwrap_or_default();
        self.next = committed.positions.get(&self.partition).copied().unwrap_or(extent.start);
        self.end = extent.end;
        Ok(())
    }

    /// The columns of its rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What is next; see [`crate::stage::inlet::Inlet::poll`].
    pub async fn poll(&mut self, lease: &mut dyn Lease, wait: Duration) -> Result<Polled, TaskError> {
        if !self.follow && self.next >= self.end {
            return Ok(Polled::Finished);
        }
        let wait = if self.follow { wait } else { wait.min(SHORT_WAIT) };
        let mut messages = lease.poll(STEP, wait).await?;
        if messages.is_empty() {
            return Ok(if !self.follow && self.was_all().await? { Polled::Finished } else { Polled::Idle });
        }
        // A message is one row here, whatever it says of itself.
        messages.iter_mut().for_each(|message| message.record.rows = 1);
        Ok(Polled::Messages(messages))
    }

    /// Whether nothing but what is no message is left of what was there.
    async fn was_all(&self) -> Result<bool, TaskError> {
        let left = self.bus.read(&self.partition, self.next, Limit::ONE, Duration::ZERO).await?;
        Ok(left.first().is_none_or(|message| message.offset >= self.end))
    }

    /// The rows of the messages.
    pub fn decode(&mut self, messages: Vec<Message>) -> Result<Arrived, TaskError> {
        self.next = messages.last().map_or(self.next, |last| last.offset + 1);
        let decoded = self.envelopes()?.decode(&messages)?;
        let mut arrived = Arrived { since: now(), ..Arrived::default() };
        let kept = without_rejects(&self.stage, messages, decoded.rejects, &mut arrived.dead_letters);
        arrived.rows.push(Rows { input: 0, batch: decoded.batch, origins: Origins::Messages(kept), watermark: None });
        Ok(arrived)
    }

    fn envelopes(&mut self) -> Result<&mut Envelopes, TaskError> {
        let envelopes = match self.envelopes.take() {
            Some(envelopes) => envelopes,
            None => Envelopes::new(self.schema.clone(), &self.columns)?,
        };
        Ok(self.envelopes.insert(envelopes))
    }
}
