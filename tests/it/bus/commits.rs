//! A commit happens as a whole, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use fidelio::bus::{Channel, Commit, Error, Extent, Outgoing, Positions, Record, Resume};

use super::Fixture;
use super::support::*;

pub async fn a_commit_shows_in_all_topics_at_once(f: Box<dyn Fixture>) {
    const COMMITS: u64 = 200;
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let channels = [Channel::Results, Channel::Events, Channel::DeadLetters];
    let topics = channels.map(|channel| f.topic("a", channel));
    let outgoing = |channel: usize| vec![Outgoing { to: topics[channel].partition(0), record: record("x") }];
    let writes = async {
        for _ in 0..COMMITS {
            let (results, events, dead_letters) = (outgoing(0), outgoing(1), outgoing(2));
            lease.commit(Commit { results, events, dead_letters, ..Commit::default() }).await.unwrap();
        }
    };
    let looks = async {
        let mut seen = 0;
        while seen < COMMITS {
            for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
                let mut ends = Vec::new();
                for channel in order {
                    ends.push(f.bus().extents(&topics[channel]).await.unwrap()[0].end);
                }
                // Whoever looks later sees as much, whichever topic it is.
                assert!(ends.is_sorted() || f.is_cluster(), "{order:?} ended at {ends:?}");
                seen = ends[0];
            }
            f.bus().read(&topic.partition(0), seen, ALL, NO_TIME).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writes, looks);
}

pub async fn a_refused_commit_leaves_no_trace(f: Box<dyn Fixture>) {
    let input = f.topic("in", Channel::Results);
    f.bus().declare(&[kept(&input, 1)]).await.unwrap();
    let group = stage(&*f, "a", &[&input], 1).await;
    let (member, mut leases) = join(f.bus(), &group).await;
    let to = f.topic("a", Channel::Results).partition(0);
    leases[0].commit(results(&to, &["good"])).await.unwrap();

    let mut bad = results(&to, &["bad"]);
    bad.checkpoint = "bad".into();
    bad.positions = Positions::from([(input.partition(0), 0)]);
    bad.events = vec![Outgoing { to: f.topic("nowhere", Channel::Events).partition(0), record: record("bad") }];
    assert!(matches!(leases[0].commit(bad.clone()).await, Err(Error::UnknownTopic(_))));
    drop((member, leases));

    let (member, mut leases) = join(f.bus(), &group).await;
    bad.events[0].to = f.topic("a", Channel::Events).partition(7);
    assert!(matches!(leases[0].commit(bad).await, Err(Error::UnknownPartition(_))));
    drop((member, leases));

    let (_member, mut leases) = join(f.bus(), &group).await;
    assert_eq!(leases[0].resume().await.unwrap().checkpoint.as_deref(), Some(&b""[..]));
    leases[0].commit(results(&to, &["better"])).await.unwrap();
    assert_eq!(all_texts(f.bus(), &to).await, ["good", "better"]);
}

pub async fn what_is_written_is_seen_with_the_next_commit(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    lease.write(results(&to, &["1"]).results).await.unwrap();
    lease.write(results(&to, &["2", "3"]).results).await.unwrap();
    assert!(f.bus().read(&to, 0, ALL, NO_TIME).await.unwrap().is_empty());
    // What is written while a commit is on its way is for the next one.
    let outcome = lease.submit(results(&to, &["4"])).await.unwrap();
    lease.write(results(&to, &["5"]).results).await.unwrap();
    outcome.await.unwrap();
    assert_eq!(all_texts(f.bus(), &to).await, ["1", "2", "3", "4"]);
    lease.commit(Commit::default()).await.unwrap();
    assert_eq!(all_texts(f.bus(), &to).await, ["1", "2", "3", "4", "5"]);
}

pub async fn what_is_written_and_not_committed_is_never_seen(f: Box<dyn Fixture>) {
    let group = stage(&*f, "a", &[], 1).await;
    let to = f.topic("a", Channel::Results).partition(0);
    let (member, mut leases) = join(f.bus(), &group).await;
    leases[0].commit(results(&to, &["good"])).await.unwrap();
    leases[0].write(results(&to, &["given up"]).results).await.unwrap();
    leases[0].resume().await.unwrap();
    leases[0].write(results(&to, &["left"]).results).await.unwrap();
    drop((member, leases));
    let (_member, mut leases) = join(f.bus(), &group).await;
    leases[0].resume().await.unwrap();
    leases[0].commit(results(&to, &["better"])).await.unwrap();
    assert_eq!(all_texts(f.bus(), &to).await, ["good", "better"]);
}

pub async fn what_is_wrong_with_a_write_the_commit_says(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let (to, nowhere) = (topic.partition(0), f.topic("nowhere", Channel::Events).partition(0));
    let written = lease.write(vec![Outgoing { to: nowhere, record: record("bad") }]).await;
    let committed = lease.commit(results(&to, &["good"])).await;
    assert!(matches!(written.and(committed), Err(Error::UnknownTopic(_))));
    assert!(f.bus().read(&to, 0, ALL, NO_TIME).await.unwrap().is_empty());
}

