//! What a query keeps, on `.private.state`: with each commit what has come and gone since the last one, and now and then, a little with each
//! commit, all of it, so that what is before that is needed no longer.
//!
//! A message is a chunk of what a leaf of the query keeps, as an Arrow IPC stream in which a column with the same value
//! throughout is one run, or a part of such a stream that is too large for a message. Messages are numbered without gaps, and
//! a checkpoint says from which number to which they are its state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::arrow::array::{Array, ArrayRef, Int32Array, RunArray};
use ::arrow::compute::cast;
use ::arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Schema};
use ::arrow::error::ArrowError;
use ::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::BytesMut;

use crate::bus::{self, Bus, Channel, Limit, Log, Message, Outgoing, Record, TopicPartition};
use crate::checkpoint::{self, Checkpoint, Windows};
use crate::codec::arrow;
use crate::operator::{Chunk, Piece, State};
use crate::stage::TaskError;
use crate::stage::outlet::HEADROOM_BYTES;
use crate::time_of_day::now;
use crate::topology::{Stage, Work};

/// The number of a message.
const NUMBER: &str = "fidelio-state-number";
/// The leaf that a chunk is of.
const LEAF: &str = "fidelio-state-leaf";
/// Of a message that is a part of all that there was, the number of the first of these.
const SNAPSHOT: &str = "fidelio-state-snapshot";
/// There on a message whose chunk goes on in the next one.
const MORE: &str = "fidelio-state-more";

/// The version of the messages, and of what a checkpoint says of them.
const VERSION: u32 = 1;

/// How much is written at a time.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rows of a chunk of all that there is.
    piece_rows: usize,
    /// Bytes that are written of all that there is with a commit, at least.
    piece_bytes: u64,
    /// Bytes of messages that are left as they are, however little of them is still needed.
    slack_bytes: u64,
    /// Bytes of messages that are needed no longer before any of them is deleted.
    spare_bytes: u64,
    /// Bytes of a message, at most.
    message_bytes: usize,
}

/// How much is read at a time.
const READ: Limit = Limit { rows: 1 << 20, bytes: 16 << 20 };
/// How long what a commit has left may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The messages of a task's state.
pub(super) struct StateLog {
    bus: Arc<dyn Bus>,
    at: TopicPartition,
    sizes: Sizes,
    first: u64,
    next: u64,
    /// Bytes of the messages that are needed.
    bytes: u64,
    /// Bytes of the messages that are needed no longer, and that were not deleted.
    spare: u64,
    /// What is being written of all that there was.
    snapshot: Option<Snapshot>,
}

struct Snapshot {
    /// The number of its first message.
    first: u64,
    left: VecDeque<Piece>,
    /// Bytes that were written since it began.
    bytes: u64,
}

/// What a commit takes along.
#[derive(Default)]
pub(super) struct Changes {
    /// For the state's topic.
    pub records: Vec<Outgoing>,
    /// The number of the message before which all can be deleted once this is committed, where that is worth it.
    pub spare_before: Option<u64>,
}

impl StateLog {
    pub fn new(bus: Arc<dyn Bus>, at: TopicPartition) -> Self {
        let sizes = Sizes {
            piece_rows: 1 << 16,
            piece_bytes: 1 << 20,
            slack_bytes: 1 << 20,
            spare_bytes: 16 << 20,
            message_bytes: bus.max_record_bytes().saturating_sub(HEADROOM_BYTES).max(1),
        };
        Self { bus, at, sizes, first: 0, next: 0, bytes: 0, spare: 0, snapshot: None }
    }

    /// Where the state is once what was taken along is committed.
    pub fn saved(&self, kept: &dyn State) -> Windows {
        let (closed, keeps) = (kept.closed(), kept.keeps().to_vec());
        Windows { version: VERSION, first: self.first, next: self.next, closed, keeps }
    }

