//! What putting stages together promises, on pipelines written as text.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::new);

const CHAIN: &str = r#"
[pipeline]
company = "acme"
namespace = "shop"

[bus]
retention = { age = "1h" }

[stages.out]
from = ["narrow"]
sink = { kind = "file", path = "out.ndjson" }

[stages.narrow]
from = ["wide", "orders"]
key = ["sku"]
partitions = 1
sql = "SELECT id, sku FROM wide UNION ALL SELECT id, sku FROM orders"

[stages.wide]
from = ["orders"]
retention = { bytes = "1MB" }
sql = "SELECT id, sku || '!' AS sku FROM orders"
[stages.wide.events]
Seen = "SELECT id FROM wide"

[stages.orders]
source = { kind = "file", path = "orders.ndjson" }
event_time = { column = "placed", out_of_orderness = "1h" }
key = ["sku", "id"]
partitions = 4
[stages.orders.schema]
id = "bigint not null"
placed = "timestamp not null"
sku = "text"
"#;

fn env(name: &str) -> Option<String> {
    (name == "SECRET").then(|| "hush".to_owned())
}

fn draft(text: &str) -> Draft {
    Draft::parse(text, "pipeline.toml", Path::new(""), &env)
}

fn topology(text: &str) -> Topology {
    Topology::of_draft(draft(text), &ENGINE).map_err(|faulty| faulty.to_string()).unwrap().1
}

fn faults(text: &str) -> Vec<Fault> {
    Topology::of_draft(draft(text), &ENGINE).err().map(|faulty| faulty.faults).unwrap_or_default()
}

#[test]
fn stages_are_in_the_order_of_their_rows() {
    let topology = topology(CHAIN);
    let names: Vec<&str> = topology.stages.iter().map(|stage| &*stage.name).collect();
    assert_eq!(names, ["orders", "wide", "narrow", "out"]);
    let consumers: Vec<&str> = topology.consumers("orders").map(|stage| &*stage.name).collect();
    assert_eq!(consumers, ["wide", "narrow"]);
}

#[test]
fn tasks_follow_the_partitions_of_the_predecessors() {
    let topology = topology(CHAIN);
    let counts: Vec<(u32, u32)> = topology.stages.iter().map(|stage| (stage.tasks, stage.partitions)).collect();
    assert_eq!(counts, [(1, 4), (4, 4), (4, 1), (1, 0)]);
}

#[test]
fn columns_that_stages_lean_on_are_found_by_their_place() {
    let topology = topology(CHAIN);
    let orders = topology.stage("orders").unwrap();
    assert_eq!((orders.key.as_slice(), orders.event_time.map(|time| time.column)), (&[2, 0][..], Some(1)));
}

#[test]
fn a_group_consumes_the_results_of_all_predecessors() {
    let group = topology(CHAIN).stage("narrow").unwrap().group();
    let inputs: Vec<&str> = group.inputs.iter().map(Topic::as_str).collect();
    assert_eq!(inputs, ["acme.shop.wide.results", "acme.shop.orders.results"]);
    assert_eq!((&*group.name, group.checkpoint.as_str()), ("acme.shop.narrow", "acme.shop.narrow.private.checkpoint"));
    assert_eq!(group.tasks, 4);
}

#[test]
fn a_stage_owns_its_topics_and_a_sink_has_no_results() {
    let topology = topology(CHAIN);
    let spec = |stage: &str, channel| {
        let stage = topology.stage(stage).unwrap();
        stage.topics.iter().find(|spec| spec.topic == stage.topic(channel)).cloned()
    };
    let retained = |age: Option<u64>, bytes| Cleanup::Delete { age: age.map(std::time::Duration::from_secs), bytes };
    let results = spec("wide", Channel::Results).unwrap();
    assert_eq!((results.partitions, results.cleanup), (4, retained(None, Some(1_000_000))));
    assert_eq!(spec("orders", Channel::Events).unwrap().cleanup, retained(Some(3600), None));
    assert_eq!(spec("narrow", Channel::DeadLetters).unwrap().partitions, 4);
    assert_eq!(spec("narrow", Channel::DeadLetters).unwrap().cleanup, retained(None, None));
    assert_eq!(spec("out", Channel::Checkpoint).unwrap().cleanup, Cleanup::KeepLast);
    assert_eq!(spec("out", Channel::Results), None);
}

