//! Finding the rows at fault when a batch fails as a whole.

use std::ops::Range;

/// Attempts all rows at once; where that fails, each half, down to single rows. Yields, in order, what was made of the
/// stretches that succeeded, and the error of each row that fails alone. With k such rows among n, that takes
/// O(k log n) attempts.
///
/// A row counts as failed only if it fails alone, so its fate does not depend on its neighbours.
pub(crate) fn narrow<T, E>(
    rows: Range<usize>,
    attempt: &mut impl FnMut(Range<usize>) -> Result<T, E>,
) -> Vec<(Range<usize>, Result<T, E>)> {
    let mut found = Vec::new();
    let mut pending = vec![rows];
    while let Some(rows) = pending.pop() {
        match attempt(rows.clone()) {
            Err(_) if rows.len() > 1 => {
                let middle = rows.start + rows.len() / 2;
                pending.push(middle..rows.end);
                pending.push(rows.start..middle);
            }
            // No row can be at fault where there is none.
            Err(_) if rows.is_empty() => {}
            result => found.push((rows, result)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exactly_the_failing_rows_are_found(bad in prop::collection::btree_set(0usize..200, 0..20), len in 0usize..200) {
            let mut attempts = 0;
            let found = narrow(0..len, &mut |rows: Range<usize>| {
                attempts += 1;
                let failing: Vec<usize> = rows.clone().filter(|row| bad.contains(row)).collect();
                if failing.is_empty() { Ok(rows.len()) } else { Err(failing) }
            });
            let failed: BTreeSet<usize> = found.iter().filter(|(_, r)| r.is_err()).map(|(rows, _)| rows.start).collect();
            let expected: BTreeSet<usize> = bad.iter().copied().filter(|row| *row < len).collect();
            prop_assert!(attempts <= 1 + expected.len() * 2 * 8);
            prop_assert_eq!(failed, expected);
            let covered: Vec<usize> = found.iter().flat_map(|(rows, _)| rows.clone()).collect();
            prop_assert_eq!(covered, (0..len).collect::<Vec<_>>());
        }
    }
}
