//! The log as a whole, looked at from inside its data directory.

mod model;
mod recovery;
mod retention;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{Embedded, Options, Reader};
use crate::bus::{
    Bus, Change, Channel, Cleanup, Commit, Error, Group, Lease, Limit, Log, Member, Message, Outgoing, Record, Result,
    Topic, TopicPartition, TopicSpec,
};
use crate::config::Sync;

const ALL: Limit = Limit { rows: usize::MAX, bytes: usize::MAX };

const PARTITIONS: u32 = 2;

/// Runs something that awaits.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(work)
}

/// Files that are soon full, and nothing in memory.
fn tiny(sync: Sync) -> Options {
    Options { sync, segment_bytes: 400, journal_bytes: 3000, tail_bytes: 0, ..Options::default() }
}

/// Files that never end, and nothing in memory.
fn endless(sync: Sync) -> Options {
    Options { sync, tail_bytes: 0, ..Options::default() }
}

fn results() -> Topic {
    Topic::of("acme.flights.a", Channel::Results)
}

fn group(inputs: Vec<Topic>) -> Group {
    let checkpoint = Topic::of("acme.flights.a", Channel::Checkpoint);
    Group { name: "acme.flights.a".into(), inputs, checkpoint, tasks: PARTITIONS }
}

fn record(text: &str) -> Record {
    Record { value: Some(text.to_owned().into()), rows: 2, ..Record::default() }
}

/// Declares the topics of a stage and joins its group.
async fn join(log: &Embedded, inputs: Vec<Topic>) -> (Box<dyn Member>, Vec<Box<dyn Lease>>) {
    let group = group(inputs);
    let forever = Cleanup::Delete { age: None, bytes: None };
    let specs = [(results(), forever), (group.checkpoint.clone(), Cleanup::KeepLast)];
    let specs = specs.map(|(topic, cleanup)| TopicSpec { topic, partitions: PARTITIONS, cleanup });
    log.declare(&specs).await.unwrap();
    let mut member = log.join(group).await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..PARTITIONS {
        let Change::Given(lease) = member.changed().await.unwrap() else { panic!("taken") };
        leases.push(lease);
    }
    (member, leases)
}

/// The n-th of a series of commits: a message to each partition, of a length that is different each time.
fn step(n: u64) -> Commit {
    let text = format!("{n} {}", "x".repeat(n as usize * 7 % 60));
    let outgoing = |partition| Outgoing { to: results().partition(partition), record: record(&text) };
    Commit { results: vec![outgoing(0), outgoing(1)], checkpoint: n.to_string().into(), ..Commit::default() }
}

/// A data directory with the first commits of the series, left as a crash leaves it.
fn with_steps(steps: u64, options: &Options) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let log = Embedded::open(dir.path(), options.clone()).unwrap();
        let (_member, mut leases) = join(&log, vec![]).await;
        for n in 0..steps {
            leases[0].commit(step(n)).await.unwrap();
        }
    });
    dir
}

/// Everything that can be read of a partition.
async fn everything(log: &dyn Log, from: &TopicPartition) -> Result<Vec<Message>> {
    let extent = log.extents(&from.topic).await?[from.partition as usize];
    let mut messages: Vec<Message> = Vec::new();
    let mut next = extent.start;
    while next < extent.end {
        match log.read(from, next, Limit { rows: 6, bytes: 1 << 20 }, Duration::ZERO).await {
            Ok(some) => {
                next = some.last().unwrap().offset + 1;
                messages.extend(some);
            }
            // Retention was faster.
            Err(Error::OutOfRange { extent, .. }) if extent.start > next => {
                next = extent.start;
                messages.clear();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(messages)
}

/// How many commits of the series a log holds. Fails where it does not hold each of them whole and in order.
async fn steps(log: &dyn Log) -> Result<u64> {
    let checkpoints = group(vec![]).checkpoint;
    let extent = log.extents(&checkpoints).await?[0];
    for partition in 0..PARTITIONS {
        let messages = everything(log, &results().partition(partition)).await?;
        assert_eq!(messages.len() as u64, extent.end);
        for (n, message) in (0..).zip(messages) {
            assert_eq!((message.offset, &message.record), (n, &step(n).results[0].record));
        }
    }
    if extent.end > 0 {
        let last = log.read(&checkpoints.partition(0), extent.end - 1, ALL, Duration::ZERO).await?;
        assert_eq!(last[0].record.payload(), (extent.end - 1).to_string().as_bytes());
    }
    Ok(extent.end)
}

/// Opens the log, counts the commits of the series in it, and sees to it that another one can follow.
fn recovered(dir: &Path, options: &Options) -> Result<u64> {
    run(async {
        let beside = async { steps(&Reader::open(dir)?).await }.await;
        let recovered = async {
            let log = Embedded::open(dir, options.clone())?;
            let count = steps(&log).await?;
            let (_member, mut leases) = join(&log, vec![]).await;
            leases[0].commit(step(count)).await?;
            assert_eq!(steps(&log).await?, count + 1);
            assert_eq!(steps(&Reader::open(dir)?).await?, count + 1);
            Ok(count)
        };
        let recovered = recovered.await;
        // Whoever only looks sees the same, or that something is wrong.
        if let Ok(seen) = beside {
            assert_eq!(Some(seen), recovered.clone().ok());
        }
        recovered
    })
}

/// A copy of a data directory.
fn copy(dir: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in files(dir) {
        let target = to.path().join(file.strip_prefix(dir).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    to
}

/// All files below a folder, in the order of their names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn cut(file: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(len).unwrap();
}
