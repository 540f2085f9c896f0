//! The far side of a task: what became of a batch, encoded for the topics it goes to, or as the text of a sink.

use std::sync::Arc;

use ::arrow::array::UInt32Array;
use ::arrow::record_batch::RecordBatch;
use bytes::{Bytes, BytesMut};
use serde_json::Value;

use crate::bus::{Channel, Header, Micros, Outgoing, Record, Topic};
use crate::codec::{
    self, Encoder,
    cloudevents::{self, Event},
    json,
};
use crate::config::Format;
use crate::connector::{self, Sink};
use crate::failure::DeadLetter;
use crate::fidelity::Counts;
use crate::stage::TaskError;
use crate::stage::keys::{self, Keys};
use crate::stage::origins::{Origins, Rows};
use crate::stage::process::Processed;
use crate::topology::Stage;

/// Bytes of a record that are left for its key and headers.
const HEADROOM_BYTES: usize = 64 << 10;

/// Everything that one step of a task puts out.
#[derive(Default)]
pub(super) struct Encoded {
    /// For the stage's results topic.
    pub results: Vec<Outgoing>,
    /// For its events topic.
    pub events: Vec<Outgoing>,
    /// For its dead letter topic.
    pub dead_letters: Vec<Outgoing>,
    /// For its sink.
    pub text: BytesMut,
    /// What was done, in numbers; how many rows came in is for whoever polled them to say.
    pub counts: Counts,
    /// When the oldest of the rows arrived in the pipeline.
    pub since: Micros,
}

/// Where a task's output goes.
pub(super) struct Outlet {
    stage: Arc<str>,
    full_name: Arc<str>,
    task: u32,
    to: To,
    events: Topic,
    dead_letters: Topic,
    event_time: Option<usize>,
    max_record_bytes: usize,
}

/// Where results go.
pub(super) enum To {
    /// To the stage's own results topic.
    Results {
        /// The topic.
        topic: Topic,
        /// Its number of partitions.
        partitions: u32,
        /// Columns that make up the key.
        key: Vec<usize>,
        /// How they are encoded.
        format: Format,
    },
    /// Out of the pipeline.
    Sink {
        /// What makes text of rows.
        encoder: Box<dyn Encoder>,
        /// What takes it.
        sink: Box<dyn Sink>,
    },
}

impl Outlet {
    /// The outlet of a stage's task.
    pub fn new(stage: &Stage, task: u32, to: To, max_record_bytes: usize) -> Self {
        Self {
            stage: stage.name.clone(),
            full_name: stage.full_name.clone(),
            task,
            to,
            events: stage.topic(Channel::Events),
            dead_letters: stage.topic(Channel::DeadLetters),
            event_time: stage.event_time,
            max_record_bytes,
        }
    }

    /// Encodes what arrived and what became of it.
    pub fn encode(
        &mut self,
        dead_letters: Vec<DeadLetter>,
        since: Micros,
        processed: Vec<Processed>,
    ) -> Result<Encoded, TaskError> {
        let mut encoded = Encoded { since, ..Encoded::default() };
        for letter in dead_letters {
            let rows = u64::from(letter.original.rows);
            encoded.counts += Counts { dead_lettered: rows, ..Counts::default() };
            encoded.dead_letters.push(self.dead_letter(letter));
        }
        for mut part in processed {
            self.encode_results(&mut part, &mut encoded)?;
            self.encode_events(&part, &mut encoded)?;
            encoded.counts += part.counts();
            for reject in std::mem::take(&mut part.rejects) {
                let letter = part.rows.origins.dead_letter(&self.stage, &part.rows.batch, reject);
                encoded.dead_letters.push(self.dead_letter(letter));
            }
        }
        Ok(encoded)
    }

    /// Whether results leave the pipeline here.
    pub fn is_sink(&self) -> bool {
        matches!(self.to, To::Sink { .. })
    }

    /// Where the sink goes on after a restart; the beginning without a position.
    pub async fn resume(&mut self, position: Option<Value>) -> Result<(), connector::Error> {
        match &mut self.to {
            To::Sink { encoder, sink } => sink.resume(position, encoder.head()).await,
            To::Results { .. } => Ok(()),
        }
    }

    /// Writes the text of a step to the sink, and gives the sink's position once it is durable.
    pub async fn flush(&mut self, text: Bytes) -> Result<Option<Value>, connector::Error> {
        match &mut self.to {
            To::Sink { sink, .. } => {
                if !text.is_empty() {
                    sink.write(text).await?;
                }
                sink.flush().await.map(Some)
            }
            To::Results { .. } => Ok(None),
        }
    }

    fn dead_letter(&self, letter: DeadLetter) -> Outgoing {
        let record = letter.into_record(self.max_record_bytes - HEADROOM_BYTES);
        Outgoing { to: self.dead_letters.partition(self.task), record }
    }

