//! Rows that are more than a message may hold.

use super::{results_of, scratch, tool};
use crate::support::{broker, orders};

#[test]
fn a_row_that_no_message_can_hold_is_a_dead_letter_and_the_others_go_on() {
    let scratch = scratch("large", Some(&broker()), 1000);
    let pipeline = scratch.read("p.toml").replace("kind = \"kafka\"", "kind = \"kafka\"\nmax_message_bytes = \"20KB\"");
    let large = format!("{{\"id\":1000,\"customer\":\"{}\",\"amount\":\"1\"}}\n", "x".repeat(30_000));
    scratch.write("p.toml", pipeline).write("in.ndjson", orders(1000) + &large + &orders(1000));
    let found = scratch.run();
    found.assert_balanced();
    assert_eq!(found.of("orders", "rows_in"), 2001);
    let letters = scratch.dead_letters();
    let of_size: Vec<_> = letters.iter().filter(|letter| letter["class"] == "too-large").collect();
    assert_eq!(of_size.len(), 1, "{letters:?}");
}

#[test]
fn a_topic_that_takes_less_than_the_pipeline_thinks_ends_the_run_and_is_named() {
    let scratch = scratch("narrow", Some(&broker()), 1000);
    scratch.run();
    let topic = results_of(&scratch, "priced");
    let narrower = ["--alter", "--entity-type", "topics", "--entity-name", &topic, "--add-config"];
    tool("configs", &[&narrower[..], &["max.message.bytes=100"]].concat(), "");
    // It takes the broker a moment to keep to it.
    let mut runs = (2..30).map(|thousands| {
        scratch.write("in.ndjson", orders(thousands * 1000));
        scratch.fidelio(&["run", "p.toml"])
    });

    let refused = runs.find(|run| !run.status.success()).expect("it keeps to it");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("MessageSizeTooLarge") && said.contains(&topic), "{said}");
    assert_eq!(refused.status.code(), Some(1));
    // What had been sent until then is taken back at once, and keeps no reader waiting.
    let transactions = tool("org.apache.kafka.tools.TransactionsCommand", &["list"], "");
    let namespace = topic.trim_end_matches("priced.results");
    let own: Vec<&str> = transactions.lines().filter(|line| line.contains(namespace)).collect();
    assert!(!own.is_empty() && own.iter().all(|line| !line.contains("Ongoing")), "{own:?}");
}
