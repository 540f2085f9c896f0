//! Clients of librdkafka: their settings, their log, and what their errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaErrorCode;

use super::transaction::TRANSACTION;
use super::{FRAMING_BYTES, PATIENCE};
use crate::bus::{Error, Extent, Result, Topic, TopicPartition};
use crate::config;

/// Makes the clients of one cluster, and hears from all of them what is wrong with it.
pub(super) struct Clients {
    pub(super) spec: config::Kafka,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

/// Where a client says what is wrong.
pub(super) struct Context {
    /// What all of them say.
    trouble: Arc<Mutex<Option<Trouble>>>,
    /// Whether this one has lost all connections.
    cut_off: AtomicBool,
    /// The first topic that would not take what this one wrote, and why.
    refused: Mutex<Option<Refusal>>,
}

/// What a topic will not take, however often it is tried.
#[derive(Clone)]
pub(super) struct Refusal {
    topic: String,
    code: RDKafkaErrorCode,
}

/// Why the cluster, or a broker of it, could not be reached.
struct Trouble {
    since: Instant,
    reason: String,
    /// Whether it will not be otherwise the next time.
    is_final: bool,
}

impl Trouble {
    /// Whether it can be the reason why there was no answer.
    fn is_recent(&self) -> bool {
        self.since.elapsed() < Duration::from_secs(30)
    }
}

impl Context {
    /// What a client was told when it was polled.
    pub(super) fn heard(&self, error: &KafkaError) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.cut_off.store(true, Ordering::Relaxed);
        }
        if let Some(trouble) = self.trouble.lock().as_mut() {
            trouble.is_final |= is_about_who_asks(code);
        }
    }

    /// Whether the client has lost all its connections. It may find back or, where a broker told it that there are no
    /// brokers, never.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    pub(super) fn found_back(&self) {
        self.cut_off.store(false, Ordering::Relaxed);
    }

    /// What a topic would not take of all that was written, as far as the client has been polled since.
    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refused.lock().clone()
    }

    fn take_down(&self, topic: &str, code: RDKafkaErrorCode) {
        self.refused.lock().get_or_insert_with(|| Refusal { topic: topic.to_owned(), code });
    }
}

impl Refusal {
    pub(super) fn error(&self, action: &'static str) -> Error {
        refused(action, self.code, &self.topic)
    }
}

impl ClientContext for Context {
    /// Why a connection fails, and which topic may not be written in a transaction, is told here only. Everything else
    /// that librdkafka logs as an error also comes as one, to whoever asked for something.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // That properties of the pipeline which only some clients have are set for all of them is meant to be so.
            RDKafkaLogLevel::Warning if facility != "CONFWARN" => tracing::info!(facility, "{message}"),
            _ => tracing::debug!(facility, "{message}"),
        }
        if facility == "FAIL" {
            let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason).to_owned();
            let mut trouble = self.trouble.lock();
            let is_final = trouble.as_ref().is_some_and(|trouble| trouble.is_recent() && trouble.is_final);
            *trouble = Some(Trouble { since: Instant::now(), reason, is_final });
        }
        if facility == "ADDPARTS"
            && message.ends_with("Topic authorization failed")
            && let Some(topic) = message.split('"').nth(1)
        {
            self.take_down(topic, RDKafkaErrorCode::TopicAuthorizationFailed);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = text(&error), "{reason}");
        self.heard(&error);
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    /// A message that could not be delivered also fails the transaction it belongs to, which may say so in other words.
    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = delivered
            && let Some(code) = error.rdkafka_error_code().filter(|code| is_final(*code))
        {
            self.take_down(message.topic(), code);
        }
    }
}

impl Clients {
    pub(super) fn new(spec: config::Kafka) -> Self {
        Self { spec, trouble: Arc::default() }
    }

    pub(super) fn context(&self) -> Context {
        Context { trouble: self.trouble.clone(), cut_off: AtomicBool::new(false), refused: Mutex::default() }
    }

