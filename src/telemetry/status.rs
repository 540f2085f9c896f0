//! What the page of a worker shows: each stage of the pipeline with what this process has seen of it, as JSON.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::bus::{Channel, Extent, Micros, TopicPartition};
use crate::fidelity::Counts;
use crate::telemetry::metrics::{Registry, TIMES};
use crate::time_of_day::now;
use crate::topology::{Stage, Topology, Work};

/// A pipeline, as one process sees it.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    /// `<company>.<namespace>`
    pipeline: Arc<str>,
    version: &'static str,
    /// By the clock of the machine, in seconds since 1970.
    now: f64,
    /// Why the process cannot do what it is there for.
    troubles: Vec<String>,
    /// Upper bounds of the buckets of lags, in seconds.
    bounds: &'static [f64],
    /// In the order of the topology.
    stages: Vec<StageStatus>,
}

/// A stage, as one process sees it.
#[derive(Debug, Serialize)]
struct StageStatus {
    name: Arc<str>,
    kind: &'static str,
    /// Those that feed it.
    from: Vec<Hop>,
    /// What the tasks that run here have counted since the process began.
    counts: Counts,
    /// Dead letters in its topic, whoever wrote them.
    dead_letters: u64,
    /// Offsets between what the tasks that run here have committed and the ends of what they read.
    behind: u64,
    /// How long ago the rows arrived in the pipeline that were committed last, while there are more, of the task that is last.
    behind_seconds: f64,
    /// Results by how long after their events they were visible, in the buckets of the bounds, not added up.
    event_lags: Vec<u64>,
    /// Commits by how long it took from the arrival of their oldest row in the pipeline to them, in the same way.
    lags: Vec<u64>,
    /// What is kept from batch to batch; `None` of a stage that keeps nothing.
    state: Option<Held>,
    /// How far the task is that is last, in seconds since 1970.
    watermark: Option<f64>,
    /// Those that are here.
    tasks: Vec<TaskStatus>,
}

/// Rows on their way into a stage.
#[derive(Debug, Serialize)]
struct Hop {
    stage: Arc<str>,
    /// Those that have not come.
    lost: u64,
    /// Those that came more than once.
    repeated: u64,
}

/// What tasks keep from batch to batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Held {
    /// Rows that they keep.
    pub rows: usize,
    /// Bytes of memory that these take.
    pub bytes: usize,
    /// Bytes that they may take.
    pub limit: usize,
}

/// A task.
#[derive(Debug, Serialize)]
pub(super) struct TaskStatus {
    /// Its number.
    pub task: u32,
    /// Whether it runs.
    pub is_running: bool,
    /// How often it has failed and gone on.
    pub restarts: u64,
    /// Seconds since the process began that it was busy, idle and backpressured.
    pub spent: [f64; 3],
}

/// How a task is, for its stage.
pub(super) struct Standing {
    pub status: TaskStatus,
    pub counts: Counts,
    pub behind_seconds: f64,
    /// For each predecessor, rows that have not come, and such that have come again.
    pub missing: Vec<[u64; 2]>,
    pub held: Option<Held>,
    pub through: Option<Micros>,
    pub event_lags: Vec<u64>,
    pub lags: Vec<u64>,
    /// Offsets between what it has committed and the ends of what it reads.
    pub behind: u64,
}

/// How the pipeline is.
pub(super) fn status(registry: &Registry, topology: &Topology, troubles: Vec<String>) -> Status {
    let mut standings: HashMap<Arc<str>, Vec<Standing>> = HashMap::new();
    for meter in registry.meters() {
        standings.entry(meter.stage().clone()).or_default().push(meter.standing());
    }
    let stages = topology.stages.iter().map(|stage| {
        let tasks = standings.remove(&stage.name).unwrap_or_default();
        of_stage(stage, tasks, |partition| registry.extent(partition))
    });
    Status {
        pipeline: topology.prefix.clone(),
        version: env!("CARGO_PKG_VERSION"),
        now: now() as f64 / 1e6,
        troubles,
        bounds: TIMES,
        stages: stages.collect(),
    }
}

fn of_stage(stage: &Stage, tasks: Vec<Standing>, extent: impl Fn(&TopicPartition) -> Option<Extent>) -> StageStatus {
    let letters = stage.topic(Channel::DeadLetters);
    let letters = (0..).map_while(|task| extent(&letters.partition(task)));
    let hop = |stage: &Arc<str>| Hop { stage: stage.clone(), lost: 0, repeated: 0 };
    let mut status = StageStatus {
        name: stage.name.clone(),
        kind: match stage.work {
            Work::Source(_) => "source",
            Work::Sql(_) => "sql",
            Work::Sink(_) => "sink",
        },
        from: stage.from.iter().map(hop).collect(),
        counts: Counts::default(),
        dead_letters: letters.map(|Extent { start, end }| end - start).sum(),
        behind: 0,
        behind_seconds: 0.0,
        event_lags: vec![0; TIMES.len() + 1],
        lags: vec![0; TIMES.len() + 1],
        state: None,
        watermark: None,
        tasks: Vec::with_capacity(tasks.len()),
    };
    for task in tasks {
        status.counts += task.counts;
        status.behind_seconds = status.behind_seconds.max(task.behind_seconds);
        status.behind += task.behind;
        for (hop, [lost, repeated]) in status.from.iter_mut().zip(&task.missing) {
            hop.lost += lost;
            hop.repeated += repeated;
        }
        for (sums, lags) in [(&mut status.event_lags, &task.event_lags), (&mut status.lags, &task.lags)] {
            sums.iter_mut().zip(lags).for_each(|(sum, rows)| *sum += rows);
        }
        if let Some(held) = task.held {
            let all = status.state.get_or_insert_default();
            *all = Held { rows: all.rows + held.rows, bytes: all.bytes + held.bytes, limit: all.limit + held.limit };
        }
        let through = task.through.map(|through| through as f64 / 1e6);
        status.watermark = [status.watermark, through].into_iter().flatten().reduce(f64::min);
        status.tasks.push(task.status);
    }
    status.tasks.sort_by_key(|task| task.task);
    // One that was somebody else's for a while has begun more than once.
    status.tasks.dedup_by(|again, task| {
        let is_same = again.task == task.task;
        if is_same {
            task.is_running |= again.is_running;
            task.restarts += again.restarts;
            task.spent.iter_mut().zip(again.spent).for_each(|(sum, spent)| *sum += spent);
        }
        is_same
    });
    status
}
