//! Old segments go, once nobody needs them.

use std::collections::HashMap;

use super::*;
use crate::bus::{Extent, Positions};

fn brief(age: Option<Duration>, bytes: Option<u64>) -> TopicSpec {
    let topic = Topic::of("acme.flights.brief", Channel::Results);
    TopicSpec { topic, partitions: PARTITIONS, cleanup: Cleanup::Delete { age, bytes } }
}

async fn feed(lease: &mut Box<dyn Lease>, to: &TopicPartition, commits: u32) {
    for n in 0..commits {
        let results = vec![Outgoing { to: to.clone(), record: record(&format!("{n:0100}")) }];
        lease.commit(Commit { results, ..Commit::default() }).await.unwrap();
    }
}

async fn extent(log: &dyn Log, of: &TopicPartition) -> Extent {
    log.extents(&of.topic).await.unwrap()[of.partition as usize]
}

#[test]
fn a_partition_keeps_the_bytes_it_is_told_and_counts_what_goes() {
    for sync in [Sync::Commit, Sync::Never] {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            let spec = brief(None, Some(1000));
            let at = spec.topic.partition(1);
            let log = Embedded::open(dir.path(), tiny(sync)).unwrap();
            log.declare(&[spec]).await.unwrap();
            let (member, mut leases) = join(&log, vec![]).await;
            feed(&mut leases[0], &at, 100).await;
            let Extent { start, end } = extent(&log, &at).await;
            // Segments of 400 bytes hold two messages.
            assert_eq!((start, end), (92, 100));
            let deleted: HashMap<_, _> = log.deleted().into_iter().collect();
            assert_eq!((deleted[&at].messages, deleted[&at].rows), (92, 184));
            assert_eq!(deleted[&at].bytes, 46 * (20 + 2 * 144));
            let on_disk = files(&dir.path().join("topics/acme.flights.brief.results")).len();
            assert_eq!(on_disk, 4);
            let gone = log.read(&at, start - 1, ALL, Duration::ZERO).await;
            assert!(matches!(gone, Err(Error::OutOfRange { .. })));
            assert_eq!(everything(&log, &at).await.unwrap().len(), 8);
            drop((member, leases, log));

            let log = Embedded::open(dir.path(), tiny(sync)).unwrap();
            assert_eq!(extent(&log, &at).await, Extent { start, end });
            assert_eq!(log.deleted().into_iter().collect::<HashMap<_, _>>(), deleted);
            assert_eq!(everything(&log, &at).await.unwrap().len(), 8);
        });
    }
}

#[test]
fn old_messages_go_and_the_partition_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let spec = brief(Some(Duration::ZERO), None);
        let at = spec.topic.partition(0);
        let log = Embedded::open(dir.path(), endless(Sync::Commit)).unwrap();
        log.declare(&[spec]).await.unwrap();
        let (_member, mut leases) = join(&log, vec![]).await;
        feed(&mut leases[0], &at, 5).await;
        log.enforce_retention().await.unwrap();
        assert_eq!(extent(&log, &at).await, Extent { start: 5, end: 5 });
        assert_eq!(files(&dir.path().join("topics/acme.flights.brief.results")), Vec::<PathBuf>::new());
        log.declare(&[brief(None, None)]).await.unwrap();
        feed(&mut leases[0], &at, 1).await;
        assert_eq!(everything(&log, &at).await.unwrap()[0].offset, 5);
    });
    run(async {
        let log = Embedded::open(dir.path(), endless(Sync::Commit)).unwrap();
        assert_eq!(extent(&log, &brief(None, None).topic.partition(0)).await, Extent { start: 5, end: 6 });
    });
}

