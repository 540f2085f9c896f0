//! A query over windows at work: rows are kept, or added up, by the windows that they are in, and a window's results are
//! made once, when it closes.
//!
//! What is kept are record batches: the rows themselves or, where the query begins with an aggregate, the partial
//! aggregates that DataFusion makes of them. So there is no hash table to be written to a checkpoint, and every aggregate
//! that DataFusion has is there.

mod kept;
mod order;
mod place;
mod plan;
mod runs;
mod sessions;
mod spans;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, exec_err};

use super::state::{Chunk, Piece, State};
use super::step::{Failure, Rows};
use super::transform::{Transform, guarded, left_out_by_all};
use super::{Branch, Operator, Output, leaf};
use crate::failure::{Class, Reject, narrow};
use kept::{ByEnd, Kept};
pub(crate) use place::{Kind, Nanos, Place, Spacing, saturated};
pub use plan::Also;
pub(crate) use plan::{Leaf, Partial, Plan};

/// Rows of a batch that cost less than the batch itself.
const FEW: usize = 1 << 8;

/// Kept rows of windows that are evaluated together.
const TOGETHER: usize = 1 << 20;

/// What windows yield.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Yield {
    Early,
    Results,
    Correction,
}

/// A query over windows, with the rows of those that are open.
pub(crate) struct Windowed {
    plan: Arc<Plan>,
    /// What each leaf's branches make of a batch.
    inlets: Vec<Transform>,
    above: Transform,
    keeps: Vec<String>,
    kept: Vec<Box<dyn Kept>>,
    /// What came since it was last asked for.
    fresh: Vec<Vec<RecordBatch>>,
    /// All windows that end by then have closed.
    closed: Nanos,
    /// The ends of windows that have closed and have had rows since, and of those that are open and have had rows since what
    /// they would yield was last asked for; as far as that is yielded.
    touched: BTreeSet<Nanos>,
}

/// What became of the rows of a batch. All others are in windows that will close.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Absorbed {
    /// The rows on which an expression failed, and those that are late, ascending.
    pub(crate) rejects: Vec<Reject>,
    /// The rows that the query leaves out, in no order.
    pub(crate) left_out: Vec<u32>,
    /// How many rows are in windows now.
    pub(crate) absorbed: u64,
}

/// What windows yield.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Closed {
    /// Their results.
    pub(crate) results: RecordBatch,
    /// What could not become a result.
    pub(crate) failed: Vec<Failed>,
}

/// A row that a window yields and that is no result, or all that is kept of a window that yields none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failed {
    pub(crate) rows: RecordBatch,
    pub(crate) class: Class,
    pub(crate) message: String,
}

