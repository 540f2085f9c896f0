//! A pipeline as its file says it, validated value by value.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::text::{self, Secrets};

/// The most partitions that a topic can have.
pub const MAX_PARTITIONS: u32 = 1024;

/// A value and the bytes of the pipeline file that say it.
#[derive(Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place in the file, in bytes; of a string, without the quotes.
    pub span: Range<usize>,
    /// Whether `${NAME}` is in it, so that it must not be shown.
    pub from_env: bool,
}

impl<T> Spanned<T> {
    /// A value that stands in the file as it is.
    pub fn new(value: T, span: Range<usize>) -> Self {
        Self { value, span, from_env: false }
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from_env {
            write!(f, "${{…}} @ {:?}", self.span)
        } else {
            write!(f, "{:?} @ {:?}", self.value, self.span)
        }
    }
}

/// One pipeline file.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// First part of every topic's name.
    pub company: Spanned<String>,
    /// Second part of every topic's name.
    pub namespace: Spanned<String>,
    /// The bus that its topics are on.
    pub bus: Bus,
    /// `[slo]`: what is promised of the minutes of each sink that has no promise of its own.
    pub slo: Option<Spanned<Slo>>,
    /// `[tracing]`: where spans go, if anywhere.
    pub tracing: Option<Tracing>,
    /// Its stages, in the order of the file.
    pub stages: Vec<Stage>,
    /// The tests it carries.
    pub tests: Vec<Test>,
    /// The folder that relative paths are relative to: the file's own.
    pub dir: PathBuf,
    /// The text of the file, for showing faults in it.
    pub text: Arc<str>,
    /// The name of the file, for showing faults in it.
    pub file: Arc<str>,
    /// What of it is from the environment.
    pub secrets: Secrets,
}

/// `[bus]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bus {
    /// The log that comes with Fidelio, in one data directory.
    Embedded(Embedded),
    /// A Kafka cluster.
    Kafka(Kafka),
}

impl Bus {
    /// `retention`: when messages of results and events may go, for topics whose stage says nothing; after 7 days by
    /// default.
    pub fn retention(&self) -> Retention {
        match self {
            Bus::Embedded(bus) => bus.retention,
            Bus::Kafka(bus) => bus.retention,
        }
    }
}

/// `[bus]` with `kind = "kafka"`.
#[derive(Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `brokers`: where to find the cluster, `HOST:PORT` with commas between them.
    pub brokers: String,
    /// `replication`: copies of each topic that is made; as many as the cluster makes by itself if `None`.
    pub replication: Option<u32>,
    /// `min_insync_replicas`: copies that a message has to reach; as the cluster has it if `None`.
    pub min_insync_replicas: Option<u32>,
    /// `max_message_bytes`: the largest message; 1 MB by default.
    pub max_message_bytes: usize,
    /// `retention`: see [`Bus::retention`].
    pub retention: Retention,
    /// `on_data_loss`: what a stage does where it has still to read what the cluster has deleted; it stops by default.
    pub on_data_loss: OnDataLoss,
    /// `[bus.properties]`: properties of librdkafka, for example for TLS and SASL.
    pub properties: Vec<(String, String)>,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("retention", &self.retention).finish_non_exhaustive()
    }
}

/// What a stage does that has still to read what is gone: because retention has deleted it, or because the topic is another
/// one under the same name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDataLoss {
    /// `"stop"`: it ends with an error that says what is gone.
    #[default]
    Stop,
    /// `"earliest"`: it goes on from the oldest message there is, says so, and counts what is gone.
    Earliest,
}

/// `[bus]` with `kind = "embedded"`, which is the default.
#[derive(Clone, PartialEq, Eq)]
pub struct Embedded {
    /// `data_dir`: where the log lives; `data` beside the pipeline file by default.
    pub data_dir: PathBuf,
    /// `sync`: when a commit is durable; with each commit by default.
    pub sync: Sync,
    /// `retention`: when messages of results and events may go, for topics whose stage says nothing; after 7 days by
    /// default.
    pub retention: Retention,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("sync", &self.sync).field("retention", &self.retention).finish_non_exhaustive()
    }
}

