//! The source that reads files. When it reads them is decided in `plan`, and done in `once` and `follow`.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use async_trait::async_trait;

use super::discover::Selection;
use super::follow::{Follower, Pace};
use super::plan::{self, Plan};
use super::position::{Entry, Place};
use super::{Lines, Stop, once};
use crate::bus::Limit;
use crate::config::{Compression, LineFormat};
use crate::connector::intake::{Event, FileId, Fill, Intake, Sender};
use crate::connector::{Error, Polled, Position, Result, Source};

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
    intake: Option<Intake>,
}

impl FileSource {
    /// A source of the files of the selection.
    pub fn new(selection: Selection, format: LineFormat, max_row_bytes: usize, mode: Mode) -> Self {
        let lines = Lines { format, max_row_bytes };
        Self { selection, lines, mode, kept: Vec::new(), former: BTreeMap::new(), before: 0, intake: None }
    }

    /// What the reading thread does.
    fn read(&self, plan: Plan) -> impl FnOnce(Sender) + Send + use<> {
        let (selection, lines, mode) = (self.selection.clone(), self.lines, self.mode);
        move |sender| {
            let read = match mode {
                Mode::Once => once::read(plan.starts, lines, &sender),
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
        let fill = match self.mode {
            Mode::Once => Fill::Full,
            Mode::Follow(_) => Fill::Early,
        };
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
}

fn plan(selection: &Selection, former: Vec<Entry>, mode: Mode) -> Result<Plan> {
    let seen = selection.look()?;
    match mode {
        Mode::Once if seen.is_empty() && former.is_empty() => Err(Error::NoFile(selection.path.display().to_string())),
        Mode::Once => plan::once(seen, former),
        Mode::Follow(_) if !matches!(selection.compression, None | Some(Compression::None)) => {
            let source = io::Error::new(io::ErrorKind::Unsupported, "a compressed file cannot be followed");
            Err(Error::io("follow", &selection.path)(source))
        }
        Mode::Follow(_) => Ok(plan::follow(seen, former)),
    }
}

#[cfg(test)]
mod tests;
