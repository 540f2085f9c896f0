//! Membership of a group: a thread that the cluster hears from, and the tasks that it gives and takes away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, watch};

use super::client::{Context, TICK, failed};
use super::lease::KafkaLease;
use super::{PATIENCE, Shared};
use crate::bus::{Change, Error, Group, Member, Result};

/// A member of a group.
pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    group: Arc<Group>,
    changes: mpsc::UnboundedReceiver<Told>,
    /// What it is a member with now.
    consumer: Option<Arc<BaseConsumer<Tasks>>>,
    stop: Arc<AtomicBool>,
}

/// What the thread has to tell.
enum Told {
    /// What is given from now on, is given to this one.
    Joined(Arc<BaseConsumer<Tasks>>),
    /// A task is given; the receiver is told, or hears no more, when it is taken.
    Given(u32, watch::Receiver<bool>),
    Taken(u32),
    Settled,
    Failed(Error),
}

/// What the cluster says goes from here to the member.
pub(super) struct Tasks {
    client: Context,
    changes: mpsc::UnboundedSender<Told>,
    /// The tasks that the member has; to be told when they are taken.
    given: Mutex<HashMap<u32, watch::Sender<bool>>>,
}

/// A member's thread, that ends once it has left the group.
pub(super) struct Leaving {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

const JOINING: &str = "joining a group";

impl KafkaMember {
    /// Joins; what is given to it comes later.
    pub(super) fn join(shared: &Arc<Shared>, group: Group) -> Result<Self> {
        let (sender, changes) = mpsc::unbounded_channel();
        let (group, stop) = (Arc::new(group), Arc::new(AtomicBool::new(false)));
        let consumer = subscribe(shared, &group, &sender)?;
        let thread = {
            let (shared, group, stop) = (shared.clone(), group.clone(), stop.clone());
            let thread = thread::Builder::new().name("fidelio-group".into());
            let spawned = thread.spawn(move || serve(&shared, &group, consumer, &sender, &stop));
            spawned.map_err(|error| Error::Broker { action: JOINING, detail: error.to_string(), passing: false })?
        };
        let mut members = shared.members.lock();
        members.retain(|member| !member.thread.is_finished());
        members.push(Leaving { thread, stop: stop.clone() });
        drop(members);
        Ok(Self { shared: shared.clone(), group, changes, consumer: None, stop })
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

/// A consumer that is about to be a member of the group.
fn subscribe(
    shared: &Shared,
    group: &Group,
    changes: &mpsc::UnboundedSender<Told>,
) -> Result<Arc<BaseConsumer<Tasks>>> {
    let context = Tasks { client: shared.clients.context(), changes: changes.clone(), given: Mutex::default() };
    let consumer = Arc::new(shared.clients.member(&group.name, context)?);
    // Where nobody listens, the member is leaving.
    let _ = changes.send(Told::Joined(consumer.clone()));
    consumer.subscribe(&[group.checkpoint.as_str()]).map_err(failed(JOINING))?;
    Ok(consumer)
}

/// Lets the cluster hear that the member is there, until it is to leave. A consumer that has lost all connections and does
/// not find back is replaced.
fn serve(
    shared: &Shared,
    group: &Group,
    mut consumer: Arc<BaseConsumer<Tasks>>,
    changes: &mpsc::UnboundedSender<Told>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        // What is in the topic is for `lease` to read; a message that was on its way before the pause is let go.
        if let Some(Err(error)) = consumer.poll(TICK) {
            consumer.context().failed(&error);
        }
        if consumer.context().client.is_cut_off() && !finds_back(&consumer, group) {
            tracing::debug!(group = %group.name, "joining anew, since all connections are lost");
            leave(&consumer);
            match subscribe(shared, group, changes) {
                Ok(another) => consumer = another,
                Err(error) => {
                    let _ = changes.send(Told::Failed(error));
                    return;
                }
            }
        }
    }
    leave(&consumer);
}

/// Leaves the group, so that it need not wait for a sign of life that does not come.
fn leave(consumer: &BaseConsumer<Tasks>) {
    if consumer.close_queue().is_ok() {
        while !consumer.closed() {
            consumer.poll(TICK);
        }
    }
    consumer.context().take_all();
}

/// Whether the cluster answers this consumer again.
fn finds_back(consumer: &BaseConsumer<Tasks>, group: &Group) -> bool {
    let answers = consumer.fetch_metadata(Some(group.checkpoint.as_str()), PATIENCE / 5).is_ok();
    if answers {
        consumer.context().client.found_back();
    }
    answers
}

impl Tasks {
    fn give(&self, tasks: &TopicPartitionList) {
        let mut given = self.given.lock();
        for task in numbers(tasks) {
            let (taken, listen) = watch::channel(false);
            given.insert(task, taken);
            // Where nobody listens, the member is leaving.
            let _ = self.changes.send(Told::Given(task, listen));
        }
        let _ = self.changes.send(Told::Settled);
    }

    fn take(&self, tasks: impl Iterator<Item = u32>) {
        let mut given = self.given.lock();
        for task in tasks {
            if let Some(taken) = given.remove(&task) {
                taken.send_replace(true);
                let _ = self.changes.send(Told::Taken(task));
            }
        }
    }

    fn take_all(&self) {
        let all: Vec<u32> = self.given.lock().keys().copied().collect();
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
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
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
        loop {
            match (self.changes.recv().await, &self.consumer) {
                (Some(Told::Joined(consumer)), _) => self.consumer = Some(consumer),
                (Some(Told::Given(task, taken)), Some(consumer)) => {
                    let (shared, group, consumer) = (self.shared.clone(), self.group.clone(), consumer.clone());
                    return Ok(Change::Given(Box::new(KafkaLease::new(shared, group, consumer, task, taken))));
                }
                (Some(Told::Given(..)), None) => {}
                (Some(Told::Taken(task)), _) => return Ok(Change::Taken(task)),
                (Some(Told::Settled), _) => return Ok(Change::Settled),
                (Some(Told::Failed(error)), _) => return Err(error),
                // Nothing will ever change for it.
                (None, _) => return std::future::pending().await,
            }
        }
    }
}
