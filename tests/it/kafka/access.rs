//! Who may write what: the rules that `topics --acls` prints are all that a pipeline needs, and what the cluster refuses
//! somebody else ends the run and is named.

use std::process::Command;

use super::{SCRIPT, scratch, written};
use crate::support::{Scratch, broker};

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
