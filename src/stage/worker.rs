//! The worker: starts the tasks of a pipeline's stages, hands them the signals they need, and sees them end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bus::{self, Bus, Group, Log, Topic};
use crate::fidelity::{self, Account};
use crate::stage::drained::Drained;
use crate::stage::found;
use crate::stage::growing::Growing;
use crate::stage::plan::Plan;
use crate::stage::running::RunningStage;
use crate::stage::signals::{Phase, Signals};
use crate::stage::task::Error as TaskError;
use crate::telemetry::{self, Meter, Registry, Seen, Tracer};
use crate::topology::Topology;

/// How a worker runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The stages to run; all of them if empty.
    pub stages: Vec<String>,
    /// Whether to go on when bounded sources have ended and everything has drained.
    pub keep_running: bool,
    /// How long what is in the pipeline may take to flow out of it once the worker is told to stop.
    pub drain: Duration,
    /// The folder that names of files are told relative to in dead letters and events: the pipeline's.
    pub dir: PathBuf,
    /// Whether tasks keep no books, take down no event lags and say nothing of themselves; to measure what that costs.
    #[doc(hidden)]
    pub unobserved: bool,
    /// What takes the spans of sampled rows, where somebody wants them.
    pub tracer: Option<Arc<Tracer>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stages: Vec::new(),
            keep_running: false,
            drain: Duration::from_secs(30),
            dir: PathBuf::new(),
            unobserved: false,
            tracer: None,
        }
    }
}

/// Tasks of a pipeline, running.
pub struct Worker {
    bus: Arc<dyn Bus>,
    topology: Arc<Topology>,
    phase: watch::Sender<Phase>,
    meters: Arc<Meters>,
    stages: JoinSet<Result<(), Error>>,
    /// Ends with the worker.
    _upkeep: JoinSet<()>,
    drain: Duration,
    started: Instant,
}

/// The reports of a worker's tasks, by stage.
#[derive(Default)]
pub struct Meters(dashmap::DashMap<Arc<str>, Vec<Arc<Meter>>>);

/// Tells a worker to stop: sources take in no more, what is in the pipeline flows out of it, and the worker ends.
#[derive(Clone)]
pub struct Stop(watch::Sender<Phase>);

/// What a worker leaves behind.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Each stage of the pipeline, in the order of the topology.
    pub stages: Vec<StageSummary>,
    /// How long the worker ran.
    pub elapsed: Duration,
}

/// What a worker leaves behind of one stage.
#[derive(Debug, Clone)]
pub struct StageSummary {
    /// What both sides of every hop have committed, since the first run on this data.
    pub account: Account,
    /// What was seen in this run.
    pub seen: Seen,
}

/// Why a worker did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pipeline has no stage of that name.
    #[error("the pipeline has no stage {0}")]
    UnknownStage(String),
    /// A topic of others is not there.
    #[error(
        "stage {stage} {action} the topic {topic}, which does not exist, and is not the pipeline's own: make it first, or \
             correct the name; a sink makes its topic where it says how, as in sink = {{ partitions = 6 }}"
    )]
    NoTopic {
        /// The stage.
        stage: Arc<str>,
        /// Whether that reads or writes it.
        action: &'static str,
        /// Its name.
        topic: Topic,
    },
    /// A topic of others has fewer partitions than the stage has read: it is another one under the same name. Or it has more,
    /// on a bus whose topics keep their partitions.
    #[error(
        "stage {stage} has {tasks} tasks, one for each partition that {topic} had when it last ran, and the topic has \
             {partitions} now: give the stage another name, under which it reads all of them from the oldest message on"
    )]
    Resized {
        /// The stage.
        stage: Arc<str>,
        /// The topic that it reads.
        topic: Topic,
        /// How many partitions it had.
        tasks: u32,
        /// How many it has.
        partitions: u32,
    },
    /// The bus failed.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// A task failed. What it had not committed has not happened; another run goes on from there.
    #[error("task {task} of stage {stage}: {error}")]
    Task {
        /// The stage.
        stage: Arc<str>,
        /// The task.
        task: u32,
        /// What happened.
        error: TaskError,
    },
    /// A task ended in a way that no task should.
    #[error("a task broke down: {reason}")]
    Panicked {
        /// What the runtime says of it.
        reason: String,
    },
    /// What was committed could not be added up.
    #[error(transparent)]
    Account(#[from] fidelity::Error),
}

