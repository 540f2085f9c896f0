//! What every bus promises: one suite, written against the traits alone, and run against each of them.

mod commits;
mod durability;
mod embedded;
mod groups;
mod kafka;
mod memory;
mod reading;
mod support;

use async_trait::async_trait;
use fidelio::bus::{Bus, Channel, Topic};
use futures::FutureExt;
use futures::future::BoxFuture;

/// A bus under test. Each case has one for itself.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The bus.
    fn bus(&self) -> &dyn Bus;

    /// What the names of stages start with, so that cases can share a server.
    fn prefix(&self) -> &str;

    /// Whether what is committed outlives the process.
    fn is_durable(&self) -> bool;

    /// Whether members of a group share its tasks out, and what one commit shows in several topics need not be seen in all
    /// of them at the same instant. Offsets there also count what is no message.
    fn is_cluster(&self) -> bool {
        false
    }

    /// Ends the bus as a crash does, and opens it again.
    async fn crash(&mut self);

    /// Closes the bus and opens it again.
    async fn reopen(&mut self);

    /// A topic of a stage.
    fn topic(&self, stage: &str, channel: Channel) -> Topic {
        Topic::of(&format!("{}.{stage}", self.prefix()), channel)
    }
}

type Case = fn(Box<dyn Fixture>) -> BoxFuture<'static, ()>;

/// The suite: what is promised, and the case that shows it.
const CASES: &[(&str, Case)] = &[
    ("messages keep their order and offsets", |f| reading::messages_keep_their_order_and_offsets(f).boxed()),
    ("a read can start in the middle", |f| reading::a_read_can_start_in_the_middle(f).boxed()),
    ("rows are counted as they were published", |f| reading::rows_are_counted_as_they_were_published(f).boxed()),
    ("a limit bounds what is given", |f| reading::a_limit_bounds_what_is_given(f).boxed()),
    ("every byte survives", |f| reading::every_byte_survives(f).boxed()),
    ("large records survive", |f| reading::large_records_survive(f).boxed()),
    ("empty topics are empty", |f| reading::empty_topics_are_empty(f).boxed()),
    ("what does not exist is refused", |f| reading::what_does_not_exist_is_refused(f).boxed()),
    ("many partitions are kept apart", |f| reading::many_partitions_are_kept_apart(f).boxed()),
    ("a read waits for the first message", |f| reading::a_read_waits_for_the_first_message(f).boxed()),
    ("topics are declared once", |f| reading::topics_are_declared_once(f).boxed()),
    ("a commit shows in all topics at once", |f| commits::a_commit_shows_in_all_topics_at_once(f).boxed()),
    ("a refused commit leaves no trace", |f| commits::a_refused_commit_leaves_no_trace(f).boxed()),
    ("what is written is seen with the next commit", |f| {
        commits::what_is_written_is_seen_with_the_next_commit(f).boxed()
    }),
    ("what is written and not committed is never seen", |f| {
        commits::what_is_written_and_not_committed_is_never_seen(f).boxed()
    }),
    ("what is wrong with a write the commit says", |f| commits::what_is_wrong_with_a_write_the_commit_says(f).boxed()),
    ("many tasks share partitions", |f| commits::many_tasks_share_partitions(f).boxed()),
    ("a task resumes from its last commit", |f| commits::a_task_resumes_from_its_last_commit(f).boxed()),
    ("only the last checkpoint counts", |f| commits::only_the_last_checkpoint_counts(f).boxed()),
    ("batches are no more than a shortcut", |f| commits::batches_are_no_more_than_a_shortcut(f).boxed()),
    ("a task polls its own partitions", |f| groups::a_task_polls_its_own_partitions(f).boxed()),
    ("two groups read at their own pace", |f| groups::two_groups_read_at_their_own_pace(f).boxed()),
    ("a poll waits for the first message", |f| groups::a_poll_waits_for_the_first_message(f).boxed()),
    ("resuming takes polls back", |f| groups::resuming_takes_polls_back(f).boxed()),
    ("a task is one member's at a time", |f| groups::a_task_is_one_members_at_a_time(f).boxed()),
    ("a fenced task cannot commit", |f| groups::a_fenced_task_cannot_commit(f).boxed()),
    ("a group that is forgotten has no positions but its checkpoints", |f| {
        groups::a_group_that_is_forgotten_has_no_positions_but_its_checkpoints(f).boxed()
    }),
    ("retention waits for consumers", |f| groups::retention_waits_for_consumers(f).boxed()),
    ("a crash loses nothing", |f| durability::a_crash_loses_nothing(f).boxed()),
    ("closing loses nothing", |f| durability::closing_loses_nothing(f).boxed()),
    ("many crashes lose nothing", |f| durability::many_crashes_lose_nothing(f).boxed()),
];

/// Cases that run at the same time.
const AT_ONCE: usize = 8;

/// Runs all cases, each on a fresh bus, and fails with the list of those that failed.
pub async fn run(fresh: impl Fn() -> Box<dyn Fixture>) {
    let mut failed = Vec::new();
    for cases in CASES.chunks(AT_ONCE) {
        let running: Vec<_> = cases.iter().map(|(name, case)| (name, tokio::spawn(case(fresh())))).collect();
        for (name, case) in running {
            if case.await.is_err() {
                failed.push(*name);
            }
        }
    }
    assert_eq!(failed, Vec::<&str>::new());
}
