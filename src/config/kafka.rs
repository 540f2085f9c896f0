//! `[bus]` with `kind = "kafka"`.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use toml::de::DeValue;

use super::cursor::{Table, Value};
use super::decode::{DEFAULT_RETENTION, retention, size_of};
use super::spec::{Kafka, OnDataLoss};

/// What brokers take without further ado.
const DEFAULT_MESSAGE_BYTES: u64 = 1_000_000;
const MAX_MESSAGE_BYTES: u64 = 900_000_000;
const MOST_REPLICAS: u64 = 1000;

const ON_DATA_LOSS: &[(&str, OnDataLoss)] = &[("stop", OnDataLoss::Stop), ("earliest", OnDataLoss::Earliest)];

/// Properties that Fidelio sets itself, and what to write instead where there is something.
const OWN: &[(&str, &str)] = &[
    ("bootstrap.servers", "write them as `brokers` in [bus]"),
    ("metadata.broker.list", "write them as `brokers` in [bus]"),
    ("message.max.bytes", "write it as `max_message_bytes` in [bus]"),
    ("fetch.message.max.bytes", "write it as `max_message_bytes` in [bus]"),
    ("max.partition.fetch.bytes", "write it as `max_message_bytes` in [bus]"),
    ("transactional.id", "leave it out"),
    ("transaction.timeout.ms", "leave it out"),
    ("queue.buffering.max.kbytes", "leave it out"),
    ("queue.buffering.max.messages", "leave it out"),
    ("message.timeout.ms", "leave it out"),
    ("delivery.timeout.ms", "leave it out"),
    ("message.send.max.retries", "leave it out"),
    ("retries", "leave it out"),
    ("enable.idempotence", "leave it out"),
    ("acks", "leave it out"),
    ("request.required.acks", "leave it out"),
    ("group.id", "leave it out"),
    ("group.instance.id", "leave it out"),
    ("group.protocol", "leave it out"),
    ("partition.assignment.strategy", "leave it out"),
    ("isolation.level", "leave it out"),
    ("auto.offset.reset", "write what is to happen as `on_data_loss` in [bus]"),
    ("enable.auto.commit", "leave it out"),
    ("enable.auto.offset.store", "leave it out"),
    ("enable.partition.eof", "leave it out"),
    ("allow.auto.create.topics", "leave it out"),
];

/// The bus; `None` if it could not be made out.
pub(super) fn kafka(table: &Table) -> Option<Kafka> {
    let brokers = table.need("brokers", "for example \"kafka-1:9092,kafka-2:9092\"");
    let brokers = brokers.and_then(|value| value.parsed("HOST:PORT, several with commas between them", hosts));
    let replicas = |key| table.get(key).and_then(|value| value.integer(1, MOST_REPLICAS)).map(|count| count as u32);
    let (replication, min_insync_replicas) = (replicas("replication"), replicas("min_insync_replicas"));
    let bytes = table.get("max_message_bytes").and_then(|value| size_of(&value, MAX_MESSAGE_BYTES));
    let retention = table.get("retention").and_then(|value| retention(&value)).unwrap_or(DEFAULT_RETENTION);
    let on_data_loss = table.get("on_data_loss").and_then(|value| value.choice(ON_DATA_LOSS)).unwrap_or_default();
    let properties = table.get("properties").map(|value| properties(&value)).unwrap_or_default();
    Some(Kafka {
        brokers: brokers?,
        replication,
        min_insync_replicas,
        max_message_bytes: bytes.unwrap_or(DEFAULT_MESSAGE_BYTES) as usize,
        retention,
        on_data_loss,
        properties,
    })
}

fn hosts(text: &str) -> Option<String> {
    let is_host = |host: &str| {
        host.trim().rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok())
    };
    text.split(',').all(is_host).then(|| text.to_owned())
}

/// `[bus.properties]`
fn properties(value: &Value) -> Vec<(String, String)> {
    let Some(table) = value.table("`[bus.properties]`", "write it as a table: [bus.properties]") else {
        return Vec::new();
    };
    let mut properties = Vec::new();
    for (name, value) in table.entries() {
        if let Some((_, help)) = OWN.iter().find(|(own, _)| *own == name.value) {
            value.fault("is set by Fidelio itself", help);
            continue;
        }
        let text = match value.raw() {
            DeValue::Integer(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            _ => value.string("a text, a number, or true or false").map(|text| text.value),
        };
        let Some(text) = text else { continue };
        match refusal(&name.value, &text) {
            Some(reason) => value.fault(reason, "see librdkafka's list of properties"),
            None => properties.push((name.value, text)),
        }
    }
    properties
}

/// Why librdkafka does not take a property. The value may be a secret, and is not in it.
fn refusal(name: &str, value: &str) -> Option<&'static str> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Err(KafkaError::ClientConfig(_, reason, ..)) if reason.starts_with("No such") => {
            Some("is no property of librdkafka")
        }
        Err(_) => Some("is a property that cannot have this value"),
        Ok(_) => None,
    }
}
