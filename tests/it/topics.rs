//! Topics of others on the embedded log, where the others are pipelines that work in the same data directory.

use serde_json::json;

use crate::support::{Scratch, lines};

const WRITER: &str = r#"
[pipeline]
company = "acme"
namespace = "writer"
[stages.orders]
source = { kind = "file", path = "in.ndjson" }
schema = { customer = "text", paid = "boolean", amount = "double" }
[stages.out]
from = ["orders"]
sink = { kind = "topic", topic = "shop.orders", key = ["customer"], tombstone = "paid", partitions = 3 }
"#;

const READER: &str = r#"
[pipeline]
company = "acme"
namespace = "reader"
[stages.orders]
source = { kind = "topic", topic = "shop.orders", follow = false, columns = { key = "customer", partition = "of", tombstone = "paid" } }
[stages.orders.schema]
customer = "text"
of = "int"
paid = "boolean"
amount = "double"
[stages.out]
from = ["orders"]
sink = { kind = "file", path = "out.ndjson" }
"#;

fn run(scratch: &Scratch, pipeline: &str) -> std::process::Output {
    scratch.write("p.toml", pipeline);
    scratch.fidelio(&["run", "p.toml", "--json"])
}

#[test]
fn one_pipeline_reads_what_another_writes() {
    let scratch = Scratch::new();
    let refused = run(&scratch, READER);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("stage orders reads the topic shop.orders, which does not exist"), "{said}");

    let order = |n: u32| format!("{{\"customer\":\"c{n}\",\"paid\":{},\"amount\":{n}}}\n", n % 10 == 3);
    scratch.write("in.ndjson", (0..1000).map(order).collect::<String>() + "{\"customer\":null,\"amount\":-1}\n");
    assert_eq!(run(&scratch, WRITER).status.code(), Some(0));
    assert_eq!(scratch.tail("shop.orders").len(), 1001);

    let read = run(&scratch, READER);
    assert_eq!(read.status.code(), Some(0), "{}", String::from_utf8_lossy(&read.stderr));
    let rows = scratch.ndjson("out.ndjson");
    assert_eq!(rows.len(), 1001);
    for row in &rows {
        let paid = row["amount"].is_null();
        assert_eq!(row["paid"], json!(paid), "{row}");
        let Some(customer) = row["customer"].as_str() else { continue };
        let of = fidelio::partition::partition(customer.as_bytes(), 3);
        assert_eq!(row["of"], json!(of), "{row}");
        assert_eq!(paid, customer.ends_with('3'));
    }

    // There is a task for each partition, and a second run finds nothing new.
    scratch.write("p.toml", READER);
    let dead = scratch.fidelio(&["tail", "acme.reader.orders.private.checkpoint", "--meta"]);
    assert_eq!(lines(&dead.stdout).len(), 3);
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!(summary.of("out", "rows_in"), 1001);
    assert_eq!(scratch.ndjson("out.ndjson").len(), 1001);
}

#[test]
fn a_stage_that_read_one_topic_does_not_go_on_with_another() {
    let scratch = Scratch::new();
    scratch.write("in.ndjson", "{\"customer\":\"a\"}\n");
    assert_eq!(run(&scratch, WRITER).status.code(), Some(0));
    assert_eq!(run(&scratch, READER).status.code(), Some(0));
    let other = |text: &str| text.replace("shop.orders", "shop.others").replace("acme", "acne");
    assert_eq!(run(&scratch, &other(WRITER)).status.code(), Some(0));
    let refused = run(&scratch, &READER.replace("shop.orders", "shop.others"));
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("has run as topic source from shop.orders, and is topic source from shop.others now"),
        "{said}"
    );
}
