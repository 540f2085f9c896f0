//! `fidelio forget`: gives up what is kept for stages that were taken out of a pipeline.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::bus::{self, Channel, Topic};
use crate::cli::{exit, pipeline};
use crate::config::Pipeline;
use crate::topology::Topology;

/// Give up what is kept for stages that were taken out of a pipeline
///
/// What a stage has not read is kept for it, also once it is no longer in the pipeline, in case it comes back. This says
/// that it does not, and cannot be undone: a stage of that name could not go on from where it was, so one that is to do
/// the same again needs another name, and a sink another path. Its own topics stay as they are, under their retention.
/// Not beside a running worker.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// The pipeline file.
    file: PathBuf,
    /// The stages, as they were called.
    #[arg(required = true, value_name = "STAGE")]
    stages: Vec<String>,
    /// Where the embedded log lives, instead of where the pipeline says.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let (pipeline, topology) = match pipeline::load(&args.file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Some(name) = args.stages.iter().find(|name| topology.stage(name).is_some()) {
        return exit::usage(&format!("{name} is a stage of the pipeline: take it out first"));
    }
    match forget(&pipeline, &topology, &args).await {
        Ok(unknown) if unknown.is_empty() => ExitCode::SUCCESS,
        Ok(unknown) => exit::usage(&format!("no stage of that name ever ran in this pipeline: {}", unknown.join(", "))),
        Err(error) => exit::failed_with(&error, &pipeline.secrets),
    }
}

/// Forgets all stages, unless some of them are unknown, which are given back.
async fn forget(pipeline: &Pipeline, topology: &Topology, args: &Args) -> bus::Result<Vec<String>> {
    let data_dir = args.data_dir.as_deref();
    // Where there is no log, this makes none.
    bus::open_log(&pipeline.bus, data_dir)?;
    let bus = bus::open(&pipeline.bus, data_dir)?;
    let name = |stage: &str| format!("{}.{stage}", topology.prefix);
    let mut unknown = Vec::new();
    for stage in &args.stages {
        match bus.extents(&Topic::of(&name(stage), Channel::Checkpoint)).await {
            Ok(_) => {}
            Err(bus::Error::UnknownTopic(_)) => unknown.push(stage.clone()),
            Err(error) => return Err(error),
        }
    }
    if unknown.is_empty() {
        for stage in &args.stages {
            bus.forget(&name(stage)).await?;
            eprintln!("{stage} is forgotten");
        }
    }
    bus.close().await?;
    Ok(unknown)
}
