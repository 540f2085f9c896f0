//! The far side of a task: what became of a batch, encoded for the topics it goes to, or as the text of a sink.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::arrow::record_batch::RecordBatch;
use bytes::Bytes;

use crate::bus::{Channel, Header, Micros, Outgoing, Record, Topic, TopicPartition};
use crate::codec::{
    self, Encoder, Text,
    cloudevents::{self, Event},
    json,
};
use crate::config::Format;
use crate::connector::{self, Position, Sink};
use crate::failure::{Class, DeadLetter, Reject};
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
    pub text: Text,
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
    /// What the headers of a JSON message have in common with those of all others.
    row_headers: Vec<Header>,
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
            row_headers: vec![
                header("content-type", "application/json"),
                header("ce_specversion", "1.0"),
                header("ce_source", source(&stage.full_name)),
                header("ce_type", format!("{}.results", stage.full_name)),
                header("ce_id", ""),
            ],
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
        for part in processed {
            self.encode_part(part, &mut encoded)?;
        }
        Ok(encoded)
    }

    fn encode_part(&mut self, mut part: Processed, encoded: &mut Encoded) -> Result<(), TaskError> {
        let mut made = self.records(&part, encoded.since)?;
        let too_large = self.too_large(&made);
        if !too_large.is_empty() {
            part = part.without(too_large)?;
            made = self.records(&part, encoded.since)?;
        }
        if let To::Sink { encoder, .. } = &mut self.to {
            encoder.encode(&part.results, &mut encoded.text)?;
        }
        encoded.results.extend(made.results.into_iter().map(|made| made.outgoing));
        encoded.events.extend(made.events.into_iter().map(|made| made.outgoing));
        encoded.counts += part.counts();
        for reject in std::mem::take(&mut part.rejects) {
            let letter = part.rows.origins.dead_letter(&self.stage, &part.rows.batch, reject);
            encoded.dead_letters.push(self.dead_letter(letter));
        }
        Ok(())
    }

    /// The records of results and events.
    fn records(&self, part: &Processed, arrived: Micros) -> Result<Records, TaskError> {
        Ok(Records { results: self.results(part, arrived)?, events: self.events(part, arrived)? })
    }

    fn results(&self, part: &Processed, arrived: Micros) -> Result<Vec<Made>, TaskError> {
        let To::Results { topic, partitions, key, format } = &self.to else { return Ok(Vec::new()) };
        if part.results.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let ordinals = match format {
            Format::Arrow => Vec::new(),
            Format::Json => ordinals(part.results.num_rows(), |result| part.origin(result)),
        };
        let mut made = Vec::new();
        for (number, rows, batch) in keys::split(&part.results, key, *partitions, self.task)? {
            let to = topic.partition(number);
            match format {
                Format::Arrow => {
                    let origin = part.origin(rows.as_ref().map_or(0, |rows| rows.value(0) as usize));
                    let records = arrow_records(batch, self.max_record_bytes, self.task, arrived)?;
                    made.extend(records.into_iter().map(|record| Made::new(origin, &to, record)));
                }
                Format::Json => {
                    let mut keys = Keys::new(&batch, key)?;
                    for (row, value) in json::rows_to_text(&batch)?.into_iter().enumerate() {
                        let result = rows.as_ref().map_or(row, |rows| rows.value(row) as usize);
                        let origin = part.origin(result);
                        let ordinal = ordinals.get(result).copied().unwrap_or(0);
                        let id = format!("{}/results/{ordinal}", part.rows.origins.origin(origin));
                        let key = if key.is_empty() { None } else { Some(Bytes::copy_from_slice(keys.key(row)?)) };
                        let headers = self.json_headers(id);
                        let record = Record { key, value, headers, rows: 1, arrived, batch: None };
                        made.push(Made::new(origin, &to, record));
                    }
                }
            }
        }
        Ok(made)
    }

    /// CloudEvents attributes of a row, as headers.
    fn json_headers(&self, id: String) -> Vec<Header> {
        let mut headers = self.row_headers.clone();
        if let Some(last) = headers.last_mut() {
            last.value = id.into();
        }
        headers
    }

    fn events(&self, part: &Processed, arrived: Micros) -> Result<Vec<Made>, TaskError> {
        let to = self.events.partition(self.task);
        let mut made = Vec::new();
        for events in &part.events {
            let result = |row: usize| events.results.get(row).map_or(0, |result| *result as usize);
            let ordinals = ordinals(events.data.num_rows(), |row| part.origin(result(row)));
            for ((row, data), ordinal) in json::rows_to_text(&events.data)?.into_iter().enumerate().zip(ordinals) {
                let origin = part.origin(result(row));
                let time = self.event_time.and_then(|column| part.results.columns().get(column));
                let event = Event {
                    id: &format!("{}/{}/{ordinal}", part.rows.origins.origin(origin), events.name),
                    source: &source(&self.full_name),
                    kind: &format!("{}.{}", self.full_name, events.name),
                    time: time.and_then(|column| codec::time::micros_at(column, result(row))),
                    data: &data,
                };
                let headers = vec![header("content-type", cloudevents::CONTENT_TYPE)];
                let record = Record { value: event.structured()?, headers, rows: 1, arrived, ..Record::default() };
                made.push(Made::new(origin, &to, record));
            }
        }
        Ok(made)
    }

    /// The rows of which a record would be too large for the bus.
    fn too_large(&self, made: &Records) -> BTreeMap<usize, Reject> {
        let limit = self.max_record_bytes;
        let all = made.results.iter().chain(&made.events);
        let too_large = all.filter(|made| made.outgoing.record.size_bytes() > limit);
        too_large
            .map(|made| {
                let bytes = made.outgoing.record.size_bytes();
                let message = format!("a message of {bytes} bytes is too large for the bus, which takes {limit}");
                (made.origin, Reject { row: made.origin, class: Class::TooLarge, message })
            })
            .collect()
    }

    /// Whether results leave the pipeline here.
    pub fn is_sink(&self) -> bool {
        matches!(self.to, To::Sink { .. })
    }

    /// Where the sink goes on after a restart; the beginning without a position.
    pub async fn resume(&mut self, position: Option<Position>) -> Result<(), connector::Error> {
        match &mut self.to {
            To::Sink { encoder, sink } => sink.resume(position, encoder.head()).await,
            To::Results { .. } => Ok(()),
        }
    }

    /// Writes the text of a step to the sink, and gives the sink's position once it is durable.
    pub async fn flush(&mut self, text: Text) -> Result<Option<Position>, connector::Error> {
        match &mut self.to {
            To::Sink { sink, .. } => {
                if !text.bytes.is_empty() {
                    sink.write(text).await?;
                }
                sink.flush().await.map(Some)
            }
            To::Results { .. } => Ok(None),
        }
    }

    fn dead_letter(&self, letter: DeadLetter) -> Outgoing {
        let record = letter.into_record(self.max_record_bytes.saturating_sub(HEADROOM_BYTES));
        Outgoing { to: self.dead_letters.partition(self.task), record }
    }
}

