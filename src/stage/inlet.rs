//! The near side of a task: polls what is next and decodes it into batches; what does not decode leaves here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::arrow::datatypes::SchemaRef;
use ::arrow::record_batch::RecordBatch;

use crate::bus::{Lease, Limit, Message, Micros, Topic};
use crate::codec::{Decoded, Decoder, RawRows, arrow, csv, json};
use crate::config;
use crate::connector::{self, Block, Source};
use crate::failure::{Class, DeadLetter, Reject};
use crate::stage::TaskError;
use crate::stage::origins::{Origins, Rows, dead_message, dead_row, relative_name};

/// How much one step of a task takes in at most: enough that a commit costs little per row, and little enough that a
/// batch in each stage of a pipeline fits in memory many times over.
const LIMIT: Limit = Limit { rows: 1 << 15, bytes: 4 << 20 };

/// What a poll gave, undecoded.
pub(super) enum Polled {
    /// Rows of a source.
    Block(Block),
    /// Messages of the predecessors.
    Messages(Vec<Message>),
    /// Nothing now.
    Idle,
    /// Nothing any more.
    Finished,
}

impl Polled {
    /// The number of rows, as whoever published or read them counted.
    pub fn rows(&self) -> u64 {
        match self {
            Polled::Block(block) => block.rows.len() as u64,
            Polled::Messages(messages) => messages.iter().map(|message| u64::from(message.record.rows)).sum(),
            Polled::Idle | Polled::Finished => 0,
        }
    }
}

/// What decoding gave.
#[derive(Default)]
pub(super) struct Arrived {
    /// Rows in their order. A batch stays a batch on its way through the pipeline, so that offsets do not depend on when
    /// a task polled.
    pub rows: Vec<Rows>,
    /// What did not decode.
    pub dead_letters: Vec<DeadLetter>,
    /// When the oldest of them arrived in the pipeline.
    pub since: Micros,
}

/// Where a task's rows come from.
pub(super) enum Inlet {
    /// A source connector.
    Source(SourceInlet),
    /// The results of predecessors.
    Topics(TopicInlet),
}

/// Rows from a source connector.
pub(super) struct SourceInlet {
    /// The stage, for dead letters.
    pub stage: Arc<str>,
    /// The connector.
    pub source: Box<dyn Source>,
    /// What its rows are.
    pub spec: config::Source,
    /// The contract.
    pub schema: SchemaRef,
    /// The folder that names of files are told relative to.
    pub dir: PathBuf,
    /// The decoder of the rows under a header line; another file can have another one.
    pub decoder: Option<(Option<bytes::Bytes>, Box<dyn Decoder>)>,
}

/// Rows from the results of predecessors.
pub(super) struct TopicInlet {
    /// The stage, for dead letters.
    pub stage: Arc<str>,
    /// The predecessors' topics, in the order of `from`.
    pub inputs: Vec<TopicInput>,
    /// The number of an input by its topic.
    pub by_topic: HashMap<Topic, usize>,
}

/// The results of one predecessor.
pub(super) struct TopicInput {
    /// The contract.
    pub schema: SchemaRef,
    /// What decodes messages of a row each; `None` where a message is a batch.
    pub decoder: Option<Box<dyn Decoder>>,
}

impl Inlet {
    /// What is next, waiting up to `wait` for it. Dropping the future before it is ready takes nothing.
    pub async fn poll(&mut self, lease: &mut dyn Lease, wait: Duration) -> Result<Polled, TaskError> {
        match self {
            Inlet::Source(inlet) => Ok(match inlet.source.poll(LIMIT, wait).await? {
                connector::Polled::Rows(block) => Polled::Block(block),
                connector::Polled::Idle => Polled::Idle,
                connector::Polled::Finished => Polled::Finished,
            }),
            Inlet::Topics(_) => {
                let messages = lease.poll(LIMIT, wait).await?;
                Ok(if messages.is_empty() { Polled::Idle } else { Polled::Messages(messages) })
            }
        }
    }

