//! What was committed is there after the process is not.

use fidelio::bus::{Channel, Commit, Positions, Resume};

use super::Fixture;
use super::support::*;

pub async fn a_crash_loses_nothing(mut f: Box<dyn Fixture>) {
    if f.is_durable() {
        let expected = fill(&*f).await;
        f.crash().await;
        assert_eq!(found(&*f).await, expected);
    }
}

pub async fn closing_loses_nothing(mut f: Box<dyn Fixture>) {
    if f.is_durable() {
        let expected = fill(&*f).await;
        f.reopen().await;
        assert_eq!(found(&*f).await, expected);
    }
}

pub async fn many_crashes_lose_nothing(mut f: Box<dyn Fixture>) {
    if !f.is_durable() {
        return;
    }
    let mut expected = Vec::new();
    for round in 0..6 {
        let (_member, mut lease, topic) = writer(&*f, "a").await;
        let to = topic.partition(0);
        assert_eq!(all_texts(f.bus(), &to).await, expected);
        for n in 0..5 {
            let text = format!("{round}-{n}");
            lease.commit(results(&to, &[&text])).await.unwrap();
            expected.push(text);
        }
        drop(lease);
        if round % 3 == 2 { f.reopen().await } else { f.crash().await }
    }
}

/// Everything that the two functions below are about: the texts of results and events, and what the task resumes from.
type Contents = (Vec<String>, Vec<String>, Resume);

async fn fill(f: &dyn Fixture) -> Contents {
    let (_feeder, mut feeder, topic) = writer(f, "feeder").await;
    let group = stage(f, "a", &[&topic], 1).await;
    let (_member, mut leases) = join(f.bus(), &group).await;
    let events = f.topic("a", Channel::Events).partition(0);
    for n in 0..30 {
        feeder.commit(results(&topic.partition(0), &[&format!("row {n}")])).await.unwrap();
        let commit = Commit {
            events: results(&events, &[&format!("event {n}")]).results,
            checkpoint: format!("checkpoint {n}").into(),
            positions: Positions::from([(topic.partition(0), n)]),
            ..Commit::default()
        };
        leases[0].commit(commit).await.unwrap();
    }
    let texts = |what: &str| (0..30).map(|n| format!("{what} {n}")).collect::<Vec<_>>();
    let positions = Positions::from([(topic.partition(0), 29)]);
    let resume = Resume { checkpoint: Some("checkpoint 29".into()), positions, ..Resume::default() };
    (texts("row"), texts("event"), resume)
}

async fn found(f: &dyn Fixture) -> Contents {
    let topic = f.topic("feeder", Channel::Results);
    let group = stage(f, "a", &[&topic], 1).await;
    let (_member, mut leases) = join(f.bus(), &group).await;
    let events = f.topic("a", Channel::Events).partition(0);
    let resume = leases[0].resume().await.unwrap();
    (all_texts(f.bus(), &topic.partition(0)).await, all_texts(f.bus(), &events).await, resume)
}
