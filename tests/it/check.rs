//! `check`, `graph` and `topics`: every fault at its place, and what is printed of a pipeline without any.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SECRET: &str = "hush-hush";

fn fidelio(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fidelio"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("FIDELIO_SECRET", SECRET)
        .env_remove("FIDELIO_UNSET")
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The pipelines that must be refused.
fn invalid() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/invalid");
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 50, "{files:?}");
    files
}

#[test]
fn every_fault_is_shown_with_its_place_and_with_advice() {
    for file in invalid() {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let output = fidelio(&["check", &format!("pipelines/invalid/{name}.toml")]);
        assert_eq!(output.status.code(), Some(78), "{name}");
        insta::assert_snapshot!(name, text(&output.stderr));
    }
}

#[test]
fn faults_for_programs_are_those_for_people_and_never_hold_a_secret() {
    let files: Vec<String> = invalid().iter().map(|file| file.display().to_string()).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let as_json = fidelio(&[&["check", "--json"], files.as_slice()].concat());
    let as_text = fidelio(&[&["check"], files.as_slice()].concat());
    assert_eq!((as_json.status.code(), as_text.status.code()), (Some(78), Some(78)));

    let faults: Vec<Value> = serde_json::from_slice(&as_json.stdout).unwrap();
    let (json, people) = (text(&as_json.stdout), text(&as_text.stderr));
    assert!(!json.contains(SECRET) && !people.contains(SECRET));
    let shown: usize = people.matches(" fault\n").count();
    assert!(shown > 50 && faults.len() > shown);
    for fault in &faults {
        let [line, column] = ["line", "column"].map(|key| fault[key].as_u64().unwrap());
        assert!(people.contains(&format!("{}:{line}:{column}]", fault["file"].as_str().unwrap())), "{fault}");
    }
}

#[test]
fn a_sound_pipeline_is_said_to_be() {
    let output = fidelio(&["check", "pipelines/flights/flights.toml"]);
    assert_eq!(text(&output.stdout), "pipelines/flights/flights.toml: ok, 9 stages\n");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert_eq!(text(&fidelio(&["check", "--json", "pipelines/flights/flights.toml"]).stdout), "[]\n");
}

#[test]
fn two_pipelines_that_would_own_the_same_topics_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let source = "source = { kind = \"stdin\" }\nschema = { id = \"int\" }\n";
    let pipeline = |stage: &str| format!("[pipeline]\ncompany = \"a\"\nnamespace = \"b\"\n[stages.{stage}]\n{source}");
    let file = |name: &str, stage: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pipeline(stage)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, other, same) = (file("1.toml", "x"), file("2.toml", "y"), file("3.toml", "x"));
    assert_eq!(fidelio(&["check", &one, &other]).status.code(), Some(0));
    let output = fidelio(&["check", &one, &same]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("the topics of stage `x` are owned by a stage of"));
}

#[test]
fn a_file_that_cannot_be_read_is_no_pipeline() {
    for command in ["check", "graph", "topics"] {
        let output = fidelio(&[command, "pipelines/none.toml"]);
        assert_eq!(output.status.code(), Some(78));
        assert!(text(&output.stderr).starts_with("pipelines/none.toml cannot be read: "));
    }
}

#[test]
fn a_command_line_that_is_not_understood_is_status_2() {
    for args in [&["check"][..], &["chekc", "x.toml"], &["graph", "--colour"], &[]] {
        assert_eq!(fidelio(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn the_graph_shows_stages_and_the_topics_between_them() {
    insta::assert_snapshot!("graph", text(&fidelio(&["graph", "pipelines/flights/flights.toml"]).stdout));
}

#[test]
fn topics_of_others_are_in_the_graph_and_in_the_list() {
    const FILE: &str = "pipelines/payments/payments.toml";
    insta::assert_snapshot!("graph-of-others", text(&fidelio(&["graph", FILE]).stdout));
    insta::assert_snapshot!("topics-of-others", text(&fidelio(&["topics", FILE]).stdout));
    let topics: Vec<Value> = serde_json::from_slice(&fidelio(&["topics", "--json", FILE]).stdout).unwrap();
    let theirs = topics.iter().find(|topic| topic["topic"] == "bank.payments").unwrap();
    assert_eq!((&theirs["owner"], &theirs["partitions"]), (&Value::Null, &Value::Null));
    assert_eq!(theirs["readers"], serde_json::json!(["incoming"]));
    assert_eq!(text(&fidelio(&["test", FILE]).stderr), "");
}

#[test]
fn topics_are_listed_with_partitions_owner_format_retention_and_readers() {
    insta::assert_snapshot!("topics", text(&fidelio(&["topics", "pipelines/flights/flights.toml"]).stdout));
    let topics: Vec<Value> =
        serde_json::from_slice(&fidelio(&["topics", "--json", "pipelines/flights/flights.toml"]).stdout).unwrap();
    assert_eq!(topics.len(), 44);
    let results = topics.iter().find(|topic| topic["topic"] == "acme.flights.board.results").unwrap();
    assert_eq!(results["readers"], serde_json::json!(["report"]));
    assert_eq!(results["retention"]["age_seconds"], 604_800.0);
}
