//! A task's lease: what it reads, and its transactions.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{self, Context, TICK, failed};
use super::member::Tasks;
use super::positions::{self, Recorded};
use super::transaction::{TRANSACTION, offsets, retried};
use super::watch::{Watch, replaced, topic_ids};
use super::writer::{self, Order};
use super::{PATIENCE, Shared, reader, wire};
use crate::bus::limit::Budget;
use crate::bus::{
    Commit, Error, Extent, Group, Lease, Limit, Message, Outcome, Outgoing, Positions, Result, Resume, TopicPartition,
};

/// After that a commit is given up: librdkafka 2.12 can wait for ever for a group's coordinator that went away while it
/// was told the positions. By then the cluster itself has long given the transaction up.
const GIVEN_UP: Duration = TRANSACTION.saturating_add(PATIENCE);

pub(super) const READING: &str = "reading a task's inputs";
pub(super) const COMMITTING: &str = "committing";

/// The right to run a task.
pub(super) struct KafkaLease {
    shared: Arc<Shared>,
    group: Arc<Group>,
    member: Arc<BaseConsumer<Tasks>>,
    task: u32,
    taken: watch::Receiver<bool>,
    /// There from a resume on.
    writer: Option<mpsc::Sender<Order>>,
    inputs: Option<Inputs>,
    progress: Progress,
}

/// How far a task has come, and what is known of what comes next.
struct Progress {
    /// What is committed.
    positions: Positions,
    /// Whether they can be at something that is no message, which is to be passed.
    unsettled: bool,
    /// When it was last looked what is there.
    looked: Instant,
    /// Whether there was a message then that had not come yet.
    awaited: bool,
}

/// The partitions that a task reads.
struct Inputs {
    consumer: BaseConsumer<Context>,
    /// Told when there is something to poll.
    arrived: Arc<Notify>,
    partitions: Arc<[TopicPartition]>,
    watch: Watch,
    /// Polled, and not given yet.
    pending: Vec<Message>,
    parser: wire::Parser,
    /// How much the last poll could take.
    limit: Limit,
    /// What is wrong with them, found out when nobody polled.
    lost: Option<KafkaError>,
}

impl KafkaLease {
    pub(super) fn new(
        shared: Arc<Shared>,
        group: Arc<Group>,
        member: Arc<BaseConsumer<Tasks>>,
        task: u32,
        taken: watch::Receiver<bool>,
    ) -> Self {
        let (writer, inputs, progress) = (None, None, Progress::new(Positions::new()));
        Self { shared, group, member, task, taken, writer, inputs, progress }
    }

    fn fenced(&self) -> Error {
        Error::Fenced { group: self.group.name.clone(), task: self.task }
    }

    /// Whether the task is somebody else's by now, as far as the cluster has said.
    fn is_taken(&self) -> bool {
        *self.taken.borrow() || self.taken.has_changed().is_err()
    }
}

#[async_trait]
impl Lease for KafkaLease {
    fn task(&self) -> u32 {
        self.task
    }

    fn again(&self) -> Option<Box<dyn Lease>> {
        let (shared, group, member) = (self.shared.clone(), self.group.clone(), self.member.clone());
        Some(Box::new(Self::new(shared, group, member, self.task, self.taken.clone())))
    }

