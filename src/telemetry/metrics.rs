//! Every metric: its name, its unit, and what it means. Those of tasks carry the labels `pipeline`, `stage` and `task`,
//! those of topics `topic` and `partition`.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::bus::{Extent, TopicPartition};
use crate::telemetry::Health;
use crate::topology::Stage;

/// A metric's name, unit and help.
struct Definition {
    name: &'static str,
    unit: Unit,
    help: &'static str,
}

const ROWS_IN: Definition =
    Definition { name: "fidelio_rows_in_total", unit: Unit::Count, help: "Rows that came in and were committed." };
const ROWS_OUT: Definition = Definition {
    name: "fidelio_rows_out_total",
    unit: Unit::Count,
    help: "Rows that were published, or written by a sink.",
};
const FILTERED: Definition = Definition {
    name: "fidelio_rows_filtered_total",
    unit: Unit::Count,
    help: "Rows that came in and have no result, as the query wants it.",
};
const EXPANDED: Definition = Definition {
    name: "fidelio_rows_expanded_total",
    unit: Unit::Count,
    help: "Results beyond the first of a row that came in.",
};
const DEAD_LETTERED: Definition = Definition {
    name: "fidelio_rows_dead_lettered_total",
    unit: Unit::Count,
    help: "Rows that came in and became dead letters.",
};
const ABSORBED: Definition = Definition {
    name: "fidelio_rows_absorbed_total",
    unit: Unit::Count,
    help: "Rows that came in and went into windows, which yield their results when they close.",
};
const EMITTED: Definition = Definition {
    name: "fidelio_rows_emitted_total",
    unit: Unit::Count,
    help: "Rows that windows yielded when they closed.",
};
const STATE: Definition = Definition {
    name: "fidelio_state_bytes",
    unit: Unit::Bytes,
    help: "Bytes of memory that the open windows of the task take.",
};
const STATE_LIMIT: Definition = Definition {
    name: "fidelio_state_limit_bytes",
    unit: Unit::Bytes,
    help: "Bytes of memory that the open windows of the task may take; it stops before they take more.",
};
const WATERMARK: Definition = Definition {
    name: "fidelio_watermark_timestamp_seconds",
    unit: Unit::Seconds,
    help: "The event time up to which the task has said that it is through, as seconds since the Unix epoch.",
};
const FOREIGN: Definition = Definition {
    name: "fidelio_rows_foreign_total",
    unit: Unit::Count,
    help: "Rows that came in and that the owner of their topic did not publish; they are dead letters.",
};
const EVENTS: Definition =
    Definition { name: "fidelio_events_total", unit: Unit::Count, help: "Domain events that were published." };
const COMMITS: Definition =
    Definition { name: "fidelio_commits_total", unit: Unit::Count, help: "Commits of the task." };
const GONE: Definition = Definition {
    name: "fidelio_messages_gone_total",
    unit: Unit::Count,
    help: "Messages that were gone before the task could read them, at most, where the pipeline goes on then.",
};
const LAG: Definition = Definition {
    name: "fidelio_lag_seconds",
    unit: Unit::Seconds,
    help: "From the arrival of a step's oldest row in the pipeline to the commit of the step, a sample a commit.",
};
const LAST_COMMIT: Definition = Definition {
    name: "fidelio_last_commit_timestamp_seconds",
    unit: Unit::Seconds,
    help: "When the task committed last, as seconds since the Unix epoch.",
};
const UP: Definition = Definition {
    name: "fidelio_task_running",
    unit: Unit::Count,
    help: "1 while the task runs; 0 once it has ended, and while it waits to go on after a failure.",
};
const RESTARTS: Definition = Definition {
    name: "fidelio_task_restarts_total",
    unit: Unit::Count,
    help: "How often the task has failed and gone on from its last commit.",
};
const BUS_UP: Definition =
    Definition { name: "fidelio_bus_up", unit: Unit::Count, help: "1 while the bus answers, 0 while it does not." };
const FIRST_OFFSET: Definition = Definition {
    name: "fidelio_topic_first_offset",
    unit: Unit::Count,
    help: "The oldest offset that can be read; messages before it are deleted, or replaced by later ones.",
};
const END_OFFSET: Definition = Definition {
    name: "fidelio_topic_end_offset",
    unit: Unit::Count,
    help: "The offset that the next message gets: how many messages were ever published.",
};

