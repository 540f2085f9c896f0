//! Before a pipeline starts: that the topics of others are there, and how many partitions they have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bus::{self, Bus, Channel, Cleanup, Topic, TopicSpec};
use crate::config::Sink;
use crate::stage::worker::Error;
use crate::topology::{Stage, Topology, Work};

/// How long a worker may be the last one to hear how many partitions there are.
const PATIENCE: Duration = Duration::from_secs(10);

/// The topology as the topics of others make it, with all topics of its own there.
pub(super) async fn declared(bus: &dyn Bus, topology: Arc<Topology>) -> Result<Arc<Topology>, Error> {
    let started = Instant::now();
    let mut completed = complete(bus, topology.clone()).await?;
    loop {
        let Err(error) = declare(bus, &completed).await else { return Ok(completed) };
        // Another worker can have seen a topic of others grow meanwhile, and have made room for it.
        let Error::Resized { tasks, partitions, .. } = &error else { return Err(error) };
        if tasks < partitions || started.elapsed() >= PATIENCE {
            return Err(error);
        }
        tracing::info!("looking again, since there may be more partitions than were seen: {error}");
        tokio::time::sleep(PATIENCE / 20).await;
        completed = complete(bus, topology.clone()).await?;
    }
}

async fn declare(bus: &dyn Bus, topology: &Topology) -> Result<(), Error> {
    for stage in &topology.stages {
        let explained = |error| explained(stage, error);
        grow(bus, stage).await.map_err(explained)?;
        bus.declare(&stage.topics).await.map_err(explained)?;
    }
    Ok(())
}

/// The topology as the topics of others make it. They are left as they are; one that a sink says how to make is made where
/// there is none.
async fn complete(bus: &dyn Bus, topology: Arc<Topology>) -> Result<Arc<Topology>, Error> {
    let mut found = BTreeMap::new();
    for stage in &topology.stages {
        for (action, topic) in [("reads", stage.reads()), ("writes", stage.writes())] {
            let Some(topic) = topic else { continue };
            let partitions = partitions(bus, stage, action, &topic).await?;
            found.insert(topic, partitions);
        }
    }
    Ok(if found.is_empty() { topology } else { Arc::new(topology.with_partitions(&found)) })
}

async fn partitions(bus: &dyn Bus, stage: &Stage, action: &'static str, topic: &Topic) -> Result<u32, Error> {
    match bus.extents(topic).await {
        Ok(extents) => return Ok(extents.len() as u32),
        Err(bus::Error::UnknownTopic(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(partitions) = to_make(stage) else {
        let (stage, topic) = (stage.name.clone(), topic.clone());
        return Err(Error::NoTopic { stage, action, topic });
    };
    bus.declare(&[TopicSpec { topic: topic.clone(), partitions, cleanup: retention(stage) }]).await?;
    Ok(partitions)
}

/// Gives the topics of a stage that has more tasks than before as many partitions: there is one for each task in all of them
/// but the results. The last one is that of the checkpoints, by whose partitions tasks are shared out.
pub(super) async fn grow(bus: &dyn Bus, stage: &Stage) -> Result<(), bus::Error> {
    if stage.reads().is_none() {
        return Ok(());
    }
    let results = stage.results();
    for spec in stage.topics.iter().filter(|spec| spec.topic != results) {
        match bus.grow(&spec.topic, spec.partitions).await {
            // It is made as it is to be.
            Ok(()) | Err(bus::Error::UnknownTopic(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What it means that a stage's own topics are not as they are to be.
fn explained(stage: &Stage, error: bus::Error) -> Error {
    match (error, stage.reads()) {
        (bus::Error::PartitionsDiffer { topic, found, wanted }, Some(read)) if topic != stage.results() => {
            Error::Resized { stage: stage.name.clone(), topic: read, tasks: found, partitions: wanted }
        }
        (error, _) => error.into(),
    }
}

/// With how many partitions the topic of a sink is made.
fn to_make(stage: &Stage) -> Option<u32> {
    match &stage.work {
        Work::Sink(Sink::Topic(sink)) => sink.partitions,
        Work::Sink(Sink::Lines(_)) | Work::Source(_) | Work::Sql(_) => None,
    }
}

/// What the stage says of how long its messages are kept.
fn retention(stage: &Stage) -> Cleanup {
    let events = stage.topic(Channel::Events);
    let spec = stage.topics.iter().find(|spec| spec.topic == events);
    spec.map_or(Cleanup::Delete { age: None, bytes: None }, |spec| spec.cleanup)
}
