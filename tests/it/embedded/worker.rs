//! A process that works in a data directory, and what it has to leave there.
//!
//! It is this very test binary, started again to run only the test below, which does nothing unless it is told where to
//! work. Its two tasks commit as fast as they can; the n-th commit of a task goes to both partitions of the results, to
//! events, to a topic whose messages are soon deleted, to the checkpoint and to the positions.

use std::env;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use fidelio::bus::embedded::{Embedded, Options};
use fidelio::bus::{
    Bus, Change, Channel, Cleanup, Commit, Error, Group, Lease, Limit, Log, Member, Outgoing, Positions, Record,
    Result, Topic, TopicPartition, TopicSpec,
};
use fidelio::config::Sync;

const NAME: &str = "acme.flights.worker";
pub const TASKS: usize = 2;

pub fn results() -> Topic {
    Topic::of(NAME, Channel::Results)
}

pub fn brief() -> Topic {
    Topic::of("acme.flights.brief", Channel::Results)
}

pub fn checkpoints() -> Topic {
    Topic::of(NAME, Channel::Checkpoint)
}

fn events() -> Topic {
    Topic::of(NAME, Channel::Events)
}

/// The process.
pub struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// How many commits each task was told are done.
    pub done: [u64; TASKS],
    /// What it said when it could not go on.
    pub complaint: Option<String>,
}

impl Worker {
    /// Starts it; each of its tasks commits until that many commits are done. `faults` is what is to fail, in the
    /// language of the crate `fail`.
    pub fn start(dir: &Path, sync: &str, commits: u64, faults: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["embedded::worker::works_where_it_is_told_to", "--exact", "--nocapture"])
            .env("FIDELIO_WORKER_DIR", dir)
            .env("FIDELIO_WORKER_SYNC", sync)
            .env("FIDELIO_WORKER_COMMITS", commits.to_string())
            .env("FAILPOINTS", faults)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, done: [0; TASKS], complaint: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Listens until the tasks have done that many more commits, or for as long as it says something.
    pub fn listen(&mut self, mut commits: u64) {
        while commits > 0
            && let Some(Ok(line)) = self.lines.next()
        {
            // What the test runner says stands in front of it.
            if let Some((_, commit)) = line.split_once("done: ") {
                let (task, n) = commit.split_once(' ').unwrap();
                self.done[task.parse::<usize>().unwrap()] = n.parse::<u64>().unwrap() + 1;
                commits -= 1;
            } else if let Some((_, complaint)) = line.split_once("complaint: ") {
                self.complaint = Some(complaint.to_owned());
            }
        }
    }

    /// Listens to the end; whether it ended well.
    pub fn wait(&mut self) -> bool {
        self.listen(u64::MAX);
        self.child.wait().unwrap().success()
    }

    /// Ends it at once, wherever it is.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn works_where_it_is_told_to() {
    let Ok(dir) = env::var("FIDELIO_WORKER_DIR") else { return };
    let sync = match env::var("FIDELIO_WORKER_SYNC").unwrap().as_str() {
        "commit" => Sync::Commit,
        "1ms" => Sync::Every(Duration::from_millis(1)),
        _ => Sync::Never,
    };
    let commits = env::var("FIDELIO_WORKER_COMMITS").unwrap().parse().unwrap();
    let _faults = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    if let Err(error) = runtime.block_on(work(dir.as_ref(), sync, commits)) {
        println!("\ncomplaint: {error}");
    }
}

async fn work(dir: &Path, sync: Sync, commits: u64) -> Result<()> {
    let log = open(dir, sync)?;
    let (_member, leases) = join(&log).await?;
    let tasks: Vec<_> = leases.into_iter().map(|lease| tokio::spawn(run(lease, commits))).collect();
    let mut outcome = Ok(());
    for task in tasks {
        outcome = outcome.and(task.await.unwrap());
    }
    outcome?;
    log.close().await
}