    /// The rows of what was polled.
    pub fn decode(&mut self, polled: Polled) -> Result<Arrived, TaskError> {
        match (self, polled) {
            (Inlet::Source(inlet), Polled::Block(block)) => inlet.decode(block),
            (Inlet::Topics(inlet), Polled::Messages(messages)) => Ok(inlet.decode(messages)),
            _ => Ok(Arrived::default()),
        }
    }

    /// Whether rows come from outside the pipeline.
    pub fn is_source(&self) -> bool {
        matches!(self, Inlet::Source(_))
    }

    /// Goes to where a commit left the source connector, where there is one.
    pub async fn resume(&mut self, position: Option<serde_json::Value>) -> Result<(), connector::Error> {
        match self {
            Inlet::Source(inlet) => inlet.source.resume(position).await,
            Inlet::Topics(_) => Ok(()),
        }
    }

    /// The position of the source connector, where there is one.
    pub fn position(&self) -> Option<serde_json::Value> {
        match self {
            Inlet::Source(inlet) => Some(inlet.source.position()),
            Inlet::Topics(_) => None,
        }
    }
}

impl SourceInlet {
    fn decode(&mut self, block: Block) -> Result<Arrived, TaskError> {
        let name = relative_name(&block.origin, &self.dir);
        let since = block.arrived;
        let decodable = without(&block.rows, &block.rejects);
        let decoded = match self.decoder(&block.header) {
            Ok(decoder) => decoder.decode(&decodable.rows),
            // The header line is a part of the input like any other: rows under one that makes no sense make none either.
            Err(TaskError::Csv(error @ (csv::Error::Header { .. } | csv::Error::Duplicate { .. }))) => {
                none_of(&decodable.rows, &self.schema, &error)
            }
            Err(error) => return Err(error),
        };
        let (kept, rejects) = decodable.restore(decoded.kept, decoded.rejects, block.rejects.clone());
        let dead_letters = rejects.into_iter().map(|reject| dead_row(&self.stage, &block, &name, reject)).collect();
        let origins = Origins::Block { block: Arc::new(block), name, kept };
        Ok(Arrived { rows: vec![Rows { input: 0, batch: decoded.batch, origins }], dead_letters, since })
    }

    fn decoder(&mut self, header: &Option<bytes::Bytes>) -> Result<&mut dyn Decoder, TaskError> {
        if self.decoder.as_ref().is_some_and(|(known, _)| known != header) {
            self.decoder = None;
        }
        let decoder = match self.decoder.take() {
            Some((_, decoder)) => decoder,
            None => line_decoder(&self.spec, &self.schema, header.as_deref().unwrap_or_default())?,
        };
        Ok(self.decoder.insert((header.clone(), decoder)).1.as_mut())
    }
}

fn line_decoder(spec: &config::Source, schema: &SchemaRef, header: &[u8]) -> Result<Box<dyn Decoder>, TaskError> {
    Ok(match spec.format {
        config::LineFormat::Ndjson => Box::new(json::Decoder::new(schema.clone())?),
        config::LineFormat::Csv => Box::new(csv::Decoder::new(schema.clone(), header, spec.null.as_deref())?),
    })
}

/// What decoding gives where nothing can be decoded.
fn none_of(rows: &RawRows, schema: &SchemaRef, error: &csv::Error) -> Decoded {
    let reject = |row| Reject { row, class: Class::Decode, message: error.to_string() };
    Decoded {
        batch: RecordBatch::new_empty(schema.clone()),
        kept: Some(Vec::new()),
        rejects: (0..rows.len()).map(reject).collect(),
    }
}

/// The rows of a block that can be decoded, and their numbers in the block where they are not all of them.
struct Decodable {
    rows: RawRows,
    numbers: Option<Vec<u32>>,
}

fn without(rows: &RawRows, rejects: &[Reject]) -> Decodable {
    if rejects.is_empty() {
        return Decodable { rows: rows.clone(), numbers: None };
    }
    let numbers: Vec<u32> = (0..rows.len())
        .filter(|row| rejects.binary_search_by_key(row, |reject| reject.row).is_err())
        .map(|row| row as u32)
        .collect();
    let ranges = numbers.iter().filter_map(|row| rows.rows.get(*row as usize).cloned()).collect();
    Decodable { rows: RawRows { bytes: rows.bytes.clone(), rows: ranges }, numbers: Some(numbers) }
}