const COUNTERS: [&Definition; 12] = [
    &ROWS_IN,
    &ROWS_OUT,
    &FILTERED,
    &EXPANDED,
    &DEAD_LETTERED,
    &ABSORBED,
    &EMITTED,
    &FOREIGN,
    &EVENTS,
    &COMMITS,
    &RESTARTS,
    &GONE,
];
const GAUGES: [&Definition; 8] =
    [&LAST_COMMIT, &UP, &STATE, &STATE_LIMIT, &WATERMARK, &BUS_UP, &FIRST_OFFSET, &END_OFFSET];

/// Upper bounds of the lag histogram's buckets, in seconds.
const LAG_BUCKETS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

const METADATA: Metadata<'static> = Metadata::new("fidelio", Level::INFO, None);

/// The metrics of one process, and how it is.
pub struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    health: Arc<Health>,
}

/// The metrics of one task.
pub(super) struct TaskMetrics {
    pub rows_in: Counter,
    pub rows_out: Counter,
    pub filtered: Counter,
    pub expanded: Counter,
    pub dead_lettered: Counter,
    pub absorbed: Counter,
    pub emitted: Counter,
    pub foreign: Counter,
    pub events: Counter,
    pub commits: Counter,
    pub lag: Histogram,
    pub last_commit: Gauge,
    pub up: Gauge,
    pub restarts: Counter,
    pub gone: Counter,
    /// Of a task with windows: what they take, and what they may take.
    pub state: Option<[Gauge; 2]>,
    /// Of a task that says how far it is.
    pub watermark: Option<Gauge>,
}

impl Default for Registry {
    fn default() -> Self {
        // Only an empty list of buckets is refused.
        let builder = PrometheusBuilder::new().set_buckets(&LAG_BUCKETS).unwrap_or_default();
        let recorder = builder.build_recorder();
        for counter in COUNTERS {
            recorder.describe_counter(KeyName::from_const_str(counter.name), Some(counter.unit), counter.help.into());
        }
        for gauge in GAUGES {
            recorder.describe_gauge(KeyName::from_const_str(gauge.name), Some(gauge.unit), gauge.help.into());
        }
        recorder.describe_histogram(KeyName::from_const_str(LAG.name), Some(LAG.unit), LAG.help.into());
        let handle = recorder.handle();
        Self { recorder, handle, health: Arc::default() }
    }
}

impl Registry {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Whether the process works as it should.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Folds recent samples into their histograms, so that they do not pile up while nobody scrapes.
    pub(super) fn fold(&self) {
        self.handle.run_upkeep();
    }

    pub(super) fn partition(&self, of: &TopicPartition, extent: Extent) {
        let labels =
            vec![Label::new("topic", of.topic.as_str().to_owned()), Label::new("partition", of.partition.to_string())];
        for (definition, offset) in [(&FIRST_OFFSET, extent.start), (&END_OFFSET, extent.end)] {
            let key = Key::from_parts(definition.name, labels.clone());
            self.recorder.register_gauge(&key, &METADATA).set(offset as f64);
        }
    }

    pub(super) fn bus(&self, up: bool) {
        self.recorder.register_gauge(&Key::from_name(BUS_UP.name), &METADATA).set(f64::from(u8::from(up)));
    }

    pub(super) fn task(&self, pipeline: &str, stage: &Stage, task: u32) -> TaskMetrics {
        let labels = vec![
            Label::new("pipeline", pipeline.to_owned()),
            Label::new("stage", stage.name.to_string()),
            Label::new("task", task.to_string()),
        ];
        let key = |definition: &Definition| Key::from_parts(definition.name, labels.clone());
        let counter = |definition: &Definition| self.recorder.register_counter(&key(definition), &METADATA);
        let gauge = |definition: &Definition| self.recorder.register_gauge(&key(definition), &METADATA);
        TaskMetrics {
            rows_in: counter(&ROWS_IN),
            rows_out: counter(&ROWS_OUT),
            filtered: counter(&FILTERED),
            expanded: counter(&EXPANDED),
            dead_lettered: counter(&DEAD_LETTERED),
            absorbed: counter(&ABSORBED),
            emitted: counter(&EMITTED),
            foreign: counter(&FOREIGN),
            events: counter(&EVENTS),
            commits: counter(&COMMITS),
            lag: self.recorder.register_histogram(&key(&LAG), &METADATA),
            last_commit: gauge(&LAST_COMMIT),
            up: gauge(&UP),
            restarts: counter(&RESTARTS),
            gone: counter(&GONE),
            // What a task does not have is not shown as nothing.
            state: stage.is_windowed().then(|| [gauge(&STATE), gauge(&STATE_LIMIT)]),
            watermark: stage.is_heard.then(|| gauge(&WATERMARK)),
        }
    }
}
