//! Membership of a group: a thread that the cluster hears from, and the tasks that it gives and takes away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, watch};

use super::client::{self, TICK, failed};
use super::lease::KafkaLease;
use super::{Shared, lock};
use crate::bus::{Change, Error, Group, Member, Result};

/// A member of a group.
pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    group: Arc<Group>,
    consumer: Arc<BaseConsumer<Tasks>>,
    changes: mpsc::UnboundedReceiver<Told>,
    stop: Arc<AtomicBool>,
}

/// What the thread has to tell.
enum Told {
    /// A task is given; the receiver is told, or hears no more, when it is taken.
    Given(u32, watch::Receiver<bool>),
    Taken(u32),
    Settled,
    Failed(Error),
}

/// What the cluster says goes from here to the member.
pub(super) struct Tasks {
    changes: mpsc::UnboundedSender<Told>,
    /// The tasks that the member has; to be told when they are taken.
    given: Mutex<HashMap<u32, watch::Sender<bool>>>,
}

/// A member's thread, that ends once it has left the group.
pub(super) struct Leaving {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl KafkaMember {
    /// Joins; what is given to it comes later.
    pub(super) fn join(shared: &Arc<Shared>, group: Group) -> Result<Self> {
        let (sender, changes) = mpsc::unbounded_channel();
        let context = Tasks { changes: sender, given: Mutex::default() };
        let consumer = Arc::new(client::member(&shared.spec, &group.name, context)?);
        consumer.subscribe(&[group.checkpoint.as_str()]).map_err(failed("joining a group"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (consumer, stop) = (consumer.clone(), stop.clone());
            let spawned = thread::Builder::new().name("fidelio-group".into()).spawn(move || serve(&consumer, &stop));
            spawned.map_err(|error| Error::Broker {
                action: "joining a group",
                detail: error.to_string(),
                passing: false,
            })?
        };
        let mut members = lock(&shared.members);
        members.retain(|member| !member.thread.is_finished());
        members.push(Leaving { thread, stop: stop.clone() });
        drop(members);
        Ok(Self { shared: shared.clone(), group: Arc::new(group), consumer, changes, stop })
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Leaving {
    /// Waits until the member has left.
    pub(super) fn wait(self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that panicked has nothing more to leave.
        let _ = self.thread.join();
    }
}

/// Lets the cluster hear that the member is there, until it is to leave.
fn serve(consumer: &BaseConsumer<Tasks>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        // What is in the topic is for `lease` to read; a message that was on its way before the pause is let go.
        if let Some(Err(error)) = consumer.poll(TICK) {
            consumer.context().failed(&error);
        }
    }
    if consumer.close_queue().is_ok() {
        while !consumer.closed() {
            consumer.poll(TICK);
        }
    }
    consumer.context().take_all();
}

impl Tasks {
    fn give(&self, tasks: &TopicPartitionList) {
        let mut given = lock(&self.given);
        for task in numbers(tasks) {
            let (taken, listen) = watch::channel(false);
            given.insert(task, taken);
            // Where nobody listens, the member is leaving.
            let _ = self.changes.send(Told::Given(task, listen));
        }
        let _ = self.changes.send(Told::Settled);
    }

    fn take(&self, tasks: impl Iterator<Item = u32>) {
        let mut given = lock(&self.given);
        for task in tasks {
            if let Some(taken) = given.remove(&task) {
                taken.send_replace(true);
                let _ = self.changes.send(Told::Taken(task));
            }
        }
    }

    fn take_all(&self) {
        let all: Vec<u32> = lock(&self.given).keys().copied().collect();
        self.take(all.into_iter());
    }

    /// Only what will not pass by itself ends the membership.
    fn failed(&self, error: &KafkaError) {
        let error = failed("being a member of a group")(error.clone());
        match error.is_passing() {
            true => tracing::debug!(%error, "a group is not served now"),
            false => {
                let _ = self.changes.send(Told::Failed(error));
            }
        }
    }
}

fn numbers(partitions: &TopicPartitionList) -> impl Iterator<Item = u32> {
    partitions.elements().into_iter().map(|element| element.partition() as u32).collect::<Vec<_>>().into_iter()
}

impl ClientContext for Tasks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::Context.error(error, reason);
    }
}

impl ConsumerContext for Tasks {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let assigned = consumer.incremental_assign(partitions).and_then(|()| consumer.pause(partitions));
                self.give(partitions);
                assigned
            }
            _ => {
                self.take(numbers(partitions));
                consumer.incremental_unassign(partitions)
            }
        };
        if let Err(error) = done {
            self.failed(&error);
        }
    }
}

#[async_trait]
impl Member for KafkaMember {
    async fn changed(&mut self) -> Result<Change> {
        match self.changes.recv().await {
            Some(Told::Given(task, taken)) => {
                let (shared, group, consumer) = (self.shared.clone(), self.group.clone(), self.consumer.clone());
                Ok(Change::Given(Box::new(KafkaLease::new(shared, group, consumer, task, taken))))
            }
            Some(Told::Taken(task)) => Ok(Change::Taken(task)),
            Some(Told::Settled) => Ok(Change::Settled),
            Some(Told::Failed(error)) => Err(error),
            // Nothing will ever change for it.
            None => std::future::pending().await,
        }
    }
}
