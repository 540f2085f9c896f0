//! The far side of a task: what became of a batch, encoded for the topics it goes to, or as the text of a sink.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::arrow::record_batch::RecordBatch;

use crate::bus::{Channel, Micros, Outgoing, Packer, Record, Topic};
use crate::checkpoint::Checkpoint;
use crate::codec::{
    self, Encoder, Text,
    cloudevents::{self, Event},
    json,
};
use crate::connector::{self, Position, Sink};
use crate::failure::{Class, DeadLetter, Reject};
use crate::fidelity::{Book, Counts, Said, Status};
use crate::stage::TaskError;
use crate::stage::books::{Books, Passed};
use crate::stage::clock::Clock;
use crate::stage::facts::Letters;
use crate::stage::origins::{Origins, Rows};
use crate::stage::process::Processed;
use crate::stage::published::{Made, Published, Publisher, ordinals};
use crate::time_of_day::now;
use crate::topology::{Stage, Work};

/// Bytes of a record that are left for its key and headers.
pub(super) const HEADROOM_BYTES: usize = 64 << 10;

/// Everything that one step of a task puts out.
#[derive(Default)]
pub(super) struct Encoded {
    /// For the stage's results topic.
    pub results: Vec<Outgoing>,
    /// For its events topic.
    pub events: Vec<Outgoing>,
    /// For its dead letter topic.
    pub dead_letters: Vec<Outgoing>,
    /// What is to be said of these.
    pub letters: Vec<Letters>,
    /// For its sink.
    pub text: Text,
    /// What was done, in numbers; how many rows came in is for whoever polled them to say.
    pub counts: Counts,
    /// The same, by minute of event time.
    pub book: Book,
    /// How long after their events rows came in, and their results go out, as of `encoded`.
    pub lags: Passed,
    /// When they were encoded.
    pub encoded: Micros,
    /// Results of windows that had closed before.
    pub corrected: u64,
    /// Bytes that are put out.
    pub bytes: usize,
    /// Rows that predecessors, by their number, have published and that have not come, or if negative have come again.
    pub missing: Vec<(usize, i64)>,
    /// When the oldest of the rows arrived in the pipeline.
    pub since: Micros,
}

impl Encoded {
    /// So many rows are a dead letter.
    fn noted(&mut self, letter: &DeadLetter, rows: u64) {
        let (class, first, message) = (letter.class, letter.origin.clone(), letter.message.clone());
        Letters { class, rows, first, message }.add_to(&mut self.letters);
    }
}

/// When what is encoded was on its way.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    /// When the oldest of the rows arrived in the pipeline.
    pub since: Micros,
    /// When they were polled.
    pub polled: Micros,
    /// How long the commit before took: so long after they are encoded results are taken to leave.
    pub commit: Micros,
}

/// Where a task's output goes.
pub(super) struct Outlet {
    stage: Arc<str>,
    full_name: Arc<str>,
    task: u32,
    /// Rows that it has put out, ever.
    rows_out: u64,
    /// Rows that it has published, ever, to each partition of its results.
    sent: Vec<u64>,
    /// Whether the stage is a sink.
    is_last: bool,
    to: To,
    /// `None` where nobody wants to know.
    books: Option<Books>,
    events: Topic,
    dead_letters: Topic,
    event_time: Option<usize>,
    max_record_bytes: usize,
}

