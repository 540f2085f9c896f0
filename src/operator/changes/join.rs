//! Rows of two sides that fit each other. Each side is kept, and what changes on one is put together with what there is of the
//! other.
//!
//! A row that has no partner leaves a join of rows that are never taken away, and whose partners have a bound in event time, when
//! that has passed; any other join gives it at once, and takes it away again when a partner comes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{and, filter_record_batch, is_not_null, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, Result};

use super::Now;
use super::delta::{Delta, same, same_in, taken};
use super::plan::{self, Kind, Sides};
use super::store::{Found, Store};
use crate::bus::Micros;
use crate::codec::time;
use crate::operator::step::{Failure, with_rows};

/// How many partners the row in a place had, and has.
struct Turn {
    place: u32,
    before: u32,
    after: u32,
}

pub(super) struct Join {
    plan: plan::Join,
    schema: SchemaRef,
    sides: Sides<Store>,
}

impl Join {
    pub(super) fn new(plan: plan::Join, schema: SchemaRef) -> Self {
        let store = |side: &plan::Side| Store::new(side.schema.clone(), side.on.clone(), side.time);
        let sides = Sides(store(&plan.sides.0), store(&plan.sides.1));
        Self { plan, schema, sides }
    }

    /// Whether rows of that side that have no partner are given, at all.
    fn gives_lonely(&self, side: usize) -> bool {
        match self.plan.kind {
            Kind::Pairs(lonely) => *lonely.of(side),
            Kind::Semi => false,
            Kind::Anti => side == 0,
        }
    }

    /// Whether a row of that side leaves only when no partner can come any more, so that it is never taken away.
    fn waits(&self, side: usize) -> bool {
        self.bounded(side) && self.plan.sides.iter().all(|side| !side.changes)
    }

    /// What follows from what changes on one side.
    pub(super) fn push(&mut self, side: usize, delta: &Delta, now: &Now) -> Result<Delta, Failure> {
        let other = 1 - side;
        let hashes = self.sides.of(side).hashes(&delta.rows)?;
        let until = self.until(side, &delta.rows, now)?;
        let (found, pairs) = self.pairs(side, delta, self.sides.of(other).find(&hashes))?;
        let mut partners = vec![0u32; delta.len()];
        for row in &found.rows {
            if let Some(partners) = partners.get_mut(*row as usize) {
                *partners += 1;
            }
        }
        let waited_for = now.of(other, self.bounded(side));
        let is_kept = |row: &u32| {
            !delta.is_gone(*row as usize) && until.get(*row as usize).is_some_and(|until| *until >= waited_for)
        };
        let kept: Vec<u32> = (0..delta.len() as u32).filter(is_kept).collect();
        let turns = self.turns(other, delta, &found);
        let mut given = self.turned(other, &turns)?;
        given.push(self.of_itself(side, delta, &partners, &kept)?);
        if matches!(self.plan.kind, Kind::Pairs(_)) {
            given.push(pairs);
        }
        let given = given.into_iter().filter(|delta| !delta.is_empty()).map(|delta| delta.named(&self.schema));
        let given = Delta::concat(&self.schema, given.collect::<Result<_, _>>()?)?;

        // From here on nothing fails because of its rows.
        self.take_down(other, &turns);
        let added = match kept.len() == delta.len() {
            true => delta.rows.clone(),
            false => taken(&delta.rows, &UInt32Array::from(kept.clone()))?,
        };
        self.sides.of_mut(side).insert(added, &of(&hashes, &kept), &of(&until, &kept), &of(&partners, &kept))?;
        if delta.gone.is_some() {
            let gone: Vec<u32> = (0..delta.len() as u32).filter(|row| delta.is_gone(*row as usize)).collect();
            let places = self.sides.of(side).places_of(&delta.rows, &gone, &hashes)?;
            self.sides.of_mut(side).remove(&places)?;
        }
        Ok(given)
    }

    /// The rows of the other side that have more partners now, or fewer, where that matters.
    fn turns(&self, other: usize, delta: &Delta, found: &Found) -> Vec<Turn> {
        if !self.gives_lonely(other) && (self.plan.kind != Kind::Semi || other != 0) {
            return Vec::new();
        }
        let more = |row: &u32| if delta.is_gone(*row as usize) { -1i64 } else { 1 };
        let mut each: Vec<(u32, i64)> = found.places.iter().copied().zip(found.rows.iter().map(more)).collect();
        each.sort_unstable();
        let turn = |same: &[(u32, i64)]| {
            let place = same.first()?.0;
            let before = self.sides.of(other).partners(place);
            let after = i64::from(before) + same.iter().map(|(_, more)| more).sum::<i64>();
            Some(Turn { place, before, after: after.max(0) as u32 })
        };
        each.chunk_by(|a, b| a.0 == b.0).filter_map(turn).collect()
    }

