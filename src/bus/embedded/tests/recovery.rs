//! What a crash leaves is recovered; what was damaged is found.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::bus::embedded::{frame, journal};

fn journal_file(dir: &Path) -> PathBuf {
    journal::file(dir)
}

/// Where the journal's records start, and where the last one ends.
fn record_starts(dir: &Path) -> Vec<u64> {
    let bytes = journal::read(dir).unwrap().unwrap();
    let header = journal::Header::take(&mut bytes.clone()).unwrap();
    let scan = journal::scan(&bytes, journal::HEADER_BYTES, header.salt, None);
    scan.records.iter().map(|record| record.at as u64).chain([scan.end as u64]).collect()
}

fn last_segment(dir: &Path, partition: u32) -> PathBuf {
    let name = format!("{partition}-");
    let is_of = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with(&name);
    files(&dir.join("topics")).into_iter().rfind(is_of).unwrap()
}

/// Bytes that the n-th commit of the series adds to a partition.
fn frame_bytes(n: u64) -> u64 {
    frame::size(&step(n).results[0].record) as u64
}

#[test]
fn a_commit_record_torn_at_any_byte_never_happened() {
    let options = endless(Sync::Commit);
    let before = with_steps(5, &options);
    let starts = record_starts(before.path());
    let [start, end] = starts[starts.len() - 2..] else { panic!("no record") };
    for len in start..end {
        let dir = copy(before.path());
        cut(&journal_file(dir.path()), len);
        assert_eq!(recovered(dir.path(), &options).unwrap(), 4);
    }
}

#[test]
fn a_frame_torn_at_any_byte_takes_its_commit_with_it_if_that_may_not_have_been_finished() {
    let options = endless(Sync::Commit);
    let before = with_steps(5, &options);
    let starts = record_starts(before.path());
    let to = fs::metadata(last_segment(before.path(), 1)).unwrap().len();
    for is_recorded in [false, true] {
        for len in to - frame_bytes(4)..to {
            let dir = copy(before.path());
            if !is_recorded {
                cut(&journal_file(dir.path()), starts[starts.len() - 2]);
            }
            cut(&last_segment(dir.path(), 1), len);
            assert_eq!(recovered(dir.path(), &options).unwrap(), 4);
        }
    }
}

#[test]
fn a_frame_torn_at_any_byte_is_damage_if_its_commit_was_finished() {
    let options = endless(Sync::Commit);
    let before = with_steps(5, &options);
    let to = fs::metadata(last_segment(before.path(), 1)).unwrap().len() - frame_bytes(4);
    for len in to - frame_bytes(3)..to {
        let dir = copy(before.path());
        let file = last_segment(dir.path(), 1);
        cut(&file, len);
        let Err(Error::Damaged { file: at, position, .. }) = Embedded::open(dir.path(), options.clone()) else {
            panic!("unseen")
        };
        assert_eq!((at, position), (file, len));
    }
}

#[test]
fn what_did_not_reach_the_disk_is_cut_off_where_commits_do_not_wait_for_it() {
    let options = endless(Sync::Never);
    let before = with_steps(5, &options);
    let full = fs::metadata(last_segment(before.path(), 1)).unwrap().len();
    let mut seen = std::collections::BTreeSet::new();
    for len in 0..=full {
        let dir = copy(before.path());
        cut(&last_segment(dir.path(), 1), len);
        seen.insert(recovered(dir.path(), &options).unwrap());
    }
    assert_eq!(seen, (0..=5).collect());
}

#[test]
fn holes_that_a_power_cut_leaves_end_the_log_where_commits_do_not_wait() {
    let options = endless(Sync::Never);
    let before = with_steps(5, &options);
    let starts = record_starts(before.path());
    for (count, window) in starts[starts.len() - 6..].windows(2).enumerate() {
        let dir = copy(before.path());
        let mut bytes = fs::read(journal_file(dir.path())).unwrap();
        bytes[window[0] as usize..window[1] as usize].fill(0);
        fs::write(journal_file(dir.path()), bytes).unwrap();
        assert_eq!(recovered(dir.path(), &options).unwrap(), count as u64);
    }
}

#[test]
fn a_damaged_record_before_valid_ones_is_located() {
    let options = endless(Sync::Commit);
    let before = with_steps(5, &options);
    let starts = record_starts(before.path());
    for window in starts[..starts.len() - 1].windows(2) {
        let dir = copy(before.path());
        let file = journal_file(dir.path());
        let mut bytes = fs::read(&file).unwrap();
        bytes[(window[0] + window[1]) as usize / 2] ^= 1;
        fs::write(&file, bytes).unwrap();
        for error in [recovered(dir.path(), &options).unwrap_err(), Reader::open(dir.path()).unwrap_err()] {
            let Error::Damaged { file: at, position, .. } = error else { panic!("{error}") };
            assert_eq!((&at, position), (&file, window[0]));
        }
    }
}

