//! How connectors read their own positions out of a checkpoint. Each of them owns the shape of its own.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Error, Result};

/// Reads a position whose `version` has to be the one given. `connector` is its name in an error.
pub fn read<T: DeserializeOwned>(value: Value, version: u32, connector: &'static str) -> Result<T> {
    let unreadable = |detail: String| Error::Position { connector, detail };
    match value.get("version").and_then(Value::as_u64) {
        Some(found) if found == u64::from(version) => {
            serde_json::from_value(value).map_err(|error| unreadable(error.to_string()))
        }
        Some(found) => Err(unreadable(format!("its version is {found}, not {version}"))),
        None => Err(unreadable("it has no version".into())),
    }
}
