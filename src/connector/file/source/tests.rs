//! Reading files once: what is given, and what becomes of it when the source starts again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::connector::Block;
use crate::connector::intake::Fill;
use crate::failure::Class;

const LIMIT: Limit = Limit { rows: 1000, bytes: 1 << 20 };
const PATIENCE: Duration = Duration::from_secs(3600);

fn source_of(path: PathBuf, format: LineFormat) -> FileSource {
    let selection = Selection { path, compression: None, task: 0, tasks: 1 };
    FileSource::new(selection, format, 1 << 20, Mode::Once)
}

/// A folder, and what reading it gave so far.
struct Reading {
    dir: TempDir,
    pattern: &'static str,
    format: LineFormat,
    position: Option<Position>,
}

impl Reading {
    fn of(pattern: &'static str) -> Self {
        let format = if pattern.contains("csv") { LineFormat::Csv } else { LineFormat::Ndjson };
        Self { dir: tempfile::tempdir().unwrap(), pattern, format, position: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn append(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::OpenOptions::new().append(true).open(self.path(name)).unwrap().write_all(content.as_ref()).unwrap();
    }

    fn source(&self) -> FileSource {
        source_of(self.path(self.pattern), self.format)
    }

    /// Starts a source where the last one stopped.
    async fn resume(&self) -> Result<FileSource> {
        let mut source = self.source();
        source.resume(self.position.clone()).await?;
        Ok(source)
    }

    /// Reads to the end.
    async fn blocks(&mut self) -> Result<Vec<Block>> {
        let mut source = self.resume().await?;
        let mut blocks = Vec::new();
        while let Polled::Rows(block) = source.poll(LIMIT, PATIENCE).await? {
            blocks.push(block);
        }
        assert_eq!(source.poll(LIMIT, PATIENCE).await?, Polled::Finished);
        self.position = Some(source.position());
        Ok(blocks)
    }

    async fn rows(&mut self) -> Vec<String> {
        self.blocks().await.unwrap().iter().flat_map(rows_of).collect()
    }

    async fn refusal(&mut self) -> String {
        let error = self.blocks().await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error:?}");
        error.to_string()
    }

    fn entry(&self, file: usize) -> &Value {
        &self.position.as_ref().unwrap().at["files"][file]
    }
}

fn rows_of(block: &Block) -> Vec<String> {
    (0..block.rows.len()).map(|row| String::from_utf8_lossy(&block.rows.row(row)).into_owned()).collect()
}

fn numbers(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("{{\"n\":{number}}}\n")).collect()
}

fn gzip(content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(content.as_ref(), 3).unwrap()
}

/// Rows that do not compress well, so that damage somewhere in the middle leaves some before it.
fn noise(rows: u32) -> String {
    (0..rows)
        .map(|n| format!("{{\"n\":{n},\"noise\":\"{:08x}\"}}\n", crate::partition::murmur2(&n.to_le_bytes())))
        .collect()
}

#[tokio::test]
async fn every_row_of_every_file_comes_once_in_the_order_of_the_paths() {
    let mut reading = Reading::of("*.ndjson");
    reading.write("b.ndjson", numbers(3..5));
    reading.write("a.ndjson", numbers(0..3));
    let blocks = reading.blocks().await.unwrap();
    let rows: Vec<String> = blocks.iter().flat_map(rows_of).collect();
    assert_eq!(rows.join("\n") + "\n", numbers(0..5));
    assert_eq!(*blocks[0].origin, *reading.path("a.ndjson").to_string_lossy());
    assert_eq!(*blocks[1].origin, *reading.path("b.ndjson").to_string_lossy());
}

#[tokio::test]
async fn with_a_backlog_blocks_are_as_large_as_the_limit() {
    let reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", numbers(0..100_000));
    let mut source = reading.resume().await.unwrap();
    let (mut rows, mut blocks) = (0, 0);
    let limit = Limit { rows: 10, bytes: 1 << 20 };
    while let Polled::Rows(block) = source.poll(limit, PATIENCE).await.unwrap() {
        rows += block.rows.len();
        blocks += 1;
    }
    // At most one block a chunk is cut short by what has arrived.
    assert_eq!(rows, 100_000);
    assert!(blocks <= 10_000 + 10, "{blocks}");
}

