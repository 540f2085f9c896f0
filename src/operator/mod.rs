//! The transformation of a stage: batches in, batches out. How SQL becomes operators lives in `sql`.

mod changes;
mod leaf;
mod state;
mod step;
mod sums;
mod transform;
mod unnest;
mod windowed;

use arrow::record_batch::RecordBatch;

use crate::failure::Reject;

pub(crate) use changes::{
    AggregatePlan, Changes, DELETED, Flow, GroupsPlan, JoinKind, JoinPlan, LatestPlan, Mark, Node, Side, Sides, Source,
    To, Work,
};
pub(crate) use leaf::LeafExec;
pub(crate) use state::{Chunk, Piece, State};
pub(crate) use step::{Conform, Project, Step};
pub(crate) use transform::{Branch, Transform};
pub(crate) use unnest::Unnest;
pub use windowed::Also;
pub(crate) use windowed::{
    Absorbed, Closed, Failed, Kind, Leaf, Nanos, Partial, Place, Plan, Spacing, Windowed, saturated,
};

/// What became of one input batch. Every row of it either is a reject, was filtered out, or has at least one row in
/// `batch`.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The result rows.
    pub batch: RecordBatch,
    /// For each result row, which input row it came from; ascending.
    pub origin: Vec<u32>,
    /// The input rows on which an expression failed, or whose results break the contract, ascending. None of their
    /// results are in `batch`.
    pub rejects: Vec<Reject>,
    /// The input rows that have no result because a filter or an empty list left them out, as it says itself; in no order.
    pub left_out: Vec<u32>,
}

/// A transformation. Deterministic: what comes out depends on the rows that went in, and on nothing else.
pub trait Operator: Send {
    /// Processes a batch of the input of that number (as in the stage's `from`).
    fn process(&mut self, input: usize, batch: &RecordBatch) -> Output;
}
