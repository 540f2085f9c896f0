//! Every metric: its name, type, unit and labels, and what it means. `docs/metrics.md` is made of this.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;

use crate::bus::{Extent, Micros, TopicPartition};
use crate::failure::Class;
use crate::fidelity::Objective;
use crate::telemetry::Health;
use crate::telemetry::meter::{Doing, Meter};
use crate::telemetry::weighted::{Collection, Seconds, Weighted};
use crate::topology::Stage;

/// A metric, but for its values.
struct Definition {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    /// None has more values than there are partitions.
    labels: &'static [&'static str],
    help: &'static str,
}

impl Definition {
    /// The metric of which the labels have these values.
    fn key(&self, values: &[String]) -> Key {
        let label = |(name, value): (&&'static str, &String)| Label::new(*name, value.clone());
        Key::from_parts(self.name, self.labels.iter().zip(values).map(label).collect::<Vec<_>>())
    }
}

/// What Prometheus calls its type.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        })
    }
}

/// Of a task.
const TASK: &[&str] = &["pipeline", "stage", "task"];
/// Of a task, by the predecessor.
const HOP: &[&str] = &["pipeline", "stage", "task", "from"];
/// Of a task, by whether minutes were as promised.
const VERDICT: &[&str] = &["pipeline", "stage", "task", "verdict"];
/// Of a stage.
const STAGE: &[&str] = &["pipeline", "stage"];
/// Of a task, by the class of dead letters.
const CLASS: &[&str] = &["pipeline", "stage", "task", "class"];
/// Of a task, by what it does.
const DOING: &[&str] = &["pipeline", "stage", "task", "state"];
/// Of a partition that a stage reads.
const INPUT: &[&str] = &["pipeline", "stage", "topic", "partition"];
/// Of a partition of a topic.
const PARTITION: &[&str] = &["topic", "partition"];
/// Of the process.
const PROCESS: &[&str] = &[];

/// Something that a task has counted since the process began.
const fn counter(name: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Counter, unit: Unit::Count, labels: TASK, help }
}

const fn gauge(name: &'static str, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Definition {
    Definition { name, kind: Kind::Gauge, unit, labels, help }
}

/// Times of a task.
const fn histogram(name: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Histogram, unit: Unit::Seconds, labels: TASK, help }
}

const fn bytes(name: &'static str, help: &'static str) -> Definition {
    Definition { name, kind: Kind::Counter, unit: Unit::Bytes, labels: TASK, help }
}

const ROWS_IN: Definition = counter("fidelio_rows_in_total", "Rows that came in and were committed.");
const ROWS_OUT: Definition = counter("fidelio_rows_out_total", "Rows that were published, or written by a sink.");
const FILTERED: Definition =
    counter("fidelio_rows_filtered_total", "Rows that came in and have no result, as the query wants it.");
const EXPANDED: Definition = counter("fidelio_rows_expanded_total", "Results beyond the first of a row that came in.");
const DEAD_LETTERED: Definition =
    counter("fidelio_rows_dead_lettered_total", "Rows that came in and became dead letters, but for late ones.");
