//! Rows that are kept, found by the hash of their key: record batches, and an index over them.
//!
//! A row has a place, which changes when what is no more is swept out, and a number, which never does. Numbers ascend with
//! places. What is said of the rows to a checkpoint leans on numbers alone.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array, UInt64Array};
use arrow::compute::{concat_batches, filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use hashbrown::HashTable;

use super::delta::taken;
use crate::bus::Micros;
use crate::codec::arrow::size_bytes;
use crate::codec::time;

/// No place.
const NONE: u32 = u32::MAX;
/// Rows of a batch that is not put together with others any more.
const FULL: usize = 1 << 17;
/// Bytes of such a batch.
const FULL_BYTES: usize = 256 << 20;
/// Rows that are no more, and that are not worth to be swept out.
const FEW: usize = 1 << 12;
/// Bytes of such rows.
const FEW_BYTES: usize = 16 << 20;
/// What rows are hashed with, for this process only.
const HASHER: RandomState = RandomState::with_seed(0x00F1_DE11);

/// The columns that are added to what is said of rows to a checkpoint.
const NUMBER: &str = "number";
const UNTIL: &str = "until";
const PARTNERS: &str = "partners";

/// What is said of the rows of a store to a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Rows that are kept.
    Kept,
    /// Numbers of rows that are kept no longer.
    Removed,
    /// Numbers of rows, and how many partners they have now.
    Partners,
}

impl Said {
    pub(super) const ALL: [Self; 3] = [Self::Kept, Self::Removed, Self::Partners];
}

/// Rows by the hash of their key.
pub(super) struct Store {
    schema: SchemaRef,
    /// What makes up the key of a row.
    key: Vec<Arc<dyn PhysicalExpr>>,
    time: Option<usize>,
    batches: Vec<Batch>,
    /// Of each place the hash of its row's key, its number, the place before it of the same hash, until when in event time it is
    /// kept, how many partners it has, and whether it is still there.
    hashes: Vec<u64>,
    numbers: Vec<u64>,
    before: Vec<u32>,
    until: Vec<Micros>,
    partners: Vec<u32>,
    is_there: Vec<bool>,
    /// The last place of each hash.
    last: HashTable<u32>,
    rows: usize,
    next: u64,
    /// Rows with lower numbers are in a checkpoint, or go with the next one.
    told: u64,
    removed: Vec<u64>,
    changed: Vec<u64>,
}

/// Rows in consecutive places.
struct Batch {
    first: usize,
    rows: RecordBatch,
    /// How many of them are still there.
    there: usize,
    /// The earliest that one of them is not kept any more.
    until: Micros,
    /// The event time of the oldest.
    oldest: Micros,
    bytes: usize,
}

impl Batch {
    /// About how many bytes the rows take that are still there.
    fn bytes_there(&self) -> usize {
        self.bytes / self.rows.num_rows().max(1) * self.there
    }
}

/// Pairs of a row that was looked for and a place.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Vec<u32>,
    pub(super) places: Vec<u32>,
}

impl Found {
    /// The pairs for which that holds.
    pub(super) fn only(&self, which: &BooleanArray) -> Self {
        let chosen = |numbers: &[u32]| which.values().set_indices().filter_map(|it| numbers.get(it).copied()).collect();
        Self { rows: chosen(&self.rows), places: chosen(&self.places) }
    }
}

impl Store {
    /// No rows, with these columns, of which some are the key, and that one has the event time.
    pub(super) fn by_columns(schema: SchemaRef, key: &[usize], time: Option<usize>) -> Self {
        let column = |column: &usize| {
            let name = schema.fields().get(*column).map(|field| field.name().as_str()).unwrap_or_default();
            Arc::new(Column::new(name, *column)) as Arc<dyn PhysicalExpr>
        };
        let key = key.iter().map(column).collect();
        Self::new(schema, key, time)
    }

