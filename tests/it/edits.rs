//! A pipeline that is edited between runs: it goes on, or is refused in words that say what to do; rows never change
//! their meaning unseen.

use serde_json::json;

use crate::support::Scratch;

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "edits"
[stages.a]
source = { kind = "file", path = "in.ndjson" }
[stages.a.schema]
id = "bigint not null"
k = "text"
[stages.b]
from = ["a"]
sql = "SELECT id, k FROM a"
[stages.c]
from = ["b"]
sink = { kind = "file", path = "out.ndjson" }
"#;

/// Two rows that stage b has published and stage c has not read.
fn pending() -> Scratch {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in.ndjson", "{\"id\":1,\"k\":\"x\"}\n{\"id\":3000000000,\"k\":\"y\"}\n");
    let output = scratch.fidelio(&["run", "p.toml", "--stage", "a", "--stage", "b"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    scratch
}

fn refused(scratch: &Scratch, edited: &str, about: &str) {
    scratch.write("p.toml", edited);
    let output = scratch.fidelio(&["run", "p.toml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(about), "{said}");
    // What was refused has changed nothing: as it was, the pipeline goes on.
    scratch.write("p.toml", PIPELINE);
    scratch.run().assert_balanced();
    assert_eq!(scratch.ndjson("out.ndjson").len(), 2);
}

#[test]
fn other_columns_are_refused_while_rows_under_the_old_ones_are_pending() {
    refused(&pending(), &PIPELINE.replace("SELECT id, k FROM a", "SELECT id AS number, k FROM a"), "number");
}

#[test]
fn a_type_that_a_pending_row_does_not_fit_makes_it_a_dead_letter_and_its_neighbours_go_on() {
    let scratch = pending();
    scratch.write("p.toml", PIPELINE.replace("SELECT id, k FROM a", "SELECT CAST(id AS INT) AS id, k FROM a"));
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(scratch.ndjson("out.ndjson"), [json!({"id": 1, "k": "x"})]);
    let letters = scratch.dead_letters();
    assert_eq!((letters.len(), &letters[0]["class"]), (1, &json!("contract")));
    assert_eq!(letters[0]["value"], json!({"id": 3_000_000_000u64, "k": "y"}));
    assert_eq!(letters[0]["origin"]["row"], 1);
}

#[test]
fn rows_are_read_in_the_format_they_were_published_in() {
    let scratch = pending();
    scratch.write("p.toml", PIPELINE.replace("[stages.b]", "[stages.b]\nformat = \"json\""));
    scratch.run().assert_balanced();
    scratch.write("in.ndjson", "{\"id\":1,\"k\":\"x\"}\n{\"id\":3000000000,\"k\":\"y\"}\n{\"id\":5}\n");
    let output = scratch.fidelio(&["run", "p.toml", "--stage", "a", "--stage", "b"]);
    assert_eq!(output.status.code(), Some(0));
    scratch.write("p.toml", PIPELINE);
    scratch.run().assert_balanced();
    assert_eq!(
        scratch.ndjson("out.ndjson").iter().map(|row| row["id"].clone()).collect::<Vec<_>>(),
        [1, 3_000_000_000u64, 5]
    );
}

#[test]
fn a_stage_that_loses_an_input_or_becomes_another_is_refused() {
    let scratch = pending();
    scratch.run().assert_balanced();
    refused(&scratch, &PIPELINE.replace("from = [\"b\"]", "from = [\"a\"]"), "file sink from b");
    refused(
        &scratch,
        &PIPELINE.replace("kind = \"file\", path = \"out.ndjson\"", "kind = \"stdout\""),
        "standard output",
    );
    refused(&scratch, &PIPELINE.replace("path = \"out.ndjson\"", "path = \"out.csv\""), "out.csv");
    refused(&scratch, &PIPELINE.replace("path = \"out.ndjson\"", "path = \"out.ndjson\", format = \"csv\""), "columns");
}

#[test]
fn a_stage_that_was_taken_out_is_named_until_it_is_forgotten() {
    let scratch = pending();
    let said = |arguments: &[&str], status: i32| {
        let output = scratch.command(arguments).env("FIDELIO_LOG", "warn").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{said}");
        said
    };
    assert!(said(&["forget", "p.toml", "c"], 2).contains("take it out first"));
    scratch.write("p.toml", PIPELINE.split("[stages.c]").next().unwrap());
    assert!(said(&["run", "p.toml"], 0).contains("stage=\"c\""));
    assert!(said(&["forget", "p.toml", "c", "d"], 2).contains("no stage of that name ever ran in this pipeline: d"));
    assert!(said(&["run", "p.toml"], 0).contains("stage=\"c\""));
    for _ in 0..2 {
        assert!(said(&["forget", "p.toml", "c"], 0).contains("c is forgotten"));
    }
    assert_eq!(said(&["run", "p.toml"], 0), "");
    assert!(said(&["forget", "p.toml", "c", "--data-dir", "elsewhere"], 1).contains("elsewhere"));
    assert!(!scratch.path("elsewhere").exists());
}
