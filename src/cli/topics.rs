//! `fidelio topics`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::bus::{Channel, Cleanup, TopicSpec};
use crate::config::Format;
use crate::topology::{Stage, Topology};

use super::output::{duration, print, print_json, size};
use super::pipeline;

const CHANNELS: [Channel; 5] =
    [Channel::Results, Channel::Events, Channel::Commands, Channel::DeadLetters, Channel::Checkpoint];

/// List the topics of a pipeline.
///
/// Each with the stage that owns it, the number of its partitions, the format of its messages, how long they are kept
/// at least, and the stages that read it. Events are for anyone.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// Pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print a JSON array with an object for each topic instead
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match pipeline::load(&args.file) {
        Ok((_, topology)) if args.json => {
            print_json(&Value::Array(entries(&topology).iter().map(Entry::json).collect()))
        }
        Ok((_, topology)) => print(&table(&entries(&topology))),
        Err(status) => status,
    }
}

/// A topic and what is to be said about it.
struct Entry<'a> {
    spec: &'a TopicSpec,
    owner: &'a str,
    format: &'static str,
    readers: Vec<&'a str>,
}

fn entries(topology: &Topology) -> Vec<Entry<'_>> {
    let of_stage = |stage| CHANNELS.iter().filter_map(move |channel| entry(topology, stage, *channel));
    topology.stages.iter().map(Arc::as_ref).flat_map(of_stage).collect()
}

fn entry<'a>(topology: &'a Topology, stage: &'a Stage, channel: Channel) -> Option<Entry<'a>> {
    let topic = stage.topic(channel);
    let spec = stage.topics.iter().find(|spec| spec.topic == topic)?;
    let owner = &*stage.name;
    let (format, readers) = match channel {
        Channel::Results => {
            let format = match stage.format {
                Format::Arrow => "arrow",
                Format::Json => "json",
            };
            (format, topology.consumers(&stage.name).map(|consumer| &*consumer.name).collect())
        }
        Channel::Events => ("cloudevents", Vec::new()),
        Channel::Commands => ("cloudevents", vec![owner]),
        Channel::DeadLetters => ("as it came", vec![owner]),
        Channel::Checkpoint => ("checkpoint", vec![owner]),
    };
    Some(Entry { spec, owner, format, readers })
}

impl Entry<'_> {
    fn retention(&self) -> String {
        match self.spec.cleanup {
            Cleanup::KeepLast => "last message".to_owned(),
            Cleanup::Delete { age: None, bytes: None } => "no limit".to_owned(),
            Cleanup::Delete { age, bytes } => {
                let limits = [age.map(duration), bytes.map(size)];
                limits.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn json(&self) -> Value {
        let retention = match self.spec.cleanup {
            Cleanup::KeepLast => json!({ "keep": "last" }),
            Cleanup::Delete { age, bytes } => {
                json!({ "keep": "all", "age_seconds": age.map(|age| age.as_secs_f64()), "bytes": bytes })
            }
        };
        json!({
            "topic": self.spec.topic.as_str(),
            "owner": self.owner,
            "partitions": self.spec.partitions,
            "format": self.format,
            "retention": retention,
            "readers": self.readers,
        })
    }
}

fn table(entries: &[Entry<'_>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["TOPIC", "OWNER", "PARTITIONS", "FORMAT", "RETENTION", "READERS"]);
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for entry in entries {
        table.add_row([
            entry.spec.topic.as_str(),
            entry.owner,
            &entry.spec.partitions.to_string(),
            entry.format,
            &entry.retention(),
            &entry.readers.join(", "),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