/// The records that a batch becomes.
struct Records {
    results: Vec<Made>,
    events: Vec<Made>,
}

/// A record, and the row that came in of which it was made; of a record of several rows, the first of them.
struct Made {
    origin: usize,
    outgoing: Outgoing,
}

impl Made {
    fn new(origin: usize, to: &TopicPartition, record: Record) -> Self {
        Self { origin, outgoing: Outgoing { to: to.clone(), record } }
    }
}

/// Numbers what was made of one and the same row: 0, 1, …
fn ordinals(count: usize, origin: impl Fn(usize) -> usize) -> Vec<u32> {
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
    let rows = Rows { input: 0, batch, origins: Origins::Messages(Vec::new()) };
    Ok(outlet.encode(Vec::new(), 0, vec![Processed::unchanged(rows)])?.results)
}

/// The batch as messages, each below the bus's limit.
fn arrow_records(
    batch: RecordBatch,
    max_record_bytes: usize,
    task: u32,
    arrived: Micros,
) -> Result<Vec<Record>, TaskError> {
    let rows = batch.num_rows();
    let fits = |bytes: usize| bytes + HEADROOM_BYTES <= max_record_bytes || rows <= 1;
    // Most of what does not fit is not even encoded to find out.
    let encoded = fits(codec::arrow::size_bytes(&batch)).then(|| codec::arrow::encode(&batch)).transpose()?;
    let Some(value) = encoded.filter(|value| fits(value.len())) else {
        let half = rows / 2;
        let mut records = arrow_records(batch.slice(0, half), max_record_bytes, task, arrived)?;
        records.extend(arrow_records(batch.slice(half, rows - half), max_record_bytes, task, arrived)?);
        return Ok(records);
    };
    let headers = vec![header("content-type", codec::arrow::CONTENT_TYPE), header("fidelio-task", task.to_string())];
    Ok(vec![Record { value, headers, rows: rows as u32, arrived, batch: Some(batch), key: None }])
}

/// A stage as the source of CloudEvents: `/<company>/<namespace>/<stage>`.
fn source(full_name: &str) -> String {
    format!("/{}", full_name.replace('.', "/"))
}

fn header(name: &'static str, value: impl Into<Bytes>) -> Header {
    Header { name: name.into(), value: value.into() }
}
