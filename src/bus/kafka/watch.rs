//! What is looked at now and then, beside everything else, of the topics that a task reads.
//!
//! Whether each is still the one it was: librdkafka goes on at the same offset when a topic was deleted and another one has
//! its name, and tells nobody. The ids that a cluster gives its topics tell. And whether a transaction is in the way that
//! nobody ends any more, behind which nothing comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::task::JoinHandle;

use super::client::failed;
use super::{PATIENCE, Shared, native};
use crate::bus::{Group, HANGING, Positions, Result, Topic, TopicPartition};

/// How long between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// The ids of topics, as far as the cluster has given them any.
pub(super) type Ids = BTreeMap<Topic, String>;

/// The ids that a group's inputs have now; one that is not there is an error that passes. Blocks.
pub(super) fn topic_ids(shared: &Shared, group: &Group) -> Result<Ids> {
    if group.inputs.is_empty() {
        return Ok(Ids::new());
    }
    let names: Vec<&str> = group.inputs.iter().map(Topic::as_str).collect();
    let ids = native::topic_ids(&shared.asking().admin, &names, PATIENCE).map_err(failed("looking at topics"))?;
    Ok(ids.into_iter().map(|(name, id)| (Topic::new(name), id)).collect())
}

/// A topic that has another id than before.
pub(super) fn replaced(before: &Ids, now: &Ids) -> Option<Topic> {
    let is_other = |(topic, id): &(&Topic, &String)| now.get(*topic).is_some_and(|now| now != *id);
    before.iter().find(is_other).map(|(topic, _)| topic.clone())
}

/// What a look has found.
struct Found {
    ids: Ids,
    /// Where there is what is neither committed nor aborted.
    open: Positions,
}

/// Looks after the topics that a task reads.
pub(super) struct Watch {
    group: Arc<Group>,
    partitions: Arc<[TopicPartition]>,
    ids: Ids,
    /// The look that is under way.
    look: Option<JoinHandle<Result<Found>>>,
    looked: Instant,
    open: Open,
}

/// Transactions that are in the way, by where they begin, and since when; no time once that is said.
#[derive(Default)]
struct Open(BTreeMap<(TopicPartition, u64), Option<Instant>>);

impl Watch {
    /// Of topics that have these ids.
    pub fn new(group: Arc<Group>, partitions: Arc<[TopicPartition]>, ids: Ids) -> Self {
        Self { group, partitions, ids, look: None, looked: Instant::now(), open: Open::default() }
    }

    /// The ids with which the task began.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Gives a topic that is another one than before.
    pub fn replaced(&mut self, shared: &Arc<Shared>) -> Option<Topic> {
        match self.look.take() {
            Some(look) if !look.is_finished() => self.look = Some(look),
            Some(look) => {
                // Where there was no answer, it is looked again.
                let Found { ids, open } = look.now_or_never()?.ok()?.ok()?;
                for (partition, offset) in self.open.hanging(open, Instant::now()) {
                    tracing::warn!(
                        %partition, offset, group = %self.group.name,
                        "a transaction that begins there has been open for minutes, and nothing behind it is read before it \
                         ends; if the cluster has lost sight of it, kafka-transactions.sh finds and aborts it"
                    );
                }
                return replaced(&self.ids, &ids);
            }
            None if self.looked.elapsed() >= INTERVAL => {
                self.looked = Instant::now();
                let (shared, group, partitions) = (shared.clone(), self.group.clone(), self.partitions.clone());
                let look = async move { shared.ask(move |shared| look(shared, &group, &partitions)).await };
                self.look = Some(tokio::spawn(look));
            }
            None => {}
        }
        None
    }
}

/// Blocks.
fn look(shared: &Shared, group: &Group, partitions: &[TopicPartition]) -> Result<Found> {
    let (ids, mut open) = (topic_ids(shared, group)?, Positions::new());
    for partition in partitions {
        if let Some(offset) = shared.undecided(partition)? {
            open.insert(partition.clone(), offset);
        }
    }
    Ok(Found { ids, open })
}

impl Open {
    /// Takes down which transactions are in the way, and gives those of which it is to be said.
    fn hanging(&mut self, open: Positions, now: Instant) -> Vec<(TopicPartition, u64)> {
        self.0.retain(|(partition, offset), _| open.get(partition) == Some(offset));
        let mut hanging = Vec::new();
        for at in open {
            let since = self.0.entry(at.clone()).or_insert(Some(now));
            if since.take_if(|since| now.duration_since(*since) >= HANGING).is_some() {
                hanging.push(at);
            }
        }
        hanging
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_another_one_only_where_both_ids_are_known() {
        let ids = |ids: &[(&str, &str)]| -> Ids {
            ids.iter().map(|(topic, id)| (Topic::new(*topic), (*id).to_owned())).collect()
        };
        let before = ids(&[("a", "1"), ("b", "2")]);
        assert_eq!(replaced(&before, &ids(&[("a", "1"), ("b", "3")])), Some(Topic::new("b")));
        assert_eq!(replaced(&before, &ids(&[("a", "1"), ("c", "3")])), None);
        assert_eq!(replaced(&ids(&[]), &before), None);
    }

    #[test]
    fn a_transaction_that_stays_open_is_told_of_once() {
        let (mut open, start) = (Open::default(), Instant::now());
        let mut told = |at: u64, after: Duration| {
            let positions = Positions::from([(Topic::new("acme.shop.orders.results").partition(0), at)]);
            open.hanging(positions, start + after).len()
        };
        assert_eq!(told(7, Duration::ZERO), 0);
        assert_eq!(told(7, HANGING), 1);
        assert_eq!(told(7, HANGING * 2), 0);
        // Another one.
        assert_eq!(told(9, HANGING * 2), 0);
        assert_eq!(told(9, HANGING * 2 + Duration::from_secs(1)), 0);
        assert_eq!(told(9, HANGING * 3), 1);
    }
}
