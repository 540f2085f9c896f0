//! A transaction of a task's producer, with every step that is safe to do again done again.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Context, TICK, text};
use super::member::Tasks;
use super::{native, wire};
use crate::bus::{Outgoing, Positions};
use crate::time_of_day::now;

/// The longest that a step of a transaction may take; what is open for longer, the cluster itself gives up.
pub(super) const TRANSACTION: Duration = Duration::from_secs(60);
/// How long one call for a step waits.
const STEP: Duration = Duration::from_secs(5);

/// How long it takes after a transaction until messages of the next one are taken. The cluster writes the marks of an end
/// after it has answered, and refuses until then what comes next; librdkafka tries positions again at once, but messages
/// only after 20 ms.
const MARKING: Duration = Duration::from_millis(2);

type Result<T> = std::result::Result<T, KafkaError>;

/// All records and positions that it is given, or none of them; and then those of the next one.
pub(super) struct Transaction<'a> {
    producer: &'a BaseProducer<Context>,
    /// Whether the cluster may know of it.
    is_open: bool,
    /// When the one before it was committed.
    committed: Option<Instant>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(producer: &'a BaseProducer<Context>) -> Self {
        Self { producer, is_open: false, committed: None }
    }

    /// Sends records. After an error, nothing of it comes to be.
    pub(super) fn send(&mut self, outgoing: &[Outgoing]) -> Result<()> {
        let sent = self.begin().and_then(|()| self.put(outgoing));
        sent.inspect_err(|error| self.failed(error))
    }

    /// Makes the records and all that was sent visible, with the positions.
    pub(super) fn commit(
        &mut self,
        records: &[Outgoing],
        member: &BaseConsumer<Tasks>,
        positions: &Positions,
    ) -> Result<()> {
        let ended = self
            .begin()
            .and_then(|()| self.put_positions(member, positions))
            .and_then(|()| self.put(records))
            .and_then(|()| self.end());
        ended.inspect_err(|error| self.failed(error))
    }

    /// Takes back what was sent and not committed.
    pub(super) fn abort(&mut self) {
        if std::mem::take(&mut self.is_open)
            // Its end is heard of only between the calls.
            && let Err(error) = retried(self.producer, |_| self.producer.abort_transaction(TICK))
        {
            // Whoever takes the task over ends the transaction.
            tracing::debug!(error = text(&error), "a transaction could not be aborted");
        }
    }

    fn failed(&mut self, error: &KafkaError) {
        // What became of each message is still to be heard; and until that is done, nothing can be aborted.
        self.producer.poll(TICK);
        if requires_abort(error) {
            self.abort();
        }
        self.is_open = false;
    }

    fn begin(&mut self) -> Result<()> {
        if !self.is_open {
            self.producer.begin_transaction()?;
            self.is_open = true;
        }
        Ok(())
    }

    fn put_positions(&mut self, member: &BaseConsumer<Tasks>, positions: &Positions) -> Result<()> {
        if let Some(group) = member.group_metadata().filter(|_| !positions.is_empty()) {
            let offsets = offsets(positions)?;
            retried(self.producer, |patience| self.producer.send_offsets_to_transaction(&offsets, &group, patience))?;
            self.committed = None;
        }
        Ok(())
    }

    fn put(&mut self, outgoing: &[Outgoing]) -> Result<()> {
        if let Some(committed) = self.committed.take() {
            thread::sleep(MARKING.saturating_sub(committed.elapsed()));
        }
        let now = now();
        for outgoing in outgoing {
            let mut message = wire::message(outgoing, now);
            while let Err((error, refused)) = self.producer.send(message) {
                match error.rdkafka_error_code() {
                    Some(Code::QueueFull) if !self.producer.context().is_cut_off() => {}
                    // A transaction that has failed by now says why only to whoever wants to take a step of it.
                    Some(Code::State | Code::Fatal) => return self.producer.begin_transaction().and(Err(error)),
                    _ => return Err(error),
                }
                native::flush(self.producer, TICK);
                self.producer.poll(Duration::ZERO);
                message = refused;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        delivered(self.producer);
        retried(self.producer, |patience| self.producer.commit_transaction(patience))?;
        self.is_open = false;
        self.committed = Some(Instant::now());
        Ok(())
    }
}

/// Waits until everything that was sent is delivered or has failed.
fn delivered(producer: &BaseProducer<Context>) {
    let deadline = Instant::now() + TRANSACTION;
    while producer.in_flight_count() > 0 && Instant::now() < deadline && !producer.context().is_cut_off() {
        native::flush(producer, TICK);
        producer.poll(Duration::ZERO);
    }
}

/// Does it again for as long as librdkafka says that this is safe, and the producer has not lost all connections.
pub(super) fn retried(producer: &BaseProducer<Context>, mut step: impl FnMut(Duration) -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + TRANSACTION;
    loop {
        let done = step(STEP);
        producer.poll(Duration::ZERO);
        match done {
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && Instant::now() < deadline && !producer.context().is_cut_off() =>
            {
                producer.poll(TICK);
            }
            done => return done,
        }
    }
}

/// Positions, as librdkafka has them.
pub(super) fn offsets(positions: &Positions) -> Result<TopicPartitionList> {
    let mut offsets = TopicPartitionList::new();
    for (at, position) in positions {
        offsets.add_partition_offset(at.topic.as_str(), at.partition as i32, Offset::Offset(*position as i64))?;
    }
    Ok(offsets)
}

fn requires_abort(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.txn_requires_abort(),
        KafkaError::MessageProduction(_) => true,
        _ => false,
    }
}

/// Whether the error says that the task is somebody else's.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::Fenced
                | Code::ProducerFenced
                | Code::InvalidProducerEpoch
                | Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::FencedInstanceId
        )
    )
}
