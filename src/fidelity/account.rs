//! The account of a pipeline, from what both sides of each hop have committed: nothing here is taken from a running
//! task, so it holds for a pipeline that was killed as well.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bus::{self, Log, Positions, Topic};
use crate::checkpoint::{self, Checkpoint};
use crate::connector::Position;
use crate::fidelity::Counts;
use crate::topology::{Stage, Topology};

/// One stage's side of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The stage.
    pub stage: Arc<str>,
    /// What its tasks have counted.
    pub counts: Counts,
    /// Rows in its input topics that it has not dealt with yet.
    pub pending: u64,
    /// Rows that were given to it and that it neither counted in nor still has before it, rows that it counted in and
    /// did not account for, and rows that it counted out and its sink did not take. Negative if none is missing anywhere
    /// and somewhere there are too many.
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
        let committed = Committed::of(checkpoints(log, stage).await?);
        let Committed { counts, given, taken, .. } = committed;
        let inputs = stage.group().inputs;
        let pending = pending(log, &inputs, &committed.positions).await?;
        let from: u64 = stage.from.iter().filter_map(|name| published.get(name)).sum();
        let given = match stage.reads() {
            // What others have published nobody has counted, but for what was gone.
            Some(_) => counts.rows_in + pending + committed.gone,
            None => given.unwrap_or(from.saturating_sub(committed.missed) + counts.foreign),
        };
        let lost = lost(given, &counts, pending, taken.unwrap_or(counts.rows_out));
        published.insert(stage.name.clone(), counts.rows_out);
        accounts.push(Account { stage: stage.name.clone(), counts, pending, lost });
    }
    Ok(accounts)
}

/// Rows lost at the hop into a stage to which `given` rows were given, inside it, or at the hop out of it, where `taken`
/// arrived.
fn lost(given: u64, counts: &Counts, pending: u64, taken: u64) -> i64 {
    let before = given.wrapping_sub(counts.rows_in.wrapping_add(pending)) as i64;
    let after = counts.rows_out.wrapping_sub(taken) as i64;
    let missing = [before, counts.imbalance(), after];
    // A row too many here does not make up for one that is missing there.
    match missing.iter().filter(|rows| **rows > 0).sum() {
        0 => missing.iter().sum(),
        lost => lost,
    }
}

/// What the tasks of a stage have committed last, added up.
#[derive(Default)]
pub(crate) struct Committed {
    pub(crate) counts: Counts,
    /// Rows that were deleted before they first came.
    pub(crate) missed: u64,
    /// Messages that were gone before it could read them, at most.
    gone: u64,
    positions: Positions,
    /// What its source connector says that it gave; `None` without one.
    pub(crate) given: Option<u64>,
    /// What its sink connector says that it took; `None` without one.
    pub(crate) taken: Option<u64>,
}

impl Committed {
    /// What these checkpoints of the tasks say together.
    pub(crate) fn of(checkpoints: impl IntoIterator<Item = Checkpoint>) -> Self {
        let mut committed = Self::default();
        for checkpoint in checkpoints {
            committed.counts += checkpoint.counts;
            committed.missed += checkpoint.missed;
            committed.gone += checkpoint.gone;
            committed.positions.extend(checkpoint.positions);
            add(&mut committed.given, checkpoint.source);
            add(&mut committed.taken, checkpoint.sink);
        }
        committed
    }
}

/// The last checkpoint of each task of a stage, by its number; an empty one of a task that has none.
pub(crate) async fn checkpoints(log: &dyn Log, stage: &Stage) -> Result<Vec<Checkpoint>, Error> {
    let topic = stage.group().checkpoint;
    let mut checkpoints = Vec::new();
    for task in 0..log.extents(&topic).await?.len() as u32 {
        let damaged = |error| Error::Checkpoint { stage: stage.name.clone(), task, error };
        let checkpoint = match log.last(&topic.partition(task)).await? {
            Some(message) => Checkpoint::decode(message.record.payload()).map_err(damaged)?,
            None => Checkpoint::default(),
        };
        checkpoints.push(checkpoint);
    }
    Ok(checkpoints)
}

fn add(rows: &mut Option<u64>, connector: Option<Position>) {
    if let Some(position) = connector {
        *rows = Some(rows.unwrap_or(0) + position.rows);
    }
}

