//! What a task says of itself on `.events`: what has happened to it, and what became of its rows, by minute of event time.

use std::sync::Arc;

use crate::bus::{Micros, Outgoing};
use crate::checkpoint::Checkpoint;
use crate::fidelity::{Book, Page, Status, Watermark};
use crate::stage::TaskError;
use crate::stage::facts::{self, Facts, News};
use crate::stage::outlet::Encoded;
use crate::stage::step::Written;
use crate::time_of_day::now;
use crate::topology::Stage;

/// What a task has to say, and how it says it.
pub(super) struct Diary {
    stage: Arc<Stage>,
    task: u32,
    /// `None` where nobody wants to know.
    facts: Option<Facts>,
    /// What has happened and was not said yet.
    news: Vec<News>,
    /// What became of rows since it was said.
    book: Book,
    /// When it was said last.
    booked: Micros,
}

impl Diary {
    pub fn new(stage: &Arc<Stage>, task: u32, facts: Option<Facts>) -> Self {
        Self { stage: stage.clone(), task, facts, news: Vec::new(), book: Book::default(), booked: now() }
    }

    /// Goes to where a commit left the task.
    pub fn resume(&mut self, committed: &Checkpoint) {
        self.book = Book::of(&committed.book, &self.stage.from);
    }

    /// Something has happened.
    pub fn note(&mut self, news: News) {
        self.news.push(news);
    }

    /// A step is in the next commit.
    pub fn add(&mut self, encoded: &mut Encoded) {
        self.book.add(std::mem::take(&mut encoded.book));
        if encoded.corrected > 0 {
            self.note(News::Corrected { results: encoded.corrected });
        }
        if encoded.counts.foreign > 0 {
            self.note(News::Foreign { rows: encoded.counts.foreign });
        }
        for (input, rows) in &encoded.missing {
            let from = self.stage.from.get(*input).map(|from| from.to_string()).unwrap_or_default();
            self.note(News::Missing { from, rows: *rows });
        }
    }

    /// Whether there is something to be said that does not wait for rows, where the task is through with that.
    pub fn has_something_to_say(&self, through: Option<Watermark>) -> bool {
        !self.news.is_empty() || self.book.is_due(through, now() - self.booked)
    }

    /// What is said with a commit of a task that is through with that. What is not said yet is in the checkpoint.
    pub fn said(
        &mut self,
        through: Option<Watermark>,
        committed: &mut Checkpoint,
        written: &mut Written,
    ) -> Result<Vec<Outgoing>, TaskError> {
        let mut news = std::mem::take(&mut self.news);
        news.extend(written.letters.iter().cloned().map(News::DeadLettered));
        let page = self.page(through, committed, written);
        let Some(facts) = &self.facts else { return Ok(Vec::new()) };
        let mut said = Vec::with_capacity(news.len() + 1);
        for news in news {
            committed.facts += 1;
            said.push(facts.news(committed.facts, &news)?);
        }
        if let Some(page) = page {
            said.push(facts.fact(facts::LEDGER, committed.pages, &page)?);
        }
        Ok(said)
    }

    /// What became of rows, where it is time to say so.
    fn page(&mut self, says: Option<Watermark>, committed: &mut Checkpoint, written: &mut Written) -> Option<Page> {
        let due = self.book.due(says, now() - self.booked);
        committed.book = self.book.entries(&self.stage.from);
        if due.is_empty() {
            return None;
        }
        self.booked = now();
        committed.pages += 1;
        let through = says.and_then(|says| match says.status {
            Status::End => Some(Page::END),
            _ => Some(says.time.min(Page::END)).filter(|time| *time > Micros::MIN),
        });
        committed.early = committed.early.max(due.later_than(through));
        self.judge(&due, through, committed, written);
        committed.through = committed.through.max(through);
        let entries = due.entries(&self.stage.from);
        Some(Page { task: self.task, through, early: committed.early, entries })
    }

    /// Judges the minutes that are final now. What amends one that was before can make it bad, by what was lost; a row that is slow
    /// then is one of all of its minute, which the task no longer knows.
    fn judge(&self, due: &Book, through: Option<Micros>, committed: &Checkpoint, written: &mut Written) {
        let Some(slo) = self.stage.slo else { return };
        for (minute, tally) in due.minutes().into_iter().filter(|(minute, _)| minute.is_over(through)) {
            let verdict = match minute.is_over(committed.through) {
                true => slo.is_broken_by_loss(&tally).then_some(false),
                false => slo.verdict(&tally),
            };
            if let Some(is_good) = verdict {
                written.judged.add(is_good);
            }
        }
    }
}
