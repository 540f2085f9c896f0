//! Stages to a checked graph: who feeds whom, in how many partitions, through which topics, under which contracts.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::bus::{Group, Topic, TopicSpec};
use crate::config;
use crate::sql::Query;

/// A pipeline whose stages fit each other.
pub struct Topology {
    /// `<company>.<namespace>`
    pub prefix: Arc<str>,
    /// Its stages, each after those that feed it.
    pub stages: Vec<Stage>,
}

/// A stage in its place.
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
    /// Columns of `schema` that make up the key, in order; empty where rows stay in their partition.
    pub key: Vec<usize>,
    /// The column of `schema` with the event time.
    pub event_time: Option<usize>,
    /// Its domain events: type, and the query over its own results.
    pub events: Vec<(Arc<str>, Query)>,
    /// The format of its results.
    pub format: config::Format,
    /// Number of tasks: of its predecessors' partitions; of a source, its own.
    pub tasks: u32,
    /// Number of partitions of its results; 0 for a sink.
    pub partitions: u32,
    /// The topics it owns.
    pub topics: Vec<TopicSpec>,
}

/// What a stage does, ready to run.
pub enum Work {
    /// It brings rows in.
    Source(config::Source),
    /// It transforms rows; the query is under the stage's contract.
    Sql(Query),
    /// It takes rows out.
    Sink(config::Sink),
}

impl Stage {
    /// The topic of its results.
    pub fn results(&self) -> Topic {
        Topic::of(&self.full_name, crate::bus::Channel::Results)
    }

    /// Its consumer group.
    pub fn group(&self) -> Group {
        todo!()
    }
}
