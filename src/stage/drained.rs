//! When a pipeline is over on a bus that workers share: what a worker sees of its own tasks does not say it, so it asks the
//! bus. All sources have ended, every stage has dealt with all that was published to it, and nothing of what they have
//! written is still to be seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::bus::{Bus, Error, HANGING, Result, TopicPartition};
use crate::checkpoint::Checkpoint;
use crate::stage::signals::Phase;
use crate::topology::{Stage, Topology, Work};

/// How long between two questions.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often it has to look as if all were over. A source that starts again says so at once, but not at the same instant.
const TIMES: u32 = 3;

/// What a worker needs to know when its stages are over.
pub(super) struct Drained {
    pub bus: Arc<dyn Bus>,
    pub topology: Arc<Topology>,
    /// The stages that run here, all of them if empty.
    pub selected: Vec<String>,
    /// For each stage that runs here, whether nothing of it runs here that could still bring rows in.
    pub idle: Vec<watch::Receiver<bool>>,
}

/// The beginning of what is not seen, and since when.
struct Hidden {
    at: (TopicPartition, u64),
    since: Instant,
}

impl Drained {
    /// Ends the worker once there is nothing left for it to do.
    ///
    /// # Errors
    /// [`Error::Hanging`] if what its stages, or those that feed them, have written does not come to be seen.
    pub async fn watch(self, phase: watch::Sender<Phase>) -> Result<()> {
        let over = self.wait(&phase).await;
        phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Stopping) != Phase::Stopping);
        over
    }

    async fn wait(&self, phase: &watch::Sender<Phase>) -> Result<()> {
        let stages = self.stages();
        let mut stopping = phase.subscribe();
        let (mut times, mut hidden) = (0, None);
        while times < TIMES {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                _ = stopping.wait_for(|phase| *phase == Phase::Stopping) => return Ok(()),
            }
            let over = self.idle.iter().all(|idle| *idle.borrow()) && self.are_over(&stages).await;
            let is_seen = over && self.is_seen(&stages, &mut hidden).await?;
            times = if is_seen { times + 1 } else { 0 };
        }
        Ok(())
    }

    /// Whether all that the stages have written is seen. What is not yet is taken down, and since when.
    async fn is_seen(&self, stages: &[&Stage], hidden: &mut Option<Hidden>) -> Result<bool> {
        for topic in stages.iter().flat_map(|stage| &stage.topics).map(|spec| &spec.topic) {
            match self.bus.undecided(topic).await {
                Ok(None) => {}
                Ok(Some(at)) => {
                    let same = hidden.take().filter(|hidden| hidden.at == at);
                    let Hidden { at, since } =
                        hidden.insert(same.unwrap_or_else(|| Hidden { at, since: Instant::now() }));
                    let (partition, offset) = at.clone();
                    tracing::debug!(%partition, offset, "a transaction hides what was written");
                    return if since.elapsed() < HANGING {
                        Ok(false)
                    } else {
                        Err(Error::Hanging { partition, offset })
                    };
                }
                Err(error) => {
                    tracing::debug!(%topic, %error, "whether all of it is seen is not known now");
                    return Ok(false);
                }
            }
        }
        *hidden = None;
        Ok(true)
    }

    /// The stages that run here, and all that feed them.
    fn stages(&self) -> Vec<&Stage> {
        let mut found: Vec<&Stage> = Vec::new();
        // From the last one back, so that whoever feeds a stage comes after it.
        for stage in self.topology.stages.iter().rev().map(Arc::as_ref) {
            let runs_here = self.selected.is_empty() || self.selected.iter().any(|name| **name == *stage.name);
            if runs_here || found.iter().any(|other| other.from.contains(&stage.name)) {
                found.push(stage);
            }
        }
        found.reverse();
        found
    }

    async fn are_over(&self, stages: &[&Stage]) -> bool {
        for stage in stages {
            let over = match &stage.work {
                Work::Source(_) => has_ended(self.bus.as_ref(), stage).await,
                Work::Sql(_) | Work::Sink(_) => self.bus.is_drained(&stage.group()).await,
            };
            match over {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    tracing::debug!(stage = %stage.name, %error, "whether it is over is not known now");
                    return false;
                }
            }
        }
        true
    }
}

/// Whether all tasks of a source have ended, as they have committed it.
async fn has_ended(log: &dyn Bus, source: &Stage) -> Result<bool> {
    let checkpoints = source.group().checkpoint;
    // Not as many as there were when the worker started: others can have added partitions to what it reads.
    for task in 0..log.partitions(&checkpoints).await? {
        let last = log.last(&checkpoints.partition(task)).await?;
        let checkpoint = last.and_then(|message| Checkpoint::decode(message.record.payload()).ok());
        let ended = checkpoint.is_some_and(|checkpoint| checkpoint.ended);
        if !ended {
            return Ok(false);
        }
    }
    Ok(true)
}
