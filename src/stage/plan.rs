//! From a stage of the topology to a task that can run.

use std::sync::Arc;

use crate::bus::{Bus, Channel, Lease, TopicPartition};
use crate::checkpoint::{Checkpoint, Shape};
use crate::codec::{Decoder, Encoder, csv, json};
use crate::config::{self, LineFormat, Sink, Source};
use crate::connector::{self, nexmark::Nexmark};
use crate::fidelity::Sequences;
use crate::sql::Answer;
use crate::stage::clock::Clock;
use crate::stage::diary::Diary;
use crate::stage::facts::Facts;
use crate::stage::inlet::{GeneratorInlet, Inlet, SourceInlet, TopicInlet, TopicInput};
use crate::stage::others::OthersInlet;
use crate::stage::outlet::{Outlet, To};
use crate::stage::owner::Owner;
use crate::stage::process::{Queries, Results};
use crate::stage::published::Published;
use crate::stage::signals::{Quiet, Signals};
use crate::stage::spans::Spans;
use crate::stage::state::StateLog;
use crate::stage::step::Written;
use crate::stage::task::Task;
use crate::stage::worker::Options;
use crate::telemetry::Meter;
use crate::topology::{Stage, Topology, Work};

/// What the tasks of one stage are made from.
pub(super) struct Plan {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The pipeline.
    pub topology: Arc<Topology>,
    /// The stage.
    pub stage: Arc<Stage>,
    /// How the worker runs.
    pub options: Options,
}

impl Plan {
    /// The task that a lease is for.
    pub fn task(&self, lease: Box<dyn Lease>, signals: Signals, meter: Arc<Meter>) -> Task {
        Task {
            inlet: self.inlet(lease.task()),
            queries: self.queries(lease.task()),
            state: self.stage.has_state().then(|| StateLog::new(self.bus.clone(), self.state(lease.task()))),
            quiet: Quiet::new(&self.stage),
            outlet: match self.options.unobserved {
                true => self.outlet(lease.task()).without_books(),
                false => self.outlet(lease.task()),
            },
            diary: self.diary(lease.task()),
            spans: Spans::new(self.options.tracer.as_ref(), &self.stage, lease.task()),
            lasted: 0,
            lease,
            signals,
            meter,
            committed: Checkpoint { stage: self.shape(), ..Checkpoint::default() },
            written: Written::default(),
            committing: None,
        }
    }

    fn diary(&self, task: u32) -> Diary {
        Diary::new(&self.stage, task, (!self.options.unobserved).then(|| Facts::new(&self.stage, task)))
    }

    /// What of the stage a checkpoint depends on.
    fn shape(&self) -> Shape {
        let stage = self.stage.as_ref();
        let kind = match &stage.work {
            Work::Source(Source::Topic(_)) => "topic source",
            Work::Source(Source::Nexmark(_)) => "nexmark source",
            Work::Source(Source::Lines(source)) => match source.input {
                config::Input::File { .. } => "file source",
                config::Input::Stdin => "standard input source",
            },
            Work::Sql(_) => "sql",
            Work::Sink(Sink::Topic(_)) => "topic sink",
            Work::Sink(Sink::Lines(sink)) => match sink.output {
                config::Output::File { .. } => "file sink",
                config::Output::Stdout => "standard output sink",
            },
        };
        let stages = stage.from.iter().map(|name| name.to_string());
        let from = stages.chain(stage.reads().map(|topic| topic.to_string())).collect();
        Shape { kind: kind.to_owned(), from }
    }

    fn inlet(&self, task: u32) -> Inlet {
        let stage = self.stage.as_ref();
        match &stage.work {
            Work::Source(Source::Topic(spec)) => Inlet::Others(OthersInlet::new(stage, spec, task, self.bus.clone())),
            Work::Source(Source::Nexmark(spec)) => Inlet::Generator(Box::new(GeneratorInlet {
                stage: stage.full_name.clone(),
                task,
                source: Nexmark::new(spec, task, stage.tasks),
                schema: stage.schema.clone(),
                taken: 0,
            })),
            Work::Source(Source::Lines(spec)) => Inlet::Source(SourceInlet {
                stage: stage.name.clone(),
                source: connector::source(spec, task, stage.tasks),
                spec: spec.clone(),
                schema: stage.schema.clone(),
                dir: self.options.dir.clone(),
                taken: 0,
                decoder: None,
            }),
            Work::Sql(_) | Work::Sink(_) => self.topics(),
        }
    }

    fn predecessors(&self) -> Vec<&Stage> {
        self.stage.from.iter().filter_map(|name| self.topology.stage(name)).collect()
    }

    /// The results of the predecessors.
    fn topics(&self) -> Inlet {
        let stage = self.stage.as_ref();
        let predecessors = self.predecessors();
        let input = |stage: &&Stage| TopicInput {
            schema: stage.schema.clone(),
            decoder: json::Decoder::new(stage.schema.clone()).ok().map(|decoder| Box::new(decoder) as Box<dyn Decoder>),
            owner: Owner::new(stage),
            is_heard: stage.is_heard,
            time: stage.time,
            sequences: Sequences::default(),
        };
        Inlet::Topics(TopicInlet {
            stage: stage.name.clone(),
            by_topic: predecessors.iter().enumerate().map(|(number, stage)| (stage.results(), number)).collect(),
            inputs: predecessors.iter().map(input).collect(),
        })
    }

    fn state(&self, task: u32) -> TopicPartition {
        self.stage.topic(Channel::State).partition(task)
    }

    fn queries(&self, task: u32) -> Queries {
        let stage = self.stage.as_ref();
        Queries {
            stage: self.stage.clone(),
            task,
            clock: Clock::new(stage, &self.predecessors()),
            emitted: 0,
            results: match &stage.work {
                Work::Sql(query) => match query.answer() {
                    Answer::Rows(operator) => Results::Rows(operator),
                    Answer::Windows(windows) => Results::Windows(windows),
                    Answer::Changes(changes) => Results::Changes(changes),
                },
                Work::Source(_) | Work::Sink(_) => Results::AsTheyAre,
            },
            events: stage
                .events
                .iter()
                // One that is about windows, and not about a result, was refused.
                .filter_map(|(name, query)| Some((name.clone(), query.operator()?)))
                .collect(),
            max_record_bytes: self.bus.max_record_bytes(),
        }
    }

    fn outlet(&self, task: u32) -> Outlet {
        let stage = self.stage.as_ref();
        let to = match &stage.work {
            Work::Sink(Sink::Lines(spec)) => {
                To::Sink { encoder: encoder(spec, stage), sink: connector::sink(spec, task) }
            }
            Work::Sink(Sink::Topic(spec)) => To::Topic(Box::new(Published::by_sink(stage, spec))),
            Work::Source(_) | Work::Sql(_) => To::Topic(Box::new(Published::results(stage))),
        };
        Outlet::new(stage, task, to, self.bus.max_record_bytes())
    }
}

fn encoder(spec: &config::LineSink, stage: &Stage) -> Box<dyn Encoder> {
    match spec.format {
        LineFormat::Ndjson => Box::new(json::Encoder::new()),
        LineFormat::Csv => Box::new(csv::Encoder::new(stage.schema.clone())),
    }
}
