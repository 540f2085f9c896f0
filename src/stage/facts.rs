//! Facts about the service that a stage is, for anyone who reads its `.events`: CloudEvents beside the domain's own, whose types
//! begin with `fidelio.`. `docs/facts.md` says what is in them.

use std::sync::Arc;

use serde::Serialize;

use crate::bus::{Channel, Outgoing, Record, TopicPartition};
use crate::codec::cloudevents::{self, Event};
use crate::failure::{Class, Origin};
use crate::stage::TaskError;
use crate::stage::outlet::source;
use crate::time_of_day::now;
use crate::topology::Stage;

/// The type of what a task says of its books.
pub(crate) const LEDGER: &str = "fidelio.ledger";

/// What happens to a task, besides what becomes of its rows: the data of a fact.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum News {
    /// It runs.
    Started {
        /// Of Fidelio.
        version: &'static str,
    },
    /// It goes on from a checkpoint.
    Restored {
        /// Rows that had come in by then.
        rows_in: u64,
        /// Rows that had gone out.
        rows_out: u64,
        /// For each input partition the offset of the message that is read next.
        positions: Vec<Place>,
    },
    /// It ends.
    Stopped {
        /// `ended` where its input has, `told` where the worker was told to stop.
        reason: &'static str,
    },
    /// Rows became dead letters.
    DeadLettered(Letters),
    /// Windows that had closed had rows since, and yield their results once more.
    Corrected {
        /// How many they are.
        results: u64,
    },
    /// Somebody else has published to a topic of a predecessor.
    Foreign {
        /// How many rows.
        rows: u64,
    },
    /// Rows that a predecessor has published have not come, or have come again.
    Missing {
        /// The predecessor.
        from: String,
        /// How many; if negative, so many have come again.
        rows: i64,
    },
}

/// A position in a partition.
#[derive(Debug, Serialize)]
pub(super) struct Place {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
}

/// Dead letters of a commit that are of the same class.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Letters {
    /// Why.
    pub class: Class,
    /// How many rows.
    pub rows: u64,
    /// Where the first of them came from.
    pub first: Origin,
    /// Why, for a person, of the first.
    pub message: String,
}

impl Letters {
    /// Adds them to others, which are one for each class.
    pub fn add_to(self, others: &mut Vec<Letters>) {
        match others.iter_mut().find(|others| others.class == self.class) {
            Some(others) => others.rows += self.rows,
            None => others.push(self),
        }
    }
}

/// A fact as it is written.
#[derive(Serialize)]
struct Said<'a> {
    task: u32,
    #[serde(flatten)]
    news: &'a News,
}

impl News {
    /// The type of the fact.
    fn kind(&self) -> &'static str {
        match self {
            News::Started { .. } => "fidelio.task.started",
            News::Restored { .. } => "fidelio.task.restored",
            News::Stopped { .. } => "fidelio.task.stopped",
            News::DeadLettered(_) => "fidelio.rows.dead-lettered",
            News::Corrected { .. } => "fidelio.windows.corrected",
            News::Foreign { .. } => "fidelio.rows.foreign",
            News::Missing { .. } => "fidelio.rows.missing",
        }
    }
}

/// Whether an event of that type is about the service. Those of a domain have names of more parts.
pub(crate) fn is_fact(kind: &str) -> bool {
    kind.starts_with("fidelio.") && kind.matches('.').count() < 3
}

/// What says facts of a task.
pub(super) struct Facts {
    full_name: Arc<str>,
    source: String,
    to: TopicPartition,
}

impl Facts {
    /// Of a task of a stage.
    pub fn new(stage: &Stage, task: u32) -> Self {
        let (full_name, source) = (stage.full_name.clone(), source(&stage.full_name));
        Self { full_name, source, to: stage.topic(Channel::Events).partition(task) }
    }

    /// What has happened to the task, as a fact with that number among these.
    pub fn news(&self, number: u64, news: &News) -> Result<Outgoing, TaskError> {
        self.fact(news.kind(), number, &Said { task: self.to.partition, news })
    }

    /// A fact of that type, the number of which no other of that type has.
    pub fn fact(
        &self,
        kind: &str,
        number: impl std::fmt::Display,
        data: &impl Serialize,
    ) -> Result<Outgoing, TaskError> {
        let (id, time) = (format!("{}/{}/{kind}/{number}", self.full_name, self.to.partition), now());
        let data = serde_json::to_vec(data)?;
        let event = Event { id: &id, source: &self.source, kind, time: Some(time), data: &data };
        let headers = [("content-type", cloudevents::CONTENT_TYPE)].into();
        let record = Record { value: Some(event.structured()?), headers, rows: 1, arrived: time, ..Record::default() };
        Ok(Outgoing { to: self.to.clone(), record })
    }
}
