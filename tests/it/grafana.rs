//! The dashboards: of their form, and that every query of theirs finds something where Prometheus scrapes a pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::slo::prometheus;
use crate::support::{Running, Scratch, get, json_of, send, text, until};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

/// The dashboards, by the names of their files.
fn dashboards() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(folder().join("dashboards")).unwrap().map(|entry| entry.unwrap().path());
    let board = |path: PathBuf| {
        let board = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), board)
    };
    files.map(board).collect()
}

/// The panels of a dashboard that show something.
fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// All values under a key, wherever they are.
fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == key {
                    found.push(member);
                }
                all(member, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| all(item, key, found)),
        _ => {}
    }
}

#[test]
fn dashboards_are_sound() {
    let boards = dashboards();
    assert_eq!(boards.keys().collect::<Vec<_>>(), ["dead-letters", "pipeline", "stage"]);
    let mut uids = BTreeSet::new();
    for (name, board) in &boards {
        assert!(uids.insert(string(&board["uid"])), "{name}");
        let variables = board["templating"]["list"].as_array().unwrap();
        let variable = |name: &str| variables.iter().find(|variable| variable["name"] == name);
        let source = variable("datasource").unwrap();
        assert_eq!((&source["type"], &source["query"]), (&json!("datasource"), &json!("prometheus")), "{name}");
        let mut sources = Vec::new();
        all(board, "datasource", &mut sources);
        let any = json!({ "type": "prometheus", "uid": "${datasource}" });
        assert!(sources.iter().all(|source| **source == any), "{name} has a data source of its own");
        assert!(board["links"].as_array().unwrap().iter().any(|link| link["includeVars"] == true), "{name}");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in board["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()) && !string(&panel["title"]).is_empty(), "{panel}");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            let cells = (x..x + w).flat_map(|column| (y..y + h).map(move |row| (column, row)));
            assert!(cells.into_iter().all(|cell| cell.0 < 24 && taken.insert(cell)), "{name}: {}", panel["title"]);
        }
        for panel in panels(board) {
            let what = format!("{name}: {}", panel["title"]);
            assert!(string(&panel["description"]).ends_with('.'), "{what} does not say what it shows");
            assert!(!string(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{what} has no unit");
            assert_eq!(panel["datasource"], any, "{what}");
            for target in panel["targets"].as_array().unwrap() {
                assert!(target["datasource"] == any && !string(&target["legendFormat"]).is_empty(), "{what}: {target}");
                let query = string(&target["expr"]);
                assert!(query.contains("pipeline=~\"$pipeline\""), "{what} is of all pipelines: {query}");
                let is_of_stage = variable("stage").is_none() || query.contains("stage=~\"$stage\"");
                assert!(is_of_stage, "{what} is of all stages: {query}");
            }
        }
    }
}

/// What may stand in a query of a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// A Prometheus that scrapes a worker each second, and where it is asked.
fn scraping(scratch: &Scratch, worker: &str) -> (Running, String) {
    let scrape = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: fidelio\n    static_configs: [targets: [\"{worker}\"]]\n"
    );
    scratch.write("prometheus.yml", scrape.replace("[targets: [", "[{ targets: [").replace("\"]]\n", "\"] }]\n"));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = Command::new(prometheus().join("prometheus"));
    command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]).current_dir(scratch.path(""));
    let running = Running::start(command.arg(format!("--web.listen-address={address}")).stdin(Stdio::null()));
    (running, address)
}

/// What Prometheus answers to a query over the last five minutes.
fn series(address: &str, query: &str) -> Vec<Value> {
    for (name, value) in [("$__rate_interval", "30s"), ("$__range", "5m"), ("$pipeline", ".*"), ("$stage", ".*")] {
        if query.contains(name) {
            return series(address, &query.replace(name, value));
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let path = format!("/api/v1/query_range?query={}&start={}&end={now}&step=5", encoded(query), now - 300);
    let answer = json_of(&send(address, &format!("GET {path} HTTP/1.0\r\n\r\n")));
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    answer["data"]["result"].as_array().unwrap().clone()
}

/// Whether there is a number among the values of the series.
fn has_numbers(series: &[Value]) -> bool {
    let mut values = series.iter().flat_map(|series| series["values"].as_array().unwrap());
    values.any(|value| value[1].as_str().unwrap().parse::<f64>().unwrap().is_finite())
}

#[test]
fn every_query_finds_something_where_a_pipeline_with_faults_is_scraped() {
    let scratch = Scratch::new();
    let pipeline = std::fs::read_to_string(folder().join("pipeline/shop.toml")).unwrap();
    let (head, rest) = pipeline.split_once("[bus]").unwrap();
    let (_, rest) = rest.split_once("\n\n").unwrap();
    scratch.write("p.toml", format!("{head}{rest}"));
    scratch.write("feed/orders.ndjson", "");
    let mut command = scratch.command(&["run", "p.toml", "--http", "0", "--keep-running"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = worker.http_address();
    until("the worker is ready", || get(&address, "/readyz").starts_with("HTTP/1.1 200"));
    let (mut scraper, prometheus) = scraping(&scratch, &address);

    let mut feed = std::fs::OpenOptions::new().append(true).open(scratch.path("feed/orders.ndjson")).unwrap();
    let begin = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
    // Time flies: each turn is a third of a minute, so that minutes are final, and windows close, while it is looked at.
    let mut turn = 0i64;
    let mut order = |turn: i64| {
        let line = |number: i64| {
            let placed =
                arrow::temporal_conversions::timestamp_us_to_datetime(begin + (turn * 20 + number) * 1_000_000);
            let placed = placed.unwrap().and_utc().to_rfc3339();
            let late = arrow::temporal_conversions::timestamp_us_to_datetime(begin).unwrap().and_utc().to_rfc3339();
            let country = ["DE", "FR", "IT", "PL"][(number % 4) as usize];
            let (placed, cents, pieces) = match number {
                3 => (&late, 100, 1),
                5 => (&placed, 0, 1),
                7 => (&placed, 100, 0),
                _ => (&placed, 95_000, 2),
            };
            let order = json!({ "id": turn * 20 + number, "placed": placed, "country": country, "cents": cents, "pieces": pieces });
            if number == 9 { "no order\n".to_owned() } else { order.to_string() + "\n" }
        };
        feed.write_all((0..20).map(line).collect::<String>().as_bytes()).unwrap();
    };
    let mut go_on = || {
        order(turn);
        turn += 1;
        sleep(Duration::from_millis(200));
    };
    let up = || send(&prometheus, "GET /-/ready HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200");
    until("Prometheus is ready", || std::net::TcpStream::connect(&prometheus).is_ok() && up());
    // What comes last: minutes are judged, at both ends.
    let judged = "sum by (stage) (increase(fidelio_slo_minutes_total{verdict=\"good\"}[1m])) > 1";
    until("minutes are judged", || {
        go_on();
        series(&prometheus, judged).len() == 2
    });
    until("all of it is scraped for a while", || {
        go_on();
        has_numbers(&series(&prometheus, "count_over_time(fidelio_state_rows[5m]) > 20"))
            && has_numbers(&series(&prometheus, "fidelio_dead_letters_outstanding > 0"))
    });
    let mut empty = Vec::new();
    let mut queries = 0;
    for (name, board) in dashboards() {
        for panel in panels(&board) {
            for target in panel["targets"].as_array().unwrap() {
                queries += 1;
                let query = string(&target["expr"]);
                if !has_numbers(&series(&prometheus, query)) {
                    empty.push(format!("{name}: {}: {query}", panel["title"]));
                }
            }
        }
    }
    assert!(empty.is_empty() && queries > 90, "of {queries} queries these find nothing:\n{}", empty.join("\n"));
    scraper.kill();
    worker.terminate();
    worker.ended_well();
}

#[test]
fn what_runs_beside_the_dashboards_is_sound() {
    let scratch = Scratch::new();
    let shop = folder().join("pipeline/shop.toml");
    for command in ["check", "test"] {
        let output = scratch.fidelio(&[command, text(&shop)]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    scratch.write("rules/shop.yml", scratch.fidelio(&["alerts", text(&shop)]).stdout);
    std::fs::copy(folder().join("prometheus.yml"), scratch.path("prometheus.yml")).unwrap();
    let output = Command::new(prometheus().join("promtool"))
        .args(["check", "config", "--lint-fatal", "prometheus.yml"])
        .current_dir(scratch.path(""))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    assert!(output.status.success(), "{said}");
}
