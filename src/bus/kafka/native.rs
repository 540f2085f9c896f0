//! What librdkafka can do and `rdkafka` does not offer.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;
use std::{ptr, slice};

use rdkafka::admin::AdminClient;
use rdkafka::bindings as native;
use rdkafka::error::{IsError, KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaErrorCode;

use super::client::Context;

/// Sends what waits for more to come, and waits until everything is delivered or has failed, up to `timeout`. The one of
/// `rdkafka` returns at once, or a tenth of a second later, and so does not keep the batches from waiting.
pub(super) fn flush(producer: &BaseProducer<Context>, timeout: Duration) {
    // SAFETY: the pointer is that of a client which lives for longer than the call, and clients can be used by many threads
    // at a time.
    unsafe { native::rd_kafka_flush(producer.client().native_ptr(), millis(timeout)) };
}

/// Gives the name and the value of each header of a message. The names that `rdkafka` gives have to be UTF-8.
pub(super) fn for_each_header(message: &BorrowedMessage<'_>, mut each: impl FnMut(&[u8], &[u8])) {
    let mut headers = ptr::null_mut();
    // SAFETY: the headers are a part of the message, which is borrowed, and so are names and values. A name ends with a zero.
    unsafe {
        if native::rd_kafka_message_headers(message.ptr(), &mut headers).is_error() {
            return;
        }
        for number in 0.. {
            let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
            if native::rd_kafka_header_get_all(headers, number, &mut name, &mut value, &mut length).is_error() {
                return;
            }
            let value = if value.is_null() { &[] } else { slice::from_raw_parts(value.cast(), length) };
            each(CStr::from_ptr(name).to_bytes(), value);
        }
    }
}

/// The ids of topics, as Kafka's tools show them (KIP-516); none of a topic that was made on a cluster that knows no ids, or
/// that may not be looked at. That one of them is not there is an error. Blocks, up to `timeout`.
pub(super) fn topic_ids(
    admin: &AdminClient<Context>,
    topics: &[&str],
    timeout: Duration,
) -> KafkaResult<BTreeMap<String, String>> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let client = admin.inner().native_ptr();
    let mut ids = BTreeMap::new();
    // SAFETY: the client outlives the call. What is made here is destroyed here, the event last, since the descriptions and
    // what they give are parts of it. Names are copied by the collection, and what is read is copied before that.
    unsafe {
        let collection = native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = native::rd_kafka_AdminOptions_new(client, DESCRIBE);
        let patience = millis(timeout);
        native::rd_kafka_AdminOptions_set_request_timeout(options, patience, ptr::null_mut(), 0);
        let queue = native::rd_kafka_queue_new(client);
        native::rd_kafka_DescribeTopics(client, collection, options, queue);
        let event = native::rd_kafka_queue_poll(queue, patience);
        let mut code = match event.is_null() {
            true => native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT,
            false => native::rd_kafka_event_error(event),
        };
        if !code.is_error() {
            let result = native::rd_kafka_event_DescribeTopics_result(event);
            let mut count = 0;
            let described = native::rd_kafka_DescribeTopics_result_topics(result, &mut count);
            for number in 0..count {
                let topic = *described.add(number);
                if topic.is_null() {
                    continue;
                }
                let error = native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(topic));
                // What is not allowed to be read, whoever reads it is told.
                if error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED {
                    continue;
                }
                if error.is_error() {
                    code = error;
                    break;
                }
                let id = native::rd_kafka_TopicDescription_topic_id(topic);
                let is_zero = native::rd_kafka_Uuid_most_significant_bits(id) == 0
                    && native::rd_kafka_Uuid_least_significant_bits(id) == 0;
                if !is_zero {
                    let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
                    let name = native::rd_kafka_TopicDescription_name(topic);
                    ids.insert(text(name), text(native::rd_kafka_Uuid_base64str(id)));
                }
            }
        }
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_TopicCollection_destroy(collection);
        match code.is_error() {
            true => Err(KafkaError::AdminOp(RDKafkaErrorCode::from(code))),
            false => Ok(ids),
        }
    }
}

const DESCRIBE: native::rd_kafka_admin_op_t = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
