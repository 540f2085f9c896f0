//! What a task resumes from: a record on `.private.checkpoint`, written in the same commit as the results it belongs to.
//!
//! A checkpoint is JSON, so that a person can read it with `fidelio tail`.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bus::{Micros, Positions, Topic, TopicPartition};
use crate::connector::Position;
use crate::fidelity::{Counts, Entry, Said, Sequence, is_zero};

/// The version of the shape below. A checkpoint of another version is refused.
const VERSION: u32 = 2;

/// A task after one of its commits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// The stage, as far as the rest depends on it.
    pub stage: Shape,
    /// Everything that the task has counted since its first commit.
    pub counts: Counts,
    /// Rows that were published to it and deleted by retention before it first came.
    pub missed: u64,
    /// Messages that were gone before it could read them, at most; where the pipeline goes on without them.
    pub gone: u64,
    /// Whether its source has ended, on a bus that workers share.
    pub ended: bool,
    /// How far its input partitions are dealt with.
    pub positions: Positions,
    /// How far its source connector is, where it has one.
    pub source: Option<Position>,
    /// How far its sink connector is, where it has one.
    pub sink: Option<Position>,
    /// Its event time.
    pub clock: Clock,
    /// What it keeps from batch to batch, where it does.
    pub windows: Option<Windows>,
    /// What became of rows, as far as it has not said so yet.
    pub book: Vec<Entry>,
    /// How often it has said what became of rows.
    pub pages: u64,
    /// How often it has said something else about itself.
    pub facts: u64,
    /// Up to when it has said something of minutes before they were final.
    pub early: Option<Micros>,
    /// Minutes that end by then were final when it last said something.
    pub through: Option<Micros>,
    /// When the task ran for the first time: what happened before is history.
    pub began: Option<Micros>,
    /// The rows that it has published to each partition of its results.
    pub sent: Vec<u64>,
    /// What has come from each predecessor.
    pub received: Vec<Received>,
}

/// What has come from the tasks of a predecessor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// The predecessor.
    pub from: String,
    /// Whether the partition was read from its first message on.
    pub whole: bool,
    /// What has come from each of its tasks, by its number.
    pub tasks: Vec<(u32, Sequence)>,
}

/// The event time of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// What each task of a predecessor has said.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub inputs: Vec<Heard>,
    /// The greatest event time of its own results, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub greatest: Option<Micros>,
    /// What the task has said last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub said: Option<Said>,
}

/// What a task has said of the event times behind what it has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heard {
    /// The name of its stage; of a source, for its connector, nothing.
    pub input: String,
    /// Its number.
    pub task: u32,
    /// What it has said last: a time in microseconds since 1970; that it is `idle`, or has come to its `end`, if so; and how
    /// often sources had gone on after their ends, if they had.
    pub said: Said,
}

impl Clock {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where to find what a task keeps from batch to batch: in messages of its own, which are numbered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// The version of the messages.
    pub version: u32,
    /// The number of the first message that is needed.
    pub first: u64,
    /// The number that the next message gets.
    pub next: u64,
    /// All windows that end by then have closed, in nanoseconds since 1970; none has if `None`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closed: Option<String>,
    /// What is kept of rows, a text for each part of the query that keeps some.
    pub keeps: Vec<String>,
}

/// What cannot be edited in a stage that has run: counts and positions would no longer mean anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// What it does, for example `file source` or `sql`.
    pub kind: String,
    /// The stages that feed it. More can join them; none can leave.
    pub from: Vec<String>,
}

/// Why a checkpoint is of no use.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It is not what was written.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
    /// Another version of Fidelio wrote it.
    #[error(
        "the checkpoint is of version {found}, and this program reads version {VERSION}: run it with the version of \
             Fidelio that wrote it, or start over with another data directory or in another namespace"
    )]
    Version {
        /// What it says.
        found: u32,
    },
    /// The stage was edited in a way that its checkpoint does not survive.
    #[error(
        "the stage has run as {was}, and is {is} now: give it another name, give it back what it was, or start over with \
             another data directory or in another namespace"
    )]
    Edited {
        /// What it was.
        was: Box<Shape>,
        /// What it is.
        is: Box<Shape>,
    },
    /// The query keeps something else of rows than it did.
    #[error(
        "the windows that are open hold {was}, and the query now keeps {is}: give the stage another name; give it back the query \
             that it had, until the windows have closed; or start over with another data directory or in another namespace"
    )]
    Keeps {
        /// What it kept.
        was: String,
        /// What it keeps.
        is: String,
    },
    /// The bus would go on from somewhere else.
    #[error(
        "the checkpoint goes on from offset {expected} of {partition}, and the bus from {found}: one of them is not \
             of this pipeline's last commit, or the stage was forgotten, after which it can only come back under another name"
    )]
    Positions {
        /// Of which input.
        partition: TopicPartition,
        /// Where the checkpoint goes on.
        expected: u64,
        /// Where the bus does.
        found: u64,
    },
}

