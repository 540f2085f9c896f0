//! What may be deleted. Deleting it is the business of the committer.

use std::collections::VecDeque;

use super::change::{Segment, Totals};
use crate::bus::{Cleanup, Micros};

/// How many of a partition's oldest segments can go at that time. Segments with messages at or behind `claimed_from`
/// are still to be read by some group, and stay.
pub(super) fn expired(segments: &VecDeque<Segment>, cleanup: Cleanup, claimed_from: Option<u64>, now: Micros) -> usize {
    let Cleanup::Delete { age, bytes } = cleanup else { return 0 };
    let mut remaining: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let may_go = |segment: &&Segment| {
        remaining -= segment.bytes;
        let read = claimed_from.is_none_or(|position| segment.end <= position);
        let old = age.is_some_and(|age| i128::from(now) - i128::from(segment.written) > age.as_micros() as i128);
        let over = bytes.is_some_and(|bytes| remaining >= bytes);
        read && (old || over)
    };
    segments.iter().take_while(may_go).count()
}

/// What those segments hold.
pub(super) fn totals<'a>(segments: impl Iterator<Item = &'a Segment>) -> Totals {
    segments.fold(Totals::default(), |sum, segment| Totals {
        messages: sum.messages + (segment.end - segment.base),
        rows: sum.rows + segment.rows,
        bytes: sum.bytes + segment.bytes,
    })
}

impl std::ops::Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Segments of 10 messages and 100 bytes, the i-th written in second i.
    fn segments(count: u64) -> VecDeque<Segment> {
        let segment =
            |i| Segment { base: i * 10, end: i * 10 + 10, bytes: 100, rows: 20, written: i as i64 * 1_000_000 };
        (0..count).map(segment).collect()
    }

    fn age(seconds: u64) -> Cleanup {
        Cleanup::Delete { age: Some(Duration::from_secs(seconds)), bytes: None }
    }

    fn bytes(bytes: u64) -> Cleanup {
        Cleanup::Delete { age: None, bytes: Some(bytes) }
    }

    #[test]
    fn without_limits_everything_stays() {
        assert_eq!(expired(&segments(5), Cleanup::Delete { age: None, bytes: None }, None, i64::MAX), 0);
    }

    #[test]
    fn segments_go_once_all_their_messages_are_too_old() {
        assert_eq!(expired(&segments(5), age(2), None, 4_000_000), 2);
        assert_eq!(expired(&segments(5), age(2), None, 4_000_001), 3);
        assert_eq!(expired(&segments(5), age(2), None, 100_000_000), 5);
    }

    #[test]
    fn at_least_the_bytes_that_are_asked_for_stay() {
        assert_eq!(expired(&segments(5), bytes(201), None, 0), 2);
        assert_eq!(expired(&segments(5), bytes(200), None, 0), 3);
        assert_eq!(expired(&segments(5), bytes(1000), None, 0), 0);
    }

    #[test]
    fn what_a_group_still_has_to_read_stays() {
        assert_eq!(expired(&segments(5), age(0), Some(29), i64::MAX), 2);
        assert_eq!(expired(&segments(5), age(0), Some(30), i64::MAX), 3);
        assert_eq!(expired(&segments(5), age(0), Some(0), i64::MAX), 0);
    }

    proptest! {
        #[test]
        fn no_claimed_message_ever_goes(count in 0..9u64, claim in 0..90u64, keep in 0..900u64, now in any::<i64>()) {
            let segments = segments(count);
            let cleanup = Cleanup::Delete { age: Some(Duration::from_secs(1)), bytes: Some(keep) };
            let gone = expired(&segments, cleanup, Some(claim), now);
            prop_assert!(segments.iter().take(gone).all(|segment| segment.end <= claim));
        }
    }
}
