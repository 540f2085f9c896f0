//! What a task counts. The counts are part of its checkpoint, so they are as exact after a crash as before it.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Rows of a stage. For every stage
/// `rows_in + expanded + emitted = rows_out + filtered + absorbed + dead_lettered + late`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counts {
    /// Rows that came in, whatever became of them.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows_in: u64,
    /// Rows that were published, or written by a sink.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows_out: u64,
    /// Rows that came in and have no result, as the query wants it.
    #[serde(skip_serializing_if = "is_zero")]
    pub filtered: u64,
    /// Results beyond the first of a row that came in: what UNNEST and UNION ALL added.
    #[serde(skip_serializing_if = "is_zero")]
    pub expanded: u64,
    /// Rows that became dead letters, but for those that are late.
    #[serde(skip_serializing_if = "is_zero")]
    pub dead_lettered: u64,
    /// Rows that became dead letters because their windows had closed.
    #[serde(skip_serializing_if = "is_zero")]
    pub late: u64,
    /// Rows that came in and are in windows that yield results when they close.
    #[serde(skip_serializing_if = "is_zero")]
    pub absorbed: u64,
    /// Rows that windows yielded when they closed.
    #[serde(skip_serializing_if = "is_zero")]
    pub emitted: u64,
    /// Domain events that were published.
    #[serde(skip_serializing_if = "is_zero")]
    pub events: u64,
    /// Of the rows that came in, those that its predecessors did not publish. All of them became dead letters.
    #[serde(skip_serializing_if = "is_zero")]
    pub foreign: u64,
}

/// Whether a number is left out of what is written.
pub(crate) fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

impl Counts {
    /// By how many rows the two sides of the equation differ: more came in than is accounted for if positive.
    pub fn imbalance(&self) -> i64 {
        let came = [self.rows_in, self.expanded, self.emitted];
        let went = [self.rows_out, self.filtered, self.absorbed, self.dead_lettered, self.late];
        let [came, went] =
            [&came[..], &went[..]].map(|rows| rows.iter().fold(0, |sum: u64, rows| sum.wrapping_add(*rows)));
        came.wrapping_sub(went) as i64
    }

    /// All rows that became dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.dead_lettered + self.late
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        self.filtered += other.filtered;
        self.expanded += other.expanded;
        self.dead_lettered += other.dead_lettered;
        self.late += other.late;
        self.absorbed += other.absorbed;
        self.emitted += other.emitted;
        self.events += other.events;
        self.foreign += other.foreign;
    }
}