#[test]
fn a_group_keeps_what_it_has_not_read_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let spec = brief(Some(Duration::ZERO), None);
    let at = spec.topic.partition(1);
    run(async {
        let log = Embedded::open(dir.path(), tiny(Sync::Commit)).unwrap();
        log.declare(std::slice::from_ref(&spec)).await.unwrap();
        let (_member, mut leases) = join(&log, vec![spec.topic.clone()]).await;
        feed(&mut leases[0], &at, 10).await;
        log.enforce_retention().await.unwrap();
        assert_eq!(extent(&log, &at).await.start, 0);
        let positions = Positions::from([(at.clone(), 5)]);
        leases[1].commit(Commit { positions, ..Commit::default() }).await.unwrap();
        log.enforce_retention().await.unwrap();
        // The segment with offsets 4 and 5 is still needed.
        assert_eq!(extent(&log, &at).await.start, 4);
    });
    run(async {
        let log = Embedded::open(dir.path(), tiny(Sync::Commit)).unwrap();
        log.enforce_retention().await.unwrap();
        assert_eq!(extent(&log, &at).await.start, 4);
        let (_member, mut leases) = join(&log, vec![spec.topic.clone()]).await;
        log.forget("acme.flights.a").await.unwrap();
        log.enforce_retention().await.unwrap();
        assert_eq!(extent(&log, &at).await, Extent { start: 10, end: 10 });
        assert!(matches!(leases[0].commit(Commit::default()).await, Err(Error::Fenced { .. })));
    });
}

#[test]
fn a_newcomer_starts_with_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let spec = brief(None, Some(1000));
        let at = spec.topic.partition(1);
        let log = Embedded::open(dir.path(), tiny(Sync::Commit)).unwrap();
        log.declare(std::slice::from_ref(&spec)).await.unwrap();
        let (member, mut leases) = join(&log, vec![]).await;
        feed(&mut leases[0], &at, 100).await;
        drop((member, leases));
        let (_member, mut leases) = join(&log, vec![spec.topic.clone()]).await;
        assert_eq!(leases[1].resume().await.unwrap().positions, Positions::from([(at, 92)]));
        assert_eq!(leases[1].poll(ALL, Duration::ZERO).await.unwrap()[0].offset, 92);
    });
}

#[test]
fn limits_declared_later_take_the_place_of_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let at = brief(None, None).topic.partition(0);
        let log = Embedded::open(dir.path(), tiny(Sync::Commit)).unwrap();
        log.declare(&[brief(None, None)]).await.unwrap();
        let (_member, mut leases) = join(&log, vec![]).await;
        feed(&mut leases[0], &at, 10).await;
        log.enforce_retention().await.unwrap();
        assert_eq!(extent(&log, &at).await.start, 0);
        log.declare(&[brief(Some(Duration::ZERO), None)]).await.unwrap();
        log.enforce_retention().await.unwrap();
        assert_eq!(extent(&log, &at).await.start, 10);
    });
}

#[test]
fn a_group_that_comes_late_is_told_what_it_has_missed() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let log = Embedded::open(dir.path(), tiny(Sync::Commit)).unwrap();
        let spec = brief(None, Some(1));
        let at = spec.topic.partition(1);
        log.declare(std::slice::from_ref(&spec)).await.unwrap();
        let (_feeder, mut feeders) = join(&log, vec![]).await;
        feed(&mut feeders[0], &at, 30).await;
        log.enforce_retention().await.unwrap();
        let gone = extent(&log, &at).await.start;
        assert!(gone > 0);
        let late = Group { name: "acme.flights.late".into(), ..group(vec![spec.topic.clone()]) };
        let mut member = log.join(late).await.unwrap();
        let mut leases = Vec::new();
        for _ in 0..2 {
            let Change::Given(lease) = member.changed().await.unwrap() else { panic!("it has its tasks") };
            leases.push(lease);
        }
        let resume = leases[1].resume().await.unwrap();
        assert_eq!((resume.missed, &resume.positions), (2 * gone, &Positions::from([(at, gone)])));
        leases[1].commit(Commit { positions: resume.positions, ..Commit::default() }).await.unwrap();
        assert_eq!(leases[1].resume().await.unwrap().missed, 0);
    });
}
