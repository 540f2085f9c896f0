//! Looking at a data directory while another process works in it.

use std::time::Duration;

use fidelio::bus::embedded::{Embedded, Options, Reader};
use fidelio::bus::{Error, Limit, Log};

use super::worker::{TASKS, Worker, brief, checkpoints, origin, results};

const SOME: Limit = Limit { rows: 20, bytes: 1 << 20 };
const AGES: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_reader_sees_every_commit_whole_and_in_order() {
    const COMMITS: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(dir.path(), "commit", COMMITS, "");
    worker.listen(1);
    let reader = Reader::open(dir.path()).unwrap();
    let mut seen = [0; TASKS];
    let mut next = 0;
    while next < COMMITS * TASKS as u64 {
        for message in reader.read(&results().partition(1), next, SOME, AGES).await.unwrap() {
            let (task, n) = origin(message.record.payload());
            assert_eq!((message.offset, n), (next, seen[task]));
            seen[task] += 1;
            next += 1;
        }
        let other = reader.extents(&results()).await.unwrap()[0].end;
        let checkpoints = reader.extents(&checkpoints()).await.unwrap();
        assert!(other >= next);
        assert!(seen.iter().zip(checkpoints).all(|(seen, checkpoints)| checkpoints.end >= *seen));
    }
    assert!(worker.wait());
    assert_eq!(worker.done, [COMMITS; TASKS]);
}

#[tokio::test]
async fn a_reader_is_told_what_retention_took_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(dir.path(), "never", u64::MAX, "");
    worker.listen(1);
    let reader = Reader::open(dir.path()).unwrap();
    let from = brief().partition(0);
    let mut next = 0;
    for _ in 0..5 {
        // Reads on, one by one, until the worker has overtaken it.
        loop {
            match reader.read(&from, next, Limit::ONE, AGES).await {
                Ok(messages) => {
                    assert_eq!(messages[0].offset, next);
                    origin(messages[0].record.payload());
                    next += 1;
                }
                Err(Error::OutOfRange { extent, offset, .. }) => {
                    assert_eq!(offset, next);
                    assert!(extent.start > next);
                    next = extent.start;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
            worker.listen(30);
        }
    }
    worker.kill();
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(dir.path(), "commit", u64::MAX, "");
    worker.listen(1);
    let Err(Error::Locked { holder, .. }) = Embedded::open(dir.path(), Options::default()) else { panic!("let in") };
    assert_eq!(holder, Some(worker.pid()));
    worker.kill();
    Embedded::open(dir.path(), Options::default()).unwrap();
}
