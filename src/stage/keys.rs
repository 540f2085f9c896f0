//! Keys of rows, and the partitions they lead to: Kafka's own partitioner, so that other clients agree.
//!
//! The key of a row is the text of its key column, as in CSV; of several columns, a JSON array of their texts. A null in a
//! single key column is a key of no bytes.

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use crate::codec::text::Values;
use crate::partition::partition;

/// The keys of a batch's rows.
pub(super) struct Keys<'a> {
    columns: Vec<Values<'a>>,
    key: Vec<u8>,
}

impl<'a> Keys<'a> {
    /// The keys that the columns of those numbers make.
    pub fn new(batch: &'a RecordBatch, key: &[usize]) -> Result<Self, ArrowError> {
        let fields = batch.schema_ref().fields();
        let columns = key.iter().filter_map(|index| fields.get(*index).zip(batch.columns().get(*index)));
        let columns = columns.map(|(field, array)| Values::new(field, array)).collect::<Result<_, _>>()?;
        Ok(Self { columns, key: Vec::new() })
    }

    /// Whether the row has no key: its only key column is null.
    pub fn is_null(&self, row: usize) -> bool {
        matches!(self.columns.as_slice(), [values] if values.is_null(row))
    }

    /// The key of one row.
    pub fn key(&mut self, row: usize) -> Result<&[u8], ArrowError> {
        self.key.clear();
        match self.columns.as_mut_slice() {
            [values] if values.is_null(row) => {}
            [values] => values.push(row, &mut self.key),
            several => {
                let mut text = |values: &mut Values<'_>| {
                    let mut text = Vec::new();
                    (!values.is_null(row)).then(|| values.push(row, &mut text))?;
                    Some(String::from_utf8_lossy(&text).into_owned())
                };
                let texts: Vec<Option<String>> = several.iter_mut().map(&mut text).collect();
                let written = serde_json::to_writer(&mut self.key, &texts);
                written.map_err(|error| ArrowError::JsonError(error.to_string()))?;
            }
        }
        Ok(&self.key)
    }
}

/// The rows of a batch that go to one partition, with their numbers in the batch where they are not all of it.
pub(super) type Part = (u32, Option<UInt32Array>, RecordBatch);

/// The rows of a batch by the partition that their key leads to, in order of partitions, rows in their order; without a
/// key, all of them in the partition of number `home`, or what that is where there are fewer. Partitions without rows are
/// left out.
pub(super) fn split(batch: &RecordBatch, key: &[usize], partitions: u32, home: u32) -> Result<Vec<Part>, ArrowError> {
    if key.is_empty() || partitions <= 1 {
        return Ok(vec![(home.checked_rem(partitions).unwrap_or(0), None, batch.clone())]);
    }
    let mut keys = Keys::new(batch, key)?;
    split_by(batch, partitions, |row| Ok(partition(keys.key(row)?, partitions)))
}

/// The same, but for rows without a key, or whose only key column is null: they go to all partitions in turn, the first row
/// of the batch having that turn.
pub(super) fn spread(batch: &RecordBatch, key: &[usize], partitions: u32, turn: u64) -> Result<Vec<Part>, ArrowError> {
    let mut keys = Keys::new(batch, key)?;
    split_by(batch, partitions, |row| match key.is_empty() || keys.is_null(row) {
        true => Ok(turn.wrapping_add(row as u64).checked_rem(partitions.into()).unwrap_or(0) as u32),
        false => Ok(partition(keys.key(row)?, partitions)),
    })
}

fn split_by(
    batch: &RecordBatch,
    partitions: u32,
    mut target: impl FnMut(usize) -> Result<u32, ArrowError>,
) -> Result<Vec<Part>, ArrowError> {
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); partitions as usize];
    for row in 0..batch.num_rows() {
        let target = target(row)?;
        if let Some(rows) = rows.get_mut(target as usize) {
            rows.push(row as u32);
        }
    }
    (0..)
        .zip(rows)
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(number, rows)| {
            let rows = UInt32Array::from(rows);
            let part = take_record_batch(batch, &rows)?;
            Ok((number, Some(rows), part))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Date32Array, Int64Array, StringArray};

    use super::*;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("origin", Arc::new(StringArray::from(vec![Some("EWR"), None, Some("JFK")])) as ArrayRef),
            ("flight", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ])
        .unwrap()
    }

    #[test]
    fn one_key_column_is_its_text_and_several_are_an_array_of_texts() {
        let batch = batch();
        let mut one = Keys::new(&batch, &[0]).unwrap();
        assert_eq!(one.key(0).unwrap(), b"EWR");
        assert_eq!(one.key(1).unwrap(), b"");
        let mut two = Keys::new(&batch, &[0, 1]).unwrap();
        assert_eq!(two.key(0).unwrap(), br#"["EWR","1"]"#);
        assert_eq!(two.key(1).unwrap(), br#"[null,"2"]"#);
    }

    #[test]
    fn a_date_of_any_year_is_a_key() {
        let days = Date32Array::from(vec![0, i32::MAX]);
        let batch = RecordBatch::try_from_iter([("day", Arc::new(days) as ArrayRef)]).unwrap();
        let mut keys = Keys::new(&batch, &[0]).unwrap();
        assert_eq!(keys.key(0).unwrap(), b"1970-01-01");
        assert_eq!(keys.key(1).unwrap(), b"+5881580-07-11");
    }

    #[test]
    fn every_row_is_in_one_partition_and_equal_keys_are_together() {
        let batch = batch();
        let parts = split(&batch, &[0], 7, 0).unwrap();
        let rows: usize = parts.iter().map(|(_, _, part)| part.num_rows()).sum();
        assert_eq!(rows, 3);
        for (number, _, part) in &parts {
            let mut keys = Keys::new(part, &[0]).unwrap();
            for row in 0..part.num_rows() {
                assert_eq!(partition(keys.key(row).unwrap(), 7), *number);
            }
        }
    }

    #[test]
    fn rows_that_are_spread_take_turns_unless_they_have_a_key() {
        let numbers =
            |parts: Vec<Part>| parts.iter().map(|(number, _, part)| (*number, part.num_rows())).collect::<Vec<_>>();
        assert_eq!(numbers(spread(&batch(), &[], 2, 1).unwrap()), [(0, 1), (1, 2)]);
        let keyed = [partition(b"EWR", 70), 7, partition(b"JFK", 70)];
        let mut expected: Vec<(u32, usize)> = keyed.into_iter().map(|number| (number, 1)).collect();
        expected.sort_unstable();
        assert_eq!(numbers(spread(&batch(), &[0], 70, 6).unwrap()), expected);
    }

    #[test]
    fn without_a_key_rows_stay_in_the_partition_they_came_in() {
        let parts = split(&batch(), &[], 4, 2).unwrap();
        assert_eq!(parts.iter().map(|(number, _, part)| (*number, part.num_rows())).collect::<Vec<_>>(), [(2, 3)]);
    }
}
