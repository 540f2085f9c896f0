//! Order among stages, as indices and edges: who comes before whom, and who goes round in circles.

use std::collections::BTreeSet;

/// An order in which everybody comes after those that feed it, otherwise as counted; and the circles that keep the
/// rest from having one, each as its members in the direction of the rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub sorted: Vec<usize>,
    pub circles: Vec<Vec<usize>>,
}

/// Sorts stages, given for each of them those that feed it.
pub(super) fn order(feeders: &[Vec<usize>]) -> Order {
    let mut sorted = Vec::with_capacity(feeders.len());
    let mut left: BTreeSet<usize> = (0..feeders.len()).collect();
    let ready = |left: &BTreeSet<usize>| {
        left.iter().copied().find(|stage| feeders_of(feeders, *stage).iter().all(|feeder| !left.contains(feeder)))
    };
    while let Some(stage) = ready(&left) {
        left.remove(&stage);
        sorted.push(stage);
    }
    Order { sorted, circles: circles(feeders, left) }
}

/// Everybody that feeds the stage, directly or through others.
pub(super) fn ancestors(feeders: &[Vec<usize>], stage: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = feeders_of(feeders, stage).to_vec();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(feeders_of(feeders, next));
        }
    }
    found
}

/// Among those that have no order everybody is in a circle or behind one; going from feeder to feeder ends in one.
fn circles(feeders: &[Vec<usize>], mut left: BTreeSet<usize>) -> Vec<Vec<usize>> {
    let mut circles = Vec::new();
    while let Some(start) = left.first().copied() {
        let mut path = vec![start];
        let mut last = start;
        while let Some(next) = feeders_of(feeders, last).iter().copied().find(|feeder| left.contains(feeder)) {
            if let Some(at) = path.iter().position(|stage| *stage == next) {
                let mut circle: Vec<usize> = path.drain(at..).rev().collect();
                rotate_to_least(&mut circle);
                circles.push(circle);
                break;
            }
            path.push(next);
            last = next;
        }
        let done: BTreeSet<usize> = circles.iter().flatten().copied().collect();
        left.retain(|stage| *stage != start && !done.contains(stage) && !path.contains(stage));
    }
    circles
}

fn rotate_to_least(circle: &mut [usize]) {
    let least = circle.iter().enumerate().min_by_key(|(_, stage)| **stage).map_or(0, |(at, _)| at);
    circle.rotate_left(least);
}

fn feeders_of(feeders: &[Vec<usize>], stage: usize) -> &[usize] {
    feeders.get(stage).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stages_come_after_those_that_feed_them() {
        let order = order(&[vec![2], vec![0], vec![]]);
        assert_eq!(order, Order { sorted: vec![2, 0, 1], circles: vec![] });
    }

    #[test]
    fn each_circle_is_found_once_in_the_direction_of_the_rows() {
        // 0 → 1 → 2 → 0, 3 → 4 → 3, and 5 behind the first.
        let order = order(&[vec![2], vec![0], vec![1], vec![4], vec![3], vec![0]]);
        assert_eq!(order, Order { sorted: vec![], circles: vec![vec![0, 1, 2], vec![3, 4]] });
    }

    #[test]
    fn ancestors_are_those_that_feed_it_through_others_too() {
        assert_eq!(ancestors(&[vec![], vec![0], vec![1], vec![]], 2), BTreeSet::from([0, 1]));
    }

    fn any_graph() -> impl Strategy<Value = Vec<Vec<usize>>> {
        proptest::collection::vec(proptest::collection::vec(0usize..8, 0..4), 8)
    }

    proptest! {
        #[test]
        fn an_order_respects_every_edge_and_what_has_none_is_behind_a_circle(feeders in any_graph()) {
            let Order { sorted, circles } = order(&feeders);
            for (at, stage) in sorted.iter().enumerate() {
                prop_assert!(feeders[*stage].iter().all(|feeder| sorted[..at].contains(feeder)));
            }
            prop_assert_eq!(sorted.len() < feeders.len(), !circles.is_empty());
            for circle in &circles {
                for (at, stage) in circle.iter().enumerate() {
                    let next = circle[(at + 1) % circle.len()];
                    prop_assert!(feeders[next].contains(stage));
                }
            }
            let in_circles: BTreeSet<usize> = circles.iter().flatten().copied().collect();
            for stage in (0..feeders.len()).filter(|stage| !sorted.contains(stage)) {
                let ancestors = ancestors(&feeders, stage);
                prop_assert!(in_circles.contains(&stage) || ancestors.iter().any(|it| !sorted.contains(it)));
            }
        }
    }
}
