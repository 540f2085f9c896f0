//! The sessions that there are, by what their rows have in common and by their ends.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

/// From the first time of a session to a gap after its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Span {
    pub(super) fn with(self, other: Span) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// What the rows of a session have in common, in a form that can be compared, and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key<'a> {
    pub(super) hash: u64,
    pub(super) bytes: &'a [u8],
}

#[derive(Debug)]
struct Session {
    span: Span,
    /// How many rows were added to it.
    rows: usize,
}

/// The sessions of a key, ascending.
#[derive(Debug)]
struct OfKey {
    hash: u64,
    bytes: Box<[u8]>,
    sessions: SmallVec<[Session; 1]>,
}

/// Sessions, none of which overlaps another one of its key.
#[derive(Debug)]
pub(super) struct Spans {
    keys: Vec<OfKey>,
    /// Which of the keys have no sessions any more.
    unused: Vec<u32>,
    by_key: HashTable<u32>,
    /// Their ends, keys and starts.
    by_end: BTreeSet<(i64, u32, i64)>,
    /// How many of those that have not closed start when.
    starts: BTreeMap<i64, usize>,
    /// All that end by then have closed.
    closed: i64,
    bytes: usize,
}

/// Bytes of memory that a session takes, and a key besides what it is, about.
const OF_SESSION: usize = 64;
const OF_KEY: usize = size_of::<OfKey>() + 24;

impl Spans {
    pub(super) fn new() -> Self {
        Self {
            keys: Vec::new(),
            unused: Vec::new(),
            by_key: HashTable::new(),
            by_end: BTreeSet::new(),
            starts: BTreeMap::new(),
            closed: i64::MIN,
            bytes: 0,
        }
    }

    /// Adds a row that may go on with sessions, or put some together, and is of that one by itself. Tells the ends of those
    /// that are others now, also as they were.
    pub(super) fn add(&mut self, key: Key<'_>, part: Span, mut touched: impl FnMut(i64)) {
        let number = self.number(key);
        let Some(OfKey { sessions, .. }) = self.keys.get_mut(number as usize) else { return };
        let first = sessions.partition_point(|session| session.span.end <= part.start);
        let goes_on = |session: &&Session| session.span.start < part.end;
        let together = sessions.iter().skip(first).take_while(goes_on);
        let (whole, count) = together.fold((part, 0), |(whole, count), session| (whole.with(session.span), count + 1));
        touched(whole.end);
        if let Some(only) = sessions.get_mut(first).filter(|_| count == 1) {
            only.rows += 1;
            let before = std::mem::replace(&mut only.span, whole);
            if before != whole {
                self.removed(number, before);
                self.added(number, whole);
                touched(before.end);
            }
            return;
        }
        let before: SmallVec<[Session; 2]> = sessions.drain(first..first + count).collect();
        let rows = before.iter().map(|session| session.rows).sum::<usize>() + 1;
        sessions.insert(first, Session { span: whole, rows });
        for session in before {
            self.removed(number, session.span);
            touched(session.span.end);
        }
        self.added(number, whole);
    }

    /// The number of a key, which it gets if it has none.
    fn number(&mut self, key: Key<'_>) -> u32 {
        let keys = &mut self.keys;
        let is_same = |number: &u32| keys.get(*number as usize).is_some_and(|of| *of.bytes == *key.bytes);
        let hash = |number: &u32| keys.get(*number as usize).map_or(0, |of| of.hash);
        let vacant = match self.by_key.entry(key.hash, is_same, hash) {
            Entry::Occupied(known) => return *known.get(),
            Entry::Vacant(vacant) => vacant,
        };
        self.bytes += OF_KEY + key.bytes.len();
        let of = OfKey { hash: key.hash, bytes: key.bytes.into(), sessions: SmallVec::new() };
        let number = self.unused.pop().unwrap_or(keys.len() as u32);
        vacant.insert(number);
        match keys.get_mut(number as usize) {
            Some(unused) => *unused = of,
            None => keys.push(of),
        }
        number
    }

    fn added(&mut self, number: u32, span: Span) {
        self.bytes += OF_SESSION;
        self.by_end.insert((span.end, number, span.start));
        if span.end > self.closed {
            *self.starts.entry(span.start).or_default() += 1;
        }
    }

    fn removed(&mut self, number: u32, span: Span) {
        self.bytes -= OF_SESSION;
        self.by_end.remove(&(span.end, number, span.start));
        self.has_closed(span);
    }

    /// Does not count a session among those that have not closed any more, if it was one of them.
    fn has_closed(&mut self, span: Span) {
        if span.end > self.closed
            && let Some(count) = self.starts.get_mut(&span.start)
        {
            *count -= 1;
            if *count == 0 {
                self.starts.remove(&span.start);
            }
        }
    }

    /// The session that a row of that time is in.
    pub(super) fn find(&self, key: Key<'_>, time: i64) -> Option<Span> {
        let of = |number: u32| self.keys.get(number as usize);
        let is_same = |number: &u32| of(*number).is_some_and(|of| *of.bytes == *key.bytes);
        let sessions = &of(*self.by_key.find(key.hash, is_same)?)?.sessions;
        let span = sessions.get(sessions.partition_point(|session| session.span.end <= time))?.span;
        (span.start <= time).then_some(span)
    }

