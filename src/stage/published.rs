//! Rows as messages of a topic: the stage's own results, or the topic of others that a sink writes.

use std::collections::BTreeSet;

use ::arrow::array::{Array, AsArray, BooleanArray, UInt32Array};
use ::arrow::record_batch::RecordBatch;
use bytes::{Bytes, BytesMut};

use crate::bus::{Headers, Micros, Outgoing, Packer, Record, Topic, TopicPartition};
use crate::codec::{self, json};
use crate::config::{Format, TopicSink};
use crate::fidelity::Said;
use crate::stage::TaskError;
use crate::stage::keys::{self, Keys};
use crate::stage::outlet::{HEADROOM_BYTES, source};
use crate::stage::owner::{DELETED_ROW, SENT, SOURCE, TASK, WATERMARK};
use crate::stage::process::Processed;
use crate::stage::trace::{self, Context};
use crate::topology::Stage;

/// A topic that rows go to, and how.
pub(super) struct Published {
    topic: Topic,
    partitions: u32,
    /// Columns that make up the key.
    key: Vec<usize>,
    format: Format,
    event_time: Option<usize>,
    /// Where rows go that have no key.
    keyless: Keyless,
    /// The column that is true for rows whose message has no value.
    tombstone: Option<usize>,
    /// Whether that column, and the value of such rows, are of use to whoever reads the topic.
    replaces: bool,
    /// Whether messages of a row say which task has published them.
    names_task: bool,
    attributes: Attributes,
}

/// What a key takes, mostly.
const KEY_BYTES: usize = 16;

/// Where rows go that have no key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyless {
    /// To the partition of the task's number.
    Home,
    /// To all partitions in turn.
    Spread,
}

/// Records, and for each of them the row that came in of which it was made; of a record of several rows, the first of them.
#[derive(Default)]
pub(super) struct Made {
    pub outgoing: Vec<Outgoing>,
    pub origins: Vec<usize>,
}

impl Made {
    pub fn with_capacity(records: usize) -> Self {
        Self { outgoing: Vec::with_capacity(records), origins: Vec::with_capacity(records) }
    }

    pub fn push(&mut self, origin: usize, to: &TopicPartition, record: Record) {
        self.outgoing.push(Outgoing { to: to.clone(), record });
        self.origins.push(origin);
    }
}

/// The task that publishes, and what it has published so far.
#[derive(Clone, Copy)]
pub(super) struct Publisher {
    pub task: u32,
    /// Rows that it has published, ever.
    pub rows: u64,
    /// When the oldest of those that it publishes now arrived in the pipeline.
    pub arrived: Micros,
    /// The largest record that the bus takes, in bytes.
    pub max_record_bytes: usize,
}

impl Published {
    /// The results of a stage.
    pub fn results(stage: &Stage) -> Self {
        Self {
            topic: stage.results(),
            partitions: stage.partitions,
            key: stage.key.clone(),
            format: stage.format,
            event_time: stage.event_time.map(|time| time.column),
            keyless: Keyless::Home,
            tombstone: stage.identity().map(|_| stage.schema.fields().len() - 1),
            replaces: stage.identity().is_some(),
            // How many tasks there are of what reads a topic of others can change.
            names_task: stage.tasks > 1 || stage.reads().is_some(),
            attributes: Attributes::of(stage),
        }
    }

    /// The topic of others that a sink writes.
    pub fn by_sink(stage: &Stage, sink: &TopicSink) -> Self {
        Self {
            topic: Topic::new(sink.topic.value.as_str()),
            format: Format::Json,
            keyless: Keyless::Spread,
            tombstone: sink.tombstone.as_ref().and_then(|name| stage.schema.index_of(&name.value).ok()),
            replaces: false,
            names_task: false,
            ..Self::results(stage)
        }
    }

