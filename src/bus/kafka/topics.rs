//! Topics of the cluster: made as a pipeline declares them, and left as they are where they exist.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::admin::{NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};

use super::client::{self, Context, TICK, failed};
use super::{FRAMING_BYTES, PATIENCE, Shared};
use crate::bus::{Cleanup, Error, Result, Topic, TopicSpec};
use crate::config;

/// Makes the topics that do not exist, and reports where those that do are not as they are declared.
pub(super) async fn declare(shared: &Arc<Shared>, specs: &[TopicSpec]) -> Result<()> {
    if specs.is_empty() {
        return Ok(());
    }
    let settings: Vec<Vec<(&str, String)>> = specs.iter().map(|topic| settings(&shared.clients.spec, topic)).collect();
    let replication =
        || TopicReplication::Fixed(shared.clients.spec.replication.map_or(-1, |replicas| replicas as i32));
    let new: Vec<NewTopic<'_>> = specs
        .iter()
        .zip(&settings)
        .map(|(spec, settings)| {
            let topic = NewTopic::new(spec.topic.as_str(), spec.partitions as i32, replication());
            settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let made = shared.asking().admin.create_topics(&new, &client::patient()).await.map_err(failed("making topics"))?;
    let mut existed = Vec::new();
    for (spec, made) in specs.iter().zip(made) {
        match made {
            Ok(_) => {}
            Err((_, Code::TopicAlreadyExists)) => existed.push(spec.clone()),
            Err((name, code)) => return Err(client::refused("making topics", code, &name)),
        }
    }
    compare(shared, &existed).await?;
    let specs = specs.to_vec();
    shared.ask(move |shared| specs.iter().try_for_each(|spec| settle(shared, &spec.topic, spec.partitions))).await
}

/// Gives a topic more partitions, unless it has as many.
pub(super) async fn grow(shared: &Arc<Shared>, topic: &Topic, partitions: u32) -> Result<()> {
    let name = topic.clone();
    if shared.ask(move |shared| shared.partitions_now(&name)).await? >= partitions {
        return Ok(());
    }
    let more = [NewPartitions::new(topic.as_str(), partitions as usize)];
    let made = shared.asking().admin.create_partitions(&more, &client::patient()).await;
    for made in made.map_err(failed(GROWING))? {
        match made {
            // Another worker was faster.
            Ok(_) | Err((_, Code::InvalidPartitions)) => {}
            Err((name, code)) => return Err(client::refused(GROWING, code, &name)),
        }
    }
    let name = topic.clone();
    shared.ask(move |shared| settle(shared, &name, partitions)).await
}

const GROWING: &str = "adding partitions";

/// What a topic is set to, beyond what the cluster does by itself.
fn settings(bus: &config::Kafka, spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let mut settings = match spec.cleanup {
        Cleanup::KeepLast => vec![("cleanup.policy", "compact".to_owned())],
        Cleanup::Delete { age, bytes } => vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", age.map_or("-1".to_owned(), |age| age.as_millis().to_string())),
            ("retention.bytes", bytes.map_or("-1".to_owned(), |bytes| bytes.to_string())),
        ],
    };
    // A message's own timestamp is when its rows arrived in the pipeline.
    settings.push(("message.timestamp.type", "CreateTime".to_owned()));
    settings.push(("max.message.bytes", (bus.max_message_bytes + FRAMING_BYTES).to_string()));
    settings.extend(bus.min_insync_replicas.map(|replicas| ("min.insync.replicas", replicas.to_string())));
    settings
}

/// Says what existing topics are set to that the pipeline wants otherwise.
async fn compare(shared: &Shared, specs: &[TopicSpec]) -> Result<()> {
    if specs.is_empty() {
        return Ok(());
    }
    let topics: Vec<ResourceSpecifier<'_>> =
        specs.iter().map(|spec| ResourceSpecifier::Topic(spec.topic.as_str())).collect();
    let described = shared.asking().admin.describe_configs(&topics, &client::patient()).await;
    for (spec, described) in specs.iter().zip(described.map_err(failed("looking at topics"))?) {
        // Who may write to a topic need not be allowed to look at its settings.
        let Ok(described) = described else { continue };
        for (name, wanted) in settings(&shared.clients.spec, spec) {
            let found = described.get(name).and_then(|entry| entry.value.as_deref());
            if let Some(found) = found.filter(|found| *found != wanted) {
                tracing::warn!(topic = %spec.topic, setting = name, found, wanted, "a topic is set otherwise than declared, and is left so");
            }
        }
    }
    Ok(())
}

/// Waits until all partitions of a topic can be written, and takes note of their number. Blocks.
fn settle(shared: &Shared, topic: &Topic, wanted: u32) -> Result<()> {
    let started = Instant::now();
    loop {
        match shared.partitions_now(topic) {
            Ok(found) if found == wanted => return Ok(()),
            // A broker can be late to hear of what was made.
            Ok(found) if found > wanted || started.elapsed() >= PATIENCE => {
                return Err(Error::PartitionsDiffer { topic: topic.clone(), found, wanted });
            }
            Err(error) if started.elapsed() >= PATIENCE || !(error.is_passing() || is_unknown(&error)) => {
                return Err(error);
            }
            Ok(_) | Err(_) => std::thread::sleep(TICK),
        }
    }
}

fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::UnknownTopic(_))
}

/// The number of a topic's partitions, each of which has a leader. Blocks.
pub(super) fn partitions(asker: &BaseConsumer<Context>, topic: &Topic) -> Result<u32> {
    let metadata = asker.fetch_metadata(Some(topic.as_str()), PATIENCE).map_err(failed("looking for a topic"))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic.as_str());
    let Some(found) = found else { return Err(Error::UnknownTopic(topic.clone())) };
    let wrong = found.error().or_else(|| found.partitions().iter().find_map(|partition| partition.error()));
    match wrong {
        None => Ok(found.partitions().len() as u32),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Err(Error::UnknownTopic(topic.clone())),
        Some(error) => Err(client::refused("looking for a topic", error.into(), topic.as_str())),
    }
}