    /// What a commit takes along of the state.
    pub fn changes(&mut self, kept: &mut dyn State) -> Result<Changes, TaskError> {
        let mut changes = Changes::default();
        let fresh = kept.fresh()?;
        let mut written = 0;
        for chunk in fresh {
            written += self.put(&chunk, None, &mut changes.records)?;
        }
        self.bytes += written;
        if self.snapshot.is_none() && self.bytes > 2 * kept.bytes() as u64 + self.sizes.slack_bytes {
            let left = kept.pieces(self.sizes.piece_rows);
            self.snapshot = Some(Snapshot { first: self.next, left, bytes: 0 });
        } else if let Some(snapshot) = &mut self.snapshot {
            snapshot.bytes += written;
        }
        if let Some(snapshot) = self.snapshot.take() {
            self.go_on(snapshot, self.sizes.piece_bytes.max(2 * written), kept, &mut changes)?;
        }
        Ok(changes)
    }

    /// Writes as much of all that there was, and counts what is before it as needed no longer once that was all.
    fn go_on(
        &mut self,
        mut snapshot: Snapshot,
        enough: u64,
        kept: &dyn State,
        changes: &mut Changes,
    ) -> Result<(), TaskError> {
        let mut now = 0;
        while now < enough
            && let Some(piece) = snapshot.left.pop_front()
        {
            if let Some(chunk) = kept.still_kept(piece)? {
                now += self.put(&chunk, Some(snapshot.first), &mut changes.records)?;
            }
        }
        self.bytes += now;
        snapshot.bytes += now;
        if !snapshot.left.is_empty() {
            self.snapshot = Some(snapshot);
            return Ok(());
        }
        self.spare += self.bytes - snapshot.bytes;
        (self.first, self.bytes) = (snapshot.first, snapshot.bytes);
        if self.spare >= self.sizes.spare_bytes {
            self.spare = 0;
            changes.spare_before = Some(self.first);
        }
        Ok(())
    }

    /// Makes messages of a chunk, and gives their bytes.
    fn put(&mut self, chunk: &Chunk, snapshot: Option<u64>, to: &mut Vec<Outgoing>) -> Result<u64, TaskError> {
        let mut value = arrow::encode(&shortened(&chunk.rows)?)?;
        let bytes = value.len() as u64;
        let leaf = chunk.leaf.to_string();
        loop {
            let part = value.split_to(value.len().min(self.sizes.message_bytes));
            let number = self.next.to_string();
            let mut headers =
                vec![("content-type", arrow::CONTENT_TYPE.to_owned()), (NUMBER, number), (LEAF, leaf.clone())];
            headers.extend(snapshot.map(|first| (SNAPSHOT, first.to_string())));
            headers.extend((!value.is_empty()).then(|| (MORE, "true".to_owned())));
            let headers = headers.into_iter().collect();
            let record = Record { value: Some(part), headers, rows: 0, arrived: now(), ..Record::default() };
            to.push(Outgoing { to: self.at.clone(), record });
            self.next += 1;
            if value.is_empty() {
                return Ok(bytes);
            }
        }
    }

    /// Reads what a checkpoint says that there is.
    pub async fn restore(&mut self, saved: &Windows, kept: &mut dyn State) -> Result<(), TaskError> {
        let log: &dyn Log = self.bus.as_ref();
        let bytes = read(log, &self.at, saved, kept).await?;
        (self.first, self.next, self.bytes, self.spare, self.snapshot) = (saved.first, saved.next, bytes, 0, None);
        Ok(())
    }

    /// Lets go of the messages before the one of that number.
    pub async fn trim(&self, first: u64) -> bus::Result<()> {
        let log: &dyn Log = self.bus.as_ref();
        let offset = find(log, &self.at, first).await?;
        self.bus.trim(&self.at, offset).await
    }
}