    /// The messages of what was processed.
    pub fn records(&self, part: &Processed, by: Publisher) -> Result<Made, TaskError> {
        if part.results.num_rows() == 0 {
            return Ok(Made::default());
        }
        let split = match self.keyless {
            Keyless::Home => keys::split(&part.results, &self.key, self.partitions, by.task)?,
            Keyless::Spread => {
                keys::spread(&part.results, &self.key, self.partitions, by.rows.wrapping_add(by.task.into()))?
            }
        };
        match self.format {
            Format::Arrow => {
                let mut made = Made::default();
                let traced = part.rows.origins.are_traced();
                for (number, rows, batch) in split {
                    let to = self.topic.partition(number);
                    let origin = part.origin(result(&rows, 0));
                    let trace = |row| part.rows.origins.trace(part.origin(result(&rows, row)));
                    let traces: Vec<Context> = (0..if traced { batch.num_rows() } else { 0 }).map(trace).collect();
                    for record in arrow_records(batch, &traces, by)? {
                        made.push(origin, &to, record);
                    }
                }
                Ok(made)
            }
            Format::Json => {
                let ordinals = ordinals(part.results.num_rows(), |result| part.origin(result));
                let traced = part.rows.origins.are_traced();
                let mut made = Made::with_capacity(part.results.num_rows());
                let mut headers = Packer::default();
                for (number, rows, batch) in split {
                    let to = self.topic.partition(number);
                    let time = self.event_time.and_then(|column| batch.columns().get(column));
                    let micros = |row| time.and_then(|column| codec::time::micros_at(column, row));
                    self.for_each_json(&batch, by, |row, mut record, gone| {
                        let result = result(&rows, row);
                        let origin = part.origin(result);
                        let ordinal = ordinals.get(result).copied().unwrap_or(0);
                        self.attributes.put(&mut headers, record.value.is_some(), micros(row));
                        headers.write("ce_id", format_args!("{}/results/{ordinal}", part.rows.origins.origin(origin)));
                        if let Some(gone) = gone {
                            headers.put(DELETED_ROW, &gone);
                        }
                        if self.names_task {
                            headers.write(TASK, format_args!("{}", by.task));
                        }
                        if traced {
                            headers.put_all(&part.rows.origins.trace(origin));
                        }
                        record.headers = headers.finish();
                        made.push(origin, &to, record);
                    })?;
                }
                Ok(made)
            }
        }
    }

    /// Says in the last message of each partition how many rows the task has published there, these included.
    pub fn count(&self, sent: &mut Vec<u64>, task: u32, made: &mut Made) {
        sent.resize(sent.len().max(self.partitions as usize), 0);
        for Outgoing { to, record } in &made.outgoing {
            if let Some(rows) = sent.get_mut(to.partition as usize) {
                *rows += u64::from(record.rows);
            }
        }
        self.in_last(task, made, |partition, record| {
            let rows = sent.get(partition as usize).copied().unwrap_or(0);
            record.headers.push(SENT, rows.to_string().as_bytes());
        });
    }

    /// Says in all partitions what is to be known of the messages behind these: in the last of each, or in one of its own.
    pub fn say(&self, said: Said, task: u32, arrived: Micros, made: &mut Made) {
        let (by, watermark) = (task.to_string(), said.to_string());
        let silent = self.in_last(task, made, |_, record| record.headers.push(WATERMARK, watermark.as_bytes()));
        for number in silent {
            let headers = [(TASK, by.as_bytes()), (WATERMARK, watermark.as_bytes())].into();
            let record = Record { headers, rows: 0, arrived, ..Record::default() };
            made.push(0, &self.topic.partition(number), record);
        }
    }

    /// Adds something to the last message of each partition, which names the task then. Gives the partitions that have none.
    fn in_last(&self, task: u32, made: &mut Made, mut add: impl FnMut(u32, &mut Record)) -> BTreeSet<u32> {
        let task = task.to_string();
        let mut silent: BTreeSet<u32> = (0..self.partitions).collect();
        for Outgoing { to, record } in made.outgoing.iter_mut().rev() {
            if silent.is_empty() {
                break;
            }
            if silent.remove(&to.partition) {
                if record.headers.get(TASK).is_none() {
                    record.headers.push(TASK, task.as_bytes());
                }
                add(to.partition, record);
            }
        }
        silent
    }