#[tokio::test]
async fn every_block_has_the_header_of_its_own_file() {
    let mut reading = Reading::of("*.csv");
    reading.write("a.csv", "id,name\n1,\"x\ny\"\n");
    reading.write("b.csv", "\u{feff}name,id\r\nz,2");
    reading.write("c.csv", "id,name\n");
    let blocks = reading.blocks().await.unwrap();
    let found: Vec<_> = blocks.iter().map(|block| (block.header.clone().unwrap(), rows_of(block))).collect();
    assert_eq!(found.len(), 2);
    assert_eq!((&found[0].0[..], found[0].1[0].as_str()), (&b"id,name"[..], "1,\"x\ny\""));
    assert_eq!((&found[1].0[..], found[1].1[0].as_str()), (&b"name,id"[..], "z,2"));
}

#[tokio::test]
async fn a_header_governs_the_rows_that_come_after_a_restart() {
    let mut reading = Reading::of("a.csv");
    reading.write("a.csv", "id,name\n1,a\n2,b\n");
    let mut source = reading.resume().await.unwrap();
    source.poll(Limit { rows: 1, bytes: 1000 }, PATIENCE).await.unwrap();
    reading.position = Some(source.position());
    let blocks = reading.blocks().await.unwrap();
    assert_eq!(rows_of(&blocks[0]), ["2,b"]);
    assert_eq!(blocks[0].header.as_deref(), Some(&b"id,name"[..]));
    assert_eq!(blocks[0].offset + u64::from(blocks[0].rows.rows[0].start), 12);
}