    /// What comes of rows of the other side that have got their first partner, or have lost their last one.
    fn turned(&self, other: usize, turns: &[Turn]) -> Result<Vec<Delta>, Failure> {
        if self.plan.kind != Kind::Semi && self.waits(other) {
            return Ok(Vec::new());
        }
        let turned = |to_lonely: bool| -> Result<Delta, Failure> {
            let turned =
                turns.iter().filter(|turn| (turn.before == 0) != (turn.after == 0) && (turn.after == 0) == to_lonely);
            let rows = self.sides.of(other).rows(&turned.map(|turn| turn.place).collect::<Vec<_>>())?;
            Ok(match self.plan.kind {
                Kind::Semi => marked(rows, to_lonely),
                _ => marked(self.alone(other, rows)?, !to_lonely),
            })
        };
        Ok(vec![turned(false)?, turned(true)?])
    }

    /// What comes of rows by themselves: of those that have no partner, or of those that have one.
    fn of_itself(&self, side: usize, delta: &Delta, partners: &[u32], kept: &[u32]) -> Result<Delta, Failure> {
        let is_semi = self.plan.kind == Kind::Semi && side == 0;
        if !self.gives_lonely(side) && !is_semi {
            return Ok(Delta::none(&self.schema));
        }
        // One that waits is given when it leaves.
        let waits = |row: &u32| self.waits(side) && kept.binary_search(row).is_ok();
        let is_given = |row: &u32| match partners.get(*row as usize) {
            Some(0) => !is_semi && !waits(row),
            _ => is_semi,
        };
        let given = delta.take(&(0..delta.len() as u32).filter(is_given).collect::<Vec<u32>>().into())?;
        Ok(Delta { rows: self.alone(side, given.rows)?, gone: given.gone })
    }

    /// Takes down how many partners rows of the other side have.
    fn take_down(&mut self, other: usize, turns: &[Turn]) {
        // Where it only matters whether there are any, not every one has to be.
        let waits = self.waits(other);
        for Turn { place, after, .. } in turns.iter().filter(|turn| !waits || turn.before == 0) {
            self.sides.of_mut(other).set_partners(*place, *after);
        }
    }

    /// The pairs of rows that fit each other.
    fn pairs(&self, side: usize, delta: &Delta, found: Found) -> Result<(Found, Delta), Failure> {
        if found.rows.is_empty() {
            return Ok((found, Delta::none(&self.schema)));
        }
        let mine = taken(&delta.rows, &UInt32Array::from(found.rows.clone()))?;
        let theirs = self.sides.of(1 - side).rows(&found.places)?;
        let (left, right) = if side == 0 { (&mine, &theirs) } else { (&theirs, &mine) };
        let mut fits: Option<BooleanArray> = None;
        for (left_on, right_on) in self.plan.sides.0.on.iter().zip(&self.plan.sides.1.on) {
            let [left, right] = [(left_on, left), (right_on, right)]
                .map(|(on, rows)| on.evaluate(rows).and_then(|value| value.into_array(rows.num_rows())));
            let (left, right) = (left?, right?);
            let is_same = match self.plan.null_equals_null || left.data_type().is_nested() {
                true => same(&left, &right)?,
                false => eq(&left, &right)?,
            };
            let is_same = match self.plan.null_equals_null {
                true => is_same,
                false => and(&is_same, &is_not_null(&left)?)?,
            };
            fits = Some(match fits {
                Some(fits) => and(&fits, &is_same)?,
                None => is_same,
            });
        }
        let columns: Vec<ArrayRef> = left.columns().iter().chain(right.columns()).cloned().collect();
        let both = with_rows(&self.both(), columns, mine.num_rows())?;
        if let Some(filter) = &self.plan.filter {
            let holds = filter.evaluate(&both)?.into_array(both.num_rows())?;
            let Some(holds) = holds.as_boolean_opt() else {
                return Err(DataFusionError::Execution("the condition is neither true nor false".into()).into());
            };
            fits = Some(match fits {
                Some(fits) => and(&fits, holds)?,
                None => holds.clone(),
            });
        }
        let Some(fits) = fits
            .map(|fits| if fits.null_count() > 0 { prep_null_mask_filter(&fits) } else { fits })
            .filter(|fits| fits.true_count() < fits.len())
        else {
            let pairs = delta.from(both, &found.rows);
            return Ok((found, pairs));
        };
        let (found, both) = (found.only(&fits), filter_record_batch(&both, &fits)?);
        let pairs = delta.from(both, &found.rows);
        Ok((found, pairs))
    }

