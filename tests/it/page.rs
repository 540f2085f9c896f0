//! What a worker serves over HTTP: the page, as a browser shows it, and what is refused.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::run::flights;
use crate::support::{Running, Scratch, get, json_of, send, text, until};
use crate::tamper::{copy, with_rows};

const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "page"
[stages.visits]
source = { kind = "file", path = "in.ndjson" }
event_time = { column = "at" }
[stages.visits.schema]
id = "bigint not null"
at = "timestamp not null"
[stages.checked]
from = ["visits"]
sql = "SELECT 10 / id AS share, id, at FROM visits WHERE id < 900"
[stages.minutes]
from = ["checked"]
sql = "SELECT window_start, count(*) AS n FROM tumble(checked, at, INTERVAL '1 hour') GROUP BY window_start"
[stages.out]
from = ["minutes"]
sink = { kind = "file", path = "out.ndjson" }
[stages.all]
from = ["checked"]
sink = { kind = "file", path = "all.ndjson" }
"#;

/// A worker that goes on when all has been read, and where it serves.
fn serving(scratch: &Scratch, data: &str) -> (Running, String) {
    let mut command = scratch.command(&["run", "p.toml", "--http", "0", "--keep-running", "--data-dir", data]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = worker.http_address();
    (worker, address)
}

/// The lines of a stage's card, and how they are marked.
fn card(browser: &Browser, stage: &str) -> Value {
    browser.run(&format!(
        "const card = document.getElementById('stage-{stage}'); if (!card) return null; const lines = {{}};
         for (const term of card.querySelectorAll('dt')) {{
           const value = term.nextSibling; lines[term.textContent] = value.textContent + (value.className && ' ' + value.className);
         }}
         return {{ lines, mark: card.querySelector('span').textContent, className: card.className }};"
    ))
}

fn visits() -> String {
    let visit = |id: u32| json!({ "id": id, "at": format!("2024-05-01T{:02}:00:00Z", id / 100) }).to_string() + "\n";
    (0..1000).map(visit).collect()
}

#[test]
fn the_page_shows_each_stage_and_what_was_lost_on_the_way_to_it() {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in.ndjson", visits());
    assert!(scratch.fidelio(&["run", "p.toml", "--stage", "visits", "--stage", "checked"]).status.success());
    // Two of its results are gone, and those behind it are to notice.
    copy(&scratch, "copy", |message| {
        let is_result = message.partition.topic.as_str() == "acme.page.checked.results" && message.record.rows > 0;
        let rows = message.record.rows as usize;
        vec![if is_result { with_rows(&message.record, 0..rows - 2) } else { message.record.clone() }]
    });
    let (mut worker, address) = serving(&scratch, "copy");
    for (width, height) in [(1400, 800), (360, 740)] {
        let browser = Browser::start(width, height);
        browser.open(&format!("http://{address}/"));
        until("all has come", || card(&browser, "all")["lines"]["rows"] == "897");
        until("dead letters are seen", || card(&browser, "checked")["lines"]["dead letters"] == "1 warn");
        for stage in ["minutes", "all"] {
            let shown = card(&browser, stage);
            assert_eq!((&shown["lines"]["from checked"], &shown["className"]), (&json!("2 lost bad"), &json!("bad")));
        }
        let out = card(&browser, "out");
        assert_eq!((&out["lines"]["from minutes"], &out["mark"]), (&json!("0 lost good"), &json!("sink · 1/1")));
        let state = card(&browser, "minutes")["lines"]["state"].to_string();
        assert!(state.ends_with(" of 1 GB\""), "{state}");
        let kept = &card(&browser, "minutes")["lines"]["state rows"];
        assert!([json!("0"), json!("1")].contains(kept), "{kept}");
        assert_eq!(browser.run("return document.getElementById('pipeline').textContent"), "acme.page");
        assert_eq!(browser.run("return document.getElementById('health').textContent"), "ready");
        assert_eq!(browser.run("return document.querySelectorAll('#edges path.bad').length"), 2);
        // Nobody has to move the page sideways, and every card is where it can be read.
        assert_eq!(browser.run("return document.documentElement.scrollWidth"), width);
        if width < 800 {
            let cut = "return [...document.querySelectorAll('article')].filter(card => {
                         const box = card.getBoundingClientRect();
                         return box.left < 0 || box.right > innerWidth || card.scrollWidth > card.clientWidth; }).length";
            assert_eq!(browser.run(cut), 0);
        }
    }
    worker.terminate();
    worker.ended_well();
}

#[test]
fn the_flights_example_is_shown_as_it_runs() {
    let scratch = Scratch::new();
    let file = flights(&scratch);
    let browser = Browser::start(1400, 880);
    let mut command = scratch.command(&["run", text(&file), "--http", "0", "--keep-running"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    browser.open(&format!("http://{}/", worker.http_address()));
    let rows = [
        ("schedule", "27,004"),
        ("departed", "27,004"),
        ("arrived", "26,483"),
        ("report", "26,398"),
        ("ranking", "93"),
    ];
    let lines = |stage| card(&browser, stage)["lines"].clone();
    until("all rows are through", || rows.iter().all(|(stage, rows)| lines(stage)["rows"] == *rows));
    until("dead letters are seen", || lines("arrived")["dead letters"] == "85 warn");
    if std::env::var_os("FIDELIO_DOCUMENT").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/page.png"), browser.screenshot()).unwrap();
    }
    worker.terminate();
    worker.ended_well();
}

#[test]
fn the_page_says_when_nobody_answers_any_more() {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in.ndjson", visits());
    let (mut worker, address) = serving(&scratch, "data");
    let browser = Browser::start(800, 600);
    browser.open(&format!("http://{address}/"));
    let health = || browser.run("return document.getElementById('health').className");
    until("it is well", || health() == "good");
    worker.kill();
    until("it is seen", || health() == "bad");
}

#[test]
fn what_is_served_changes_nothing_and_is_bounded() {
    let scratch = Scratch::with(PIPELINE);
    scratch.write("in.ndjson", visits());
    let (mut worker, address) = serving(&scratch, "data");
    until("it is ready", || get(&address, "/readyz").starts_with("HTTP/1.1 200"));
    let status = json_of(&get(&address, "/status"));
    assert_eq!((&status["pipeline"], status["stages"].as_array().unwrap().len()), (&json!("acme.page"), 5));
    for method in ["POST", "PUT", "DELETE"] {
        for path in ["/", "/status", "/metrics", "/readyz"] {
            let answer = send(
                &address,
                &format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
            );
            assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        }
    }
    let page = get(&address, "/");
    assert!(page.contains("content-security-policy: default-src 'none'") && !page.contains("://"), "{page}");
    let long = "a".repeat(20_000);
    let answer = send(&address, &format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // Who sends nothing, or only begins to, is hung up on.
    assert_eq!(send(&address, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "), "");
    let healthz = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers: Vec<String> = (0..400).map(|_| send(&address, healthz)).collect();
    let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 429")).count();
    let answered = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    assert!(answered >= 100 && refused + answered == 400, "{answered} {refused}");
    worker.terminate();
    worker.ended_well();
}