    fn encode_results(&mut self, part: &mut Processed, encoded: &mut Encoded) -> Result<(), TaskError> {
        if part.results.num_rows() == 0 {
            return Ok(());
        }
        match &mut self.to {
            To::Sink { encoder, .. } => Ok(encoder.encode(&part.results, &mut encoded.text)?),
            To::Results { topic, partitions, key, format } => {
                for (number, rows, batch) in keys::split(&part.results, key, *partitions, self.task)? {
                    let to = topic.partition(number);
                    let records = match format {
                        Format::Arrow => arrow_records(batch, self.max_record_bytes, self.task, encoded.since)?,
                        Format::Json => json_records(part, rows.as_ref(), &batch, key, &self.full_name, encoded.since)?,
                    };
                    encoded.results.extend(records.into_iter().map(|record| Outgoing { to: to.clone(), record }));
                }
                Ok(())
            }
        }
    }

    fn encode_events(&self, part: &Processed, encoded: &mut Encoded) -> Result<(), TaskError> {
        for events in &part.events {
            let mut ordinals = Ordinals::default();
            for (row, data) in json::rows_to_text(&events.data)?.into_iter().enumerate() {
                let result = events.results.get(row).map_or(0, |result| *result as usize);
                let origin = part.origin(result);
                let time = self.event_time.and_then(|column| part.results.columns().get(column));
                let event = Event {
                    id: &format!("{}/{}", part.rows.origins.origin(origin), ordinals.next(origin)),
                    source: &source(&self.full_name),
                    kind: &format!("{}.{}", self.full_name, events.name),
                    time: time.and_then(|column| codec::time::micros_at(column, result)),
                    data: &data,
                };
                let record = Record {
                    value: event.structured()?,
                    headers: vec![header("content-type", cloudevents::CONTENT_TYPE)],
                    rows: 1,
                    arrived: encoded.since,
                    ..Record::default()
                };
                encoded.events.push(Outgoing { to: self.events.partition(self.task), record });
            }
        }
        Ok(())
    }
}

/// Rows as a stage's task 0 would publish them, had it made them.
pub(crate) fn results_of(
    stage: &Stage,
    batch: RecordBatch,
    max_record_bytes: usize,
) -> Result<Vec<Outgoing>, TaskError> {
    let to = To::Results {
        topic: stage.results(),
        partitions: stage.partitions,
        key: stage.key.clone(),
        format: stage.format,
    };
    let mut outlet = Outlet::new(stage, 0, to, max_record_bytes);
    let rows = Rows { input: 0, batch: batch.clone(), origins: Origins::Messages(Vec::new()) };
    let processed = Processed { rows, results: batch, lineage: None, events: Vec::new(), rejects: Vec::new() };
    Ok(outlet.encode(Vec::new(), 0, vec![processed])?.results)
}

/// Numbers what was made of one and the same row: 0, 1, …
#[derive(Default)]
struct Ordinals {
    of: Option<usize>,
    next: u32,
}

impl Ordinals {
    fn next(&mut self, of: usize) -> u32 {
        self.next = if self.of == Some(of) { self.next + 1 } else { 0 };
        self.of = Some(of);
        self.next
    }
}

/// The batch as messages, each below the bus's limit.
fn arrow_records(
    batch: RecordBatch,
    max_record_bytes: usize,
    task: u32,
    arrived: Micros,
) -> Result<Vec<Record>, TaskError> {
    let value = codec::arrow::encode(&batch)?;
    let rows = batch.num_rows();
    if value.len() + HEADROOM_BYTES > max_record_bytes && rows > 1 {
        let half = rows / 2;
        let mut records = arrow_records(batch.slice(0, half), max_record_bytes, task, arrived)?;
        records.extend(arrow_records(batch.slice(half, rows - half), max_record_bytes, task, arrived)?);
        return Ok(records);
    }
    let headers = vec![header("content-type", codec::arrow::CONTENT_TYPE), header("fidelio-task", task.to_string())];
    Ok(vec![Record { value, headers, rows: rows as u32, arrived, batch: Some(batch), key: None }])
}

/// The batch as a message a row, with CloudEvents attributes in headers.
fn json_records(
    part: &Processed,
    numbers: Option<&UInt32Array>,
    batch: &RecordBatch,
    key: &[usize],
    full_name: &str,
    arrived: Micros,
) -> Result<Vec<Record>, TaskError> {
    let mut keys = Keys::new(batch, key)?;
    let mut ordinals = Ordinals::default();
    let values = json::rows_to_text(batch)?;
    let mut records = Vec::with_capacity(values.len());
    for (row, value) in values.into_iter().enumerate() {
        let result = numbers.map_or(row, |numbers| numbers.value(row) as usize);
        let origin = part.origin(result);
        let key = if key.is_empty() { None } else { Some(Bytes::copy_from_slice(keys.key(row)?)) };
        let headers = vec![
            header("content-type", "application/json"),
            header("ce_specversion", "1.0"),
            header("ce_id", format!("{}/{}", part.rows.origins.origin(origin), ordinals.next(origin))),
            header("ce_source", source(full_name)),
            header("ce_type", format!("{full_name}.results")),
        ];
        records.push(Record { key, value, headers, rows: 1, arrived, batch: None });
    }
    Ok(records)
}

/// A stage as the source of CloudEvents: `/<company>/<namespace>/<stage>`.
fn source(full_name: &str) -> String {
    format!("/{}", full_name.replace('.', "/"))
}

fn header(name: &'static str, value: impl Into<Bytes>) -> Header {
    Header { name: name.into(), value: value.into() }
}
