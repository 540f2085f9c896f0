//! The source that reads files. When it reads them is decided in `plan`, and done in `once` and `follow`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;

use super::discover::Selection;
use super::follow::{Follower, Pace};
use super::place::{Entry, Place};
use super::plan::{self, Plan};
use super::unpack::Counter;
use super::{Lines, Stop, once};
use crate::bus::Limit;
use crate::config::{Compression, LineFormat};
use crate::connector::intake::{Event, FileId, Fill, Intake, Sender};
use crate::connector::{Error, InputBytes, Polled, Position, Result, Source};

/// Whether a source ever ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It reads what there is.
    Once,
    /// It waits for more.
    Follow(Pace),
}

/// Reads files.
pub struct FileSource {
    selection: Selection,
    lines: Lines,
    mode: Mode,
    /// What is known of files of which there is nothing to read now.
    kept: Vec<Entry>,
    /// What is known of files that are not opened yet.
    former: BTreeMap<FileId, Entry>,
    /// Rows that former processes gave.
    before: u64,
    /// What was read in this run, and of how much.
    read: Counter,
    total: Option<u64>,
    intake: Option<Intake>,
}

impl FileSource {
    /// A source of the files of the selection.
    pub fn new(selection: Selection, format: LineFormat, max_row_bytes: usize, mode: Mode) -> Self {
        let lines = Lines { format, max_row_bytes };
        Self {
            selection,
            lines,
            mode,
            kept: Vec::new(),
            former: BTreeMap::new(),
            before: 0,
            read: Counter::default(),
            total: None,
            intake: None,
        }
    }

    /// What the reading thread does.
    fn read(&self, plan: Plan) -> impl FnOnce(Sender) + Send + use<> {
        let (selection, lines, mode, counter) = (self.selection.clone(), self.lines, self.mode, self.read.clone());
        move |sender| {
            let read = match mode {
                Mode::Once => once::read(plan.starts, lines, &counter, &sender),
                Mode::Follow(pace) => Follower::new(selection, lines, pace, sender.clone()).run(plan),
            };
            if let Err(Stop::Failed(error)) = read {
                // Where nobody listens, nobody is to be told.
                let _ = sender.blocking_send(Event::Failed(error));
            }
        }
    }
}

#[async_trait]
impl Source for FileSource {
    async fn resume(&mut self, position: Option<Position>) -> Result<()> {
        self.before = position.as_ref().map_or(0, |position| position.rows);
        let place = position.map(|position| Place::from_value(position.at)).transpose()?;
        let former = place.map_or(Vec::new(), |place| place.files);
        let failed = Error::io("read", &self.selection.path);
        let (selection, mode) = (self.selection.clone(), self.mode);
        let planned = tokio::task::spawn_blocking(move || plan(&selection, former, mode)).await;
        let mut plan = planned.map_err(|error| failed(error.into()))??;
        self.kept = std::mem::take(&mut plan.kept);
        self.former = (0..).zip(plan.entries()).filter_map(|(id, entry)| Some((id, entry?.clone()))).collect();
        let (fill, total) = match self.mode {
            Mode::Once => (Fill::Full, Some(plan.starts.iter().map(|start| start.file.size).sum())),
            Mode::Follow(_) => (Fill::Early, None),
        };
        self.total = total;
        let read = self.read(plan);
        self.intake = Some(Intake::start(self.lines.format, fill, self.lines.max_row_bytes, read).map_err(failed)?);
        Ok(())
    }

    async fn poll(&mut self, limit: Limit, wait: Duration) -> Result<Polled> {
        match &mut self.intake {
            Some(intake) => intake.poll(limit, wait).await,
            None => Ok(Polled::Idle),
        }
    }

    fn position(&self) -> Position {
        let intake = self.intake.iter();
        let unopened = self.intake.as_ref().map_or(0, Intake::unopened);
        let read = intake.flat_map(Intake::progress).map(Entry::from);
        let former = self.former.range(unopened..).map(|(_, entry)| entry.clone());
        let place = Place::new(self.kept.iter().cloned().chain(read).chain(former).collect());
        Position { rows: self.before + self.intake.as_ref().map_or(0, Intake::given), at: place.to_value() }
    }

    fn input(&self) -> Option<InputBytes> {
        let read = self.read.load(Ordering::Relaxed);
        // A file may have grown since it was looked at.
        self.total.map(|total| InputBytes { read: read.min(total), total })
    }
}

fn plan(selection: &Selection, former: Vec<Entry>, mode: Mode) -> Result<Plan> {
    let seen = selection.look()?;
    match mode {
        Mode::Once if seen.is_empty() && former.is_empty() => Err(Error::NoFile(what_is_there(&selection.path))),
        Mode::Once => plan::once(seen, former),
        Mode::Follow(_) if !matches!(selection.compression, None | Some(Compression::None)) => {
            let source = io::Error::new(io::ErrorKind::Unsupported, "a compressed file cannot be followed");
            Err(Error::io("follow", &selection.path)(source))
        }
        Mode::Follow(_) => Ok(plan::follow(seen, former)),
    }
}

/// The path, with what it leads to where that is not a file.
fn what_is_there(path: &Path) -> String {
    let shown = path.display();
    match path.metadata() {
        Ok(there) if there.is_dir() => format!("{shown}, which is a folder: {shown}/* are the files in it"),
        Ok(_) => format!("{shown}, which is neither a file nor a folder"),
        Err(_) => shown.to_string(),
    }
}

#[cfg(test)]
mod tests;
