//! Topics by name: who owns them, what flows in them. Which topics a pipeline has is the business of `topology`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A topic's full name, `<company>.<namespace>.<stage>.<channel>`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic of that full name; whether a name is a good one is checked where pipelines are read.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// A channel of the stage whose full name is `<company>.<namespace>.<stage>`.
    pub fn of(stage: &str, channel: Channel) -> Self {
        Self(format!("{stage}.{}", channel.suffix()).into())
    }

    /// The full name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full name, for whoever keeps it.
    pub fn name(&self) -> Arc<str> {
        self.0.clone()
    }

    /// One of its partitions.
    pub fn partition(&self, number: u32) -> TopicPartition {
        TopicPartition { topic: self.clone(), partition: number }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What flows in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Result rows, for the next stages.
    Results,
    /// Fact events, for anyone.
    Events,
    /// Command events to the stage, which alone reads them.
    Commands,
    /// What the stage could not process.
    DeadLetters,
    /// What its tasks resume from.
    Checkpoint,
    /// What its tasks keep from batch to batch.
    State,
}

impl Channel {
    /// Every channel, in the order in which they are listed.
    pub const ALL: [Channel; 6] = [
        Channel::Results,
        Channel::Events,
        Channel::Commands,
        Channel::DeadLetters,
        Channel::Checkpoint,
        Channel::State,
    ];

    /// The last part of the topic's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Channel::Results => "results",
            Channel::Events => "events",
            Channel::Commands => "commands",
            Channel::DeadLetters => "private.dlq",
            Channel::Checkpoint => "private.checkpoint",
            Channel::State => "private.state",
        }
    }
}

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The number of the partition, from 0.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A topic as it is declared to a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub topic: Topic,
    /// Number of partitions, at least 1.
    pub partitions: u32,
    /// When its messages may go.
    pub cleanup: Cleanup,
}

/// When messages of a topic may be deleted. A message that a group still has to read stays, whatever is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Whole segments from the oldest on, once all their messages are older than `age`, or while the partition holds
    /// more than `bytes`. `None` is without limit.
    Delete {
        /// How long a message stays at least, counted from when it was written.
        age: Option<Duration>,
        /// How many bytes of a partition stay at least.
        bytes: Option<u64>,
    },
    /// Only the last message of each partition has a meaning; older ones may go at any time.
    KeepLast,
}
