//! The event time of a task: what it was told of its inputs, and what it says of its results.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::arrow::record_batch::RecordBatch;

use crate::bus::Micros;
use crate::checkpoint;
use crate::codec;
use crate::fidelity::{Said, Watermark};
use crate::topology::Stage;

/// The event time of a task.
pub(super) struct Clock {
    inputs: Vec<Input>,
    /// Where the time of results is read from, where the stage says so.
    own: Option<Own>,
    /// Whether what it says is of use to anybody.
    is_heard: bool,
    said: Option<Said>,
}

/// What is known of a predecessor.
struct Input {
    name: Arc<str>,
    /// Its tasks, each of which says something.
    tasks: u32,
    heard: BTreeMap<u32, Heard>,
}

/// What a task has said.
#[derive(Clone, Copy)]
struct Heard {
    last: Said,
    /// The last time that it has said.
    time: Option<Micros>,
}

/// The event time that a stage reads from its results.
struct Own {
    column: usize,
    out_of_orderness: Micros,
    greatest: Option<Micros>,
}

impl Input {
    /// A connector, which says something as a task does.
    fn connector() -> Self {
        Self { name: "".into(), tasks: 1, heard: BTreeMap::new() }
    }

    fn is_connector(&self) -> bool {
        self.name.is_empty()
    }

    fn run(&self) -> u64 {
        self.heard.values().map(|heard| heard.last.run).max().unwrap_or(0)
    }

    /// What all of its tasks say together.
    fn watermark(&self) -> Option<Watermark> {
        let run = self.run();
        let says = |heard: &Heard| match heard.last {
            // It has not heard yet that there is more.
            Said { watermark: Watermark::End, run: of } if of < run => heard.time.map(Watermark::Time),
            Said { watermark, .. } => Some(watermark),
        };
        let silent = (0..self.tasks).filter(|task| !self.heard.contains_key(task)).map(|_| None);
        Watermark::of_all(self.heard.values().map(says).chain(silent))
    }
}

impl Clock {
    /// The clock of a task of a stage with these predecessors.
    pub fn new(stage: &Stage, predecessors: &[&Stage]) -> Self {
        let input = |stage: &&Stage| Input { name: stage.name.clone(), tasks: stage.tasks, heard: BTreeMap::new() };
        // Windows close in the order of their ends, and say so themselves.
        let own = stage.event_time.filter(|_| !stage.is_windowed()).map(|time| Own {
            column: time.column,
            out_of_orderness: time.out_of_orderness,
            greatest: None,
        });
        let inputs = match predecessors {
            [] => vec![Input::connector()],
            predecessors => predecessors.iter().map(input).collect(),
        };
        Self { inputs, own, is_heard: stage.is_heard, said: None }
    }

    /// Goes to where a commit left it.
    pub fn resume(&mut self, saved: &checkpoint::Clock) {
        for input in &mut self.inputs {
            let of_input = saved.inputs.iter().filter(|heard| *heard.input == *input.name);
            let heard = |heard: &checkpoint::Heard| {
                Some((heard.task, Heard { last: heard.said.parse().ok()?, time: heard.time }))
            };
            input.heard = of_input.filter_map(heard).collect();
        }
        if let Some(own) = &mut self.own {
            own.greatest = saved.greatest;
        }
        self.said = saved.said.as_ref().and_then(|text| text.parse().ok());
    }

    /// What a commit keeps of it.
    pub fn saved(&self) -> checkpoint::Clock {
        let of_input = |input: &Input| {
            let heard = input.heard.iter().map(|(task, heard)| checkpoint::Heard {
                input: input.name.to_string(),
                task: *task,
                said: heard.last.to_string(),
                time: heard.time,
            });
            heard.collect::<Vec<_>>()
        };
        checkpoint::Clock {
            inputs: self.inputs.iter().flat_map(of_input).collect(),
            greatest: self.own.as_ref().and_then(|own| own.greatest),
            said: self.said.map(|said| said.to_string()),
        }
    }

    /// A task of an input has said something of what it publishes next; `None` if it has only published.
    pub fn hear(&mut self, input: usize, said: Option<(u32, Said)>) {
        let Some(input) = self.inputs.get_mut(input) else { return };
        match said {
            Some((task, mut said)) => {
                // A connector does not count.
                said.run = said.run.max(if input.is_connector() { input.run() } else { 0 });
                let before = input.heard.get(&task).and_then(|heard| heard.time);
                let time = if let Watermark::Time(time) = said.watermark { Some(time) } else { before };
                input.heard.insert(task, Heard { last: said, time });
            }
            None if input.is_connector() => {
                for heard in input.heard.values_mut() {
                    // It had come to its end, and goes on.
                    heard.last.run += u64::from(heard.last.watermark == Watermark::End);
                    heard.last.watermark = Watermark::Time(Micros::MIN);
                }
            }
            None => {}
        }
    }

