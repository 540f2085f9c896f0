//! How much a read may still give.

use super::{Limit, Record};

/// What is left of a [`Limit`] while messages are gathered.
#[derive(Debug)]
pub(super) struct Budget {
    rows: usize,
    bytes: usize,
    untouched: bool,
}

impl Budget {
    pub(super) fn new(limit: Limit) -> Self {
        Self { rows: limit.rows, bytes: limit.bytes, untouched: true }
    }

    /// Whether the record still fits; if so, it is taken off. The first one always fits.
    pub(super) fn take(&mut self, record: &Record) -> bool {
        let rows = (record.rows as usize).max(1);
        let bytes = record.payload().len();
        if !self.untouched && (rows > self.rows || bytes > self.bytes) {
            // Whatever comes next would be out of order, even where it is smaller.
            *self = Self { rows: 0, bytes: 0, untouched: false };
            return false;
        }
        self.untouched = false;
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }

    /// Whether nothing more fits.
    pub(super) fn is_spent(&self) -> bool {
        !self.untouched && self.rows == 0
    }

    /// Bytes of payload that still fit.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rows: u32, bytes: usize) -> Record {
        Record { rows, value: Some(vec![0; bytes].into()), ..Record::default() }
    }

    #[test]
    fn the_first_record_fits_whatever_its_size() {
        let mut budget = Budget::new(Limit { rows: 1, bytes: 1 });
        assert!(budget.take(&record(1000, 1000)));
        assert!(budget.is_spent());
        assert!(!budget.take(&record(0, 0)));
    }

    #[test]
    fn a_record_that_does_not_fit_ends_the_read() {
        let mut budget = Budget::new(Limit { rows: 10, bytes: 10 });
        assert!(budget.take(&record(1, 4)));
        assert!(!budget.take(&record(1, 7)));
        assert!(!budget.take(&record(1, 1)));
    }

    #[test]
    fn a_record_without_rows_counts_as_one() {
        let mut budget = Budget::new(Limit { rows: 2, bytes: 10 });
        assert!(budget.take(&record(0, 0)));
        assert!(budget.take(&record(0, 0)));
        assert!(!budget.take(&record(0, 0)));
    }
}
