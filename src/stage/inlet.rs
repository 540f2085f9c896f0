//! The near side of a task: polls what is next and decodes it into batches; what does not decode leaves here.

use std::collections::{BTreeSet, HashMap};
use std::iter;
use std::ops::{Add, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::arrow::compute::concat_batches;
use ::arrow::datatypes::SchemaRef;
use ::arrow::record_batch::RecordBatch;

use crate::bus::{self, Lease, Limit, Message, Micros, Record, Topic};
use crate::checkpoint::{Checkpoint, Received};
use crate::codec::{self, Decoded, Decoder, RawRows, arrow, csv, json};
use crate::config;
use crate::connector::nexmark::{Generated, Nexmark};
use crate::connector::{self, Block, Source};
use crate::failure::{Class, DeadLetter, Reject, narrow};
use crate::fidelity::{Minute, Said, Sequences, Status};
use crate::stage::TaskError;
use crate::stage::origins::{Origins, Rows, SourceRows, dead_message, relative_name};
use crate::stage::others::OthersInlet;
use crate::stage::owner::{DELETED_ROW, Owner, SENT, TASK, WATERMARK, has_no_rows, row_of};
use crate::stage::trace::Traces;
use crate::time_of_day::now;

/// How much is polled at most: enough that a commit of it costs little per row, and little enough that a batch in each stage
/// of a pipeline fits in memory many times over.
pub(super) const LIMIT: Limit = Limit { rows: 1 << 15, bytes: 4 << 20 };
/// How much is polled at a time of messages, of which a commit takes in more: little enough that it stays in the caches of a
/// processor until it is encoded.
pub(super) const STEP: Limit = Limit { bytes: 1 << 20, ..LIMIT };
/// How much a commit takes in where more than one poll is in it.
pub(super) const COMMIT: Limit = Limit { bytes: 16 << 20, ..LIMIT };

/// What a poll gave, undecoded.
pub(super) enum Polled {
    /// Rows of a source.
    Block(Block),
    /// Messages of the predecessors, or of others.
    Messages(Vec<Message>),
    /// Rows that a source makes up.
    Rows(RecordBatch),
    /// Nothing now.
    Idle,
    /// Nothing any more.
    Finished,
    /// Nothing, which those behind the task are to know.
    Said(Status),
}

impl Polled {
    /// Rows, as whoever published or read them counted, and bytes of payload.
    pub fn size(&self) -> Size {
        match self {
            Polled::Block(block) => Size { rows: block.rows.len(), bytes: block.rows.bytes.len() },
            Polled::Messages(messages) => messages.iter().fold(Size::default(), |size, Message { record, .. }| {
                size + Size { rows: record.rows as usize, bytes: record.payload().len() }
            }),
            Polled::Rows(rows) => Size { rows: rows.num_rows(), bytes: arrow::size_bytes(rows) },
            Polled::Idle | Polled::Finished | Polled::Said(_) => Size::default(),
        }
    }

    /// Whether there is something to be dealt with.
    pub fn has_rows(&self) -> bool {
        matches!(self, Polled::Block(_) | Polled::Messages(_) | Polled::Rows(_))
    }

    /// Whether that size of it is so much that there is likely to be more.
    pub fn is_full(&self, size: Size) -> bool {
        let limit = match self {
            Polled::Messages(_) => STEP,
            _ => LIMIT,
        };
        size.rows >= limit.rows / 2 || size.bytes >= limit.bytes / 2
    }
}

/// How much was polled.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    pub rows: usize,
    pub bytes: usize,
}

