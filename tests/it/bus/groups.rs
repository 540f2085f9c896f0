//! Groups share nothing, and a task is one worker's at a time.

use fidelio::bus::{Change, Channel, Cleanup, Commit, Error, Lease, Limit, Positions, TopicSpec};

use super::Fixture;
use super::support::*;

pub async fn a_task_polls_its_own_partitions(f: Box<dyn Fixture>) {
    let (wide, narrow) = (f.topic("wide", Channel::Results), f.topic("narrow", Channel::Results));
    f.bus().declare(&[kept(&wide, 3), kept(&narrow, 1)]).await.unwrap();
    let (_feeder, mut feeder, _) = writer(&*f, "feeder").await;
    for (topic, partition, text) in [(&wide, 0, "w0"), (&wide, 1, "w1"), (&wide, 2, "w2"), (&narrow, 0, "n0")] {
        feeder.commit(results(&topic.partition(partition), &[text])).await.unwrap();
    }
    let group = stage(&*f, "a", &[&wide, &narrow], 3).await;
    let (_member, mut leases) = join(f.bus(), &group).await;
    for (lease, expected) in leases.iter_mut().zip([vec!["n0", "w0"], vec!["w1"], vec!["w2"]]) {
        let messages = poll(lease, expected.len()).await;
        let mut given = texts(&messages);
        given.sort_unstable();
        assert_eq!(given, expected);
        assert_eq!(lease.poll(ALL, NO_TIME).await.unwrap(), []);
    }
}

pub async fn two_groups_read_at_their_own_pace(f: Box<dyn Fixture>) {
    let (_feeder, mut feeder, topic) = writer(&*f, "feeder").await;
    let from = topic.partition(0);
    let groups = [stage(&*f, "a", &[&topic], 1).await, stage(&*f, "b", &[&topic], 1).await];
    let (_a, mut a) = join(f.bus(), &groups[0]).await;
    let (member, mut b) = join(f.bus(), &groups[1]).await;
    feeder.commit(results(&from, &["1", "2", "3"])).await.unwrap();
    assert_eq!(texts(&poll(&mut a[0], 3).await), ["1", "2", "3"]);
    a[0].commit(Commit { positions: Positions::from([(from.clone(), 3)]), ..Commit::default() }).await.unwrap();
    assert_eq!(texts(&poll(&mut b[0], 3).await), ["1", "2", "3"]);
    b[0].commit(Commit { positions: Positions::from([(from.clone(), 1)]), ..Commit::default() }).await.unwrap();
    feeder.commit(results(&from, &["4"])).await.unwrap();
    assert_eq!(texts(&poll(&mut a[0], 1).await), ["4"]);
    drop((member, b));
    let (_b, mut b) = join(f.bus(), &groups[1]).await;
    assert_eq!(texts(&poll(&mut b[0], 3).await), ["2", "3", "4"]);
}

pub async fn a_poll_waits_for_the_first_message(f: Box<dyn Fixture>) {
    let (_feeder, mut feeder, first) = writer(&*f, "feeder").await;
    let second = f.topic("second", Channel::Results);
    f.bus().declare(&[kept(&second, 1)]).await.unwrap();
    let group = stage(&*f, "a", &[&first, &second], 1).await;
    let (_member, mut leases) = join(f.bus(), &group).await;
    assert_eq!(leases[0].poll(ALL, NO_TIME).await.unwrap(), []);
    for topic in [&first, &second, &first, &second] {
        let (polled, committed) = tokio::join!(leases[0].poll(ALL, AGES), async {
            feeder.commit(results(&topic.partition(0), &["late"])).await
        });
        committed.unwrap();
        let polled = polled.unwrap();
        assert_eq!(texts(&polled), ["late"]);
        assert_eq!(polled[0].partition, topic.partition(0));
    }
}

pub async fn resuming_takes_polls_back(f: Box<dyn Fixture>) {
    let (_feeder, mut feeder, topic) = writer(&*f, "feeder").await;
    let from = topic.partition(0);
    feeder.commit(results(&from, &["1", "2", "3"])).await.unwrap();
    let group = stage(&*f, "a", &[&topic], 1).await;
    let (_member, mut leases) = join(f.bus(), &group).await;
    assert_eq!(texts(&poll(&mut leases[0], 3).await), ["1", "2", "3"]);
    leases[0].commit(Commit { positions: Positions::from([(from, 1)]), ..Commit::default() }).await.unwrap();
    assert_eq!(leases[0].poll(ALL, NO_TIME).await.unwrap(), []);
    leases[0].resume().await.unwrap();
    let one_by_one = [leases[0].poll(Limit::ONE, AGES).await, leases[0].poll(ALL, AGES).await];
    assert_eq!(one_by_one.map(|messages| texts(&messages.unwrap()).concat()), ["2", "3"]);
}

