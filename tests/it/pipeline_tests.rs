//! `fidelio test`: the tests that a pipeline carries.

use crate::support::Scratch;

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "tests"
[stages.readings]
source = { kind = "file", path = "nowhere.ndjson" }
[stages.readings.schema]
place = "text not null"
celsius = "text"
[stages.parsed]
from = ["readings"]
format = "json"
sql = "SELECT place, CAST(celsius AS DOUBLE) AS celsius FROM readings"
[stages.warm]
from = ["parsed"]
sql = "SELECT place, celsius FROM parsed WHERE celsius > 10"
[stages.warm.events]
Hot = "SELECT place FROM warm WHERE celsius > 30"
[stages.out]
from = ["warm"]
sink = { kind = "file", path = "out.ndjson" }
"#;

fn test(tests: &str) -> (Option<i32>, String) {
    let scratch = Scratch::with(&format!("{PIPELINE}{tests}"));
    let output = scratch.fidelio(&["test", "p.toml"]);
    assert!(!scratch.path("data").exists() && !scratch.path("out.ndjson").exists(), "a test left something behind");
    (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_tests_of_the_examples_pass() {
    for example in ["flights/flights", "events/events", "events/windows"] {
        let file = format!("{}/pipelines/{example}.toml", env!("CARGO_MANIFEST_DIR"));
        let output = Scratch::new().fidelio(&["test", &file]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(" 0 failed") && !said.starts_with("0 passed"), "{said}");
    }
}

#[test]
fn rows_events_and_dead_letters_through_several_stages_are_as_expected() {
    let (status, said) = test(
        r#"
[[tests]]
name = "warm places are kept and hot ones told of"
stage = "warm"
given = { readings = [{ place = "Oslo", celsius = "3" }, { place = "Rome", celsius = "31.5" }] }
expect = [{ place = "Rome", celsius = 31.5 }]
expect_events = [{ type = "Hot", data = { place = "Rome" } }]
[[tests]]
name = "what is no number is a dead letter"
stage = "parsed"
given = { readings = [{ place = "Oslo", celsius = "cold" }] }
expect = []
expect_dead_letters = [{ class = "expression", row = { place = "Oslo", celsius = "cold" } }]
"#,
    );
    assert_eq!((status, said.contains("2 passed, 0 failed")), (Some(0), true), "{said}");
}

#[test]
fn a_test_that_fails_shows_what_differs_and_fails_the_command() {
    let (status, said) = test(
        r#"
[[tests]]
name = "all places are warm"
stage = "warm"
given = { parsed = [{ place = "Oslo", celsius = 3.0 }, { place = "Rome", celsius = 12.0 }] }
expect = [{ place = "Oslo", celsius = 3.0 }, { place = "Rome", celsius = 12.0 }]
"#,
    );
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("FAILED  all places are warm"), "{said}");
    assert!(said.contains(r#"- {"celsius":3.0,"place":"Oslo"}"#) && !said.contains(r#"- {"celsius":12.0"#), "{said}");
}

#[test]
fn a_given_row_that_breaks_the_contract_fails_the_test_and_says_so() {
    let (status, said) = test(
        r#"
[[tests]]
name = "a place without a name"
stage = "parsed"
given = { readings = [{ celsius = "3" }] }
expect = []
"#,
    );
    assert_eq!((status, said.contains("row 1 of readings")), (Some(1), true), "{said}");
}
