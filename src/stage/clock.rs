//! The event time of a task: what it was told of its inputs, and what it says of its results.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::arrow::record_batch::RecordBatch;

use crate::bus::Micros;
use crate::checkpoint;
use crate::codec;
use crate::fidelity::{Said, Status, Watermark};
use crate::operator::Mark;
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
    /// What each of them has said last.
    heard: BTreeMap<u32, Said>,
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
        self.heard.values().map(|said| said.run).max().unwrap_or(0)
    }

    /// What all of its tasks say together.
    fn watermark(&self) -> Option<Watermark> {
        let run = self.run();
        let says = |said: &Said| match said.watermark.status {
            // It has not heard yet that there is more.
            Status::End if said.run < run => Watermark { status: Status::Active, ..said.watermark },
            _ => said.watermark,
        };
        Watermark::of_all((0..self.tasks).map(|task| self.heard.get(&task).map(says)))
    }
}

impl Own {
    /// None of the results to come is older, but for such as are late; the least there is where nothing was seen.
    fn time(&self) -> Micros {
        self.greatest.map_or(Micros::MIN, |time| time.saturating_sub(self.out_of_orderness))
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
            input.heard = of_input.map(|heard| (heard.task, heard.said)).collect();
        }
        if let Some(own) = &mut self.own {
            own.greatest = saved.greatest;
        }
        self.said = saved.said;
    }

    /// What a commit keeps of it.
    pub fn saved(&self) -> checkpoint::Clock {
        let of_input = |input: &Input| {
            let heard = |(task, said): (&u32, &Said)| checkpoint::Heard {
                input: input.name.to_string(),
                task: *task,
                said: *said,
            };
            input.heard.iter().map(heard).collect::<Vec<_>>()
        };
        checkpoint::Clock {
            inputs: self.inputs.iter().flat_map(of_input).collect(),
            greatest: self.own.as_ref().and_then(|own| own.greatest),
            said: self.said,
        }
    }

    /// A task of an input has said something of what it publishes next; `None` if it has only published.
    pub fn hear(&mut self, input: usize, said: Option<(u32, Said)>) {
        let Some(input) = self.inputs.get_mut(input) else { return };
        match said {
            Some((task, mut said)) => {
                // A connector does not count.
                said.run = said.run.max(if input.is_connector() { input.run() } else { 0 });
                input.heard.insert(task, said);
            }
            None if input.is_connector() => {
                for said in input.heard.values_mut() {
                    // It had come to its end, and goes on.
                    said.run += u64::from(said.watermark.status == Status::End);
                    said.watermark.status = Status::Active;
                }
            }
            None => {}
        }
    }

    /// A connector has rows. What is to be said before its results, where it had said that there are none.
    pub fn go_on(&mut self) -> Option<Said> {
        let is_active = self.said.is_none_or(|said| said.watermark.status == Status::Active);
        if is_active || !self.inputs.first().is_some_and(Input::is_connector) {
            return None;
        }
        self.hear(0, None);
        self.say(self.of_inputs())
    }

    /// How far each of the inputs is. Nobody waits for one that is idle: it counts as being as far as the others.
    pub fn marks(&self) -> Vec<Mark> {
        let said: Vec<Option<Watermark>> = self.inputs.iter().map(Input::watermark).collect();
        let active = said.iter().flatten().filter(|said| said.status == Status::Active).map(|said| said.time).min();
        let all_idle = said.iter().flatten().map(|said| said.time).max();
        let mark = |said: &Option<Watermark>| match said {
            None => Mark::NONE,
            Some(Watermark { time, status: Status::Active }) => Mark { time: *time, ended: false },
            Some(Watermark { time, status: Status::Idle }) => {
                Mark { time: (*time).max(active.or(all_idle).unwrap_or(Micros::MIN)), ended: false }
            }
            Some(Watermark { time, status: Status::End }) => Mark { time: *time, ended: true },
        };
        said.iter().map(mark).collect()
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

    /// What is known of the event times of the rows that still come in, and of the results that are made of them.
    pub fn through(&self) -> Option<Watermark> {
        let said = self.said?.watermark;
        let known = self.of_inputs().filter(|inputs| inputs.time > Micros::MIN);
        Some(Watermark { time: known.map_or(said.time, |inputs| said.time.min(inputs.time)), ..said })
    }

    /// The time that was said last, where one was known.
    pub fn time(&self) -> Option<Micros> {
        self.said.map(|said| said.watermark.time).filter(|time| *time > Micros::MIN)
    }

    /// What is said of results where it is not what was said last. `of_rows` is what is said of those that are made of what
    /// has come in.
    pub fn say(&mut self, of_rows: Option<Watermark>) -> Option<Said> {
        let says = match &self.own {
            None => of_rows,
            Some(own) => {
                let status = of_rows.map_or(Status::Active, |said| said.status);
                let watermark = Watermark { time: own.time(), status };
                Some(watermark).filter(|says| *says != Status::Active.at_no_time())
            }
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

    fn said(text: &str) -> Said {
        text.parse().unwrap()
    }

    fn together(clock: &Clock) -> Option<String> {
        clock.of_inputs().map(|watermark| Said { watermark, run: 0 }.to_string())
    }

    #[test]
    fn the_slowest_task_of_all_inputs_counts_once_all_have_said_something() {
        let mut clock = clock(&[("a", 2), ("b", 1)]);
        clock.hear(0, Some((0, said("5"))));
        clock.hear(1, Some((0, said("3"))));
        assert_eq!((clock.of_inputs(), clock.say(clock.of_inputs())), (None, None));
        clock.hear(0, Some((1, said("9"))));
        assert_eq!(together(&clock).unwrap(), "3");
        clock.hear(1, Some((0, said("3 idle"))));
        assert_eq!(together(&clock).unwrap(), "5");
        assert_eq!(clock.say(clock.of_inputs()), Some(said("5")));
        assert_eq!(clock.say(clock.of_inputs()), None);
    }

    #[test]
    fn it_does_not_matter_which_of_those_that_have_no_rows_says_so_first() {
        let none = Micros::MIN;
        for (first, second) in [(0, 1), (1, 0)] {
            let mut clock = clock(&[("a", 2)]);
            clock.hear(0, Some((0, said("7"))));
            for task in [first, second] {
                clock.hear(0, Some((task, said(&if task == 0 { "7 idle".into() } else { format!("{none} idle") }))));
            }
            assert_eq!(together(&clock).unwrap(), "7 idle");
            assert_eq!(clock.say(clock.of_inputs()), Some(said("7 idle")));
            clock.hear(0, Some((0, said("7 end"))));
            assert_eq!(together(&clock).unwrap(), "7 idle");
            clock.hear(0, Some((1, said("4"))));
            assert_eq!(together(&clock).unwrap(), "4");
        }
    }

    #[test]
    fn a_task_that_has_not_heard_that_there_is_more_is_not_at_its_end() {
        let mut after = clock(&[("a", 2)]);
        for task in 0..2 {
            after.hear(0, Some((task, said("7 end"))));
        }
        assert_eq!(together(&after).unwrap(), "7 end");
        let mut resumed = clock(&[("a", 2)]);
        resumed.resume(&after.saved());
        assert_eq!(together(&resumed).unwrap(), "7 end");
        resumed.hear(0, Some((0, said("20 1"))));
        assert_eq!(together(&resumed).unwrap(), "7");
        assert_eq!(resumed.say(resumed.of_inputs()), Some(said("7 1")));
        resumed.hear(0, Some((1, said("8 end 1"))));
        assert_eq!(together(&resumed).unwrap(), "20");
    }

    #[test]
    fn a_connector_that_goes_on_after_its_end_says_so() {
        let mut clock = clock(&[("", 1)]);
        let own = Own { column: 0, out_of_orderness: 2, greatest: Some(9) };
        let at_end = Some((0, Said { watermark: Status::End.at_no_time(), run: 0 }));
        clock.own = Some(own);
        clock.hear(0, at_end);
        assert_eq!(clock.say(clock.of_inputs()), Some(said("7 end")));
        assert_eq!(clock.go_on(), Some(said("7 1")));
        assert_eq!(clock.go_on(), None);
        clock.hear(0, at_end);
        assert_eq!(clock.say(clock.of_inputs()), Some(said("7 end 1")));
    }

    #[test]
    fn a_connector_without_rows_says_that_it_has_none_and_no_time() {
        let mut clock = clock(&[("", 1)]);
        clock.own = Some(Own { column: 0, out_of_orderness: 2, greatest: None });
        assert_eq!(clock.say(clock.of_inputs()), None);
        let idle = Status::Idle.at_no_time();
        clock.hear(0, Some((0, Said { watermark: idle, run: 0 })));
        assert_eq!(clock.say(clock.of_inputs()), Some(Said { watermark: idle, run: 0 }));
        assert_eq!(clock.time(), None);
    }
}
