//! How long after their events rows come by, as the metrics of a running worker say it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::{Running, Scratch, get, until};

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "lag"
[stages.visits]
source = { kind = "file", path = "in.ndjson", follow = true }
event_time = { column = "at" }
[stages.visits.schema]
id = "bigint not null"
at = "timestamp"
[stages.pages]
from = ["visits"]
sql = "SELECT id + 1 AS page, at AS seen FROM visits"
[stages.out]
from = ["pages"]
sink = { kind = "file", path = "out.ndjson" }
"#;

/// The samples of a stage, by the metric's name.
fn samples(address: &str, stage: &str) -> BTreeMap<String, f64> {
    let metrics = get(address, "/metrics");
    let of_stage = format!("stage=\"{stage}\"");
    let samples = metrics.lines().filter(|line| line.contains(&of_stage) && !line.contains("_bucket{"));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let state = name.split_once("state=\"").map(|(_, state)| format!(" {}", state.trim_end_matches("\"}")));
        Some((format!("{}{}", name.split('{').next()?, state.unwrap_or_default()), value.parse().ok()?))
    };
    samples.filter_map(sample).collect()
}

fn since_1970(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn each_stage_says_how_long_after_their_events_rows_arrive_and_depart_and_what_is_history() {
    let scratch = Scratch::with(PIPELINE);
    let mut input = std::fs::File::create(scratch.path("in.ndjson")).unwrap();
    let mut write = |times: &[Option<f64>]| {
        let line = |(id, at): (usize, &Option<f64>)| {
            let at = at.map(|at| format!("{}", (at * 1e6) as i64));
            let at = at.map(|micros| {
                let micros: i64 = micros.parse().unwrap();
                arrow::temporal_conversions::timestamp_us_to_datetime(micros).unwrap().and_utc().to_rfc3339()
            });
            json!({ "id": id, "at": at }).to_string() + "\n"
        };
        input.write_all(times.iter().enumerate().map(line).collect::<String>().as_bytes()).unwrap();
    };
    // History: it had happened before the pipeline first ran.
    write(&[Some(1e9); 10]);
    let mut command = scratch.command(&["run", "p.toml", "--http", "0"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = worker.http_address();
    let rows = |rows: f64| {
        until("rows have come through", || {
            samples(&address, "out").get("fidelio_rows_out_total").is_some_and(|out| *out >= rows)
        })
    };
    rows(10.0);
    let now = since_1970(SystemTime::now());
    let hour = Duration::from_secs(3_600).as_secs_f64();
    write(&[Some(now), Some(now), Some(now), Some(now + hour), None]);
    rows(15.0);

    for stage in ["visits", "pages", "out"] {
        let of = samples(&address, stage);
        assert_eq!(of["fidelio_rows_backfilled_total"], 10.0, "{stage}");
        assert_eq!(of["fidelio_rows_ahead_total"], 1.0, "{stage}");
        for lag in ["fidelio_event_lag_arrival_seconds", "fidelio_event_lag_departure_seconds"] {
            assert_eq!(of[&format!("{lag}_count")], 4.0, "{stage}");
        }
        let [arrival, departure] =
            ["arrival", "departure"].map(|what| of[&format!("fidelio_event_lag_{what}_seconds_sum")]);
        let passed = since_1970(SystemTime::now()) - now;
        // Three rows have a lag, the fourth counts as 0.
        assert!(0.0 < arrival && arrival <= departure && departure <= 4.0 * passed, "{stage}: {arrival} {departure}");
        assert_eq!(of["fidelio_residence_seconds_count"], 15.0, "{stage}");
        assert!(of["fidelio_commit_duration_seconds_count"] >= 2.0 && of["fidelio_commit_rows_sum"] == 15.0, "{stage}");
        assert!(of["fidelio_in_bytes_total"] > 0.0 && of["fidelio_out_bytes_total"] > 0.0, "{stage}");
        assert!(of["fidelio_checkpoint_bytes"] > 0.0, "{stage}");
        let spent = ["busy", "idle", "backpressured"].map(|state| of[&format!("fidelio_task_seconds_total {state}")]);
        assert!(spent.iter().all(|seconds| *seconds > 0.0), "{stage}: {spent:?}");
    }
    let caught_up = |stage| {
        let of = samples(&address, stage);
        of.get("fidelio_consumer_lag_offsets") == Some(&0.0) && of["fidelio_consumer_lag_seconds"] == 0.0
    };
    until("it is seen that nothing is left", || ["pages", "out"].into_iter().all(caught_up));
    worker.terminate();
    worker.ended_well();
}