/// When what was committed reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// `"commit"`: before the commit returns. A power cut loses nothing.
    Commit,
    /// `"100ms"`, or any other interval: that often. A power cut loses at most that much.
    Every(Duration),
    /// `"never"`: when the operating system likes. A power cut may lose the latest commits; a kill -9 loses nothing.
    Never,
}

/// `retention = { age = "7d", bytes = "1GB" }`: how long and how much of a partition is kept at least after its
/// consumers have read it; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Counted from when a message was written.
    pub age: Option<Duration>,
    /// Of each partition.
    pub bytes: Option<u64>,
}

/// `[stages.NAME]`
#[derive(Debug, Clone)]
pub struct Stage {
    /// NAME: `[a-z][a-z0-9-]*`.
    pub name: Spanned<String>,
    /// `from`: the stages whose results it consumes.
    pub from: Vec<Spanned<String>>,
    /// `source`, `sql` or `sink`.
    pub work: Work,
    /// `schema`: the contract of its results, column by column, as SQL types; empty if not given.
    pub schema: Vec<Column>,
    /// `event_time`
    pub event_time: Option<EventTime>,
    /// `late` and `correct_for`: for how long windows that have closed are corrected; not at all by default.
    pub corrects_for: Option<Spanned<Duration>>,
    /// `emit`: whether windows also yield early what they would if they closed; not by default.
    pub emits_early: Option<Spanned<()>>,
    /// `state_limit`: bytes of memory that what a task keeps may take; 1 GB by default.
    pub state_limit: Option<Spanned<u64>>,
    /// `state_ttl`: how long in event time rows are kept that nothing else limits.
    pub state_ttl: Option<Spanned<Duration>>,
    /// `key`: columns of its results that say which partition a row goes to.
    pub key: Vec<Spanned<String>>,
    /// `partitions`: of its results.
    pub partitions: Option<Spanned<u32>>,
    /// `events`: name of the event type and the SQL over the stage's own results that yields its data.
    pub events: Vec<Event>,
    /// `format`: of its results.
    pub format: Format,
    /// `retention`: of its results and events.
    pub retention: Option<Retention>,
    /// `[stages.NAME.slo]`: what is promised of its minutes.
    pub slo: Option<Spanned<Slo>>,
}

/// `[tracing]`: spans of sampled rows, for a collector that speaks OTLP.
#[derive(Clone, PartialEq)]
pub struct Tracing {
    /// `endpoint`: where it listens for OTLP over HTTP, without the path.
    pub endpoint: String,
    /// `headers`: what it is told with each request, such as a token.
    pub headers: Vec<(String, String)>,
    /// `sample`: the part of the rows that come in without a trace which begins one; none by default.
    pub sample: f64,
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing").field("sample", &self.sample).finish_non_exhaustive()
    }
}

/// `[slo]`: what is promised of every minute of event time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slo {
    /// `lag_p95`, or another quantile
    pub lag: Option<LagObjective>,
    /// `loss`: rows that may be lost in a minute; none by default.
    pub loss: u64,
    /// `target`: the part of the minutes that is to be good; 99.9% by default.
    pub target: f64,
}

/// How soon after their events rows are to leave a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LagObjective {
    /// The part of the rows of which it is promised.
    pub quantile: f64,
    /// How soon.
    pub most: Duration,
}

/// What a stage does.
#[derive(Debug, Clone)]
pub enum Work {
    /// `source = { … }`: it brings rows in.
    Source(Spanned<Source>),
    /// `sql = "…"`: it transforms rows.
    Sql(Sql),
    /// `sink = { … }`: it takes rows out.
    Sink(Spanned<Sink>),
}

/// An SQL text in the pipeline file.
#[derive(Clone, PartialEq, Eq)]
pub struct Sql {
    /// The text.
    pub text: String,
    /// Its place in the file, in bytes, without the quotes.
    pub span: Range<usize>,
    /// Whether `${NAME}` is in it, so that neither it nor a message that could quote it must be shown.
    pub from_env: bool,
}