/// Reads what a checkpoint says that there is, and gives how many bytes that were.
async fn read(log: &dyn Log, at: &TopicPartition, saved: &Windows, kept: &mut dyn State) -> Result<u64, TaskError> {
    if saved.version != VERSION {
        return Err(damaged(
            at,
            &format!("it is of version {}, and this program reads version {VERSION}", saved.version),
        ));
    }
    if saved.keeps != kept.keeps() {
        let (was, is) = (saved.keeps.join(" and "), kept.keeps().join(" and "));
        return Err(checkpoint::Error::Keeps { was, is }.into());
    }
    let mut bytes = 0;
    let mut chunks = Chunks { snapshot: saved.first, begun: BytesMut::new(), read: Vec::new() };
    let mut reader = Reader { log, at, next: None, patience: Instant::now() + PATIENCE };
    for number in saved.first..saved.next {
        let message = reader.message(number, saved).await?;
        bytes += message.record.payload().len() as u64;
        chunks.add(&message).map_err(|what| TaskError::State { partition: at.clone(), what })?;
    }
    kept.restore(saved.closed.as_deref(), chunks.read)?;
    Ok(bytes)
}

/// What a task keeps.
pub(crate) struct Held {
    /// The number of the task.
    pub task: u32,
    /// Rows as they are kept, of each part of the query that keeps some.
    pub batches: Vec<RecordBatch>,
}

/// How often it is looked again where a running worker has gone on meanwhile.
const LOOKS: u32 = 5;

/// What a stage keeps, as its tasks have committed it.
pub(crate) async fn held(log: &dyn Log, stage: &Stage) -> Result<Vec<Held>, TaskError> {
    let (checkpoints, state) = (stage.topic(Channel::Checkpoint), stage.topic(Channel::State));
    let mut held = Vec::new();
    for task in 0..log.partitions(&checkpoints).await? {
        let mut looks = 0;
        let batches = loop {
            looks += 1;
            match of_task(log, stage, &checkpoints.partition(task), &state.partition(task)).await {
                Err(TaskError::State { .. } | TaskError::Bus(bus::Error::OutOfRange { .. })) if looks < LOOKS => {}
                batches => break batches?,
            }
        };
        held.push(Held { task, batches });
    }
    Ok(held)
}

async fn of_task(
    log: &dyn Log,
    stage: &Stage,
    checkpoint: &TopicPartition,
    state: &TopicPartition,
) -> Result<Vec<RecordBatch>, TaskError> {
    let Work::Sql(query) = &stage.work else { return Ok(Vec::new()) };
    let Some(mut kept) = query.state() else { return Ok(Vec::new()) };
    let Some(last) = log.last(checkpoint).await? else { return Ok(Vec::new()) };
    let Some(saved) = Checkpoint::decode(last.record.payload())?.windows else { return Ok(Vec::new()) };
    read(log, state, &saved, kept.as_mut()).await?;
    Ok(kept.shown()?)
}

fn damaged(at: &TopicPartition, what: &str) -> TaskError {
    TaskError::State { partition: at.clone(), what: what.to_owned() }
}

/// The rows with each column that has the same number or time throughout, as the bounds of a window are, as one run.
fn shortened(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    changed(rows, |field, column| {
        let data = column.to_data();
        let width = data.data_type().primitive_width()?;
        let range = data.offset() * width..(data.offset() + data.len()) * width;
        let values = data.buffers().first()?.get(range)?;
        let is_same =
            data.len() > 1 && data.null_count() == 0 && values.get(width..)? == values.get(..values.len() - width)?;
        if !is_same {
            return None;
        }
        let ends = Int32Array::from(vec![i32::try_from(data.len()).ok()?]);
        Some(RunArray::<Int32Type>::try_new(&ends, &column.slice(0, 1)).map(|run| {
            let run: ArrayRef = Arc::new(run);
            (field.as_ref().clone().with_data_type(run.data_type().clone()), run)
        }))
    })
}

/// The rows with columns as they were.
fn lengthened(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    changed(rows, |field, column| {
        let DataType::RunEndEncoded(_, values) = column.data_type() else { return None };
        let data_type = values.data_type();
        Some(cast(column, data_type).map(|column| (field.as_ref().clone().with_data_type(data_type.clone()), column)))
    })
}

