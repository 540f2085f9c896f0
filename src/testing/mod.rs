//! A pipeline's own tests: given rows for some stages, what others make of them, on a bus in memory.

mod difference;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::arrow::record_batch::RecordBatch;
use serde_json::Value;

use crate::bus::memory::Memory;
use crate::bus::{self, Bus as _, Change, Channel, Cleanup, Commit, Group, Limit, Log, Topic, TopicSpec};
use crate::checkpoint::Checkpoint;
use crate::codec::{self, Decoder as _, RawRows, json};
use crate::config::{Row, Test};
use crate::failure::DeadLetter;
use crate::fidelity::Counts;
use crate::operator::DELETED;
use crate::stage::{self, Options, Worker, is_fact};
use crate::telemetry::Registry;
use crate::topology::{Stage, Topology};

/// How much one read takes.
const READ: Limit = Limit { rows: 1 << 16, bytes: 64 << 20 };

/// How a test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As expected.
    Passed,
    /// Not as expected; what differs, line by line.
    Differs(String),
}

/// Why a test could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pipeline has no stage of that name.
    #[error("the pipeline has no stage {0}")]
    UnknownStage(String),
    /// A row that is given or expected is not one under its stage's contract.
    #[error("row {row} of {stage} is none that it could publish: {message}")]
    Row {
        /// The stage.
        stage: Arc<str>,
        /// The number of the row in the test, from 1.
        row: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The bus in memory failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The stages failed.
    #[error(transparent)]
    Stage(#[from] stage::Error),
    /// Rows could not be published.
    #[error(transparent)]
    Publish(#[from] stage::TaskError),
    /// Rows could not be encoded.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// A contract has a column that rows of a test cannot say.
    #[error(transparent)]
    Format(#[from] json::Unsupported),
    /// What a stage published is not JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Runs one test of a pipeline.
pub async fn run(test: &Test, topology: &Arc<Topology>) -> Result<Outcome, Error> {
    let bus = Arc::new(Memory::new());
    let subject = stage(topology, &test.stage.value)?;
    for topic in topology.stages.iter().flat_map(|stage| [stage.reads(), stage.writes()]).flatten() {
        let cleanup = Cleanup::Delete { age: None, bytes: None };
        bus.declare(&[TopicSpec { topic, partitions: 1, cleanup }]).await?;
    }
    let given: BTreeSet<&str> = test.given.iter().map(|(name, _)| name.value.as_str()).collect();
    for (name, rows) in &test.given {
        publish(bus.as_ref(), stage(topology, &name.value)?, rows).await?;
    }
    let options = Options { stages: between(topology, subject, &given), ..Options::default() };
    if !options.stages.is_empty() {
        let registry = Arc::new(Registry::default());
        Worker::start(bus.clone(), topology.clone(), registry, options).await?.finished().await?;
    }
    let mut differences = String::new();
    if let Some(expected) = &test.expect {
        let found = results(bus.as_ref(), subject).await?;
        let expected = json::rows_to_text(&decode(subject, expected)?)?;
        let expected = expected.iter().map(|row| serde_json::from_slice(row)).collect::<Result<Vec<Value>, _>>()?;
        differences += &difference::of("results", &expected, &found);
    }
    if let Some(expected) = &test.expect_events {
        let found = events(bus.as_ref(), subject).await?;
        differences += &difference::of_named("events", expected, &found);
    }
    if let Some(expected) = &test.expect_dead_letters {
        let found = dead_letters(bus.as_ref(), subject).await?;
        differences += &difference::of_named("dead letters", expected, &found);
    }
    Ok(if differences.is_empty() { Outcome::Passed } else { Outcome::Differs(differences) })
}

fn stage<'a>(topology: &'a Topology, name: &str) -> Result<&'a Stage, Error> {
    topology.stage(name).ok_or_else(|| Error::UnknownStage(name.to_owned()))
}

/// The stages that make the subject's results of what is given: the subject and, upstream, all up to the given ones.
fn between(topology: &Topology, subject: &Stage, given: &BTreeSet<&str>) -> Vec<String> {
    let mut needed = BTreeSet::new();
    let mut open = vec![subject.name.clone()];
    while let Some(name) = open.pop() {
        let Some(stage) = topology.stage(&name) else { continue };
        if given.contains(&*name) || stage.from.is_empty() || !needed.insert(name.to_string()) {
            continue;
        }
        open.extend(stage.from.iter().cloned());
    }
    needed.into_iter().collect()
}

/// Publishes rows as the stage itself would.
async fn publish(bus: &Memory, stage: &Stage, rows: &[Row]) -> Result<(), Error> {
    let batch = decode(stage, rows)?;
    bus.declare(&stage.topics).await?;
    let group = Group { inputs: Vec::new(), ..stage.group() };
    let Change::Given(mut lease) = bus.join(group).await?.changed().await? else { return Ok(()) };
    let results = stage::results_of(stage, batch.clone(), bus.max_record_bytes())?;
    let rows = batch.num_rows() as u64;
    let counts = Counts { rows_in: rows, rows_out: rows, ..Counts::default() };
    let checkpoint = Checkpoint { counts, ..Checkpoint::default() }.encode().map_err(stage::TaskError::from)?;
    lease.commit(Commit { results, checkpoint, ..Commit::default() }).await?;
    Ok(())
}

/// Rows of a test under a stage's contract.
fn decode(stage: &Stage, rows: &[Row]) -> Result<RecordBatch, Error> {
    let mut raw = RawRows::default();
    let mut text = Vec::new();
    for row in rows {
        let start = text.len() as u32;
        let mut values = row.values.clone();
        if stage.identity().is_some() {
            values.entry(DELETED).or_insert(Value::from(false));
        }
        serde_json::to_writer(&mut text, &values)?;
        raw.rows.push(start..text.len() as u32);
        text.push(b'\n');
    }
    raw.bytes = text.into();
    let decoded = json::Decoder::new(stage.schema.clone())?.decode(&raw);
    match decoded.rejects.into_iter().next() {
        None => Ok(decoded.batch),
        Some(reject) => Err(Error::Row { stage: stage.name.clone(), row: reject.row + 1, message: reject.message }),
    }
}

async fn messages(bus: &Memory, topic: Topic) -> Result<Vec<bus::Message>, Error> {
    let mut messages = Vec::new();
    for (number, extent) in (0..).zip(bus.extents(&topic).await?) {
        let mut next = extent.start;
        while next < extent.end {
            let read = bus.read(&topic.partition(number), next, READ, Duration::ZERO).await?;
            let Some(last) = read.last() else { break };
            next = last.offset + 1;
            messages.extend(read);
        }
    }
    Ok(messages)
}

async fn results(bus: &Memory, stage: &Stage) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    for message in messages(bus, stage.results()).await? {
        if stage::has_no_rows(&message.record) {
            continue;
        }
        match &message.record.batch {
            Some(batch) => {
                for row in json::rows_to_text(batch)? {
                    values.push(serde_json::from_slice(&row)?);
                }
            }
            None => values.push(serde_json::from_slice(stage::row_of(&message.record))?),
        }
    }
    Ok(values)
}

async fn events(bus: &Memory, stage: &Stage) -> Result<Vec<Value>, Error> {
    let prefix = format!("{}.", stage.full_name);
    let mut values = Vec::new();
    for message in messages(bus, Topic::of(&stage.full_name, Channel::Events)).await? {
        let mut event: Value = serde_json::from_slice(message.record.payload())?;
        if event.get("type").and_then(Value::as_str).is_some_and(is_fact) {
            continue;
        }
        // A test names an event as the pipeline does.
        if let Some(kind) = event.get_mut("type")
            && let Some(name) = kind.as_str().and_then(|kind| kind.strip_prefix(&prefix)).map(str::to_owned)
        {
            *kind = Value::from(name);
        }
        values.push(event);
    }
    Ok(values)
}

async fn dead_letters(bus: &Memory, stage: &Stage) -> Result<Vec<Value>, Error> {
    let messages = messages(bus, Topic::of(&stage.full_name, Channel::DeadLetters)).await?;
    let letters = messages.iter().filter_map(DeadLetter::from_message);
    Ok(letters
        .map(|letter| {
            let row = codec::arrow::decode(letter.original.value.unwrap_or_default())
                .ok()
                .and_then(|batch| json::rows_to_values(&batch).ok()?.into_iter().next());
            serde_json::json!({ "class": letter.class.as_str(), "message": letter.message, "row": row })
        })
        .collect())
}
