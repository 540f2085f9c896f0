//! What keeps metrics true between the reports of tasks.

use std::sync::Arc;
use std::time::Duration;

use crate::bus::{Bus, Log, Topic};
use crate::telemetry::Registry;

/// How often topics are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far the topics reach, and how far tasks are behind them, until it is dropped.
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
        for meter in registry.meters() {
            for (partition, next) in meter.positions() {
                let extents = log.extents(&partition.topic).await;
                if let Some(extent) =
                    extents.ok().and_then(|extents| extents.get(partition.partition as usize).copied())
                {
                    meter.behind(&registry, &partition, extent.end.saturating_sub(next));
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// How often it is asked whether the bus answers.
const LOOK: Duration = Duration::from_secs(1);

/// Says whether the bus answers: to whoever asks for the process's health, and in the log when that changes.
pub(crate) async fn watch(registry: Arc<Registry>, bus: Arc<dyn Bus>) {
    const BUS: &str = "the bus";
    let health = registry.health();
    loop {
        let answer = bus.answers().await;
        registry.bus(answer.is_ok());
        match answer {
            Ok(()) if health.well(BUS) => tracing::info!("the bus answers again"),
            Ok(()) => {}
            Err(error) if health.ill(BUS, error.to_string()) => tracing::warn!(%error, "the bus does not answer"),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}