pub async fn a_task_is_one_members_at_a_time(f: Box<dyn Fixture>) {
    let (_feeder, _lease, topic) = writer(&*f, "feeder").await;
    let group = stage(&*f, "a", &[&topic], 2).await;
    let (mut old_member, mut old) = join(f.bus(), &group).await;
    if f.is_cluster() {
        let mut new_member = f.bus().join(group.clone()).await.unwrap();
        let taken = loop {
            match old_member.changed().await.unwrap() {
                Change::Taken(taken) => break taken,
                Change::Settled => {}
                Change::Given(_) => panic!("it is to share its tasks"),
            }
        };
        let mut new = loop {
            match new_member.changed().await.unwrap() {
                Change::Given(lease) => break lease,
                Change::Settled => {}
                Change::Taken(_) => panic!("it had none"),
            }
        };
        assert_eq!(new.task(), taken);
        new.resume().await.unwrap();
        new.commit(Commit::default()).await.unwrap();
        let [zero, one] = &mut old[..] else { panic!("there are two tasks") };
        let (lost, kept) = if taken == 0 { (zero, one) } else { (one, zero) };
        assert!(matches!(lost.commit(Commit::default()).await, Err(Error::Fenced { task, .. }) if task == taken));
        kept.commit(Commit::default()).await.unwrap();
        return;
    }
    // One that waits learns of it at once.
    let (polled, joined) = tokio::join!(old[0].poll(ALL, AGES), join(f.bus(), &group));
    assert!(matches!(polled, Err(Error::Fenced { task: 0, group: g }) if g == group.name));
    for task in 0..2 {
        assert!(matches!(old_member.changed().await.unwrap(), Change::Taken(taken) if taken == task));
    }
    let (_member, mut new) = joined;
    assert!(matches!(old[1].commit(Commit::default()).await, Err(Error::Fenced { task: 1, .. })));
    for lease in &mut new {
        lease.commit(Commit::default()).await.unwrap();
    }
}

pub async fn a_fenced_task_cannot_commit(f: Box<dyn Fixture>) {
    let (_feeder, mut feeder, topic) = writer(&*f, "feeder").await;
    feeder.commit(results(&topic.partition(0), &["1", "2"])).await.unwrap();
    let group = stage(&*f, "a", &[&topic], 1).await;
    let to = f.topic("a", Channel::Results).partition(0);
    let at = |position| Positions::from([(topic.partition(0), position)]);
    let step = |text: &str, position| Commit {
        checkpoint: text.to_owned().into(),
        positions: at(position),
        ..results(&to, &[text])
    };
    let (old_member, mut old) = join(f.bus(), &group).await;
    old[0].commit(step("old", 1)).await.unwrap();
    drop(old_member);
    let (_member, mut new) = join(f.bus(), &group).await;
    assert!(matches!(old[0].commit(step("zombie", 2)).await, Err(Error::Fenced { task: 0, .. })));
    let resume = new[0].resume().await.unwrap();
    assert_eq!((resume.checkpoint, resume.positions), (Some("old".into()), at(1)));
    new[0].commit(step("new", 2)).await.unwrap();
    assert_eq!(all_texts(f.bus(), &to).await, ["old", "new"]);
}

pub async fn a_group_that_is_forgotten_has_no_positions_but_its_checkpoints(f: Box<dyn Fixture>) {
    let (_feeder, mut feeder, topic) = writer(&*f, "feeder").await;
    feeder.commit(results(&topic.partition(0), &["1", "2"])).await.unwrap();
    let group = stage(&*f, "a", &[&topic], 1).await;
    let (member, mut leases) = join(f.bus(), &group).await;
    let positions = Positions::from([(topic.partition(0), 2)]);
    leases[0].commit(Commit { checkpoint: "all".into(), positions, ..Commit::default() }).await.unwrap();
    drop((member, leases));
    assert!(f.bus().groups().await.unwrap().contains(&group.name));

    // A cluster refuses as long as it has not heard that nobody runs it any more.
    while f.bus().forget(&group.name).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(!f.bus().groups().await.unwrap().contains(&group.name));
    f.bus().forget(&group.name).await.unwrap();

    let (_member, mut leases) = join(f.bus(), &group).await;
    let resume = leases[0].resume().await.unwrap();
    assert_eq!(resume.checkpoint, Some("all".into()), "what a task published stays, and so does its checkpoint");
    // A cluster also forgets groups that nobody has run for some days, whose tasks go on as their checkpoints say.
    let position = if f.bus().is_shared() { 2 } else { 0 };
    assert_eq!(resume.positions, Positions::from([(topic.partition(0), position)]));
    feeder.commit(results(&topic.partition(0), &["3"])).await.unwrap();
    let read = poll(&mut leases[0], 3 - position as usize).await;
    assert_eq!(texts(&read), ["1", "2", "3"][position as usize..]);
}

pub async fn retention_waits_for_consumers(f: Box<dyn Fixture>) {
    let (_feeder, mut feeder, _) = writer(&*f, "feeder").await;
    let topic = f.topic("brief", Channel::Results);
    let cleanup = Cleanup::Delete { age: None, bytes: Some(1) };
    f.bus().declare(&[TopicSpec { topic: topic.clone(), partitions: 1, cleanup }]).await.unwrap();
    let group = stage(&*f, "a", &[&topic], 1).await;
    let (_member, mut leases) = join(f.bus(), &group).await;
    let from = topic.partition(0);
    let text = "x".repeat(100);
    let feed = async |feeder: &mut Box<dyn Lease>| {
        for _ in 0..10 {
            feeder.commit(results(&from, &[text.as_str(); 10])).await.unwrap();
        }
    };
    feed(&mut feeder).await;
    let first = poll(&mut leases[0], 100).await;
    assert_eq!(first.len(), 100);
    let position = first[60].offset;
    leases[0]
        .commit(Commit { positions: Positions::from([(from.clone(), position)]), ..Commit::default() })
        .await
        .unwrap();
    feed(&mut feeder).await;
    assert!(f.bus().extents(&topic).await.unwrap()[0].start <= position);
    leases[0].resume().await.unwrap();
    let rest = poll(&mut leases[0], 140).await;
    assert_eq!(rest[..40], first[60..]);
    assert!(rest.is_sorted_by(|one, next| one.offset < next.offset));
}