const LATE: Definition = counter(
    "fidelio_rows_late_total",
    "Rows that came in and became dead letters because their windows had closed, or because rows that they could have met were not kept any more.",
);
const ABSORBED: Definition = counter(
    "fidelio_rows_absorbed_total",
    "Rows that came in and were kept for windows, joins or aggregates, which yield results of their own.",
);
const EMITTED: Definition = counter(
    "fidelio_rows_emitted_total",
    "Rows that windows yielded when they closed, and joins and aggregates as they changed.",
);
const BACKFILLED: Definition = counter(
    "fidelio_rows_backfilled_total",
    "Results of rows that are history: their events happened before the task first ran, or no source before it is followed. They have no event lag.",
);
const AHEAD: Definition = counter(
    "fidelio_rows_ahead_total",
    "Results whose events are yet to happen by the clock of the machine, of which one is wrong. Their event lag counts as 0.",
);
const LOST: Definition = Definition {
    labels: HOP,
    ..counter(
        "fidelio_rows_lost_total",
        "Rows that a predecessor has published and that have not come: each of its tasks says how many it has published, and the stage counts along.",
    )
};
const REPEATED: Definition = Definition {
    labels: HOP,
    ..counter(
        "fidelio_rows_repeated_total",
        "Rows that have come from a predecessor and that it has not published, or not again.",
    )
};
const UNBALANCED: Definition = counter(
    "fidelio_rows_unbalanced_total",
    "Rows by which what came in and what was yielded of rows that are kept differs from what became of it, in a commit. It is 0, or there is a bug.",
);
const JUDGED: Definition = Definition {
    labels: VERDICT,
    ..counter(
        "fidelio_slo_minutes_total",
        "Minutes of event time that are final, `good` or `bad` by what `[slo]` promises; of rows that are history there is no verdict.",
    )
};
const TARGET: Definition = gauge(
    "fidelio_slo_target_ratio",
    Unit::Count,
    STAGE,
    "The part of the minutes that is to be good, as `[slo]` says it.",
);
const LAG_OBJECTIVE: Definition = gauge(
    "fidelio_slo_lag_seconds",
    Unit::Seconds,
    STAGE,
    "How soon after their events that part of the rows of a minute is to leave the stage of which `[slo]` says it.",
);
const BYTES_IN: Definition = bytes("fidelio_in_bytes_total", "Bytes of payload that came in and were committed.");
const BYTES_OUT: Definition = bytes(
    "fidelio_out_bytes_total",
    "Bytes of results that were published, with their keys and headers, or written by a sink.",
);
const STATE_ROWS: Definition = gauge(
    "fidelio_state_rows",
    Unit::Count,
    TASK,
    "Rows that the task keeps from batch to batch: those that came in, or one for each group that they are added up to.",
);
const STATE: Definition = gauge(
    "fidelio_state_bytes",
    Unit::Bytes,
    TASK,
    "Bytes of memory that what the task keeps from batch to batch takes.",
);
const STATE_LIMIT: Definition = gauge(
    "fidelio_state_limit_bytes",
    Unit::Bytes,
    TASK,
    "Bytes of memory that what the task keeps from batch to batch may take; it stops before that is more.",
);
const WATERMARK: Definition = gauge(
    "fidelio_watermark_timestamp_seconds",
    Unit::Seconds,
    TASK,
    "The event time up to which the task has said that it is through, as seconds since the Unix epoch.",
);
const LETTERS: Definition = Definition {
    labels: CLASS,
    ..counter("fidelio_dead_letters_total", "Dead letters that were written, by why: the class of a dead letter.")
};
const OUTSTANDING: Definition = gauge(
    "fidelio_dead_letters_outstanding",
    Unit::Count,
    TASK,
    "Dead letters in the topic of the task; on Kafka the marks of transactions among them count, too.",
);
const OLDEST: Definition = gauge(
    "fidelio_dead_letter_oldest_timestamp_seconds",
    Unit::Seconds,
    TASK,
    "When the row of the oldest dead letter in the topic of the task arrived in the pipeline, as seconds since the Unix epoch.",
);
const FOREIGN: Definition = counter(
    "fidelio_rows_foreign_total",
    "Rows that came in and that the owner of their topic did not publish; they are dead letters.",
);
const EVENTS: Definition = counter("fidelio_events_total", "Domain events that were published.");
const COMMITS: Definition = counter("fidelio_commits_total", "Commits of the task.");
const GONE: Definition = counter(
    "fidelio_messages_gone_total",
    "Messages that were gone before the task could read them, at most, where the pipeline goes on then.",
);
const ARRIVAL_LAG: Definition = histogram(
    "fidelio_event_lag_arrival_seconds",
    "From the events of rows to when the task polled them, a sample a row, without backfilled ones.",
);
const DEPARTURE_LAG: Definition = histogram(
    "fidelio_event_lag_departure_seconds",
    "From the events of results to when they were visible, a sample a row, without backfilled ones: at a sink, from end to end.",
);
const RESIDENCE: Definition = histogram(
    "fidelio_residence_seconds",
    "From when the task polled rows to when what became of them was visible, a sample a row.",
);
const COMMIT_SECONDS: Definition = histogram(
    "fidelio_commit_duration_seconds",
    "From when a commit was handed to the bus to when it was visible: results, events, dead letters and the checkpoint with them.",
);
const COMMIT_ROWS: Definition = Definition {
    unit: Unit::Count,
    ..histogram("fidelio_commit_rows", "Rows that came in with a commit, a sample a commit.")
};
const CHECKPOINT: Definition = gauge(
    "fidelio_checkpoint_bytes",
    Unit::Bytes,
    TASK,
    "Bytes of the last checkpoint, without what the task keeps from batch to batch.",
);
const SPENT: Definition = Definition {
    unit: Unit::Seconds,
    labels: DOING,
    ..counter(
        "fidelio_task_seconds_total",
        "Seconds that the task spent: `busy`, `idle` without rows, or `backpressured`, waiting for the bus or the sink to take what it has.",
    )
};
const BUS_ERRORS: Definition = counter(
    "fidelio_bus_errors_total",
    "How often the bus has failed the task, which then goes on from its last commit.",
);
const BEHIND: Definition = gauge(
    "fidelio_consumer_lag_offsets",
    Unit::Count,
    INPUT,
    "Offsets between what the stage has committed of a partition and its end; on Kafka the marks of transactions have offsets, too.",
);
const BEHIND_SECONDS: Definition = gauge(
    "fidelio_consumer_lag_seconds",
    Unit::Seconds,
    TASK,
    "How long ago the rows arrived in the pipeline that the task has committed last, while there are more for it; else 0.",
);
const LAG: Definition = histogram(
    "fidelio_lag_seconds",
    "From the arrival of a step's oldest row in the pipeline to the commit of the step, a sample a commit.",
);
const LAST_COMMIT: Definition = gauge(
    "fidelio_last_commit_timestamp_seconds",
    Unit::Seconds,
    TASK,
    "When the task committed last, as seconds since the Unix epoch.",
);
const UP: Definition = gauge(
    "fidelio_task_running",
    Unit::Count,
    TASK,
    "1 while the task runs; 0 once it has ended, and while it waits to go on after a failure.",
);
const RESTARTS: Definition =
    counter("fidelio_task_restarts_total", "How often the task has failed and gone on from its last commit.");