pub async fn many_tasks_share_partitions(f: Box<dyn Fixture>) {
    const TASKS: u32 = 8;
    const COMMITS: u32 = 25;
    const PARTITIONS: u32 = 5;
    let topic = f.topic("b", Channel::Results);
    f.bus().declare(&[kept(&topic, PARTITIONS)]).await.unwrap();
    let group = stage(&*f, "a", &[], TASKS).await;
    let (_member, leases) = join(f.bus(), &group).await;
    let tasks = leases.into_iter().map(|mut lease| {
        let topic = topic.clone();
        tokio::spawn(async move {
            for n in 0..COMMITS {
                let text = format!("{} {n}", lease.task());
                let results =
                    (0..PARTITIONS).map(|p| Outgoing { to: topic.partition(p), record: record(&text) }).collect();
                lease.commit(Commit { results, ..Commit::default() }).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut first: Option<Vec<String>> = None;
    for p in 0..PARTITIONS {
        let all = all_texts(f.bus(), &topic.partition(p)).await;
        let mut by_task = BTreeMap::<&str, Vec<u32>>::new();
        for text in &all {
            let (task, n) = text.split_once(' ').unwrap();
            by_task.entry(task).or_default().push(n.parse().unwrap());
        }
        assert_eq!(by_task.len(), TASKS as usize);
        assert!(by_task.values().all(|numbers| numbers.iter().copied().eq(0..COMMITS)));
        assert_eq!(first.get_or_insert_with(|| all.clone()).len(), all.len());
    }
}

pub async fn a_task_resumes_from_its_last_commit(f: Box<dyn Fixture>) {
    let inputs = ["x", "y"].map(|stage| f.topic(stage, Channel::Results));
    f.bus().declare(&inputs.clone().map(|topic| kept(&topic, 2))).await.unwrap();
    let (_feeder, mut feeder, _) = writer(&*f, "feeder").await;
    for topic in &inputs {
        for partition in 0..2 {
            feeder.commit(results(&topic.partition(partition), &["a", "b", "c", "d"])).await.unwrap();
        }
    }
    let group = stage(&*f, "a", &[&inputs[0], &inputs[1]], 2).await;
    let (member, mut leases) = join(f.bus(), &group).await;
    let [x, y] = inputs.map(|topic| topic.partition(1));
    let fresh = Resume { positions: Positions::from([(x.clone(), 0), (y.clone(), 0)]), ..Resume::default() };
    assert_eq!(leases[1].resume().await.unwrap(), fresh);
    for (position, checkpoint) in [(1, "one"), (3, "three")] {
        let positions = Positions::from([(y.clone(), position)]);
        leases[1].commit(Commit { checkpoint: checkpoint.into(), positions, ..Commit::default() }).await.unwrap();
    }
    drop((member, leases));
    let (_member, mut leases) = join(f.bus(), &group).await;
    let resume = Resume {
        checkpoint: Some("three".into()),
        positions: Positions::from([(x.clone(), 0), (y.clone(), 3)]),
        ..Resume::default()
    };
    assert_eq!(leases[1].resume().await.unwrap(), resume);
    assert_eq!(leases[0].resume().await.unwrap().checkpoint, None);
    let messages = poll(&mut leases[1], 5).await;
    let offsets = |of| messages.iter().filter(|m| m.partition == of).map(|m| m.offset).collect::<Vec<_>>();
    assert_eq!((offsets(x), offsets(y)), (vec![0, 1, 2, 3], vec![3]));
}

pub async fn only_the_last_checkpoint_counts(f: Box<dyn Fixture>) {
    let group = stage(&*f, "a", &[], 1).await;
    let (_member, mut leases) = join(f.bus(), &group).await;
    for n in 0..100u8 {
        leases[0].commit(Commit { checkpoint: vec![n; 100].into(), ..Commit::default() }).await.unwrap();
    }
    assert_eq!(leases[0].resume().await.unwrap().checkpoint, Some(vec![99; 100].into()));
    let extent = f.bus().extents(&group.checkpoint).await.unwrap()[0];
    let last = everything(f.bus(), &group.checkpoint.partition(0)).await.pop().unwrap();
    assert_eq!(last.record.payload(), [99; 100]);
    if f.is_cluster() {
        return;
    }
    assert_eq!((extent.end, last.offset), (100, 99));
    if extent.start > 0 {
        let before = f.bus().read(&group.checkpoint.partition(0), extent.start - 1, ALL, NO_TIME).await;
        assert!(matches!(before, Err(Error::OutOfRange { extent: Extent { end: 100, .. }, .. })));
    }
}

pub async fn batches_are_no_more_than_a_shortcut(f: Box<dyn Fixture>) {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let written = Record { batch: Some(batch.clone()), rows: 3, ..record("encoded") };
    let results = vec![Outgoing { to: to.clone(), record: written.clone() }];
    lease.commit(Commit { results, ..Commit::default() }).await.unwrap();
    let read = f.bus().read(&to, 0, ALL, AGES).await.unwrap().remove(0).record;
    assert!(read.batch.as_ref().is_none_or(|read| *read == batch));
    assert_eq!(Record { batch: None, ..read }, Record { batch: None, ..written });
}