impl Decodable {
    /// The outcome of decoding, with rows numbered as in the block again and the source's own rejects in their places.
    fn restore(
        &self,
        kept: Option<Vec<u32>>,
        mut rejects: Vec<Reject>,
        known: Vec<Reject>,
    ) -> (Option<Vec<u32>>, Vec<Reject>) {
        let Some(numbers) = &self.numbers else { return (kept, rejects) };
        let number = |row: usize| numbers.get(row).copied().unwrap_or(0);
        for reject in &mut rejects {
            reject.row = number(reject.row) as usize;
        }
        rejects.extend(known);
        rejects.sort_by_key(|reject| reject.row);
        let kept = match kept {
            Some(kept) => kept.into_iter().map(|row| number(row as usize)).collect(),
            None => numbers.clone(),
        };
        (Some(kept), rejects)
    }
}

impl TopicInlet {
    fn decode(&mut self, messages: Vec<Message>) -> Arrived {
        let mut arrived = Arrived {
            since: messages.iter().map(|message| message.record.arrived).min().unwrap_or(0),
            ..Arrived::default()
        };
        let mut messages = messages.into_iter().peekable();
        while let Some(message) = messages.next() {
            let Some(&number) = self.by_topic.get(&message.partition.topic) else { continue };
            let Some(input) = self.inputs.get_mut(number) else { continue };
            let rows = match &mut input.decoder {
                None => match open(&message, &input.schema) {
                    Ok(batch) => Some((batch, Origins::Message(message))),
                    Err(reject) => {
                        arrived.dead_letters.push(dead_message(&self.stage, &message, reject));
                        None
                    }
                },
                Some(decoder) => {
                    let mut run = vec![message];
                    while let Some(next) =
                        messages.next_if(|next| self.by_topic.get(&next.partition.topic) == Some(&number))
                    {
                        run.push(next);
                    }
                    Some(decode_lines(&self.stage, decoder.as_mut(), run, &mut arrived.dead_letters))
                }
            };
            arrived.rows.extend(rows.map(|(batch, origins)| Rows { input: number, batch, origins }));
        }
        arrived
    }
}

/// The batch of a message, under the contract it was published under.
fn open(message: &Message, schema: &SchemaRef) -> Result<RecordBatch, Reject> {
    let reject = |class, message| Reject { row: 0, class, message };
    let batch = match &message.record.batch {
        Some(batch) => batch.clone(),
        None => {
            arrow::decode(message.record.value.clone()).map_err(|error| reject(Class::Decode, error.to_string()))?
        }
    };
    arrow::conform(batch, schema).map_err(|error| reject(Class::Contract, error.to_string()))
}

/// Messages of one row each, as one batch.
fn decode_lines(
    stage: &Arc<str>,
    decoder: &mut dyn Decoder,
    run: Vec<Message>,
    dead_letters: &mut Vec<DeadLetter>,
) -> (RecordBatch, Origins) {
    let mut raw = RawRows::default();
    let mut bytes = bytes::BytesMut::new();
    for message in &run {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(&message.record.value);
        raw.rows.push(start..bytes.len() as u32);
        bytes.extend_from_slice(b"\n");
    }
    raw.bytes = bytes.freeze();
    let Decoded { batch, kept, rejects } = decoder.decode(&raw);
    let mut rejects = rejects.into_iter().peekable();
    let mut messages = Vec::with_capacity(run.len());
    for (row, message) in run.into_iter().enumerate() {
        match rejects.next_if(|reject| reject.row == row) {
            Some(reject) => dead_letters.push(dead_message(stage, &message, reject)),
            None => messages.push(message),
        }
    }
    debug_assert_eq!(kept.map_or(batch.num_rows(), |kept| kept.len()), messages.len());
    (batch, Origins::Messages(messages))
}
