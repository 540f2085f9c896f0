//! A process that is killed leaves every commit whole, and those that it was told are done are there.

use super::worker::{TASKS, Worker, left};

/// Looks at what a worker left.
fn check(worker: &Worker, dir: &std::path::Path) -> [u64; TASKS] {
    let left = left(dir);
    for (done, left) in worker.done.into_iter().zip(left) {
        // Of one more the worker may not have heard any more.
        assert!(done <= left && left <= done.max(1) + 1, "{:?} done and {left:?} left", worker.done);
    }
    left
}

#[test]
fn a_kill_at_any_moment_loses_and_repeats_nothing() {
    for sync in ["commit", "1ms", "never"] {
        let dir = tempfile::tempdir().unwrap();
        let mut before = [0; TASKS];
        for round in 0..15 {
            let mut worker = Worker::start(dir.path(), sync, u64::MAX, "");
            worker.listen(round * 37 % 50);
            worker.kill();
            worker.done = std::array::from_fn(|task| worker.done[task].max(before[task]));
            before = check(&worker, dir.path());
        }
    }
}

#[test]
fn a_kill_at_any_step_of_a_commit_loses_and_repeats_nothing() {
    const STEPS: &[&str] = &[
        "commit.append",
        "commit.append.done",
        "commit.sync-data",
        "commit.sync-data.done",
        "commit.journal",
        "commit.journal.done",
        "commit.sync-journal",
        "commit.sync-journal.done",
        "commit.publish",
        "segment.create",
        "segment.create.header",
        "segment.create.done",
        "journal.rotate",
        "journal.rotate.sync",
        "journal.rotate.rename",
        "journal.rotate.done",
        "retain.delete",
    ];
    for sync in ["commit", "never"] {
        for step in STEPS {
            ends_at(sync, step, 0, "kill");
            ends_at(sync, step, 2, "kill");
        }
    }
}

#[test]
fn a_write_of_which_only_half_is_done_loses_and_repeats_nothing() {
    for sync in ["commit", "never"] {
        for step in ["commit.append", "commit.journal", "segment.create.header", "journal.rotate"] {
            ends_at(sync, step, 0, "torn");
            ends_at(sync, step, 4, "torn");
        }
    }
}

/// A worker that ends when it comes to that step for the first time after `passes`.
fn ends_at(sync: &str, step: &str, passes: u32, action: &str) {
    const COMMITS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(dir.path(), sync, COMMITS, &format!("{step}={passes}*off->return({action})"));
    assert!(!worker.wait(), "{step} did not happen {passes} times with {sync}");
    check(&worker, dir.path());
    // And the work can be finished.
    assert!(Worker::start(dir.path(), sync, COMMITS, "").wait());
    assert_eq!(left(dir.path()), [COMMITS; TASKS]);
}
