//! `fidelio graph`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::bus::Channel;
use crate::topology::{Stage, Topology, Work};

use super::output::{counted, print};
use super::pipeline;

/// Print a pipeline as a Mermaid flowchart.
///
/// It has the stages and the topics between them with their partitions; GitHub, GitLab and <https://mermaid.live> draw
/// it. Sources lean right, sinks lean left, topics of domain events are round, and topics of others are drums.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// Pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match pipeline::load(&args.file) {
        Ok((_, topology)) => print(&mermaid(&topology)),
        Err(status) => status,
    }
}

/// The topology in Mermaid's words. Stages have numbers there, since not every name would do.
fn mermaid(topology: &Topology) -> String {
    let mut out = "flowchart LR\n".to_owned();
    for (number, stage) in topology.stages.iter().enumerate() {
        out.push_str(&format!("  s{number}{}\n", shape(stage)));
    }
    for (number, stage) in topology.stages.iter().enumerate() {
        if let Some(topic) = stage.reads() {
            out.push_str(&format!("  i{number}[(\"{topic}\")] --> s{number}\n"));
        }
        if let Some(topic) = stage.writes() {
            out.push_str(&format!("  s{number} --> o{number}[(\"{topic}\")]\n"));
        }
        for from in &stage.from {
            let feeder = topology.stages.iter().enumerate().find(|(_, feeder)| feeder.name == *from);
            if let Some((feeder_number, feeder)) = feeder {
                let partitions = partitions(feeder.partitions);
                let topic = format!("{}<br/>{partitions}", feeder.results());
                out.push_str(&format!("  s{feeder_number} -->|\"{topic}\"| s{number}\n"));
            }
        }
        if !stage.events.is_empty() {
            let types: Vec<&str> = stage.events.iter().map(|(name, _)| &**name).collect();
            let partitions = stage.reads().map_or_else(|| partitions(stage.tasks), |read| format!("as {read}"));
            let topic = format!("{}<br/>{partitions}", stage.topic(Channel::Events));
            out.push_str(&format!("  s{number} -.->|\"{}\"| e{number}([\"{topic}\"])\n", types.join(", ")));
        }
    }
    out
}

fn shape(stage: &Stage) -> String {
    let name = &stage.name;
    match stage.work {
        Work::Source(_) => format!("[/\"{name}<br/>source\"/]"),
        Work::Sql(_) => format!("[\"{name}<br/>sql\"]"),
        Work::Sink(_) => format!("[\\\"{name}<br/>sink\"\\]"),
    }
}

fn partitions(number: u32) -> String {
    counted(usize::try_from(number).unwrap_or(usize::MAX), "partition")
}
