//! Whether a process works as it should, and what is wrong where it does not.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// How a process is. It starts out as not ready.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    started: bool,
    /// What is wrong, by what it is wrong with.
    troubles: BTreeMap<String, String>,
}

impl Health {
    /// The process does from now on what it is there for.
    pub fn started(&self) {
        self.0.lock().started = true;
    }

    /// Something does not work. Gives whether that is news.
    pub fn ill(&self, what: &str, why: String) -> bool {
        self.0.lock().troubles.insert(what.to_owned(), why).is_none()
    }

    /// Something works, again or still. Gives whether that is news.
    pub fn well(&self, what: &str) -> bool {
        self.0.lock().troubles.remove(what).is_some()
    }

    /// Why the process cannot do what it is there for, a reason a line; empty if it can.
    pub fn troubles(&self) -> Vec<String> {
        let state = self.0.lock();
        let starting = (!state.started).then(|| "starting".to_owned());
        starting.into_iter().chain(state.troubles.iter().map(|(what, why)| format!("{what}: {why}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_once_it_has_started_and_as_long_as_nothing_is_wrong() {
        let health = Health::default();
        assert_eq!(health.troubles(), ["starting"]);
        health.started();
        assert!(health.troubles().is_empty());
        assert!(health.ill("the bus", "no answer".to_owned()));
        assert!(!health.ill("the bus", "still none".to_owned()));
        assert!(health.ill("task 1", "fenced".to_owned()));
        assert_eq!(health.troubles(), ["task 1: fenced", "the bus: still none"]);
        assert!(health.well("the bus"));
        assert!(!health.well("the bus"));
        assert_eq!(health.troubles(), ["task 1: fenced"]);
    }
}
