//! What was written can be read.

use bytes::Bytes;
use fidelio::bus::{Channel, Commit, Error, Extent, Headers, Limit, Outgoing, Record, TopicPartition};

use super::Fixture;
use super::support::*;

pub async fn messages_keep_their_order_and_offsets(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let mut expected = Vec::new();
    for commit in 0..20 {
        let texts: Vec<String> = (0..commit).map(|i| format!("{commit}-{i}")).collect();
        lease.commit(results(&to, &texts.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap();
        expected.extend(texts);
    }
    let messages = everything(f.bus(), &to).await;
    assert_eq!(texts(&messages), expected);
    assert!(messages.is_sorted_by(|one, next| one.offset < next.offset));
    assert!(messages.iter().all(|message| message.partition == to));
    let extent = f.bus().extents(&topic).await.unwrap()[0];
    assert!(extent.start == 0 && extent.end > messages.last().unwrap().offset);
    if !f.is_cluster() {
        assert_eq!(extent.end, expected.len() as u64);
    }
}

pub async fn a_read_can_start_in_the_middle(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let numbers: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    for chunk in numbers.chunks(9) {
        lease.commit(results(&to, &chunk.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap();
    }
    let offsets: Vec<u64> = everything(f.bus(), &to).await.iter().map(|message| message.offset).collect();
    for start in [99, 0, 50, 49, 3, 98, 50] {
        let messages = f.bus().read(&to, offsets[start], Limit { rows: 1, bytes: 1 }, AGES).await.unwrap();
        assert_eq!(texts(&messages), [start.to_string()]);
    }
    assert_eq!(f.bus().read(&to, offsets[99] + 1, ALL, NO_TIME).await.unwrap(), []);
}

pub async fn rows_are_counted_as_they_were_published(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let published: Vec<u32> = (0..60).map(|n| n * n % 7).collect();
    for rows in &published {
        let record = Record { rows: *rows, ..record(&"x".repeat(500)) };
        let results = vec![Outgoing { to: to.clone(), record }];
        lease.commit(Commit { results, ..Commit::default() }).await.unwrap();
    }
    let messages = everything(f.bus(), &to).await;
    for (number, message) in messages.iter().enumerate() {
        let rest: u32 = published[number..].iter().sum();
        assert_eq!(f.bus().rows(&to, message.offset).await.unwrap(), u64::from(rest), "from {number}");
    }
    let end = f.bus().extents(&topic).await.unwrap()[0].end;
    assert_eq!(f.bus().rows(&to, end).await.unwrap(), 0);
    assert!(matches!(f.bus().rows(&topic.partition(7), 0).await, Err(Error::UnknownPartition(_))));
}

pub async fn a_limit_bounds_what_is_given(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let records = [(5, 10), (5, 10), (1, 10), (0, 10), (0, 0)];
    let results = records.map(|(rows, bytes)| Outgoing {
        to: to.clone(),
        record: Record { rows, value: Some(vec![0; bytes].into()), ..Record::default() },
    });
    lease.commit(Commit { results: results.to_vec(), ..Commit::default() }).await.unwrap();
    for (rows, bytes, from, most) in
        [(1, 1, 0, 1), (9, 100, 0, 1), (10, 100, 0, 2), (11, 29, 0, 2), (11, 30, 0, 3), (3, 20, 2, 3), (2, 20, 2, 2)]
    {
        // A bus may give less at once, but never nothing and never more.
        let given = f.bus().read(&to, from, Limit { rows, bytes }, AGES).await.unwrap().len();
        assert!((1..=most).contains(&given), "{given} with {rows} rows and {bytes} bytes from {from}");
    }
}

pub async fn every_byte_survives(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let all_bytes: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let records = [
        Record::default(),
        Record { key: Some(Bytes::new()), value: Some(Bytes::new()), rows: u32::MAX, arrived: -1, ..Record::default() },
        Record { key: Some(all_bytes.clone()), value: Some(all_bytes.clone()), arrived: i64::MAX, ..Record::default() },
        Record {
            headers: Headers::from([("b", all_bytes.clone()), ("a", Bytes::new()), ("b", Bytes::new())]),
            ..record("ü")
        },
    ];
    let results = records.clone().map(|record| Outgoing { to: to.clone(), record });
    lease.commit(Commit { results: results.to_vec(), ..Commit::default() }).await.unwrap();
    let read: Vec<Record> = everything(f.bus(), &to).await.into_iter().map(|message| message.record).collect();
    assert_eq!(read, records);
}

pub async fn large_records_survive(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let size = f.bus().max_record_bytes().min(40 << 20);
    let mut large = (0..251u8).collect::<Vec<_>>().repeat(size / 251 + 1);
    large.truncate(size);
    let records = [record("before"), Record { value: Some(large.into()), ..Record::default() }, record("after")];
    let results = records.clone().map(|record| Outgoing { to: to.clone(), record });
    lease.commit(Commit { results: results.to_vec(), ..Commit::default() }).await.unwrap();
    let read: Vec<Record> = everything(f.bus(), &to).await.into_iter().map(|message| message.record).collect();
    assert!(read == records);

    let limit = f.bus().max_record_bytes();
    let results = vec![Outgoing {
        to: to.clone(),
        record: Record { value: Some(vec![0; limit + 1].into()), ..Record::default() },
    }];
    let refused = lease.commit(Commit { results, ..Commit::default() }).await;
    assert!(matches!(refused, Err(Error::TooLarge { to: at, bytes, .. }) if at == to && bytes == limit + 1));
}

pub async fn empty_topics_are_empty(f: Box<dyn Fixture>) {
    let topic = f.topic("a", Channel::Results);
    f.bus().declare(&[kept(&topic, 3)]).await.unwrap();
    assert_eq!(f.bus().extents(&topic).await.unwrap(), [Extent::default(); 3]);
    assert_eq!(f.bus().read(&topic.partition(2), 0, ALL, NO_TIME).await.unwrap(), []);
    let beyond = f.bus().read(&topic.partition(2), 1, ALL, NO_TIME).await;
    assert!(matches!(
        beyond,
        Err(Error::OutOfRange { partition, offset: 1, extent: Extent { start: 0, end: 0 } })
            if partition == topic.partition(2)
    ));
}

pub async fn what_does_not_exist_is_refused(f: Box<dyn Fixture>) {
    let topic = f.topic("a", Channel::Results);
    assert!(matches!(f.bus().extents(&topic).await, Err(Error::UnknownTopic(t)) if t == topic));
    let read = f.bus().read(&topic.partition(0), 0, ALL, NO_TIME).await;
    assert!(matches!(read, Err(Error::UnknownTopic(t)) if t == topic));
    f.bus().declare(&[kept(&topic, 3)]).await.unwrap();
    let read = f.bus().read(&topic.partition(3), 0, ALL, NO_TIME).await;
    assert!(matches!(read, Err(Error::UnknownPartition(at)) if at == topic.partition(3)));
}

pub async fn many_partitions_are_kept_apart(f: Box<dyn Fixture>) {
    const PARTITIONS: u32 = 100;
    let (_member, mut lease, _) = writer(&*f, "a").await;
    let topic = f.topic("b", Channel::Results);
    f.bus().declare(&[kept(&topic, PARTITIONS)]).await.unwrap();
    for round in 0..2 {
        let results =
            (0..PARTITIONS).map(|n| Outgoing { to: topic.partition(n), record: record(&format!("{round}-{n}")) });
        lease.commit(Commit { results: results.collect(), ..Commit::default() }).await.unwrap();
    }
    let extents = f.bus().extents(&topic).await.unwrap();
    let end = if f.is_cluster() { 4 } else { 2 };
    assert_eq!(extents, vec![Extent { start: 0, end }; PARTITIONS as usize]);
    for n in 0..PARTITIONS {
        assert_eq!(all_texts(f.bus(), &topic.partition(n)).await, [format!("0-{n}"), format!("1-{n}")]);
    }
}

pub async fn a_read_waits_for_the_first_message(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to = topic.partition(0);
    let mut next = 0;
    for _ in 0..20 {
        let (read, committed) =
            tokio::join!(f.bus().read(&to, next, ALL, AGES), async { lease.commit(results(&to, &["late"])).await });
        committed.unwrap();
        let read = read.unwrap();
        assert_eq!(texts(&read), ["late"]);
        next = read[0].offset + 1;
    }
}

pub async fn topics_are_declared_once(f: Box<dyn Fixture>) {
    let (_member, mut lease, topic) = writer(&*f, "a").await;
    let to: TopicPartition = topic.partition(0);
    lease.commit(results(&to, &["kept"])).await.unwrap();
    f.bus().declare(&[kept(&topic, 1)]).await.unwrap();
    let other = f.topic("b", Channel::Results);
    let differs = f.bus().declare(&[kept(&other, 1), kept(&topic, 2)]).await;
    assert!(matches!(differs, Err(Error::PartitionsDiffer { topic: t, found: 1, wanted: 2 }) if t == topic));
    assert_eq!(all_texts(f.bus(), &to).await, ["kept"]);
}
