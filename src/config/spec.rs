//! A pipeline as its file says it, validated value by value.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

/// A value and the bytes of the pipeline file that say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place in the file, in bytes.
    pub span: Range<usize>,
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
}

/// `[bus]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bus {
    /// The log that comes with Fidelio, in one data directory.
    Embedded(Embedded),
}

/// `[bus]` with `kind = "embedded"`, which is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedded {
    /// `data_dir`: where the log lives; `data` beside the pipeline file by default.
    pub data_dir: PathBuf,
    /// `sync`: when a commit is durable.
    pub sync: Sync,
    /// `retention`: when messages of results and events may go, for topics whose stage says nothing.
    pub retention: Retention,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sql {
    /// The text.
    pub text: String,
    /// Its place in the file, in bytes, without the quotes.
    pub span: Range<usize>,
    /// Whether the text stands in the file as it is, so that byte `i` of it is byte `span.start + i` of the file.
    pub verbatim: bool,
}

/// `NAME = "type"` or `NAME = "type not null"` under `[stages.NAME.schema]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: Spanned<String>,
    /// Its SQL type, as written.
    pub sql_type: Sql,
}

/// `event_time = { column = "…", out_of_orderness = "24h" }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTime {
    /// The column of the stage's results that says when the row's event happened.
    pub column: Spanned<String>,
    /// How much later than a newer one a row can still come.
    pub out_of_orderness: Duration,
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
pub struct Source {
    /// `kind` and what is particular to it.
    pub input: Input,
    /// `format`; of a file by default what its name says (`.csv`, `.ndjson`, `.jsonl`, `.json`, before `.gz` or `.zst`).
    pub format: LineFormat,
    /// `null`: the text that stands for null in a CSV field, beside the empty one.
    pub null: Option<String>,
    /// `max_row_bytes`: a longer row becomes a dead letter; 64 MiB by default.
    pub max_row_bytes: usize,
}

/// Where a source reads.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// `sink = { kind = …, … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// `kind` and what is particular to it.
    pub output: Output,
    /// `format`; of a file by default what its name says.
    pub format: LineFormat,
}

/// Where a sink writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `kind = "file"`
    File {
        /// `path`, already relative to the working directory; `{partition}` in it stands for the task's number.
        path: PathBuf,
    },
    /// `kind = "stdout"`
    Stdout,
}

/// `[[tests]]`
#[derive(Debug, Clone)]
pub struct Test {
    /// `name`: a sentence about behaviour.
    pub name: Spanned<String>,
    /// `stage`: whose results `expect` is about.
    pub stage: Spanned<String>,
    /// `given`: for stages by name, the rows of their results.
    pub given: Vec<(Spanned<String>, Vec<Map<String, Value>>)>,
    /// `expect`: the rows of the stage's results, in order.
    pub expect: Option<Vec<Map<String, Value>>>,
    /// `expect_events`: the stage's domain events, in order, each with `type` and `data`.
    pub expect_events: Option<Vec<Map<String, Value>>>,
    /// `expect_dead_letters`: the stage's dead letters, in order: any of `class`, `message`, `row`.
    pub expect_dead_letters: Option<Vec<Map<String, Value>>>,
}
