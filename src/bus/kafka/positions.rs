//! From where on a task reads: what its last checkpoint says, or else what its group has committed; and what becomes of it
//! where that is no longer there.
//!
//! The record of a checkpoint has a header that says how far the task's inputs were dealt with, and the ids of their topics.
//! It is as true as the checkpoint. What the cluster keeps for the group can be seen a moment later, is forgotten when nobody
//! has run the group for a week, and can be lost with a coordinator; so it counts only where it is further, as it is where
//! somebody has set the group there, or where there is no checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::BaseConsumer;
use serde::{Deserialize, Serialize};

use super::client::{self, Context};
use super::lease::READING;
use super::watch::Ids;
use super::{PATIENCE, Shared};
use crate::bus::{Error, Extent, Gap, Group, Headers, Message, Positions, Result, Topic, TopicPartition};
use crate::config::OnDataLoss;

/// The header of a checkpoint that says what it knows of the task's inputs.
const INPUTS: &str = "fidelio-inputs";

/// What a checkpoint says of the task's inputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recorded(BTreeMap<TopicPartition, Place>);

/// How far a partition is dealt with.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    position: u64,
    /// The id of its topic, where that was known.
    id: Option<String>,
}

/// A line of the header.
#[derive(Serialize, Deserialize)]
struct Written {
    topic: String,
    partition: u32,
    position: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    id: Option<String>,
}

/// For each partition of a task the offset that is read next, and where that is not the one that was to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct From {
    pub positions: Positions,
    pub gaps: Vec<Gap>,
    /// Whether the group has committed less.
    pub ahead: bool,
}

impl Recorded {
    /// What a checkpoint says; nothing where it is of a version that said nothing.
    pub fn of(checkpoint: &Message) -> Self {
        let header = checkpoint.record.headers.get(INPUTS);
        let written: Vec<Written> = header.and_then(|header| serde_json::from_slice(header).ok()).unwrap_or_default();
        let place =
            |it: Written| (Topic::new(it.topic).partition(it.partition), Place { position: it.position, id: it.id });
        Self(written.into_iter().map(place).collect())
    }

    /// What a checkpoint with these positions has as headers.
    pub fn headers(positions: &Positions, ids: &Ids) -> Headers {
        let line = |(at, position): (&TopicPartition, &u64)| {
            let (topic, id) = (at.topic.as_str().to_owned(), ids.get(&at.topic).cloned());
            Written { topic, partition: at.partition, position: *position, id }
        };
        let written: Vec<Written> = positions.iter().map(line).collect();
        // Numbers and texts are always something that can be written.
        let value = serde_json::to_vec(&written).unwrap_or_default();
        Headers::from([(INPUTS, value)])
    }
}

/// From where on the task reads each of its partitions: the oldest message where neither its checkpoint nor its group says
/// anything. Blocks.
pub(super) fn of_task(
    shared: &Shared,
    asker: &BaseConsumer<Context>,
    group: &Group,
    task: u32,
    (recorded, ids): (&Recorded, &Ids),
) -> Result<From> {
    let mut wanted = TopicPartitionList::new();
    for topic in &group.inputs {
        if shared.has(&topic.partition(task))? {
            wanted.add_partition(topic.as_str(), task as i32);
        }
    }
    let mut from = From::default();
    if wanted.count() == 0 {
        return Ok(from);
    }
    for (partition, committed) in client::committed(asker, wanted, PATIENCE)? {
        let (extent, place) = (shared.extent(&partition)?, recorded.0.get(&partition));
        let position = place.map(|place| place.position).max(committed);
        let (known, id) = (place.and_then(|place| place.id.as_ref()), ids.get(&partition.topic));
        if known.is_some() && id.is_none() {
            let detail = format!("the cluster does not say whether {} is the topic that it was", partition.topic);
            return Err(Error::Broker { action: READING, detail, passing: true });
        }
        let is_other = known.is_some() && known != id;
        let (error, wanted, first) = match position {
            Some(wanted) if is_other => (another(&group.name, &partition), wanted, extent.start),
            Some(wanted) if !extent.has_position(wanted) => {
                // A topic that is the same has lost its end, and gets another one.
                let first = if known.is_some() && wanted > extent.end { extent.end } else { extent.start };
                (missing(&group.name, &partition, wanted, extent), wanted, first)
            }
            position => {
                from.ahead |= position > committed;
                from.positions.insert(partition, position.unwrap_or(extent.start));
                continue;
            }
        };
        if shared.clients.spec.on_data_loss == OnDataLoss::Stop {
            return Err(error);
        }
        from.positions.insert(partition.clone(), first);
        from.gaps.push(Gap { partition, wanted, first });
    }
    Ok(from)
}

/// That what a task that runs was to read next is not there. Where the pipeline goes on without it, the task does so when it
/// is resumed.
pub(super) fn overtaken(
    shared: &Shared,
    group: &Arc<str>,
    partition: &TopicPartition,
    offset: u64,
    extent: Extent,
) -> Error {
    to_get_over(shared, missing(group, partition, offset, extent))
}

/// That the topic that a task reads is another one now; the same.
pub(super) fn anew(shared: &Shared, group: &Arc<str>, partition: &TopicPartition) -> Error {
    to_get_over(shared, another(group, partition))
}

/// An error that passes where the pipeline goes on without what is gone.
fn to_get_over(shared: &Shared, error: Error) -> Error {
    match shared.clients.spec.on_data_loss {
        OnDataLoss::Stop => error,
        OnDataLoss::Earliest => Error::Broker { action: READING, detail: error.to_string(), passing: true },
    }
}

fn another(group: &Arc<str>, partition: &TopicPartition) -> Error {
    Error::Anew { group: group.clone(), partition: partition.clone() }
}

fn missing(group: &Arc<str>, partition: &TopicPartition, offset: u64, extent: Extent) -> Error {
    let partition = partition.clone();
    match offset < extent.start {
        true => Error::Gone { group: group.clone(), partition, wanted: offset, first: extent.start },
        false => Error::OutOfRange { partition, offset, extent },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::Record;

    fn message(headers: Headers) -> Message {
        let partition = Topic::new("acme.shop.orders.private.checkpoint").partition(0);
        Message { partition, offset: 0, record: Record { headers, ..Record::default() } }
    }

    proptest! {
        #[test]
        fn a_checkpoint_says_of_the_inputs_what_it_was_told(
            places: BTreeMap<(String, u32), (u64, Option<String>)>,
        ) {
            let positions = places.iter().map(|((topic, number), (position, _))| {
                (Topic::new(topic.as_str()).partition(*number), *position)
            });
            let positions: Positions = positions.collect();
            let ids = places.iter().filter_map(|((topic, _), (_, id))| Some((Topic::new(topic.as_str()), id.clone()?)));
            let ids: Ids = ids.collect();
            let recorded = Recorded::of(&message(Recorded::headers(&positions, &ids)));
            prop_assert_eq!(recorded.0.len(), positions.len());
            for (partition, place) in recorded.0 {
                prop_assert_eq!(Some(&place.position), positions.get(&partition));
                prop_assert_eq!(place.id.as_ref(), ids.get(&partition.topic));
            }
        }

        #[test]
        fn any_header_says_something_or_nothing(value: Vec<u8>) {
            Recorded::of(&message(Headers::from([(INPUTS, value)])));
        }
    }
}