/// Where results go.
pub(super) enum To {
    /// To a topic.
    Topic(Box<Published>),
    /// Out of the pipeline, by a connector.
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
            rows_out: 0,
            sent: Vec::new(),
            is_last: matches!(stage.work, Work::Sink(_)),
            to,
            books: Some(Books::new(stage)),
            events: stage.topic(Channel::Events),
            dead_letters: stage.topic(Channel::DeadLetters),
            event_time: stage.event_time.map(|time| time.column),
            max_record_bytes,
        }
    }

    /// One that keeps no books.
    pub fn without_books(self) -> Self {
        Self { books: None, ..self }
    }

    /// Encodes what arrived and what became of it.
    pub fn encode(
        &mut self,
        dead_letters: Vec<DeadLetter>,
        moments: Moments,
        processed: Vec<Processed>,
    ) -> Result<Encoded, TaskError> {
        let mut encoded = Encoded { since: moments.since, encoded: now(), ..Encoded::default() };
        for letter in dead_letters {
            let rows = u64::from(letter.original.rows);
            encoded.counts += Counts { dead_lettered: rows, ..Counts::default() };
            if let Some(books) = &self.books {
                books.dead_letter(&letter, &mut encoded.book);
            }
            encoded.noted(&letter, rows);
            encoded.dead_letters.push(self.dead_letter(letter));
        }
        for part in processed {
            self.encode_part(part, moments, &mut encoded)?;
        }
        let results = encoded.results.iter().map(|outgoing| outgoing.record.size_bytes()).sum::<usize>();
        encoded.bytes = results + encoded.text.bytes.len();
        Ok(encoded)
    }

    fn encode_part(&mut self, mut part: Processed, moments: Moments, encoded: &mut Encoded) -> Result<(), TaskError> {
        let mut made = self.records(&part, encoded.since)?;
        let too_large = self.too_large(&made);
        if !too_large.is_empty() {
            part = part.without(too_large)?;
            made = self.records(&part, encoded.since)?;
        }
        if let To::Sink { encoder, .. } = &mut self.to {
            encoder.encode(&part.results, &mut encoded.text)?;
        }
        // In a topic of others nothing is said to those behind.
        if let (To::Topic(published), false) = (&self.to, self.is_last) {
            if let Some(said) = part.watermark {
                published.say(said, self.task, encoded.since, &mut made.results);
            }
            published.count(&mut self.sent, self.task, &mut made.results);
        }
        encoded.results.append(&mut made.results.outgoing);
        encoded.events.append(&mut made.events.outgoing);
        let counts = part.counts();
        encoded.counts += counts;
        self.rows_out += counts.rows_out;
        let timed = self.books.as_ref().map(|books| {
            let timed = books.timed(&part);
            books.part(&part, &timed, moments, encoded);
            timed
        });
        for reject in std::mem::take(&mut part.rejects) {
            let times = timed.as_ref().and_then(|timed| timed.rows.as_ref());
            let event_time = times.and_then(|times| times.at(reject.row));
            let letter = part.rows.origins.dead_letter(&self.stage, &part.rows.batch, reject);
            encoded.noted(&letter, 1);
            encoded.dead_letters.push(self.dead_letter(DeadLetter { event_time, ..letter }));
        }
        Ok(())
    }

    /// The records of results and events.
    fn records(&self, part: &Processed, arrived: Micros) -> Result<Records, TaskError> {
        Ok(Records { results: self.results(part, arrived)?, events: self.events(part, arrived)? })
    }

    fn results(&self, part: &Processed, arrived: Micros) -> Result<Made, TaskError> {
        let Outlet { task, rows_out: rows, max_record_bytes, .. } = *self;
        match &self.to {
            To::Topic(published) => published.records(part, Publisher { task, rows, arrived, max_record_bytes }),
            To::Sink { .. } => Ok(Made::default()),
        }
    }

    fn events(&self, part: &Processed, arrived: Micros) -> Result<Made, TaskError> {
        let to = self.events.partition(self.task);
        let (mut made, mut headers) = (Made::default(), Packer::default());
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
                headers.put("content-type", cloudevents::CONTENT_TYPE.as_bytes());
                headers.put_all(&part.rows.origins.trace(origin));
                let (value, headers) = (Some(event.structured()?), headers.finish());
                let record = Record { value, headers, rows: 1, arrived, ..Record::default() };
                made.push(origin, &to, record);
            }
        }
        Ok(made)
    }

    /// The rows of which a record would be too large for the bus.
    fn too_large(&self, made: &Records) -> BTreeMap<usize, Reject> {
        let limit = self.max_record_bytes;
        let all = [&made.results, &made.events].into_iter().flat_map(|made| made.outgoing.iter().zip(&made.origins));
        let sizes = all.map(|(outgoing, row)| (outgoing.record.size_bytes(), *row));
        let too_large = sizes.filter(|(bytes, _)| *bytes > limit);
        too_large
            .map(|(bytes, row)| {
                let message = format!("a message of {bytes} bytes is too large for the bus, which takes {limit}");
                (row, Reject { row, class: Class::TooLarge, message })
            })
            .collect()
    }

    /// How many rows it has published to each partition.
    pub fn sent(&self) -> &[u64] {
        &self.sent
    }

    /// Whether results leave the pipeline by a connector.
    pub fn is_sink(&self) -> bool {
        matches!(self.to, To::Sink { .. })
    }

    /// Goes to where a commit left it.
    pub async fn resume(&mut self, committed: &Checkpoint) -> Result<(), connector::Error> {
        self.rows_out = committed.counts.rows_out;
        self.sent.clone_from(&committed.sent);
        if let Some(books) = &mut self.books {
            books.resume(committed);
        }
        match &mut self.to {
            To::Sink { encoder, sink } => sink.resume(committed.sink.clone(), encoder.head()).await,
            To::Topic(_) => Ok(()),
        }
    }

    /// Writes the text of a step to the sink.
    pub async fn write(&mut self, text: Text) -> Result<(), connector::Error> {
        match &mut self.to {
            To::Sink { sink, .. } if !text.bytes.is_empty() => sink.write(text).await,
            _ => Ok(()),
        }
    }

    /// Gives the sink's position once what was written to it is durable.
    pub async fn flush(&mut self) -> Result<Option<Position>, connector::Error> {
        match &mut self.to {
            To::Sink { sink, .. } => sink.flush().await.map(Some),
            To::Topic(_) => Ok(None),
        }
    }

    fn dead_letter(&self, letter: DeadLetter) -> Outgoing {
        let record = letter.into_record(self.max_record_bytes.saturating_sub(HEADROOM_BYTES));
        Outgoing { to: self.dead_letters.partition(self.task), record }
    }
}