impl Sql {
    /// Where in `file`, the text of the pipeline file, bytes of this text are written: the whole of it where they do
    /// not stand there as such.
    pub fn place(&self, file: &str, bytes: &Range<usize>) -> Range<usize> {
        let raw = file.get(self.span.clone()).unwrap_or_default();
        let escapes = !file.get(self.span.end..).is_some_and(|after| after.starts_with('\''));
        match text::locate(raw, escapes, &self.text, bytes) {
            Some(at) => self.span.start + at.start..self.span.start + at.end,
            None => self.span.clone(),
        }
    }
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.from_env { "${…}" } else { &self.text })
    }
}

/// `NAME = "type"` or `NAME = "type not null"` under `[stages.NAME.schema]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: Spanned<String>,
    /// Its SQL type, as written.
    pub sql_type: Sql,
}

/// `event_time = { column = "…", out_of_orderness = "24h", idle_after = "1m" }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTime {
    /// The column of the stage's results that says when the row's event happened.
    pub column: Spanned<String>,
    /// How much later than a newer one a row can still come; not at all by default.
    pub out_of_orderness: Duration,
    /// After how long without rows nobody waits for the stage any more; they wait for ever by default.
    pub idle_after: Option<Duration>,
}

/// A domain event of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type, for example `SevereDelay`.
    pub name: Spanned<String>,
    /// The query over the stage's own results: a row of it is an event's data.
    pub sql: Sql,
}

/// The format of a stage's results on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `"arrow"`: a message is an Arrow IPC stream of one batch.
    #[default]
    Arrow,
    /// `"json"`: a message is one row.
    Json,
}

/// The format of a file's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// `"ndjson"`: a JSON object a line.
    Ndjson,
    /// `"csv"`: comma-separated, with a header line.
    Csv,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `"none"`
    None,
    /// `"gzip"`
    Gzip,
    /// `"zstd"`
    Zstd,
}

/// `source = { kind = …, … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Rows that stand in lines.
    Lines(LineSource),
    /// `kind = "topic"`
    Topic(TopicSource),
    /// `kind = "nexmark"`
    Nexmark(NexmarkSource),
}

impl Source {
    /// Whether rows never end.
    pub fn has_no_end(&self) -> bool {
        match self {
            Source::Lines(lines) => matches!(lines.input, Input::File { follow: true, .. }),
            Source::Topic(topic) => topic.follow,
            Source::Nexmark(nexmark) => nexmark.events.is_none(),
        }
    }

    /// Whether rows come in as their events happen.
    pub fn is_live(&self) -> bool {
        match self {
            Source::Lines(LineSource { input: Input::Stdin, .. }) => true,
            Source::Nexmark(nexmark) => nexmark.rate.is_some(),
            source => source.has_no_end(),
        }
    }
}

/// A source of rows that stand in lines.
#[derive(Clone, PartialEq, Eq)]
pub struct LineSource {
    /// `kind` and what is particular to it.
    pub input: Input,
    /// `format`; of a file by default what its name says (`.csv`, `.ndjson`, `.jsonl`, `.json`, before `.gz` or `.zst`),
    /// of standard input `ndjson`.
    pub format: LineFormat,
    /// `null`: the text that stands for null in a CSV field, beside the empty one.
    pub null: Option<String>,
    /// `max_row_bytes`: a longer row becomes a dead letter; 64 MiB by default, 1 GiB at most.
    pub max_row_bytes: usize,
}

impl fmt::Debug for LineSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineSource").field("input", &self.input).field("format", &self.format).finish_non_exhaustive()
    }
}

/// Where a source reads.
#[derive(Clone, PartialEq, Eq)]
pub enum Input {
    /// `kind = "file"`
    File {
        /// `path`: a path, or a pattern with `*`, `?`, `[…]` and `**`, already relative to the working directory.
        path: PathBuf,
        /// `compression`; by default what each file's name says (`.gz`, `.zst`).
        compression: Option<Compression>,
        /// `follow`: whether to wait for more at the end, across rotation, and for more files that match.
        follow: bool,
    },
    /// `kind = "stdin"`
    Stdin,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Input::File { .. } => "File { .. }",
            Input::Stdin => "Stdin",
        })
    }
}

/// `sink = { kind = …, … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Rows are written as lines.
    Lines(LineSink),
    /// `kind = "topic"`
    Topic(TopicSink),
}

