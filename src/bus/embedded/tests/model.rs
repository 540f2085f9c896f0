//! The log against a model of it that is a few vectors: whatever is done in whatever order, they hold the same.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::bus::embedded::frame::tests::records;
use crate::bus::{Extent, Positions};

#[derive(Debug, Clone)]
enum Action {
    /// A commit of one task: records and where they go, and how far it has read its own partition.
    Commit {
        task: u32,
        records: Vec<(u32, Record)>,
        read: u64,
    },
    /// Commits of both tasks at once.
    Both(Vec<(u32, Record)>, Vec<(u32, Record)>),
    Poll(u32, Limit),
    Rejoin,
    Retain,
    Crash,
    Close,
}

/// What the log should hold.
#[derive(Debug, Default)]
struct Model {
    partitions: [Vec<Record>; PARTITIONS as usize],
    positions: [u64; PARTITIONS as usize],
    checkpoints: [Option<u64>; PARTITIONS as usize],
    polled: [u64; PARTITIONS as usize],
    commits: u64,
}

fn addressed() -> impl Strategy<Value = Vec<(u32, Record)>> {
    vec((0..PARTITIONS, records()), 0..6)
}

fn actions() -> impl Strategy<Value = Action> {
    let limit = (0..9usize, 0..200usize).prop_map(|(rows, bytes)| Limit { rows, bytes });
    prop_oneof![
        8 => (0..PARTITIONS, addressed(), 0..9u64).prop_map(|(task, records, read)| Action::Commit { task, records, read }),
        2 => (addressed(), addressed()).prop_map(|(one, other)| Action::Both(one, other)),
        4 => (0..PARTITIONS, limit).prop_map(|(task, limit)| Action::Poll(task, limit)),
        1 => Just(Action::Rejoin),
        1 => Just(Action::Retain),
        1 => Just(Action::Crash),
        1 => Just(Action::Close),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let sync = prop_oneof![Just(Sync::Commit), Just(Sync::Never), Just(Sync::Every(Duration::from_millis(1)))];
    (sync, 50..2000u64, 500..9000u64, prop_oneof![Just(0), 0..3000usize]).prop_map(
        |(sync, segment_bytes, journal_bytes, tail_bytes)| Options {
            sync,
            segment_bytes,
            journal_bytes,
            tail_bytes,
            ..Options::default()
        },
    )
}

impl Model {
    fn commit(&mut self, task: u32, records: Vec<(u32, Record)>, read: u64) -> Commit {
        let task = task as usize;
        let end = self.partitions[task].len() as u64;
        self.positions[task] = (self.positions[task] + read).min(end);
        self.checkpoints[task] = Some(self.commits);
        let checkpoint = self.commits.to_string().into();
        self.commits += 1;
        let positions = Positions::from([(results().partition(task as u32), self.positions[task])]);
        self.append(&records);
        let results = records.into_iter().map(|(at, record)| Outgoing { to: results().partition(at), record });
        Commit { results: results.collect(), checkpoint, positions, ..Commit::default() }
    }

    fn append(&mut self, records: &[(u32, Record)]) {
        for (at, record) in records {
            self.partitions[*at as usize].push(record.clone());
        }
    }
}

/// A log, and the leases of its one group, which reads what it writes.
struct Subject {
    log: Embedded,
    _member: Box<dyn Member>,
    leases: Vec<Box<dyn Lease>>,
}

impl Subject {
    async fn open(dir: &Path, options: &Options) -> Self {
        let log = Embedded::open(dir, options.clone()).unwrap();
        let retention = Cleanup::Delete { age: None, bytes: Some(100) };
        log.declare(&[TopicSpec { topic: results(), partitions: PARTITIONS, cleanup: retention }]).await.unwrap();
        let (_member, leases) = rejoin(&log).await;
        Self { log, _member, leases }
    }
}

async fn rejoin(log: &Embedded) -> (Box<dyn Member>, Vec<Box<dyn Lease>>) {
    let group = group(vec![results()]);
    let checkpoints = TopicSpec { topic: group.checkpoint.clone(), partitions: PARTITIONS, cleanup: Cleanup::KeepLast };
    log.declare(&[checkpoints]).await.unwrap();
    let mut member = log.join(group).await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..PARTITIONS {
        let Change::Given(lease) = member.changed().await.unwrap() else { panic!("taken") };
        leases.push(lease);
    }
    (member, leases)
}

/// Compares everything that can be seen.
async fn check(model: &Model, log: &dyn Log, leases: &mut [Box<dyn Lease>]) {
    let extents = log.extents(&results()).await.unwrap();
    for (task, Extent { end, .. }) in extents.into_iter().enumerate() {
        let expected = &model.partitions[task];
        assert_eq!(end, expected.len() as u64);
        let at = results().partition(task as u32);
        let found = everything(log, &at).await.unwrap();
        let start = found.first().map_or(end, |message| message.offset);
        assert!(start <= model.positions[task], "deleted before it was read");
        let records: Vec<Record> = found.into_iter().map(|message| message.record).collect();
        assert_eq!(records, expected[start as usize..]);
        if start > 0 {
            let gone = log.read(&at, start - 1, ALL, Duration::ZERO).await;
            assert!(matches!(gone, Err(Error::OutOfRange { .. })));
        }
    }
    for (task, lease) in leases.iter_mut().enumerate() {
        let resume = lease.resume().await.unwrap();
        assert_eq!(resume.checkpoint, model.checkpoints[task].map(|n| n.to_string().into()));
        assert_eq!(resume.positions, Positions::from([(results().partition(task as u32), model.positions[task])]));
    }
}

async fn perform(actions: Vec<Action>, options: Options) {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut subject = Subject::open(dir.path(), &options).await;
    let beside = Reader::open(dir.path()).unwrap();
    for action in actions {
        match action {
            Action::Commit { task, records, read } => {
                let commit = model.commit(task, records, read);
                subject.leases[task as usize].commit(commit).await.unwrap();
            }
            Action::Both(one, other) => {
                let (one, other) = (model.commit(0, one, 0), model.commit(1, other, 0));
                let [first, second] = &mut subject.leases[..] else { panic!("not two tasks") };
                // Polled in this order, so they are committed in this order.
                let (one, other) = tokio::join!(biased; first.commit(one), second.commit(other));
                one.and(other).unwrap();
            }
            Action::Poll(task, limit) => {
                let from = &mut model.polled[task as usize];
                let messages = subject.leases[task as usize].poll(limit, Duration::ZERO).await.unwrap();
                let expected = &model.partitions[task as usize][*from as usize..];
                assert_eq!(messages.is_empty(), expected.is_empty());
                for message in messages {
                    assert_eq!(message.offset, *from);
                    assert_eq!(message.record, model.partitions[task as usize][*from as usize]);
                    *from += 1;
                }
                continue;
            }
            Action::Rejoin => (subject._member, subject.leases) = rejoin(&subject.log).await,
            Action::Retain => subject.log.enforce_retention().await.unwrap(),
            Action::Crash => {
                drop(subject);
                subject = Subject::open(dir.path(), &options).await;
            }
            Action::Close => {
                subject.log.close().await.unwrap();
                subject = Subject::open(dir.path(), &options).await;
            }
        }
        check(&model, &subject.log, &mut subject.leases).await;
        check(&model, &beside, &mut []).await;
        model.polled = model.positions;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_a_few_vectors_would(actions in vec(actions(), 1..40), options in options()) {
        run(perform(actions, options));
    }
}