    /// A connector has rows. What is to be said before its results, where it had said that there are none.
    pub fn go_on(&mut self) -> Option<Said> {
        let quiet = matches!(self.said(), Some(Watermark::End | Watermark::Idle));
        if !quiet || !self.inputs.first().is_some_and(Input::is_connector) {
            return None;
        }
        self.hear(0, None);
        self.say(self.of_inputs())
    }

    /// What all tasks of all inputs say together.
    pub fn of_inputs(&self) -> Option<Watermark> {
        Watermark::of_all(self.inputs.iter().map(Input::watermark))
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
        self.said.map(|said| said.watermark)
    }

    /// What is said of results where it is not what was said last. `of_rows` is what is said of those that are made of what
    /// has come in.
    pub fn say(&mut self, of_rows: Option<Watermark>) -> Option<Said> {
        let says = match (&self.own, of_rows) {
            (_, Some(said @ (Watermark::Idle | Watermark::End))) => Some(said),
            (Some(own), _) => own.greatest.map(|time| Watermark::Time(time.saturating_sub(own.out_of_orderness))),
            (None, said) => said,
        };
        let says = says.map(|watermark| Said { watermark, run: self.inputs.iter().map(Input::run).sum() });
        let news = says.filter(|_| self.is_heard && says != self.said);
        self.said = news.or(self.said);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(inputs: &[(&str, u32)]) -> Clock {
        let input = |(name, tasks): &(&str, u32)| Input { name: (*name).into(), tasks: *tasks, heard: BTreeMap::new() };
        Clock { inputs: inputs.iter().map(input).collect(), own: None, is_heard: true, said: None }
    }

    fn said(watermark: Watermark, run: u64) -> Said {
        Said { watermark, run }
    }

    #[test]
    fn the_slowest_task_of_all_inputs_counts_once_all_have_said_something() {
        let mut clock = clock(&[("a", 2), ("b", 1)]);
        clock.hear(0, Some((0, said(Watermark::Time(5), 0))));
        clock.hear(1, Some((0, said(Watermark::Time(3), 0))));
        assert_eq!((clock.of_inputs(), clock.say(clock.of_inputs())), (None, None));
        clock.hear(0, Some((1, said(Watermark::Time(9), 0))));
        assert_eq!(clock.of_inputs(), Some(Watermark::Time(3)));
        clock.hear(1, Some((0, said(Watermark::Idle, 0))));
        assert_eq!(clock.of_inputs(), Some(Watermark::Time(5)));
        assert_eq!(clock.say(clock.of_inputs()), Some(said(Watermark::Time(5), 0)));
        assert_eq!(clock.say(clock.of_inputs()), None);
    }

    #[test]
    fn a_task_that_has_not_heard_that_there_is_more_is_not_at_its_end() {
        let mut after = clock(&[("a", 2)]);
        for task in 0..2 {
            after.hear(0, Some((task, said(Watermark::Time(7), 0))));
            after.hear(0, Some((task, said(Watermark::End, 0))));
        }
        assert_eq!(after.of_inputs(), Some(Watermark::End));
        let mut resumed = clock(&[("a", 2)]);
        resumed.resume(&after.saved());
        assert_eq!(resumed.of_inputs(), Some(Watermark::End));
        resumed.hear(0, Some((0, said(Watermark::Time(20), 1))));
        assert_eq!(resumed.of_inputs(), Some(Watermark::Time(7)));
        assert_eq!(resumed.say(resumed.of_inputs()), Some(said(Watermark::Time(7), 1)));
        resumed.hear(0, Some((1, said(Watermark::End, 1))));
        assert_eq!(resumed.of_inputs(), Some(Watermark::Time(20)));
    }

    #[test]
    fn a_connector_that_goes_on_after_its_end_says_so() {
        let mut clock = clock(&[("", 1)]);
        clock.hear(0, Some((0, said(Watermark::End, 0))));
        assert_eq!(clock.say(clock.of_inputs()), Some(said(Watermark::End, 0)));
        assert_eq!(clock.go_on(), Some(said(Watermark::Time(Micros::MIN), 1)));
        assert_eq!(clock.go_on(), None);
        clock.hear(0, Some((0, said(Watermark::End, 0))));
        assert_eq!(clock.say(clock.of_inputs()), Some(said(Watermark::End, 1)));
    }
}