    /// The error with the reason why there was no answer, where one is known.
    pub(super) fn explain(&self, error: Error) -> Error {
        let trouble = self.trouble.lock();
        match (error, trouble.as_ref().filter(|trouble| trouble.is_recent())) {
            (Error::Broker { action, detail, passing: true }, Some(Trouble { reason, is_final, .. })) => {
                Error::Broker { action, detail: format!("{detail}: {reason}"), passing: !is_final }
            }
            (error, _) => error,
        }
    }

    /// What all clients have in common.
    fn common(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.spec.brokers).set("client.id", "fidelio");
        client.set("allow.auto.create.topics", "false").set("topic.metadata.refresh.interval.ms", "30000");
        client
    }

    fn create<T: FromClientConfigAndContext<C>, C: ClientContext>(
        &self,
        mut client: ClientConfig,
        context: C,
    ) -> Result<T> {
        for (name, value) in &self.spec.properties {
            client.set(name, value);
        }
        client.create_with_context(context).map_err(failed("setting up a client"))
    }

    /// A client that changes the cluster.
    pub(super) fn admin(&self) -> Result<AdminClient<Context>> {
        self.create(self.common(), self.context())
    }

    /// A client that reads what is committed, from where it is told to. It can ask for the positions of a group, and is no
    /// member of it.
    pub(super) fn consumer(&self, group: &str) -> Result<BaseConsumer<Context>> {
        self.create(self.reading(group), self.context())
    }

    /// A client that also sees what is not committed; and it is told the positions that the group has committed, where one
    /// that reads what is committed is not told any as long as a transaction over them is open.
    pub(super) fn uncommitted(&self, group: &str) -> Result<BaseConsumer<Context>> {
        let mut client = self.reading(group);
        client.set("isolation.level", "read_uncommitted");
        self.create(client, self.context())
    }

    fn reading(&self, group: &str) -> ClientConfig {
        let mut client = self.common();
        client
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // Where the data is not there, somebody is to be told.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.message.max.bytes", self.spec.max_message_bytes.max(1 << 20).to_string());
        client
    }

    /// A member of a group, to which partitions are given and from which they are taken in the context.
    pub(super) fn member<C: ConsumerContext>(&self, group: &str, context: C) -> Result<BaseConsumer<C>> {
        let mut client = self.reading(group);
        client.set("auto.offset.reset", "latest").set("partition.assignment.strategy", "cooperative-sticky");
        self.create(client, context)
    }

    /// A client that writes in transactions under that id.
    pub(super) fn producer(&self, transactional_id: &str) -> Result<BaseProducer<Context>> {
        let mut client = self.common();
        client
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", TRANSACTION.as_millis().to_string())
            .set("message.max.bytes", (self.spec.max_message_bytes + FRAMING_BYTES).to_string())
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", (QUEUE_BYTES.max(2 * self.spec.max_message_bytes) >> 10).to_string())
            // The positions of a transaction are refused until the marks of the one before are written, which takes about as
            // long. Those that are refused again wait twice as long each time.
            .set("retry.backoff.ms", "1")
            .set("compression.type", "lz4")
            // As soon as a batch is delivered the next one is sent, of which there is no more than one on its way. It is as
            // large as one of these says; headers count where it is put together, but not where it is looked whether there
            // is enough for one, so that bytes alone would keep small messages with headers waiting.
            .set("batch.size", BATCH_BYTES.to_string())
            .set("batch.num.messages", "4096")
            // Less than that waits for `flush`: a thread of its would look without rest for what may go and cannot yet.
            .set("linger.ms", "1000");
        self.create(client, self.context())
    }
}

/// How much goes into one batch of messages for a partition.
const BATCH_BYTES: usize = 1_000_000;
/// How much waits to be sent or delivered: a transaction is mostly less than that.
const QUEUE_BYTES: usize = 64 << 20;

/// How long a change of the cluster may take.
pub(super) fn patient() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

