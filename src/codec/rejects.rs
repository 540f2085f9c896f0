//! What decoders of text have in common beside the values: rows of no use, and what is left without them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::filter;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::{Decoded, RawRows};
use crate::failure::{Class, Reject};

/// Rows that are of no use, each for the first reason found.
#[derive(Debug, Default)]
pub(super) struct Rejects(pub(super) BTreeMap<usize, (Class, String)>);

impl Rejects {
    pub(super) fn add(&mut self, row: usize, class: Class, message: String) {
        self.0.entry(row).or_insert((class, message));
    }

    /// The buffer as text, with the rows blanked that are not UTF-8, which are rejected.
    pub(super) fn text<'a>(&mut self, raw: &'a RawRows) -> Cow<'a, str> {
        if let Ok(text) = std::str::from_utf8(&raw.bytes) {
            return Cow::Borrowed(text);
        }
        let mut blanked = vec![b' '; raw.bytes.len()];
        for (row, range) in raw.rows.iter().enumerate() {
            let range = range.start as usize..range.end as usize;
            let Some(bytes) = raw.bytes.get(range.clone()) else { continue };
            match (std::str::from_utf8(bytes), blanked.get_mut(range)) {
                (Ok(_), Some(to)) => to.copy_from_slice(bytes),
                (Err(error), _) => {
                    self.add(row, Class::Decode, format!("byte {} is not UTF-8", error.valid_up_to()));
                }
                _ => {}
            }
        }
        Cow::Owned(String::from_utf8_lossy(&blanked).into_owned())
    }

    /// The rows that are left of columns with all of them. Rejected rows may have anything in the columns.
    pub(super) fn finish(mut self, schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Decoded {
        let mut kept = None;
        let mut columns = Ok(columns);
        if !self.0.is_empty() {
            let good = BooleanArray::from_iter((0..rows).map(|row| Some(!self.0.contains_key(&row))));
            columns = columns.and_then(|columns| columns.iter().map(|column| filter(column, &good)).collect());
            kept = Some(good.values().set_indices_u32().collect());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows - self.0.len()));
        let batch =
            columns.and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options));
        let (batch, kept) = match batch {
            Ok(batch) => (batch, kept),
            Err(error) => {
                (0..rows).for_each(|row| self.add(row, Class::Contract, error.to_string()));
                (RecordBatch::new_empty(Arc::clone(schema)), Some(Vec::new()))
            }
        };
        let rejects = self.0.into_iter().map(|(row, (class, message))| Reject { row, class, message });
        Decoded { batch, kept, rejects: rejects.collect() }
    }
}
