//! What a task has in hand: a step, from its poll to when it is written, and what its next commit takes in of steps.

use crate::bus::{Micros, Outgoing, Positions};
use crate::connector::{self, InputBytes};
use crate::fidelity::{Counts, JudgedMinutes, Lags};
use crate::stage::books::Passed;
use crate::stage::facts::Letters;
use crate::stage::inlet::{Polled, Size};
use crate::stage::outlet::Encoded;
use crate::telemetry::{Report, Span};
use crate::time_of_day::now;

/// What became of a poll, before it is committed.
pub(super) struct Step {
    pub encoded: Encoded,
    pub positions: Positions,
    /// Where the source connector was after the poll, where there is one.
    pub source: Option<connector::Position>,
    /// How much was polled.
    pub size: Size,
    /// When it was.
    pub when: Micros,
    /// Whether there is likely to be more.
    pub full: bool,
    /// What it is of the traces of its rows.
    pub spans: Vec<Span>,
}

impl Step {
    /// A step of no rows.
    pub fn empty(source: Option<connector::Position>) -> Self {
        let (encoded, positions, size) = (Encoded::default(), Positions::new(), Size::default());
        Self { encoded, positions, source, size, when: now(), full: false, spans: Vec::new() }
    }
}

/// How far a poll brings the input partitions it is of.
pub(super) fn positions(polled: &Polled) -> Positions {
    match polled {
        Polled::Messages(messages) => {
            let mut positions = Positions::new();
            for message in messages {
                match positions.get_mut(&message.partition) {
                    Some(position) => *position = message.offset + 1,
                    None => drop(positions.insert(message.partition.clone(), message.offset + 1)),
                }
            }
            positions
        }
        _ => Positions::new(),
    }
}

/// What the next commit takes in, so far.
#[derive(Default)]
pub(super) struct Written {
    pub counts: Counts,
    /// When the oldest of the rows arrived in the pipeline.
    pub since: Micros,
    /// How much was polled.
    pub size: Size,
    /// What goes with a sink's rows.
    pub records: Vec<Outgoing>,
    /// The number of the message of the state before which all can be deleted once it is committed.
    pub trim: Option<u64>,
    /// When the rows of each step were polled, with their number.
    pub polled: Vec<(Micros, u64)>,
    /// How long after their events they were then.
    pub arrival: Lags,
    /// How long after their events the results of each step were encoded, and when.
    pub departure: Vec<(Micros, Lags)>,
    /// Bytes that go out.
    pub bytes: usize,
    /// Rows that predecessors, by their number, have published and that have not come, or have come again.
    pub missing: Vec<(usize, i64)>,
    /// What is to be said of dead letters.
    pub letters: Vec<Letters>,
    /// Minutes that it makes final.
    pub judged: JudgedMinutes,
    /// When it was handed to the bus.
    pub submitted: Micros,
    /// How far the input partitions are dealt with.
    pub positions: Positions,
    /// What its steps are of the traces of their rows.
    pub spans: Vec<Span>,
}

impl Written {
    /// Takes a step in.
    pub fn add(&mut self, encoded: &mut Encoded, size: Size, polled: Micros) {
        let Encoded { counts, since, .. } = *encoded;
        let is_first = self.counts == Counts::default();
        self.since = if is_first { since } else { self.since.min(since) };
        self.counts += counts;
        self.size = self.size + size;
        self.polled.push((polled, counts.rows_in));
        let Passed { arrival, departure } = std::mem::take(&mut encoded.lags);
        self.arrival.extend(&arrival);
        self.departure.push((encoded.encoded, departure));
        self.bytes += encoded.bytes;
        self.missing.append(&mut encoded.missing);
        std::mem::take(&mut encoded.letters).into_iter().for_each(|letters| letters.add_to(&mut self.letters));
    }

    /// What is to be said of it once it is visible.
    pub fn report(&self, visible: Micros, input: Option<InputBytes>) -> Report<'_> {
        Report {
            counts: self.counts,
            since: self.since,
            polled: &self.polled,
            arrival: &self.arrival,
            departure: &self.departure,
            bytes: (self.size.bytes, self.bytes),
            missing: &self.missing,
            letters: self.letters.iter().map(|letters| (letters.class, letters.rows)).collect(),
            submitted: self.submitted,
            visible,
            input,
            positions: &self.positions,
        }
    }
}
