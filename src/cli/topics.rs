//! `fidelio topics`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::bus::{Channel, Cleanup, Topic};
use crate::config::{Bus, Format};
use crate::topology::{Stage, Topology};

use super::output::{duration, print, print_json, size};
use super::{acls, exit, pipeline};

/// List the topics of a pipeline.
///
/// Each with the stage that owns it, the number of its partitions, the format of its messages, how long they are kept
/// at least, and the stages that read it. Events are for anyone. Topics of others that stages read or write come last; how
/// many partitions these have is found when the pipeline starts.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// Pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print a JSON array with an object for each topic instead
    #[arg(long)]
    json: bool,
    /// Print the commands of Kafka's `kafka-acls.sh` instead that let each stage alone write its topics
    #[arg(long, conflicts_with = "json")]
    acls: bool,
    /// Who runs the stages, in Kafka's words; User:<company>.<namespace>.<stage> for each if left out
    #[arg(long, value_name = "TYPE:NAME", requires = "acls", value_parser = principal)]
    principal: Option<String>,
}

fn principal(text: &str) -> Result<String, String> {
    let named = text.split_once(':').is_some_and(|(kind, name)| !kind.is_empty() && !name.is_empty());
    if named { Ok(text.to_owned()) } else { Err("a principal is TYPE:NAME, for example User:orders".to_owned()) }
}

pub(super) fn run(args: &Args) -> ExitCode {
    match pipeline::load(&args.file) {
        Ok((pipeline, topology)) if args.acls => match &pipeline.bus {
            Bus::Kafka(kafka) => print(&acls::commands(&topology, &kafka.brokers, args.principal.as_deref())),
            Bus::Embedded(_) => {
                exit::usage("--acls: the pipeline runs on the embedded log, which nobody else can write")
            }
        },
        Ok((_, topology)) if args.json => {
            print_json(&Value::Array(entries(&topology).iter().map(Entry::json).collect()))
        }
        Ok((_, topology)) => print(&table(&entries(&topology))),
        Err(status) => status,
    }
}

/// A topic and what is to be said about it.
struct Entry<'a> {
    topic: Topic,
    /// The stage that owns it; `None` for a topic of others.
    owner: Option<&'a str>,
    /// Stages that write it beside others.
    writers: Vec<&'a str>,
    partitions: Partitions,
    format: &'static str,
    /// `None` where that is for others to say.
    cleanup: Option<Cleanup>,
    /// Whether its owner deletes what it no longer needs.
    while_needed: bool,
    readers: Vec<&'a str>,
}

/// How many partitions a topic has.
enum Partitions {
    /// So many.
    Count(u32),
    /// As many as the topic of others that its stage reads.
    As(Topic),
    /// That is for others to say.
    Theirs,
}

fn entries(topology: &Topology) -> Vec<Entry<'_>> {
    let of_stage = |stage| Channel::ALL.iter().filter_map(move |channel| entry(topology, stage, *channel));
    let mut entries: Vec<Entry<'_>> = topology.stages.iter().map(Arc::as_ref).flat_map(of_stage).collect();
    entries.extend(of_others(topology));
    entries
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
        Channel::State => ("arrow", vec![owner]),
    };
    let partitions = match stage.reads().filter(|_| channel != Channel::Results) {
        Some(read) => Partitions::As(read),
        None => Partitions::Count(spec.partitions),
    };
    let (owner, cleanup, while_needed) = (Some(owner), Some(spec.cleanup), channel == Channel::State);
    Some(Entry { topic, owner, writers: Vec::new(), partitions, format, cleanup, while_needed, readers })
}

/// The topics of others that stages read or write, by name.
fn of_others(topology: &Topology) -> impl Iterator<Item = Entry<'_>> {
    let mut found: BTreeMap<Topic, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for stage in &topology.stages {
        if let Some(topic) = stage.reads() {
            found.entry(topic).or_default().0.push(&stage.name);
        }
        if let Some(topic) = stage.writes() {
            found.entry(topic).or_default().1.push(&stage.name);
        }
    }
    found.into_iter().map(|(topic, (readers, writers))| {
        let partitions = Partitions::Theirs;
        Entry { topic, owner: None, writers, partitions, format: "json", cleanup: None, while_needed: false, readers }
    })
}

impl Entry<'_> {
    fn owner(&self) -> String {
        match self.owner {
            Some(owner) => owner.to_owned(),
            None => [&["others"][..], &self.writers].concat().join(", "),
        }
    }

    fn partitions(&self) -> String {
        match &self.partitions {
            Partitions::Count(count) => count.to_string(),
            Partitions::As(topic) => format!("as {topic}"),
            Partitions::Theirs => "-".to_owned(),
        }
    }

    fn retention(&self) -> String {
        match self.cleanup {
            None => "-".to_owned(),
            Some(_) if self.while_needed => "while needed".to_owned(),
            Some(Cleanup::KeepLast) => "last message".to_owned(),
            Some(Cleanup::Delete { age: None, bytes: None }) => "no limit".to_owned(),
            Some(Cleanup::Delete { age, bytes }) => {
                let limits = [age.map(duration), bytes.map(size)];
                limits.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn json(&self) -> Value {
        let retention = self.cleanup.map(|cleanup| match cleanup {
            _ if self.while_needed => json!({ "keep": "needed" }),
            Cleanup::KeepLast => json!({ "keep": "last" }),
            Cleanup::Delete { age, bytes } => {
                json!({ "keep": "all", "age_seconds": age.map(|age| age.as_secs_f64()), "bytes": bytes })
            }
        });
        let partitions = match self.partitions {
            Partitions::Count(count) => Some(count),
            Partitions::As(_) | Partitions::Theirs => None,
        };
        json!({
            "topic": self.topic.as_str(),
            "owner": self.owner,
            "writers": self.owner.map_or(self.writers.clone(), |owner| vec![owner]),
            "partitions": partitions,
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
            entry.topic.as_str(),
            &entry.owner(),
            &entry.partitions(),
            entry.format,
            &entry.retention(),
            &entry.readers.join(", "),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
