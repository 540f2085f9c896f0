//! Whether a topic that is read is still the one it was. librdkafka goes on at the same offset when a topic was deleted and
//! another one has its name, and tells nobody. So a task keeps of each partition a message that it has read, and looks now and
//! then whether that is still in its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use rdkafka::admin::ResourceSpecifier;
use tokio::task::JoinHandle;

use super::{Shared, client, reader};
use crate::bus::{Message, Positions, Result, Topic, TopicPartition};

/// How long between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// What tells a message from another one at its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    offset: u64,
    arrived: i64,
    bytes: usize,
}

/// What is in an anchor's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The message.
    Same,
    /// Nothing that says anything: retention comes to every place in time, and that there is nothing yet in the place of what
    /// was read, whoever reads on is told.
    Unknown,
    /// Another message.
    Other,
    /// No message, as compaction leaves it.
    Hole,
}

/// The anchors of a task.
pub(super) struct Anchors {
    /// Those that are known to be of the topics with which the task began.
    held: BTreeMap<TopicPartition, Anchor>,
    /// What was read last, or nearly.
    last: BTreeMap<TopicPartition, Anchor>,
    /// What that was when the look began that is under way.
    next: BTreeMap<TopicPartition, Anchor>,
    /// The look that is under way; gives a partition that is of another topic.
    look: Option<JoinHandle<Result<Option<TopicPartition>>>>,
    looked: Instant,
}

impl Anchor {
    fn of(message: &Message) -> Self {
        let record = &message.record;
        let bytes = record.key.as_ref().map_or(0, |key| key.len()) + record.payload().len();
        Self { offset: message.offset, arrived: record.arrived, bytes }
    }
}

impl Anchors {
    /// The anchors of a task that is about to read on from there: what is before. Blocks.
    pub fn before(shared: &Shared, positions: &Positions) -> Result<Self> {
        let mut held = BTreeMap::new();
        for (partition, position) in positions {
            let start = shared.extent(partition)?.start;
            // Before a position there can be the end of a transaction, and before that there is a message.
            for offset in (start..*position).rev().take(2) {
                if let Some(message) = reader::at(shared, partition, offset)? {
                    held.insert(partition.clone(), Anchor::of(&message));
                    break;
                }
            }
        }
        Ok(Self { held, last: BTreeMap::new(), next: BTreeMap::new(), look: None, looked: Instant::now() })
    }

    /// Takes note of what was read, and looks now and then, beside everything else, whether what was read before is still
    /// there. Gives a partition in which it is not.
    pub fn other(&mut self, shared: &Arc<Shared>, read: &[Message]) -> Option<TopicPartition> {
        for message in read.first().into_iter().chain(read.last()) {
            let (partition, anchor) = (&message.partition, Anchor::of(message));
            self.held.entry(partition.clone()).or_insert(anchor);
            self.last.insert(partition.clone(), anchor);
        }
        match self.look.take() {
            Some(look) if !look.is_finished() => self.look = Some(look),
            Some(look) => match look.now_or_never() {
                Some(Ok(Ok(None))) => self.held.append(&mut self.next),
                Some(Ok(Ok(other))) => return other,
                // It is looked again.
                _ => {}
            },
            None if self.looked.elapsed() >= INTERVAL => {
                self.looked = Instant::now();
                self.next = self.last.clone();
                let held = self.held.iter().map(|(partition, anchor)| (partition.clone(), *anchor)).collect();
                self.look = Some(tokio::spawn(look(shared.clone(), held)));
            }
            None => {}
        }
        None
    }
}

/// A partition in whose place is something else.
async fn look(shared: Arc<Shared>, held: Vec<(TopicPartition, Anchor)>) -> Result<Option<TopicPartition>> {
    for (partition, anchor) in held {
        let at = partition.clone();
        let other = match shared.ask(move |shared| found(shared, &at, anchor)).await? {
            Found::Same | Found::Unknown => false,
            Found::Other => true,
            Found::Hole => !may_be_compacted(&shared, &partition.topic).await,
        };
        if other {
            return Ok(Some(partition));
        }
    }
    Ok(None)
}

/// What is in an anchor's place. Blocks.
fn found(shared: &Shared, partition: &TopicPartition, anchor: Anchor) -> Result<Found> {
    let extent = shared.extent(partition)?;
    if !(extent.start..extent.end).contains(&anchor.offset) {
        return Ok(Found::Unknown);
    }
    Ok(match reader::at(shared, partition, anchor.offset)? {
        Some(message) if Anchor::of(&message) == anchor => Found::Same,
        Some(_) => Found::Other,
        None => Found::Hole,
    })
}

/// Whether messages can go that are not the oldest ones; whoever may not ask has to take it that they can.
async fn may_be_compacted(shared: &Shared, topic: &Topic) -> bool {
    let topic = [ResourceSpecifier::Topic(topic.as_str())];
    let described = shared.asking().admin.describe_configs(&topic, &client::patient()).await;
    let settings = described.ok().and_then(|described| described.into_iter().next()?.ok());
    let policy = settings.as_ref().and_then(|settings| settings.get("cleanup.policy")?.value.clone());
    policy.is_none_or(|policy| policy.contains("compact"))
}