#[test]
fn closing_protects_the_last_commit_too() {
    let options = endless(Sync::Commit);
    let before = with_steps(2, &options);
    run(async {
        let log = Embedded::open(before.path(), options.clone()).unwrap();
        let (_member, mut leases) = join(&log, vec![]).await;
        leases[0].commit(step(2)).await.unwrap();
        log.close().await.unwrap();
        assert!(matches!(leases[0].commit(step(3)).await, Err(Error::Closed)));
    });
    let starts = record_starts(before.path());
    let [commit, mark, _] = starts[starts.len() - 3..] else { panic!("no records") };
    for (at, expected) in [(commit + 20, None), (mark + 20, Some(3))] {
        let dir = copy(before.path());
        let file = journal_file(dir.path());
        let mut bytes = fs::read(&file).unwrap();
        bytes[at as usize] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(recovered(dir.path(), &options).ok(), expected);
    }
}

#[test]
fn what_a_crash_left_lying_around_is_removed() {
    let options = tiny(Sync::Commit);
    let dir = with_steps(10, &options);
    let topic = last_segment(dir.path(), 0).parent().unwrap().to_owned();
    let leftovers = [
        dir.path().join("journal.new"),
        topic.join("0-00000000000000009999.log"),
        topic.join("7-00000000000000000000.log"),
    ];
    leftovers.iter().for_each(|file| fs::write(file, "half of something").unwrap());
    let mut segment = fs::OpenOptions::new().append(true).open(last_segment(dir.path(), 1)).unwrap();
    fs::write(topic.join("notes.txt"), "not ours").unwrap();
    segment.write_all(&[7; 1000]).unwrap();
    assert_eq!(recovered(dir.path(), &options).unwrap(), 10);
    assert!(leftovers.iter().all(|file| !file.exists()));
    assert!(topic.join("notes.txt").exists());
}

#[test]
fn a_log_without_its_journal_is_not_taken_for_a_new_one() {
    let options = endless(Sync::Commit);
    let dir = with_steps(1, &options);
    fs::remove_file(journal_file(dir.path())).unwrap();
    assert!(matches!(Embedded::open(dir.path(), options), Err(Error::Damaged { position: 0, .. })));
}

#[test]
fn a_missing_segment_is_damage() {
    let options = tiny(Sync::Commit);
    let dir = with_steps(10, &options);
    let file = dir.path().join("topics/acme.flights.a.results/0-00000000000000000000.log");
    fs::remove_file(&file).unwrap();
    assert!(matches!(Embedded::open(dir.path(), options), Err(Error::Damaged { file: at, .. }) if at == file));
}

#[test]
fn only_one_log_at_a_time_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let log = Embedded::open(dir.path(), Options::default()).unwrap();
    let refused = Embedded::open(dir.path(), Options::default());
    assert!(matches!(refused, Err(Error::Locked { holder: Some(pid), .. }) if pid == std::process::id()));
    run(log.close()).unwrap();
    Embedded::open(dir.path(), Options::default()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_anywhere_is_found_or_harmless(
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        const STEPS: u64 = 12;
        static BEFORE: std::sync::LazyLock<TempDir> = std::sync::LazyLock::new(|| with_steps(STEPS, &tiny(Sync::Commit)));
        let dir = copy(BEFORE.path());
        let mut files = files(dir.path());
        files.retain(|file| file.file_name().unwrap() != "lock");
        let file = file.get(&files);
        let starts = record_starts(dir.path());
        let mut bytes = fs::read(file).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(file, &bytes).unwrap();
        let is_of_last_commit = if *file == journal_file(dir.path()) {
            at as u64 >= starts[starts.len() - 2]
        } else {
            let is_last_segment = (0..PARTITIONS).any(|partition| *file == last_segment(dir.path(), partition));
            let is_its_own = file.to_str().unwrap().ends_with(&format!("{}.log", STEPS - 1));
            is_its_own || is_last_segment && (bytes.len() - at) as u64 <= frame_bytes(STEPS - 1)
        };
        match recovered(dir.path(), &tiny(Sync::Commit)) {
            // The last commit is the one that may not have been finished.
            Ok(steps) => prop_assert!(is_of_last_commit && steps == STEPS - 1, "{steps} steps"),
            Err(Error::Damaged { file: found, .. }) => prop_assert_eq!(&found, file),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