const BUS_UP: Definition =
    gauge("fidelio_bus_up", Unit::Count, PROCESS, "1 while the bus answers, 0 while it does not.");
const FIRST_OFFSET: Definition = gauge(
    "fidelio_topic_first_offset",
    Unit::Count,
    PARTITION,
    "The oldest offset that can be read; messages before it are deleted, or replaced by later ones.",
);
const END_OFFSET: Definition = gauge(
    "fidelio_topic_end_offset",
    Unit::Count,
    PARTITION,
    "The offset that the next message gets: how many messages were ever published.",
);
const BUILD_INFO: Definition =
    gauge("fidelio_build_info", Unit::Count, &["version"], "1; the label says which version of Fidelio it is.");

/// All of them, in the order in which they are documented.
const ALL: [&Definition; 47] = [
    &ROWS_IN,
    &ROWS_OUT,
    &FILTERED,
    &EXPANDED,
    &DEAD_LETTERED,
    &LATE,
    &LETTERS,
    &OUTSTANDING,
    &OLDEST,
    &ABSORBED,
    &EMITTED,
    &BACKFILLED,
    &AHEAD,
    &LOST,
    &REPEATED,
    &UNBALANCED,
    &JUDGED,
    &TARGET,
    &LAG_OBJECTIVE,
    &BYTES_IN,
    &BYTES_OUT,
    &STATE_ROWS,
    &STATE,
    &STATE_LIMIT,
    &WATERMARK,
    &FOREIGN,
    &EVENTS,
    &COMMITS,
    &GONE,
    &ARRIVAL_LAG,
    &DEPARTURE_LAG,
    &RESIDENCE,
    &LAG,
    &COMMIT_SECONDS,
    &COMMIT_ROWS,
    &CHECKPOINT,
    &SPENT,
    &BEHIND,
    &BEHIND_SECONDS,
    &LAST_COMMIT,
    &UP,
    &RESTARTS,
    &BUS_ERRORS,
    &BUS_UP,
    &FIRST_OFFSET,
    &END_OFFSET,
    &BUILD_INFO,
];

