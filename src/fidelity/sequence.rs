//! Whether all rows arrive that a task has published to a partition: from time to time it says how many they are, and whoever reads
//! the partition counts along.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What has come from the tasks of a predecessor in the partition that a task reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sequences {
    /// Whether the partition was read from its first message on, so that nothing came before what has.
    pub(crate) is_whole: bool,
    by_task: BTreeMap<u32, Sequence>,
}

/// What has come from a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    /// The rows that it had published when it last said so; `None` where it has not said it since the partition is read, and that
    /// not from its first message on.
    said: Option<u64>,
    /// The rows that have come since.
    since: u64,
}

impl Sequences {
    /// Those that a checkpoint holds, of a partition that was read from its first message on, or not.
    pub(crate) fn of(is_whole: bool, by_task: impl IntoIterator<Item = (u32, Sequence)>) -> Self {
        Self { is_whole, by_task: by_task.into_iter().collect() }
    }

    /// What is to be in a checkpoint.
    pub(crate) fn by_task(&self) -> impl Iterator<Item = (u32, Sequence)> {
        self.by_task.iter().map(|(task, sequence)| (*task, *sequence))
    }

    /// So many rows have come from a task, which may say how many it has published up to here. Gives how many of them have not come;
    /// if negative, how many have come that it has not published, or not again.
    pub(crate) fn take(&mut self, task: u32, rows: u64, said: Option<u64>) -> i64 {
        let first = Sequence { said: self.is_whole.then_some(0), since: 0 };
        let sequence = self.by_task.entry(task).or_insert(first);
        sequence.since += rows;
        let Some(says) = said else { return 0 };
        let missing = sequence.said.map_or(0, |before| says.wrapping_sub(before + sequence.since) as i64);
        *sequence = Sequence { said, since: 0 };
        missing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    struct Message {
        task: u32,
        rows: u64,
        /// Whether the task says how many rows it has published.
        says: bool,
        /// How often it arrives.
        times: u64,
    }

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let message = (0..3u32, 0..5u64, any::<bool>(), prop::sample::select(vec![0, 1, 1, 1, 1, 2]));
        proptest::collection::vec(
            message.prop_map(|(task, rows, says, times)| Message { task, rows, says, times }),
            0..60,
        )
    }

    proptest! {
        #[test]
        fn what_does_not_arrive_or_arrives_again_is_counted(messages in messages(), is_whole in any::<bool>()) {
            let mut sequences = Sequences::of(is_whole, []);
            let (mut published, mut found, mut expected) = ([0; 3], 0, 0);
            let ends = (0..3).map(|task| Message { task, rows: 0, says: true, times: 1 });
            let begins = ends.clone().filter(|_| !is_whole);
            for Message { task, rows, says, times } in begins.chain(messages).chain(ends) {
                let sum: &mut u64 = &mut published[task as usize];
                *sum += rows;
                // Whoever says how many there are says it again the next time.
                for _ in 0..times {
                    found += sequences.take(task, rows, Some(*sum).filter(|_| says && times == 1));
                }
                expected += (rows * (1 - times.min(1))) as i64 - (rows * times.saturating_sub(1)) as i64;
                // A checkpoint changes nothing.
                sequences = Sequences::of(sequences.is_whole, sequences.by_task().collect::<Vec<_>>());
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_came_before_a_partition_was_read_is_not_missing() {
        let mut sequences = Sequences::of(false, []);
        assert_eq!(
            [sequences.take(0, 5, None), sequences.take(0, 2, Some(100)), sequences.take(0, 2, Some(103))],
            [0, 0, 1]
        );
        let mut sequences = Sequences::of(true, []);
        assert_eq!([sequences.take(0, 5, None), sequences.take(0, 2, Some(100))], [0, 93]);
    }
}
