//! From where on a task reads: what its group has committed, and what becomes of it where that is no longer there.

use std::sync::Arc;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::BaseConsumer;

use super::client::{self, Context};
use super::lease::READING;
use super::{PATIENCE, Shared};
use crate::bus::{Error, Extent, Gap, Group, Positions, Result, TopicPartition};
use crate::config::OnDataLoss;

/// For each partition of a task the offset that is read next, and where that is not the one that was to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct From {
    pub positions: Positions,
    pub gaps: Vec<Gap>,
}

/// From where on the task reads each of its partitions, as its group has committed it: the oldest message where it has
/// not. Blocks.
pub(super) fn of_task(shared: &Shared, asker: &BaseConsumer<Context>, group: &Group, task: u32) -> Result<From> {
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
        let extent = shared.extent(&partition)?;
        let offset = match committed {
            Some(offset) if extent.has_position(offset) => offset,
            Some(offset) => {
                let missing = missing(&group.name, &partition, offset, extent);
                if shared.clients.spec.on_data_loss == OnDataLoss::Stop {
                    return Err(missing);
                }
                from.gaps.push(Gap { partition: partition.clone(), wanted: offset, first: extent.start });
                extent.start
            }
            None => extent.start,
        };
        from.positions.insert(partition, offset);
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
    to_get_over(shared, Error::Anew { group: group.clone(), partition: partition.clone() })
}

/// An error that passes where the pipeline goes on without what is gone.
fn to_get_over(shared: &Shared, error: Error) -> Error {
    match shared.clients.spec.on_data_loss {
        OnDataLoss::Stop => error,
        OnDataLoss::Earliest => Error::Broker { action: READING, detail: error.to_string(), passing: true },
    }
}

fn missing(group: &Arc<str>, partition: &TopicPartition, offset: u64, extent: Extent) -> Error {
    let partition = partition.clone();
    match offset < extent.start {
        true => Error::Gone { group: group.clone(), partition, wanted: offset, first: extent.start },
        false => Error::OutOfRange { partition, offset, extent },
    }
}
