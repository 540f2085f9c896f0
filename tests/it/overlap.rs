//! Steps are prepared and written while those before them are committed. When that commit fails, they have not happened
//! either: nothing is doubled and nothing lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fidelio::bus::memory::Memory;
use fidelio::bus::{
    Bus, Change, Commit, Error, Extent, Group, Lease, Limit, Log, Member, Message, Outcome, Outgoing, Result, Resume,
    Topic, TopicPartition, TopicSpec,
};
use fidelio::config::Draft;
use fidelio::sql::Engine;
use fidelio::stage::{Options, Summary, Worker};
use fidelio::topology::Topology;
use futures::future::{FutureExt, ready};
use tokio::sync::Mutex;

use crate::support::{Scratch, orders, records};

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "overlap"
[stages.orders]
source = { kind = "file", path = "in.ndjson" }
key = ["customer"]
partitions = 2
format = "json"
[stages.orders.schema]
id = "bigint not null"
customer = "text not null"
amount = "text"
[stages.priced]
from = ["orders"]
sql = "SELECT id, customer, CAST(amount AS INT) AS amount FROM orders WHERE id % 10 <> 3"
[stages.priced.events]
Large = "SELECT id FROM priced WHERE amount > 990"
[stages.out]
from = ["priced"]
sink = { kind = "file", path = "out/{partition}.ndjson" }
"#;

/// What becomes of a commit after which a task goes on from its last one.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// It has not happened, and the bus says so.
    Fenced,
    /// It has not happened, and nobody knows.
    Lost,
    /// It has happened, and nobody knows.
    Unanswered,
}

const FAILURES: [Failure; 3] = [Failure::Fenced, Failure::Lost, Failure::Unanswered];

/// A bus on which, of each task that reads something, commits fail beside which more was polled.
#[derive(Clone)]
struct Failing {
    memory: Memory,
    counted: Arc<Counted>,
}

/// What happened so far.
#[derive(Default)]
struct Counted {
    /// Commits that failed.
    failed: AtomicUsize,
    /// Steps that were written for the commit of a later one.
    written: AtomicUsize,
}

struct FailingMember {
    member: Box<dyn Member>,
    counted: Arc<Counted>,
}

struct FailingLease {
    lease: Arc<Mutex<Box<dyn Lease>>>,
    task: u32,
    left: Arc<Mutex<Vec<Failure>>>,
    counted: Arc<Counted>,
    /// Where the next message is that was not polled yet.
    polled: BTreeMap<TopicPartition, u64>,
}

#[async_trait]
impl Log for Failing {
    async fn topics(&self) -> Result<Vec<Topic>> {
        self.memory.topics().await
    }

    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        self.memory.extents(topic).await
    }

    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        self.memory.read(from, offset, limit, wait).await
    }
}

#[async_trait]
impl Bus for Failing {
    async fn declare(&self, topics: &[TopicSpec]) -> Result<()> {
        self.memory.declare(topics).await
    }

    async fn enroll(&self, groups: &[Group]) -> Result<()> {
        self.memory.enroll(groups).await
    }

    async fn join(&self, group: Group) -> Result<Box<dyn Member>> {
        Ok(Box::new(FailingMember { member: self.memory.join(group).await?, counted: self.counted.clone() }))
    }

    async fn groups(&self) -> Result<Vec<Arc<str>>> {
        self.memory.groups().await
    }

    async fn forget(&self, group: &str) -> Result<()> {
        self.memory.forget(group).await
    }

    async fn trim(&self, partition: &TopicPartition, before: u64) -> Result<()> {
        self.memory.trim(partition, before).await
    }

    async fn is_drained(&self, group: &Group) -> Result<bool> {
        self.memory.is_drained(group).await
    }

