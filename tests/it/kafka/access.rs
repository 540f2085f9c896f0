//! Who may write what: what the cluster refuses for good ends a run and is named, and the rules that `topics --acls` prints
//! are all that a pipeline needs.

use std::process::Command;

use super::{SCRIPT, scratch, tool, written};
use crate::support::{Scratch, broker, orders};

/// Does what `topics --acls` prints.
fn apply(scratch: &Scratch, principal: &str) {
    let printed = scratch.fidelio(&["topics", "p.toml", "--acls", "--principal", principal]);
    assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
    // As a shell would, with the tool in the place of its own script.
    let commands = String::from_utf8(printed.stdout).unwrap();
    let commands = commands.replace("kafka-acls.sh", &format!("'{SCRIPT}' tool acls"));
    let done = Command::new("bash").args(["-e", "-c", &commands]).output().unwrap();
    assert!(done.status.success(), "{commands}\n{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn what_may_not_be_written_any_more_ends_the_run_and_is_named() {
    let scratch = scratch("refused", Some(&broker()), 1000);
    scratch.run();
    let topic = format!("acme.refused-{}.priced.results", std::process::id());
    let looking = ["--add", "--allow-principal", "User:*", "--operation", "Read", "--operation", "Describe"];
    tool("acls", &[&looking[..], &["--topic", &topic]].concat(), "");
    // It takes the broker a moment to keep to it.
    let mut runs = (2..30).map(|thousands| {
        scratch.write("in.ndjson", orders(thousands * 1000));
        scratch.fidelio(&["run", "p.toml"])
    });
    let refused = runs.find(|run| !run.status.success()).expect("it keeps to it");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&topic) && said.contains("uthorization"), "{said}");
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn the_rules_that_are_printed_are_enough_for_the_pipeline_and_keep_others_out() {
    let own = scratch("rules", Some(&broker()), 1000);
    apply(&own, "User:ANONYMOUS");
    own.run().assert_balanced();
    assert!(!written(&own).is_empty());

    let others = scratch("theirs", Some(&broker()), 10);
    apply(&others, "User:somebody");
    let refused = others.fidelio(&["run", "p.toml"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("uthorization") && said.contains("acme.theirs-"), "{said}");
}

#[test]
fn a_session_that_the_cluster_does_not_take_ends_the_run_and_is_named() {
    let scratch = scratch("session", Some(&broker()), 10);
    scratch.write("p.toml", scratch.read("p.toml").replace("= 1000", "= 300").replace("= 6000", "= 1000"));
    let refused = scratch.fidelio(&["run", "p.toml"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("InvalidSessionTimeout"), "{said}");
    assert_eq!(refused.status.code(), Some(1));
}