impl Windowed {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let inlet = |leaf: &Leaf| Transform::new(leaf.branches.clone().into(), Arc::clone(&leaf.rows));
        let above = Branch { input: 0, steps: plan.above.clone() };
        Self {
            inlets: plan.leaves.iter().map(inlet).collect(),
            above: Transform::new([above].into(), Arc::clone(&plan.schema)),
            keeps: plan.leaves.iter().map(Leaf::keeps).collect(),
            kept: plan.leaves.iter().map(Leaf::kept).collect(),
            fresh: vec![Vec::new(); plan.leaves.len()],
            closed: Nanos::MIN,
            touched: BTreeSet::new(),
            plan,
        }
    }

    /// All windows that end by then have closed, and are not kept any more.
    fn gone(&self) -> Nanos {
        match self.plan.also.corrects_for {
            Some(kept) if self.closed > Nanos::MIN => self.closed - Nanos::from(kept),
            _ => self.closed,
        }
    }

    /// Takes the rows of a batch of that input into their windows. A row of which a window has closed and is not kept any more
    /// is late, and in none.
    pub(crate) fn absorb(&mut self, input: usize, batch: &RecordBatch) -> Result<Absorbed> {
        let pieces = narrow(0..batch.num_rows(), &mut |rows: Range<usize>| {
            guarded(|| self.piece(input, &batch.slice(rows.start, rows.len())))
        });
        let mut absorbed = Absorbed::default();
        let after = if self.plan.also.corrects_for.is_some() { self.gone() } else { self.closed };
        let until = if self.plan.also.early { Nanos::MAX } else { self.closed };
        for (rows, piece) in pieces {
            let Taken { kept, late, left_out } = match piece {
                Ok(piece) => piece,
                Err(Failure { class, message }) => {
                    absorbed.rejects.push(Reject { row: rows.start, class, message });
                    continue;
                }
            };
            absorbed.absorbed += (rows.len() - late.len() - left_out.len()) as u64;
            absorbed.left_out.extend(left_out.into_iter().map(|row| rows.start as u32 + row));
            let reject = |row: u32| Reject {
                row: rows.start + row as usize,
                class: Class::Late,
                message: "the window that it is in has closed".into(),
            };
            absorbed.rejects.extend(late.into_iter().map(reject));
            for ((kept, fresh), rows) in self.kept.iter_mut().zip(&mut self.fresh).zip(kept) {
                if rows.num_rows() > 0 {
                    fresh.push(kept.push(rows, (after, until), &mut self.touched)?);
                }
            }
        }
        Ok(absorbed)
    }

    /// What is kept of a batch in which every row can be.
    fn piece(&self, input: usize, batch: &RecordBatch) -> Result<Taken, Failure> {
        let rows = self.inlets.iter().map(|inlet| inlet.evaluate(input, batch)).collect::<Result<Vec<_>, _>>()?;
        let mut late = BTreeSet::new();
        for (leaf, rows) in self.plan.leaves.iter().zip(&rows) {
            let (times, until) = (leaf.place.times(&rows.batch)?, leaf.place.late_until(self.gone()));
            let behind = times.values().iter().enumerate().filter(|(_, time)| Some(**time) <= until);
            late.extend(behind.map(|(row, _)| rows.origin_of(row)));
        }
        let left_out = left_out_by_all(&rows);
        let mut kept = Vec::with_capacity(rows.len());
        for (number, (leaf, rows)) in self.plan.leaves.iter().zip(rows).enumerate() {
            let rows = without(rows, &late)?;
            kept.push(if rows.num_rows() == 0 { rows } else { leaf.keep(number, rows)? });
        }
        Ok(Taken { kept, late: late.into_iter().collect(), left_out })
    }

    /// Closes all windows that end by then, or all there are, in the order of their ends.
    pub(crate) fn close(&mut self, until: Option<Nanos>) -> Result<Vec<Closed>> {
        if until.is_some_and(|until| until < self.closed) {
            return Ok(Vec::new());
        }
        let until = until.unwrap_or(Nanos::MAX);
        let windows = self.windows(|kept| kept.closing(self.closed, until, self.is_apart()))?;
        let last = windows.keys().next_back().copied();
        self.closed = self.closed.max(if until < Nanos::MAX { until } else { last.unwrap_or(Nanos::MIN) });
        self.release()?;
        self.yielded(windows.into_values().collect(), Yield::Results)
    }

    /// Rows of windows, of each leaf, by the ends of the windows.
    fn windows(&self, of_leaf: impl Fn(&dyn Kept) -> Result<ByEnd>) -> Result<BTreeMap<Nanos, Vec<Vec<RecordBatch>>>> {
        let mut windows = BTreeMap::new();
        for (number, kept) in self.kept.iter().enumerate() {
            for (end, batches) in of_leaf(kept.as_ref())? {
                let of_leaves = windows.entry(end).or_insert_with(|| vec![Vec::new(); self.kept.len()]);
                if let Some(of_leaf) = of_leaves.get_mut(number) {
                    *of_leaf = batches;
                }
            }
        }
        Ok(windows)
    }

    /// Lets go of what no window needs any more.
    fn release(&mut self) -> Result<()> {
        let (closed, gone) = (self.closed, self.gone());
        self.kept.iter_mut().try_for_each(|kept| kept.release(closed, gone))
    }

    /// The results of windows that have closed and have had rows since, once more, in the order of their ends.
    pub(crate) fn correct(&mut self) -> Result<Vec<Closed>> {
        let open = self.touched.split_off(&(self.closed.saturating_add(1)));
        let closed = std::mem::replace(&mut self.touched, open);
        self.of_windows(closed, Yield::Correction)
    }

    /// What windows that are open would yield, of those that have had rows since this was last asked for, in the order of their
    /// ends.
    pub(crate) fn early(&mut self) -> Result<Vec<Closed>> {
        let mut touched = std::mem::take(&mut self.touched);
        let open = touched.split_off(&(self.closed.saturating_add(1)));
        self.of_windows(open, Yield::Early)
    }

    fn of_windows(&mut self, ends: BTreeSet<Nanos>, what: Yield) -> Result<Vec<Closed>> {
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let windows = self.windows(|kept| kept.of_windows(&ends, self.is_apart()))?;
        self.yielded(windows.into_values().collect(), what)
    }

    /// Whether windows that end at different times are evaluated, or put together from leaves, one by one.
    fn is_apart(&self) -> bool {
        self.plan.is_ordered || self.plan.place.is_none() || self.kept.len() > 1
    }

    /// What windows yield, in their order.
    fn yielded(&mut self, windows: Vec<Vec<Vec<RecordBatch>>>, what: Yield) -> Result<Vec<Closed>> {
        let mut closed = Vec::new();
        let mut together = Vec::new();
        let mut rows = 0;
        for window in windows {
            rows += window.iter().flatten().map(RecordBatch::num_rows).sum::<usize>();
            together.push(window);
            // The rows of different windows have nothing to do with each other, unless the query has an end for each.
            if rows >= TOGETHER || self.plan.is_ordered || self.plan.place.is_none() {
                self.results(std::mem::take(&mut together), &mut closed)?;
                rows = 0;
            }
        }
        self.results(together, &mut closed)?;
        for closed in &mut closed {
            closed.results = marked(&closed.results, self.plan.also, what)?;
        }
        Ok(closed)
    }

    /// The results of windows, in their order.
    fn results(&mut self, windows: Vec<Vec<Vec<RecordBatch>>>, closed: &mut Vec<Closed>) -> Result<()> {
        let Some(first) = windows.first() else { return Ok(()) };
        let mut rows = vec![Vec::new(); first.len()];
        for window in &windows {
            for (rows, of_window) in rows.iter_mut().zip(window) {
                rows.extend_from_slice(of_window);
            }
        }
        for (leaf, rows) in self.plan.leaves.iter().zip(&mut rows) {
            // Each batch costs something, and there can be one for each row.
            if rows.len() > 1 && rows.iter().map(RecordBatch::num_rows).sum::<usize>() < rows.len() * FEW {
                *rows = vec![concat_batches(&leaf.state(), rows.iter())?];
            }
        }
        match guarded(|| Ok(self.evaluate(&rows)?)) {
            Ok(yielded) => closed.push(self.above(&yielded)?),
            // Only a window that fails by itself fails.
            Err(_) if windows.len() > 1 => {
                for window in windows {
                    self.results(vec![window], closed)?;
                }
            }
            Err(failure) => match self.apart(&rows)? {
                windows if windows.len() > 1 => {
                    for window in windows {
                        self.results(vec![vec![vec![window]]], closed)?;
                    }
                }
                _ => closed.push(self.nothing(&rows, failure)),
            },
        }
        Ok(())
    }

    /// The rows of each of several windows that are together.
    fn apart(&self, rows: &[Vec<RecordBatch>]) -> Result<Vec<RecordBatch>> {
        match (self.kept.as_slice(), rows) {
            ([kept], [rows]) => kept.apart(&kept.sums().concat(rows)?),
            _ => Ok(Vec::new()),
        }
    }

    /// What becomes of rows that windows yield, in the order of the windows.
    fn above(&mut self, yielded: &RecordBatch) -> Result<Closed> {
        let Output { batch, origin, rejects, .. } = self.above.process(0, yielded);
        let failed = rejects.into_iter().map(|Reject { row, class, message }| Failed {
            rows: yielded.slice(row, 1),
            class,
            message,
        });
        let failed = failed.collect();
        let results = match &self.plan.place {
            _ if self.plan.is_ordered => batch,
            None => order::by_columns(batch, usize::MAX)?,
            Some(place) => {
                let ends = take(&place.times(yielded)?, &UInt32Array::from(origin), None)?;
                order::by(&[ends], batch, usize::MAX)?
            }
        };
        Ok(Closed { results, failed })
    }

    /// What comes of windows that yield nothing.
    fn nothing(&self, rows: &[Vec<RecordBatch>], Failure { class, message }: Failure) -> Closed {
        let of_leaves = self.plan.leaves.iter().zip(rows).filter(|(_, batches)| !batches.is_empty());
        let shown = |leaf: &Leaf, batches: &[RecordBatch]| leaf.shown(&concat_batches(&leaf.state(), batches)?);
        let kept = of_leaves.map(|(leaf, batches)| shown(leaf, batches)).find_map(Result::ok);
        let rows = kept.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.plan.columns)));
        let results = RecordBatch::new_empty(Arc::clone(&self.plan.schema));
        Closed { results, failed: vec![Failed { rows, class, message }] }
    }

    fn evaluate(&self, rows: &[Vec<RecordBatch>]) -> Result<RecordBatch> {
        let yielded = match self.plan.chooses {
            false => leaf::evaluate(&self.plan.plan, rows)?,
            true => leaf::evaluate(&self.plan.plan, &self.in_order(rows)?)?,
        };
        Ok(concat_batches(&self.plan.columns, &yielded)?)
    }

    /// Partial aggregates in the order of their groups, which otherwise depends on when they were added up.
    fn in_order(&self, rows: &[Vec<RecordBatch>]) -> Result<Vec<Vec<RecordBatch>>> {
        let leaves = self.plan.leaves.iter().zip(&self.kept).zip(rows);
        let ordered = leaves.map(|((leaf, kept), batches)| match &leaf.partial {
            None => Ok(batches.clone()),
            Some(partial) => {
                let batch = kept.sums().of_several(batches.clone())?;
                let groups = partial.aggregate.group_expr().expr().len();
                Ok(vec![order::by_columns(batch, groups)?])
            }
        });
        ordered.collect()
    }

    /// Those rows of a leaf that were not let go of, where there are any.
    fn left(&self, leaf: usize, rows: Vec<RecordBatch>) -> Result<Option<Chunk>> {
        let Some(kept) = self.kept.get(leaf) else { return Ok(None) };
        Ok(kept.left(rows, self.gone())?.map(|rows| Chunk { leaf, rows }))
    }

    /// All that is in open windows.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let leaves = self.kept.iter().enumerate();
        leaves.flat_map(|(leaf, kept)| kept.batches().map(move |rows| Chunk { leaf, rows: rows.clone() }))
    }

    /// When the first window starts that can still yield results, once some have closed.
    pub(crate) fn first_open(&self) -> Nanos {
        self.kept.iter().map(|kept| kept.first_open(self.closed)).min().unwrap_or(self.closed)
    }
}