async fn run(mut lease: Box<dyn Lease>, commits: u64) -> Result<()> {
    let last = lease.resume().await?.checkpoint;
    let next = last.map_or(0, |last| std::str::from_utf8(&last).unwrap().parse::<u64>().unwrap() + 1);
    for n in next..commits {
        if let Err(error) = lease.commit(step(lease.task(), n)).await {
            // Once it has stopped, it stays so.
            assert!(matches!(error, Error::Stopped(_)), "{error}");
            assert!(matches!(lease.commit(step(lease.task(), n)).await, Err(Error::Stopped(_))));
            return Err(error);
        }
        println!("\ndone: {} {n}", lease.task());
    }
    Ok(())
}

/// Files small enough that there are many of them.
pub fn open(dir: &Path, sync: Sync) -> Result<Embedded> {
    Embedded::open(
        dir,
        Options { sync, segment_bytes: 1500, journal_bytes: 8000, tail_bytes: 1000, ..Options::default() },
    )
}

async fn join(log: &Embedded) -> Result<(Box<dyn Member>, Vec<Box<dyn Lease>>)> {
    let delete = |bytes| Cleanup::Delete { age: None, bytes };
    let specs = [
        (results(), delete(None)),
        (events(), delete(None)),
        (brief(), delete(Some(1000))),
        (checkpoints(), Cleanup::KeepLast),
    ];
    log.declare(&specs.map(|(topic, cleanup)| TopicSpec { topic, partitions: TASKS as u32, cleanup })).await?;
    let tasks = TASKS as u32;
    let group = Group { name: NAME.into(), inputs: vec![results()], checkpoint: checkpoints(), tasks };
    let mut member = log.join(group).await?;
    let mut leases = Vec::new();
    for _ in 0..TASKS {
        let Change::Given(lease) = member.changed().await? else { panic!("taken") };
        leases.push(lease);
    }
    Ok((member, leases))
}

fn step(task: u32, n: u64) -> Commit {
    let text = format!("{task} {n} {}", ".".repeat(n as usize * 13 % 70));
    let outgoing = |to: TopicPartition| {
        let record = Record { value: Some(text.clone().into()), rows: 1, ..Record::default() };
        Outgoing { to, record }
    };
    Commit {
        results: vec![
            outgoing(results().partition(0)),
            outgoing(results().partition(1)),
            outgoing(brief().partition(0)),
        ],
        events: vec![outgoing(events().partition(task))],
        checkpoint: n.to_string().into(),
        positions: Positions::from([(results().partition(task), n + 1)]),
        ..Commit::default()
    }
}

/// The task and number of the commit that a message belongs to.
pub fn origin(value: &[u8]) -> (usize, u64) {
    let text = std::str::from_utf8(value).unwrap();
    let mut words = text.split(' ');
    let (task, n) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
    assert_eq!(text, std::str::from_utf8(step(task as u32, n).results[0].record.payload()).unwrap());
    (task, n)
}

/// How many commits of each task the data directory holds; fails where one is there in part, twice or out of order.
pub fn left(dir: &Path) -> [u64; TASKS] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let log = open(dir, Sync::Commit).unwrap();
        let (_member, mut leases) = join(&log).await.unwrap();
        let counts = count(&log, &results().partition(0)).await;
        assert_eq!(count(&log, &results().partition(1)).await, counts);
        for (task, lease) in leases.iter_mut().enumerate() {
            let mut only_this = [0; TASKS];
            only_this[task] = counts[task];
            assert_eq!(count(&log, &events().partition(task as u32)).await, only_this);
            let resume = lease.resume().await.unwrap();
            let last = counts[task].checked_sub(1).map(|last| last.to_string().into());
            assert_eq!(resume.checkpoint, last);
            assert_eq!(resume.positions, Positions::from([(results().partition(task as u32), counts[task])]));
        }
        counts
    })
}

async fn count(log: &dyn Log, from: &TopicPartition) -> [u64; TASKS] {
    let mut counts = [0; TASKS];
    let end = log.extents(&from.topic).await.unwrap()[from.partition as usize].end;
    let mut next = 0;
    while next < end {
        for message in log.read(from, next, Limit { rows: 50, bytes: 1 << 20 }, Duration::ZERO).await.unwrap() {
            let (task, n) = origin(message.record.payload());
            assert_eq!((message.offset, n), (next, counts[task]));
            counts[task] += 1;
            next += 1;
        }
    }
    counts
}