    /// Gives for each row a message with its key and its value; and the value of a row that is deleted, which the message has not.
    fn for_each_json(
        &self,
        batch: &RecordBatch,
        by: Publisher,
        mut each: impl FnMut(usize, Record, Option<Bytes>),
    ) -> Result<(), TaskError> {
        let mut keys = Keys::new(batch, &self.key)?;
        let (gone, values) = match self.tombstone {
            Some(column) => {
                let values = if self.replaces { batch.clone() } else { without(batch, column)? };
                (batch.columns().get(column).and_then(|column| column.as_boolean_opt()), values)
            }
            None => (None, batch.clone()),
        };
        let is_gone = |gone: &BooleanArray, row: usize| gone.is_valid(row) && gone.value(row);
        let mut text = BytesMut::with_capacity(KEY_BYTES * batch.num_rows());
        for (row, value) in json::rows_to_text(&values)?.into_iter().enumerate() {
            let (value, deleted) = match gone.is_some_and(|gone| is_gone(gone, row)) {
                true => (None, Some(value).filter(|_| self.replaces)),
                false => (Some(value), None),
            };
            let key = match self.keyless {
                _ if self.key.is_empty() => None,
                Keyless::Spread if keys.is_null(row) => None,
                _ => {
                    text.extend_from_slice(keys.key(row)?);
                    Some(text.split().freeze())
                }
            };
            each(row, Record { key, value, rows: 1, arrived: by.arrived, ..Record::default() }, deleted);
        }
        Ok(())
    }
}

/// The attributes of CloudEvents that all messages of a stage have in common, in the binary mode of the Kafka protocol
/// binding: each is a header.
struct Attributes {
    of_value: Headers,
    of_tombstone: Headers,
}

impl Attributes {
    fn of(stage: &Stage) -> Self {
        let (source, kind) = (source(&stage.full_name), format!("{}.results", stage.full_name));
        let common = [("ce_specversion", "1.0"), (SOURCE, &source), ("ce_type", &kind)];
        let content_type = [("content-type", "application/json")];
        Self { of_value: content_type.into_iter().chain(common).collect(), of_tombstone: common.into() }
    }

    /// Puts those of a message whose event happened then.
    fn put(&self, to: &mut Packer, has_value: bool, micros: Option<Micros>) {
        to.put_all(if has_value { &self.of_value } else { &self.of_tombstone });
        if let Some(micros) = micros {
            to.put("ce_time", codec::time::instant(micros).as_bytes());
        }
    }
}

/// The number of a row among the results that it was split from.
fn result(rows: &Option<UInt32Array>, row: usize) -> usize {
    rows.as_ref().and_then(|rows| rows.values().get(row)).map_or(row, |result| *result as usize)
}

/// The batch without that column.
fn without(batch: &RecordBatch, column: usize) -> Result<RecordBatch, TaskError> {
    let left: Vec<usize> = (0..batch.num_columns()).filter(|index| *index != column).collect();
    Ok(batch.project(&left)?)
}

/// Numbers what was made of one and the same row: 0, 1, …
pub(super) fn ordinals(count: usize, origin: impl Fn(usize) -> usize) -> Vec<u32> {
    let mut last = None;
    let mut next = 0;
    (0..count)
        .map(|made| {
            let of = Some(origin(made));
            next = if last == of { next + 1 } else { 0 };
            last = of;
            next
        })
        .collect()
}

/// The batch as messages, each below the bus's limit. `traces` has the context of each row, or nothing where none is of any
/// trace.
fn arrow_records(batch: RecordBatch, traces: &[Context], by: Publisher) -> Result<Vec<Record>, TaskError> {
    let rows = batch.num_rows();
    let traced = trace::headers(traces);
    let fits = |bytes: usize| bytes + traced.size_bytes() + HEADROOM_BYTES <= by.max_record_bytes || rows <= 1;
    // Most of what does not fit is not even encoded to find out.
    let encoded = fits(codec::arrow::size_bytes(&batch)).then(|| codec::arrow::encode(&batch)).transpose()?;
    let Some(value) = encoded.filter(|value| fits(value.len())) else {
        let half = rows / 2;
        let (first, second) = traces.split_at(half.min(traces.len()));
        let mut records = arrow_records(batch.slice(0, half), first, by)?;
        records.extend(arrow_records(batch.slice(half, rows - half), second, by)?);
        return Ok(records);
    };
    let task = by.task.to_string();
    let own = [("content-type", codec::arrow::CONTENT_TYPE.as_bytes()), (TASK, task.as_bytes())];
    let headers = own.into_iter().chain(traced.iter()).collect();
    Ok(vec![Record {
        value: Some(value),
        headers,
        rows: rows as u32,
        arrived: by.arrived,
        batch: Some(batch),
        key: None,
    }])
}