/// A sink that writes rows as lines.
#[derive(Clone, PartialEq, Eq)]
pub struct LineSink {
    /// `kind` and what is particular to it.
    pub output: Output,
    /// `format`; of a file by default what its name says, of standard output `ndjson`.
    pub format: LineFormat,
}

impl fmt::Debug for LineSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineSink").field("output", &self.output).field("format", &self.format).finish()
    }
}

/// Where a sink writes.
#[derive(Clone, PartialEq, Eq)]
pub enum Output {
    /// `kind = "file"`
    File {
        /// `path`, already relative to the working directory; `{partition}` in it stands for the task's number.
        path: PathBuf,
    },
    /// `kind = "stdout"`
    Stdout,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Output::File { .. } => "File { .. }",
            Output::Stdout => "Stdout",
        })
    }
}

/// A source that reads a topic of the bus that others own: messages that are a JSON object each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSource {
    /// `topic`: its name.
    pub topic: Spanned<String>,
    /// `columns`: which columns of the schema are parts of a message beside its value.
    pub columns: Vec<(Part, Spanned<String>)>,
    /// `follow`: whether to wait for more at the end, which it does by default. If not, what is there when the run starts is
    /// all.
    pub follow: bool,
}

/// A source of the events of Nexmark, the benchmark of an auction site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NexmarkSource {
    /// `event`: which of the events.
    pub event: NexmarkEvent,
    /// `events`: how many events of all three kinds there are; no end to them if `None`.
    pub events: Option<u64>,
    /// `rate`: how many events of all three kinds happen in a second, of the clock as of event time. If `None`, they come as
    /// fast as they can and happened in 2015, 10,000 in a second.
    pub rate: Option<u32>,
}

/// An event of Nexmark. Of 50 in a row, 1 is a person, 3 are auctions and 46 bids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NexmarkEvent {
    /// `"person"`: somebody registers.
    Person,
    /// `"auction"`: somebody opens an auction.
    Auction,
    /// `"bid"`: somebody bids in an auction.
    Bid,
}

/// A part of a message beside its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `key`: null where there is none.
    Key,
    /// `headers`: a JSON object of their values by name; of several of one name the last.
    Headers,
    /// `timestamp`: when it happened or was written, as whoever wrote it says.
    Timestamp,
    /// `partition`: the number of the partition.
    Partition,
    /// `offset`: the place in the partition.
    Offset,
    /// `tombstone`: whether there is no value, in which case the columns of the value are null.
    Tombstone,
}

/// A sink that writes a topic of the bus that others own: a JSON object a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSink {
    /// `topic`: its name.
    pub topic: Spanned<String>,
    /// `key`: columns that make up a message's key, and so say which partition it goes to.
    pub key: Vec<Spanned<String>>,
    /// `tombstone`: a column that is true for messages without a value; it is no part of the value.
    pub tombstone: Option<Spanned<String>>,
    /// `partitions`: with how many the topic is made where it does not exist; if `None`, it has to.
    pub partitions: Option<u32>,
}

/// `[[tests]]`: an example of what a stage makes of given rows. Its texts are taken as they stand: `${NAME}` means
/// nothing in them.
#[derive(Debug, Clone)]
pub struct Test {
    /// `name`: a sentence about behaviour.
    pub name: Spanned<String>,
    /// `stage`: whose results `expect` is about.
    pub stage: Spanned<String>,
    /// `given`: for stages by name, the rows of their results.
    pub given: Vec<(Spanned<String>, Vec<Row>)>,
    /// `expect`: the rows of the stage's results, in order.
    pub expect: Option<Vec<Row>>,
    /// `expect_events`: the stage's domain events, in order, each with `type` and `data`.
    pub expect_events: Option<Vec<Row>>,
    /// `expect_dead_letters`: the stage's dead letters, in order: any of `class`, `message`, `row`.
    pub expect_dead_letters: Option<Vec<Row>>,
}

/// A row of a test, as a JSON object. Dates and times are texts as TOML has them; a column that is left out is null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its values.
    pub values: Map<String, Value>,
    /// Where each of its columns is named, in the order of the file.
    pub columns: Vec<Spanned<String>>,
    /// Its place in the file, in bytes.
    pub span: Range<usize>,
}
