//! `[tracing]`: rows are followed through all stages, and a collector is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::support::Scratch;

/// What takes OTLP over HTTP, as a collector does: on a port of its own, until the test ends.
struct Collector {
    address: String,
    requests: Receiver<(String, ExportTraceServiceRequest)>,
    answers: Arc<AtomicBool>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, requests) = channel();
        let answers = Arc::new(AtomicBool::new(true));
        let is_well = answers.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut head, mut length) = (String::new(), 0);
                while stream.read_line(&mut head).unwrap() > 2 {
                    let line = head.lines().last().unwrap().to_ascii_lowercase();
                    length = line.strip_prefix("content-length:").map_or(length, |it| it.trim().parse().unwrap());
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let is_well = is_well.load(Ordering::Relaxed);
                let status = if is_well { "200 OK" } else { "503 Service Unavailable" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                if is_well && sender.send((head, ExportTraceServiceRequest::decode(&*body).unwrap())).is_err() {
                    break;
                }
                let _ = stream.get_mut().write_all(answer.as_bytes());
            }
        });
        Self { address, requests, answers }
    }

    /// The spans that have come since this was asked last, by the number of the span; each has come with the token.
    fn spans(&self) -> BTreeMap<Vec<u8>, Span> {
        let mut spans = BTreeMap::new();
        for (head, request) in self.requests.try_iter() {
            assert!(head.starts_with("POST /v1/traces ") && head.contains("authorization: Bearer hush-hush"), "{head}");
            for resource in request.resource_spans {
                let attributes = resource.resource.unwrap().attributes;
                let service = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
                assert!(format!("{service:?}").contains("\"acme.tracing\""), "{service:?}");
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    spans.insert(span.span_id.clone(), span);
                }
            }
        }
        spans
    }
}

fn pipeline(collector: &str, sample: &str, format: &str) -> String {
    format!(
        r#"
[pipeline]
company = "acme"
namespace = "tracing"
[tracing]
endpoint = "http://{collector}/"
sample = "{sample}"
headers = {{ authorization = "Bearer ${{FIDELIO_SECRET}}" }}
[stages.visits]
source = {{ kind = "file", path = "in.ndjson" }}
format = "{format}"
[stages.visits.schema]
id = "bigint not null"
[stages.checked]
from = ["visits"]
format = "{format}"
sql = "SELECT 10 / (id - 5) AS share, id FROM visits WHERE id % 10 <> 3"
[stages.out]
from = ["checked"]
sink = {{ kind = "file", path = "out.ndjson" }}
"#
    )
}

fn visits(count: u32) -> String {
    (0..count).map(|id| format!("{{\"id\":{id}}}\n")).collect()
}

fn run(scratch: &Scratch, failpoint: &str) -> bool {
    let mut command = scratch.command(&["run", "p.toml"]);
    command.env("FIDELIO_SECRET", "hush-hush").env("FAILPOINTS", failpoint).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&said).contains("hush-hush"));
    output.status.success()
}

/// Spans by the name of the stage.
fn by_stage(spans: &BTreeMap<Vec<u8>, Span>) -> BTreeMap<&str, Vec<&Span>> {
    let mut by_stage: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    spans.values().for_each(|span| by_stage.entry(&span.name).or_default().push(span));
    by_stage
}

#[test]
fn a_row_is_followed_from_its_source_to_its_sink_in_every_format() {
    for format in ["arrow", "json"] {
        let collector = Collector::start();
        let scratch = Scratch::with(&pipeline(&collector.address, "100%", format));
        scratch.write("in.ndjson", visits(100));
        assert!(run(&scratch, ""));
        let spans = collector.spans();
        let stages = by_stage(&spans);
        let counts: Vec<_> = stages.iter().map(|(stage, spans)| (*stage, spans.len())).collect();
        // Ten are left out by the query, and one is a dead letter there.
        assert_eq!(counts, [("checked", 100), ("out", 89), ("visits", 100)], "{format}");
        let traces: BTreeSet<_> = stages["visits"].iter().map(|span| &span.trace_id).collect();
        assert_eq!(traces.len(), 100);
        assert!(stages["visits"].iter().all(|span| span.parent_span_id.is_empty()));
        for (stage, before) in [("checked", "visits"), ("out", "checked")] {
            for span in &stages[stage] {
                let parent = &spans[&span.parent_span_id];
                assert_eq!((parent.name.as_str(), &parent.trace_id), (before, &span.trace_id));
                assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
                assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            }
        }
    }
}