    async fn resume(&mut self) -> Result<Resume> {
        (self.writer, self.inputs) = (None, None);
        if self.is_taken() {
            return Err(self.fenced());
        }
        let (group, task) = (self.group.clone(), self.task);
        // Ends what the last one left open, before anything is asked that depends on it.
        let producer = self.shared.run(move |shared| take_over(shared, &group, task)).await?;
        let (group, task) = (self.group.clone(), self.task);
        let started = self.shared.ask(move |shared| start(shared, &group, task)).await;
        let Started { inputs, resume, ahead } =
            started.map_err(|error| if self.is_taken() { self.fenced() } else { error })?;
        let writer = writer::start(self.shared.clone(), self.member.clone(), producer, self.fenced())?;
        (self.writer, self.inputs) = (Some(writer), Some(inputs));
        self.progress = Progress::new(resume.positions.clone());
        // Who looks at the group sees it, too.
        if ahead && resume.gaps.is_empty() {
            self.transact(Vec::new(), resume.positions.clone()).await?.await?;
        }
        Ok(resume)
    }

    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let deadline = Instant::now() + wait;
        loop {
            if self.is_taken() {
                return Err(self.fenced());
            }
            let Some(inputs) = &mut self.inputs else { return Err(self.fenced()) };
            inputs.limit = limit;
            if inputs.lost.is_none() {
                inputs.lost = inputs.fill();
            }
            if let Some(error) = inputs.lost.clone() {
                return Err(self.lost(error).await);
            }
            if let Some(topic) = inputs.watch.replaced(&self.shared) {
                return Err(positions::anew(&self.shared, &self.group.name, &topic.partition(self.task)));
            }
            if inputs.consumer.context().is_cut_off() {
                return Err(client::cut_off(READING));
            }
            let given = inputs.give(limit);
            if !given.is_empty() {
                return Ok(given);
            }
            let arrived = inputs.arrived.clone();
            let woken = async {
                tokio::select! {
                    () = arrived.notified() => {}
                    _ = self.taken.wait_for(|taken| *taken) => {}
                }
            };
            // A line for the log ends a poll as if there were nothing more, and nobody is told of what is behind it.
            if timeout_at(deadline.min(Instant::now() + TICK), woken).await.is_err() && Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    async fn settle(&mut self) -> Result<()> {
        if !self.progress.is_to_be_looked_after() || self.is_taken() {
            return Ok(());
        }
        let positions = self.progress.positions.clone();
        let (positions, awaited) = self.shared.ask(move |shared| ahead(shared, positions)).await?;
        self.progress.looked(awaited)?;
        if positions != self.progress.positions {
            self.transact(Vec::new(), positions.clone()).await?.await?;
            self.progress.positions = positions;
        }
        Ok(())
    }

    async fn write(&mut self, records: Vec<Outgoing>) -> Result<()> {
        self.order(Order::Write(records)).await
    }

    async fn submit(&mut self, commit: Commit) -> Result<Outcome> {
        let mut outgoing = Vec::new();
        let mut positions = commit.append_to(&mut outgoing, self.group.checkpoint.partition(self.task));
        self.progress.keep(&mut positions);
        if let (Some(Outgoing { record, .. }), Some(inputs)) = (outgoing.last_mut(), &self.inputs) {
            record.headers = Recorded::headers(&positions, inputs.watch.ids());
        }
        let outcome = self.transact(outgoing, positions.clone()).await?;
        self.progress.came_to(positions);
        Ok(outcome)
    }
}

impl Progress {
    fn new(positions: Positions) -> Self {
        Self { positions, unsettled: true, looked: Instant::now(), awaited: false }
    }

    fn came_to(&mut self, positions: Positions) {
        self.positions.extend(positions);
        (self.unsettled, self.awaited) = (true, false);
    }

    /// Does not take back what was passed because it is no message.
    fn keep(&self, positions: &mut Positions) {
        for (partition, position) in positions {
            *position = self.positions.get(partition).map_or(*position, |passed| *passed.max(position));
        }
    }

    /// Whether it is to be looked, now that nothing came, what is behind the positions: once after each commit, and then
    /// now and then, since a client that does not find its broker any more need not say so.
    fn is_to_be_looked_after(&self) -> bool {
        !self.positions.is_empty() && (self.unsettled || self.looked.elapsed() >= PATIENCE)
    }

