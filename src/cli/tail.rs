//! `fidelio tail`: the rows of a topic, as NDJSON, also beside a running worker.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::bus::{self, Channel, Limit, Log, Topic, embedded};
use crate::cli::{exit, pipeline, rows};
use crate::config::Secrets;

/// How much is read at once.
const READ: Limit = Limit { rows: 1 << 14, bytes: 8 << 20 };
/// How long a follower waits for a message in one partition before it looks at the next.
const WAIT: Duration = Duration::from_millis(50);

/// Print the rows of a topic as NDJSON, whatever format they have on the bus
///
/// From the oldest row that is kept, partition by partition. Works beside a running worker. Only committed rows are shown.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// A topic's full name, such as acme.flights.delays.results; or a stage's name, which stands for its results.
    name: String,
    /// The pipeline file, which says where the embedded log lives and which topics a stage has.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Where the embedded log lives, instead of where the pipeline says; without either, ./data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print only this many messages of each partition, the last ones.
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<u64>,
    /// Wait for more.
    #[arg(long, short)]
    follow: bool,
    /// Print each row as {"partition", "offset", "key", "row"}.
    #[arg(long)]
    meta: bool,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let mut secrets = Secrets::default();
    let log = match &args.pipeline {
        Some(file) => match pipeline::load(file) {
            Ok((pipeline, _)) => {
                secrets = pipeline.secrets;
                bus::open_log(&pipeline.bus, args.data_dir.as_deref())
            }
            Err(code) => return code,
        },
        None => {
            let dir = args.data_dir.as_deref().unwrap_or(Path::new("data"));
            embedded::Reader::open(dir).map(|log| Arc::new(log) as Arc<dyn Log>)
        }
    };
    let done = match log {
        Ok(log) => tail(&args, log.as_ref()).await,
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => exit::failed_with(&error, &secrets),
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    #[error("{0} is a sink: it has no results, only what it wrote")]
    Sink(String),
    #[error("there is no topic or stage {name}; there are: {known}")]
    Unknown { name: String, known: String },
    #[error("{name} could be any of {candidates}; give the topic's full name")]
    Ambiguous { name: String, candidates: String },
}

async fn tail(args: &Args, log: &dyn Log) -> Result<(), Error> {
    let topic = find(&args.name, log.topics().await?)?;
    let extents = log.extents(&topic).await?;
    let mut next = Vec::with_capacity(extents.len());
    for (number, extent) in (0..).zip(&extents) {
        next.push(match args.last {
            Some(last) => log.tail(&topic.partition(number), *extent, last).await?,
            None => extent.start,
        });
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    loop {
        let mut idle = true;
        for ((number, next), extent) in (0..).zip(next.iter_mut()).zip(&extents) {
            // What comes while others are printed is for the next time, or this would not end beside a busy writer.
            if !args.follow && *next >= extent.end {
                continue;
            }
            let wait = if args.follow { WAIT } else { Duration::ZERO };
            let messages = match log.read(&topic.partition(number), *next, READ, wait).await {
                Err(bus::Error::OutOfRange { extent, .. }) if *next < extent.start => {
                    eprintln!(
                        "fidelio: retention has deleted messages {next} up to {} of partition {number}",
                        extent.start
                    );
                    *next = extent.start;
                    idle = false;
                    continue;
                }
                messages => messages?,
            };
            for message in messages.iter().filter(|message| args.follow || message.offset < extent.end) {
                *next = message.offset + 1;
                idle = false;
                for row in rows::rows(message) {
                    match args.meta {
                        true => writeln!(
                            out,
                            r#"{{"partition":{number},"offset":{},"key":{},"row":{row}}}"#,
                            message.offset,
                            json!(message.record.key.as_deref().map(String::from_utf8_lossy)),
                        )?,
                        false => writeln!(out, "{row}")?,
                    }
                }
            }
        }
        if idle && !args.follow {
            return Ok(out.flush()?);
        }
        out.flush()?;
    }
}

/// The topic of that full name, or the results of the stage of that name.
fn find(name: &str, topics: Vec<Topic>) -> Result<Topic, Error> {
    if let Some(topic) = topics.iter().find(|topic| topic.as_str() == name) {
        return Ok(topic.clone());
    }
    let ending = format!(".{name}.{}", Channel::Results.suffix());
    let mut candidates: Vec<Topic> = topics.iter().filter(|topic| topic.as_str().ends_with(&ending)).cloned().collect();
    match (candidates.pop(), candidates.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            candidates.push(last);
            Err(Error::Ambiguous { name: name.to_owned(), candidates: names(&candidates) })
        }
        (None, _) if ran(name, &topics) => Err(Error::Sink(name.to_owned())),
        (None, _) => Err(Error::Unknown { name: name.to_owned(), known: names(&topics) }),
    }
}

/// Whether a stage of that name has run, which leaves a checkpoint topic.
fn ran(name: &str, topics: &[Topic]) -> bool {
    let ending = format!(".{name}.{}", Channel::Checkpoint.suffix());
    topics.iter().any(|topic| topic.as_str().ends_with(&ending))
}

fn names(topics: &[Topic]) -> String {
    topics.iter().map(Topic::as_str).collect::<Vec<_>>().join(", ")
}
