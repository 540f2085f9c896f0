//! What keeps metrics true between the reports of tasks.

use std::sync::Arc;
use std::time::Duration;

use crate::bus::{Log, Topic};
use crate::telemetry::Registry;

/// How often.
const INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far the topics reach, and keeps the histograms small, until it is dropped.
pub(crate) async fn upkeep(registry: Arc<Registry>, log: Arc<dyn Log>, topics: Vec<Topic>) {
    loop {
        for topic in &topics {
            match log.extents(topic).await {
                Ok(extents) => (0..).zip(extents).for_each(|(number, extent)| {
                    registry.partition(&topic.partition(number), extent);
                }),
                Err(error) => tracing::debug!(%topic, %error, "its extent is not known now"),
            }
        }
        registry.fold();
        tokio::time::sleep(INTERVAL).await;
    }
}
