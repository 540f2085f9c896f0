//! One stage of a worker: the tasks that its group gives it, each run until it ends or is taken away.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::bus::{Change, Lease, Member};
use crate::stage::plan::Plan;
use crate::stage::signals::{Phase, Signals};
use crate::stage::worker::{Error, Meters};
use crate::telemetry::{Meter, Registry};

/// A stage whose tasks run in this worker.
pub(super) struct RunningStage {
    plan: Plan,
    signals: Signals,
    phase: watch::Sender<Phase>,
    registry: Arc<Registry>,
    meters: Arc<Meters>,
    tasks: JoinSet<Result<(), Error>>,
    by_number: HashMap<u32, AbortHandle>,
    /// How many of the stage's tasks have run to their end.
    ended: u32,
}

impl RunningStage {
    /// A stage that was given no task yet.
    pub fn new(
        plan: Plan,
        signals: Signals,
        phase: watch::Sender<Phase>,
        registry: Arc<Registry>,
        meters: Arc<Meters>,
    ) -> Self {
        Self { plan, signals, phase, registry, meters, tasks: JoinSet::new(), by_number: HashMap::new(), ended: 0 }
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
        }
        outcome
    }

    /// Whether there is nothing more to run: all tasks have ended, or the worker ends and has none.
    fn is_over(&self) -> bool {
        self.ended >= self.plan.stage.tasks || (self.signals.draining() && self.tasks.is_empty())
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
        let meter = Arc::new(Meter::new(&self.registry, &self.plan.topology.prefix, &name, number));
        self.meters.add(&name, meter.clone());
        let task = self.plan.task(lease, self.signals.clone(), meter.clone());
        let handle = self.tasks.spawn(async move {
            let outcome = task.run().await;
            meter.ended();
            outcome.map_err(|error| Error::Task { stage: name, task: number, error })
        });
        self.by_number.insert(number, handle);
    }
}
