//! What a stage whose query is over windows needs of the stages before it: that somebody says when windows close, and that all
//! rows of a group come to the same task.

use std::collections::BTreeSet;

use crate::config::{self, Input, Source, Work};

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
            Work::Source(source) if has_no_end(&source.value) => return Some(feeder),
            _ => open.extend(feeders.get(index).into_iter().flatten()),
        }
    }
    None
}

/// Whether rows come in as their events happen.
pub(super) fn is_live(source: &Source) -> bool {
    has_no_end(source) || matches!(source, Source::Lines(lines) if matches!(lines.input, Input::Stdin))
}

fn has_no_end(source: &Source) -> bool {
    match source {
        Source::Lines(lines) => matches!(lines.input, Input::File { follow: true, .. }),
        Source::Topic(topic) => topic.follow,
    }
}
