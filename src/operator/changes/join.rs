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
use super::store::{Found, Store, hashes};
use crate::bus::Micros;
use crate::codec::time;
use crate::operator::step::{Failure, with_rows};

pub(super) struct Join {
    plan: plan::Join,
    schema: SchemaRef,
    sides: Sides<Store>,
}

impl Join {
    pub(super) fn new(plan: plan::Join, schema: SchemaRef) -> Self {
        let store = |side: &plan::Side| Store::new(side.schema.clone(), side.time);
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
        let of_side = self.plan.sides.of(side);
        let keys = evaluated(&of_side.on, &delta.rows)?;
        let hashes = hashes(&keys, delta.len())?;
        let until = self.until(side, &delta.rows, now)?;
        let (found, pairs) = self.pairs(side, delta, self.sides.of(other).find(&hashes))?;

        let mut given = Vec::new();
        let mut partners = vec![0u32; delta.len()];
        for row in &found.rows {
            if let Some(partners) = partners.get_mut(*row as usize) {
                *partners += 1;
            }
        }
        // How many partners more or fewer each of the others has.
        let mut others: Vec<(u32, i64)> = Vec::new();
        if self.gives_lonely(other) || (self.plan.kind == Kind::Semi && other == 0) {
            others = found
                .places
                .iter()
                .zip(&found.rows)
                .map(|(place, row)| (*place, if delta.is_gone(*row as usize) { -1 } else { 1 }))
                .collect();
            others.sort_unstable();
            others = others
                .chunk_by(|a, b| a.0 == b.0)
                .filter_map(|same| Some((same.first()?.0, same.iter().map(|(_, more)| more).sum())))
                .collect();
        }
        let theirs = self.sides.of(other);
        let after = |place: u32, more: i64| (i64::from(theirs.partners(place)) + more).max(0) as u32;
        if self.plan.kind == Kind::Semi || !self.waits(other) {
            for to_lonely in [false, true] {
                let turned = others.iter().filter(|(place, more)| {
                    let (before, after) = (theirs.partners(*place), after(*place, *more));
                    (before == 0) != (after == 0) && (after == 0) == to_lonely
                });
                let rows = theirs.rows(&turned.map(|(place, _)| *place).collect::<Vec<_>>())?;
                given.push(match self.plan.kind {
                    Kind::Semi => marked(rows, to_lonely),
                    _ => marked(self.alone(other, rows)?, !to_lonely),
                });
            }
        }
        let kept = |row: usize| {
            !delta.is_gone(row) && until.get(row).is_some_and(|until| *until >= now.of(1 - side, self.bounded(side)))
        };
        if self.gives_lonely(side) || (self.plan.kind == Kind::Semi && side == 0) {
            let is_given = |row: &usize| {
                let has_none = partners.get(*row) == Some(&0);
                match self.plan.kind {
                    Kind::Semi => !has_none,
                    // One that waits is given when it leaves.
                    _ => has_none && !(self.waits(side) && kept(*row)),
                }
            };
            let rows: UInt32Array = (0..delta.len()).filter(is_given).map(|row| row as u32).collect();
            let lonely = delta.take(&rows)?;
            given.push(match self.plan.kind {
                Kind::Semi => lonely,
                _ => Delta { rows: self.alone(side, lonely.rows)?, gone: lonely.gone },
            });
        }
        if matches!(self.plan.kind, Kind::Pairs(_)) {
            given.push(pairs);
        }
        let given = given.into_iter().filter(|delta| !delta.is_empty()).map(|delta| self.named(delta));
        let given = Delta::concat(&self.schema, given.collect::<Result<_, _>>()?)?;

        // From here on nothing fails because of its rows.
        let rows: Vec<u32> = (0..delta.len()).filter(|row| kept(*row)).map(|row| row as u32).collect();
        let of = |row: &u32| *row as usize;
        let added = match rows.len() == delta.len() {
            true => delta.rows.clone(),
            false => taken(&delta.rows, &UInt32Array::from(rows.clone()))?,
        };
        let changes: Vec<(u32, u32)> = others.iter().map(|(place, more)| (*place, after(*place, *more))).collect();
        let waits = self.waits(other);
        for (place, partners) in changes {
            // Where it only matters whether there are any, not every one has to be taken down.
            if !waits || self.sides.of(other).partners(place) == 0 {
                self.sides.of_mut(other).set_partners(place, partners);
            }
        }
        self.sides.of_mut(side).insert(
            added,
            &rows.iter().filter_map(|row| hashes.get(of(row)).copied()).collect::<Vec<_>>(),
            &rows.iter().filter_map(|row| until.get(of(row)).copied()).collect::<Vec<_>>(),
            &rows.iter().filter_map(|row| partners.get(of(row)).copied()).collect::<Vec<_>>(),
        )?;
        if delta.gone.is_some() {
            let gone: Vec<u32> = (0..delta.len()).filter(|row| delta.is_gone(*row)).map(|row| row as u32).collect();
            let places = self.sides.of(side).places_of(&delta.rows, &gone, &hashes)?;
            self.sides.of_mut(side).remove(&places)?;
        }
        Ok(given)
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

    /// The same rows under the names that the join gives its columns.
    fn named(&self, delta: Delta) -> Result<Delta, Failure> {
        let rows = with_rows(&self.schema, delta.rows.columns().to_vec(), delta.len())?;
        Ok(Delta { rows, gone: delta.gone })
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
                    let rows = self.alone(side, rows).map_err(|error| DataFusionError::Execution(error.message))?;
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

    /// What gives the hashes by which rows of a side are found.
    pub(super) fn hasher(&self, side: usize) -> impl Fn(&RecordBatch) -> Result<Vec<u64>> + use<> {
        let on = self.plan.sides.of(side).on.clone();
        move |rows| hashes(&evaluated(&on, rows)?, rows.num_rows())
    }
}

fn evaluated(exprs: &[Arc<dyn datafusion::physical_expr::PhysicalExpr>], rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    exprs.iter().map(|expr| expr.evaluate(rows)?.into_array(rows.num_rows())).collect()
}

fn marked(rows: RecordBatch, gone: bool) -> Delta {
    let gone = gone.then(|| BooleanArray::from(vec![true; rows.num_rows()]));
    Delta { rows, gone }
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
