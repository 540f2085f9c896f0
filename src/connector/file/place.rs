//! How far the files of a source were read, as it stands in a checkpoint. What follows from it lives in `plan`.
//!
//! ```json
//! {"version": 1, "files": [
//!   {"path": "in/a.ndjson", "device": 2049, "inode": 7, "head": {"bytes": 1024, "crc32c": 305419896},
//!    "offset": 52000, "rows": 1000, "done": {"size": 52000}}]}
//! ```
//! A file is recognised by its inode together with a checksum of its first bytes, so neither a reused inode nor a file
//! whose content was replaced is taken for it. The device is kept for those who look, but it may change when a machine
//! starts again. A finished file stays in the position as long as it could be met again; when files are followed, one
//! that was rotated away and read to its end leaves it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connector::intake::{HEAD_BYTES, Progress};
use crate::connector::{Result, position};

const VERSION: u32 = 1;

/// How far all files of a task were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    version: u32,
    /// File by file.
    pub files: Vec<Entry>,
}

/// How far a file was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Under which path it was found.
    pub path: String,
    /// The device it was on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// What it started with.
    pub head: Head,
    /// The end of the last row that was given, in bytes after decompression.
    pub offset: u64,
    /// Rows given.
    pub rows: u64,
    /// Present once all of it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
}

/// A file that was given to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How large it was, in bytes as they are on the disk.
    pub size: u64,
    /// Whether it was an archive whose end was torn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
}

/// The checksum of what a file starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of how many bytes.
    pub bytes: u64,
    /// The checksum.
    pub crc32c: u32,
}

impl Place {
    /// The position of these files.
    pub fn new(files: Vec<Entry>) -> Self {
        Self { version: VERSION, files }
    }

    /// Reads a position out of a checkpoint.
    pub fn from_value(value: Value) -> Result<Self> {
        position::read_place(value, VERSION, "file source")
    }

    /// The position as it goes into a checkpoint.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Head {
    /// The checksum of a file's first bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) }
    }

    /// Whether a file that starts with `bytes`, as many as there are of [`HEAD_BYTES`], is still the same.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.get(..self.bytes as usize).is_some_and(|start| Head::of(start) == *self)
    }
}

impl From<&Progress> for Entry {
    fn from(file: &Progress) -> Self {
        // What was not given may still be rewritten, and tells an archive apart nevertheless.
        let settled = if file.identity.packed { HEAD_BYTES } else { file.offset.min(HEAD_BYTES as u64) as usize };
        Self {
            path: file.identity.path.to_string(),
            device: file.identity.device,
            inode: file.identity.inode,
            head: Head::of(file.head.get(..settled).unwrap_or(&file.head)),
            offset: file.offset,
            rows: file.rows,
            done: file.done.map(|size| Done { size, torn: file.torn }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The shape is that of checkpoints that exist.
    #[test]
    fn a_position_of_version_1_can_be_read() {
        let value = json!({"version": 1, "files": [
            {"path": "a", "device": 1, "inode": 2, "head": {"bytes": 3, "crc32c": 4}, "offset": 5, "rows": 6},
            {"path": "b", "device": 1, "inode": 3, "head": {"bytes": 0, "crc32c": 0}, "offset": 7, "rows": 8,
             "done": {"size": 9, "torn": true}},
        ]});
        let position = Place::from_value(value.clone()).unwrap();
        assert_eq!(position.files[0].done, None);
        assert_eq!(position.files[1].done, Some(Done { size: 9, torn: true }));
        assert_eq!(position.to_value(), value);
    }

    #[test]
    fn a_position_of_another_version_is_refused() {
        let error = Place::from_value(json!({"version": 2, "files": []})).unwrap_err();
        assert!(error.to_string().contains("version is 2"), "{error}");
        assert!(Place::from_value(json!({"bytes": 3})).is_err());
    }

    #[test]
    fn a_head_matches_whatever_comes_after_it() {
        let head = Head::of(b"abc");
        assert!(head.matches(b"abc") && head.matches(b"abcdef"));
        assert!(!head.matches(b"ab") && !head.matches(b"abd"));
    }
}
