//! What keeps metrics true between the reports of tasks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::{self, Bus, Channel, Extent, Limit, Log, Micros, TopicPartition};
use crate::telemetry::Registry;
use crate::topology::{Stage, Topology};

/// How often topics are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far the topics of a pipeline reach, how far tasks are behind them, and how many dead letters there are, until it is
/// dropped.
pub(crate) async fn upkeep(registry: Arc<Registry>, log: Arc<dyn Log>, topology: Arc<Topology>) {
    let mut oldest = HashMap::new();
    loop {
        for topic in topology.stages.iter().flat_map(|stage| &stage.topics).map(|spec| &spec.topic) {
            match log.extents(topic).await {
                Ok(extents) => (0..).zip(extents).for_each(|(number, extent)| {
                    registry.partition(&topic.partition(number), extent);
                }),
                Err(error) => tracing::debug!(%topic, %error, "its extent is not known now"),
            }
        }
        for meter in registry.meters() {
            meter.lets_go(&registry);
            for (partition, next) in meter.positions() {
                let extents = log.extents(&partition.topic).await;
                if let Some(extent) =
                    extents.ok().and_then(|extents| extents.get(partition.partition as usize).copied())
                {
                    meter.behind(&registry, &partition, extent.end.saturating_sub(next));
                }
            }
        }
        for stage in &topology.stages {
            if let Err(error) = dead_letters(&registry, log.as_ref(), &topology.prefix, stage, &mut oldest).await {
                tracing::debug!(stage = %stage.name, %error, "its dead letters are not known now");
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Shows how many dead letters of a stage there are, and how old. `oldest` has the offset of the oldest of each task, and when it
/// arrived.
async fn dead_letters(
    registry: &Registry,
    log: &dyn Log,
    pipeline: &str,
    stage: &Stage,
    oldest: &mut HashMap<TopicPartition, (u64, Micros)>,
) -> bus::Result<()> {
    let topic = stage.topic(Channel::DeadLetters);
    for (task, Extent { start, end }) in (0..).zip(log.extents(&topic).await?) {
        let partition = topic.partition(task);
        let known = oldest.get(&partition).filter(|(offset, _)| *offset >= start).map(|(_, arrived)| *arrived);
        let arrived = match known {
            None if start < end => {
                let first = log.read(&partition, start, Limit::ONE, Duration::ZERO).await?.pop();
                first.map(|first| {
                    oldest.insert(partition, (first.offset, first.record.arrived));
                    first.record.arrived
                })
            }
            known => known,
        };
        registry.dead_letters([pipeline, &stage.name, &task.to_string()], end - start, arrived);
    }
    Ok(())
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