impl State for Windowed {
    fn keeps(&self) -> &[String] {
        &self.keeps
    }

    fn closed(&self) -> Option<String> {
        Some(self.closed).filter(|closed| *closed > Nanos::MIN).map(|closed| closed.to_string())
    }

    fn fresh(&mut self) -> Result<Vec<Chunk>> {
        let fresh: Vec<Vec<RecordBatch>> = self.fresh.iter_mut().map(std::mem::take).collect();
        let chunks = fresh.into_iter().enumerate().map(|(leaf, rows)| self.left(leaf, rows));
        chunks.filter_map(Result::transpose).collect()
    }

    fn pieces(&self, rows: usize) -> VecDeque<Piece> {
        let pieces = |Chunk { leaf, rows: all }: Chunk| {
            let count = all.num_rows();
            let piece = move |start| Piece::Rows(Chunk { leaf, rows: all.slice(start, rows.min(count - start)) });
            (0..count).step_by(rows).map(piece)
        };
        self.chunks().flat_map(pieces).collect()
    }

    fn still_kept(&self, piece: Piece) -> Result<Option<Chunk>> {
        match piece {
            Piece::Rows(Chunk { leaf, rows }) => self.left(leaf, vec![rows]),
            Piece::Numbers(..) => Ok(None),
        }
    }

