//! Short ways to say what the cases do.

use std::time::Duration;

use fidelio::bus::{
    Bus, Change, Channel, Cleanup, Commit, Group, Lease, Limit, Member, Message, Outgoing, Record, Topic,
    TopicPartition, TopicSpec,
};

use super::Fixture;

pub const ALL: Limit = Limit { rows: usize::MAX, bytes: usize::MAX };

/// Longer than anything takes; nothing waits for that long unless it is broken.
pub const AGES: Duration = Duration::from_secs(60);

pub const NO_TIME: Duration = Duration::ZERO;

/// A topic whose messages stay.
pub fn kept(topic: &Topic, partitions: u32) -> TopicSpec {
    TopicSpec { topic: topic.clone(), partitions, cleanup: Cleanup::Delete { age: None, bytes: None } }
}

/// A stage's group with the topics that stage has, all of them declared.
pub async fn stage(fixture: &dyn Fixture, name: &str, inputs: &[&Topic], tasks: u32) -> Group {
    let checkpoint = fixture.topic(name, Channel::Checkpoint);
    let specs = [
        kept(&fixture.topic(name, Channel::Results), tasks),
        kept(&fixture.topic(name, Channel::Events), tasks),
        kept(&fixture.topic(name, Channel::DeadLetters), tasks),
        TopicSpec { topic: checkpoint.clone(), partitions: tasks, cleanup: Cleanup::KeepLast },
    ];
    fixture.bus().declare(&specs).await.unwrap();
    let name = format!("{}.{name}", fixture.prefix()).into();
    Group { name, inputs: inputs.iter().map(|topic| (*topic).clone()).collect(), checkpoint, tasks }
}

/// Joins a group and takes all its tasks.
pub async fn join(bus: &dyn Bus, group: &Group) -> (Box<dyn Member>, Vec<Box<dyn Lease>>) {
    let mut member = bus.join(group.clone()).await.unwrap();
    let mut leases: Vec<Box<dyn Lease>> = Vec::new();
    while leases.len() < group.tasks as usize {
        match member.changed().await.unwrap() {
            Change::Given(mut lease) => {
                lease.resume().await.unwrap();
                leases.push(lease);
            }
            Change::Taken(task) => leases.retain(|lease| lease.task() != task),
            Change::Settled => {}
        }
    }
    leases.sort_by_key(|lease| lease.task());
    (member, leases)
}

/// A stage with one task that reads nothing: it writes to its own results.
pub async fn writer(fixture: &dyn Fixture, name: &str) -> (Box<dyn Member>, Box<dyn Lease>, Topic) {
    let group = stage(fixture, name, &[], 1).await;
    let (member, mut leases) = join(fixture.bus(), &group).await;
    (member, leases.remove(0), fixture.topic(name, Channel::Results))
}

pub fn record(text: &str) -> Record {
    Record { value: Some(text.to_owned().into()), rows: 1, arrived: 1_700_000_000_000_000, ..Record::default() }
}

pub fn results(to: &TopicPartition, texts: &[&str]) -> Commit {
    let results = texts.iter().map(|text| Outgoing { to: to.clone(), record: record(text) }).collect();
    Commit { results, ..Commit::default() }
}

pub fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| std::str::from_utf8(message.record.payload()).unwrap()).collect()
}

/// Everything in a partition, read in small pieces.
pub async fn everything(bus: &dyn Bus, from: &TopicPartition) -> Vec<Message> {
    let extents = bus.extents(&from.topic).await.unwrap();
    let extent = extents[from.partition as usize];
    let mut messages = Vec::new();
    let mut next = extent.start;
    while next < extent.end {
        let some = bus.read(from, next, Limit { rows: 7, bytes: 1 << 20 }, NO_TIME).await.unwrap();
        // What comes then is no message.
        let Some(last) = some.last() else { break };
        next = last.offset + 1;
        messages.extend(some);
    }
    messages
}

/// The texts of everything in a partition.
pub async fn all_texts(bus: &dyn Bus, from: &TopicPartition) -> Vec<String> {
    texts(&everything(bus, from).await).into_iter().map(str::to_owned).collect()
}

/// What a lease polls until it has that many messages.
pub async fn poll(lease: &mut Box<dyn Lease>, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while messages.len() < count {
        messages.extend(lease.poll(ALL, AGES).await.unwrap());
    }
    messages
}
