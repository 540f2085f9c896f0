//! Topics of others that stages read and write: what of a message can be which column, that the topics are not the
//! pipeline's own, and what follows once it is known how many partitions they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::DataType;

use super::contract::{self, Contract};
use super::{Stage, Topology, Work};
use crate::bus::{Channel, Topic};
use crate::config::{self, Fault, Holes, Part, Pipeline, Sink, Source, Spanned};

/// Notes columns that cannot be the part of a message that they are to be.
pub(super) fn parts(contract: &Contract, columns: &[(Part, Spanned<String>)], faults: &mut Vec<Fault>) {
    let mut taken = BTreeSet::new();
    for (part, name) in columns {
        let index = match contract::column(contract, name, "this part of a message") {
            Ok(index) => index,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        if !taken.insert(index) {
            let fault = Fault::new(name.span.clone(), "a column is to be two parts of a message");
            faults.push(fault.label("the second one").help("give each a column of its own"));
        }
        let (fits, types) = fits(*part, contract.schema.field(index).data_type());
        if !fits {
            let fault = Fault::new(name.span.clone(), "the column is not of a type that this part of a message has");
            faults.push(fault.help(format!("give it the type {types}")));
        }
    }
}

/// Whether a column of that type can be that part of a message, and of which type it has to be.
fn fits(part: Part, data_type: &DataType) -> (bool, &'static str) {
    use DataType as Type;
    match part {
        Part::Key => (matches!(data_type, Type::Utf8 | Type::Binary), "`text` or `bytea`"),
        Part::Headers => (matches!(data_type, Type::Utf8), "`text`, which will have them as a JSON object"),
        Part::Timestamp => (matches!(data_type, Type::Timestamp(..)), "`timestamp`"),
        Part::Partition => (matches!(data_type, Type::Int32 | Type::Int64), "`int` or `bigint`"),
        Part::Offset => (matches!(data_type, Type::Int64), "`bigint`"),
        Part::Tombstone => (matches!(data_type, Type::Boolean), "`boolean`"),
    }
}

/// Notes what keeps a column from saying which messages are tombstones.
pub(super) fn tombstone(contract: &Contract, name: &Spanned<String>, key: &[usize], faults: &mut Vec<Fault>) {
    match contract::column(contract, name, "the tombstone") {
        Err(fault) => faults.push(fault),
        Ok(index) if key.contains(&index) => {
            faults.push(Fault::new(name.span.clone(), "a column of the key cannot say whether there is a value"));
        }
        Ok(index) if *contract.schema.field(index).data_type() != DataType::Boolean => {
            let fault = Fault::new(name.span.clone(), "the tombstone is a column that is no boolean");
            faults.push(fault.help("give it the type `boolean`, or name another column"));
        }
        Ok(_) => {}
    }
}

/// Notes where topics of others are the pipeline's own, or lead back into it.
pub(super) fn check(pipeline: &Pipeline, holes: &Holes, faults: &mut Vec<Fault>) {
    let known = |stage: &&config::Stage| !holes.get(&stage.name.value).is_some_and(|hole| hole.work);
    let stages: Vec<&config::Stage> = pipeline.stages.iter().filter(known).collect();
    let sinks = stages.iter().filter_map(|stage| written(&stage.work));
    let by_sinks: Vec<&str> = sinks.map(|topic| topic.value.as_str()).collect();
    for stage in stages {
        let (read, wrote) = (read(&stage.work), written(&stage.work));
        for topic in [read, wrote].into_iter().flatten() {
            if let Some(owner) = owner(pipeline, &topic.value) {
                let fault =
                    Fault::new(topic.span.clone(), format!("the topic is that of stage `{owner}` of this pipeline"));
                faults.push(fault.label("not a topic of others").help(match read.is_some() {
                    true => "take the stage's rows by `from`",
                    false => "a topic has one owner, who alone writes it",
                }));
            }
        }
        if let Some(topic) = read.filter(|topic| by_sinks.contains(&topic.value.as_str())) {
            let fault = Fault::new(topic.span.clone(), "this source reads what a sink of the pipeline writes");
            faults.push(fault.help("chain stages by `from`, or read and write different topics"));
        }
    }
}

fn read(work: &config::Work) -> Option<&Spanned<String>> {
    match work {
        config::Work::Source(Spanned { value: Source::Topic(source), .. }) => Some(&source.topic),
        _ => None,
    }
}

fn written(work: &config::Work) -> Option<&Spanned<String>> {
    match work {
        config::Work::Sink(Spanned { value: Sink::Topic(sink), .. }) => Some(&sink.topic),
        _ => None,
    }
}

/// The stage that owns the topic of that name.
fn owner<'a>(pipeline: &'a Pipeline, topic: &str) -> Option<&'a str> {
    let prefix = format!("{}.{}.", pipeline.company.value, pipeline.namespace.value);
    let (stage, channel) = topic.strip_prefix(&prefix)?.split_once('.')?;
    let channel = Channel::ALL.iter().any(|known| known.suffix() == channel);
    let mut names = pipeline.stages.iter().map(|it| it.name.value.as_str());
    names.find(|name| channel && *name == stage)
}

impl Stage {
    /// The topic of others that it reads.
    pub fn reads(&self) -> Option<Topic> {
        match &self.work {
            Work::Source(Source::Topic(source)) => Some(Topic::new(source.topic.value.as_str())),
            _ => None,
        }
    }

    /// The topic of others that it writes.
    pub fn writes(&self) -> Option<Topic> {
        match &self.work {
            Work::Sink(Sink::Topic(sink)) => Some(Topic::new(sink.topic.value.as_str())),
            _ => None,
        }
    }
}

impl Topology {
    /// The same, now that it is known how many partitions the topics of others have: whoever reads one has a task for each
    /// of them. Results have as many partitions as the pipeline says, whatever feeds it.
    pub fn with_partitions(&self, found: &BTreeMap<Topic, u32>) -> Topology {
        let stages = self.stages.iter().map(|stage| {
            let partitions = |topic: Option<Topic>| topic.and_then(|topic| found.get(&topic)).copied();
            match (partitions(stage.reads()), partitions(stage.writes())) {
                (None, None) => Arc::clone(stage),
                (tasks, partitions) => Arc::new(stage.resized(tasks, partitions)),
            }
        });
        Topology { prefix: Arc::clone(&self.prefix), stages: stages.collect() }
    }
}

impl Stage {
    fn resized(&self, tasks: Option<u32>, partitions: Option<u32>) -> Stage {
        let mut stage = self.clone();
        stage.partitions = partitions.unwrap_or(stage.partitions);
        if let Some(tasks) = tasks {
            stage.tasks = tasks;
            let results = stage.results();
            stage.topics.iter_mut().filter(|spec| spec.topic != results).for_each(|spec| spec.partitions = tasks);
        }
        stage
    }
}
