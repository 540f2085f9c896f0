//! Topics that somebody has tampered with.

use std::path::Path;
use std::time::Duration;

use fidelio::bus::embedded::{Embedded, Options, Reader};
use fidelio::bus::{Bus, Change, Commit, Limit, Log, Message, Outgoing, Record};
use fidelio::checkpoint::Checkpoint;
use fidelio::codec::arrow;
use fidelio::config::Draft;
use fidelio::sql::Engine;
use fidelio::topology::Topology;

use crate::support::Scratch;

/// Copies what a pipeline has left to another data directory, with the messages that `edit` makes of each.
pub fn copy(scratch: &Scratch, to: &str, mut edit: impl FnMut(&Message) -> Vec<Record>) {
    let draft = Draft::parse(&scratch.read("p.toml"), "p.toml", Path::new(""), &|_| None);
    let topology = Topology::of_draft(draft, &Engine::new()).map_err(|faulty| faulty.to_string()).unwrap().1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let from = Reader::open(scratch.path("data")).unwrap();
        let bus = Embedded::open(scratch.path(to), Options::default()).unwrap();
        let groups: Vec<_> = topology.stages.iter().map(|stage| stage.group()).collect();
        for stage in &topology.stages {
            bus.declare(&stage.topics).await.unwrap();
        }
        bus.enroll(&groups).await.unwrap();
        for (stage, group) in topology.stages.iter().zip(groups) {
            let Some(checkpoint) = from.last(&group.checkpoint.partition(0)).await.unwrap() else { continue };
            let checkpoint = checkpoint.record.value.unwrap();
            let positions = Checkpoint::decode(&checkpoint).unwrap().positions;
            let mut commit = Commit { checkpoint, positions, ..Commit::default() };
            for topic in stage.topics.iter().map(|spec| &spec.topic).filter(|topic| **topic != group.checkpoint) {
                let (partition, mut next) = (topic.partition(0), 0);
                while next < from.extents(topic).await.unwrap()[0].end {
                    for message in from.read(&partition, next, Limit::ONE, Duration::ZERO).await.unwrap() {
                        next = message.offset + 1;
                        let record = |record| Outgoing { to: partition.clone(), record };
                        commit.results.extend(edit(&message).into_iter().map(record));
                    }
                }
            }
            let mut member = bus.join(group).await.unwrap();
            let Change::Given(mut lease) = member.changed().await.unwrap() else { panic!("the only task") };
            lease.resume().await.unwrap();
            lease.commit(commit).await.unwrap();
        }
        bus.close().await.unwrap();
    });
}

/// The record with the rows of its batch that are left.
pub fn with_rows(record: &Record, rows: std::ops::Range<usize>) -> Record {
    let batch = arrow::decode(record.value.clone().unwrap()).unwrap().slice(rows.start, rows.len());
    Record { value: Some(arrow::encode(&batch).unwrap()), rows: rows.len() as u32, batch: None, ..record.clone() }
}
