//! The loop of a task: poll, decode, process, encode, commit.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use indicatif::DecimalBytes;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use crate::bus::{self, Commit, Gap, Lease, Micros, TopicPartition};
use crate::checkpoint::{self, Checkpoint};
use crate::codec::{self, cloudevents, csv, json};
use crate::connector;
use crate::fidelity::{Counts, Status};
use crate::stage::diary::Diary;
use crate::stage::facts::{News, Place};
use crate::stage::inlet::{Arrived, COMMIT, Inlet, Polled};
use crate::stage::outlet::{Encoded, Moments, Outlet};
use crate::stage::process::{Made, Queries};
use crate::stage::signals::{Quiet, Signals};
use crate::stage::spans::Spans;
use crate::stage::state::{Changes, StateLog};
use crate::stage::step::{Step, Written, positions};
use crate::telemetry::{Doing, Held, Meter};
use crate::time_of_day::now;

/// How long a poll waits for the first row when nothing says that the input is about to end.
const WAIT: Duration = Duration::from_secs(1);

/// One task of a stage.
pub(super) struct Task {
    /// The right to run it.
    pub lease: Box<dyn Lease>,
    /// Poll and decode.
    pub inlet: Inlet,
    /// Process.
    pub queries: Queries,
    /// Encode.
    pub outlet: Outlet,
    /// Which rows it follows on their way.
    pub spans: Spans,
    /// What it says of itself.
    pub diary: Diary,
    /// How long its last commit took.
    pub lasted: Micros,
    /// What it hears from outside.
    pub signals: Signals,
    /// What is seen of it from outside.
    pub meter: Arc<Meter>,
    /// What it has committed so far, once all that it has written is.
    pub committed: Checkpoint,
    /// What it has written since its last commit.
    pub written: Written,
    /// What it keeps from batch to batch, where it does.
    pub state: Option<StateLog>,
    /// Whether those behind it were told that nothing comes for now.
    pub quiet: Quiet,
    /// The last commit, until it is known what became of it: when it was visible.
    pub committing: Option<(JoinHandle<bus::Result<Micros>>, Written)>,
}

