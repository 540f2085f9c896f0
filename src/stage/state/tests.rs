//! What open windows hold, written and read again.

use std::path::Path;

use ::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use ::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use ::arrow::util::pretty::pretty_format_batches;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::bus::memory::Memory;
use crate::bus::{Change, Cleanup, Commit, Group, Headers, Lease, Topic, TopicSpec};
use crate::operator::{Nanos, Windowed};
use crate::sql::Answer;
use crate::sql::Engine;

/// Partial aggregates of panes, rows, and rows of sessions.
const QUERY: &str = "SELECT window_start, name, count(*) AS n, median(amount) AS m, approx_distinct(amount) AS d \
     FROM hop(t, at, INTERVAL '20 seconds', INTERVAL '1 minute') GROUP BY window_start, name \
     UNION ALL SELECT window_start, name, row_number() OVER (PARTITION BY window_start ORDER BY amount, name), 0.5, 0 \
     FROM tumble(t, at, INTERVAL '1 minute') \
     UNION ALL SELECT window_start, name, count(*), 0.5, 0 FROM session(t, at, INTERVAL '20 seconds', name) GROUP BY window_start, name";

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ]))
}

fn rows(rows: &[(i64, u8)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(second, _)| second * 1_000_000))),
        Arc::new(StringArray::from_iter(rows.iter().map(|(_, n)| (n % 5 > 0).then(|| format!("n{}", n % 5))))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, n)| i64::from(*n)))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn windows() -> Windowed {
    let Answer::Windows(windows) = Engine::new().plan(QUERY, &[("t", schema())]).unwrap().answer() else { panic!() };
    *windows
}

fn shown(windows: &mut Windowed) -> String {
    // Sketches of distinct values have no order of their own.
    windows
        .shown()
        .unwrap()
        .iter()
        .map(|batch| pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string())
        .collect()
}

fn state() -> Topic {
    Topic::new("a.b.c.private.state")
}

/// A bus with the topics of a stage with one task, and the right to run it.
async fn bus() -> (Arc<Memory>, Box<dyn Lease>) {
    let bus = Arc::new(Memory::new());
    let spec = |name: &str, cleanup| TopicSpec { topic: Topic::new(name), partitions: 1, cleanup };
    let forever = Cleanup::Delete { age: None, bytes: None };
    let specs = [spec("a.b.c.private.state", forever), spec("a.b.c.private.checkpoint", Cleanup::KeepLast)];
    bus.declare(&specs).await.unwrap();
    let checkpoint = Topic::new("a.b.c.private.checkpoint");
    let group = Group { name: "a.b.c".into(), inputs: Vec::new(), checkpoint, tasks: 1 };
    let Change::Given(lease) = bus.join(group).await.unwrap().changed().await.unwrap() else { panic!() };
    (bus, lease)
}

#[derive(Debug, Clone)]
enum Step {
    Rows(Vec<(i64, u8)>),
    Close(i64),
    Commit,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => proptest::collection::vec((0_i64..400, any::<u8>()), 1..40).prop_map(Step::Rows),
        1 => (0_i64..300).prop_map(Step::Close),
        4 => Just(Step::Commit),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_committed_is_there_after_any_crash_and_what_is_needed_no_longer_goes(steps in steps(), message_bytes in 200_usize..9_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (bus, mut lease) = bus().await;
            let sizes = Sizes { piece_rows: 16, piece_bytes: 3_000, slack_bytes: 4_000, spare_bytes: 8_000, message_bytes };
            let log = || StateLog { sizes, ..StateLog::new(bus.clone(), state().partition(0)) };
            let (mut state_log, mut windows, mut saved) = (log(), windows(), None);
            let mut committed = shown(&mut windows);
            for step in steps {
                match step {
                    Step::Rows(batch) => drop(windows.absorb(0, &rows(&batch)).unwrap()),
                    Step::Close(second) => drop(windows.close(Some(Nanos::from(second) * 1_000_000_000)).unwrap()),
                    Step::Commit => {
                        let Changes { records, spare_before } = state_log.changes(&mut windows).unwrap();
                        saved = Some(state_log.saved(&windows));
                        lease.commit(Commit { state: records, ..Commit::default() }).await.unwrap();
                        if let Some(first) = spare_before {
                            state_log.trim(first).await.unwrap();
                        }
                        committed = shown(&mut windows);
                    }
                    Step::Crash => {
                        (state_log, windows) = (log(), self::windows());
                        if let Some(saved) = &saved {
                            state_log.restore(saved, &mut windows).await.unwrap();
                        }
                        prop_assert_eq!(&shown(&mut windows), &committed);
                    }
                }
            }
            if let Some(saved) = &saved {
                let mut restored = self::windows();
                log().restore(saved, &mut restored).await.unwrap();
                prop_assert_eq!(shown(&mut restored), committed);
                // Another number is another state.
                let more = Windows { next: saved.next + 1, ..saved.clone() };
                let mut reader = Reader { log: bus.as_ref(), at: &state().partition(0), next: None, patience: Instant::now() };
                for number in more.first..saved.next {
                    reader.message(number, &more).await.unwrap();
                }
                prop_assert!(reader.message(saved.next, &more).await.is_err());
            }
            Ok(())
        })?;
    }
}

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/stage/state/version-1.json");

