//! What an operator keeps from batch to batch, as a checkpoint has it.

use std::collections::VecDeque;
use std::ops::Range;

use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

/// What is kept since some time, or is kept no longer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    /// The number of the part of the query whose it is.
    pub(crate) leaf: usize,
    /// Rows as they are kept.
    pub(crate) rows: RecordBatch,
}

/// A part of all that is kept, some time after it was asked for.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    /// These rows, as far as they are still kept.
    Rows(Chunk),
    /// The rows of that store with these numbers, as far as they are still kept.
    Numbers(usize, Range<u64>),
}

/// What an operator keeps from batch to batch.
pub(crate) trait State: Send + Sync {
    /// What is kept of rows, a text for each part of the query: where two queries keep the same, one can go on with what the other
    /// has kept.
    fn keeps(&self) -> &[String];

    /// How far it has come in event time.
    fn closed(&self) -> Option<String>;

    /// What has come and gone since this was last called.
    fn fresh(&mut self) -> Result<Vec<Chunk>>;

    /// All that is kept, in pieces of so many rows.
    fn pieces(&self, rows: usize) -> VecDeque<Piece>;

    /// What is still kept of a piece.
    fn still_kept(&self, piece: Piece) -> Result<Option<Chunk>>;

    /// Takes back what was kept, in the order in which it came and went, when it had come that far in event time.
    fn restore(&mut self, closed: Option<&str>, chunks: Vec<Chunk>) -> Result<()>;

    /// All that is kept, for whoever looks at it, by part of the query.
    fn shown(&mut self) -> Result<Vec<RecordBatch>>;

    /// Rows that are kept.
    fn rows(&self) -> usize;

    /// Bytes of memory that these take.
    fn bytes(&self) -> usize;
}
