//! Facts as CloudEvents 1.0 in structured mode: one JSON object with the event's attributes and its data. What ids and
//! sources are made of is for the caller to say.

use arrow::datatypes::TimeUnit;
use bytes::Bytes;
use serde_json::Value;

use super::time;

/// The media type of an event in structured mode.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// An event. The names are those of the specification's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Unique among all events of the source.
    pub id: &'a str,
    /// Where it happened, as a URI reference.
    pub source: &'a str,
    /// What happened, for example `SevereDelay`.
    pub kind: &'a str,
    /// When it happened, in microseconds since the epoch.
    pub time: Option<i64>,
    /// The text of a JSON value, such as [`super::json::rows_to_text`] gives.
    pub data: &'a [u8],
}

/// Why an event would not be a CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An attribute that must not be empty is.
    #[error("a CloudEvent's {0} must not be empty")]
    Empty(&'static str),
    /// The source is not a URI reference.
    #[error("`{0}` is not a URI reference, which a CloudEvent's source has to be")]
    Source(String),
}

impl Event<'_> {
    /// The event as one JSON object, without a line end. The same event always yields the same bytes.
    pub fn structured(&self) -> Result<Bytes, Error> {
        for (name, value) in [("id", self.id), ("source", self.source), ("type", self.kind)] {
            if value.is_empty() {
                return Err(Error::Empty(name));
            }
        }
        if !self.source.bytes().all(may_be_in_uri) {
            return Err(Error::Source(self.source.to_owned()));
        }
        let mut text = Vec::with_capacity(256 + self.data.len());
        text.extend_from_slice(br#"{"specversion":"1.0""#);
        for (name, value) in [("id", self.id), ("source", self.source), ("type", self.kind)] {
            // The display of a JSON string is its text in JSON.
            text.extend_from_slice(format!(",\"{name}\":{}", Value::from(value)).as_bytes());
        }
        if let Some(micros) = self.time {
            text.extend_from_slice(br#","time":""#);
            time::write(micros, TimeUnit::Microsecond, &mut text);
            text.push(b'"');
        }
        text.extend_from_slice(br#","datacontenttype":"application/json","data":"#);
        text.extend_from_slice(if self.data.is_empty() { b"null" } else { self.data });
        text.push(b'}');
        Ok(text.into())
    }
}

/// RFC 3986: the unreserved and reserved characters, and what introduces an encoded one.
fn may_be_in_uri(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const EVENT: Event<'_> = Event {
        id: "delays/0/42/7",
        source: "/acme/flights/delays",
        kind: "SevereDelay",
        time: Some(1_356_998_400_000_500),
        data: br#"{"origin":"EWR","dep_delay":181.0}"#,
    };

    /// The rules of CloudEvents 1.0.2, sections "Required Attributes", "Optional Attributes" and JSON format 3.
    fn keeps_the_rules(event: &Value) -> bool {
        let Some(members) = event.as_object() else { return false };
        let is_text = |name: &str| members.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        let has_good_name = |name: &String| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let time = members.get("time").is_none_or(|time| {
            time.as_str().is_some_and(|text| text.ends_with('Z') && time::parse(text, TimeUnit::Microsecond).is_some())
        });
        members["specversion"] == "1.0"
            && ["id", "source", "type"].into_iter().all(is_text)
            && members.keys().all(has_good_name)
            && members.get("datacontenttype") == Some(&json!("application/json"))
            && time
    }

    #[test]
    fn an_event_is_a_cloud_event() {
        let text = EVENT.structured().unwrap();
        let event: Value = serde_json::from_slice(&text).unwrap();
        assert!(keeps_the_rules(&event));
        assert_eq!(
            event,
            json!({
                "specversion": "1.0", "id": "delays/0/42/7", "source": "/acme/flights/delays", "type": "SevereDelay",
                "time": "2013-01-01T00:00:00.000500Z", "datacontenttype": "application/json",
                "data": {"origin": "EWR", "dep_delay": 181.0},
            })
        );
    }

    #[test]
    fn an_event_without_a_time_has_none() {
        let event: Value = serde_json::from_slice(&Event { time: None, ..EVENT }.structured().unwrap()).unwrap();
        assert!(keeps_the_rules(&event) && event.get("time").is_none());
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        assert_eq!(Event { id: "", ..EVENT }.structured(), Err(Error::Empty("id")));
        assert_eq!(Event { kind: "", ..EVENT }.structured(), Err(Error::Empty("type")));
        assert_eq!(Event { source: "", ..EVENT }.structured(), Err(Error::Empty("source")));
        assert_eq!(Event { source: "a b", ..EVENT }.structured(), Err(Error::Source("a b".into())));
    }

    proptest! {
        #[test]
        fn any_id_and_type_make_a_cloud_event(id in ".{1,20}", kind in ".{1,20}", time in 0i64..4_000_000_000_000_000) {
            let event = Event { id: &id, kind: &kind, time: Some(time), ..EVENT };
            let text = event.structured().unwrap();
            prop_assert_eq!(&text, &event.structured().unwrap());
            let value: Value = serde_json::from_slice(&text).unwrap();
            prop_assert!(keeps_the_rules(&value));
            prop_assert_eq!((value["id"].as_str(), value["type"].as_str()), (Some(id.as_str()), Some(kind.as_str())));
        }
    }
}
