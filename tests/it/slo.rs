//! What `[slo]` promises: minutes are judged in the metrics and in the audit, and alerts for Prometheus tell of it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::{Running, Scratch, get, until};

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "slo"
[slo]
lag_p95 = "2s"
[stages.visits]
source = { kind = "file", path = "in.ndjson", follow = true }
event_time = { column = "at" }
[stages.visits.schema]
id = "bigint not null"
at = "timestamp not null"
[stages.pages]
from = ["visits"]
sql = "SELECT id, at FROM visits"
slo = { lag_p50 = "2h", target = "99%" }
[stages.out]
from = ["pages"]
sink = { kind = "file", path = "out.ndjson" }
"#;

/// The folder with Prometheus and its tools.
pub fn prometheus() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prometheus/install");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Runs a command of promtool on a file, which must end well.
fn promtool(scratch: &Scratch, arguments: &[&str]) -> String {
    let output =
        Command::new(prometheus().join("promtool")).args(arguments).current_dir(scratch.path("")).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn minutes_are_good_or_bad_by_what_is_promised_in_the_metrics_and_in_the_audit() {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in.ndjson", "");
    let mut command = scratch.command(&["run", "p.toml", "--http", "0"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = worker.http_address();
    let metric = |name: &str| {
        let metrics = get(&address, "/metrics");
        metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
    };
    let judged = |stage: &str, verdict: &str| {
        let labels = format!("pipeline=\"acme.slo\",stage=\"{stage}\",task=\"0\",verdict=\"{verdict}\"");
        metric(&format!("fidelio_slo_minutes_total{{{labels}}}")).unwrap_or_default()
    };
    let target = "fidelio_slo_target_ratio{pipeline=\"acme.slo\",stage=\"pages\"}";
    until("the tasks have begun", || metric(target).is_some());
    assert_eq!(metric(target), Some(0.99));
    // They have, where what happened since is no history any more: rows are some minutes ahead of now, and one is an hour.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
    let at = |minutes: i64| {
        let micros = now + minutes * 60_000_000;
        arrow::temporal_conversions::timestamp_us_to_datetime(micros).unwrap().and_utc().to_rfc3339()
    };
    let minutes = [1; 40].into_iter().chain([2, 3, 60]);
    let rows: String = minutes.map(|minute| format!("{{\"id\": 1, \"at\": \"{}\"}}\n", at(minute))).collect();
    scratch.write("in.ndjson", &rows);
    // Minutes are final once a row of a later one is there; what leaves before its event is in time.
    until("three minutes are final", || ["pages", "out"].iter().all(|stage| judged(stage, "good") == 3.0));
    worker.terminate();
    worker.ended_well();
    let audit = scratch.fidelio(&["audit", "p.toml", "--json"]);
    let found: Value = serde_json::from_slice(&audit.stdout).unwrap();
    for stage in [1, 2] {
        let account = &found["stages"][stage];
        assert_eq!((&account["slo"]["good"], &account["availability"]), (&3.into(), &1.0.into()), "{account}");
    }
    assert_eq!(found["stages"][0].get("slo"), None);

    // Two hours later by the clock of the machine, the row of an hour is late, and so is another one of an hour.
    let mut later = scratch.read("in.ndjson");
    // One of the first minute, which is one of many there, and does not make it bad.
    later.push_str(&format!("{{\"id\": 4, \"at\": \"{}\"}}\n", at(1)));
    later.push_str(&format!("{{\"id\": 2, \"at\": \"{}\"}}\n", at(60)));
    later.push_str(&format!("{{\"id\": 3, \"at\": \"{}\"}}\n", at(200)));
    scratch.write("in.ndjson", &later);
    let mut command = scratch.command(&["run", "p.toml", "--http", "0"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info").env("FAILPOINTS", "clock=return(7200)"));
    let address = worker.http_address();
    let judged = |stage: &str, verdict: &str| {
        let metrics = get(&address, "/metrics");
        let labels = format!("pipeline=\"acme.slo\",stage=\"{stage}\",task=\"0\",verdict=\"{verdict}\"");
        let name = format!("fidelio_slo_minutes_total{{{labels}}}");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse::<f64>().ok()).unwrap_or(0.0)
    };
    // Half of the rows were in time at `out`, of which 95 % are to be.
    until("the minute is judged", || judged("out", "bad") == 1.0 && judged("pages", "good") == 1.0);
    worker.terminate();
    worker.ended_well();
    let shown = scratch.fidelio(&["audit", "p.toml"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("out: 3 of 4 minutes were good, 75.000 %"), "{shown}");
}

/// A rule test of promtool in which these series are scraped for 80 hours, with the alerts that are to fire then, by name, stage and
/// window.
fn rule_test(series: &[(&str, &str)], firing: &[&str]) -> String {
    let of = |labels: &str| match labels {
        "" => "pipeline=\"acme.slo\",stage=\"out\",task=\"0\"".to_owned(),
        more => format!("pipeline=\"acme.slo\",stage=\"out\",task=\"0\",{more}"),
    };
    let series = series.iter().map(|(name, values)| {
        let (name, labels) = name.split_once(' ').unwrap_or((name, ""));
        format!("      - series: '{name}{{{}}}'\n        values: '{values}x2400'\n", of(labels))
    });
    let samples = firing.iter().map(|alert| {
        let (name, labels) = alert.split_once(' ').unwrap_or((alert, ""));
        let labels = if labels.is_empty() { String::new() } else { format!(", {labels}") };
        format!("          - labels: '{{alertname=\"{name}\"{labels}}}'\n            value: 1\n")
    });
    let expected = if firing.is_empty() { "          []\n".to_owned() } else { samples.collect() };
    format!(
        "  - interval: 2m\n    input_series:\n{}    promql_expr_test:\n      \
         - expr: count by (alertname, stage, from, window) (ALERTS{{alertstate=\"firing\"}})\n        eval_time: 80h\n        \
         exp_samples:\n{expected}",
        series.collect::<String>()
    )
}

#[test]
fn alerts_fire_for_what_they_tell_of_and_for_nothing_else() {
    let scratch = Scratch::with(PIPELINE);
    let rules = scratch.fidelio(&["alerts", "p.toml"]);
    assert_eq!(rules.status.code(), Some(0));
    scratch.write("rules.yml", &rules.stdout);
    promtool(&scratch, &["check", "rules", "rules.yml"]);
    // Without a promise there are the others.
    let other = Scratch::with(&PIPELINE.replace("[slo]\nlag_p95 = \"2s\"\n", "").replace("slo = {", "# {"));
    other.write("rules.yml", other.fidelio(&["alerts", "p.toml"]).stdout);
    assert!(promtool(&other, &["check", "rules", "rules.yml"]).contains("13 rules found"));

    let well = [
        ("fidelio_slo_target_ratio", "0.999+0"),
        ("fidelio_slo_minutes_total verdict=\"good\"", "0+1"),
        ("fidelio_slo_minutes_total verdict=\"bad\"", "0+0"),
        ("fidelio_rows_lost_total from=\"pages\"", "0+0"),
        ("fidelio_rows_repeated_total from=\"pages\"", "0+0"),
        ("fidelio_rows_unbalanced_total", "0+0"),
        ("fidelio_messages_gone_total", "0+0"),
        ("fidelio_rows_foreign_total", "0+0"),
        ("fidelio_dead_letters_total class=\"decode\"", "5+0"),
        ("fidelio_rows_in_total", "0+1200"),
        // An idle second in two, a commit a minute, half an hour behind real time.
        ("fidelio_task_seconds_total state=\"idle\"", "0+100"),
        ("fidelio_last_commit_timestamp_seconds", "0+120"),
        ("fidelio_consumer_lag_seconds", "0+0"),
        ("fidelio_watermark_timestamp_seconds", "0+120"),
        ("fidelio_state_bytes", "80+0"),
        ("fidelio_state_limit_bytes", "100+0"),
        ("fidelio_task_restarts_total", "1+0"),
        ("fidelio_task_running", "1+0"),
    ];
    let ill = [
        ("fidelio_slo_target_ratio", "0.999+0"),
        ("fidelio_slo_minutes_total verdict=\"good\"", "0+9"),
        ("fidelio_slo_minutes_total verdict=\"bad\"", "0+1"),
        ("fidelio_rows_lost_total from=\"pages\"", "0+1"),
        ("fidelio_rows_repeated_total from=\"pages\"", "0+1"),
        ("fidelio_rows_unbalanced_total", "0+1"),
        ("fidelio_messages_gone_total", "0+1"),
        ("fidelio_rows_foreign_total", "0+1"),
        ("fidelio_dead_letters_total class=\"decode\"", "0+1"),
        ("fidelio_dead_letter_oldest_timestamp_seconds", "60+0"),
        ("fidelio_rows_in_total", "0+1200"),
        ("fidelio_task_seconds_total state=\"idle\"", "0+0"),
        ("fidelio_last_commit_timestamp_seconds", "60+0"),
        ("fidelio_consumer_lag_seconds", "0+120"),
        ("fidelio_watermark_timestamp_seconds", "60+0"),
        ("fidelio_state_bytes", "95+0"),
        ("fidelio_state_limit_bytes", "100+0"),
        ("fidelio_task_restarts_total", "0+1"),
        ("fidelio_task_running", "0+0"),
    ];
    let of_stage = [
        "CheckpointOld",
        "CommitsStalled",
        "DeadLettersGrow",
        "ForeignRows",
        "MessagesGone",
        "OldDeadLetters",
        "RowsUnbalanced",
        "StateNearLimit",
        "TaskRestarts",
        "WatermarkStuck",
    ];
    let mut firing: Vec<String> = of_stage.iter().map(|name| format!("Fidelio{name} stage=\"out\"")).collect();
    firing
        .extend(["1h", "6h", "3d"].map(|window| format!("FidelioErrorBudgetBurn stage=\"out\", window=\"{window}\"")));
    firing.extend(["Lost", "Repeated"].map(|what| format!("FidelioRows{what} stage=\"out\", from=\"pages\"")));
    firing.push("FidelioNotRunning".to_owned());
    let firing: Vec<&str> = firing.iter().map(String::as_str).collect();
    let tests = [rule_test(&well, &[]), rule_test(&ill, &firing)].concat();
    scratch.write("tests.yml", format!("rule_files: [rules.yml]\nevaluation_interval: 2m\ntests:\n{tests}"));
    promtool(&scratch, &["test", "rules", "tests.yml"]);
}

#[test]
fn a_promise_that_nobody_could_judge_is_refused() {
    for (pipeline, expected) in [
        (PIPELINE.replace("event_time = { column = \"at\" }", ""), "nobody can say how old the rows of `out` are"),
        (PIPELINE.replace("target = \"99%\"", "target = \"100%\""), "a part of all minutes"),
        (
            PIPELINE.replace("lag_p95 = \"2s\"", "lag_p95 = \"2s\"\nlag_p99 = \"4s\""),
            "there is another objective for the lag",
        ),
        (PIPELINE.replace("lag_p95 = \"2s\"", "lag_p94 = \"2s\""), "did you mean `lag_p90`?"),
    ] {
        let scratch = Scratch::with(&pipeline);
        let output = scratch.fidelio(&["check", "p.toml"]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.code() == Some(78) && said.contains(expected), "{said}");
    }
}
