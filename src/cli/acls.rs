//! The access rules of a pipeline on Kafka, as commands of Kafka's own tool: each stage alone writes what it owns.

use std::collections::HashSet;

use crate::bus::{Channel, Topic};
use crate::config::{Sink, TopicSink};
use crate::topology::{Stage, Topology, Work};

/// What is allowed on a resource.
struct Rule<'a> {
    principal: &'a str,
    operations: &'a [&'a str],
    /// As the tool's option names it.
    kind: &'a str,
    name: &'a str,
    /// Whether the name is the start of all names that are meant.
    prefix: bool,
}

/// What a worker does with the topics of all stages: it makes those that are missing, and adds up what they hold.
const LOOK: &[&str] = &["Create", "Describe", "DescribeConfigs", "Read"];

/// A command for each rule. Each stage has a principal of its own, `User:<company>.<namespace>.<stage>`, unless one is given
/// for all of them.
pub(super) fn commands(topology: &Topology, brokers: &str, principal: Option<&str>) -> String {
    let mut commands = Vec::new();
    let all = format!("{}.", topology.prefix);
    for stage in &topology.stages {
        let own = principal.map_or_else(|| format!("User:{}", stage.full_name), str::to_owned);
        let mut add = |operations: &[&str], kind: &str, name: &str, prefix: bool| {
            commands.push(Rule { principal: &own, operations, kind, name, prefix }.command(brokers));
        };
        add(LOOK, "topic", &all, true);
        add(&["Describe", "Read"], "group", &all, true);
        add(&["Describe", "Write"], "transactional-id", &format!("{}.", stage.full_name), true);
        for topic in written(stage) {
            add(&["Write"], "topic", topic.as_str(), false);
        }
        if stage.has_state() {
            // What is needed no longer.
            add(&["Delete"], "topic", stage.topic(Channel::State).as_str(), false);
        }
        if let Some(topic) = stage.reads() {
            add(&["Describe", "Read"], "topic", topic.as_str(), false);
            // There is a task for each of its partitions, and others can add some.
            add(&["Alter"], "topic", &format!("{}.", stage.full_name), true);
        }
        if let Some(topic) = stage.writes() {
            let operations = if makes(stage) { &["Create", "Describe", "Write"][..] } else { &["Describe", "Write"] };
            add(operations, "topic", topic.as_str(), false);
        }
    }
    // One principal for all stages has the rules that they share once.
    let mut seen = HashSet::new();
    commands.into_iter().filter(|command| seen.insert(command.clone())).collect()
}

/// The topics of a stage that it writes itself; commands come from elsewhere.
fn written(stage: &Stage) -> impl Iterator<Item = &Topic> {
    let commands = stage.topic(Channel::Commands);
    stage.topics.iter().map(|spec| &spec.topic).filter(move |topic| **topic != commands)
}

/// Whether a stage makes the topic of others that it writes.
fn makes(stage: &Stage) -> bool {
    matches!(&stage.work, Work::Sink(Sink::Topic(TopicSink { partitions: Some(_), .. })))
}

impl Rule<'_> {
    fn command(&self, brokers: &str) -> String {
        let operations: String = self.operations.iter().map(|operation| format!(" --operation {operation}")).collect();
        let pattern = if self.prefix { " --resource-pattern-type prefixed" } else { "" };
        let (principal, kind, name) = (quoted(self.principal), self.kind, self.name);
        format!(
            "kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal {principal}{operations} --{kind} {name}{pattern}\n"
        )
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