    /// Takes down whether there is a message. One that was there the last time, and that somebody else was given, would
    /// have come by now.
    fn looked(&mut self, awaited: bool) -> Result<()> {
        if awaited && self.awaited {
            let detail = "what is there does not come".to_owned();
            return Err(Error::Broker { action: READING, detail, passing: true });
        }
        (self.unsettled, self.looked, self.awaited) = (false, Instant::now(), awaited);
        Ok(())
    }
}

impl KafkaLease {
    /// What it means that librdkafka does not go on with the inputs.
    async fn lost(&self, error: KafkaError) -> Error {
        let Some(inputs) = &self.inputs else { return self.fenced() };
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                let (group, partitions) = (self.group.clone(), inputs.partitions.clone());
                let (position, before) = (inputs.consumer.position(), inputs.watch.ids().clone());
                let look = move |shared: &Shared| {
                    if let Some(topic) = replaced(&before, &topic_ids(shared, &group)?) {
                        let partition = partitions.iter().find(|partition| partition.topic == topic);
                        return Ok(partition.map(|partition| positions::anew(shared, &group.name, partition)));
                    }
                    overtaken(shared, &group, &partitions, &position.map_err(failed(READING))?)
                };
                match self.shared.ask(look).await {
                    Ok(overtaken) => overtaken.unwrap_or_else(|| failed(READING)(error)),
                    Err(error) => error,
                }
            }
            _ => failed(READING)(error),
        }
    }

    async fn transact(&self, records: Vec<Outgoing>, positions: Positions) -> Result<Outcome> {
        let (done, answer) = oneshot::channel();
        self.order(Order::Commit { records, positions, done }).await?;
        let broke_down =
            |_| Err(Error::Broker { action: COMMITTING, detail: "it broke down".to_owned(), passing: false });
        let outcome =
            async move { timeout(GIVEN_UP, answer).await.map_err(|_| no_answer())?.unwrap_or_else(broke_down) };
        Ok(outcome.boxed())
    }

    /// Tells the writer what to do next, once it can take it. There is none any more after a commit that failed.
    async fn order(&self, order: Order) -> Result<()> {
        let Some(writer) = self.writer.as_ref().filter(|_| !self.is_taken()) else { return Err(self.fenced()) };
        let told = timeout(GIVEN_UP, writer.send(order)).await.map_err(|_| no_answer())?;
        told.map_err(|_| self.fenced())
    }
}

fn no_answer() -> Error {
    Error::Broker { action: COMMITTING, detail: "there was no answer in time".to_owned(), passing: true }
}

/// Takes the task over from whoever had it. Blocks.
fn take_over(shared: &Shared, group: &Group, task: u32) -> Result<BaseProducer<Context>> {
    let producer = shared.clients.producer(&format!("{}.{task}", group.name))?;
    retried(&producer, |patience| producer.init_transactions(patience)).map_err(failed("taking a task over"))?;
    Ok(producer)
}

/// Where the last commit left a task.
struct Started {
    inputs: Inputs,
    resume: Resume,
    /// Whether the group has committed less than that.
    ahead: bool,
}

/// Goes to where the last commit left the task. Blocks.
fn start(shared: &Shared, group: &Arc<Group>, task: u32) -> Result<Started> {
    let checkpoint = checkpoint(shared, &group.checkpoint.partition(task))?;
    let recorded = checkpoint.as_ref().map(Recorded::of).unwrap_or_default();
    let ids = topic_ids(shared, group)?;
    let asker = shared.asking_for(&group.name)?;
    let positions::From { positions, gaps, ahead } =
        positions::of_task(shared, &asker, group, task, (&recorded, &ids))?;
    let mut consumer = shared.clients.consumer(&group.name)?;
    let arrived = Arc::new(Notify::new());
    let notify = arrived.clone();
    consumer.set_nonempty_callback(move || notify.notify_one());
    let assigned = offsets(&positions).and_then(|offsets| consumer.assign(&offsets));
    assigned.map_err(failed(READING))?;
    let partitions: Arc<[TopicPartition]> = positions.keys().cloned().collect();
    let (pending, parser, limit) = (Vec::new(), wire::Parser::default(), Limit { rows: 0, bytes: 0 });
    let watch = Watch::new(group.clone(), partitions.clone(), ids);
    let inputs = Inputs { consumer, arrived, partitions, watch, pending, parser, limit, lost: None };
    let checkpoint = checkpoint.and_then(|message| message.record.value);
    Ok(Started { inputs, resume: Resume { checkpoint, positions, gaps, missed: 0 }, ahead })
}

/// That what is to be read next of one of the partitions is not there. Blocks.
fn overtaken(
    shared: &Shared,
    group: &Group,
    partitions: &[TopicPartition],
    position: &TopicPartitionList,
) -> Result<Option<Error>> {
    for partition in partitions {
        let extent = shared.extent(partition)?;
        let at = position.find_partition(partition.topic.as_str(), partition.partition as i32);
        if let Some(Offset::Offset(offset)) = at.map(|element| element.offset())
            && let offset = offset.max(0) as u64
            && !extent.has_position(offset)
        {
            return Ok(Some(positions::overtaken(shared, &group.name, partition, offset, extent)));
        }
    }
    Ok(None)
}

