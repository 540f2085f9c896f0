//! What reading a file promises for any text whatever.

use std::path::Path;

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
[pipeline]
company = "acme"
namespace = "${SPACE}"

[bus]
data_dir = "log"
sync = "100ms"
retention = { bytes = "1GB" }

[stages.b]
from = ["a"]
sql = "SELECT \"x\" FROM a"
key = ["x"]
partitions = 4
format = "json"
retention = { age = "1h" }
[stages.b.events]
Seen = "SELECT * FROM b"

[stages.a]
source = { kind = "file", path = "in/*.csv.gz", null = "${TOKEN}" }
event_time = { column = "t", out_of_orderness = "24h" }
[stages.a.schema]
x = "text"
t = "timestamp not null"

[stages.c]
from = ["b"]
sink = { kind = "file", path = "out/{partition}.csv" }

[[tests]]
name = "it works"
stage = "b"
given = { a = [{ x = "y", t = 2013-01-01T10:00:00Z }] }
expect = [{ x = "y" }]
"#;

fn env(name: &str) -> Option<String> {
    match name {
        "SPACE" => Some("flights".to_owned()),
        "TOKEN" => Some("hush".to_owned()),
        _ => None,
    }
}

fn draft(text: &str) -> Draft {
    Draft::parse(text, "pipeline.toml", Path::new("there"), &env)
}

fn faults(text: &str) -> Vec<String> {
    draft(text).faults.into_iter().map(|fault| fault.message).collect()
}

#[test]
fn a_whole_pipeline_is_read_as_it_is_written() {
    let pipeline = Pipeline::parse(WHOLE, "pipeline.toml", Path::new("there"), &env).unwrap();
    assert_eq!(pipeline.namespace.value, "flights");
    let Bus::Embedded(bus) = &pipeline.bus else { panic!("{:?}", pipeline.bus) };
    assert_eq!(bus.data_dir, Path::new("there/log"));
    assert_eq!(bus.retention, Retention { age: None, bytes: Some(1_000_000_000) });
    let names: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.value.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
    let [b, a, c] = pipeline.stages.as_slice() else { panic!("three stages") };
    assert!(matches!(&b.work, Work::Sql(sql) if sql.text == "SELECT \"x\" FROM a"));
    assert_eq!((b.format, b.partitions.as_ref().map(|it| it.value)), (Format::Json, Some(4)));
    let columns: Vec<&str> = a.schema.iter().map(|column| column.name.value.as_str()).collect();
    assert_eq!(columns, ["x", "t"]);
    let Work::Source(Spanned { value: Source::Lines(source), .. }) = &a.work else { panic!("a source") };
    assert_eq!((source.format, source.null.as_deref()), (LineFormat::Csv, Some("hush")));
    let Work::Sink(Spanned { value: Sink::Lines(sink), .. }) = &c.work else { panic!("a sink") };
    assert_eq!(sink.output, Output::File { path: "there/out/{partition}.csv".into() });
    let given = &pipeline.tests.first().unwrap().given.first().unwrap().1;
    assert_eq!(given.first().unwrap().values.get("t").unwrap(), "2013-01-01T10:00:00Z");
}

#[test]
fn what_the_environment_fills_in_is_not_in_debug_output() {
    let shown = format!("{:?}", draft(WHOLE).pipeline);
    assert!(!shown.contains("hush") && !shown.contains("\"flights\""), "{shown}");
}

#[test]
fn no_fault_shows_what_the_environment_fills_in() {
    for (line, secret) in [
        ("company = \"acme\"", "company = \"${TOKEN}!\""),
        ("sync = \"100ms\"", "sync = \"${TOKEN}\""),
        ("age = \"1h\"", "age = \"${TOKEN}\""),
        ("format = \"json\"", "format = \"${TOKEN}\""),
        ("kind = \"file\"", "kind = \"${TOKEN}\""),
        ("in/*.csv.gz", "${TOKEN}"),
    ] {
        let faults = draft(&WHOLE.replacen(line, secret, 1)).faults;
        assert!(!faults.is_empty(), "{secret}");
        assert!(!format!("{faults:?}").contains("hush"), "{faults:?}");
    }
}

#[test]
fn all_faults_are_found_at_once_in_the_order_of_the_file() {
    let text = WHOLE
        .replace("company", "companny")
        .replace("sync = \"100ms\"", "sync = 100")
        .replace("partitions = 4", "partitions = 0")
        .replace("format = \"json\"", "format = \"jsn\"")
        .replace("${TOKEN}", "${OTHER}");
    assert_eq!(
        faults(&text),
        [
            "`[pipeline]` has no `company`",
            "`[pipeline]` has no key `companny`",
            "`sync` is to be a string",
            "`partitions` is out of range",
            "`format` cannot be `jsn`",
            "the environment variable `OTHER` is not set",
        ]
    );
}

#[test]
fn in_text_that_is_not_toml_nothing_is_said_to_be_missing() {
    let text = WHOLE.replace("company = \"acme\"", "company = ").replace("format = \"json\"", "format = \"jsn\"");
    let faults = draft(&text).faults;
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn a_stage_that_is_there_twice_is_one_fault() {
    let text = format!("{WHOLE}\n[stages.a]\nsql = \"SELECT 1\"\nsource = 5\n");
    assert_eq!(faults(&text), ["there are two stages of the name `a`, and both would own its topics"]);
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic_and_its_faults_are_within_it(text in any::<String>()) {
        check_places(&text)?;
    }

    #[test]
    fn any_mutilated_pipeline_is_read_without_panic_and_its_faults_are_within_it(
        at in 0..WHOLE.len(), width in 0usize..40, filling in "[\\[\\]{}\"'=.,#a-z0-9\n é$]{0,12}",
    ) {
        let end = (at + width).min(WHOLE.len());
        check_places(&[&WHOLE[..at], &filling, &WHOLE[end..]].concat())?;
    }
}

fn check_places(text: &str) -> Result<(), TestCaseError> {
    for fault in draft(text).faults {
        prop_assert!(text.get(fault.span.clone()).is_some(), "{fault:?}");
    }
    Ok(())
}