impl Size {
    pub fn fits(self, limit: Limit) -> bool {
        self.rows <= limit.rows && self.bytes <= limit.bytes
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
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
    /// How many of them the owner of their topic did not publish.
    pub foreign: u64,
    /// Rows that predecessors say they had published before them and that have not come, by the number of the predecessor and the
    /// minute; if negative, those that have come again.
    pub missing: Vec<(usize, Minute, i64)>,
}

impl Arrived {
    /// No rows with these columns, which those behind the task are to know.
    fn nothing(schema: &SchemaRef, status: Status) -> Self {
        let rows = vec![Rows::none(0, schema, (0, Said { watermark: status.at_no_time(), run: 0 }))];
        Self { rows, since: now(), ..Self::default() }
    }
}

/// Where a task's rows come from.
pub(super) enum Inlet {
    /// A source connector.
    Source(SourceInlet),
    /// A source that makes rows up.
    Generator(Box<GeneratorInlet>),
    /// The results of predecessors.
    Topics(TopicInlet),
    /// A topic of others.
    Others(OthersInlet),
}

/// Rows from a source connector.
pub(super) struct SourceInlet {
    /// The stage, for dead letters.
    pub stage: Arc<str>,
    /// The connector.
    pub source: Box<dyn Source>,
    /// What its rows are.
    pub spec: config::LineSource,
    /// The contract.
    pub schema: SchemaRef,
    /// The folder that names of files are told relative to.
    pub dir: PathBuf,
    /// How many rows the task has taken in so far, ever.
    pub taken: u64,
    /// The decoder of the rows under a header line; another file can have another one.
    pub decoder: Option<(Option<bytes::Bytes>, Box<dyn Decoder>)>,
}

/// Rows that a source makes up.
pub(super) struct GeneratorInlet {
    /// The full name of the stage.
    pub stage: Arc<str>,
    /// The number of the task.
    pub task: u32,
    /// What makes them up.
    pub source: Nexmark,
    /// Their columns.
    pub schema: SchemaRef,
    /// How many rows the task has taken in so far, ever.
    pub taken: u64,
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
    /// What decodes messages of a row each; `None` where the contract has a column that JSON cannot hold.
    pub decoder: Option<Box<dyn Decoder>>,
    /// The predecessor, who alone writes its topic.
    pub owner: Owner,
    /// Whether it says anything of what comes behind its messages.
    pub is_heard: bool,
    /// The column with the event time of its rows.
    pub time: Option<usize>,
    /// What has come from its tasks.
    pub sequences: Sequences,
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
                let messages = lease.poll(STEP, wait).await?;
                Ok(if messages.is_empty() { Polled::Idle } else { Polled::Messages(messages) })
            }
            Inlet::Others(inlet) => inlet.poll(lease, wait).await,
            Inlet::Generator(inlet) => Ok(match inlet.source.poll(LIMIT, wait).await? {
                Generated::Rows(rows) => Polled::Rows(rows),
                Generated::Idle => Polled::Idle,
                Generated::Finished => Polled::Finished,
            }),
        }
    }

    /// The rows of what was polled.
    pub fn decode(&mut self, polled: Polled) -> Result<Arrived, TaskError> {
        match (self, polled) {
            (Inlet::Source(inlet), Polled::Block(block)) => inlet.decode(block),
            (Inlet::Topics(inlet), Polled::Messages(messages)) => inlet.decode(messages),
            (Inlet::Others(inlet), Polled::Messages(messages)) => inlet.decode(messages),
            (Inlet::Generator(inlet), Polled::Rows(rows)) => Ok(inlet.arrived(rows)),
            (Inlet::Generator(inlet), Polled::Said(status)) => Ok(Arrived::nothing(&inlet.schema, status)),
            (Inlet::Source(inlet), Polled::Said(status)) => Ok(Arrived::nothing(&inlet.schema, status)),
            (Inlet::Others(inlet), Polled::Said(status)) => Ok(Arrived::nothing(inlet.schema(), status)),
            _ => Ok(Arrived::default()),
        }
    }

    /// Whether rows come from outside the pipeline.
    pub fn is_source(&self) -> bool {
        matches!(self, Inlet::Source(_) | Inlet::Generator(_) | Inlet::Others(_))
    }

    /// Goes to where a commit left a source.
    pub async fn resume(&mut self, committed: &Checkpoint) -> Result<(), TaskError> {
        match self {
            Inlet::Source(inlet) => {
                inlet.taken = committed.counts.rows_in;
                Ok(inlet.source.resume(committed.source.clone()).await?)
            }
            Inlet::Generator(inlet) => {
                inlet.taken = committed.counts.rows_in;
                Ok(inlet.source.resume(committed.source.clone())?)
            }
            Inlet::Others(inlet) => inlet.resume(committed).await,
            Inlet::Topics(inlet) => {
                inlet.inputs.iter_mut().for_each(|input| input.resume(committed));
                Ok(())
            }
        }
    }

    /// What has come from the predecessors, for a checkpoint.
    pub fn received(&self) -> Vec<Received> {
        match self {
            Inlet::Topics(inlet) => inlet.inputs.iter().map(TopicInput::received).collect(),
            Inlet::Source(_) | Inlet::Generator(_) | Inlet::Others(_) => Vec::new(),
        }
    }

    /// How much of its input a source has read, where that is known.
    pub fn input(&self) -> Option<connector::InputBytes> {
        match self {
            Inlet::Source(inlet) => inlet.source.input(),
            Inlet::Generator(_) | Inlet::Topics(_) | Inlet::Others(_) => None,
        }
    }

    /// The position of the source connector, where there is one.
    pub fn position(&self) -> Option<connector::Position> {
        match self {
            Inlet::Source(inlet) => Some(inlet.source.position()),
            Inlet::Generator(inlet) => Some(inlet.source.position()),
            Inlet::Topics(_) | Inlet::Others(_) => None,
        }
    }
}