    fn restore(&mut self, closed: Option<&str>, chunks: Vec<Chunk>) -> Result<()> {
        self.closed = match closed.map(str::parse) {
            None => Nanos::MIN,
            Some(Ok(closed)) => closed,
            Some(Err(_)) => return exec_err!("the checkpoint does not say when windows closed"),
        };
        for Chunk { leaf, rows } in chunks {
            if let Some(kept) = self.kept.get_mut(leaf) {
                kept.push(rows, (Nanos::MAX, Nanos::MIN), &mut self.touched)?;
            }
        }
        self.release()
    }

    /// The rows of each group added up to one, and sorted by windows.
    fn shown(&mut self) -> Result<Vec<RecordBatch>> {
        let of_leaf = |(number, leaf): (usize, &Leaf)| {
            let rows = self.kept.get(number).map(|kept| kept.batches().cloned().collect()).unwrap_or_default();
            let left = self.left(number, rows)?.map(|chunk| chunk.rows);
            let batch = left.unwrap_or_else(|| RecordBatch::new_empty(leaf.state()));
            let times = leaf.partial.as_ref().map_or(&leaf.place, |partial| &partial.place).times(&batch)?;
            Ok(leaf.shown(&order::by(&[Arc::new(times)], batch, usize::MAX)?)?)
        };
        self.plan.leaves.iter().enumerate().map(of_leaf).collect()
    }

