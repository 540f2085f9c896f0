//! Reading a data directory beside the process that writes it, or while nobody does. The journal is followed; nothing is
//! ever written, and no lock is taken.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::disk;
use super::journal::{self, Header, Record, Rest, Scan};
use super::state::State;
use super::view::View;
use crate::bus::limit::Budget;
use crate::bus::{Error, Extent, Limit, Log, Message, Result, Topic, TopicPartition};

/// How often the journal is looked at by those who wait. No other process can be waited for in a better way.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A log that is only looked at. Sees commits as soon as they are in the journal: with `sync = "commit"` that can be a
/// moment before they are on disk.
#[derive(Debug)]
pub struct Reader {
    view: Arc<View>,
    follower: Arc<Mutex<Follower>>,
}

/// Where in the journal the view is.
#[derive(Debug)]
struct Follower {
    dir: PathBuf,
    journal: Option<Header>,
    at: u64,
    next_number: u64,
}

impl Reader {
    /// Looks at the data directory.
    ///
    /// # Errors
    /// [`Error::Nothing`] where nothing was ever written, [`Error::Io`], [`Error::Damaged`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        if !dir.join("journal").exists() {
            return Err(Error::Nothing { dir });
        }
        let view = Arc::new(View::new(dir.clone(), State::default(), 0));
        let mut follower = Follower { dir, journal: None, at: 0, next_number: 0 };
        follower.catch_up(&view)?;
        Ok(Self { view, follower: Arc::new(Mutex::new(follower)) })
    }

    async fn catch_up(&self) -> Result<()> {
        let (view, follower) = (self.view.clone(), self.follower.clone());
        match tokio::task::spawn_blocking(move || follower.lock().catch_up(&view)).await {
            Ok(result) => result,
            Err(join) => Err(disk::failed("read", Path::new("journal"))(std::io::Error::other(join))),
        }
    }
}

impl Follower {
    /// Brings the view up to the end of the journal.
    fn catch_up(&mut self, view: &View) -> Result<()> {
        let path = journal::file(&self.dir);
        let mut file = File::open(&path).map_err(disk::failed("open", &path))?;
        let mut head = vec![0; journal::HEADER_BYTES];
        file.read_exact(&mut head).map_err(disk::failed("read", &path))?;
        let header =
            Header::take(&mut head.into()).map_err(|_| disk::damaged(&path, 0, "this is not a journal's header"))?;
        let is_same = self.journal == Some(header);
        let from = if is_same { self.at } else { journal::HEADER_BYTES as u64 };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(disk::failed("read", &path))?;
        if is_same && bytes.is_empty() {
            return Ok(());
        }
        let scan = journal::scan(&Bytes::from(bytes), 0, header.salt, is_same.then_some(self.next_number));
        if scan.rest == Rest::Damaged {
            let position = from + scan.end as u64;
            return Err(disk::damaged(&path, position, "a record that was on disk is no longer intact"));
        }
        let end = from + scan.end as u64;
        let last = scan.records.last().map(|record| record.number);
        if is_same {
            follow(view, &path, from, scan)?;
        } else {
            // The journal that was followed is no more; the new one starts with all that it led to.
            view.replace(replay(&path, from, scan)?);
        }
        self.journal = Some(header);
        self.at = end;
        self.next_number = last.map_or(self.next_number, |number| number + 1);
        Ok(())
    }
}

fn follow(view: &View, path: &Path, from: u64, scan: Scan) -> Result<()> {
    for record in scan.records {
        let changes = changes(path, from, &record)?;
        let published = view.publish(changes, Vec::new());
        published.map_err(|misfit| disk::damaged(path, from + record.at as u64, misfit.to_string()))?;
    }
    Ok(())
}

fn replay(path: &Path, from: u64, scan: Scan) -> Result<State> {
    let mut state = State::default();
    for record in scan.records {
        let applied = changes(path, from, &record)?.into_iter().try_for_each(|change| state.apply(change));
        applied.map_err(|misfit| disk::damaged(path, from + record.at as u64, misfit.to_string()))?;
    }
    Ok(state)
}

fn changes(path: &Path, from: u64, record: &Record) -> Result<Vec<super::change::Change>> {
    record
        .changes()
        .map_err(|_| disk::damaged(path, from + record.at as u64, "a record of another version, or of something else"))
}

#[async_trait]
impl Log for Reader {
    async fn topics(&self) -> Result<Vec<Topic>> {
        self.catch_up().await?;
        Ok(self.view.state().topics().map(|(topic, _)| topic.clone()).collect())
    }

    async fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        self.catch_up().await?;
        self.view.extents(topic)
    }

    async fn read(&self, from: &TopicPartition, offset: u64, limit: Limit, wait: Duration) -> Result<Vec<Message>> {
        let deadline = Instant::now() + wait;
        loop {
            self.catch_up().await?;
            let read = match self.view.read(from, offset, Budget::new(limit)).await {
                Err(Error::Damaged { .. }) => {
                    // Retention may have taken the segment away; then the journal says so by now.
                    self.catch_up().await?;
                    self.view.read(from, offset, Budget::new(limit)).await
                }
                read => read,
            };
            let (messages, _) = read?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !messages.is_empty() || left.is_zero() {
                return Ok(messages);
            }
            sleep(LOOK_EVERY.min(left)).await;
        }
    }
}