/// Why a task stopped before its input ended. What it had not committed has not happened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus failed, or gave the task to somebody else.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The source or the sink failed.
    #[error(transparent)]
    Connector(#[from] connector::Error),
    /// The task's checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// What it kept cannot be read.
    #[error(
        "{partition}: {what}. What the task kept is not whole: start over with another data directory or in another \
             namespace, or give the stage another name"
    )]
    State {
        /// Where it was.
        partition: TopicPartition,
        /// What is wrong.
        what: String,
    },
    /// What it keeps would take more memory than it may.
    #[error(
        "what it keeps takes {} of memory, and may take {}: raise state_limit in the stage; keep less, by closing windows earlier, with \
             a smaller out_of_orderness where event_time is set, or by a shorter state_ttl; or divide the rows among more partitions. \
             It goes on from its last commit then",
        DecimalBytes(*.bytes as u64),
        DecimalBytes(*.limit as u64)
    )]
    StateLimit {
        /// Bytes that they take.
        bytes: usize,
        /// Bytes that they may take.
        limit: usize,
    },
    /// Windows could not be kept or evaluated, whatever their rows are.
    #[error("windows: {0}")]
    Windows(#[from] DataFusionError),
    /// The contract has a column that JSON cannot hold.
    #[error(transparent)]
    Json(#[from] json::Unsupported),
    /// The contract has a column that CSV cannot hold, or a file's header line makes no sense.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// Rows were published under a contract with other columns than the predecessor has now.
    #[error(
        "{partition} holds rows with the columns {found} from offset {offset} on, which were not dealt with before the \
             pipeline was edited; the columns are now {wanted}. Run the pipeline as it was until nothing is pending, then \
             edit it; or start over with another data directory or in another namespace"
    )]
    Contract {
        /// Where they are.
        partition: TopicPartition,
        /// The first of them.
        offset: u64,
        /// Their columns.
        found: String,
        /// The columns of the predecessor's contract.
        wanted: String,
    },
    /// A batch could not be encoded.
    #[error(transparent)]
    Encode(#[from] codec::arrow::Error),
    /// An event is none by the rules of CloudEvents.
    #[error(transparent)]
    Event(#[from] cloudevents::Error),
    /// A fact cannot be written as JSON.
    #[error("a fact about the stage: {0}")]
    Fact(#[from] serde_json::Error),
    /// Rows that are fine one by one could not be put together or taken apart.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

impl Error {
    /// Whether the task can go on from its last commit, under another lease.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Error::Bus(error) => error.is_passing(),
            Error::Connector(error) => matches!(error, connector::Error::InUse(_)),
            _ => false,
        }
    }
}

impl Task {
    /// Runs until the input has ended, or the worker is told to stop.
    pub async fn run(mut self) -> Result<(), Error> {
        self.resume().await?;
        while let Some(polled) = self.poll().await? {
            let went = self.go_through(polled).await;
            self.confirm().await?;
            went?;
        }
        self.finish().await
    }

    /// Goes through what was polled, and what comes right behind it.
    async fn go_through(&mut self, polled: Polled) -> Result<(), Error> {
        let mut next = Some(polled);
        while let Some(polled) = next {
            let step = self.prepare(polled)?;
            next = self.poll_ahead(&step).await?;
            match &next {
                Some(next) if self.has_room_behind(&step, next) => self.write(step).await?,
                _ => self.commit(step).await?,
            }
        }
        Ok(())
    }

    /// What is dealt with while a step is committed: something where there is more than one step takes in. What has only
    /// begun to arrive is not divided, so that it is not kept waiting for two commits.
    async fn poll_ahead(&mut self, step: &Step) -> Result<Option<Polled>, Error> {
        if !step.full || self.signals.draining() {
            return Ok(None);
        }
        let polled = self.inlet.poll(self.lease.as_mut(), Duration::ZERO).await?;
        Ok(Some(polled).filter(Polled::has_rows))
    }

    /// Decode, process and encode.
    fn prepare(&mut self, polled: Polled) -> Result<Step, Error> {
        let (size, when) = (polled.size(), now());
        let (positions, source, full) = (positions(&polled), self.inlet.position(), polled.is_full(size));
        let Arrived { mut rows, mut dead_letters, since, foreign, missing } = self.inlet.decode(polled)?;
        let spans = self.spans.enter(&mut rows, when);
        let Made { parts, dead_letters: more, corrected } = self.queries.process(rows)?;
        dead_letters.extend(more);
        let mut encoded =
            self.outlet.encode(dead_letters, Moments { since, polled: when, commit: self.lasted }, parts)?;
        encoded.counts.rows_in = size.rows as u64;
        encoded.counts.foreign = foreign;
        for (input, minute, rows) in &missing {
            encoded.book.at(*minute, Some(*input)).lost += rows;
        }
        encoded.missing = missing.into_iter().map(|(input, _, rows)| (input, rows)).collect();
        encoded.corrected = corrected;
        Ok(Step { encoded, positions, source, size, when, full, spans })
    }

    /// Whether the commit that takes the step in can also take what comes next.
    fn has_room_behind(&self, step: &Step, next: &Polled) -> bool {
        (self.written.size + step.size + next.size()).fits(COMMIT)
    }

    /// Goes to where the last commit left everything: input, sink and counts.
    async fn resume(&mut self) -> Result<(), Error> {
        let resume = self.lease.resume().await?;
        if let Some(checkpoint) = &resume.checkpoint {
            let committed = Checkpoint::decode(checkpoint)?;
            let mut positions = resume.positions.clone();
            positions.retain(|partition, _| !resume.gaps.iter().any(|gap| gap.partition == *partition));
            committed.agrees_with(&self.committed.stage, &positions, self.signals.shared)?;
            self.committed = Checkpoint { stage: self.committed.stage.clone(), ..committed };
        }
        self.diary.note(News::Started { version: env!("CARGO_PKG_VERSION") });
        if resume.checkpoint.is_some() {
            let Counts { rows_in, rows_out, .. } = self.committed.counts;
            let place = |(of, offset): (&TopicPartition, &u64)| Place {
                topic: of.topic.to_string(),
                partition: of.partition,
                offset: *offset,
            };
            let positions = resume.positions.iter().map(place).collect();
            self.diary.note(News::Restored { rows_in, rows_out, positions });
        }
        self.committed.began.get_or_insert_with(now);
        self.committed.positions = resume.positions;
        self.committed.missed += resume.missed;
        self.committed.gone += resume.gaps.iter().map(Gap::messages).sum::<u64>();
        self.queries.resume(&self.committed);
        self.diary.resume(&self.committed);
        self.restore().await?;
        self.inlet.resume(&self.committed).await?;
        self.outlet.resume(&self.committed).await?;
        self.meter.resumed(self.committed.counts, self.inlet.input());
        // From then on, whatever is in a sink's output is known to be its, and can be taken back after a crash; and a source
        // that had ended has not.
        let had_ended = std::mem::take(&mut self.committed.ended);
        if had_ended || !resume.gaps.is_empty() || (self.outlet.is_sink() && self.committed.sink.is_none()) {
            self.commit_nothing().await?;
        }
        resume.gaps.iter().for_each(|gap| self.report(gap));
        Ok(())
    }

    /// Reads what was kept.
    async fn restore(&mut self) -> Result<(), Error> {
        let (Some(state), Some(kept)) = (&mut self.state, self.queries.results.state()) else { return Ok(()) };
        let Some(saved) = &self.committed.windows else { return Ok(()) };
        state.restore(saved, kept).await
    }

    /// Says what is gone, once it is committed that the task goes on without it.
    fn report(&self, gap: &Gap) {
        self.meter.gone(gap.messages());
        let Gap { partition, wanted, first } = gap;
        let task = self.meter.name();
        match gap.messages() {
            0 => tracing::warn!(
                %partition, wanted, first, task,
                "the topic was deleted and made anew, or has lost its end; the task goes on from the oldest message that it has \
                 not read, and what it had not read of the former one is lost"
            ),
            lost => tracing::warn!(
                %partition, wanted, first, task, lost,
                "what the task was to read is gone; it goes on from the oldest message there is, and so many messages are lost \
                 at most"
            ),
        }
    }

    /// Gives a sink the chance to write what its output has even without rows, such as the header line of a CSV, and says
    /// that the task ends, and to other workers that a source has ended.
    async fn finish(&mut self) -> Result<(), Error> {
        let reason = if self.signals.draining() { "told" } else { "ended" };
        self.diary.note(News::Stopped { reason });
        self.commit_nothing().await?;
        Ok(self.lease.settle().await?)
    }

    /// What is next; `None` once nothing comes any more.
    async fn poll(&mut self) -> Result<Option<Polled>, Error> {
        loop {
            // Asked before the poll: predecessors publish nothing after they have ended, so if they had ended by now and
            // the poll finds nothing, there is nothing.
            let ending = self.signals.predecessors_ended() && !self.inlet.is_source();
            if self.signals.stopping() || (self.inlet.is_source() && self.signals.draining()) {
                return Ok(None);
            }
            let wait = if ending { Duration::ZERO } else { WAIT };
            self.meter.turns_to(Doing::Idle);
            let polled = tokio::select! {
                biased;
                polled = self.inlet.poll(self.lease.as_mut(), wait) => polled?,
                () = self.signals.changed() => continue,
            };
            self.meter.turns_to(Doing::Busy);
            self.meter.looked(polled.has_rows());
            match polled {
                Polled::Finished if self.quiet.says(Status::End) => return Ok(Some(Polled::Said(Status::End))),
                Polled::Finished
                    if self.signals.keep_running && self.diary.has_something_to_say(self.queries.clock.through()) =>
                {
                    self.commit_nothing().await?;
                }
                Polled::Finished if self.signals.keep_running => {
                    self.meter.turns_to(Doing::Idle);
                    // It may have something to say later.
                    let _ = timeout(WAIT, self.signals.changed()).await;
                }
                Polled::Finished => {
                    self.committed.ended = self.signals.shared;
                    return Ok(None);
                }
                Polled::Idle if ending => return Ok(None),
                Polled::Idle if self.quiet.is_idle() => return Ok(Some(Polled::Said(Status::Idle))),
                Polled::Idle if self.diary.has_something_to_say(self.queries.clock.through()) => {
                    self.commit_nothing().await?
                }
                Polled::Idle => self.lease.settle().await?,
                polled => {
                    self.quiet.end();
                    return Ok(Some(polled));
                }
            }
        }
    }

    /// Hands over what became of a poll, for the next commit. A sink can keep whoever writes to it waiting for as long as it
    /// likes, and a cluster does not wait with what it was handed; so what goes with a sink's rows is kept until then.
    async fn write(&mut self, step: Step) -> Result<(), Error> {
        let Commit { results: mut records, events, dead_letters, .. } = self.take(step).await?;
        records.extend(events);
        records.extend(dead_letters);
        if self.outlet.is_sink() {
            self.written.records.append(&mut records);
            return Ok(());
        }
        self.meter.turns_to(Doing::Backpressured);
        self.lease.write(records).await?;
        self.meter.turns_to(Doing::Busy);
        Ok(())
    }

    /// Begins to make a step visible, with what was written before it: all of it or nothing.
    async fn commit(&mut self, step: Step) -> Result<(), Error> {
        let mut records = self.take(step).await?;
        self.meter.turns_to(Doing::Backpressured);
        self.committed.sink = self.outlet.flush().await?;
        self.meter.turns_to(Doing::Busy);
        self.committed.clock = self.queries.clock.saved();
        self.committed.sent = self.outlet.sent().to_vec();
        self.committed.received = self.inlet.received();
        if let Some(time) = self.queries.clock.time() {
            self.meter.through(time);
        }
        let state = self.changes()?;
        self.written.trim = state.spare_before;
        let through = self.queries.clock.through();
        records.events.extend(self.diary.said(through, &mut self.committed, &mut self.written)?);
        let checkpoint = self.committed.encode()?;
        self.meter.checkpoint(checkpoint.len());
        let commit =
            Commit { state: state.records, checkpoint, positions: self.committed.positions.clone(), ..records };
        self.confirm().await?;
        let mut written = std::mem::take(&mut self.written);
        written.positions.clone_from(&self.committed.positions);
        self.meter.turns_to(Doing::Backpressured);
        if !written.records.is_empty() {
            self.lease.write(std::mem::take(&mut written.records)).await?;
        }
        written.submitted = now();
        let outcome = self.lease.submit(commit).await?;
        self.meter.turns_to(Doing::Busy);
        // Nobody may look at it for a while, and it is to be known when it was visible.
        self.committing = Some((tokio::spawn(async { outcome.await.map(|()| now()) }), written));
        Ok(())
    }

    /// What is kept that was not, and no longer what was, and goes with the next commit.
    fn changes(&mut self) -> Result<Changes, Error> {
        let (Some(state), Some(kept)) = (&mut self.state, self.queries.results.state()) else {
            return Ok(Changes::default());
        };
        let held = Held { rows: kept.rows(), bytes: kept.bytes(), limit: self.queries.stage.state_limit };
        self.meter.holds(held);
        let Held { bytes, limit, .. } = held;
        if bytes > limit {
            return Err(Error::StateLimit { bytes, limit });
        }
        let changes = state.changes(kept)?;
        self.committed.windows = Some(state.saved(kept));
        Ok(changes)
    }

    /// Commits where input and sink are, without any rows.
    async fn commit_nothing(&mut self) -> Result<(), Error> {
        self.commit(Step::empty(self.inlet.position())).await?;
        self.confirm().await
    }

    /// Waits until what is being committed is visible, and reports it.
    async fn confirm(&mut self) -> Result<(), Error> {
        if let Some((outcome, written)) = self.committing.take() {
            self.meter.turns_to(Doing::Backpressured);
            let visible = match outcome.await.map_err(JoinError::try_into_panic) {
                Ok(outcome) => outcome?,
                Err(Ok(panic)) => resume_unwind(panic),
                // The runtime ends, and this with it.
                Err(Err(_)) => pending().await,
            };
            self.meter.turns_to(Doing::Busy);
            self.lasted = visible - written.submitted;
            self.meter.judged(written.judged);
            self.spans.leave(&written.spans, visible);
            if written.counts.rows_in > 0 || written.counts.emitted > 0 {
                self.meter.committed(written.report(visible, self.inlet.input()));
            }
            if let (Some(state), Some(first)) = (&self.state, written.trim)
                && let Err(error) = state.trim(first).await
            {
                tracing::warn!(task = self.meter.name(), %error, "state that is needed no longer stays for now");
            }
        }
        Ok(())
    }

    /// Takes a step into what is committed next, and gives its records.
    async fn take(&mut self, step: Step) -> Result<Commit, Error> {
        let Step { mut encoded, positions, source, size, when, mut spans, .. } = step;
        self.written.spans.append(&mut spans);
        self.meter.turns_to(Doing::Backpressured);
        self.outlet.write(std::mem::take(&mut encoded.text)).await?;
        self.meter.turns_to(Doing::Busy);
        self.committed.source = source;
        self.committed.positions.extend(positions);
        self.committed.counts += encoded.counts;
        self.diary.add(&mut encoded);
        self.written.add(&mut encoded, size, when);
        let Encoded { results, events, dead_letters, .. } = encoded;
        Ok(Commit { results, events, dead_letters, ..Commit::default() })
    }
}