    fn rows(&self) -> usize {
        self.kept.iter().flat_map(|kept| kept.batches()).map(|batch| batch.num_rows()).sum()
    }

    fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.bytes()).sum()
    }
}

/// Results with the columns that say what they are.
fn marked(results: &RecordBatch, also: Also, what: Yield) -> Result<RecordBatch, ArrowError> {
    let mark = |name: &str| {
        let is_so = match name {
            "early" => what == Yield::Early,
            _ => what == Yield::Correction,
        };
        Arc::new(BooleanArray::from(vec![is_so; results.num_rows()])) as ArrayRef
    };
    let columns = results.columns().iter().cloned().chain(also.columns().map(mark)).collect();
    RecordBatch::try_new(also.schema(results.schema_ref()), columns)
}

/// What becomes of rows none of which fails.
struct Taken {
    /// What is kept of them, by leaf.
    kept: Vec<RecordBatch>,
    /// Rows that are late, ascending.
    late: Vec<u32>,
    /// How many rows no leaf has anything of.
    left_out: Vec<u32>,
}

/// The rows that do not come from those.
fn without(rows: Rows, late: &BTreeSet<u32>) -> Result<RecordBatch, ArrowError> {
    if late.is_empty() {
        return Ok(rows.batch);
    }
    let keep: BooleanArray = (0..rows.batch.num_rows()).map(|row| Some(!late.contains(&rows.origin_of(row)))).collect();
    filter_record_batch(&rows.batch, &keep)
}