impl GeneratorInlet {
    fn arrived(&mut self, batch: RecordBatch) -> Arrived {
        let origins = Origins::Made { stage: self.stage.clone(), task: self.task, first: self.taken };
        self.taken += batch.num_rows() as u64;
        Arrived { rows: vec![Rows { input: 0, batch, origins, watermark: None }], since: now(), ..Arrived::default() }
    }
}

impl SourceInlet {
    fn decode(&mut self, block: Block) -> Result<Arrived, TaskError> {
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
        let source = SourceRows { name: relative_name(&block.origin, &self.dir), block, first: self.taken };
        self.taken += source.block.rows.len() as u64;
        let dead_letters = rejects.into_iter().map(|reject| source.dead_letter(&self.stage, reject)).collect();
        let origins = Origins::Source { rows: source, kept, traces: Traces::default() };
        Ok(Arrived {
            rows: vec![Rows { input: 0, batch: decoded.batch, origins, watermark: None }],
            dead_letters,
            since,
            ..Arrived::default()
        })
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

fn line_decoder(spec: &config::LineSource, schema: &SchemaRef, header: &[u8]) -> Result<Box<dyn Decoder>, TaskError> {
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
    fn decode(&mut self, messages: Vec<Message>) -> Result<Arrived, TaskError> {
        let mut arrived = Arrived {
            since: messages.iter().map(|message| message.record.arrived).min().unwrap_or(0),
            ..Arrived::default()
        };
        let mut messages = messages.into_iter();
        while let Some(message) = messages.next() {
            let unknown = || bus::Error::UnknownTopic(message.partition.topic.clone());
            let number = self.number(&message).ok_or_else(unknown)?;
            let input = self.inputs.get_mut(number).ok_or_else(unknown)?;
            if !input.owner.published(&message.record) {
                arrived.foreign += u64::from(message.record.rows);
                let reject = input.owner.refuse(&self.stage, &message);
                arrived.dead_letters.push(dead_message(&self.stage, &message, reject));
                continue;
            }
            let mut missing = counted(&mut input.sequences, &self.stage, &input.owner, &message);
            let is_heard = input.is_heard;
            let said = |record: &Record| if is_heard { said(record) } else { None };
            let mut watermark = said(&message.record);
            if let Some(said) = watermark.filter(|_| has_no_rows(&message.record)) {
                arrived.rows.push(Rows::none(number, &input.schema, said));
                if missing != 0 {
                    let time = Some(said.1.watermark.time).filter(|time| *time > Micros::MIN);
                    arrived.missing.push((number, time.map_or(Minute::NONE, Minute::of), missing));
                }
                continue;
            }
            let (batch, origins) = match &mut input.decoder {
                Some(decoder) if is_json(&message) => {
                    let (by_topic, owner) = (&self.by_topic, &input.owner);
                    let (sequences, stage) = (&mut input.sequences, &self.stage);
                    // What is said of the rows behind a message is not said of those with it.
                    let mut has_more = watermark.is_none();
                    let is_alike = |next: &&Message| {
                        let is_alike = has_more
                            && is_json(next)
                            && by_topic.get(&next.partition.topic) == Some(&number)
                            && owner.published(&next.record);
                        if is_alike {
                            watermark = said(&next.record);
                            has_more = watermark.is_none();
                            missing += counted(sequences, stage, owner, next);
                        }
                        is_alike
                    };
                    let more = messages.as_slice().iter().take_while(is_alike).count();
                    let run = iter::once(message).chain(messages.by_ref().take(more)).collect();
                    decode_lines(&self.stage, decoder.as_mut(), run, &mut arrived.dead_letters)
                }
                _ => match batch_of(&message) {
                    Ok(batch) => input.decode_batch(&self.stage, batch, message, &mut arrived.dead_letters)?,
                    Err(error) => {
                        let reject = Reject { row: 0, class: Class::Decode, message: error.to_string() };
                        arrived.dead_letters.push(dead_message(&self.stage, &message, reject));
                        continue;
                    }
                },
            };
            if missing != 0 {
                let time = input.time.filter(|_| batch.num_rows() > 0);
                let time = time.and_then(|time| codec::time::micros_at(batch.columns().get(time)?, 0));
                arrived.missing.push((number, time.map_or(Minute::NONE, Minute::of), missing));
            }
            arrived.rows.push(Rows { input: number, batch, origins, watermark });
        }
        Ok(arrived)
    }

    fn number(&self, message: &Message) -> Option<usize> {
        self.by_topic.get(&message.partition.topic).copied()
    }
}

impl TopicInput {
    /// Goes to where a commit left it; one that is new is whole if its partition is read from its first message on.
    fn resume(&mut self, committed: &Checkpoint) {
        let known = committed.received.iter().find(|received| received.from == self.owner.name());
        self.sequences = match known {
            Some(Received { whole, tasks, .. }) => Sequences::of(*whole, tasks.iter().copied()),
            None => {
                let mut starts =
                    committed.positions.iter().filter(|(partition, _)| partition.topic == *self.owner.topic());
                Sequences::of(starts.all(|(_, next)| *next == 0), [])
            }
        };
    }

    fn received(&self) -> Received {
        let Self { owner, sequences, .. } = self;
        Received { from: owner.name().to_owned(), whole: sequences.is_whole, tasks: sequences.by_task().collect() }
    }

    /// The batch of a message under the contract, which can have been edited since it was published: rows that its types
    /// cannot hold become dead letters. Other columns are another matter, and refused.
    fn decode_batch(
        &self,
        stage: &Arc<str>,
        batch: RecordBatch,
        message: Message,
        dead_letters: &mut Vec<DeadLetter>,
    ) -> Result<(RecordBatch, Origins), TaskError> {
        let schema = &self.schema;
        if batch.schema_ref() == schema {
            return Ok((batch, Origins::message(message, None)));
        }
        let names =
            |schema: &SchemaRef| schema.fields().iter().map(|field| field.name().clone()).collect::<BTreeSet<_>>();
        if names(batch.schema_ref()) != names(schema) {
            let list = |schema| names(schema).into_iter().collect::<Vec<_>>().join(", ");
            let (found, wanted) = (list(batch.schema_ref()), list(schema));
            return Err(TaskError::Contract { partition: message.partition, offset: message.offset, found, wanted });
        }
        let (mut good, mut kept) = (Vec::new(), Vec::new());
        let whole = Origins::message(message, None);
        let pieces = narrow(0..batch.num_rows(), &mut |rows: Range<usize>| {
            arrow::conform(batch.slice(rows.start, rows.len()), schema)
        });
        for (rows, piece) in pieces {
            match piece {
                Ok(piece) => {
                    kept.extend(rows.start as u32..rows.end as u32);
                    good.push(piece);
                }
                Err(error) => {
                    let reject = Reject { row: rows.start, class: Class::Contract, message: error.to_string() };
                    let time = self.time.and_then(|time| batch.column_by_name(schema.fields().get(time)?.name()));
                    let event_time = time.and_then(|time| codec::time::micros_at(time, rows.start));
                    dead_letters.push(DeadLetter { event_time, ..whole.dead_letter(stage, &batch, reject) });
                }
            }
        }
        let Origins::Message { message, .. } = whole else { return Ok((batch, whole)) };
        Ok((concat_batches(schema, &good)?, Origins::message(message, Some(kept))))
    }
}

/// How many rows are missing before what comes behind a message; if negative, how many have come again.
fn counted(sequences: &mut Sequences, stage: &str, owner: &Owner, message: &Message) -> i64 {
    let Message { partition, offset, record } = message;
    let number = |name| std::str::from_utf8(record.headers.get(name)?).ok()?.parse::<u64>().ok();
    let task = number(TASK).unwrap_or(0) as u32;
    let missing = sequences.take(task, u64::from(record.rows), number(SENT));
    let rows = missing.unsigned_abs();
    match missing {
        0 => {}
        1.. => tracing::error!(
            %stage, from = %owner.name(), task, %partition, offset, rows,
            "rows are lost: the task that published them counts more up to this offset than have come"
        ),
        _ => tracing::error!(
            %stage, from = %owner.name(), task, %partition, offset, rows,
            "rows have come more than once: the task that published them counts fewer up to this offset"
        ),
    }
    missing
}

/// What a message says of those that its task publishes behind it.
fn said(record: &Record) -> Option<(u32, Said)> {
    let text = |name| std::str::from_utf8(record.headers.get(name)?).ok();
    let watermark = text(WATERMARK)?.parse().ok()?;
    Some((text(TASK)?.parse().ok()?, watermark))
}

/// Whether a message is one row; what it says of itself counts, since a stage's format can be edited.
pub(super) fn is_json(message: &Message) -> bool {
    let headers = &message.record.headers;
    headers.get("content-type").is_some_and(|value| value.ends_with(b"json")) || headers.get(DELETED_ROW).is_some()
}

/// The batch of a message, decoded only where it is not in memory.
fn batch_of(message: &Message) -> Result<RecordBatch, arrow::Error> {
    match &message.record.batch {
        Some(batch) => Ok(batch.clone()),
        None => arrow::decode(message.record.value.clone().unwrap_or_default()),
    }
}

/// Messages of one row each, as one batch.
fn decode_lines(
    stage: &Arc<str>,
    decoder: &mut dyn Decoder,
    run: Vec<Message>,
    dead_letters: &mut Vec<DeadLetter>,
) -> (RecordBatch, Origins) {
    let raw = RawRows::of(run.iter().map(|message| row_of(&message.record)));
    let Decoded { batch, kept, rejects } = decoder.decode(&raw);
    let messages = without_rejects(stage, run, rejects, dead_letters);
    debug_assert_eq!(kept.map_or(batch.num_rows(), |kept| kept.len()), messages.len());
    (batch, Origins::Messages(messages))
}

/// The messages that became rows; the others are dead letters.
pub(super) fn without_rejects(
    stage: &Arc<str>,
    mut messages: Vec<Message>,
    rejects: Vec<Reject>,
    dead_letters: &mut Vec<DeadLetter>,
) -> Vec<Message> {
    let mut rejects = rejects.into_iter().peekable();
    let mut row = 0;
    messages.retain(|message| {
        let reject = rejects.next_if(|reject| reject.row == row);
        row += 1;
        let is_kept = reject.is_none();
        dead_letters.extend(reject.map(|reject| dead_message(stage, message, reject)));
        is_kept
    });
    messages
}
