//! What is kept of the rows of a leaf until their windows close.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::place::Nanos;
use crate::operator::sums::Sums;

/// The rows of windows, by the ends of the windows.
pub(super) type ByEnd = BTreeMap<Nanos, Vec<RecordBatch>>;

/// Rows of a leaf, or what they were added up to, in their windows.
pub(super) trait Kept: Debug + Send + Sync {
    /// Adds rows, and gives them as they were added: sorted. Takes down when the windows end that yield something else now,
    /// of those that end after the first and not after the second of the given times.
    fn push(&mut self, batch: RecordBatch, of: (Nanos, Nanos), touched: &mut BTreeSet<Nanos>) -> Result<RecordBatch>;

    /// The rows of all windows that end after the first and not after the second of these times. Where they need not be `apart`,
    /// those of several windows can be together.
    fn closing(&self, closed: Nanos, until: Nanos, apart: bool) -> Result<ByEnd>;

    /// The rows of the windows that end then.
    fn of_windows(&self, ends: &BTreeSet<Nanos>, apart: bool) -> Result<ByEnd>;

    /// The rows of each of the windows that are together.
    fn apart(&self, together: &RecordBatch) -> Result<Vec<RecordBatch>>;

    /// Takes down that all windows that end by `closed` have closed, and lets go of rows all of whose windows end by `gone`.
    fn release(&mut self, closed: Nanos, gone: Nanos) -> Result<()>;

    /// Those of such rows that were not let go of, those of each group added up to one, sorted.
    fn left(&self, batches: Vec<RecordBatch>, gone: Nanos) -> Result<Option<RecordBatch>>;

    /// All rows, in batches; also some that were let go of.
    fn batches(&self) -> Box<dyn Iterator<Item = &RecordBatch> + '_>;

    /// When the first window starts that can still yield results, once all that end by `closed` have closed.
    fn first_open(&self, closed: Nanos) -> Nanos;

    /// How rows are added up.
    fn sums(&self) -> &Sums;

    /// Bytes of memory.
    fn bytes(&self) -> usize;
}

/// How many small runs wait until they are merged.
const SMALL_RUNS: usize = 64;

/// From which run on all are to be merged, by how many rows each has: the last so many that were not, once these are enough or
/// have that many rows, and the larger ones before them that are not much larger, where that makes fewer rows of them or there
/// are many of those, too.
pub(super) fn to_merge(rows: &[usize], small: usize, many: usize, sums: &Sums) -> Option<usize> {
    let (larger, small) = rows.split_at(rows.len().saturating_sub(small));
    let mut taken: usize = small.iter().sum();
    if small.len() < SMALL_RUNS && taken < many {
        return None;
    }
    let is_worth_it = sums.any() || larger.len() >= SMALL_RUNS;
    let fit = |rows: &&usize| {
        let fits = is_worth_it && **rows <= 2 * taken;
        taken += **rows;
        fits
    };
    Some(larger.len() - larger.iter().rev().take_while(fit).count())
}
