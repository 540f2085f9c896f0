//! What is in the file after crashes, faults and other people's work.

use tempfile::TempDir;

use super::*;
use crate::fault::testing::{in_child, isolated};

/// A folder with a sink's file, and the position of the last commit.
struct Writing {
    dir: TempDir,
    head: &'static str,
    position: Option<Position>,
}

impl Writing {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), head: "", position: None }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("out.txt")
    }

    fn content(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// A process starts. What another test has started has this file open for a moment, until it is a program of its own.
    async fn start(&mut self) -> Result<FileSink> {
        loop {
            match self.open().await {
                Err(Error::InUse(_)) => tokio::task::yield_now().await,
                started => return started,
            }
        }
    }

    async fn open(&mut self) -> Result<FileSink> {
        let mut sink = FileSink::new(&self.path(), 0);
        let new = self.position.is_none();
        sink.resume(self.position.clone(), Bytes::from_static(self.head.as_bytes())).await?;
        if new {
            self.commit(&mut sink).await?;
        }
        Ok(sink)
    }

    async fn commit(&mut self, sink: &mut FileSink) -> Result<()> {
        self.position = Some(sink.flush().await?);
        Ok(())
    }

    async fn refusal(&mut self) -> String {
        let error = self.start().await.err().unwrap();
        assert!(matches!(error, Error::Changed { .. }), "{error:?}");
        error.to_string()
    }
}

fn text(rows: &str) -> Text {
    Text { bytes: rows.into(), rows: rows.lines().count() as u64 }
}

async fn write(sink: &mut FileSink, rows: &str) {
    sink.write(text(rows)).await.unwrap();
}

/// An executor of its own for tests that run in a process of their own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(future)
}

#[tokio::test]
async fn what_a_crash_left_after_the_last_commit_is_written_again() {
    let mut writing = Writing::new();
    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "1\n").await;
    writing.commit(&mut sink).await.unwrap();
    write(&mut sink, "2\n").await;
    sink.flush().await.unwrap();
    drop(sink);
    assert_eq!(writing.content(), "1\n2\n");

    let mut sink = writing.start().await.unwrap();
    assert_eq!(writing.content(), "1\n");
    write(&mut sink, "2\n").await;
    write(&mut sink, "3\n").await;
    writing.commit(&mut sink).await.unwrap();
    assert_eq!(writing.content(), "1\n2\n3\n");
}

#[tokio::test]
async fn a_crash_before_the_first_commit_leaves_nothing_in_the_way() {
    let mut writing = Writing::new();
    let mut sink = FileSink::new(&writing.path(), 0);
    sink.resume(None, Bytes::from_static(b"head\n")).await.unwrap();
    let early = sink.write(text("row\n")).await.unwrap_err();
    assert!(matches!(early, Error::Position { .. }), "{early:?}");
    sink.flush().await.unwrap();
    drop(sink);
    assert_eq!(writing.content(), "");

    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "1\n").await;
    writing.commit(&mut sink).await.unwrap();
    assert_eq!(writing.content(), "1\n");
}

#[tokio::test]
async fn a_file_of_somebody_elses_is_not_touched() {
    let mut writing = Writing::new();
    fs::write(writing.path(), "a letter").unwrap();
    let refusal = writing.refusal().await;
    assert!(refusal.contains("move it away"), "{refusal}");
    assert_eq!(writing.content(), "a letter");
}

#[tokio::test]
async fn a_file_that_another_task_still_writes_to_is_left_to_it() {
    let mut writing = Writing::new();
    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "1\n").await;
    writing.commit(&mut sink).await.unwrap();
    write(&mut sink, "2\n").await;
    sink.flush().await.unwrap();
    assert!(matches!(writing.open().await, Err(Error::InUse(path)) if path == writing.path()));
    assert_eq!(writing.content(), "1\n2\n");
    drop(sink);
    writing.start().await.unwrap();
    assert_eq!(writing.content(), "1\n");
}

#[tokio::test]
async fn a_file_that_has_lost_rows_is_refused() {
    let mut writing = Writing::new();
    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "1\n2\n").await;
    writing.commit(&mut sink).await.unwrap();
    drop(sink);
    fs::write(writing.path(), "1\n").unwrap();
    let refusal = writing.refusal().await;
    assert!(refusal.contains("4 bytes were written") && refusal.contains("only 2 are there"), "{refusal}");
    assert_eq!(writing.content(), "1\n");
}

#[tokio::test]
async fn a_file_that_is_gone_is_not_made_anew() {
    let mut writing = Writing::new();
    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "1\n").await;
    writing.commit(&mut sink).await.unwrap();
    fs::remove_file(writing.path()).unwrap();
    assert!(writing.refusal().await.contains("only 0 are there"));
    assert!(!writing.path().exists());
}

#[tokio::test]
async fn a_file_whose_content_is_another_is_not_cut() {
    let mut writing = Writing::new();
    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "1\n").await;
    writing.commit(&mut sink).await.unwrap();
    drop(sink);
    fs::write(writing.path(), "a long letter").unwrap();
    assert!(writing.refusal().await.contains("not what is there now"));
    assert_eq!(writing.content(), "a long letter");
}

#[tokio::test]
async fn the_head_stands_once_at_the_start() {
    let mut writing = Writing::new();
    writing.head = "id,name\n";
    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "1,a\n").await;
    write(&mut sink, "2,b\n").await;
    writing.commit(&mut sink).await.unwrap();
    drop(sink);
    let mut sink = writing.start().await.unwrap();
    write(&mut sink, "3,c\n").await;
    writing.commit(&mut sink).await.unwrap();
    assert_eq!(writing.content(), "id,name\n1,a\n2,b\n3,c\n");
}

