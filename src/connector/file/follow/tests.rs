//! Following files while they grow, are rotated and truncated, with and without a worker that watches.

use std::io::Write;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::bus::Limit;
use crate::config::LineFormat;
use crate::connector::file::{FileSource, Mode};
use crate::connector::{Block, Polled, Position, Source};
use crate::failure::Class;

const LIMIT: Limit = Limit { rows: 1000, bytes: 1 << 20 };
const PATIENCE: Duration = Duration::from_secs(3600);
const FOREVER: Duration = Duration::from_secs(3600);

/// A folder with logs, and a worker that follows them.
struct Following {
    dir: TempDir,
    pattern: &'static str,
    grace: Duration,
    source: Option<FileSource>,
    position: Option<Position>,
}

impl Following {
    fn of(pattern: &'static str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), pattern, grace: FOREVER, source: None, position: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, rows: &str) -> File {
        let mut file = File::options().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(rows.as_bytes()).unwrap();
        file
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    async fn start(&mut self) -> &mut FileSource {
        let pause = Duration::from_millis(1);
        let pace = Pace { busy: pause, idle: pause, scan: pause, grace: self.grace };
        let selection = Selection { path: self.path(self.pattern), compression: None, task: 0, tasks: 1 };
        let format = if self.pattern.ends_with("csv") { LineFormat::Csv } else { LineFormat::Ndjson };
        let mut source = FileSource::new(selection, format, 1 << 20, Mode::Follow(pace));
        source.resume(self.position.clone()).await.unwrap();
        self.source.insert(source)
    }

    fn stop(&mut self) {
        self.position = self.source.take().map(|source| source.position());
    }

    async fn block(&mut self) -> Block {
        match self.source.as_mut().unwrap().poll(LIMIT, PATIENCE).await.unwrap() {
            Polled::Rows(block) => block,
            other => panic!("{other:?}"),
        }
    }

    /// That many rows, and no more as far as can be seen with them.
    async fn rows(&mut self, count: usize) -> Vec<String> {
        let mut rows = Vec::new();
        while rows.len() < count {
            let block = self.block().await;
            assert_eq!(block.rejects, []);
            rows.extend((0..block.rows.len()).map(|row| String::from_utf8_lossy(&block.rows.row(row)).into_owned()));
        }
        rows
    }

    fn files(&self) -> Vec<Value> {
        self.source.as_ref().unwrap().position().at["files"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn what_is_appended_comes_and_an_unfinished_row_waits_for_its_end() {
    let mut following = Following::of("log");
    following.append("log", "1\n2\n{\"unfin");
    following.start().await;
    assert_eq!(following.rows(2).await, ["1", "2"]);
    assert_eq!(following.files()[0]["offset"], 4);
    following.append("log", "ished\"}\n3\n");
    assert_eq!(following.rows(2).await, ["{\"unfinished\"}", "3"]);
}

#[tokio::test]
async fn without_a_file_it_waits_for_one() {
    let mut following = Following::of("*.log");
    let source = following.start().await;
    assert_eq!(source.poll(LIMIT, Duration::from_millis(5)).await.unwrap(), Polled::Idle);
    following.append("a.log", "1\n");
    assert_eq!(following.rows(1).await, ["1"]);
    following.append("b.log", "2\n");
    assert_eq!(following.rows(1).await, ["2"]);
    following.append("a.log", "3\n");
    assert_eq!(following.rows(1).await, ["3"]);
}

#[tokio::test]
async fn across_a_rotation_by_renaming_no_row_is_lost_or_doubled() {
    let mut following = Following::of("log");
    let mut old = following.append("log", "1\n");
    following.start().await;
    assert_eq!(following.rows(1).await, ["1"]);
    old.write_all(b"2\n").unwrap();
    following.rename("log", "log.1");
    following.append("log", "4\n");
    assert_eq!(following.rows(2).await, ["2", "4"]);
    // Whoever writes may not know of the rotation yet.
    old.write_all(b"3\n").unwrap();
    assert_eq!(following.rows(1).await, ["3"]);
    following.append("log", "5\n");
    assert_eq!(following.rows(1).await, ["5"]);
}

#[tokio::test]
async fn a_rotation_while_no_worker_runs_loses_and_doubles_nothing() {
    let mut following = Following::of("log");
    following.append("log", "1\n2");
    following.start().await;
    assert_eq!(following.rows(1).await, ["1"]);
    following.stop();
    following.append("log", "2\n3\n");
    following.rename("log", "anything");
    following.append("log", "4\n");
    following.start().await;
    assert_eq!(following.rows(3).await, ["22", "3", "4"]);
    // Stopped again before the old file is over.
    following.stop();
    following.append("anything", "5\n");
    following.append("log", "6\n");
    following.start().await;
    assert_eq!(following.rows(2).await, ["5", "6"]);
}

#[tokio::test]
async fn a_rotated_file_that_still_matches_is_followed_under_its_new_name() {
    let mut following = Following::of("log*");
    following.grace = Duration::ZERO;
    following.append("log", "1\n");
    following.start().await;
    assert_eq!(following.rows(1).await, ["1"]);
    following.rename("log", "log.1");
    following.append("log", "2\n");
    assert_eq!(following.rows(1).await, ["2"]);
    following.append("log.1", "3\n");
    assert_eq!(following.rows(1).await, ["3"]);
    following.stop();
    following.rename("log.1", "log.2");
    following.rename("log", "log.1");
    following.append("log", "4\n");
    following.append("log.1", "5\n");
    following.start().await;
    assert_eq!(following.rows(2).await, ["4", "5"]);
}

#[tokio::test]
async fn the_unfinished_row_of_a_rotated_file_is_its_last() {
    let mut following = Following::of("log");
    following.grace = Duration::ZERO;
    following.append("log", "1\nunfinished");
    following.start().await;
    assert_eq!(following.rows(1).await, ["1"]);
    following.rename("log", "log.1");
    assert_eq!(following.rows(1).await, ["unfinished"]);
}

#[tokio::test]
async fn files_that_were_rotated_away_leave_the_position() {
    let mut following = Following::of("log");
    following.grace = Duration::ZERO;
    following.start().await;
    for turn in 0..5 {
        following.append("log", &format!("{turn}\n"));
        assert_eq!(following.rows(1).await, [turn.to_string()]);
        following.rename("log", &format!("log.{turn}"));
        while !following.files().is_empty() {
            let polled = following.source.as_mut().unwrap().poll(LIMIT, Duration::from_millis(1)).await.unwrap();
            assert_eq!(polled, Polled::Idle);
        }
    }
}

#[tokio::test]
async fn a_truncated_file_is_read_from_its_start() {
    let mut following = Following::of("log");
    following.append("log", "1\n2\n3\n");
    following.start().await;
    following.rows(3).await;
    fs::write(following.path("log"), "4\n").unwrap();
    assert_eq!(following.rows(1).await, ["4"]);
    assert_eq!(following.files().len(), 1);
    assert_eq!(following.files()[0]["offset"], 2);
    following.append("log", "5\n");
    assert_eq!(following.rows(1).await, ["5"]);
}

#[tokio::test]
async fn what_went_away_unread_while_no_worker_ran_is_on_record() {
    let mut following = Following::of("log");
    following.append("log", "1\n2\n");
    following.start().await;
    following.rows(2).await;
    following.stop();
    following.append("log", "3\n");
    fs::remove_file(following.path("log")).unwrap();
    following.append("other", "x");
    following.append("log", "4\n");
    following.start().await;
    let lost = following.block().await;
    assert_eq!((lost.rejects.len(), lost.rejects[0].class, lost.offset), (1, Class::Decode, 4));
    assert!(lost.rejects[0].message.contains("after 4 bytes (2 rows)"), "{}", lost.rejects[0].message);
    assert_eq!(following.rows(1).await, ["4"]);
    assert_eq!(following.files().len(), 1);
}

#[tokio::test]
async fn a_truncation_while_no_worker_ran_is_on_record_and_the_rest_is_read() {
    let mut following = Following::of("log");
    following.append("log", "1\n2\n");
    following.start().await;
    following.rows(2).await;
    following.stop();
    fs::write(following.path("log"), "3\n").unwrap();
    following.start().await;
    assert_eq!(following.block().await.rejects.len(), 1);
    assert_eq!(following.rows(1).await, ["3"]);
}

#[tokio::test]
async fn a_header_governs_a_followed_file_across_restarts() {
    let mut following = Following::of("a.csv");
    following.append("a.csv", "id,name\n1,a\n");
    following.start().await;
    assert_eq!(following.rows(1).await, ["1,a"]);
    following.stop();
    following.append("a.csv", "2,\"b\nb\"\n");
    following.start().await;
    let block = following.block().await;
    assert_eq!(block.header.as_deref(), Some(&b"id,name"[..]));
    assert_eq!(block.rows.row(0), &b"2,\"b\nb\""[..]);
}

#[tokio::test]
async fn archives_that_rotation_leaves_are_not_read_again() {
    let mut following = Following::of("log*");
    following.append("log.2.gz", "not even an archive\n");
    following.append("log.3.zst", "nor this\n");
    following.append("log", "1\n");
    following.start().await;
    assert_eq!(following.rows(1).await, ["1"]);
    following.append("log.4.gz", "nor this\n");
    following.append("log.5", "2\n");
    assert_eq!(following.rows(1).await, ["2"]);
    assert_eq!(following.files().len(), 2);
}

#[tokio::test]
async fn a_compressed_file_cannot_be_followed() {
    let compression = Some(Compression::Gzip);
    let selection = Selection { path: "log".into(), compression, task: 0, tasks: 1 };
    let mut source = FileSource::new(selection, LineFormat::Ndjson, 1000, Mode::Follow(Pace::default()));
    let error = source.resume(None).await.unwrap_err();
    assert!(error.to_string().contains("cannot be followed"), "{error}");
}

#[test]
fn following_ends_when_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let selection = Selection { path: dir.path().join("*"), compression: None, task: 0, tasks: 1 };
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let lines = Lines { format: LineFormat::Ndjson, max_row_bytes: 1000 };
    let ended = Follower::new(selection, lines, Pace::default(), sender).run(Plan::default());
    assert!(ended.is_ok());
}
