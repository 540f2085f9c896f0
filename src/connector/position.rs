//! How far a connector is, as it stands in a checkpoint. Each connector owns the shape of its own place.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, Result};

/// How far a connector is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Rows that it has given or taken since the task's first commit, by a count of its own.
    pub rows: u64,
    /// Where that is, in a shape that only the connector knows.
    pub at: Value,
}

/// Reads a place whose `version` has to be the one given. `connector` is its name in an error.
pub fn read_place<T: DeserializeOwned>(value: Value, version: u32, connector: &'static str) -> Result<T> {
    let unreadable = |detail: String| Error::Position { connector, detail };
    match value.get("version").and_then(Value::as_u64) {
        Some(found) if found == u64::from(version) => {
            serde_json::from_value(value).map_err(|error| unreadable(error.to_string()))
        }
        Some(found) => Err(unreadable(format!("its version is {found}, not {version}"))),
        None => Err(unreadable("it has no version".into())),
    }
}
