//! After a write or sync that failed nothing is committed any more, and what was committed before is there.

use super::worker::{TASKS, Worker, left};

const COMMITS: u64 = 60;

fn stops(sync: &str, step: &str, error: &str, words: &str) {
    for pass in [0, 1, 6] {
        let dir = tempfile::tempdir().unwrap();
        let mut worker = Worker::start(dir.path(), sync, COMMITS, &format!("{step}={pass}*off->return({error})"));
        assert!(worker.wait(), "{step} {error} {sync}");
        let complaint = worker.complaint.clone().unwrap_or_default();
        assert!(complaint.contains(words), "{step} {error} {sync}: {complaint}");
        for (done, left) in worker.done.into_iter().zip(left(dir.path())) {
            assert!(done <= left && left <= done + 1);
        }
        assert!(Worker::start(dir.path(), sync, COMMITS, "").wait());
        assert_eq!(left(dir.path()), [COMMITS; TASKS]);
    }
}

#[test]
fn a_full_disk_stops_the_log() {
    for step in ["commit.append", "commit.journal", "segment.create", "segment.create.header", "journal.rotate"] {
        stops("commit", step, "enospc", "No space left on device");
        stops("never", step, "enospc", "No space left on device");
    }
}

#[test]
fn a_failed_sync_stops_the_log() {
    for step in ["commit.sync-data", "commit.sync-journal", "journal.rotate.sync"] {
        stops("commit", step, "eio", "Input/output error");
    }
    stops("never", "journal.rotate.sync", "eio", "Input/output error");
}

#[test]
fn a_failed_sync_in_the_background_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(dir.path(), "1ms", u64::MAX, "commit.sync-data=3*off->return(eio)");
    assert!(worker.wait());
    assert!(worker.complaint.clone().unwrap().contains("Input/output error"));
    for (done, left) in worker.done.into_iter().zip(left(dir.path())) {
        assert!(done <= left && left <= done + 1);
    }
}