/// Runs what blocks where it may.
pub(super) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let broke_down = |error: tokio::task::JoinError| Error::Broker {
        action: "asking the cluster",
        detail: error.to_string(),
        passing: false,
    };
    tokio::task::spawn_blocking(work).await.map_err(broke_down)?
}

/// What is there of a partition, as far as the asker sees it. Blocks.
pub(super) fn extent(asker: &BaseConsumer<Context>, of: &TopicPartition) -> Result<Extent> {
    let look = || asker.fetch_watermarks(of.topic.as_str(), of.partition as i32, PATIENCE);
    let (start, end) = waited_out(look).map_err(failed("looking for the end of a partition"))?;
    Ok(Extent { start: start.max(0) as u64, end: end.max(0) as u64 })
}

/// The positions that a group has committed in these partitions; `None` where it has none. Blocks.
pub(super) fn committed(
    asker: &BaseConsumer<Context>,
    partitions: TopicPartitionList,
    patience: Duration,
) -> Result<Vec<(TopicPartition, Option<u64>)>> {
    let failed = failed("looking for a group's positions");
    let found = asker.committed_offsets(partitions, patience).map_err(&failed)?;
    let position = |element: TopicPartitionListElem<'_>| {
        element.error().map_err(&failed)?;
        let at = Topic::new(element.topic()).partition(element.partition().max(0) as u32);
        Ok((at, element.offset().to_raw().and_then(|offset| u64::try_from(offset).ok())))
    };
    found.elements().into_iter().map(position).collect()
}

/// Asks again for a while where the cluster is only about to find its order, as it is after a topic was made or a leader
/// was lost.
fn waited_out<T>(mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let started = Instant::now();
    loop {
        match ask() {
            Err(error) if is_passing(&error) && started.elapsed() < PATIENCE => std::thread::sleep(TICK),
            answer => return answer,
        }
    }
}

/// What an error of librdkafka is to us.
pub(super) fn failed(action: &'static str) -> impl Fn(KafkaError) -> Error {
    move |error| Error::Broker { action, detail: text(&error), passing: is_passing(&error) }
}

/// What it is that the cluster refused.
pub(super) fn refused(action: &'static str, code: RDKafkaErrorCode, what: &str) -> Error {
    Error::Broker { action, detail: format!("{what}: {code}"), passing: !is_final(code) }
}

/// The error in words, without the value of any property, which may be a secret.
pub(super) fn text(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, detail, name, _) => {
            let detail = if detail.contains('"') { "it has a value that it cannot have" } else { detail };
            format!("property {name}: {detail}")
        }
        KafkaError::Transaction(error) => format!("{} ({})", error.string(), error.name()),
        error => match error.rdkafka_error_code() {
            Some(code) => code.to_string(),
            None => error.to_string(),
        },
    }
}

/// That a client has lost all its connections, so that another one is needed.
pub(super) fn cut_off(action: &'static str) -> Error {
    failed(action)(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown))
}

/// Whether it may help to try again.
fn is_passing(error: &KafkaError) -> bool {
    match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => false,
        error => error.rdkafka_error_code().is_none_or(|code| !is_final(code)),
    }
}

/// Whether it is the client itself that the cluster does not want, so that nothing it asks is answered.
fn is_about_who_asks(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism)
}

/// Whether the cluster will say the same the next time.
fn is_final(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    let of_what_is_asked = matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::UnsupportedVersion
            | Code::InvalidConfig
            | Code::InvalidReplicationFactor
            | Code::PolicyViolation
            | Code::InvalidTopic
            | Code::InvalidTransactionTimeout
            | Code::InvalidSessionTimeout
            | Code::MessageSizeTooLarge
    );
    of_what_is_asked || is_about_who_asks(code)
}

/// How long one call into librdkafka waits before it is looked after whether it is still wanted.
pub(super) const TICK: Duration = Duration::from_millis(100);
