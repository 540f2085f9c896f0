//! Topics of others that are given more partitions while a stage reads them: its own topics get as many, so that its group has
//! a task for each of them, which starts with the first message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::{self, Bus, Topic};
use crate::stage::found;
use crate::telemetry::Registry;
use crate::topology::Topology;

/// How often it is looked whether there are more.
const INTERVAL: Duration = Duration::from_secs(5);

/// What is known of the topics of others that a pipeline reads.
pub(super) struct Growing {
    bus: Arc<dyn Bus>,
    topology: Arc<Topology>,
    registry: Arc<Registry>,
    /// The partitions of each that are read.
    read: BTreeMap<Topic, u32>,
}

impl Growing {
    /// The topics of others as a topology has them.
    pub fn new(bus: Arc<dyn Bus>, topology: Arc<Topology>, registry: Arc<Registry>) -> Self {
        let read = topology.stages.iter().filter_map(|stage| Some((stage.reads()?, stage.tasks))).collect();
        Self { bus, topology, registry, read }
    }

    /// Looks for more partitions, and lets them be read, until it is dropped.
    pub async fn watch(mut self) {
        let topics: Vec<Topic> = self.read.keys().cloned().collect();
        while !topics.is_empty() {
            tokio::time::sleep(INTERVAL).await;
            for topic in &topics {
                self.look(topic).await;
            }
        }
    }

    async fn look(&mut self, topic: &Topic) {
        let read = self.read.get(topic).copied().unwrap_or(0);
        let health = self.registry.health();
        // That the bus does not answer, or that the topic is gone, others say.
        let Ok(partitions) = self.bus.partitions(topic).await else { return };
        if partitions <= read {
            return;
        }
        match self.grow(topic, partitions).await {
            Ok(()) => {
                tracing::info!(%topic, partitions, read, "the topic has more partitions; they are read from their first message on");
                health.well(topic.as_str());
                self.read.insert(topic.clone(), partitions);
            }
            Err(error) => {
                if health.ill(topic.as_str(), format!("only {read} of {partitions} partitions are read: {error}")) {
                    tracing::warn!(%topic, partitions, read, %error, "the topic has more partitions, which cannot be read now");
                }
            }
        }
    }

    async fn grow(&self, topic: &Topic, partitions: u32) -> bus::Result<()> {
        let grown = self.topology.with_partitions(&BTreeMap::from([(topic.clone(), partitions)]));
        for stage in grown.stages.iter().filter(|stage| stage.reads().as_ref() == Some(topic)) {
            found::grow(self.bus.as_ref(), stage).await?;
        }
        Ok(())
    }
}