#[test]
fn a_part_of_the_rows_is_followed_and_it_is_the_same_part_after_any_crash() {
    let followed = |failpoint: &str| {
        let collector = Collector::start();
        let scratch = Scratch::with(&pipeline(&collector.address, "1%", "arrow"));
        scratch.write("in.ndjson", visits(20_000));
        assert_eq!(run(&scratch, failpoint), failpoint.is_empty());
        assert!(run(&scratch, ""));
        collector.spans()
    };
    let spans = followed("");
    let stages = by_stage(&spans);
    assert_eq!(stages["visits"].len(), 200);
    // Any row can be the one of its hundred.
    let among = stages["checked"].len() - stages["out"].len();
    assert!((5..40).contains(&among), "{among}");
    for point in ["sink.write", "sink.sync.done", "commit.append.done", "commit.publish"] {
        let again = followed(&format!("{point}=1*return(kill)->off"));
        let ids = |spans: &BTreeMap<Vec<u8>, Span>| {
            spans
                .values()
                .map(|span| (span.trace_id.clone(), span.name.clone(), span.span_id.clone()))
                .collect::<BTreeSet<_>>()
        };
        // What was committed right before the crash may not have been told, but nothing else is said of any row.
        assert!(ids(&again).is_subset(&ids(&spans)), "{point}");
    }
}

#[test]
fn a_pipeline_does_not_wait_for_a_collector_that_is_ill() {
    let collector = Collector::start();
    collector.answers.store(false, Ordering::Relaxed);
    let scratch = Scratch::with(&pipeline(&collector.address, "100%", "arrow"));
    scratch.write("in.ndjson", visits(5_000));
    assert!(run(&scratch, ""));
    assert_eq!(scratch.read("out.ndjson").lines().count(), 4_499);
    assert!(collector.spans().is_empty());
}

#[test]
fn what_is_wrong_with_tracing_is_said_where_it_is() {
    let scratch = Scratch::with(&pipeline("localhost:4318", "200%", "arrow").replace("http://", "grpc://"));
    let output = scratch.command(&["check", "p.toml"]).env("FIDELIO_SECRET", "hush-hush").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for part in ["`endpoint` cannot be `grpc://localhost:4318/`", "`sample` cannot be `200%`"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_topic_of_others_brings_traces_with_it_or_begins_them() {
    for is_traced_before in [false, true] {
        let collector = Collector::start();
        let tracing = |is_on: bool| match is_on {
            true => format!(
                "[tracing]\nendpoint = \"http://{}\"\nsample = \"100%\"\nheaders = {{ authorization = \"Bearer hush-hush\" }}\n",
                collector.address
            ),
            false => String::new(),
        };
        let scratch = Scratch::new();
        let before = r#"
[pipeline]
company = "acme"
namespace = "tracing"
TRACING[stages.visits]
source = { kind = "file", path = "in.ndjson" }
schema = { id = "bigint not null" }
[stages.given]
from = ["visits"]
sink = { kind = "topic", topic = "others.visits", partitions = 2 }
"#;
        let after = r#"
[pipeline]
company = "acme"
namespace = "tracing"
TRACING[stages.taken]
source = { kind = "topic", topic = "others.visits", format = "json", follow = false }
schema = { id = "bigint not null" }
[stages.written]
from = ["taken"]
sink = { kind = "file", path = "out-{partition}.ndjson" }
"#;
        scratch.write("before.toml", before.replace("TRACING", &tracing(is_traced_before)));
        scratch.write("p.toml", after.replace("TRACING", &tracing(true)));
        scratch.write("in.ndjson", visits(40));
        let output = scratch.fidelio(&["run", "before.toml"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(scratch.fidelio(&["run", "p.toml"]).status.success());
        let spans = collector.spans();
        let stages = by_stage(&spans);
        assert_eq!((stages["taken"].len(), stages["written"].len()), (40, 40));
        let parents = stages["taken"].iter().filter_map(|span| spans.get(&span.parent_span_id));
        let parents: Vec<&str> = parents.map(|span| span.name.as_str()).collect();
        assert_eq!(parents, vec!["given"; if is_traced_before { 40 } else { 0 }]);
        let traces: BTreeSet<_> = spans.values().map(|span| &span.trace_id).collect();
        assert_eq!(traces.len(), 40);
    }
}
