//! `fidelio dlq list`: the dead letters of a pipeline, also beside a running worker.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::bus::{self, Channel, Limit, Log, Topic};
use crate::cli::{exit, pipeline, rows};
use crate::failure::DeadLetter;
use crate::topology::Topology;

/// How much is read at once.
const READ: Limit = Limit { rows: 1 << 12, bytes: 8 << 20 };
/// How much of a dead letter's message and of its value a line shows, in characters each.
const SHOWN: usize = 120;

/// Look at dead letters: rows that a stage could not process
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the dead letters of a pipeline's stages, also beside a running worker
    List(ListArgs),
}

/// List the dead letters of a pipeline's stages, also beside a running worker
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct ListArgs {
    /// The pipeline file.
    file: PathBuf,
    /// Only those of this stage.
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Where the embedded log lives, instead of where the pipeline says.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print a JSON object a line, with everything there is to know.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Command) -> ExitCode {
    let Command::List(args) = command;
    let (pipeline, topology) = match pipeline::load(&args.file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Some(name) = &args.stage
        && topology.stage(name).is_none()
    {
        return exit::usage(&format!("the pipeline has no stage {name}"));
    }
    let listed = match bus::open_log(&pipeline.bus, args.data_dir.as_deref()) {
        Ok(log) => list(log.as_ref(), &topology, &args).await,
        Err(error) => Err(error.into()),
    };
    match listed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => exit::failed_with(error.as_ref(), &pipeline.secrets),
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn list(log: &dyn Log, topology: &Topology, args: &ListArgs) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for stage in &topology.stages {
        if args.stage.as_deref().is_some_and(|name| *name != *stage.name) {
            continue;
        }
        let topic = Topic::of(&stage.full_name, Channel::DeadLetters);
        let extents = match log.extents(&topic).await {
            // The pipeline has not run on this data, so there are none.
            Err(bus::Error::UnknownTopic(_)) => continue,
            extents => extents?,
        };
        for (number, extent) in (0..).zip(extents) {
            let mut next = extent.start;
            while next < extent.end {
                let messages = log.read(&topic.partition(number), next, READ, Duration::ZERO).await?;
                let Some(last) = messages.last() else { break };
                next = last.offset + 1;
                for message in &messages {
                    if let Some(letter) = DeadLetter::from_message(message) {
                        let object = rows::dead_letter(&letter, message);
                        let line = if args.json { object.to_string() } else { line(&letter, object.get("value")) };
                        writeln!(out, "{line}")?;
                    }
                }
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn line(letter: &DeadLetter, value: Option<&Value>) -> String {
    let value = match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let (stage, class, origin) = (&letter.stage, letter.class.as_str(), &letter.origin);
    format!("{stage}  {class}  {origin}  {}  {}", plain(&letter.message), plain(&value))
}

/// The start of a text, without anything that a terminal would act on.
fn plain(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