    /// The same, of which these make up the key.
    pub(super) fn new(schema: SchemaRef, key: Vec<Arc<dyn PhysicalExpr>>, time: Option<usize>) -> Self {
        Self {
            schema,
            key,
            time,
            batches: Vec::new(),
            hashes: Vec::new(),
            numbers: Vec::new(),
            before: Vec::new(),
            until: Vec::new(),
            partners: Vec::new(),
            is_there: Vec::new(),
            last: HashTable::new(),
            rows: 0,
            next: 0,
            told: 0,
            removed: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// The hashes of the keys of rows.
    pub(super) fn hashes(&self, rows: &RecordBatch) -> Result<Vec<u64>> {
        let columns = self.key.iter().map(|part| part.evaluate(rows)?.into_array(rows.num_rows()));
        let mut hashes = vec![0; rows.num_rows()];
        create_hashes(columns.collect::<Result<Vec<_>>>()?, &HASHER, &mut hashes)?;
        Ok(hashes)
    }

    /// Adds rows, whose keys have these hashes, to be kept until then, and with so many partners.
    pub(super) fn insert(
        &mut self,
        rows: RecordBatch,
        hashes: &[u64],
        until: &[Micros],
        partners: &[u32],
    ) -> Result<()> {
        let numbers = self.next..self.next + rows.num_rows() as u64;
        self.next = numbers.end;
        self.put(rows, numbers, hashes, until, partners);
        self.tidy()
    }

    fn put(
        &mut self,
        rows: RecordBatch,
        numbers: impl IntoIterator<Item = u64>,
        hashes: &[u64],
        until: &[Micros],
        partners: &[u32],
    ) {
        let count = rows.num_rows();
        if count == 0 {
            return;
        }
        let first = self.hashes.len();
        self.hashes.extend_from_slice(hashes);
        self.numbers.extend(numbers);
        self.until.extend_from_slice(until);
        self.partners.extend_from_slice(partners);
        self.is_there.resize(first + count, true);
        self.before.resize(first + count, NONE);
        for place in first..first + count {
            self.link(place);
        }
        self.rows += count;
        let earliest = until.iter().copied().min().unwrap_or(Micros::MAX);
        let bytes = size_bytes(&rows);
        let times = self.time.and_then(|time| rows.columns().get(time)).and_then(time::least_micros);
        let oldest = times.unwrap_or(Micros::MAX);
        self.batches.push(Batch { first, rows, there: count, until: earliest, oldest, bytes });
    }

    /// Lets a place be found by its hash.
    fn link(&mut self, place: usize) {
        let Some(hash) = self.hashes.get(place).copied() else { return };
        let hashes = &self.hashes;
        let of = |place: &u32| hashes.get(*place as usize).copied().unwrap_or_default();
        let entry = self.last.entry(hash, |it| of(it) == hash, of);
        match entry {
            hashbrown::hash_table::Entry::Occupied(mut entry) => {
                let before = std::mem::replace(entry.get_mut(), place as u32);
                if let Some(slot) = self.before.get_mut(place) {
                    *slot = before;
                }
            }
            hashbrown::hash_table::Entry::Vacant(entry) => drop(entry.insert(place as u32)),
        }
    }

    /// The places with these hashes, for each of them. Whether the keys are the same has still to be seen.
    pub(super) fn find(&self, hashes: &[u64]) -> Found {
        let mut found = Found::default();
        for (row, hash) in (0..).zip(hashes) {
            let is_it = |place: &u32| self.hashes.get(*place as usize) == Some(hash);
            let mut next = self.last.find(*hash, is_it).copied().unwrap_or(NONE);
            while let (Some(is_there), Some(before)) =
                (self.is_there.get(next as usize), self.before.get(next as usize))
            {
                if *is_there {
                    found.rows.push(row);
                    found.places.push(next);
                }
                next = *before;
            }
        }
        found
    }

    /// The rows in these places.
    pub(super) fn rows(&self, places: &[u32]) -> Result<RecordBatch, ArrowError> {
        if let [batch] = self.batches.as_slice() {
            return taken(&batch.rows, &UInt32Array::from(places.to_vec()));
        }
        if places.is_empty() || self.schema.fields().is_empty() {
            let none = RecordBatch::new_empty(self.schema.clone());
            return taken(&none, &UInt32Array::from(places.to_vec()));
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().map(|batch| &batch.rows).collect();
        let place = |place: &u32| {
            let place = *place as usize;
            let batch = self.batches.partition_point(|batch| batch.first <= place).saturating_sub(1);
            (batch, place - self.batches.get(batch).map_or(0, |batch| batch.first))
        };
        interleave_record_batch(&batches, &places.iter().map(place).collect::<Vec<_>>())
    }

    /// Until when the row in a place is kept.
    pub(super) fn until(&self, place: u32) -> Micros {
        self.until.get(place as usize).copied().unwrap_or(Micros::MAX)
    }

    /// How many partners the row in a place has.
    pub(super) fn partners(&self, place: u32) -> u32 {
        self.partners.get(place as usize).copied().unwrap_or_default()
    }

    /// Takes down how many partners the row in a place has.
    pub(super) fn set_partners(&mut self, place: u32, partners: u32) {
        let Some(slot) = self.partners.get_mut(place as usize) else { return };
        if *slot != partners {
            *slot = partners;
            self.changed.extend(self.numbers.get(place as usize).filter(|number| **number < self.told));
        }
    }

    /// Lets go of the rows in these places.
    pub(super) fn remove(&mut self, places: &[u32]) -> Result<()> {
        for place in places {
            let index = *place as usize;
            let (Some(is_there), Some(number)) = (self.is_there.get_mut(index), self.numbers.get(index)) else {
                continue;
            };
            if !std::mem::take(is_there) {
                continue;
            }
            self.rows -= 1;
            if *number < self.told {
                self.removed.push(*number);
            }
            let batch = self.batches.partition_point(|batch| batch.first <= index).saturating_sub(1);
            if let Some(batch) = self.batches.get_mut(batch) {
                batch.there -= 1;
            }
        }
        self.tidy()
    }

    /// The places of rows that are kept no longer.
    pub(super) fn over(&mut self, now: Micros) -> Vec<u32> {
        let mut over = Vec::new();
        for batch in &mut self.batches {
            if batch.until >= now || batch.there == 0 {
                continue;
            }
            let mut earliest = Micros::MAX;
            for place in batch.first..batch.first + batch.rows.num_rows() {
                if self.is_there.get(place) != Some(&true) {
                    continue;
                }
                match self.until.get(place) {
                    Some(until) if *until < now => over.push(place as u32),
                    Some(until) => earliest = earliest.min(*until),
                    None => {}
                }
            }
            batch.until = earliest;
        }
        over
    }

    /// Puts small batches together, and sweeps out what is no more once that is more than what is there.
    fn tidy(&mut self) -> Result<()> {
        let of_batches = self.batches.iter().map(|batch| batch.bytes).sum::<usize>();
        let of_rows = self.batches.iter().map(Batch::bytes_there).sum::<usize>();
        if self.hashes.len() - self.rows > self.rows + FEW || of_batches > 2 * of_rows + FEW_BYTES {
            return self.sweep();
        }
        let (mut rows, mut bytes) = (0, 0);
        let mut from = self.batches.len();
        while let Some(batch) = from.checked_sub(1).and_then(|index| self.batches.get(index)) {
            let more = batch.rows.num_rows();
            if more > FULL || bytes + batch.bytes > FULL_BYTES || (rows > 0 && more > 2 * rows) {
                break;
            }
            (rows, bytes) = (rows + more, bytes + batch.bytes);
            from -= 1;
        }
        if self.batches.len() - from < MERGED {
            return Ok(());
        }
        let merged = self.batches.split_off(from);
        let Some(first) = merged.first().map(|batch| batch.first) else { return Ok(()) };
        let rows = concat_batches(&self.schema, merged.iter().map(|batch| &batch.rows))?;
        let bytes = size_bytes(&rows);
        self.batches.push(Batch {
            first,
            rows,
            there: merged.iter().map(|batch| batch.there).sum(),
            until: merged.iter().map(|batch| batch.until).min().unwrap_or(Micros::MAX),
            oldest: merged.iter().map(|batch| batch.oldest).min().unwrap_or(Micros::MAX),
            bytes,
        });
        Ok(())
    }

    /// Leaves out what is no more.
    fn sweep(&mut self) -> Result<()> {
        let mut swept = Self::new(self.schema.clone(), self.key.clone(), self.time);
        for Batch { first, rows, there, .. } in std::mem::take(&mut self.batches) {
            let places = first..first + rows.num_rows();
            let is_there = self.is_there.get(places.clone()).unwrap_or_default();
            if there == 0 {
                continue;
            }
            let rows = filter_record_batch(&rows, &BooleanArray::from(is_there.to_vec()))?;
            let left: Vec<usize> = places.filter(|place| self.is_there.get(*place) == Some(&true)).collect();
            swept.put(
                rows,
                of(&self.numbers, &left),
                &of(&self.hashes, &left),
                &of(&self.until, &left),
                &of(&self.partners, &left),
            );
        }
        let Self { next, told, .. } = *self;
        let (removed, changed) = (std::mem::take(&mut self.removed), std::mem::take(&mut self.changed));
        *self = Self { next, told, removed, changed, ..swept };
        Ok(())
    }

    /// A time before which no event of a row happened.
    pub(super) fn oldest(&self) -> Micros {
        let there = self.batches.iter().filter(|batch| batch.there > 0);
        there.map(|batch| batch.oldest).min().unwrap_or(Micros::MAX)
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let a_row = 2 * size_of::<u64>() + size_of::<Micros>() + 2 * size_of::<u32>() + size_of::<bool>();
        let index = self.last.capacity() * (size_of::<u32>() + 1);
        self.batches.iter().map(|batch| batch.bytes).sum::<usize>() + self.hashes.capacity() * a_row + index
    }

    /// What has come since this was last asked for, and what is no more of what had come before.
    pub(super) fn fresh(&mut self) -> Result<Vec<(Said, RecordBatch)>> {
        let mut fresh = Vec::new();
        if let Some(kept) = self.kept(self.told..self.next)? {
            fresh.push((Said::Kept, kept));
        }
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        let places: Vec<usize> = changed.iter().filter_map(|number| self.place(*number)).collect();
        if !places.is_empty() {
            let numbers = Arc::new(UInt64Array::from(of(&self.numbers, &places))) as ArrayRef;
            let partners = Arc::new(UInt32Array::from(of(&self.partners, &places))) as ArrayRef;
            let columns = [(NUMBER, numbers), (PARTNERS, partners)];
            fresh.push((Said::Partners, RecordBatch::try_from_iter(columns)?));
        }
        let removed = std::mem::take(&mut self.removed);
        if !removed.is_empty() {
            let numbers = Arc::new(UInt64Array::from(removed)) as ArrayRef;
            fresh.push((Said::Removed, RecordBatch::try_from_iter([(NUMBER, numbers)])?));
        }
        self.told = self.next;
        Ok(fresh)
    }

    /// The place of the row of that number, if it is there.
    fn place(&self, number: u64) -> Option<usize> {
        let place = self.numbers.binary_search(&number).ok()?;
        (self.is_there.get(place) == Some(&true)).then_some(place)
    }

    /// The numbers that there are, in stretches of so many.
    pub(super) fn stretches(&self, rows: usize) -> Vec<Range<u64>> {
        let bound = |place: usize| self.numbers.get(place).copied().unwrap_or(self.next);
        (0..self.numbers.len()).step_by(rows.max(1)).map(|place| bound(place)..bound(place + rows)).collect()
    }

    /// The rows with these numbers that are there, as they are said to a checkpoint.
    pub(super) fn kept(&self, numbers: Range<u64>) -> Result<Option<RecordBatch>> {
        let from = self.numbers.partition_point(|number| *number < numbers.start);
        let to = self.numbers.partition_point(|number| *number < numbers.end);
        let places: Vec<usize> = (from..to).filter(|place| self.is_there.get(*place) == Some(&true)).collect();
        if places.is_empty() {
            return Ok(None);
        }
        let at: Vec<u32> = places.iter().map(|place| *place as u32).collect();
        let rows = self.rows(&at)?;
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(UInt64Array::from(of(&self.numbers, &places))));
        columns.push(Arc::new(Int64Array::from(of(&self.until, &places))));
        columns.push(Arc::new(UInt32Array::from(of(&self.partners, &places))));
        Ok(Some(RecordBatch::try_new(with_more(&self.schema), columns)?))
    }

    /// All rows that are there.
    pub(super) fn all(&self) -> Result<RecordBatch, ArrowError> {
        let places = (0..self.is_there.len()).filter(|place| self.is_there.get(*place) == Some(&true));
        self.rows(&places.map(|place| place as u32).collect::<Vec<_>>())
    }

    /// Takes back what was said of the rows to a checkpoint, in the order in which it was.
    pub(super) fn restore(&mut self, said: Vec<(Said, RecordBatch)>) -> Result<()> {
        let width = self.schema.fields().len();
        let (mut batches, mut since) = (Vec::new(), Vec::new());
        let (mut removed, mut partners) = (Vec::new(), Vec::new());
        for (order, (said, rows)) in said.into_iter().enumerate() {
            match said {
                Said::Kept => {
                    since.resize(since.len() + rows.num_rows(), order);
                    batches.push(rows);
                }
                Said::Removed => removed.extend(numbers_of(&rows, 0)),
                Said::Partners => partners.push((order, rows)),
            }
        }
        let all = concat_batches(&with_more(&self.schema), &batches)?;
        drop(batches);
        removed.sort_unstable();
        let numbers: Vec<u64> = numbers_of(&all, width).collect();
        let mut order: Vec<u32> = (0..)
            .zip(&numbers)
            .filter(|(_, number)| removed.binary_search(number).is_err())
            .map(|(row, _)| row)
            .collect();
        order.sort_by_key(|row| numbers.get(*row as usize));
        let since: Vec<usize> = order.iter().filter_map(|row| since.get(*row as usize).copied()).collect();
        let all = taken(&all, &UInt32Array::from(order))?;
        let rows = all.project(&(0..width).collect::<Vec<_>>())?;
        // Columns under the names that the plan has for them.
        let rows = RecordBatch::try_new(self.schema.clone(), rows.columns().to_vec())?;
        let until: Vec<Micros> = column::<Int64Type>(&all, width + 1);
        let of_partners: Vec<u32> = column::<UInt32Type>(&all, width + 2);
        let hashes = self.hashes(&rows)?;
        let numbers: Vec<u64> = numbers_of(&all, width).collect();
        self.next = numbers.last().map_or(0, |last| last + 1).max(removed.last().map_or(0, |last| last + 1));
        for start in (0..rows.num_rows()).step_by(FULL) {
            let end = rows.num_rows().min(start + FULL);
            let piece = |range: Range<usize>| range.start..range.end;
            self.put(
                rows.slice(start, end - start),
                numbers.get(piece(start..end)).unwrap_or_default().iter().copied(),
                hashes.get(piece(start..end)).unwrap_or_default(),
                until.get(piece(start..end)).unwrap_or_default(),
                of_partners.get(piece(start..end)).unwrap_or_default(),
            );
        }
        for (order, said) in partners {
            let counts: Vec<u32> = column::<UInt32Type>(&said, 1);
            for (number, count) in numbers_of(&said, 0).zip(counts) {
                // What came behind it says what it was then.
                if let Some(place) = self.place(number).filter(|place| since.get(*place) < Some(&order)) {
                    self.set_partners(place as u32, count);
                }
            }
        }
        self.told = self.next;
        self.changed.clear();
        Ok(())
    }
}

/// How many small batches wait until they are put together.
const MERGED: usize = 32;

fn of<T: Copy>(values: &[T], places: &[usize]) -> Vec<T> {
    places.iter().filter_map(|place| values.get(*place).copied()).collect()
}

fn column<T: arrow::datatypes::ArrowPrimitiveType>(rows: &RecordBatch, column: usize) -> Vec<T::Native> {
    let values = rows.columns().get(column).and_then(|column| column.as_primitive_opt::<T>());
    values.map(|values| values.values().to_vec()).unwrap_or_default()
}

fn numbers_of(rows: &RecordBatch, column_number: usize) -> impl Iterator<Item = u64> + use<> {
    column::<UInt64Type>(rows, column_number).into_iter()
}

/// The columns with what is known of each row.
fn with_more(schema: &Schema) -> SchemaRef {
    let more = [
        Field::new(NUMBER, DataType::UInt64, false),
        Field::new(UNTIL, DataType::Int64, false),
        Field::new(PARTNERS, DataType::UInt32, false),
    ];
    Arc::new(Schema::new(schema.fields().iter().cloned().chain(more.into_iter().map(Arc::new)).collect::<Vec<_>>()))
}
