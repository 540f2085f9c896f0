//! The queries of Nexmark, each as the pipeline that `pipelines/nexmark/` has of it, run by the program as a user runs it: from the
//! first event to the end, on the embedded log, durable with each commit. Prints a table of events a second of wall time.
//!
//! `cargo bench --bench nexmark -- q4 q9` measures some of them; `EVENTS=1000000` says over how many events, `ROUNDS=3` how often,
//! of which the median counts.

// In a benchmark a panic is the message.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/nexmark");

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The queries, in the order of their numbers.
fn queries() -> Vec<String> {
    let files = Path::new(FOLDER).read_dir().unwrap().map(|entry| entry.unwrap().path());
    let names = files.filter(|path| path.extension().is_some_and(|it| it == "toml"));
    let mut names: Vec<String> = names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort_by_key(|name| name[1..].parse::<u32>().unwrap());
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument.starts_with('q')).collect();
    names.retain(|name| wanted.is_empty() || wanted.contains(name));
    names
}

/// Runs a query over so many events in a folder of its own, and gives seconds of wall time, and megabytes of memory at most.
fn run(query: &str, events: u64) -> (f64, u64) {
    let text = std::fs::read_to_string(format!("{FOLDER}/{query}.toml")).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("p.toml");
    std::fs::write(&file, text.replace("events = 10000000", &format!("events = {events}"))).unwrap();
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fidelio"));
    let mut child =
        command.arg("run").arg(&file).arg("--json").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(peak);
        match child.try_wait().unwrap() {
            Some(code) => break code,
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    assert!(code.success(), "{query} ended with {code}");
    let summary: serde_json::Value = serde_json::from_reader(child.stdout.take().unwrap()).unwrap();
    assert_eq!(summary["stages"][query]["lost"], 0, "{query}: {summary}");
    (seconds, peak / 1024)
}

fn main() {
    let (events, rounds) = (number("EVENTS", 10_000_000), number("ROUNDS", 3).max(1));
    println!("| query | events/s | seconds (fastest to slowest of {rounds}) | peak memory |");
    println!("| --- | --- | --- | --- |");
    for query in queries() {
        let mut runs: Vec<(f64, u64)> = (0..rounds).map(|_| run(&query, events)).collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (median, peak) = (runs[runs.len() / 2].0, runs.iter().map(|run| run.1).max().unwrap());
        let (first, last) = (runs[0].0, runs[runs.len() - 1].0);
        let rate = events as f64 / median;
        println!("| {query} | {rate:.0} | {median:.2} ({first:.2} to {last:.2}) | {peak} MB |");
    }
}
