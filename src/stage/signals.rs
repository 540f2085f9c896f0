//! What a task hears from outside: that its predecessors have ended, and that the worker is to stop.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{pending, select_all};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fidelity::Status;
use crate::topology::Stage;

/// How far a worker is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Phase {
    /// All tasks run.
    #[default]
    Running,
    /// Sources take in no more; what is in the pipeline flows out of it.
    Draining,
    /// Every task ends after the commit it is at.
    Stopping,
}

/// What a task whose rows come from outside the pipeline has told those behind it of there being none.
pub(super) struct Quiet {
    /// After how long nobody is to wait for it.
    idle_after: Option<Duration>,
    since: Instant,
    said: Option<Status>,
    is_heard: bool,
}

impl Quiet {
    /// Of a task that has just started.
    pub fn new(stage: &Stage) -> Self {
        let idle_after = stage.event_time.and_then(|time| time.idle_after);
        Self { idle_after, since: Instant::now(), said: None, is_heard: stage.is_heard && stage.from.is_empty() }
    }

    /// There are rows again.
    pub fn end(&mut self) {
        (self.since, self.said) = (Instant::now(), None);
    }

    /// Whether it is to be said that the task is idle, which it has been for long enough.
    pub fn is_idle(&mut self) -> bool {
        self.idle_after.is_some_and(|after| self.since.elapsed() >= after) && self.says(Status::Idle)
    }

    /// Whether that is to be said, which counts as done then.
    pub fn says(&mut self, status: Status) -> bool {
        self.is_heard && self.said.replace(status) != Some(status)
    }
}

/// The signals that one task listens to.
#[derive(Clone)]
pub(super) struct Signals {
    /// The worker's phase.
    pub phase: watch::Receiver<Phase>,
    /// For each predecessor that this worker runs, whether all its tasks have ended.
    pub ended: Vec<watch::Receiver<bool>>,
    /// Whether workers share the bus, so that what this one sees does not say when there is nothing more.
    pub shared: bool,
    /// Whether the worker goes on when all input has ended, until it is told to stop.
    pub keep_running: bool,
}

impl Signals {
    /// Whether sources are to take in no more.
    pub fn draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Whether the predecessors publish no more. Predecessors in other workers count as ended, unless this worker is to
    /// keep running.
    pub fn predecessors_ended(&self) -> bool {
        !self.shared && self.ended.iter().all(|ended| *ended.borrow()) && (!self.keep_running || self.draining())
    }

    /// Whether the task is to end, whatever is still there for it.
    pub fn stopping(&self) -> bool {
        *self.phase.borrow() == Phase::Stopping
    }

    /// Waits for the next signal.
    pub async fn changed(&mut self) {
        async fn next<T: Send + std::marker::Sync>(receiver: &mut watch::Receiver<T>) {
            // A sender that is gone says nothing any more.
            if receiver.changed().await.is_err() {
                pending::<()>().await;
            }
        }
        let phase = next(&mut self.phase).boxed();
        select_all(self.ended.iter_mut().map(|ended| next(ended).boxed()).chain([phase])).await;
    }
}
