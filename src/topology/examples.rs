//! Whether the tests of a pipeline are about stages and columns that it has.

use super::contract::Contract;
use super::graph::ancestors;
use crate::config::{self, Fault, Holes, Pipeline, Row, Spanned, Stage, Test, Work};

/// What tests are checked against: stages in the order of the file, with what is known of them.
pub(super) struct Known<'a> {
    pub pipeline: &'a Pipeline,
    pub holes: &'a Holes,
    pub feeders: &'a [Vec<usize>],
    pub contracts: &'a [Option<Contract>],
}

const EVENT: [&str; 2] = ["type", "data"];
const DEAD_LETTER: [&str; 3] = ["class", "message", "row"];

impl Known<'_> {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        for test in &self.pipeline.tests {
            let subject = self.find(&test.stage, faults);
            if let Some(subject) = subject {
                self.check_expectations(test, subject, faults);
            }
            for (name, rows) in &test.given {
                let Some(given) = self.find(name, faults) else { continue };
                self.check_feeds(name, given, subject, faults);
                self.check_columns(rows, given, faults);
            }
        }
    }

    /// The stage of that name, or a fault if there is none.
    fn find(&self, name: &Spanned<String>, faults: &mut Vec<Fault>) -> Option<usize> {
        let names = self.pipeline.stages.iter().map(|stage| stage.name.value.as_str());
        let found = names.clone().position(|known| known == name.value);
        if found.is_none() {
            let fault = Fault::new(name.span.clone(), format!("there is no stage `{}`", name.value));
            faults.push(fault.label("unknown stage").maybe_help(config::advice(&name.value, names)));
        }
        found
    }

    fn stage(&self, index: usize) -> Option<&Stage> {
        self.pipeline.stages.get(index)
    }

    fn check_expectations(&self, test: &Test, subject: usize, faults: &mut Vec<Fault>) {
        let Some(stage) = self.stage(subject) else { return };
        if matches!(stage.work, Work::Sink(_)) {
            let fault = Fault::new(test.stage.span.clone(), "a sink has no results to look at");
            faults.push(fault.help("test the stage before"));
            return;
        }
        self.check_columns(test.expect.as_deref().unwrap_or_default(), subject, faults);
        for event in test.expect_events.iter().flatten() {
            check_keys(event, "an event", &EVENT, faults);
            check_event_type(event, stage, faults);
        }
        for letter in test.expect_dead_letters.iter().flatten() {
            check_keys(letter, "a dead letter", &DEAD_LETTER, faults);
        }
    }

    /// That given rows have a way to the stage that is looked at.
    fn check_feeds(&self, name: &Spanned<String>, given: usize, subject: Option<usize>, faults: &mut Vec<Fault>) {
        let Some(subject) = subject else { return };
        if !ancestors(self.feeders, subject).contains(&given) && !self.has_open_ancestry(subject) {
            let subject = self.stage(subject).map_or("", |stage| stage.name.value.as_str());
            let fault = Fault::new(name.span.clone(), format!("`{}` does not feed `{subject}`", name.value));
            faults.push(fault.help("give rows to a stage that is named in `from`, directly or through others"));
        }
    }

    /// Whether it is not known who all feeds the stage.
    fn has_open_ancestry(&self, stage: usize) -> bool {
        let mut family = ancestors(self.feeders, stage);
        family.insert(stage);
        let named = |index: &usize| self.stage(*index).into_iter().flat_map(|stage| &stage.from);
        let open = |name: &Spanned<String>| !self.pipeline.stages.iter().any(|stage| stage.name.value == name.value);
        family.iter().any(|index| named(index).any(open))
            || family
                .iter()
                .filter_map(|index| self.stage(*index))
                .any(|stage| self.holes.get(&stage.name.value).is_some_and(|hole| hole.from))
    }

    fn check_columns(&self, rows: &[Row], stage: usize, faults: &mut Vec<Fault>) {
        let Some(Some(contract)) = self.contracts.get(stage) else { return };
        let columns: Vec<&str> = contract.schema.fields().iter().map(|field| field.name().as_str()).collect();
        for column in rows.iter().flat_map(|row| &row.columns).filter(|it| !columns.contains(&it.value.as_str())) {
            let stage = self.stage(stage).map_or("", |stage| stage.name.value.as_str());
            let fault = Fault::new(column.span.clone(), format!("`{stage}` has no column `{}`", column.value));
            let advice = if contract.secret { None } else { config::advice(&column.value, columns.iter().copied()) };
            faults.push(fault.label("unknown column").maybe_help(advice));
        }
    }
}

fn check_keys(row: &Row, what: &str, keys: &[&str], faults: &mut Vec<Fault>) {
    for key in row.columns.iter().filter(|key| !keys.contains(&key.value.as_str())) {
        let fault = Fault::new(key.span.clone(), format!("{what} has no `{}`", key.value));
        faults.push(fault.label("unknown key").maybe_help(config::advice(&key.value, keys.iter().copied())));
    }
}

fn check_event_type(event: &Row, stage: &Stage, faults: &mut Vec<Fault>) {
    let Some(name) = event.values.get("type").and_then(|name| name.as_str()) else { return };
    let types = stage.events.iter().map(|event| event.name.value.as_str());
    if !types.clone().any(|known| known == name) {
        let place =
            event.columns.iter().find(|key| key.value == "type").map_or(event.span.clone(), |key| key.span.clone());
        let fault = Fault::new(place, format!("`{}` has no event `{name}`", stage.name.value));
        let help = format!("declare it under [stages.{}.events]", stage.name.value);
        faults.push(fault.help(help).maybe_help(config::advice(name, types)));
    }
}