#[tokio::test]
async fn the_head_stands_in_a_file_without_rows_too() {
    let mut writing = Writing::new();
    writing.head = "id,name\n";
    let mut sink = writing.start().await.unwrap();
    writing.commit(&mut sink).await.unwrap();
    writing.commit(&mut sink).await.unwrap();
    assert_eq!(writing.content(), "id,name\n");
}

#[tokio::test]
async fn small_writes_are_gathered_and_large_ones_keep_their_order() {
    let mut writing = Writing::new();
    let mut sink = writing.start().await.unwrap();
    let large = "x".repeat(3 * GATHERED_BYTES);
    write(&mut sink, "1\n").await;
    assert_eq!(writing.content(), "");
    write(&mut sink, &large).await;
    assert_eq!(writing.content().len(), 2 + large.len());
    write(&mut sink, "2\n").await;
    writing.commit(&mut sink).await.unwrap();
    assert_eq!(writing.content(), format!("1\n{large}2\n"));
    assert_eq!(writing.position.as_ref().unwrap().at["bytes"], 4 + large.len());
}

#[tokio::test]
async fn each_task_has_a_file_of_its_own_in_folders_that_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b-{partition}/out.txt");
    for task in [0, 11] {
        let mut sink = FileSink::new(&path, task);
        sink.resume(None, Bytes::new()).await.unwrap();
        sink.flush().await.unwrap();
        write(&mut sink, &task.to_string()).await;
        sink.flush().await.unwrap();
    }
    assert_eq!(fs::read_to_string(dir.path().join("a/b-0/out.txt")).unwrap(), "0");
    assert_eq!(fs::read_to_string(dir.path().join("a/b-11/out.txt")).unwrap(), "11");
}

#[tokio::test]
async fn a_position_of_another_version_is_refused() {
    let mut writing = Writing::new();
    writing.position = Some(Position {
        rows: 0,
        at: serde_json::json!({"version": 2, "path": "out.txt", "bytes": 0, "tail_crc32c": 0}),
    });
    assert!(matches!(writing.start().await, Err(Error::Position { .. })));
}

#[test]
fn a_full_disk_is_an_error_after_which_nothing_is_committed() {
    let name = "connector::file::sink::tests::a_full_disk_is_an_error_after_which_nothing_is_committed";
    isolated(name, "sink.write=1*return(enospc)", || {
        block_on(async {
            let mut writing = Writing::new();
            let mut sink = writing.start().await.unwrap();
            write(&mut sink, "1\n").await;
            let error = sink.flush().await.unwrap_err();
            let Error::Io { action: "write", source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            assert!(sink.flush().await.is_err(), "the point passes now, the sink does not");
            assert!(sink.write(text(&"x".repeat(2 * GATHERED_BYTES))).await.is_err());
            drop(sink);

            let mut sink = writing.start().await.unwrap();
            write(&mut sink, "1\n").await;
            writing.commit(&mut sink).await.unwrap();
            assert_eq!(writing.content(), "1\n");
        });
    });
}

#[test]
fn after_a_failed_sync_no_flush_succeeds() {
    let name = "connector::file::sink::tests::after_a_failed_sync_no_flush_succeeds";
    isolated(name, "sink.sync=1*off->1*return(eio)", || {
        block_on(async {
            let mut writing = Writing::new();
            let mut sink = writing.start().await.unwrap();
            write(&mut sink, "1\n").await;
            assert!(matches!(sink.flush().await, Err(Error::Io { action: "sync", .. })));
            assert!(sink.flush().await.is_err(), "the point passes now, the sink does not");
        });
    });
}

/// Dies at each point in turn, in a process of its own, while it writes rows after a first commit.
#[test]
fn whenever_a_process_dies_the_file_then_holds_each_row_once() {
    let name = "connector::file::sink::tests::whenever_a_process_dies_the_file_then_holds_each_row_once";
    for (point, passes) in [("write", 1), ("write.done", 1), ("sync", 2), ("sync.done", 2)] {
        let dir = tempfile::tempdir().unwrap();
        let points = format!("sink.{point}={passes}*off->return(kill)");
        let child = in_child(name, &points, dir.path(), |dir| {
            block_on(async {
                let mut sink = FileSink::new(&dir.join("out.txt"), 0);
                sink.resume(None, Bytes::new()).await.unwrap();
                for row in 0..3 {
                    let position = sink.flush().await.unwrap();
                    fs::write(dir.join("position"), serde_json::to_vec(&position).unwrap()).unwrap();
                    write(&mut sink, &format!("{row}\n")).await;
                }
            });
        });
        let Some(child) = child else { return };
        assert!(!child.status.success(), "{point}");
        let position: Position = serde_json::from_slice(&fs::read(dir.path().join("position")).unwrap()).unwrap();
        let rows: Vec<String> = (0..3).map(|row| format!("{row}\n")).collect();
        let committed = position.rows as usize;
        let path = dir.path().join("out.txt");
        block_on(async {
            let mut sink = FileSink::new(&path, 0);
            sink.resume(Some(position), Bytes::new()).await.unwrap();
            write(&mut sink, &rows[committed..].concat()).await;
            sink.flush().await.unwrap();
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "0\n1\n2\n", "{point}");
    }
}
