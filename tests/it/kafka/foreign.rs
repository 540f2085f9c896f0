//! Somebody else publishes to topics that the pipeline owns.

use super::interop::produce;
use super::{results_of, scratch, written};
use crate::facts::assert_documented;
use crate::support::{Running, broker, get, lines, until};

#[test]
fn what_others_publish_to_a_topic_of_the_pipeline_is_noticed_and_becomes_dead_letters() {
    let scratch = scratch("foreign", Some(&broker()), 100);
    let before = scratch.run();
    let rows = written(&scratch);
    let mut command = scratch.command(&["run", "p.toml", "--json", "--keep-running", "--http", "0"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = worker.http_address();

    // Arrow is expected here, and a message a row there.
    let (orders, priced) = (results_of(&scratch, "orders"), results_of(&scratch, "priced"));
    produce(&orders, "NULL\tk\t{\"id\":1,\"customer\":\"c1\",\"amount\":\"1\"}\nNULL\tk\tjunk\n");
    let row = "{\"id\":1,\"customer\":\"c1\",\"amount\":1}";
    produce(&priced, &format!("content-type:application/json\tk\t{row}\n"));
    worker.wait_for_log(&format!("owner=priced partition={priced}/"));
    produce(&priced, &format!("content-type:application/json,ce_source:/acme/else\tk\t{row}\n"));
    let foreign = |stage: &str| {
        let metrics = get(&address, "/metrics");
        let of_stage = |line: &&str| line.starts_with("fidelio_rows_foreign_total{") && line.contains(stage);
        let counts = metrics.lines().filter(of_stage).map(|line| line.rsplit(' ').next().unwrap());
        counts.map(|count| count.parse::<u32>().unwrap()).sum::<u32>()
    };
    until("all of it is counted", || ["\"priced\"", "\"tripled\""].map(foreign) == [2, 2]);
    worker.terminate();
    worker.ended_well();

    let after = scratch.run();
    after.assert_balanced();
    for stage in ["priced", "tripled"] {
        assert_eq!(after.of(stage, "rows_in"), before.of(stage, "rows_in") + 2, "{stage}");
        assert_eq!(after.of(stage, "dead_lettered"), before.of(stage, "dead_lettered") + 2, "{stage}");
        assert_eq!(after.of(stage, "rows_out"), before.of(stage, "rows_out"), "{stage}");
    }
    assert_eq!(written(&scratch), rows);
    let letters = scratch.dead_letters();
    let found: Vec<&str> = letters
        .iter()
        .filter(|letter| letter["class"] == "foreign" && letter["key"] == "k")
        .map(|letter| letter["message"].as_str().unwrap())
        .collect();
    let reason = |stage: &str, topic: &str| format!("not published by stage {stage}, which owns the topic {topic}");
    let expected = [reason("orders", &orders), reason("priced", &priced)];
    assert_eq!(found, [&expected[0], &expected[0], &expected[1], &expected[1]]);

    let events = scratch.fidelio(&["tail", &priced.replace(".results", ".events"), "--pipeline", "p.toml"]);
    let events = lines(&events.stdout);
    let foreign: Vec<_> = events.iter().filter(|event| event["type"] == "fidelio.rows.foreign").collect();
    assert_eq!(foreign.iter().map(|event| event["data"]["rows"].as_u64().unwrap()).sum::<u64>(), 2);
    foreign.iter().for_each(|event| assert_documented("rows.foreign", &event["data"]));

    // Every row is accounted for, until somebody puts one there in the owner's name.
    scratch.assert_accounted_for();
    let source = format!("/{}", priced.trim_end_matches(".results").replace('.', "/"));
    produce(&priced, &format!("content-type:application/json,ce_source:{source}\tk\t{row}\n"));
    let output = scratch.fidelio(&["audit", "p.toml"]);
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{found}");
    let lines: Vec<&str> = found.lines().map(str::trim).filter(|line| line.contains(" -1: ")).collect();
    let place = |line: &&str| line.split(" -1: ").next().unwrap().to_owned();
    let expected = ["priced without event time", "priced → tripled without event time"];
    assert_eq!(lines.iter().map(place).collect::<Vec<_>>(), expected, "{found}");
}
