//! Stages to a checked graph: who feeds whom, in how many partitions, through which topics, under which contracts.

mod build;
mod contract;
mod examples;
mod files;
mod graph;
mod others;
mod partitions;
#[cfg(test)]
mod tests;
mod windows;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;

use crate::bus::{Channel, Cleanup, Group, Micros, Topic, TopicSpec};
use crate::config::{self, Draft, Fault, Faulty, Pipeline};
use crate::fidelity::Objective;
use crate::sql::{Engine, Query};

/// A pipeline whose stages fit each other.
pub struct Topology {
    /// `<company>.<namespace>`
    pub prefix: Arc<str>,
    /// Its stages, each after those that feed it.
    pub stages: Vec<Arc<Stage>>,
}

/// A stage in its place.
#[derive(Clone)]
pub struct Stage {
    /// Its name in the pipeline.
    pub name: Arc<str>,
    /// `<company>.<namespace>.<stage>`: its consumer group, and the start of its topics' names.
    pub full_name: Arc<str>,
    /// The names of the stages that feed it, in the order of `from`.
    pub from: Vec<Arc<str>>,
    /// What it does.
    pub work: Work,
    /// The schema of its results; of a sink, that of the rows it writes.
    pub schema: SchemaRef,
    /// Columns of `schema` that make up the key, in order; empty where rows stay in their partition. Of a sink, the key of
    /// the messages that it writes.
    pub key: Vec<usize>,
    /// When the events of its results happened, where the stage says it.
    pub event_time: Option<EventTime>,
    /// The column of its results with the time of their events: the one that it names, the one in which a predecessor's comes
    /// through unchanged, or else the end or the start of the window that a result is of.
    pub time: Option<usize>,
    /// For each of its predecessors the same of that one's results.
    pub times_of_inputs: Vec<Option<usize>>,
    /// Bytes of memory that what a task keeps may take.
    pub state_limit: usize,
    /// What is promised of its minutes.
    pub slo: Option<Objective>,
    /// Whether some of its rows come from a source that has no end, and are not all history.
    pub is_live: bool,
    /// Whether it says how far it is in event time: some source before it knows, or windows behind it wait for it.
    pub is_heard: bool,
    /// Its domain events: type, and the query over its own results.
    pub events: Vec<(Arc<str>, Query)>,
    /// The format of its results.
    pub format: config::Format,
    /// Number of tasks: the most partitions that any of its predecessors has; 1 for a source, unless it reads a topic,
    /// whose partitions are counted when the pipeline starts.
    pub tasks: u32,
    /// Number of partitions of its results; 0 for a sink, unless it writes a topic, whose partitions are counted when the
    /// pipeline starts.
    pub partitions: u32,
    /// The topics it owns.
    pub topics: Vec<TopicSpec>,
}

/// When the events of a stage's results happened, and how far rows can be out of their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTime {
    /// The column of the results that says it.
    pub column: usize,
    /// How much later than a newer one a row can still come.
    pub out_of_orderness: Micros,
    /// After how long without rows nobody waits for the stage any more.
    pub idle_after: Option<Duration>,
}

/// What a stage does, ready to run.
#[derive(Clone)]
pub enum Work {
    /// It brings rows in.
    Source(config::Source),
    /// It transforms rows; the query is under the stage's contract.
    Sql(Query),
    /// It takes rows out.
    Sink(config::Sink),
}

impl Topology {
    /// Puts the stages of a pipeline together, or says all that keeps them from fitting, in the order of the file.
    pub fn build(pipeline: &Pipeline, engine: &Engine) -> Result<Topology, Vec<Fault>> {
        build::build(pipeline, &config::Holes::new(), engine)
    }

    /// Puts together what is there of a pipeline and says all that is wrong with it: what reading it found as well as
    /// what does not fit. Nothing is held against a stage for the faults of another.
    pub fn of_draft(draft: Draft, engine: &Engine) -> Result<(Pipeline, Topology), Faulty> {
        let Draft { pipeline, mut faults, holes, sound } = draft;
        let built = if sound { build::build(&pipeline, &holes, engine) } else { Err(Vec::new()) };
        match built {
            Ok(topology) if faults.is_empty() => return Ok((pipeline, topology)),
            Ok(_) => {}
            Err(more) => faults.extend(more),
        }
        let faults = config::tidy(&pipeline.text, faults);
        Err(Faulty { file: pipeline.file, text: pipeline.text, faults })
    }

    /// The stage of that name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| *stage.name == *name).map(Arc::as_ref)
    }

    /// The stages that consume the results of the stage of that name.
    pub fn consumers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Stage> {
        self.stages.iter().map(Arc::as_ref).filter(move |stage| stage.from.iter().any(|from| **from == *name))
    }
}

impl Stage {
    /// Whether its results are those of windows that have closed.
    pub fn is_windowed(&self) -> bool {
        matches!(&self.work, Work::Sql(query) if query.is_windowed())
    }

    /// Whether it keeps rows from batch to batch.
    pub fn has_state(&self) -> bool {
        matches!(&self.work, Work::Sql(query) if query.has_state())
    }

    /// The columns that tell results apart that replace one another; `None` where none is ever replaced. The last column of the
    /// results says which are deleted then.
    pub fn identity(&self) -> Option<&[usize]> {
        match &self.work {
            Work::Sql(query) => query.identity(),
            Work::Source(_) | Work::Sink(_) => None,
        }
    }

    /// The topic of a channel of it.
    pub fn topic(&self, channel: Channel) -> Topic {
        Topic::of(&self.full_name, channel)
    }

    /// The topic of its results.
    pub fn results(&self) -> Topic {
        self.topic(Channel::Results)
    }

    /// Its consumer group.
    pub fn group(&self) -> Group {
        let prefix = self.full_name.strip_suffix(&*self.name).unwrap_or_default();
        let predecessors = self.from.iter().map(|from| Topic::of(&format!("{prefix}{from}"), Channel::Results));
        Group {
            name: Arc::clone(&self.full_name),
            inputs: predecessors.chain(self.reads()).collect(),
            checkpoint: self.topic(Channel::Checkpoint),
            tasks: self.tasks,
        }
    }
}

/// The topics that a stage owns. Only results are partitioned by key; every other topic has a partition for each task.
/// A dead letter stays until somebody deals with it.
fn topics(
    full_name: &str,
    counts: partitions::Counts,
    retention: config::Retention,
    has_state: bool,
) -> Vec<TopicSpec> {
    let retained = Cleanup::Delete { age: retention.age, bytes: retention.bytes };
    let forever = Cleanup::Delete { age: None, bytes: None };
    let channels = [
        (Channel::Results, counts.partitions, retained),
        (Channel::Events, counts.tasks, retained),
        (Channel::Commands, counts.tasks, retained),
        (Channel::DeadLetters, counts.tasks, forever),
        // Its own tasks let go of what they no longer need. Tasks are shared out by the checkpoints, which come last.
        (Channel::State, if has_state { counts.tasks } else { 0 }, forever),
        (Channel::Checkpoint, counts.tasks, Cleanup::KeepLast),
    ];
    let topics = channels.into_iter().filter(|(_, partitions, _)| *partitions > 0);
    topics
        .map(|(channel, partitions, cleanup)| TopicSpec { topic: Topic::of(full_name, channel), partitions, cleanup })
        .collect()
}
