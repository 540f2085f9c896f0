//! Windows over event time, as whoever runs a pipeline sees them.

use std::collections::BTreeMap;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Running, Scratch, Summary, get, lines, until};

/// Visits of one or more partitions, which are shuffled by country, and counted by minute.
pub const PIPELINE: &str = r#"
[pipeline]
company = "acme"
namespace = "windows"
[stages.visits]
source = { kind = "file", path = "in/*.ndjson" }
event_time = { column = "at", out_of_orderness = "30s" }
key = ["who"]
partitions = 3
[stages.visits.schema]
at = "timestamp not null"
who = "text not null"
country = "text"
pages = "bigint"
[stages.known]
from = ["visits"]
key = ["country"]
partitions = 4
sql = "SELECT at, who, country, pages FROM visits WHERE country IS NOT NULL"
[stages.minutes]
from = ["known"]
sql = """
SELECT window_start AS minute, country, count(*) AS visits, sum(pages) AS pages
FROM tumble(known, at, INTERVAL '1 minute') GROUP BY window_start, country
"""
[stages.out]
from = ["minutes"]
sink = { kind = "file", path = "out/{partition}.ndjson" }
"#;

/// The pipeline with a source that waits for more.
fn following(pipeline: &str) -> String {
    pipeline.replace("in/*.ndjson\" }", "in/*.ndjson\", follow = true }")
}

/// Visits, out of their order by less than half a minute.
pub fn visits(numbers: std::ops::Range<u64>) -> String {
    let line = |n: u64| {
        let second = n / 10 + 29 - n * 7919 % 29;
        let at = format!("2024-03-31T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60);
        let country = if n.is_multiple_of(11) { json!(null) } else { json!(format!("c{}", n % 7)) };
        json!({ "at": at, "who": format!("w{}", n % 50), "country": country, "pages": n % 5 }).to_string() + "\n"
    };
    numbers.map(line).collect()
}

/// What windows are to yield: by minute and country, visits and pages.
pub type Minutes = BTreeMap<(String, String), (u64, u64)>;

pub fn minutes_of(visits: &str) -> Minutes {
    let mut minutes = Minutes::new();
    for visit in visits.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let Some(country) = visit["country"].as_str() else { continue };
        let minute = format!("{}00Z", &visit["at"].as_str().unwrap()[..17]);
        let (visits, pages) = minutes.entry((minute, country.to_owned())).or_default();
        (*visits, *pages) = (*visits + 1, *pages + visit["pages"].as_u64().unwrap());
    }
    minutes
}

/// What is in the sink's files, in which each minute and country is once.
pub fn written(scratch: &Scratch, files: u32) -> Minutes {
    let mut minutes = Minutes::new();
    for file in 0..files {
        for row in scratch.ndjson(&format!("out/{file}.ndjson")) {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            let counted = (row["visits"].as_u64().unwrap(), row["pages"].as_u64().unwrap());
            assert_eq!(minutes.insert((text("minute"), text("country")), counted), None, "{row} is there twice");
        }
    }
    minutes
}

/// The last minute that has closed, once all files are there.
fn last_minute(scratch: &Scratch) -> Option<String> {
    let is_there = (0..4).all(|file| scratch.path(&format!("out/{file}.ndjson")).exists());
    if is_there { written(scratch, 4).into_keys().map(|(minute, _)| minute).max() } else { None }
}

