//! How a task reports what it does: to the metrics, and to whoever watches the run.

use std::error::Error;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::bus::Micros;
use crate::connector::InputBytes;
use crate::fidelity::Counts;
use crate::telemetry::Health;
use crate::telemetry::metrics::{Registry, TaskMetrics};
use crate::time_of_day::now;
use crate::topology::Stage;

/// The longest lag that is told apart from longer ones: a day, in microseconds.
const LONGEST_MICROS: u64 = 24 * 60 * 60 * 1_000_000;

/// The report of one task.
pub struct Meter {
    metrics: TaskMetrics,
    seen: Mutex<Seen>,
    health: Arc<Health>,
    /// The task, as people are told of it.
    name: String,
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

impl Meter {
    /// The report of a task that has not started.
    pub fn new(registry: &Registry, pipeline: &str, stage: &Stage, task: u32) -> Self {
        Self {
            metrics: registry.task(pipeline, stage, task),
            seen: Mutex::new(Seen::default()),
            health: registry.health().clone(),
            name: format!("task {task} of stage {}", stage.name),
        }
    }

    /// The task, as people are told of it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The task starts, had counted this before, and has so much of its input to read.
    pub(crate) fn resumed(&self, total: Counts, input: Option<InputBytes>) {
        self.metrics.up.set(1.0);
        self.health.well(&self.name);
        let mut seen = self.seen.lock();
        seen.total = total;
        seen.input = input;
    }

    /// The task has committed a step whose oldest row arrived so long ago, and so much of its input is read.
    pub(crate) fn committed(&self, step: Counts, lag: Micros, input: Option<InputBytes>) {
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
        metrics.lag.record(lag as f64 / 1e6);
        metrics.last_commit.set(now() as f64 / 1e6);
        let mut seen = self.seen.lock();
        seen.total += step;
        seen.run += step;
        seen.input = input;
        let lag = u64::try_from(lag).unwrap_or(0).clamp(1, LONGEST_MICROS);
        if let Some(lags) = &mut seen.lag_micros {
            lags.saturating_record_n(lag, step.rows_in);
        }
    }

    /// The open windows of the task take so many bytes, and may take so many.
    pub(crate) fn holds(&self, bytes: usize, limit: usize) {
        if let Some([state, most]) = &self.metrics.state {
            state.set(bytes as f64);
            most.set(limit as f64);
        }
    }

    /// The task has said that it is through with event times up to that.
    pub(crate) fn through(&self, time: Micros) {
        if let Some(watermark) = &self.metrics.watermark {
            watermark.set(time as f64 / 1e6);
        }
    }

    /// So many messages at most were gone before the task could read them.
    pub(crate) fn gone(&self, messages: u64) {
        self.metrics.gone.increment(messages);
    }

    /// The task has failed, and will go on from its last commit. Gives whether that is news.
    pub(crate) fn failed(&self, error: &dyn Error) -> bool {
        self.metrics.up.set(0.0);
        self.metrics.restarts.increment(1);
        self.health.ill(&self.name, error.to_string())
    }

    /// The task has ended, or is somebody else's.
    pub(crate) fn ended(&self) {
        self.metrics.up.set(0.0);
        self.health.well(&self.name);
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
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