/// Upper bounds of the buckets of histograms of times, in seconds.
pub(super) const TIMES: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 600.0, 3_600.0,
    86_400.0,
];
/// The same of histograms of rows.
const ROWS: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 5_000.0, 10_000.0, 20_000.0, 32_768.0];

const METADATA: Metadata<'static> = Metadata::new("fidelio", Level::INFO, None);

/// The metrics of one process, and how it is.
pub struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    histograms: Collection<Weighted>,
    sums: Collection<Seconds>,
    meters: Mutex<Vec<Weak<Meter>>>,
    extents: Mutex<HashMap<TopicPartition, Extent>>,
    health: Arc<Health>,
}

/// The metrics of one task.
pub(super) struct TaskMetrics {
    pub rows_in: Counter,
    pub rows_out: Counter,
    pub filtered: Counter,
    pub expanded: Counter,
    pub dead_lettered: Counter,
    pub late: Counter,
    /// By class, in the order of all classes.
    pub letters: [Counter; Class::ALL.len()],
    pub absorbed: Counter,
    pub emitted: Counter,
    pub foreign: Counter,
    pub events: Counter,
    pub commits: Counter,
    pub backfilled: Counter,
    pub ahead: Counter,
    /// For each predecessor, rows that have not come, and such that have come again.
    pub missing: Vec<[Counter; 2]>,
    pub unbalanced: Counter,
    /// Minutes that were good, and such that were not, where something is promised.
    pub judged: Option<[Counter; 2]>,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub arrival_lag: Weighted,
    pub departure_lag: Weighted,
    pub residence: Weighted,
    pub lag: Weighted,
    pub commit_seconds: Weighted,
    pub commit_rows: Weighted,
    pub checkpoint: Gauge,
    /// By what it does; see [`Doing`].
    pub spent: [Seconds; 3],
    pub behind_seconds: Gauge,
    pub bus_errors: Counter,
    pub last_commit: Gauge,
    pub up: Gauge,
    pub restarts: Counter,
    pub gone: Counter,
    /// Of a task that keeps rows from batch to batch: how many, the bytes that these take, and those that they may take.
    pub state: Option<[Gauge; 3]>,
    /// Of a task that says how far it is.
    pub watermark: Option<Gauge>,
}

impl Default for Registry {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for Definition { name, kind, unit, help, .. } in ALL {
            let (name, unit, help) = (KeyName::from_const_str(name), Some(*unit), (*help).into());
            match kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => {}
            }
        }
        let build = BUILD_INFO.key(&[env!("CARGO_PKG_VERSION").to_owned()]);
        recorder.register_gauge(&build, &METADATA).set(1.0);
        let handle = recorder.handle();
        let (histograms, sums) = (Collection::default(), Collection::default());
        Self {
            recorder,
            handle,
            histograms,
            sums,
            meters: Mutex::default(),
            extents: Mutex::default(),
            health: Arc::default(),
        }
    }
}