    /// The columns of both sides.
    fn both(&self) -> SchemaRef {
        let fields = self.plan.sides.iter().flat_map(|side| side.schema.fields().iter().cloned());
        Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Rows of a side as the join gives those that have no partner.
    fn alone(&self, side: usize, rows: RecordBatch) -> Result<RecordBatch, Failure> {
        if !matches!(self.plan.kind, Kind::Pairs(_)) {
            return Ok(rows);
        }
        let nulls = self.plan.sides.of(1 - side).schema.fields().iter();
        let nulls = nulls.map(|field| new_null_array(field.data_type(), rows.num_rows()));
        let columns = match side {
            0 => rows.columns().iter().cloned().chain(nulls).collect(),
            _ => nulls.chain(rows.columns().iter().cloned()).collect(),
        };
        Ok(with_rows(&self.schema, columns, rows.num_rows())?)
    }

    fn bounded(&self, side: usize) -> bool {
        self.plan.sides.of(side).until.is_some()
    }

    /// Until when rows of a side are kept.
    fn until(&self, side: usize, rows: &RecordBatch, now: &Now) -> Result<Vec<Micros>, Failure> {
        let of_side = self.plan.sides.of(side);
        match &of_side.until {
            Some(until) => Ok(time::all_micros(&until.evaluate(rows)?.into_array(rows.num_rows())?)),
            None => Ok(now.until(of_side.time, rows)),
        }
    }

    /// What follows from the time that has passed.
    pub(super) fn advance(&mut self, now: &Now, late: &mut Sides<Micros>) -> Result<Delta> {
        let mut given = Vec::new();
        for side in [0, 1] {
            let bounded = self.bounded(side);
            let over = self.sides.of_mut(side).over(now.of(1 - side, bounded));
            if over.is_empty() {
                continue;
            }
            if self.waits(side) {
                let latest = over.iter().map(|place| self.sides.of(side).until(*place)).max().unwrap_or(Micros::MIN);
                let late = late.of_mut(1 - side);
                *late = (*late).max(latest.saturating_add(1));
                let lonely: Vec<u32> =
                    over.iter().copied().filter(|place| self.sides.of(side).partners(*place) == 0).collect();
                if self.gives_lonely(side) && !lonely.is_empty() {
                    let rows = self.sides.of(side).rows(&lonely)?;
                    let rows = self.alone(side, rows)?;
                    given.push(Delta::added(rows.with_schema(self.schema.clone())?));
                }
            }
            self.sides.of_mut(side).remove(&over)?;
        }
        Ok(Delta::concat(&self.schema, given)?)
    }

    /// A time before which no event of a row happened that is still kept.
    pub(super) fn oldest(&self) -> Micros {
        self.sides.iter().map(Store::oldest).min().unwrap_or(Micros::MAX)
    }

    pub(super) fn stores(&self) -> &Sides<Store> {
        &self.sides
    }

    pub(super) fn stores_mut(&mut self) -> &mut Sides<Store> {
        &mut self.sides
    }
}

fn of<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
    rows.iter().filter_map(|row| values.get(*row as usize).copied()).collect()
}

fn marked(rows: RecordBatch, gone: bool) -> Delta {
    if gone { Delta::removed(rows) } else { Delta::added(rows) }
}

impl Store {
    /// For each of these rows the place of one that is the same, as far as there are such.
    pub(super) fn places_of(&self, rows: &RecordBatch, wanted: &[u32], hashes: &[u64]) -> Result<Vec<u32>> {
        let of_wanted: Vec<u64> = wanted.iter().filter_map(|row| hashes.get(*row as usize).copied()).collect();
        let found = self.find(&of_wanted);
        let numbers: UInt32Array = found.rows.iter().filter_map(|row| wanted.get(*row as usize).copied()).collect();
        let (mine, theirs) = (taken(rows, &numbers)?, self.rows(&found.places)?);
        let found = found.only(&same_in(mine.columns(), theirs.columns(), mine.num_rows())?);
        let mut taken = std::collections::HashSet::new();
        let mut last = None;
        let mut places = Vec::new();
        for (row, place) in found.rows.iter().zip(&found.places) {
            if last != Some(*row) && taken.insert(*place) {
                last = Some(*row);
                places.push(*place);
            }
        }
        Ok(places)
    }
}