#[test]
fn a_fault_of_a_stage_is_not_held_against_those_behind_it() {
    let text = CHAIN.replace("SELECT id, sku || '!' AS sku", "SELECT idd");
    let messages: Vec<String> = faults(&text).into_iter().map(|fault| fault.message).collect();
    assert_eq!(messages, ["there is no column `idd`"]);
}

#[test]
fn a_declared_contract_stands_in_for_a_query_that_is_at_fault() {
    let text = CHAIN
        .replace("sku || '!' AS sku FROM", "sk FROM")
        .replace("[stages.wide.events]", "[stages.wide.schema]\nid = \"bigint\"\nsku = \"text\"\n[stages.wide.events]")
        .replace("Seen = \"SELECT id", "Seen = \"SELECT placed");
    let messages: Vec<String> = faults(&text).into_iter().map(|fault| fault.message).collect();
    assert_eq!(messages, ["there is no column `sk`", "there is no column `placed`"]);
}

#[test]
fn a_column_that_the_environment_names_is_shown_nowhere() {
    let named = CHAIN.replace("sku || '!' AS sku", "sku || '!' AS ${SECRET}");
    for text in [
        named.clone(),
        named.replace("retention = { bytes", "key = [\"hus\"]\nretention = { bytes"),
        named.replace("SELECT id FROM wide\"", "SELECT hus FROM wide\""),
        named.replace("from = [\"narrow\"]", "from = [\"orders\", \"wide\"]"),
        CHAIN.replace("FROM wide UNION", "FROM ${SECRET} UNION"),
        CHAIN.replace("from = [\"narrow\"]", "from = [\"${SECRET}\"]"),
        CHAIN.replace("column = \"placed\"", "column = \"${SECRET}\""),
        CHAIN.replace("sku = \"text\"", "sku = \"${SECRET}\""),
    ] {
        let faults = faults(&text);
        assert!(!faults.is_empty() && !format!("{faults:?}").contains("hush"), "{faults:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_mutilated_pipeline_is_put_together_or_refused_within_its_text(
        at in 0..CHAIN.len(), width in 0usize..30, filling in "[\\[\\]{}\"'=.,$ a-z0-9\n]{0,8}",
    ) {
        let end = (at + width).min(CHAIN.len());
        let text = [&CHAIN[..at], &filling, &CHAIN[end..]].concat();
        for fault in faults(&text) {
            prop_assert!(text.get(fault.span.clone()).is_some(), "{:?}", fault);
        }
    }

    #[test]
    fn stages_chained_at_random_are_put_together_unless_they_go_round_in_circles(
        edges in proptest::collection::vec(proptest::collection::btree_set(0usize..6, 1..3), 5),
    ) {
        let mut text = "[pipeline]\ncompany = \"a\"\nnamespace = \"b\"\n[stages.s0]\nsource = { kind = \"stdin\" }\nschema = { x = \"int\" }\n".to_owned();
        for (index, from) in edges.iter().enumerate() {
            let names: Vec<String> = from.iter().map(|stage| format!("\"s{stage}\"")).collect();
            let first = from.first().unwrap();
            text += &format!("[stages.s{}]\nfrom = [{}]\nsql = \"SELECT x FROM s{first}\"\nschema = {{ x = \"int\" }}\n", index + 1, names.join(", "));
        }
        let feeders: Vec<Vec<usize>> =
            std::iter::once(Vec::new()).chain(edges.iter().map(|from| from.iter().copied().collect())).collect();
        let sound = graph::order(&feeders).circles.is_empty();
        match Topology::build(&draft(&text).pipeline, &ENGINE) {
            Ok(topology) => {
                prop_assert!(sound);
                for (at, stage) in topology.stages.iter().enumerate() {
                    let before: Vec<&str> = topology.stages[..at].iter().map(|stage| &*stage.name).collect();
                    prop_assert!(stage.from.iter().all(|from| before.contains(&&**from)));
                }
            }
            Err(faults) => prop_assert!(!sound, "{:?}", faults),
        }
    }
}