impl Registry {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.meters().iter().for_each(|meter| meter.look());
        let mut text = self.handle.render();
        // Nothing fails that writes to a text.
        let _ = self.histograms.write(&mut text).and_then(|()| self.sums.write(&mut text));
        text
    }

    /// The tasks that report here.
    pub(super) fn meters(&self) -> Vec<Arc<Meter>> {
        self.meters.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// One more task reports here.
    pub(super) fn add(&self, meter: &Arc<Meter>) {
        let mut meters = self.meters.lock();
        meters.retain(|meter| meter.strong_count() > 0);
        meters.push(Arc::downgrade(meter));
    }

    /// So many offsets are between what a stage has committed of a partition and its end.
    pub(super) fn behind(&self, pipeline: &str, stage: &str, of: &TopicPartition, offsets: u64) {
        let labels = [pipeline, stage, of.topic.as_str(), &of.partition.to_string()].map(str::to_owned);
        self.recorder.register_gauge(&BEHIND.key(&labels), &METADATA).set(offsets as f64);
    }

    /// Whether the process works as it should.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(super) fn partition(&self, of: &TopicPartition, extent: Extent) {
        let labels = [of.topic.as_str().to_owned(), of.partition.to_string()];
        for (definition, offset) in [(&FIRST_OFFSET, extent.start), (&END_OFFSET, extent.end)] {
            let key = definition.key(&labels);
            self.recorder.register_gauge(&key, &METADATA).set(offset as f64);
        }
        self.extents.lock().insert(of.clone(), extent);
    }

    /// How far a partition reached when it was last looked at.
    pub(super) fn extent(&self, of: &TopicPartition) -> Option<Extent> {
        self.extents.lock().get(of).copied()
    }

    pub(super) fn bus(&self, up: bool) {
        self.recorder.register_gauge(&BUS_UP.key(&[]), &METADATA).set(f64::from(u8::from(up)));
    }

    /// So many dead letters are in the topic of a task, the oldest of which arrived in the pipeline then.
    pub(super) fn dead_letters(&self, labels: [&str; 3], count: u64, oldest: Option<Micros>) {
        let labels = labels.map(str::to_owned);
        self.recorder.register_gauge(&OUTSTANDING.key(&labels), &METADATA).set(count as f64);
        if let Some(oldest) = oldest {
            self.recorder.register_gauge(&OLDEST.key(&labels), &METADATA).set(oldest as f64 / 1e6);
        }
    }

    /// Says what is promised of a stage, and gives what counts the minutes of a task.
    fn objective(&self, slo: &Objective, pipeline: &str, stage: &str, task: &str) -> [Counter; 2] {
        let of_stage = [pipeline, stage].map(str::to_owned);
        self.recorder.register_gauge(&TARGET.key(&of_stage), &METADATA).set(slo.target);
        if let Some((_, most)) = slo.lag {
            self.recorder.register_gauge(&LAG_OBJECTIVE.key(&of_stage), &METADATA).set(most as f64 / 1e6);
        }
        ["good", "bad"].map(|verdict| {
            let labels = [pipeline, stage, task, verdict].map(str::to_owned);
            self.recorder.register_counter(&JUDGED.key(&labels), &METADATA)
        })
    }

    pub(super) fn task(&self, pipeline: &str, stage: &Stage, task: u32) -> TaskMetrics {
        let labels = [pipeline.to_owned(), stage.name.to_string(), task.to_string()];
        let key = |definition: &Definition| definition.key(&labels);
        let counter = |definition: &Definition| self.recorder.register_counter(&key(definition), &METADATA);
        let gauge = |definition: &Definition| self.recorder.register_gauge(&key(definition), &METADATA);
        let times = |definition: &Definition, labels: &[&str]| {
            let labels = definition.labels.iter().zip(labels).map(|(name, value)| format!("{name}=\"{value}\""));
            (definition.name, definition.help, labels.collect::<Vec<_>>().join(","))
        };
        let of_task = [pipeline, &stage.name, &task.to_string()];
        let histogram = |definition: &Definition, bounds| {
            let (name, help, labels) = times(definition, &of_task);
            self.histograms.get(name, help, labels, || Weighted::new(bounds))
        };
        let hop = |definition: &Definition, from: &Arc<str>| {
            let labels = [pipeline.to_owned(), stage.name.to_string(), task.to_string(), from.to_string()];
            self.recorder.register_counter(&definition.key(&labels), &METADATA)
        };
        let spent = Doing::ALL.map(|doing| {
            let (name, help, labels) = times(&SPENT, &[pipeline, &stage.name, &task.to_string(), doing.as_str()]);
            self.sums.get(name, help, labels, Seconds::default)
        });
        TaskMetrics {
            rows_in: counter(&ROWS_IN),
            rows_out: counter(&ROWS_OUT),
            filtered: counter(&FILTERED),
            expanded: counter(&EXPANDED),
            dead_lettered: counter(&DEAD_LETTERED),
            late: counter(&LATE),
            letters: Class::ALL.map(|class| {
                let labels = [pipeline, &stage.name, &task.to_string(), class.as_str()].map(str::to_owned);
                self.recorder.register_counter(&LETTERS.key(&labels), &METADATA)
            }),
            absorbed: counter(&ABSORBED),
            emitted: counter(&EMITTED),
            foreign: counter(&FOREIGN),
            events: counter(&EVENTS),
            commits: counter(&COMMITS),
            backfilled: counter(&BACKFILLED),
            ahead: counter(&AHEAD),
            missing: stage.from.iter().map(|from| [&LOST, &REPEATED].map(|of| hop(of, from))).collect(),
            unbalanced: counter(&UNBALANCED),
            judged: stage.slo.map(|slo| self.objective(&slo, pipeline, &stage.name, &task.to_string())),
            bytes_in: counter(&BYTES_IN),
            bytes_out: counter(&BYTES_OUT),
            arrival_lag: histogram(&ARRIVAL_LAG, TIMES),
            departure_lag: histogram(&DEPARTURE_LAG, TIMES),
            residence: histogram(&RESIDENCE, TIMES),
            lag: histogram(&LAG, TIMES),
            commit_seconds: histogram(&COMMIT_SECONDS, TIMES),
            commit_rows: histogram(&COMMIT_ROWS, ROWS),
            checkpoint: gauge(&CHECKPOINT),
            spent,
            behind_seconds: gauge(&BEHIND_SECONDS),
            bus_errors: counter(&BUS_ERRORS),
            last_commit: gauge(&LAST_COMMIT),
            up: gauge(&UP),
            restarts: counter(&RESTARTS),
            gone: counter(&GONE),
            // What a task does not have is not shown as nothing.
            state: stage.has_state().then(|| [&STATE_ROWS, &STATE, &STATE_LIMIT].map(gauge)),
            watermark: stage.is_heard.then(|| gauge(&WATERMARK)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOCUMENTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

    /// The table of all metrics, as it is in the documentation.
    fn table() -> String {
        let row = |of: &&Definition| {
            let Definition { name, kind, unit, labels, help } = of;
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{name}` | {kind} | {} | {} | {help} |\n", unit.as_str(), labels.join(", "))
        };
        let rows: String = ALL.iter().map(row).collect();
        format!("| name | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n{rows}")
    }

    #[test]
    fn every_metric_is_documented() {
        let text = std::fs::read_to_string(DOCUMENTED).unwrap();
        let (before, rest) = text.split_once("| name |").unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        let expected = format!("{before}{}\n{after}", table());
        if std::env::var_os("FIDELIO_DOCUMENT").is_some() {
            std::fs::write(DOCUMENTED, &expected).unwrap();
        }
        assert_eq!(text, expected, "FIDELIO_DOCUMENT=1 writes the table of docs/metrics.md anew");
    }

    #[test]
    fn names_say_what_they_count_as_prometheus_wants_it() {
        let names: BTreeSet<&str> = ALL.iter().map(|of| of.name).collect();
        assert_eq!(names.len(), ALL.len());
        for Definition { name, kind, unit, help, .. } in ALL {
            assert_eq!(name.ends_with("_total"), matches!(kind, Kind::Counter), "{name}");
            let of = name.trim_end_matches("_total");
            assert_eq!(of.ends_with("_bytes"), matches!(unit, Unit::Bytes), "{name}");
            assert_eq!(of.ends_with("_seconds"), matches!(unit, Unit::Seconds), "{name}");
            assert!(name.starts_with("fidelio_") && help.ends_with('.'), "{name}");
        }
    }
}
