//! What a stage whose query is over windows needs of the stages before it: that somebody says when windows close, and that all
//! rows of a group come to the same task.

use std::collections::BTreeSet;

use crate::config::{self, Work};

/// A source before that stage whose rows do not end, and of which nobody says when their events happened.
pub(super) fn timeless<'a>(
    stages: &'a [config::Stage],
    feeders: &[Vec<usize>],
    stage: usize,
) -> Option<&'a config::Stage> {
    let mut open = feeders.get(stage).cloned().unwrap_or_default();
    let mut seen = BTreeSet::new();
    while let Some(index) = open.pop() {
        let Some(feeder) = stages.get(index).filter(|feeder| feeder.event_time.is_none() && seen.insert(index)) else {
            continue;
        };
        match &feeder.work {
            Work::Source(source) if source.value.has_no_end() => return Some(feeder),
            _ => open.extend(feeders.get(index).into_iter().flatten()),
        }
    }
    None
}
