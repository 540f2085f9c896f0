//! One stage of a worker: the tasks that its group gives it, each run until it ends or is taken away.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use crate::bus::{Change, Lease, Member};
use crate::stage::plan::Plan;
use crate::stage::signals::Signals;
use crate::stage::worker::{Error, Meters};
use crate::telemetry::{Meter, Registry};

/// A stage whose tasks run in this worker.
pub(super) struct RunningStage {
    plan: Plan,
    signals: Signals,
    registry: Arc<Registry>,
    meters: Arc<Meters>,
    tasks: JoinSet<Result<(), Error>>,
    by_number: HashMap<u32, AbortHandle>,
    /// How many of the stage's tasks have run to their end.
    ended: u32,
}

impl RunningStage {
    /// A stage that was given no task yet.
    pub fn new(plan: Plan, signals: Signals, registry: Arc<Registry>, meters: Arc<Meters>) -> Self {
        Self { plan, signals, registry, meters, tasks: JoinSet::new(), by_number: HashMap::new(), ended: 0 }
    }

    /// Runs what the group gives until all the stage's tasks have ended, or one has failed.
    pub async fn run(mut self, mut member: Box<dyn Member>) -> Result<(), Error> {
        while self.ended < self.plan.stage.tasks {
            tokio::select! {
                change = member.changed() => match change? {
                    Change::Given(lease) => self.start(lease),
                    Change::Taken(number) => {
                        if let Some(task) = self.by_number.remove(&number) {
                            task.abort();
                        }
                    }
                },
                Some(outcome) = self.tasks.join_next() => match outcome {
                    Ok(outcome) => {
                        outcome?;
                        self.ended += 1;
                    }
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return Err(Error::Panicked { reason: error.to_string() }),
                },
            }
        }
        Ok(())
    }

    fn start(&mut self, lease: Box<dyn Lease>) {
        let (name, number) = (self.plan.stage.name.clone(), lease.task());
        let meter = Arc::new(Meter::new(&self.registry, &self.plan.topology.prefix, &name, number));
        self.meters.add(&name, meter.clone());
        let task = self.plan.task(lease, self.signals.clone(), meter.clone());
        let handle = self.tasks.spawn(async move {
            let outcome = match task {
                Ok(task) => task.run().await,
                Err(error) => Err(error.into()),
            };
            meter.ended();
            outcome.map_err(|error| Error::Task { stage: name, task: number, error })
        });
        self.by_number.insert(number, handle);
    }
}
