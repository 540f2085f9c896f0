//! Facts about the service that a stage is, for anyone who reads its `.events`: CloudEvents beside the domain's own, whose types
//! begin with `fidelio.`. `docs/facts.md` says what is in them.

use std::sync::Arc;

use serde::Serialize;

use crate::bus::{Channel, Outgoing, Record, TopicPartition};
use crate::codec::cloudevents::{self, Event};
use crate::stage::TaskError;
use crate::stage::outlet::source;
use crate::time_of_day::now;
use crate::topology::Stage;

/// The type of what a task says of its books.
pub(crate) const LEDGER: &str = "fidelio.ledger";

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
