//! The event time of a task: what it was told of its inputs, and what it says of its results.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::arrow::record_batch::RecordBatch;

use crate::bus::Micros;
use crate::checkpoint;
use crate::codec;
use crate::fidelity::Watermark;
use crate::topology::Stage;

/// The event time of a task.
pub(super) struct Clock {
    inputs: Vec<Input>,
    /// Where the time of results is read from, where the stage says so.
    own: Option<Own>,
    /// Whether what it says is of use to anybody.
    is_heard: bool,
    said: Option<Watermark>,
}

/// What is known of a predecessor.
struct Input {
    name: Arc<str>,
    /// Its tasks, each of which says something.
    tasks: u32,
    said: BTreeMap<u32, Watermark>,
}

/// The event time that a stage reads from its results.
struct Own {
    column: usize,
    out_of_orderness: Micros,
    greatest: Option<Micros>,
}

impl Clock {
    /// The clock of a task of a stage with these predecessors.
    pub fn new(stage: &Stage, predecessors: &[&Stage]) -> Self {
        let input = |stage: &&Stage| Input { name: stage.name.clone(), tasks: stage.tasks, said: BTreeMap::new() };
        // Windows close in the order of their ends, and say so themselves.
        let own = stage.event_time.filter(|_| !stage.is_windowed()).map(|time| Own {
            column: time.column,
            out_of_orderness: time.out_of_orderness,
            greatest: None,
        });
        let inputs = match predecessors {
            // What its connector says of a source counts as that of a task.
            [] => vec![Input { name: "".into(), tasks: 1, said: BTreeMap::new() }],
            predecessors => predecessors.iter().map(input).collect(),
        };
        Self { inputs, own, is_heard: stage.is_heard, said: None }
    }

    /// Goes to where a commit left it.
    pub fn resume(&mut self, saved: &checkpoint::Clock) {
        for input in &mut self.inputs {
            let of_input = saved.inputs.iter().filter(|(name, ..)| **name == *input.name);
            input.said = of_input.filter_map(|(_, task, text)| Some((*task, text.parse().ok()?))).collect();
        }
        if let Some(own) = &mut self.own {
            own.greatest = saved.greatest;
        }
        self.said = saved.said.as_ref().and_then(|text| text.parse().ok());
    }

    /// What a commit keeps of it.
    pub fn saved(&self) -> checkpoint::Clock {
        let of_input = |input: &Input| {
            input.said.iter().map(|(task, said)| (input.name.to_string(), *task, said.to_string())).collect::<Vec<_>>()
        };
        checkpoint::Clock {
            inputs: self.inputs.iter().flat_map(of_input).collect(),
            greatest: self.own.as_ref().and_then(|own| own.greatest),
            said: self.said.map(|said| said.to_string()),
        }
    }

    /// A task of an input has said something of what it publishes next; `None` if it has only published.
    pub fn hear(&mut self, input: usize, said: Option<(u32, Watermark)>) {
        let Some(input) = self.inputs.get_mut(input) else { return };
        match said {
            Some((task, watermark)) => drop(input.said.insert(task, watermark)),
            // A source that has rows is not idle, and has not ended.
            None if input.name.is_empty() => input.said.clear(),
            None => {}
        }
    }

    /// What all tasks of all inputs say together.
    pub fn of_inputs(&self) -> Option<Watermark> {
        let of_input = |input: &Input| {
            let tasks = (0..input.tasks).filter(|task| !input.said.contains_key(task)).map(|_| None);
            Watermark::of_all(input.said.values().copied().map(Some).chain(tasks))
        };
        Watermark::of_all(self.inputs.iter().map(of_input))
    }

    /// Results are about to be published.
    pub fn see(&mut self, results: &RecordBatch) {
        if let Some(own) = &mut self.own
            && let Some(greatest) = results.columns().get(own.column).and_then(codec::time::greatest_micros)
        {
            own.greatest = own.greatest.max(Some(greatest));
        }
    }

    /// What was said last.
    pub fn said(&self) -> Option<Watermark> {
        self.said
    }

    /// What is said of results where it is not what was said last. `of_rows` is what is said of those that are made of what
    /// has come in.
    pub fn say(&mut self, of_rows: Option<Watermark>) -> Option<Watermark> {
        let says = match (&self.own, of_rows) {
            (_, Some(said @ (Watermark::Idle | Watermark::End))) => Some(said),
            (Some(own), _) => own.greatest.map(|time| Watermark::Time(time.saturating_sub(own.out_of_orderness))),
            (None, said) => said,
        };
        let news = says.filter(|_| self.is_heard && says != self.said);
        self.said = news.or(self.said);
        news
    }
}