/// The task's last checkpoint. Blocks.
///
/// Nobody but the task writes there, and all that it has written is committed or aborted by now. A coordinator that finds
/// no leader of a partition takes it for deleted, though, and tells it nothing; so does that of the only broker of a
/// cluster, when it stops, starts or was frozen. The transaction stays open there, and nobody knows any more how it ended.
fn checkpoint(shared: &Shared, at: &TopicPartition) -> Result<Option<Message>> {
    let (started, first) = (Instant::now(), shared.extent(at)?.end);
    loop {
        let Some(end) = shared.undecided(at)? else { return reader::last(shared, at) };
        if end != first {
            let detail = format!("somebody else writes to {at}");
            return Err(Error::Broker { action: "looking for a checkpoint", detail, passing: true });
        }
        if started.elapsed() >= PATIENCE {
            return Err(Error::Hanging { partition: at.clone(), offset: end });
        }
        std::thread::sleep(TICK);
    }
}

/// The positions, those of them brought to the end of their partition that are not there and behind which there is no
/// message; and whether behind others there is one. Blocks.
fn ahead(shared: &Shared, mut positions: Positions) -> Result<(Positions, bool)> {
    let mut awaited = false;
    for (partition, position) in &mut positions {
        let Extent { start, end } = shared.extent(partition)?;
        // What is gone is for a poll to find out.
        if !(start..end).contains(position) {
            continue;
        }
        match reader::has_more(shared, partition, *position)? {
            true => awaited = true,
            false => *position = end,
        }
    }
    Ok((positions, awaited))
}

impl Inputs {
    /// Polls until there is as much as may be given, or nothing more for now. Gives what librdkafka does not get over by itself.
    fn fill(&mut self) -> Option<KafkaError> {
        let mut budget = Budget::new(self.limit);
        let mut fits = self.pending.iter().all(|message| budget.take(&message.record));
        while fits {
            match self.consumer.poll(Duration::ZERO)? {
                Ok(message) => {
                    if let Some(at) = self.partitions.iter().find(|at| at.topic.as_str() == message.topic()) {
                        let message = self.parser.message(at, &message);
                        fits = budget.take(&message.record);
                        self.pending.push(message);
                    }
                }
                Err(error) if is_lasting(&error) => return Some(error),
                Err(_) => {}
            }
        }
        None
    }

    fn give(&mut self, limit: Limit) -> Vec<Message> {
        let mut budget = Budget::new(limit);
        let fits = self.pending.iter().take_while(|message| budget.take(&message.record)).count();
        let mut rest = self.pending.split_off(fits);
        rest.reserve(fits);
        std::mem::replace(&mut self.pending, rest)
    }
}

/// Whether an input is not read on after that.
fn is_lasting(error: &KafkaError) -> bool {
    let of_an_input = matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
        )
    );
    of_an_input || !(matches!(error, KafkaError::PartitionEOF(_)) || failed(READING)(error.clone()).is_passing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Topic;

    fn at(offset: u64) -> Positions {
        Positions::from([(Topic::new("acme.shop.orders.results").partition(0), offset)])
    }

    #[test]
    fn a_message_that_was_there_before_and_has_not_come_is_a_failure_that_passes() {
        let mut progress = Progress::new(at(5));
        assert!(progress.is_to_be_looked_after());
        progress.looked(true).unwrap();
        assert!(!progress.is_to_be_looked_after(), "not before it had time to come");
        assert!(progress.looked(true).unwrap_err().is_passing());
    }

    #[test]
    fn a_message_that_has_come_is_not_awaited_any_more() {
        let mut progress = Progress::new(at(5));
        progress.looked(true).unwrap();
        progress.came_to(at(6));
        assert!(progress.is_to_be_looked_after());
        progress.looked(true).unwrap();
        progress.looked(false).unwrap();
        progress.looked(true).unwrap();
    }

    #[test]
    fn what_was_passed_is_not_taken_back_by_a_commit_that_is_about_another_input() {
        let quiet = Topic::new("acme.shop.quiet.results").partition(0);
        let mut passed = at(5);
        passed.insert(quiet.clone(), 9);
        let progress = Progress::new(passed);
        let mut positions = at(6);
        positions.insert(quiet.clone(), 7);
        progress.keep(&mut positions);
        assert_eq!(positions.get(&quiet), Some(&9));
        assert_eq!(positions.values().max(), Some(&9));
        assert!(positions.values().any(|position| *position == 6));
    }

    #[test]
    fn a_task_without_inputs_looks_after_nothing() {
        assert!(!Progress::new(Positions::new()).is_to_be_looked_after());
    }
}
