//! The account of a pipeline, from what both sides of each hop have committed: nothing here is taken from a running
//! task, so it holds for a pipeline that was killed as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::{self, Extent, Limit, Log, Positions, Topic, TopicPartition};
use crate::checkpoint::{self, Checkpoint};
use crate::fidelity::Counts;
use crate::topology::{Stage, Topology};

/// How many rows one read of a backlog takes.
const READ: Limit = Limit { rows: 1 << 16, bytes: 8 << 20 };

/// One stage's side of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The stage.
    pub stage: Arc<str>,
    /// What its tasks have counted.
    pub counts: Counts,
    /// Rows in its input topics that it has not dealt with yet.
    pub pending: u64,
    /// Rows that were published to it and that it neither counted in nor still has before it, and rows that it counted
    /// in and did not account for. Negative if there are more than were published.
    pub lost: i64,
}

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus did not answer.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A task's last checkpoint cannot be read.
    #[error("task {task} of {stage}: {error}")]
    Checkpoint {
        /// Which stage.
        stage: Arc<str>,
        /// Which task.
        task: u32,
        /// What is wrong.
        error: checkpoint::Error,
    },
}

/// The accounts of all stages, in the order of the topology.
pub async fn accounts(log: &dyn Log, topology: &Topology) -> Result<Vec<Account>, Error> {
    let mut published: HashMap<Arc<str>, u64> = HashMap::new();
    let mut accounts = Vec::with_capacity(topology.stages.len());
    for stage in &topology.stages {
        let (counts, positions) = committed(log, stage).await?;
        let inputs = stage.group().inputs;
        let pending = pending(log, &inputs, &positions).await?;
        let offered = match inputs.is_empty() {
            true => counts.rows_in,
            false => stage.from.iter().filter_map(|name| published.get(name)).sum(),
        };
        published.insert(stage.name.clone(), counts.rows_out);
        accounts.push(Account { stage: stage.name.clone(), counts, pending, lost: lost(offered, &counts, pending) });
    }
    Ok(accounts)
}

/// Rows lost at the hop into a stage to which `offered` rows were published, or inside it.
fn lost(offered: u64, counts: &Counts, pending: u64) -> i64 {
    let seen = counts.rows_in.wrapping_add(pending);
    (offered.wrapping_sub(seen) as i64).saturating_add(counts.imbalance())
}

/// What the tasks of a stage have committed last, added up.
async fn committed(log: &dyn Log, stage: &Stage) -> Result<(Counts, Positions), Error> {
    let topic = stage.group().checkpoint;
    let mut counts = Counts::default();
    let mut positions = Positions::new();
    for (task, extent) in (0..).zip(log.extents(&topic).await?) {
        let Some(last) = extent.end.checked_sub(1) else { continue };
        for message in log.read(&topic.partition(task), last, READ, Duration::ZERO).await? {
            let checkpoint = Checkpoint::decode(&message.record.value).map_err(|error| Error::Checkpoint {
                stage: stage.name.clone(),
                task,
                error,
            })?;
            counts += checkpoint.counts;
            positions.extend(checkpoint.positions);
        }
    }
    Ok((counts, positions))
}

/// The rows between the positions and the ends of the topics.
async fn pending(log: &dyn Log, inputs: &[Topic], positions: &Positions) -> Result<u64, Error> {
    let mut rows = 0;
    for topic in inputs {
        for (number, extent) in (0..).zip(log.extents(topic).await?) {
            let partition = topic.partition(number);
            let next = positions.get(&partition).copied().unwrap_or(0);
            rows += unread(log, &partition, next.max(extent.start), extent).await?;
        }
    }
    Ok(rows)
}

async fn unread(log: &dyn Log, partition: &TopicPartition, mut next: u64, extent: Extent) -> Result<u64, Error> {
    let mut rows = 0;
    while next < extent.end {
        let messages = log.read(partition, next, READ, Duration::ZERO).await?;
        let Some(last) = messages.last() else { break };
        next = last.offset + 1;
        rows += messages.iter().filter(|m| m.offset < extent.end).map(|m| u64::from(m.record.rows)).sum::<u64>();
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_offered_is_counted_in_or_pending_or_lost(
            rows_in in 0..1000u64, pending in 0..1000u64, missing in 0..1000u64, dead_lettered in 0..1000u64,
        ) {
            let dead_lettered = dead_lettered.min(rows_in);
            let counts = Counts { rows_in, rows_out: rows_in - dead_lettered, dead_lettered, ..Counts::default() };
            prop_assert_eq!(lost(rows_in + pending + missing, &counts, pending), missing as i64);
        }

        #[test]
        fn a_row_that_vanishes_inside_a_stage_is_lost(rows_in in 1..1000u64) {
            let counts = Counts { rows_in, rows_out: rows_in - 1, ..Counts::default() };
            prop_assert_eq!(lost(rows_in, &counts, 0), 1);
        }
    }
}
