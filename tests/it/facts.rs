//! What a stage says of itself on its `.events`, and that it is as documented.

use std::collections::BTreeSet;

use boon::{Compiler, Schemas};
use serde_json::{Value, json};

use crate::support::Scratch;

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "facts"
[stages.visits]
source = { kind = "file", path = "in.ndjson" }
event_time = { column = "at" }
[stages.visits.schema]
id = "bigint not null"
at = "timestamp not null"
[stages.checked]
from = ["visits"]
sql = "SELECT 10 / id AS id, at FROM visits"
[stages.checked.events]
Seen = "SELECT id FROM checked"
[stages.minutes]
from = ["checked"]
late = "correct"
correct_for = "1h"
sql = "SELECT window_start, count(*) AS n FROM tumble(checked, at, INTERVAL '1 minute') GROUP BY window_start"
[stages.out]
from = ["minutes"]
sink = { kind = "file", path = "out.ndjson" }
"#;

/// The facts of a stage, in order: types and data. Each is as its schema says.
fn facts(scratch: &Scratch, stage: &str) -> Vec<(String, Value)> {
    let events = scratch.tail(&format!("acme.facts.{stage}.events"));
    let (mut facts, mut ids) = (Vec::new(), BTreeSet::new());
    for event in events.iter().map(|event| &event["row"]) {
        let kind = event["type"].as_str().unwrap();
        assert!(ids.insert(event["id"].to_string()), "{event} has an id that another one has");
        let Some(name) = kind.strip_prefix("fidelio.") else { continue };
        assert_eq!((&event["specversion"], &event["source"]), (&json!("1.0"), &json!(format!("/acme/facts/{stage}"))));
        assert_documented(name, &event["data"]);
        facts.push((name.to_owned(), event["data"].clone()));
    }
    facts
}

/// Whether a fact of that name is as its schema says.
pub fn assert_documented(name: &str, data: &Value) {
    let path = format!("{}/docs/schemas/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    let schema = compiler.compile(&path, &mut schemas).unwrap_or_else(|error| panic!("{error:#}"));
    schemas.validate(data, schema).unwrap_or_else(|error| panic!("{data}: {error:#}"));
}

#[test]
fn a_stage_says_what_happens_to_it_once_and_as_documented() {
    let scratch = Scratch::with(PIPELINE);
    let row = |id: u32, time: &str| format!("{{\"id\": {id}, \"at\": \"2024-05-01T{time}Z\"}}\n");
    let first =
        [row(1, "10:00:00"), row(0, "10:00:01"), row(0, "10:00:02"), "junk\n".to_owned(), row(2, "10:05:00")].concat();
    scratch.write("in.ndjson", &first);
    scratch.run();
    let of = |stage: &str| facts(&scratch, stage);
    let kinds = |facts: &[(String, Value)]| facts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let checked = of("checked");
    assert_eq!(kinds(&checked), ["task.started", "rows.dead-lettered", "ledger", "task.stopped"]);
    let letters = &checked[1].1;
    assert_eq!(
        (&letters["class"], &letters["rows"], &letters["first"]["row"]),
        (&json!("expression"), &json!(2), &json!(1))
    );
    assert_eq!(checked[3].1, json!({ "task": 0, "reason": "ended" }));
    assert_eq!(of("visits")[1].1["class"], "decode");

    // A second run goes on, and a window that had closed is corrected.
    scratch.write("in.ndjson", first + &row(5, "10:00:30"));
    scratch.run();
    let again = of("checked").split_off(checked.len());
    assert_eq!(kinds(&again), ["task.started", "task.restored", "ledger", "task.stopped"]);
    assert_eq!((&again[1].1["rows_in"], &again[1].1["rows_out"]), (&json!(4), &json!(2)));
    assert_eq!(again[1].1["positions"][0]["topic"], "acme.facts.visits.results");
    let corrected = of("minutes").into_iter().find(|(name, _)| name == "windows.corrected").unwrap();
    assert_eq!(corrected.1, json!({ "task": 0, "results": 1 }));
}
