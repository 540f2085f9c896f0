//! `fidelio check`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use crate::config::{Bus, Error, Fault, Faulty, Pipeline};

use super::output::{counted, print, print_json};
use super::{BAD_PIPELINE, diagnostics, pipeline};

/// Say all that is wrong with pipelines, without running them.
///
/// All faults of a file are shown at once: those in its TOML and its SQL, and where stages, columns, partitions, topics
/// and files do not fit together. Nothing is written and no bus is touched. Of pipelines that share a data directory it
/// is also said where two of them would own the same topic.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// Pipeline files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print faults as a JSON array on standard output
    ///
    /// Each is an object with file, line, column, end, message, label and help. Lines and columns count from 1, columns
    /// in characters. A file that cannot be read has only file and message.
    #[arg(long)]
    json: bool,
}

/// Who owns which topics: where the bus is and the full name of a stage, and the file that has it.
type Owners = BTreeMap<(String, String), PathBuf>;

pub(super) fn run(args: &Args) -> ExitCode {
    let mut owners = Owners::new();
    let outcomes: Vec<_> = args.files.iter().map(|file| (file, check(file, &mut owners))).collect();
    let sound = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    let printed = if args.json { as_json(&outcomes) } else { as_text(&outcomes) };
    if sound { printed } else { ExitCode::from(BAD_PIPELINE) }
}

/// Checks one file and gives the number of its stages.
fn check(file: &Path, owners: &mut Owners) -> Result<usize, Error> {
    let (pipeline, topology) = pipeline::read(file)?;
    let faults = claim(&pipeline, file, owners);
    if faults.is_empty() {
        return Ok(topology.stages.len());
    }
    Err(Error::Faulty(Faulty { file: pipeline.file, text: pipeline.text, faults }))
}

/// Notes the stages of a pipeline as owners of their topics, and says which of those belong to another file's.
fn claim(pipeline: &Pipeline, file: &Path, owners: &mut Owners) -> Vec<Fault> {
    let place = match &pipeline.bus {
        Bus::Embedded(bus) => bus.data_dir.display().to_string(),
        Bus::Kafka(bus) => bus.brokers.clone(),
    };
    let mut faults = Vec::new();
    for stage in &pipeline.stages {
        let name = format!("{}.{}.{}", pipeline.company.value, pipeline.namespace.value, stage.name.value);
        match owners.get(&(place.clone(), name.clone())) {
            Some(owner) => {
                let owner = owner.display();
                let message =
                    format!("the topics of stage `{}` are owned by a stage of {owner} already", stage.name.value);
                let help = "a topic has one owner: give one of the pipelines another namespace or data directory";
                faults.push(Fault::new(stage.name.span.clone(), message).label("the second owner").help(help));
            }
            None => {
                owners.insert((place.clone(), name), file.to_owned());
            }
        }
    }
    faults
}

fn as_json(outcomes: &[(&PathBuf, Result<usize, Error>)]) -> ExitCode {
    let errors = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err());
    print_json(&Value::Array(errors.flat_map(diagnostics::objects).collect()))
}

fn as_text(outcomes: &[(&PathBuf, Result<usize, Error>)]) -> ExitCode {
    let mut lines = String::new();
    for (file, outcome) in outcomes {
        match outcome {
            Ok(stages) => lines.push_str(&format!("{}: ok, {}\n", file.display(), counted(*stages, "stage"))),
            Err(error) => diagnostics::report(error),
        }
    }
    print(&lines)
}
