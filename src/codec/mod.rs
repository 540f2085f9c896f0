//! Bytes to rows and rows to bytes, a file for each format. Where bytes come from and go to is not known here.

pub mod arrow;
pub mod cloudevents;
pub mod csv;
pub mod json;
mod rejects;
pub(crate) mod text;
pub(crate) mod time;
mod value;

use std::ops::Range;

use ::arrow::record_batch::RecordBatch;
use bytes::{Bytes, BytesMut};

use crate::failure::Reject;

/// Rows that are not decoded yet: a buffer, and where in it each row lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawRows {
    /// The buffer. Between rows it may hold what belongs to none of them, such as line ends.
    pub bytes: Bytes,
    /// Each row's place in the buffer, ascending, without its line end.
    pub rows: Vec<Range<u32>>,
}

impl RawRows {
    /// Rows that lie apart, in one buffer.
    pub fn of<'a>(apart: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Self {
        let size = apart.clone().map(|row| row.len() + 1).sum();
        let (mut bytes, mut rows) = (BytesMut::with_capacity(size), Vec::with_capacity(apart.len()));
        for row in apart {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(row);
            rows.push(start..bytes.len() as u32);
            bytes.extend_from_slice(b"\n");
        }
        Self { bytes: bytes.freeze(), rows }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The bytes of one row, untouched; empty for a row that does not exist.
    pub fn row(&self, row: usize) -> Bytes {
        match self.rows.get(row) {
            Some(range) => self.bytes.slice(range.start as usize..range.end as usize),
            None => Bytes::new(),
        }
    }
}

/// What decoding made of raw rows: each of them is either a row of the batch or a reject.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The rows that decoded, in their order.
    pub batch: RecordBatch,
    /// For each row of the batch, which raw row it was; `None` where all of them decoded.
    pub kept: Option<Vec<u32>>,
    /// The raw rows that did not decode, ascending.
    pub rejects: Vec<Reject>,
}

/// Turns raw rows of one format into rows of one schema. What a row becomes never depends on its neighbours.
pub trait Decoder: Send {
    /// Decodes each row or says why it cannot be.
    fn decode(&mut self, raw: &RawRows) -> Decoded;
}

/// Rows as the text of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub bytes: BytesMut,
    /// The rows in it, as whoever wrote them there counted.
    pub rows: u64,
}

/// Turns rows into text, one line each.
pub trait Encoder: Send {
    /// What a file of this format starts with, such as a header line; empty if nothing.
    fn head(&self) -> Bytes;

    /// Appends the rows of the batch, each with its line end.
    fn encode(&mut self, batch: &RecordBatch, to: &mut Text) -> Result<(), ::arrow::error::ArrowError>;
}
