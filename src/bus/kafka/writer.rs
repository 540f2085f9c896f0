//! What a task writes, on a thread of its own: it is sent while the task deals with the next rows.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::client::{Context, TICK, failed};
use super::lease::COMMITTING;
use super::member::Tasks;
use super::transaction::{Transaction, is_fenced};
use crate::bus::{Error, Outgoing, Positions, Result, TopicPartition};

/// What is to be done next.
pub(super) enum Order {
    /// Records for the transaction that is committed next.
    Write(Vec<Outgoing>),
    /// The last records of the transaction, and its end.
    Commit {
        /// Written before it ends.
        records: Vec<Outgoing>,
        /// Those of the task's inputs.
        positions: Positions,
        /// Told whether all of it is visible now, or nothing.
        done: oneshot::Sender<Result<()>>,
    },
}

/// Orders that wait behind the one which is carried out: enough that there always is one while a transaction ends.
const WAITING: usize = 2;

/// How long what is taken back at the end of a worker is waited for.
const TAKING_BACK: Duration = Duration::from_secs(10);

/// Starts the thread of a task's producer, which ends with the first commit that fails, or once nobody has orders any more.
/// Commits are the member's, and give `fenced` where the task is somebody else's by now.
pub(super) fn start(
    shared: Arc<Shared>,
    member: Arc<BaseConsumer<Tasks>>,
    producer: BaseProducer<Context>,
    fenced: Error,
) -> Result<mpsc::Sender<Order>> {
    let (orders, received) = mpsc::channel(WAITING);
    let known = shared.clone();
    let work = move || Work { shared: &shared, member: &member, producer: &producer, fenced }.carry_out(received);
    let started = thread::Builder::new().name("fidelio-write".into()).spawn(work);
    let thread =
        started.map_err(|error| Error::Broker { action: COMMITTING, detail: error.to_string(), passing: false })?;
    let mut writers = known.writers.lock();
    writers.retain(|writer| !writer.is_finished());
    writers.push(thread);
    Ok(orders)
}

/// Waits until the threads have taken back what they had not committed, so that nobody has to wait until the cluster gives it
/// up. What takes longer than that is not coming to an end.
pub(super) fn await_all(writers: &[JoinHandle<()>]) {
    let deadline = Instant::now() + TAKING_BACK;
    while writers.iter().any(|writer| !writer.is_finished()) && Instant::now() < deadline {
        thread::sleep(TICK / 10);
    }
}

/// What the thread works with.
struct Work<'a> {
    shared: &'a Shared,
    member: &'a BaseConsumer<Tasks>,
    producer: &'a BaseProducer<Context>,
    fenced: Error,
}

impl Work<'_> {
    /// Carries out what is ordered, until a commit fails or nothing more can be ordered.
    fn carry_out(&self, mut orders: mpsc::Receiver<Order>) {
        let mut transaction = Transaction::new(self.producer);
        // What became of the writes since the last commit; after one that failed nothing more is sent.
        let mut written = Ok(());
        while let Some(order) = orders.blocking_recv() {
            match order {
                Order::Write(records) => written = written.and_then(|()| self.write(&mut transaction, &records)),
                // Where nobody waits for it any more, nobody goes on from it either.
                Order::Commit { records, positions, done } => {
                    match written.and_then(|()| self.commit(&mut transaction, &records, &positions)) {
                        Ok(()) => drop(done.send(Ok(()))),
                        Err(error) => {
                            transaction.abort();
                            return drop(done.send(Err(error)));
                        }
                    }
                    written = Ok(());
                }
            }
        }
        transaction.abort();
    }

    fn write(&self, transaction: &mut Transaction<'_>, records: &[Outgoing]) -> Result<()> {
        self.check(records)?;
        transaction.send(records).map_err(|error| self.error(error))
    }

    fn commit(&self, transaction: &mut Transaction<'_>, records: &[Outgoing], positions: &Positions) -> Result<()> {
        positions.keys().try_for_each(|at| self.is_there(at))?;
        self.check(records)?;
        transaction.commit(records, self.member, positions).map_err(|error| self.error(error))
    }

    /// What keeps a record from being sent. Blocks where a topic is not known yet.
    fn check(&self, records: &[Outgoing]) -> Result<()> {
        let limit = self.shared.clients.spec.max_message_bytes;
        let mut last = None;
        for Outgoing { to, record } in records {
            if last != Some(to) {
                self.is_there(to)?;
                last = Some(to);
            }
            let bytes = record.size_bytes();
            if bytes > limit {
                return Err(Error::TooLarge { to: to.clone(), bytes, limit });
            }
        }
        Ok(())
    }

    fn is_there(&self, at: &TopicPartition) -> Result<()> {
        match self.shared.has(at)? {
            true => Ok(()),
            false => Err(Error::UnknownPartition(at.clone())),
        }
    }

    fn error(&self, error: KafkaError) -> Error {
        let error = match self.producer.context().refused() {
            Some(refusal) => refusal.error(COMMITTING),
            None if is_fenced(&error) => self.fenced.clone(),
            None => failed(COMMITTING)(error),
        };
        self.shared.clients.explain(error)
    }
}
