//! What the committer and those who ask it have in common.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Options;
use super::journal::Journal;
use super::syncer::Syncer;
use super::view::View;
use crate::bus::{Error, Result};

/// What the committer shares with those who ask it.
#[derive(Debug)]
pub(super) struct Shared {
    pub view: Arc<View>,
    pub options: Options,
    pub syncer: Syncer,
    pub counters: Counters,
    /// Of each group, the epoch of those who joined last.
    epochs: Mutex<BTreeMap<Arc<str>, watch::Sender<u64>>>,
    /// Why nothing is committed any more.
    stopped: OnceLock<Arc<Error>>,
}

/// What was done since the log was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub commits: AtomicU64,
    pub groups: AtomicU64,
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
}

impl Shared {
    pub(super) fn new(view: Arc<View>, options: Options, journal: &Journal) -> Self {
        Self {
            view,
            options,
            syncer: Syncer::new(journal.handle(), journal.next_number()),
            counters: Counters::default(),
            epochs: Mutex::default(),
            stopped: OnceLock::new(),
        }
    }

    /// Follows the epoch of a group.
    pub(super) fn epoch(&self, group: &Arc<str>) -> watch::Receiver<u64> {
        self.epochs.lock().entry(group.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Stops commits for good.
    pub(super) fn stop(&self, error: Error) -> Error {
        match error {
            Error::Stopped(_) => error,
            error => {
                tracing::error!(%error, "the log takes no more commits");
                Error::Stopped(self.stopped.get_or_init(|| Arc::new(error)).clone())
            }
        }
    }

    /// Why a request was not answered, or is not to be.
    pub(super) fn refusal(&self) -> Error {
        self.stopped.get().cloned().map_or(Error::Closed, Error::Stopped)
    }

    /// Nothing, unless nothing is committed any more.
    pub(super) fn running(&self) -> Result<()> {
        self.stopped.get().cloned().map_or(Ok(()), |error| Err(Error::Stopped(error)))
    }

    /// Fences the leases that the group has given so far, and gives the epoch that begins with that.
    pub(super) fn begin_epoch(&self, group: Arc<str>) -> u64 {
        let mut epochs = self.epochs.lock();
        let epoch = epochs.entry(group).or_insert_with(|| watch::Sender::new(0));
        epoch.send_modify(|epoch| *epoch += 1);
        *epoch.borrow()
    }

    /// Whether leases of that epoch still hold.
    pub(super) fn is_current(&self, group: &Arc<str>, epoch: u64) -> bool {
        self.epochs.lock().get(group).is_some_and(|current| *current.borrow() == epoch)
    }
}