/// The checkpoint as it is written; kept apart from [`Checkpoint`] so that a change of one shows in the other.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    stage: Shape,
    counts: Counts,
    #[serde(skip_serializing_if = "is_zero", default)]
    missed: u64,
    #[serde(skip_serializing_if = "is_zero", default)]
    gone: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    ended: bool,
    positions: Vec<(String, u32, u64)>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    source: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sink: Option<Position>,
    #[serde(skip_serializing_if = "Clock::is_empty", default)]
    clock: Clock,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    windows: Option<Windows>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    book: Vec<Entry>,
    #[serde(skip_serializing_if = "is_zero", default)]
    pages: u64,
    #[serde(skip_serializing_if = "is_zero", default)]
    facts: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    early: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    through: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    began: Option<Micros>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    sent: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    received: Vec<Received>,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from.as_slice() {
            [] => f.write_str(&self.kind),
            from => write!(f, "{} from {}", self.kind, from.join(", ")),
        }
    }
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Checkpoint {
    /// The record's value.
    pub fn encode(&self) -> Result<Bytes, Error> {
        let written = Written {
            version: VERSION,
            stage: self.stage.clone(),
            counts: self.counts,
            missed: self.missed,
            gone: self.gone,
            ended: self.ended,
            positions: self
                .positions
                .iter()
                .map(|(at, offset)| (at.topic.as_str().to_owned(), at.partition, *offset))
                .collect(),
            source: self.source.clone(),
            sink: self.sink.clone(),
            clock: self.clock.clone(),
            windows: self.windows.clone(),
            book: self.book.clone(),
            pages: self.pages,
            facts: self.facts,
            early: self.early,
            through: self.through,
            began: self.began,
            sent: self.sent.clone(),
            received: self.received.clone(),
        };
        serde_json::to_vec(&written).map(Bytes::from).map_err(|error| Error::Damaged(error.to_string()))
    }

    /// Whether a stage can go on from the checkpoint, and the bus would go on from where it was written, for each of the
    /// partitions that it gives. On a shared bus it may go on from further on: past what is no message, or because somebody
    /// has set the group there.
    pub fn agrees_with(&self, stage: &Shape, positions: &Positions, shared: bool) -> Result<(), Error> {
        if self.stage.kind != stage.kind || self.stage.from.iter().any(|name| !stage.from.contains(name)) {
            return Err(Error::Edited { was: Box::new(self.stage.clone()), is: Box::new(stage.clone()) });
        }
        for (partition, expected) in &self.positions {
            if let Some(found) = positions.get(partition)
                && found != expected
                && !(shared && found > expected)
            {
                return Err(Error::Positions { partition: partition.clone(), expected: *expected, found: *found });
            }
        }
        Ok(())
    }

    /// The checkpoint in a record's value.
    pub fn decode(value: &[u8]) -> Result<Self, Error> {
        let damaged = |error: serde_json::Error| Error::Damaged(error.to_string());
        let VersionOnly { version } = serde_json::from_slice(value).map_err(damaged)?;
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        let written: Written = serde_json::from_slice(value).map_err(damaged)?;
        Ok(Self {
            stage: written.stage,
            counts: written.counts,
            missed: written.missed,
            gone: written.gone,
            ended: written.ended,
            positions: written
                .positions
                .into_iter()
                .map(|(topic, partition, offset)| (Topic::new(topic).partition(partition), offset))
                .collect(),
            source: written.source,
            sink: written.sink,
            clock: written.clock,
            windows: written.windows,
            book: written.book,
            pages: written.pages,
            facts: written.facts,
            early: written.early,
            through: written.through,
            began: written.began,
            sent: written.sent,
            received: written.received,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fidelity::{Minute, Sequences, Tally};
    use proptest::prelude::*;

    #[test]
    fn the_shape_on_disk_stays_as_it_is() {
        let checkpoint = Checkpoint {
            stage: Shape { kind: "sql".into(), from: vec!["b".into()] },
            counts: Counts {
                rows_in: 5,
                rows_out: 3,
                filtered: 1,
                expanded: 0,
                dead_lettered: 1,
                late: 0,
                absorbed: 8,
                emitted: 7,
                events: 2,
                foreign: 1,
            },
            missed: 4,
            gone: 6,
            ended: true,
            positions: [(Topic::new("a.b.c.results").partition(1), 17)].into(),
            source: Some(Position { rows: 5, at: serde_json::json!({"bytes": 9}) }),
            sink: None,
            clock: Clock {
                inputs: vec![Heard { input: "b".into(), task: 1, said: "9 end 2".parse().unwrap() }],
                greatest: Some(-3),
                said: "1000000".parse().ok(),
            },
            windows: Some(Windows {
                version: 1,
                first: 2,
                next: 9,
                closed: Some("-60".into()),
                keeps: vec!["(a text)".into()],
            }),
            book: vec![Entry {
                minute: Minute::new(0),
                from: Some("b".into()),
                tally: Tally { counts: Counts { rows_in: 5, ..Counts::default() }, shifted: -5, ..Tally::default() },
            }],
            pages: 3,
            facts: 2,
            early: Some(60_000_000),
            through: Some(8),
            began: Some(7),
            sent: vec![3, 0],
            received: vec![Received {
                from: "b".into(),
                whole: true,
                tasks: Sequences::of(true, [(1, serde_json::from_str(r#"{"said":4,"since":1}"#).unwrap())])
                    .by_task()
                    .collect(),
            }],
        };
        let written = r#"{"version":2,"stage":{"kind":"sql","from":["b"]},"counts":{"rows_in":5,"rows_out":3,"filtered":1,"dead_lettered":1,"absorbed":8,"emitted":7,"events":2,"foreign":1},"missed":4,"gone":6,"ended":true,"positions":[["a.b.c.results",1,17]],"source":{"rows":5,"at":{"bytes":9}},"clock":{"inputs":[{"input":"b","task":1,"said":"9 end 2"}],"greatest":-3,"said":"1000000"},"windows":{"version":1,"first":2,"next":9,"closed":"-60","keeps":["(a text)"]},"book":[{"minute":"1970-01-01T00:00:00Z","from":"b","rows_in":5,"shifted":-5}],"pages":3,"facts":2,"early":60000000,"through":8,"began":7,"sent":[3,0],"received":[{"from":"b","whole":true,"tasks":[[1,{"said":4,"since":1}]]}]}"#;
        assert_eq!(checkpoint.encode().unwrap(), written.as_bytes());
        assert_eq!(Checkpoint::decode(written.as_bytes()).unwrap(), checkpoint);
    }

    #[test]
    fn a_stage_can_get_more_inputs_but_not_lose_one_or_become_another() {
        let shape = |kind: &str, from: &[&str]| Shape {
            kind: kind.into(),
            from: from.iter().map(|name| name.to_string()).collect(),
        };
        let checkpoint = Checkpoint { stage: shape("sql", &["a"]), ..Checkpoint::default() };
        let agrees = |stage: Shape| checkpoint.agrees_with(&stage, &Positions::new(), false).is_ok();
        assert!(agrees(shape("sql", &["a"])) && agrees(shape("sql", &["b", "a"])));
        assert!(!agrees(shape("sql", &["b"])) && !agrees(shape("file sink", &["a"])));
    }

    #[test]
    fn a_checkpoint_from_which_the_bus_would_not_go_on_is_refused() {
        let partition = Topic::new("a.b.c.results").partition(0);
        let at = |offset: u64| Positions::from([(partition.clone(), offset)]);
        let checkpoint = Checkpoint { positions: at(7), ..Checkpoint::default() };
        let agrees = |offset, shared| checkpoint.agrees_with(&Shape::default(), &at(offset), shared).is_ok();
        assert!(agrees(7, false) && agrees(7, true) && agrees(8, true));
        assert!(!agrees(6, false) && !agrees(8, false) && !agrees(6, true));
    }

    #[test]
    fn another_version_is_refused() {
        let first = br#"{"version":1,"stage":{"kind":"sql","from":["b"]},"counts":{"rows_in":5,"rows_out":3,"filtered":1,"expanded":0,"dead_lettered":1,"events":2},"positions":[["a.b.c.results",1,17]],"source":{"bytes":9}}"#;
        assert!(matches!(Checkpoint::decode(first), Err(Error::Version { found: 1 })));
        assert!(matches!(Checkpoint::decode(br#"{"version":3,"else":1}"#), Err(Error::Version { found: 3 })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_checkpoint_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Checkpoint::decode(&bytes);
        }
    }
}