#[tokio::test]
async fn a_file_without_rows_is_simply_finished() {
    let mut reading = Reading::of("*");
    for (name, content) in [("a", ""), ("b", "\n\r\n\n"), ("c.gz", "")] {
        reading.write(name, content);
    }
    reading.write("d.gz", gzip("\n"));
    assert_eq!(reading.rows().await, Vec::<String>::new());
    assert_eq!(reading.entry(1)["done"]["size"], 4);
    assert_eq!(reading.rows().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_last_newline_still_ends_a_row() {
    let mut reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", "{}\r\n[]");
    assert_eq!(reading.rows().await, ["{}", "[]"]);
    assert_eq!(reading.entry(0)["offset"], 6);
}

#[tokio::test]
async fn a_pattern_without_a_match_is_an_error() {
    let mut reading = Reading::of("*.ndjson");
    let error = reading.blocks().await.unwrap_err();
    assert!(matches!(error, Error::NoFile(_)), "{error:?}");
    let mut folder = Reading::of("");
    let error = folder.blocks().await.unwrap_err().to_string();
    assert!(error.contains("which is a folder"), "{error}");
}

#[tokio::test]
async fn several_tasks_share_the_files_without_overlap() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..20 {
        fs::write(dir.path().join(format!("{n}.ndjson")), format!("{n}")).unwrap();
    }
    let mut rows = Vec::new();
    for task in 0..3 {
        let selection = Selection { path: dir.path().join("*.ndjson"), compression: None, task, tasks: 3 };
        let mut source = FileSource::new(selection, LineFormat::Ndjson, 1000, Mode::Once);
        source.resume(None).await.unwrap();
        while let Polled::Rows(block) = source.poll(LIMIT, PATIENCE).await.unwrap() {
            rows.extend(rows_of(&block));
        }
    }
    rows.sort_by_key(|row| row.parse::<u32>().unwrap());
    assert_eq!(rows, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn reading_stops_anywhere_and_goes_on_without_loss_or_repetition() {
    for pattern in ["*.ndjson", "*.ndjson.gz", "*.ndjson.zst"] {
        let mut reading = Reading::of(pattern);
        let pack = |content: String| match pattern {
            "*.ndjson" => content.into_bytes(),
            "*.ndjson.gz" => gzip(content),
            _ => zstd(content),
        };
        for (name, range) in [("a", 0..7), ("b", 7..8), ("c", 8..20)] {
            reading.write(&pattern.replace('*', name), pack(numbers(range)));
        }
        let mut rows = Vec::new();
        let limit = Limit { rows: 3, bytes: 1 << 20 };
        loop {
            let mut source = reading.resume().await.unwrap();
            let polled = source.poll(limit, PATIENCE).await.unwrap();
            reading.position = Some(source.position());
            match polled {
                Polled::Rows(block) => rows.extend(rows_of(&block)),
                Polled::Idle => panic!("there is more"),
                Polled::Finished => break,
            }
        }
        assert_eq!(rows.join("\n") + "\n", numbers(0..20), "{pattern}");
        let counted = reading.position.as_ref().unwrap().at["files"].as_array().unwrap();
        assert_eq!(counted.iter().map(|file| file["rows"].as_u64().unwrap()).sum::<u64>(), 20);
        assert_eq!(reading.position.unwrap().rows, 20);
    }
}

#[tokio::test]
async fn a_file_that_has_grown_is_read_on() {
    let mut reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", numbers(0..2));
    reading.rows().await;
    reading.append("a.ndjson", numbers(2..4));
    assert_eq!(reading.rows().await, ["{\"n\":2}", "{\"n\":3}"]);
    assert_eq!(reading.rows().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_archive_that_has_grown_by_a_member_is_read_on() {
    for (pattern, pack) in [("a.gz", gzip as fn(String) -> Vec<u8>), ("a.zst", zstd)] {
        let mut reading = Reading::of(pattern);
        reading.write(pattern, pack(numbers(0..2)));
        assert_eq!(reading.rows().await.len(), 2);
        reading.append(pattern, pack(numbers(2..4)));
        assert_eq!(reading.rows().await, ["{\"n\":2}", "{\"n\":3}"]);
    }
}

#[tokio::test]
async fn a_new_file_beside_finished_ones_is_read_and_the_others_are_not() {
    let mut reading = Reading::of("*.ndjson");
    reading.write("b.ndjson", numbers(0..2));
    reading.rows().await;
    reading.write("a.ndjson", numbers(2..3));
    assert_eq!(reading.rows().await, ["{\"n\":2}"]);
    fs::remove_file(reading.path("b.ndjson")).unwrap();
    assert_eq!(reading.rows().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_file_is_recognised_by_another_path() {
    let mut reading = Reading::of("*.ndjson");
    reading.write("a.ndjson", numbers(0..2));
    reading.rows().await;
    fs::rename(reading.path("a.ndjson"), reading.path("b.ndjson")).unwrap();
    assert_eq!(reading.rows().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_file_that_was_truncated_is_refused() {
    let mut reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", numbers(0..3));
    reading.rows().await;
    fs::File::options().write(true).open(reading.path("a.ndjson")).unwrap().set_len(10).unwrap();
    let refusal = reading.refusal().await;
    assert!(refusal.contains("shorter than the 24 bytes (3 rows)") && refusal.contains("data directory"), "{refusal}");
}

#[tokio::test]
async fn a_file_whose_content_was_replaced_is_refused() {
    let mut reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", numbers(0..3));
    reading.rows().await;
    reading.write("a.ndjson", numbers(7..12));
    let refusal = reading.refusal().await;
    assert!(refusal.contains("replaced after 24 bytes (3 rows)"), "{refusal}");
}

#[tokio::test]
async fn another_file_under_the_same_path_is_refused() {
    let mut reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", numbers(0..3));
    reading.rows().await;
    reading.write("new", numbers(0..9));
    fs::rename(reading.path("new"), reading.path("a.ndjson")).unwrap();
    assert!(reading.refusal().await.contains("replaced"));
}

#[tokio::test]
async fn a_file_that_is_gone_before_it_was_read_to_its_end_is_missed() {
    let mut reading = Reading::of("*.ndjson");
    reading.write("a.ndjson", numbers(0..3));
    let mut source = reading.resume().await.unwrap();
    source.poll(Limit { rows: 1, bytes: 1000 }, PATIENCE).await.unwrap();
    reading.position = Some(source.position());
    fs::remove_file(reading.path("a.ndjson")).unwrap();
    assert!(reading.refusal().await.contains("read only up to byte 8 (row 1)"));
}

#[tokio::test]
async fn an_archive_of_several_members_is_one_stream() {
    let mut reading = Reading::of("*.ndjson.*");
    reading.write("a.ndjson.gz", [gzip("{\"n\":0}\n{\"n\""), gzip(":1}\n")].concat());
    reading.write("b.ndjson.zst", [zstd("{\"n\":2}\n{\"n\""), zstd(":3}\n")].concat());
    assert_eq!(reading.rows().await.join("\n") + "\n", numbers(0..4));
}

#[tokio::test]
async fn the_setting_overrides_what_the_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ndjson");
    fs::write(&path, gzip(numbers(0..2))).unwrap();
    let selection = Selection { path, compression: Some(Compression::Gzip), task: 0, tasks: 1 };
    let mut source = FileSource::new(selection, LineFormat::Ndjson, 1000, Mode::Once);
    source.resume(None).await.unwrap();
    let Polled::Rows(block) = source.poll(LIMIT, PATIENCE).await.unwrap() else { panic!("there are rows") };
    assert_eq!(block.rows.len(), 2);
}

/// Reads a damaged archive and a sound file after it, and checks what holds for every kind of damage.
async fn read_damaged(name: &'static str, archive: Vec<u8>, content: &str) -> (usize, String) {
    let mut reading = Reading::of("*");
    reading.write(name, archive);
    reading.write("z.ndjson", "after");
    let blocks = reading.blocks().await.unwrap();
    let (rejected, sound): (Vec<_>, Vec<_>) = blocks.iter().partition(|block| !block.rejects.is_empty());
    let mut rows: Vec<String> = sound.iter().flat_map(|block| rows_of(block)).collect();
    assert_eq!(rows.pop().as_deref(), Some("after"), "the next file is read");
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    assert!(content.starts_with(&text), "the rows before the damage come untouched");
    assert_eq!(rejected.len(), 1);
    let torn = rows_of(rejected[0]);
    assert_eq!(rejected[0].rejects[0].class, Class::Decode);
    assert!(content[text.len()..].starts_with(&torn[0]), "the torn row is what comes next: {torn:?}");
    let message = rejected[0].rejects[0].message.clone();
    let end = (text.len() + torn[0].len()).to_string();
    assert!(message.contains(&format!("uncompressed byte {end}")) && message.contains(name), "{message}");
    assert_eq!(reading.rows().await, Vec::<String>::new(), "nothing is read twice");
    (rows.len(), message)
}

#[tokio::test]
async fn a_truncated_archive_gives_its_rows_and_one_reject() {
    let content = noise(20_000);
    for (name, archive) in [("a.gz", gzip(&content)), ("a.zst", zstd(&content))] {
        let half = archive[..archive.len() / 2].to_vec();
        let (rows, message) = read_damaged(name, half, &content).await;
        assert!(rows > 5_000, "{name}: {rows}");
        assert!(message.contains("ends early"), "{message}");
    }
}

#[tokio::test]
async fn an_archive_truncated_anywhere_is_never_an_error_of_the_run() {
    let content = noise(20);
    for (name, archive) in [("a.gz", gzip(&content)), ("a.zst", zstd(&content))] {
        for length in 1..archive.len() {
            read_damaged(name, archive[..length].to_vec(), &content).await;
        }
    }
}

#[tokio::test]
async fn a_corrupt_archive_gives_the_rows_before_the_damage() {
    let content = noise(20_000);
    // A second member that is no member: the first one is sound to its last byte.
    let mut archive = gzip(&content);
    archive.extend_from_slice(b"this is no gzip header");
    let (rows, message) = read_damaged("a.gz", archive, &content).await;
    assert_eq!(rows, 20_000);
    assert!(message.contains("is corrupt"), "{message}");
}

/// A stored block is followed by one of a type that does not exist, all in one go of the decompressor.
#[tokio::test]
async fn what_a_decompressor_had_before_it_met_the_damage_is_not_lost() {
    let content = noise(100);
    let length = content.len() as u16;
    let mut archive = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 0];
    archive.extend(length.to_le_bytes());
    archive.extend((!length).to_le_bytes());
    archive.extend(content.as_bytes());
    archive.push(0b111);
    let (rows, message) = read_damaged("a.gz", archive, &content).await;
    assert_eq!(rows, 100);
    assert!(message.contains("is corrupt"), "{message}");
}

#[tokio::test]
async fn a_wrong_checksum_at_the_end_of_an_archive_is_on_record() {
    let content = noise(10);
    let mut archive = gzip(&content);
    let crc = archive.len() - 8;
    archive[crc] ^= 1;
    let (rows, message) = read_damaged("a.gz", archive, &content).await;
    assert_eq!(rows, 10);
    assert!(message.contains("is corrupt"), "{message}");
}

#[tokio::test]
async fn a_torn_archive_that_has_changed_is_refused() {
    let mut reading = Reading::of("a.gz");
    let archive = gzip(numbers(0..1000));
    reading.write("a.gz", &archive[..archive.len() / 2]);
    reading.rows().await;
    reading.append("a.gz", &archive[archive.len() / 2..]);
    assert!(reading.refusal().await.contains("torn"));
}

#[tokio::test]
async fn a_row_over_the_limit_is_a_reject_and_its_neighbours_go_on() {
    let mut reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", format!("1\n{}\n2\n", "x".repeat(3 << 20)));
    let blocks = reading.blocks().await.unwrap();
    assert_eq!(blocks.len(), 3);
    assert_eq!(blocks[1].rejects[0].class, Class::TooLarge);
    assert_eq!((blocks[1].offset, blocks[1].rows.row(0).len()), (2, 64 << 10));
    assert_eq!((rows_of(&blocks[0]), rows_of(&blocks[2])), (vec!["1".to_string()], vec!["2".to_string()]));
    assert_eq!(reading.entry(0)["rows"], 3);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_the_source_for_good() {
    let reading = Reading::of("*.ndjson");
    reading.write("a.ndjson", "1\n");
    reading.write("b.ndjson", "2\n");
    let mut source = reading.source();
    let mut plan = plan(&source.selection, Vec::new(), Mode::Once).unwrap();
    plan.starts[1].file.path = PathBuf::from("/nowhere/b.ndjson");
    let read = source.read(plan);
    source.intake = Some(Intake::start(LineFormat::Ndjson, Fill::Early, 1000, read).unwrap());
    assert!(matches!(source.poll(LIMIT, PATIENCE).await, Ok(Polled::Rows(_))));
    let error = source.poll(LIMIT, PATIENCE).await.unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("/nowhere/b.ndjson")), "{error:?}");
    assert!(source.poll(LIMIT, PATIENCE).await.is_err());
}

#[tokio::test]
async fn a_position_of_another_kind_is_refused() {
    let mut reading = Reading::of("a.ndjson");
    reading.write("a.ndjson", "1\n");
    reading.position = Some(Position { rows: 0, at: serde_json::json!({"version": 1, "bytes": 3}) });
    assert!(matches!(reading.blocks().await, Err(Error::Position { .. })));
}

#[tokio::test]
async fn a_source_says_how_much_of_its_input_it_has_read() {
    for (pattern, content) in [("*.ndjson", numbers(0..9).into_bytes()), ("*.gz", gzip(noise(1000)))] {
        let mut reading = Reading::of(pattern);
        let (a, b) = (pattern.replace('*', "a"), pattern.replace('*', "b"));
        reading.write(&a, &content);
        reading.write(&b, &content);
        let size = content.len() as u64;
        let mut source = reading.resume().await.unwrap();
        let start = source.input().unwrap();
        assert_eq!(start.total, 2 * size);
        while source.poll(LIMIT, PATIENCE).await.unwrap() != Polled::Finished {}
        assert_eq!(source.input(), Some(InputBytes { read: 2 * size, total: 2 * size }));
        // What is done is no longer part of what is to be read.
        reading.position = Some(source.position());
        reading.write(&pattern.replace('*', "c"), &content);
        let mut source = reading.resume().await.unwrap();
        while source.poll(LIMIT, PATIENCE).await.unwrap() != Polled::Finished {}
        assert_eq!(source.input(), Some(InputBytes { read: size, total: size }));
    }
}
