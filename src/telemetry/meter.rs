//! How a task reports what it does: to the metrics, and to whoever watches the run.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::bus::{Micros, Positions, TopicPartition};
use crate::connector::InputBytes;
use crate::failure::Class;
use crate::fidelity::{Counts, JudgedMinutes, Lags};
use crate::telemetry::Health;
use crate::telemetry::metrics::{Registry, TaskMetrics};
use crate::telemetry::status::{Held, Standing, TaskStatus};
use crate::telemetry::weighted::Seconds;
use crate::time_of_day::now;
use crate::topology::Stage;

/// The longest lag that is told apart from longer ones: a day, in microseconds.
const LONGEST_MICROS: u64 = 24 * 60 * 60 * 1_000_000;

/// The report of one task.
pub struct Meter {
    pipeline: String,
    stage: Arc<str>,
    task: u32,
    metrics: TaskMetrics,
    seen: Mutex<Seen>,
    now: Mutex<Now>,
    health: Arc<Health>,
    /// The task, as people are told of it.
    name: String,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It decodes, processes or encodes.
    Busy,
    /// It waits for rows.
    Idle,
    /// It waits for the bus or the sink to take what it has.
    Backpressured,
}

impl Doing {
    pub(super) const ALL: [Self; 3] = [Self::Busy, Self::Idle, Self::Backpressured];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Backpressured => "backpressured",
        }
    }
}

/// How a task is at the moment.
#[derive(Default)]
struct Now {
    /// What it does, and since when that was not counted yet; `None` while it does not run.
    doing: Option<(Doing, Instant)>,
    /// Whether there were no more rows for it when it last looked.
    has_caught_up: bool,
    /// When the rows arrived in the pipeline that it has committed last.
    since: Micros,
    /// How far its input partitions are dealt with.
    positions: Positions,
    /// How many offsets are between that and their ends.
    behind: BTreeMap<TopicPartition, u64>,
    /// What it keeps from batch to batch.
    held: Option<Held>,
    /// What it has said that it is through with.
    through: Option<Micros>,
    is_running: bool,
    /// It is nobody's here any more.
    has_ended: bool,
    restarts: u64,
    /// For each predecessor, rows that have not come, and such that have come again.
    missing: Vec<[u64; 2]>,
}

/// What a task has committed.
pub(crate) struct Report<'a> {
    /// Rows.
    pub counts: Counts,
    /// When the oldest of them arrived in the pipeline.
    pub since: Micros,
    /// When the rows of each step were polled, with their number.
    pub polled: &'a [(Micros, u64)],
    /// How long after their events the rows were then.
    pub arrival: &'a Lags,
    /// How long after their events the results of each step were, with when that was.
    pub departure: &'a [(Micros, Lags)],
    /// The classes of dead letters, with their numbers.
    pub letters: Vec<(Class, u64)>,
    /// Bytes that came in, and that went out.
    pub bytes: (usize, usize),
    /// Rows that predecessors, by their number, have published and that have not come, or if negative have come again.
    pub missing: &'a [(usize, i64)],
    /// When the commit was handed to the bus.
    pub submitted: Micros,
    /// When it was visible.
    pub visible: Micros,
    /// How much of a source is read.
    pub input: Option<InputBytes>,
    /// How far the input partitions are dealt with.
    pub positions: &'a Positions,
}

/// What was seen of a task so far.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it has counted since its first commit ever.
    pub total: Counts,
    /// What it has counted in this run.
    pub run: Counts,
    /// How much of its input it has read; `None` where nobody knows how much there is.
    pub input: Option<InputBytes>,
    /// From the arrival of rows in the pipeline to the commit they were in, in microseconds, in this run, a sample a row.
    lag_micros: Option<Histogram<u64>>,
}

fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}

impl Meter {
    /// The report of a task that has not started.
    pub fn new(registry: &Registry, pipeline: &str, stage: &Stage, task: u32) -> Arc<Self> {
        let meter = Arc::new(Self {
            pipeline: pipeline.to_owned(),
            stage: stage.name.clone(),
            task,
            metrics: registry.task(pipeline, stage, task),
            seen: Mutex::new(Seen::default()),
            now: Mutex::new(Now { missing: vec![[0; 2]; stage.from.len()], ..Now::default() }),
            health: registry.health().clone(),
            name: format!("task {task} of stage {}", stage.name),
        });
        registry.add(&meter);
        meter
    }

    /// The task, as people are told of it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its stage.
    pub(super) fn stage(&self) -> &Arc<str> {
        &self.stage
    }