    /// The sessions that end after the first and not after the second of these, by their ends.
    pub(super) fn ending(&self, after: i64, until: i64) -> impl Iterator<Item = (Key<'_>, Span)> {
        let ending = self.by_end.range((Excluded((after, u32::MAX, i64::MAX)), Unbounded));
        ending.take_while(move |(end, ..)| *end <= until).filter_map(|(end, number, start)| {
            let of = self.keys.get(*number as usize)?;
            Some((Key { hash: of.hash, bytes: &of.bytes }, Span { start: *start, end: *end }))
        })
    }

    /// Takes down that all that end by then have closed.
    pub(super) fn close(&mut self, until: i64) {
        let closing: Vec<Span> = self.ending(self.closed, until).map(|(_, span)| span).collect();
        closing.into_iter().for_each(|span| self.has_closed(span));
        self.closed = self.closed.max(until);
    }

    /// All that end by then have closed.
    pub(super) fn closed(&self) -> i64 {
        self.closed
    }

    /// Forgets all that end by then, and gives how many rows were added to them.
    pub(super) fn release(&mut self, until: i64) -> usize {
        let mut rows = 0;
        while let Some((end, number, start)) = self.by_end.first().copied().filter(|(end, ..)| *end <= until) {
            self.removed(number, Span { start, end });
            let Some(of) = self.keys.get_mut(number as usize) else { continue };
            rows += of.sessions.remove(of.sessions.partition_point(|session| session.span.start < start)).rows;
            if of.sessions.is_empty() {
                self.bytes -= OF_KEY + of.bytes.len();
                of.bytes = Box::default();
                if let Ok(known) = self.by_key.find_entry(of.hash, |it| *it == number) {
                    known.remove();
                }
                self.unused.push(number);
            }
        }
        rows
    }

    /// When the first of those starts that have not closed.
    pub(super) fn first_start(&self) -> Option<i64> {
        self.starts.first_key_value().map(|(start, _)| *start)
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GAP: i64 = 5;

    /// The sessions of rows, put together from the first one on.
    fn sessions(rows: &[(u8, i64)]) -> BTreeSet<(u8, Span)> {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        let of_session = rows.chunk_by(|a, b| a.0 == b.0 && b.1 - a.1 < GAP);
        of_session.map(|rows| (rows[0].0, Span { start: rows[0].1, end: rows[rows.len() - 1].1 + GAP })).collect()
    }

    /// Keys of which two have the same hash.
    fn key(of: &u8) -> Key<'_> {
        Key { hash: u64::from(*of / 2), bytes: std::slice::from_ref(of) }
    }

    fn of_key((key, span): (Key<'_>, Span)) -> (u8, Span) {
        (key.bytes[0], span)
    }

    proptest! {
        #[test]
        fn sessions_are_those_of_the_rows_in_whatever_order_they_come(
            rows: Vec<(u8, i8)>, closed: i8, gone in 0_i64..40,
        ) {
            let mut rows: Vec<(u8, i64)> = rows.iter().map(|(key, time)| (key % 3, i64::from(*time) / 2)).collect();
            let closed = i64::from(closed) / 2;
            let (early, late) = rows.split_at(rows.len() / 2);
            let mut spans = Spans::new();
            for (key, time) in early {
                spans.add(self::key(key), Span { start: *time, end: time + GAP }, |_| {});
            }
            spans.close(closed);
            for (number, (key, time)) in late.iter().copied().enumerate() {
                let so_far = early.len() + number;
                let mut ends = BTreeSet::new();
                spans.add(self::key(&key), Span { start: time, end: time + GAP }, |end| {
                    ends.insert(end);
                });
                let (before, after) = (sessions(&rows[..so_far]), sessions(&rows[..=so_far]));
                let changed = before.symmetric_difference(&after).map(|(_, span)| span.end);
                let own = spans.find(self::key(&key), time).unwrap();
                prop_assert_eq!(ends, changed.chain([own.end]).collect());
            }
            let all = sessions(&rows);
            let found: BTreeSet<_> = spans.ending(i64::MIN, i64::MAX).map(of_key).collect();
            prop_assert_eq!(&found, &all);
            let open = all.iter().filter(|(_, span)| span.end > closed);
            prop_assert_eq!(spans.first_start(), open.map(|(_, span)| span.start).min());
            for (key, time) in &rows {
                let own = all.iter().find(|(of, span)| of == key && span.start <= *time && *time < span.end);
                prop_assert_eq!(spans.find(self::key(key), *time), own.map(|(_, span)| *span));
            }
            let left: BTreeSet<_> = all.iter().filter(|(_, span)| span.end > closed - gone).copied().collect();
            let is_left = |key: u8, time: i64| {
                left.iter().any(|(of, span)| *of == key && span.start <= time && time < span.end)
            };
            let released = rows.iter().filter(|(key, time)| !is_left(*key, *time)).count();
            prop_assert_eq!(spans.release(closed - gone), released);
            let found: BTreeSet<_> = spans.ending(i64::MIN, i64::MAX).map(of_key).collect();
            prop_assert_eq!(&found, &left);
            rows.retain(|(key, time)| spans.find(self::key(key), *time).is_some());
            prop_assert_eq!(sessions(&rows), left);
            let (first, last) = (closed - gone, closed + gone);
            let found = spans.ending(first, last).count();
            prop_assert_eq!(found, all.iter().filter(|(_, span)| span.end > first && span.end <= last).count());
            prop_assert_eq!(spans.release(i64::MAX), rows.len());
            prop_assert_eq!((spans.by_end.len(), spans.by_key.len(), spans.bytes()), (0, 0, 0));
            prop_assert_eq!(spans.first_start(), None);
        }
    }
}