/// Runs the pipeline to an end that is not a good one, and gives what it said.
fn refusal(scratch: &Scratch) -> String {
    let output = scratch.fidelio(&["run", "p.toml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn windows_over_partitions_that_were_shuffled_yield_what_one_partition_would() {
    let scratch = Scratch::with(PIPELINE);
    let text = visits(0..30_000);
    scratch.write("in/a.ndjson", &text);
    let summary = scratch.run();
    summary.assert_balanced();
    assert_eq!((summary.of("minutes", "dead_lettered"), summary.of("minutes", "absorbed")), (0, 27_272));
    assert_eq!(written(&scratch, 4), minutes_of(&text));
    // Each partition has its windows in their order.
    for file in 0..4 {
        let rows = scratch.ndjson(&format!("out/{file}.ndjson"));
        let keys: Vec<(&str, &str)> =
            rows.iter().map(|row| (row["minute"].as_str().unwrap(), row["country"].as_str().unwrap())).collect();
        assert!(keys.is_sorted(), "{file}");
    }
    // What a stage says of event times is no row.
    assert_eq!(scratch.tail("known").len(), 27_272);
}

#[test]
fn a_later_run_goes_on_with_later_windows_and_rows_of_those_that_closed_are_late() {
    later_run(PIPELINE, 3_000);
    // Messages of a row each are read some at a time.
    let json = PIPELINE.replace("key = [\"who\"]\n", "key = [\"who\"]\nformat = \"json\"\n");
    later_run(&json.replace("key = [\"country\"]\n", "key = [\"country\"]\nformat = \"json\"\n"), 60_000);
}

fn later_run(pipeline: &str, rows: u64) {
    let scratch = Scratch::with(pipeline);
    scratch.write("in/a.ndjson", visits(0..rows));
    scratch.run();
    // The last windows closed when the source ended, though they were not over.
    let first = minutes_of(&visits(0..rows));
    assert_eq!(written(&scratch, 4), first);
    scratch.write("in/b.ndjson", visits(rows..2 * rows));
    let summary = scratch.run();
    summary.assert_balanced();
    let is_late = |visit: &&str| {
        let mut of_one = minutes_of(visit).into_keys();
        of_one.next().is_some_and(|(minute, _)| first.keys().any(|(closed, _)| *closed >= minute))
    };
    let more = visits(rows..2 * rows);
    let late: Vec<&str> = more.lines().filter(is_late).collect();
    assert!(late.len() > 100 && late.len() < 2_000, "{}", late.len());
    assert_eq!(summary.of("minutes", "late"), late.len() as i64);
    let mut expected = first.clone();
    let on_time: String = more.lines().filter(|visit| !is_late(visit)).map(|line| format!("{line}\n")).collect();
    expected.extend(minutes_of(&on_time));
    assert_eq!(written(&scratch, 4), expected);
    let letters = scratch.dead_letters();
    assert_eq!(letters.len(), late.len());
    assert!(letters.iter().all(|letter| letter["class"] == "late" && letter["stage"] == "minutes"));
    let letter = &letters[0];
    assert!(late.iter().any(|visit| serde_json::from_str::<Value>(visit).unwrap() == letter["value"]), "{letter}");
}

#[test]
fn a_window_closes_as_soon_as_the_watermark_has_reached_its_end() {
    let scratch = Scratch::with(&following(PIPELINE));
    scratch.write("in/a.ndjson", visits(0..3_000));
    let mut command = scratch.command(&["run", "p.toml", "--json", "--http", "127.0.0.1:0"]);
    let mut run = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = run.http_address();
    // The greatest time is 327 seconds, and 30 less are waited for: four minutes.
    until("four minutes have closed", || last_minute(&scratch).as_deref() == Some("2024-03-31T00:03:00Z"));
    let metrics = get(&address, "/metrics");
    for expected in [
        r#"fidelio_watermark_timestamp_seconds{pipeline="acme.windows",stage="visits",task="0"} 1711843497"#,
        r#"fidelio_rows_absorbed_total{pipeline="acme.windows",stage="minutes",task="1"}"#,
        r#"fidelio_state_limit_bytes{pipeline="acme.windows",stage="minutes",task="3"} 1000000000"#,
    ] {
        assert!(metrics.contains(expected), "no {expected} in\n{metrics}");
    }
    let state = |metrics: &str| {
        let of_tasks = metrics.lines().filter(|line| line.starts_with("fidelio_state_bytes{"));
        of_tasks.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    assert!(state(&metrics) > 0.0, "{metrics}");
    // It is told to stop, and the windows that are open stay so.
    run.terminate();
    let summary = Summary(serde_json::from_str(&run.ended_well()).unwrap());
    summary.assert_balanced();
    assert_eq!(last_minute(&scratch).as_deref(), Some("2024-03-31T00:03:00Z"));
    // What comes afterwards is added to what they held.
    scratch.write("p.toml", PIPELINE).write("in/b.ndjson", visits(3_000..6_000));
    scratch.run().assert_balanced();
    assert_eq!(written(&scratch, 4), minutes_of(&visits(0..6_000)));
}

#[test]
fn windows_close_once_no_source_is_waited_for_whichever_of_them_said_so_last() {
    for (visits_after, others_after) in [("10ms", "2s"), ("2s", "10ms")] {
        let idle = |after: &str| format!("out_of_orderness = \"30s\", idle_after = \"{after}\"");
        let visits_source = following(PIPELINE).replace("out_of_orderness = \"30s\"", &idle(visits_after));
        let (head, tail) = visits_source.split_once("[stages.visits]").unwrap();
        let (source, rest) = tail.split_once("[stages.known]").unwrap();
        let others = source.replace("in/", "others/").replace("stages.visits", "stages.others");
        let others = others.replace(&idle(visits_after), &idle(others_after));
        let both = "SELECT * FROM visits UNION ALL SELECT * FROM others";
        let rest =
            rest.replace("[\"visits\"]", "[\"visits\", \"others\"]").replace("FROM visits", &format!("FROM ({both})"));
        let scratch =
            Scratch::with(&format!("{head}[stages.visits]{source}[stages.others]{others}[stages.known]{rest}"));
        scratch.write("in/a.ndjson", visits(0..3_000));
        let mut run = Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
        until("four minutes have closed", || last_minute(&scratch).as_deref() == Some("2024-03-31T00:03:00Z"));
        run.terminate();
        Summary(serde_json::from_str(&run.ended_well()).unwrap()).assert_balanced();
    }
}

#[test]
fn a_clock_that_jumps_by_an_hour_changes_nothing() {
    let run = |clock: &str| {
        let scratch = Scratch::with(&PIPELINE.replace("\"30s\" }", "\"30s\", idle_after = \"1h\" }"));
        scratch.write("in/a.ndjson", visits(0..100_000));
        let output = scratch.command(&["run", "p.toml", "--json"]).env("FAILPOINTS", clock).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary = Summary(serde_json::from_slice(&output.stdout).unwrap());
        summary.assert_balanced();
        assert_eq!(summary.of("minutes", "dead_lettered"), 0);
        let files = (0..4).map(|file| std::fs::read(scratch.path(&format!("out/{file}.ndjson"))).unwrap());
        (files.collect::<Vec<_>>(), scratch.published("acme.windows.visits.results"))
    };
    let jumps = |times: &[i64]| times.iter().any(|time| (time - times[0]).abs() > 1_800_000_000);
    let (steady, times) = run("");
    assert!(!jumps(&times));
    // How often it is looked at before the first row comes differs.
    let at = [2, 6, 12, 20, 30].map(|looks| format!("clock={looks}*off->{looks}*return(3600)->return(-3600)"));
    let mut jumped = false;
    for clock in at.iter().map(String::as_str).chain(["clock=50%return(3600)"]) {
        let (found, times) = run(clock);
        assert!(found == steady, "{clock}");
        jumped |= jumps(&times);
    }
    assert!(jumped, "the clock was steady");
}

#[test]
fn a_stage_that_would_take_too_much_memory_stops_and_goes_on_with_a_higher_limit() {
    let low = PIPELINE.replace("[stages.minutes]\n", "[stages.minutes]\nstate_limit = \"2KB\"\n");
    let scratch = Scratch::with(&low);
    let text = visits(0..30_000);
    scratch.write("in/a.ndjson", &text);
    let said = refusal(&scratch);
    assert!(said.contains("task") && said.contains("of stage minutes") && said.contains("raise state_limit"), "{said}");
    scratch.write("p.toml", PIPELINE);
    scratch.run().assert_balanced();
    assert_eq!(written(&scratch, 4), minutes_of(&text));
}

/// Windows that are open, in a run that was told to stop.
fn open() -> Scratch {
    let scratch = Scratch::with(&following(PIPELINE));
    scratch.write("in/a.ndjson", visits(0..3_000));
    let mut command = scratch.command(&["run", "p.toml", "--json", "--http", "127.0.0.1:0"]);
    let mut run = Running::start(command.stdout(Stdio::piped()).env("FIDELIO_LOG", "info"));
    let address = run.http_address();
    let absorbed = || {
        let metrics = get(&address, "/metrics");
        let of_tasks =
            metrics.lines().filter(|line| line.starts_with("fidelio_rows_absorbed_total{") && line.contains("minutes"));
        of_tasks.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    until("all rows are in windows", || absorbed() == 2_727);
    run.terminate();
    run.ended_well();
    scratch.write("p.toml", PIPELINE);
    scratch
}

#[test]
fn a_query_can_be_edited_while_windows_are_open_as_long_as_it_keeps_the_same_of_its_rows() {
    let scratch = open();
    let as_it_was = |scratch: &Scratch| {
        scratch.write("p.toml", PIPELINE).write("in/b.ndjson", visits(3_000..6_000));
        scratch.run().assert_balanced();
        assert_eq!(written(scratch, 4), minutes_of(&visits(0..6_000)));
    };
    for edited in [
        PIPELINE.replace("sum(pages)", "max(pages)"),
        PIPELINE.replace("'1 minute'", "'2 minutes'"),
        PIPELINE.replace("GROUP BY window_start, country", "GROUP BY window_start, country, who"),
        PIPELINE.replace("'1 minute') GROUP", "'1 minute') WHERE pages > 1 GROUP"),
    ] {
        // Were the source to end, all windows would close.
        scratch.write("p.toml", following(&edited));
        let said = refusal(&scratch);
        assert!(said.contains("the windows that are open hold (") && said.contains("give it back the query"), "{said}");
    }
    as_it_was(&scratch);
    let scratch = open();
    // Minutes are named otherwise, and of those that are open only the large ones are wanted.
    let edited =
        PIPELINE.replace("GROUP BY window_start, country", "GROUP BY window_start, country HAVING count(*) > 50");
    scratch.write("p.toml", &edited);
    scratch.run().assert_balanced();
    let all = minutes_of(&visits(0..3_000));
    let closed = |minute: &str| minute <= "2024-03-31T00:03:00Z";
    let wanted = all.into_iter().filter(|((minute, _), (visits, _))| closed(minute) || *visits > 50);
    assert_eq!(written(&scratch, 4), wanted.collect());
}

#[test]
fn state_that_is_missing_or_damaged_is_refused() {
    let state = |scratch: &Scratch| {
        let folder = scratch.path("data/topics/acme.windows.minutes.private.state");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let missing = open();
    std::fs::remove_file(&state(&missing)[0]).unwrap();
    let said = refusal(&missing);
    assert!(said.contains("acme.windows.minutes.private.state"), "{said}");
    let damaged = open();
    let file = &state(&damaged)[0];
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
    let said = refusal(&damaged);
    assert!(said.contains("acme.windows.minutes.private.state") && said.contains("damaged"), "{said}");
}

#[test]
fn what_open_windows_hold_is_shown_as_rows() {
    let scratch = open();
    let state = |arguments: &[&str]| scratch.fidelio(&[&["state", "p.toml"], arguments].concat());
    let output = state(&["minutes"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut held = Minutes::new();
    for row in lines(&output.stdout) {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let number = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("no {name} in {row}"));
        assert!(text("task").parse::<u32>().unwrap() < 4);
        held.insert(
            (text("window_start"), text("country")),
            (number("count(Int64(1))[count]"), number("sum(known.pages)[sum]")),
        );
    }
    let mut expected = minutes_of(&visits(0..3_000));
    expected.retain(|(minute, _), _| minute.as_str() > "2024-03-31T00:03:00Z");
    assert_eq!(held, expected);
    // When all have closed, nothing is left.
    scratch.run();
    assert_eq!(state(&["minutes"]).stdout, b"");
    for (stage, said) in [("known", "stage known keeps no rows"), ("unknown", "the pipeline has no stage unknown")] {
        let output = state(&[stage]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(said));
    }
}

#[test]
fn what_a_window_cannot_yield_is_a_dead_letter_and_the_others_are_there() {
    let of_rows = PIPELINE.replace("sum(pages) AS pages", "sum(pages) / (count(*) - 58) AS pages");
    let scratch = Scratch::with(&of_rows);
    let text = visits(0..3_000);
    scratch.write("in/a.ndjson", &text);
    let summary = scratch.run();
    summary.assert_balanced();
    let all = minutes_of(&text);
    let (failed, fine): (Minutes, Minutes) = all.into_iter().partition(|(_, (visits, _))| *visits == 58);
    assert!(!failed.is_empty());
    assert_eq!(summary.of("minutes", "emitted"), (failed.len() + fine.len()) as i64);
    assert_eq!(summary.of("minutes", "rows_out"), fine.len() as i64);
    let letters = scratch.dead_letters();
    let countries: Vec<&str> = letters.iter().map(|letter| letter["value"]["country"].as_str().unwrap()).collect();
    let mut expected: Vec<&str> = failed.keys().map(|(_, country)| country.as_str()).collect();
    expected.sort_unstable();
    let mut found = countries.clone();
    found.sort_unstable();
    assert_eq!(found, expected);
    for letter in &letters {
        assert_eq!((&letter["class"], &letter["stage"]), (&json!("expression"), &json!("minutes")));
        assert!(letter["message"].as_str().unwrap().contains("division by zero"), "{letter}");
    }

    // Where a window function fails, the window does.
    let of_window = PIPELINE.replace(
        "SELECT window_start AS minute, country, count(*) AS visits, sum(pages) AS pages",
        "SELECT window_start AS minute, country, count(*) AS visits, \
         sum(10 / (count(*) - 58)) OVER (PARTITION BY window_start, country) AS pages",
    );
    let scratch = Scratch::with(&of_window);
    scratch.write("in/a.ndjson", &text);
    scratch.run().assert_balanced();
    let letters = scratch.dead_letters();
    assert!(
        letters.iter().all(|letter| letter["class"] == "expression" && letter["stage"] == "minutes"),
        "{letters:?}"
    );
    let minutes =
        |minutes: &Minutes| minutes.keys().map(|(minute, _)| minute.clone()).collect::<std::collections::BTreeSet<_>>();
    assert!(!letters.is_empty() && letters.len() <= 4 * minutes(&failed).len());
}

#[test]
fn rows_that_come_for_a_window_that_has_closed_correct_it_for_as_long_as_it_is_kept() {
    let pipeline = PIPELINE
        .replace("[stages.minutes]\n", "[stages.minutes]\nlate = \"correct\"\ncorrect_for = \"2m\"\n")
        .replace("partitions = 3", "partitions = 1")
        .replace("partitions = 4", "partitions = 1");
    let visit = |second: u32, pages: u32| {
        json!({ "at": format!("2024-03-31T00:{:02}:{:02}Z", second / 60, second % 60), "who": "w", "country": "c", "pages": pages })
            .to_string()
    };
    let tests = format!(
        r#"
[[tests]]
name = "a window is corrected until it is gone"
stage = "minutes"
given = {{ visits = [{}] }}
expect = [
  {{ minute = "2024-03-31T00:00:00Z", country = "c", visits = 1, pages = 1, correction = false }},
  {{ minute = "2024-03-31T00:00:00Z", country = "c", visits = 2, pages = 3, correction = true }},
  {{ minute = "2024-03-31T00:01:00Z", country = "c", visits = 1, pages = 4, correction = false }},
  {{ minute = "2024-03-31T00:04:00Z", country = "c", visits = 1, pages = 8, correction = false }},
]
expect_dead_letters = [{{ class = "late" }}]
"#,
        [visit(0, 1), visit(95, 4), visit(1, 2), visit(270, 8), visit(2, 16)].join(", ").replace("\":", "\" = "),
    );
    let scratch = Scratch::with(&(pipeline + &tests));
    let output = scratch.fidelio(&["test", "p.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let text: String = [visit(0, 1), visit(95, 4), visit(1, 2), visit(270, 8), visit(2, 16)].join("\n");
    scratch.write("in/a.ndjson", text);
    // In one batch none of them is late.
    scratch.run().assert_balanced();
    assert!(scratch.ndjson("out/0.ndjson").iter().all(|row| row["correction"] == false));
    // What was kept is there in the next run.
    scratch.write("in/b.ndjson", visit(271, 32));
    scratch.run().assert_balanced();
    let last = scratch.ndjson("out/0.ndjson").pop().unwrap();
    assert_eq!((&last["visits"], &last["pages"], &last["correction"]), (&json!(2), &json!(40), &json!(true)));
}

#[test]
fn windows_say_early_what_they_would_yield_and_their_results_come_last() {
    let pipeline = PIPELINE.replace(
        "[stages.minutes]\n",
        "[stages.minutes]\nemit = \"on_update\"\nkey = [\"minute\", \"country\"]\nformat = \"json\"\n",
    );
    let scratch = Scratch::with(&pipeline);
    for (number, file) in ["a", "b", "c"].into_iter().enumerate() {
        let start = number as u64 * 1_000;
        scratch.write(&format!("in/{file}.ndjson"), visits(start..start + 1_000));
    }
    let summary = scratch.run();
    summary.assert_balanced();
    let all = minutes_of(&visits(0..3_000));
    // By key, since a key is always in the same partition.
    let mut said: BTreeMap<(String, String), Vec<(bool, u64)>> = BTreeMap::new();
    for row in (0..4).flat_map(|file| scratch.ndjson(&format!("out/{file}.ndjson"))) {
        let key = (row["minute"].as_str().unwrap().to_owned(), row["country"].as_str().unwrap().to_owned());
        said.entry(key).or_default().push((row["early"].as_bool().unwrap(), row["visits"].as_u64().unwrap()));
    }
    assert_eq!(said.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
    let mut early = 0;
    for (key, said) in &said {
        let (last, before) = said.split_last().unwrap();
        assert_eq!(*last, (false, all[key].0), "{key:?}");
        assert!(before.iter().all(|(early, _)| *early) && said.is_sorted_by_key(|(_, visits)| *visits), "{said:?}");
        early += before.len();
    }
    assert!(early >= all.len() / 2, "{early}");
    assert_eq!(summary.of("minutes", "emitted"), (early + all.len()) as i64);
    let keys = scratch.tail("minutes");
    assert!(keys.iter().all(|row| row["key"].as_str().unwrap().starts_with("[\"2024-03-31T")), "{keys:?}");
}

/// How many visits each session has, by who and its bounds in seconds; it ends so long after the last of them.
fn sessions_of(visits: &str, gap: i64) -> BTreeMap<(String, i64, i64), i64> {
    let visits = visits.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut visits: Vec<(String, i64)> =
        visits.map(|visit| (visit["who"].as_str().unwrap().to_owned(), second(&visit["at"]))).collect();
    visits.sort();
    let together = visits.chunk_by(|a, b| a.0 == b.0 && b.1 - a.1 < gap);
    let of_session = |rows: &[(String, i64)]| {
        let (first, last) = (rows.first().unwrap(), rows.last().unwrap());
        ((first.0.clone(), first.1, last.1 + gap), rows.len() as i64)
    };
    together.map(of_session).collect()
}

/// The second of the day.
fn second(at: &Value) -> i64 {
    let at = at.as_str().unwrap();
    let part = |from: usize| at[from..from + 2].parse::<i64>().unwrap();
    part(11) * 3600 + part(14) * 60 + part(17)
}

#[test]
fn sessions_say_early_what_they_are_and_rows_that_come_late_put_them_together() {
    let pipeline = PIPELINE.split_once("[stages.minutes]").unwrap().0.to_owned()
        + r#"
[stages.sessions]
from = ["known"]
emit = "on_update"
late = "correct"
correct_for = "10m"
key = ["who"]
sql = """
SELECT who, window_start, window_end, count(*) AS visits FROM session(known, at, INTERVAL '20 seconds', who)
GROUP BY who, window_start, window_end
"""
[stages.out]
from = ["sessions"]
sink = { kind = "file", path = "out/{partition}.ndjson" }
"#;
    let pipeline = pipeline.replace("key = [\"country\"]", "key = [\"who\"]").replace("WHERE country IS NOT NULL", "");
    let scratch = Scratch::with(&following(&pipeline));
    // What was said last of each session: it replaces all that was said within its bounds.
    let said = || {
        let mut said = BTreeMap::new();
        let (mut early, mut corrections) = (0, 0);
        for row in (0..4).flat_map(|file| scratch.ndjson(&format!("out/{file}.ndjson"))) {
            let (start, end) = (second(&row["window_start"]), second(&row["window_end"]));
            let who = row["who"].as_str().unwrap().to_owned();
            said.retain(|(of, from, to), _| !(*of == who && start <= *from && *to <= end));
            said.insert((who, start, end), row["visits"].as_i64().unwrap());
            early += u32::from(row["early"] == true);
            corrections += u32::from(row["correction"] == true);
        }
        (said, early, corrections)
    };
    let morning = [visits(0..600), visits(3_000..3_600)];
    scratch.write("in/a.ndjson", &morning[0]);
    let mut run = Running::start(&mut scratch.command(&["run", "p.toml"]));
    let written = |file: u32| scratch.path(&format!("out/{file}.ndjson")).metadata().is_ok_and(|file| file.len() > 0);
    until("something is said early", || (0..4).any(written) || !run.is_running());
    run.kill();
    scratch.write("p.toml", &pipeline);
    scratch.write("in/b.ndjson", &morning[1]);
    scratch.run().assert_balanced();
    let (found, early, corrections) = said();
    assert_eq!(found, sessions_of(&morning.concat(), 20));
    assert_eq!((found.len(), early > 0, corrections), (100, true, 0));

    // All sessions have closed, and two of each become one.
    let between = visits(600..3_000);
    scratch.write("in/c.ndjson", &between);
    scratch.run().assert_balanced();
    let (found, _, corrections) = said();
    assert_eq!(found, sessions_of(&(morning.concat() + &between), 20));
    assert_eq!((found.len(), corrections > 0), (50, true));
    assert_eq!(scratch.dead_letters(), Vec::<Value>::new());
}