impl Worker {
    /// Declares the pipeline's topics, joins the stages' groups and starts the tasks it is given.
    pub async fn start(
        bus: Arc<dyn Bus>,
        topology: Arc<Topology>,
        registry: Arc<Registry>,
        options: Options,
    ) -> Result<Self, Error> {
        if let Some(unknown) = options.stages.iter().find(|name| topology.stage(name).is_none()) {
            return Err(Error::UnknownStage(unknown.clone()));
        }
        let topology = found::declared(bus.as_ref(), topology).await?;
        let groups: Vec<Group> = topology.stages.iter().map(|stage| stage.group()).collect();
        bus.enroll(&groups).await?;
        warn_of_former_stages(bus.as_ref(), &topology).await?;
        let mut upkeep = JoinSet::new();
        upkeep.spawn(telemetry::upkeep(registry.clone(), bus.clone(), topology.clone()));
        upkeep.spawn(telemetry::watch(registry.clone(), bus.clone()));
        upkeep.spawn(Growing::new(bus.clone(), topology.clone(), registry.clone()).watch());
        let (phase, listen) = watch::channel(Phase::Running);
        let meters = Arc::new(Meters::default());
        let mut ended: HashMap<Arc<str>, watch::Receiver<bool>> = HashMap::new();
        let mut stages = JoinSet::new();
        let mut idles = Vec::new();
        let selected = |name: &str| options.stages.is_empty() || options.stages.iter().any(|stage| stage == name);
        for stage in topology.stages.iter().filter(|stage| selected(&stage.name)) {
            let signals = Signals {
                phase: listen.clone(),
                ended: stage.from.iter().filter_map(|name| ended.get(name).cloned()).collect(),
                shared: bus.is_shared(),
                keep_running: options.keep_running,
            };
            let plan =
                Plan { bus: bus.clone(), topology: topology.clone(), stage: stage.clone(), options: options.clone() };
            let member = bus.join(stage.group()).await?;
            let (idle, listen_idle) = watch::channel(false);
            idles.push(listen_idle);
            let running = RunningStage::new(plan, signals, phase.clone(), registry.clone(), meters.clone(), idle);
            let (end, listen_end) = watch::channel(false);
            ended.insert(stage.name.clone(), listen_end);
            stages.spawn(async move {
                running.run(member).await?;
                end.send_replace(true);
                Ok(())
            });
        }
        if bus.is_shared() && !options.keep_running {
            let (bus, topology) = (bus.clone(), topology.clone());
            let drained = Drained { bus, topology, selected: options.stages.clone(), idle: idles };
            let watched = drained.watch(phase.clone());
            stages.spawn(async move { Ok(watched.await?) });
        }
        // Where others go on, nothing has to flow out of the pipeline here.
        let drain = if bus.is_shared() { Duration::ZERO } else { options.drain };
        Ok(Self { bus, topology, phase, meters, stages, _upkeep: upkeep, drain, started: Instant::now() })
    }

    /// What tells the worker to stop; it can be cloned and sent anywhere.
    pub fn stop(&self) -> Stop {
        Stop(self.phase.clone())
    }

    /// What is seen of the tasks while they run.
    pub fn meters(&self) -> Arc<Meters> {
        self.meters.clone()
    }

    /// Waits until everything has ended: because all input has, or because the worker was told to stop. Gives the
    /// account of the whole pipeline. If a task fails the others end after the commit they are at.
    pub async fn finished(mut self) -> Result<Summary, Error> {
        let ended = self.stages_ended().await;
        let elapsed = self.started.elapsed();
        let accounts = match ended {
            Ok(()) => {
                let log: Arc<dyn Log> = self.bus.clone();
                fidelity::accounts(log.as_ref(), &self.topology).await.map_err(Error::from)
            }
            Err(error) => Err(error),
        };
        let closed = self.bus.close().await;
        let summary = |account: Account| StageSummary { seen: self.meters.seen(&account.stage), account };
        let stages = accounts?.into_iter().map(summary).collect();
        closed?;
        Ok(Summary { stages, elapsed })
    }

    async fn stages_ended(&mut self) -> Result<(), Error> {
        let over = async {
            stop_after_drain(self.phase.clone(), self.drain).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::pin!(over);
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                ended = self.stages.join_next() => match ended {
                    None => return outcome,
                    Some(Ok(ended)) => {
                        if let (Err(_), Err(error)) = (&outcome, &ended) {
                            tracing::error!("{error}");
                        }
                        outcome = outcome.and(ended);
                    }
                    Some(Err(error)) => outcome = outcome.and(Err(Error::Panicked { reason: error.to_string() })),
                },
                // A task that waits for something that does not come, such as a reader of standard output, is given up.
                () = &mut over => return outcome,
            }
        }
    }
}

/// Says which stages were taken out of the pipeline and still keep what they have not read.
async fn warn_of_former_stages(bus: &dyn Bus, topology: &Topology) -> bus::Result<()> {
    for group in bus.groups().await? {
        let name = group.strip_prefix(&*topology.prefix).and_then(|rest| rest.strip_prefix('.'));
        if let Some(name) = name.filter(|name| !name.contains('.') && topology.stage(name).is_none()) {
            tracing::warn!(
                stage = name,
                "the stage is not in the pipeline, and what it has not read is kept for it; if it was taken out and does \
                 not come back, give that up with `fidelio forget`"
            );
        }
    }
    Ok(())
}

/// How long a task may take to finish the commit it is at once it is to end.
const GRACE: Duration = Duration::from_secs(5);

/// Ends the tasks of a worker that was told to stop and has had its time to drain.
async fn stop_after_drain(phase: watch::Sender<Phase>, drain: Duration) {
    match phase.subscribe().wait_for(|phase| *phase >= Phase::Draining).await {
        Ok(phase) if *phase == Phase::Draining => {}
        // It failed, which ends it as well.
        _ => return,
    }
    if drain.is_zero() {
        phase.send_replace(Phase::Stopping);
        return;
    }
    tokio::time::sleep(drain).await;
    tracing::warn!(?drain, "not everything has drained in time; the next run goes on from here");
    phase.send_replace(Phase::Stopping);
}

impl Stop {
    /// Tells the worker to stop. Returns at once; [`Worker::finished`] returns when it has.
    pub fn stop(&self) {
        self.0.send_if_modified(|phase| {
            let first = *phase == Phase::Running;
            if first {
                *phase = Phase::Draining;
            }
            first
        });
    }
}

impl Meters {
    /// What is seen of a stage, its tasks added up.
    pub fn seen(&self, stage: &str) -> Seen {
        let mut seen = Seen::default();
        if let Some(tasks) = self.0.get(stage) {
            for meter in tasks.iter() {
                seen += &meter.seen();
            }
        }
        seen
    }

    pub(super) fn add(&self, stage: &Arc<str>, meter: Arc<Meter>) {
        self.0.entry(stage.clone()).or_default().push(meter);
    }
}
