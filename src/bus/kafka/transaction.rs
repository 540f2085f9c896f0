//! A transaction of a task's producer, with every step that is safe to do again done again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{self, Context, TICK, text};
use super::member::Tasks;
use super::{native, wire};
use crate::bus::{Outgoing, Positions};

/// The longest that a step of a transaction may take; what is open for longer, the cluster itself gives up.
pub(super) const TRANSACTION: Duration = Duration::from_secs(60);
/// How long one call for a step waits.
const STEP: Duration = Duration::from_secs(5);

/// What a message takes of a batch besides key, value and headers, about.
const MESSAGE_BYTES: usize = 64;
/// How often it is looked how much is delivered.
const MOMENT: Duration = Duration::from_millis(1);
/// How long it may take until a batch is delivered before it is asked for again.
const STALLED: Duration = Duration::from_millis(50);

type Result<T> = std::result::Result<T, KafkaError>;

/// All records and positions, or none of them.
pub(super) fn transaction(
    producer: &BaseProducer<Context>,
    member: &BaseConsumer<Tasks>,
    outgoing: &[Outgoing],
    positions: &Positions,
) -> Result<()> {
    producer.begin_transaction()?;
    let done = send(producer, outgoing).and_then(|()| {
        if let Some(group) = member.group_metadata().filter(|_| !positions.is_empty()) {
            let offsets = offsets(positions)?;
            retried(producer, |patience| producer.send_offsets_to_transaction(&offsets, &group, patience))?;
        }
        delivered(producer);
        retried(producer, |patience| producer.commit_transaction(patience))
    });
    if let Err(error) = &done {
        // What became of each message is still to be heard; and until that is done, nothing can be aborted.
        producer.poll(TICK);
        if requires_abort(error)
            && let Err(error) = retried(producer, |patience| producer.abort_transaction(patience))
        {
            // Whoever takes the task over ends the transaction.
            tracing::debug!(error = text(&error), "a transaction could not be aborted");
        }
    }
    done
}

/// Sends a batch for each partition at a time, while the next ones are put together. librdkafka has no more than one batch
/// for a partition on its way, and where another one waits behind it that could go, a thread of its looks for that without
/// rest; so the next ones are held back until the ones before are delivered.
fn send(producer: &BaseProducer<Context>, outgoing: &[Outgoing]) -> Result<()> {
    let now = SystemTime::now();
    let mut waiting = 0;
    // By the partition's number; that topics share one does no harm.
    let mut bytes: BTreeMap<u32, usize> = BTreeMap::new();
    for outgoing in outgoing {
        let size = outgoing.record.size_bytes() + MESSAGE_BYTES;
        let before = bytes.get(&outgoing.to.partition).copied().unwrap_or(0);
        if before > 0 && before + size > client::BATCH_BYTES {
            let_go(producer, waiting);
            waiting = 0;
            bytes.clear();
        }
        *bytes.entry(outgoing.to.partition).or_default() += size;
        let mut message = wire::message(outgoing, now);
        while let Err((error, refused)) = producer.send(message) {
            match error.rdkafka_error_code() {
                Some(Code::QueueFull) => {}
                // A transaction that has failed by now says why only to whoever wants to take a step of it.
                Some(Code::State) => return producer.begin_transaction().and(Err(error)),
                _ => return Err(error),
            }
            native::flush(producer, TICK);
            producer.poll(Duration::ZERO);
            message = refused;
        }
        waiting += 1;
    }
    let_go(producer, waiting);
    Ok(())
}

/// Lets the messages go that wait, of which there are so many, once all before them are delivered or have failed.
fn let_go(producer: &BaseProducer<Context>, waiting: usize) {
    let started = Instant::now();
    while producer.in_flight_count() as usize > waiting
        && !producer.context().is_cut_off()
        && started.elapsed() < TRANSACTION
    {
        std::thread::sleep(MOMENT);
        producer.poll(Duration::ZERO);
        // It may have had no time to send them.
        if started.elapsed() > STALLED {
            native::flush(producer, MOMENT);
        }
    }
    native::flush(producer, MOMENT);
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