/// The rows with other columns in place of some.
fn changed(
    rows: &RecordBatch,
    other: impl Fn(&FieldRef, &ArrayRef) -> Option<Result<(Field, ArrayRef), ArrowError>>,
) -> Result<RecordBatch, ArrowError> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let (field, column) = match other(field, column) {
            Some(other) => other.map(|(field, column)| (Arc::new(field), column))?,
            None => (field.clone(), column.clone()),
        };
        fields.push(field);
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn number(message: &Message, name: &str) -> Option<u64> {
    std::str::from_utf8(message.record.headers.get(name)?).ok()?.parse().ok()
}

/// The offset from which on messages have that number or a higher one.
async fn find(log: &dyn Log, at: &TopicPartition, first: u64) -> bus::Result<u64> {
    let extents = log.extents(&at.topic).await?;
    let extent = extents.get(at.partition as usize).copied().unwrap_or_default();
    let (mut low, mut high) = (extent.start, extent.end);
    while low < high {
        let middle = low + (high - low) / 2;
        match log.read(at, middle, Limit::ONE, Duration::ZERO).await?.first() {
            Some(message) if number(message, NUMBER).is_some_and(|number| number < first) => low = message.offset + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Reads messages in the order of their numbers.
struct Reader<'a> {
    log: &'a dyn Log,
    at: &'a TopicPartition,
    /// Those that were read and not given, and the offset behind them.
    next: Option<(VecDeque<Message>, u64)>,
    /// Until when a message is waited for.
    patience: Instant,
}

impl Reader<'_> {
    async fn message(&mut self, wanted: u64, of: &Windows) -> Result<Message, TaskError> {
        loop {
            let (messages, offset) = match &mut self.next {
                Some(next) => next,
                None => self.next.insert((VecDeque::new(), find(self.log, self.at, of.first).await?)),
            };
            match messages.pop_front() {
                Some(message) if number(&message, NUMBER) == Some(wanted) => return Ok(message),
                Some(message) => {
                    let what = format!("offset {} is not message {wanted} of the state", message.offset);
                    return Err(damaged(self.at, &what));
                }
                None => {}
            }
            let read = self.log.read(self.at, *offset, READ, Duration::from_millis(100)).await?;
            *offset = read.last().map_or(*offset, |last| last.offset + 1);
            if read.is_empty() && Instant::now() > self.patience {
                if let Some((partition, offset)) = self.log.undecided(&self.at.topic).await?
                    && partition == *self.at
                {
                    return Err(bus::Error::Hanging { partition, offset }.into());
                }
                let what = format!("messages {wanted} to {} of the state are missing", of.next - 1);
                return Err(damaged(self.at, &what));
            }
            messages.extend(read);
        }
    }
}

/// What was read.
struct Chunks {
    /// Which of those that hold all there was is the one that counts.
    snapshot: u64,
    /// The parts of a chunk that has not come to its end.
    begun: BytesMut,
    read: Vec<Chunk>,
}

impl Chunks {
    fn add(&mut self, message: &Message) -> Result<(), String> {
        let of_snapshot = number(message, SNAPSHOT);
        if of_snapshot.is_some_and(|first| first != self.snapshot) {
            return Ok(());
        }
        let value = message.record.value.clone().unwrap_or_default();
        let has_more = message.record.headers.get(MORE).is_some();
        if has_more || !self.begun.is_empty() {
            self.begun.extend_from_slice(&value);
        }
        if has_more {
            return Ok(());
        }
        let whole = if self.begun.is_empty() { value } else { self.begun.split().freeze() };
        let damaged = |error: &dyn std::fmt::Display| format!("offset {} is damaged: {error}", message.offset);
        let rows = arrow::decode(whole).map_err(|error| damaged(&error))?;
        let rows = lengthened(&rows).map_err(|error| damaged(&error))?;
        let leaf = number(message, LEAF).ok_or_else(|| format!("offset {} is of no leaf", message.offset))?;
        self.read.push(Chunk { leaf: leaf as usize, rows });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
