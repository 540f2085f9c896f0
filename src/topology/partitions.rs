//! How many tasks a stage has and how many partitions its results have.

/// What the number of partitions follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A source.
    Source,
    /// A source whose rows any number of tasks can share.
    Generator,
    /// A stage between others; the most partitions that any of its predecessors' results have.
    Middle(u32),
    /// A sink; the same.
    Sink(u32),
}

/// Tasks of a stage and partitions of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub tasks: u32,
    pub partitions: u32,
}

/// The stage asks for fewer partitions than its tasks need, and has no key to spread rows by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooFew {
    pub tasks: u32,
}

/// The rules:
/// - Task `n` owns partition `n` of every input that has one, so there are as many tasks as the widest predecessor has
///   partitions. A source has one task: it reads its rows in their order. One that makes them up has as many as it has partitions.
/// - Results have as many partitions as there are tasks unless the stage says otherwise.
/// - With a key, rows go where their key puts them, and any number will do. Without one, rows stay in the partition
///   number they came in, so there cannot be fewer partitions than tasks.
/// - A sink has no results and therefore no partitions.
pub(super) fn counts(place: Place, wanted: Option<u32>, has_key: bool) -> Result<Counts, TooFew> {
    let tasks = match place {
        Place::Source => 1,
        Place::Generator => wanted.unwrap_or(1).max(1),
        Place::Middle(widest) | Place::Sink(widest) => widest.max(1),
    };
    let partitions = match (place, wanted) {
        (Place::Sink(_), _) => 0,
        (_, Some(wanted)) if wanted < tasks && !has_key => return Err(TooFew { tasks }),
        (_, Some(wanted)) => wanted,
        (_, None) => tasks,
    };
    Ok(Counts { tasks, partitions })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_has_one_task_however_many_partitions_it_fills() {
        assert_eq!(counts(Place::Source, Some(8), true), Ok(Counts { tasks: 1, partitions: 8 }));
        assert_eq!(counts(Place::Source, None, false), Ok(Counts { tasks: 1, partitions: 1 }));
        assert_eq!(counts(Place::Generator, Some(4), false), Ok(Counts { tasks: 4, partitions: 4 }));
    }

    #[test]
    fn fewer_partitions_than_tasks_need_a_key() {
        assert_eq!(counts(Place::Middle(4), Some(2), false), Err(TooFew { tasks: 4 }));
        assert_eq!(counts(Place::Middle(4), Some(2), true), Ok(Counts { tasks: 4, partitions: 2 }));
    }

    proptest! {
        #[test]
        fn without_a_key_every_task_has_a_partition_to_write_to(widest in 1u32..2000, wanted: Option<u16>) {
            if let Ok(counts) = counts(Place::Middle(widest), wanted.map(u32::from), false) {
                prop_assert!(counts.partitions >= counts.tasks);
            }
        }
    }
}