    fn max_record_bytes(&self) -> usize {
        self.memory.max_record_bytes()
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}

#[async_trait]
impl Member for FailingMember {
    async fn changed(&mut self) -> Result<Change> {
        Ok(match self.member.changed().await? {
            Change::Given(lease) => Change::Given(Box::new(FailingLease {
                task: lease.task(),
                lease: Arc::new(Mutex::new(lease)),
                left: Arc::new(Mutex::new(FAILURES.to_vec())),
                counted: self.counted.clone(),
                polled: BTreeMap::new(),
            })),
            change => change,
        })
    }
}

#[async_trait]
impl Lease for FailingLease {
    fn task(&self) -> u32 {
        self.task
    }

    fn again(&self) -> Option<Box<dyn Lease>> {
        let (lease, left, counted) = (self.lease.clone(), self.left.clone(), self.counted.clone());
        Some(Box::new(Self { lease, task: self.task, left, counted, polled: BTreeMap::new() }))
    }

    async fn resume(&mut self) -> Result<Resume> {
        self.lease.lock().await.resume().await
    }

    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let messages = self.lease.lock().await.poll(limit, wait).await?;
        let next = messages.iter().map(|message| (message.partition.clone(), message.offset + 1));
        self.polled.extend(next);
        Ok(messages)
    }

    async fn write(&mut self, records: Vec<Outgoing>) -> Result<()> {
        self.counted.written.fetch_add(1, Ordering::Relaxed);
        self.lease.lock().await.write(records).await
    }

    async fn submit(&mut self, commit: Commit) -> Result<Outcome> {
        let is_ahead = self.polled.iter().any(|(at, next)| commit.positions.get(at).is_some_and(|to| to < next));
        let failure = if is_ahead { self.left.lock().await.pop() } else { None };
        let Some(failure) = failure else { return self.lease.lock().await.submit(commit).await };
        self.counted.failed.fetch_add(1, Ordering::Relaxed);
        if matches!(failure, Failure::Unanswered) {
            self.lease.lock().await.commit(commit).await?;
        }
        let error = match failure {
            Failure::Fenced => Error::Fenced { group: "of the test".into(), task: self.task },
            _ => Error::Broker { action: "committing", detail: "no answer".to_owned(), passing: true },
        };
        Ok(ready(Err(error)).boxed())
    }
}

/// Runs the pipeline to its end, stage by stage, so that each has all of its input before it starts.
async fn run(scratch: &Scratch, bus: Arc<dyn Bus>) -> Summary {
    let draft = Draft::load(scratch.path("p.toml")).unwrap();
    let Ok((_, topology)) = Topology::of_draft(draft, &Engine::new()) else { panic!("the pipeline was refused") };
    let topology = Arc::new(topology);
    let mut summary = None;
    for stage in &topology.stages {
        let (stages, dir) = (vec![stage.name.to_string()], scratch.path(""));
        let options = Options { stages, dir, ..Options::default() };
        let worker = Worker::start(bus.clone(), topology.clone(), Arc::default(), options).await.unwrap();
        summary = Some(worker.finished().await.unwrap());
    }
    summary.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_while_the_next_steps_are_prepared_doubles_and_loses_nothing() {
    let input = orders(300_000);
    let (undisturbed, disturbed) = (Scratch::with(PIPELINE), Scratch::with(PIPELINE));
    undisturbed.write("in.ndjson", &input);
    disturbed.write("in.ndjson", &input);

    let bus = Arc::new(Memory::new());
    let expected = run(&undisturbed, bus.clone()).await;
    let failing = Failing { memory: Memory::new(), counted: Arc::default() };
    let found = run(&disturbed, Arc::new(failing.clone())).await;

    // Two tasks of each stage that reads another one.
    assert_eq!(failing.counted.failed.load(Ordering::Relaxed), 2 * 2 * FAILURES.len());
    assert!(failing.counted.written.load(Ordering::Relaxed) > 0, "no commit took in more than one step");
    for (found, expected) in found.stages.iter().zip(&expected.stages) {
        assert_eq!(found.account.lost, 0);
        assert_eq!(found.account.counts, expected.account.counts);
    }
    assert!(records(&failing).await == records(bus.as_ref()).await, "other records than undisturbed");
    for file in ["out/0.ndjson", "out/1.ndjson"] {
        assert!(disturbed.read(file) == undisturbed.read(file), "{file} differs");
    }
}
