//! Making what was written durable. Whether a commit waits for that is the business of `committer`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{disk, fault};
use crate::bus::Result;

/// How many files are synced at the same time.
const LANES: usize = 8;

/// Files and folders with contents that may not be on disk yet.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    pub files: BTreeSet<PathBuf>,
    pub dirs: BTreeSet<PathBuf>,
}

impl Unsynced {
    /// Makes all of it durable, and the journal if there is one. Everything at the same time: what a disk does to make
    /// one file durable it then does for all of them.
    pub(super) fn sync(&self, journal: Option<(&Path, &File)>) -> Result<()> {
        let journal = journal.map(|(path, file)| Item::Journal(path, file));
        let files = self.files.iter().map(|path| Item::Segment(path));
        let dirs = self.dirs.iter().map(|path| Item::Dir(path));
        let items: Vec<Item<'_>> = journal.into_iter().chain(files).chain(dirs).collect();
        let mut lanes = items.chunks(items.len().div_ceil(LANES).max(1));
        let Some(first) = lanes.next() else { return Ok(()) };
        thread::scope(|scope| {
            let others: Vec<_> = lanes.map(|lane| scope.spawn(|| lane.iter().try_for_each(Item::sync))).collect();
            let mut outcome = first.iter().try_for_each(Item::sync);
            for other in others {
                outcome = outcome.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            outcome
        })
    }
}

/// Something to be made durable.
enum Item<'a> {
    Journal(&'a Path, &'a File),
    Segment(&'a Path),
    Dir(&'a Path),
}

impl Item<'_> {
    fn sync(&self) -> Result<()> {
        match self {
            Item::Journal(path, file) => {
                fault::sync_data("commit.sync-journal", file).map_err(disk::failed("sync", path))?;
                fault::pass("commit.sync-journal.done").map_err(disk::failed("sync", path))
            }
            Item::Segment(path) => match File::open(path) {
                Ok(file) => {
                    fault::sync_data("commit.sync-data", &file).map_err(disk::failed("sync", path))?;
                    fault::pass("commit.sync-data.done").map_err(disk::failed("sync", path))
                }
                // Retention was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(disk::failed("open", path)(error)),
            },
            Item::Dir(path) => disk::sync_dir(path),
        }
    }
}

/// Knows what is written and not yet durable, and makes it so.
#[derive(Debug)]
pub(super) struct Syncer {
    pending: Mutex<Pending>,
    /// Held while syncing: whoever asks for everything also waits for what another one has taken on.
    pass: Mutex<()>,
    durable_before: AtomicU64,
    stop: Mutex<bool>,
    stopped: Condvar,
}

#[derive(Debug)]
struct Pending {
    unsynced: Unsynced,
    journal: (PathBuf, Arc<File>),
    next_number: u64,
}

impl Syncer {
    /// A syncer for a journal that is on disk up to that record.
    pub(super) fn new(journal: (PathBuf, Arc<File>), next_number: u64) -> Self {
        Self {
            pending: Mutex::new(Pending { unsynced: Unsynced::default(), journal, next_number }),
            pass: Mutex::default(),
            durable_before: AtomicU64::new(next_number),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
        }
    }

    /// Takes on what the records before `next_number` refer to.
    pub(super) fn add(&self, unsynced: Unsynced, next_number: u64) {
        let mut pending = self.pending.lock();
        pending.unsynced.files.extend(unsynced.files);
        pending.unsynced.dirs.extend(unsynced.dirs);
        pending.next_number = next_number;
    }

    /// From now on records go to another journal file, which is on disk up to that record.
    pub(super) fn follow(&self, journal: (PathBuf, Arc<File>), next_number: u64) {
        let mut pending = self.pending.lock();
        pending.journal = journal;
        pending.next_number = next_number;
        self.durable_before.fetch_max(next_number, Ordering::AcqRel);
    }

    /// Makes everything that was taken on durable.
    pub(super) fn sync(&self) -> Result<()> {
        let _pass = self.pass.lock();
        let mut pending = self.pending.lock();
        let unsynced = std::mem::take(&mut pending.unsynced);
        let (path, journal) = pending.journal.clone();
        let next_number = pending.next_number;
        drop(pending);
        if next_number > self.durable_before() {
            unsynced.sync(Some((&path, &journal)))?;
            self.durable_before.fetch_max(next_number, Ordering::AcqRel);
        }
        Ok(())
    }

    /// The records before that number are on disk, and what they refer to.
    pub(super) fn durable_before(&self) -> u64 {
        self.durable_before.load(Ordering::Acquire)
    }

    /// Syncs at that interval, until it is stopped or fails.
    pub(super) fn run(&self, interval: Duration) -> Result<()> {
        let mut stop = self.stop.lock();
        while !*stop {
            self.stopped.wait_for(&mut stop, interval);
            if !*stop {
                MutexGuard::unlocked(&mut stop, || self.sync())?;
            }
        }
        Ok(())
    }

    /// Lets `run` end.
    pub(super) fn stop(&self) {
        *self.stop.lock() = true;
        self.stopped.notify_all();
    }
}