    /// The task starts, had counted this before, and has so much of its input to read.
    pub(crate) fn resumed(&self, total: Counts, input: Option<InputBytes>) {
        self.runs(true);
        self.health.well(&self.name);
        let mut seen = self.seen.lock();
        self.now.lock().has_ended = false;
        seen.total = total;
        seen.input = input;
    }

    fn runs(&self, is_running: bool) {
        self.metrics.up.set(f64::from(u8::from(is_running)));
        self.now.lock().is_running = is_running;
    }

    /// The task turns to something else, and has been doing what it did until now.
    pub(crate) fn turns_to(&self, doing: Doing) {
        self.turn(Some(doing));
    }

    fn turn(&self, doing: Option<Doing>) {
        let mut now = self.now.lock();
        let at = Instant::now();
        if let Some((before, since)) = now.doing
            && let Some(spent) = self.metrics.spent.get(before as usize)
        {
            spent.add((at - since).as_secs_f64());
        }
        now.doing = doing.map(|doing| (doing, at));
    }

    /// There were rows for the task, or none, when it looked.
    pub(crate) fn looked(&self, found: bool) {
        self.now.lock().has_caught_up = !found;
    }

    /// Brings up to date what changes while nothing happens.
    pub(super) fn look(&self) {
        let doing = self.now.lock().doing.map(|(doing, _)| doing);
        self.turn(doing);
        self.metrics.behind_seconds.set(self.now.lock().behind_seconds());
    }

    /// How the task is.
    pub(super) fn standing(&self) -> Standing {
        self.look();
        let metrics = &self.metrics;
        let counts = self.seen.lock().run;
        let now = self.now.lock();
        Standing {
            status: TaskStatus {
                task: self.task,
                is_running: now.is_running,
                restarts: now.restarts,
                spent: metrics.spent.each_ref().map(Seconds::get),
            },
            counts,
            behind_seconds: now.behind_seconds(),
            missing: now.missing.clone(),
            held: now.held,
            through: now.through,
            event_lags: metrics.departure_lag.counts(),
            lags: metrics.lag.counts(),
            behind: now.behind.values().sum(),
        }
    }

    /// How far the task's input partitions are dealt with.
    pub(super) fn positions(&self) -> Positions {
        self.now.lock().positions.clone()
    }

    /// Where the task has ended, whoever has it now says how far it is behind, and nobody here does.
    pub(super) fn lets_go(&self, registry: &Registry) {
        let mut now = self.now.lock();
        if now.has_ended {
            now.positions.clear();
            for partition in std::mem::take(&mut now.behind).into_keys() {
                registry.behind(&self.pipeline, &self.stage, &partition, 0);
            }
        }
    }

    /// So many offsets are between that and the end of a partition.
    pub(super) fn behind(&self, registry: &Registry, partition: &TopicPartition, offsets: u64) {
        registry.behind(&self.pipeline, &self.stage, partition, offsets);
        self.now.lock().behind.insert(partition.clone(), offsets);
    }

    /// The task has committed something.
    pub(crate) fn committed(&self, report: Report<'_>) {
        let Report { counts: step, visible, .. } = report;
        let metrics = &self.metrics;
        metrics.rows_in.increment(step.rows_in);
        metrics.rows_out.increment(step.rows_out);
        metrics.filtered.increment(step.filtered);
        metrics.expanded.increment(step.expanded);
        metrics.dead_lettered.increment(step.dead_lettered);
        metrics.late.increment(step.late);
        metrics.absorbed.increment(step.absorbed);
        metrics.emitted.increment(step.emitted);
        metrics.foreign.increment(step.foreign);
        metrics.events.increment(step.events);
        metrics.commits.increment(1);
        metrics.bytes_in.increment(report.bytes.0 as u64);
        metrics.bytes_out.increment(report.bytes.1 as u64);
        for (class, count) in report.letters {
            let letters = Class::ALL.iter().zip(&metrics.letters).find(|(known, _)| **known == class);
            letters.into_iter().for_each(|(_, counter)| counter.increment(count));
        }
        for (input, rows) in report.missing {
            if let Some([lost, repeated]) = metrics.missing.get(*input) {
                if *rows > 0 { lost } else { repeated }.increment(rows.unsigned_abs());
            }
            if let Some([lost, repeated]) = self.now.lock().missing.get_mut(*input) {
                *if *rows > 0 { lost } else { repeated } += rows.unsigned_abs();
            }
        }
        metrics.unbalanced.increment(step.imbalance().unsigned_abs());
        for (polled, rows) in report.polled {
            metrics.residence.record(seconds(visible - polled), *rows);
        }
        report.arrival.iter().for_each(|(lag, rows)| metrics.arrival_lag.record(seconds(lag), rows));
        for (encoded, lags) in report.departure {
            metrics.backfilled.increment(lags.backfilled);
            metrics.ahead.increment(lags.ahead);
            lags.iter().for_each(|(lag, rows)| metrics.departure_lag.record(seconds(lag + visible - encoded), rows));
        }
        metrics.commit_seconds.record(seconds(visible - report.submitted), 1);
        metrics.commit_rows.record(step.rows_in as f64, 1);
        let lag = (visible - report.since).max(0);
        metrics.lag.record(seconds(lag), 1);
        metrics.last_commit.set(seconds(now()));
        {
            let mut now = self.now.lock();
            now.since = report.since;
            now.positions.clone_from(report.positions);
        }
        let mut seen = self.seen.lock();
        seen.total += step;
        seen.run += step;
        seen.input = report.input;
        if let Some(lags) = &mut seen.lag_micros {
            lags.saturating_record_n((lag as u64).clamp(1, LONGEST_MICROS), step.rows_in);
        }
    }