/// The records that a batch becomes.
struct Records {
    results: Made,
    events: Made,
}

/// Rows as a stage's task 0 would publish them, had it made them.
pub(crate) fn results_of(
    stage: &Stage,
    batch: RecordBatch,
    max_record_bytes: usize,
) -> Result<Vec<Outgoing>, TaskError> {
    let mut outlet = Outlet::new(stage, 0, To::Topic(Box::new(Published::results(stage))), max_record_bytes);
    let part =
        |batch| Processed::unchanged(Rows { input: 0, batch, origins: Origins::Messages(Vec::new()), watermark: None });
    let moments = Moments { since: 0, polled: 0, commit: 0 };
    if !stage.is_heard {
        return Ok(outlet.encode(Vec::new(), moments, vec![part(batch)])?.results);
    }
    // Row by row, so that each is late or not as it stands behind the others.
    let mut clock = Clock::new(stage, &[]);
    let mut parts = Vec::with_capacity(batch.num_rows() + 1);
    for row in 0..batch.num_rows() {
        let row = batch.slice(row, 1);
        clock.see(&row);
        parts.push(Processed { watermark: clock.say(None), ..part(row) });
    }
    parts.push(Processed {
        watermark: Some(Said { watermark: Status::End.at_no_time(), run: 0 }),
        ..part(batch.slice(0, 0))
    });
    Ok(outlet.encode(Vec::new(), moments, parts)?.results)
}

/// A stage as the source of CloudEvents: `/<company>/<namespace>/<stage>`.
pub(super) fn source(full_name: &str) -> String {
    format!("/{}", full_name.replace('.', "/"))
}