/// The rows between the positions and the ends of the topics.
async fn pending(log: &dyn Log, inputs: &[Topic], positions: &Positions) -> Result<u64, Error> {
    let mut rows = 0;
    for topic in inputs {
        for (number, extent) in (0..).zip(log.extents(topic).await?) {
            let partition = topic.partition(number);
            let next = positions.get(&partition).copied().unwrap_or(0);
            rows += log.rows(&partition, next.max(extent.start)).await?;
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use proptest::prelude::*;

    use crate::bus::{Bus, Change, Commit, Outgoing, Record, memory::Memory};
    use crate::config::Draft;
    use crate::sql::Engine;

    const CHAIN: &str = r#"
pipeline = { company = "acme", namespace = "shop" }
[stages.orders]
source = { kind = "file", path = "orders.ndjson" }
schema = { id = "bigint" }
[stages.paid]
from = ["orders"]
sql = "SELECT id FROM orders"
[stages.out]
from = ["paid"]
sink = { kind = "file", path = "out.ndjson" }
"#;

    /// A stage's only task commits, as if this had happened.
    async fn commit(bus: &Memory, topology: &Topology, name: &str, checkpoint: Checkpoint) {
        let stage = topology.stage(name).unwrap();
        let Change::Given(mut lease) = bus.join(stage.group()).await.unwrap().changed().await.unwrap() else {
            panic!("a sole member is given its task");
        };
        let record = Record { rows: checkpoint.counts.rows_out as u32, ..Record::default() };
        let results = match checkpoint.sink {
            Some(_) => Vec::new(),
            None => vec![Outgoing { to: stage.results().partition(0), record }],
        };
        let checkpoint = checkpoint.encode().unwrap();
        let commit = Commit { results, checkpoint, ..Commit::default() };
        lease.commit(commit).await.unwrap();
    }

    fn passed(rows_in: u64, rows_out: u64) -> Counts {
        Counts { rows_in, rows_out, filtered: rows_in - rows_out, ..Counts::default() }
    }

    fn connector(rows: u64) -> Option<Position> {
        Some(Position { rows, ..Position::default() })
    }

    #[tokio::test]
    async fn a_row_that_one_side_of_a_hop_counted_and_the_other_did_not_is_lost_there() {
        let draft = Draft::parse(CHAIN, "pipeline.toml", Path::new(""), &|_| None);
        let topology = Topology::of_draft(draft, &Engine::new()).map_err(|faulty| faulty.to_string()).unwrap().1;
        let bus = Memory::new();
        for stage in &topology.stages {
            bus.declare(&stage.topics).await.unwrap();
        }
        bus.enroll(&topology.stages.iter().map(|stage| stage.group()).collect::<Vec<_>>()).await.unwrap();

        let source = Checkpoint { counts: passed(9, 8), source: connector(10), ..Checkpoint::default() };
        commit(&bus, &topology, "orders", source).await;
        let positions = Positions::from([(topology.stage("orders").unwrap().results().partition(0), 1)]);
        let middle = Checkpoint { counts: passed(6, 5), positions, ..Checkpoint::default() };
        commit(&bus, &topology, "paid", middle).await;
        let positions = Positions::from([(topology.stage("paid").unwrap().results().partition(0), 1)]);
        let sink = Checkpoint { counts: passed(5, 5), positions, sink: connector(2), ..Checkpoint::default() };
        commit(&bus, &topology, "out", sink).await;

        let lost: Vec<i64> = accounts(&bus, &topology).await.unwrap().iter().map(|account| account.lost).collect();
        assert_eq!(lost, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn whatever_is_offered_is_counted_in_or_pending_or_lost(
            rows_in in 0..1000u64, pending in 0..1000u64, missing in 0..1000u64, dead_lettered in 0..1000u64,
        ) {
            let dead_lettered = dead_lettered.min(rows_in);
            let counts = Counts { rows_in, rows_out: rows_in - dead_lettered, dead_lettered, ..Counts::default() };
            prop_assert_eq!(lost(rows_in + pending + missing, &counts, pending, counts.rows_out), missing as i64);
        }

        #[test]
        fn a_row_that_vanishes_inside_a_stage_is_lost(rows_in in 1..1000u64) {
            let counts = Counts { rows_in, rows_out: rows_in - 1, ..Counts::default() };
            prop_assert_eq!(lost(rows_in, &counts, 0, counts.rows_out), 1);
        }

        #[test]
        fn no_faults_make_up_for_each_other(before in -3..4i64, inside in -3..4i64, after in -3..4i64) {
            let at = |difference: i64| (10 + difference) as u64;
            let counts = Counts { rows_in: 10, rows_out: 10, dead_lettered: at(-inside) - 7, expanded: 3, ..Counts::default() };
            let found = lost(at(before), &counts, 0, at(-after));
            prop_assert_eq!(found == 0, (before, inside, after) == (0, 0, 0));
            prop_assert_eq!(found > 0, before.max(inside).max(after) > 0);
        }

        #[test]
        fn a_row_that_a_sink_did_not_take_is_lost(rows in 1..1000u64) {
            let counts = Counts { rows_in: rows, rows_out: rows, ..Counts::default() };
            prop_assert_eq!(lost(rows, &counts, 0, rows - 1), 1);
        }
    }
}