    /// So many minutes are final and were judged by what is promised.
    pub(crate) fn judged(&self, minutes: JudgedMinutes) {
        if let Some([good, bad]) = &self.metrics.judged {
            good.increment(minutes.good);
            bad.increment(minutes.bad);
        }
    }

    /// The last checkpoint of the task has so many bytes.
    pub(crate) fn checkpoint(&self, bytes: usize) {
        self.metrics.checkpoint.set(bytes as f64);
    }

    /// The task keeps that from batch to batch.
    pub(crate) fn holds(&self, held: Held) {
        if let Some(state) = &self.metrics.state {
            let gauges = state.iter().zip([held.rows, held.bytes, held.limit]);
            gauges.for_each(|(gauge, value)| gauge.set(value as f64));
        }
        self.now.lock().held = Some(held);
    }

    /// The task has said that it is through with event times up to that.
    pub(crate) fn through(&self, time: Micros) {
        if let Some(watermark) = &self.metrics.watermark {
            watermark.set(time as f64 / 1e6);
        }
        self.now.lock().through = Some(time);
    }

    /// So many messages at most were gone before the task could read them.
    pub(crate) fn gone(&self, messages: u64) {
        self.metrics.gone.increment(messages);
    }

    /// The task has failed, and will go on from its last commit. Gives whether that is news.
    pub(crate) fn failed(&self, error: &dyn Error, by_bus: bool) -> bool {
        self.turn(None);
        self.runs(false);
        self.now.lock().restarts += 1;
        self.metrics.bus_errors.increment(u64::from(by_bus));
        self.metrics.restarts.increment(1);
        self.health.ill(&self.name, error.to_string())
    }

    /// The task has ended, or is somebody else's.
    pub(crate) fn ended(&self) {
        self.turn(None);
        {
            let mut now = self.now.lock();
            (now.has_caught_up, now.has_ended) = (true, true);
        }
        self.runs(false);
        self.health.well(&self.name);
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }
}

impl Now {
    /// How long ago the rows arrived in the pipeline that it has committed last, in seconds, while there are more; else 0.
    fn behind_seconds(&self) -> f64 {
        let is_behind = !self.has_caught_up && self.since != 0;
        if is_behind { seconds((now() - self.since).max(0)) } else { 0.0 }
    }
}

impl Default for Seen {
    fn default() -> Self {
        let lag_micros = Histogram::new_with_bounds(1, LONGEST_MICROS, 2).ok();
        Self { total: Counts::default(), run: Counts::default(), input: None, lag_micros }
    }
}

impl Seen {
    /// The lag that the given share of this run's rows did not exceed; `None` if there were no rows.
    pub fn lag(&self, quantile: f64) -> Option<Duration> {
        let lags = self.lag_micros.as_ref().filter(|lags| !lags.is_empty())?;
        Some(Duration::from_micros(lags.value_at_quantile(quantile)))
    }
}

impl AddAssign<&Seen> for Seen {
    fn add_assign(&mut self, other: &Seen) {
        self.total += other.total;
        self.run += other.run;
        if let Some(InputBytes { read, total }) = other.input {
            let sum = self.input.get_or_insert_default();
            sum.read += read;
            sum.total += total;
        }
        if let (Some(lags), Some(others)) = (&mut self.lag_micros, &other.lag_micros) {
            // Both have the same bounds, so everything fits.
            let _ = lags.add(others);
        }
    }
}
