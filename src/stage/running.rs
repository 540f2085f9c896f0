//! One stage of a worker: the tasks that its group gives it, each run until it ends or is taken away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::bus::{Change, Lease, Member};
use crate::stage::plan::Plan;
use crate::stage::signals::{Phase, Signals};
use crate::stage::task::Error as TaskError;
use crate::stage::worker::{Error, Meters};
use crate::telemetry::{Meter, Registry};

/// A stage whose tasks run in this worker.
pub(super) struct RunningStage {
    plan: Arc<Plan>,
    signals: Signals,
    phase: watch::Sender<Phase>,
    registry: Arc<Registry>,
    meters: Arc<Meters>,
    tasks: JoinSet<Result<(), Error>>,
    by_number: HashMap<u32, AbortHandle>,
    /// How many of the stage's tasks have run to their end.
    ended: u32,
    /// Told whether nothing of it runs here that could still bring rows in.
    idle: watch::Sender<bool>,
    settled: bool,
}

/// How long a task waits before it goes on after a failure that may pass: at first, and at most.
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);

impl RunningStage {
    /// A stage that was given no task yet.
    pub fn new(
        plan: Plan,
        signals: Signals,
        phase: watch::Sender<Phase>,
        registry: Arc<Registry>,
        meters: Arc<Meters>,
        idle: watch::Sender<bool>,
    ) -> Self {
        let (tasks, by_number) = (JoinSet::new(), HashMap::new());
        Self {
            plan: Arc::new(plan),
            signals,
            phase,
            registry,
            meters,
            tasks,
            by_number,
            ended: 0,
            idle,
            settled: false,
        }
    }

    /// Runs what the group gives until all the stage's tasks have ended. If one fails, the others end after the commit
    /// they are at, here and in the other stages.
    pub async fn run(mut self, mut member: Box<dyn Member>) -> Result<(), Error> {
        let mut outcome = Ok(());
        while !self.is_over() {
            tokio::select! {
                change = member.changed(), if outcome.is_ok() => match change {
                    Ok(Change::Given(lease)) => self.start(lease),
                    Ok(Change::Taken(number)) => self.abort(number),
                    Ok(Change::Settled) => self.settled = true,
                    Err(error) => outcome = self.fail(error.into()),
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Ok(())) => self.ended += 1,
                    Ok(Err(error)) if outcome.is_ok() => outcome = self.fail(error),
                    Err(error) if !error.is_cancelled() && outcome.is_ok() => {
                        outcome = self.fail(Error::Panicked { reason: error.to_string() });
                    }
                    _ => {}
                },
                () = self.signals.changed() => {}
            }
            let brings_rows = self.plan.stage.from.is_empty() && !self.tasks.is_empty();
            self.idle.send_replace(self.settled && !brings_rows);
        }
        outcome
    }

    /// Whether there is nothing more to run: all tasks have ended, or the worker ends and has none.
    fn is_over(&self) -> bool {
        let all_ended = !self.signals.shared && self.ended >= self.plan.stage.tasks;
        all_ended || (self.signals.draining() && self.tasks.is_empty())
    }

    fn fail(&self, error: Error) -> Result<(), Error> {
        self.phase.send_replace(Phase::Stopping);
        Err(error)
    }

    fn abort(&mut self, number: u32) {
        if let Some(task) = self.by_number.remove(&number) {
            task.abort();
        }
    }

    fn start(&mut self, lease: Box<dyn Lease>) {
        let (name, number) = (self.plan.stage.name.clone(), lease.task());
        let meter = Meter::new(&self.registry, &self.plan.topology.prefix, &self.plan.stage, number);
        self.meters.add(&name, meter.clone());
        let (plan, signals) = (self.plan.clone(), self.signals.clone());
        let handle = self.tasks.spawn(async move {
            // Also where the task is taken away.
            let meter = scopeguard::guard(meter, |meter| meter.ended());
            let outcome = run(&plan, lease, signals, &meter).await;
            outcome.map_err(|error| Error::Task { stage: name, task: number, error })
        });
        self.by_number.insert(number, handle);
    }
}

/// Runs a task to its end, again and again from its last commit where a failure may pass.
async fn run(
    plan: &Plan,
    mut lease: Box<dyn Lease>,
    mut signals: Signals,
    meter: &Arc<Meter>,
) -> Result<(), TaskError> {
    let mut backoff = *BACKOFF.start();
    loop {
        let (again, started) = (lease.again(), Instant::now());
        let (error, next) = match (plan.task(lease, signals.clone(), meter.clone()).run().await, again) {
            (Err(error), Some(next)) if error.is_passing() => (error, next),
            (outcome, _) => return outcome,
        };
        let (stage, task) = (&plan.stage.name, next.task());
        if signals.draining() {
            // Whoever runs the task next goes on from there.
            tracing::info!(%stage, task, %error, "the task ends with its last commit");
            return Ok(());
        }
        if started.elapsed() > *BACKOFF.end() {
            backoff = *BACKOFF.start();
        }
        if meter.failed(&error, matches!(error, TaskError::Bus(_))) {
            tracing::warn!(%stage, task, %error, "the task goes on from its last commit");
        } else {
            tracing::debug!(%stage, task, %error, "the task goes on from its last commit");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = signals.changed() => {}
        }
        backoff = (backoff * 2).min(*BACKOFF.end());
        lease = next;
    }
}