#[tokio::test]
async fn what_was_written_stays_readable() {
    let (bus, mut lease) = bus().await;
    let mut windows = windows();
    windows.absorb(0, &rows(&[(-61, 9), (0, 1), (59, 2), (60, 3), (61, 0), (61, 3)])).unwrap();
    windows.close(Some(-3_000_000_000)).unwrap();
    if !Path::new(FIXTURE).exists() {
        let mut log = StateLog::new(bus.clone(), state().partition(0));
        log.sizes.message_bytes = 600;
        let records = log.changes(&mut windows).unwrap().records;
        let message = |outgoing: &Outgoing| {
            let headers: Vec<_> = outgoing
                .record
                .headers
                .iter()
                .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
                .collect();
            json!({ "headers": headers, "value": BASE64_STANDARD.encode(outgoing.record.payload()) })
        };
        let messages: Vec<Value> = records.iter().map(message).collect();
        let fixture = json!({ "windows": log.saved(&windows), "messages": messages });
        std::fs::write(FIXTURE, serde_json::to_vec_pretty(&fixture).unwrap()).unwrap();
    }
    let fixture: Value = serde_json::from_slice(&std::fs::read(FIXTURE).unwrap()).unwrap();
    let saved: Windows = serde_json::from_value(fixture["windows"].clone()).unwrap();
    let message = |message: &Value| {
        let headers: Vec<(String, String)> = serde_json::from_value(message["headers"].clone()).unwrap();
        let value = BASE64_STANDARD.decode(message["value"].as_str().unwrap()).unwrap();
        let record = Record {
            value: Some(value.into()),
            headers: headers.into_iter().collect::<Headers>(),
            ..Record::default()
        };
        Outgoing { to: state().partition(0), record }
    };
    let records: Vec<Outgoing> = fixture["messages"].as_array().unwrap().iter().map(message).collect();
    assert!(records.len() > 3, "a chunk is in several messages");
    lease.commit(Commit { state: records, ..Commit::default() }).await.unwrap();
    let mut restored = self::windows();
    StateLog::new(bus, state().partition(0)).restore(&saved, &mut restored).await.unwrap();
    assert_eq!(restored.closed().as_deref(), Some("-3000000000"));
    assert_eq!(shown(&mut restored), shown(&mut windows));
    let later = Windows { version: 2, ..saved };
    let refused = read(&Memory::new(), &state().partition(0), &later, &mut restored).await.unwrap_err();
    assert!(refused.to_string().contains("of version 2, and this program reads version 1"), "{refused}");
}

proptest! {
    #[test]
    fn columns_that_are_the_same_throughout_are_written_as_one_run_and_read_as_they_were(
        values in proptest::collection::vec((0_i64..2, 0_u8..3), 0..9), first in 0_usize..4,
    ) {
        let batch = rows(&values);
        let batch = batch.slice(first.min(batch.num_rows()), batch.num_rows().saturating_sub(first));
        let short = shortened(&batch).unwrap();
        let is_run = |column: usize| matches!(short.column(column).data_type(), DataType::RunEndEncoded(..));
        let left = values.get(first..).unwrap_or_default();
        let is_same = |of: fn(&(i64, u8)) -> i64| left.len() > 1 && left.iter().all(|it| of(it) == of(&left[0]));
        prop_assert_eq!([0, 1, 2].map(is_run), [is_same(|it| it.0), false, is_same(|it| i64::from(it.1))]);
        let read = arrow::decode(arrow::encode(&short).unwrap()).unwrap();
        prop_assert_eq!(lengthened(&read).unwrap(), batch);
    }
}
