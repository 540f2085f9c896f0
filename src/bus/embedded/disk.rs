//! Folders and files of a data directory: their names, the lock on it, and what an I/O error says.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bus::{Error, Result, Topic, TopicPartition};

/// Says what was tried, and on what, when the operating system refuses.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source: Arc::new(source) }
}

/// What is wrong at that byte of a file.
pub(super) fn damaged(file: &Path, position: u64, what: impl Into<String>) -> Error {
    Error::Damaged { file: file.to_owned(), position, what: what.into() }
}

/// Makes the entries of a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

/// Makes a folder and those above it, each one durable in the one that holds it.
pub(super) fn create_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", dir)(error)),
        _ => {}
    }
    parent.map_or(Ok(()), sync_dir)
}

/// Removes a file; one that is not there is removed already.
pub(super) fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", file)(error)),
        _ => Ok(()),
    }
}

/// The folder of a topic.
pub(super) fn topic_dir(dir: &Path, topic: &Topic) -> PathBuf {
    dir.join("topics").join(file_name(topic.as_str()))
}

/// Makes the folder of a topic. What a crashed process made may not be on disk yet, so this also syncs what is there.
pub(super) fn create_topic_dir(dir: &Path, topic: &Topic) -> Result<()> {
    let path = topic_dir(dir, topic);
    fs::create_dir_all(&path).map_err(failed("create", &path))?;
    sync_dir(&dir.join("topics"))?;
    sync_dir(dir)
}

/// The file of a partition's segment that starts with that offset.
pub(super) fn segment_file(dir: &Path, partition: &TopicPartition, base: u64) -> PathBuf {
    topic_dir(dir, &partition.topic).join(format!("{}-{base:020}.log", partition.partition))
}

/// A topic's name as that of one folder, whatever characters it has. Names that follow the rules stay as they are.
fn file_name(topic: &str) -> String {
    let mut name = String::with_capacity(topic.len());
    for (index, byte) in topic.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            b'.' if index > 0 => name.push('.'),
            // Capital letters are written as codes too: some file systems do not tell them from small ones.
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    name
}

/// The right to work in a data directory. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave it to a child that was forked meanwhile and has not started its program yet. If it
        // cannot be given back, it goes with the process.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok();
                let holder = holder.trim().parse().ok().filter(|_| known);
                return Err(Error::Locked { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed("write", &path))?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let Err(Error::Locked { holder, .. }) = Lock::take(dir.path()) else { panic!("locked twice") };
        assert_eq!(holder, Some(std::process::id()));
        drop(lock);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn good_names_stay_and_bad_ones_stay_inside_the_folder() {
        assert_eq!(file_name("acme.flights.delays.private.dlq"), "acme.flights.delays.private.dlq");
        assert_eq!(file_name("../A"), "%2e.%2f%41");
    }

    proptest! {
        #[test]
        fn different_topics_have_different_folders(one in ".{0,8}", other in ".{0,8}") {
            prop_assert_eq!(one == other, file_name(&one) == file_name(&other));
        }
    }
}
