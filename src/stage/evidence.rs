//! What the topics of a pipeline's stages hold, for an audit: every row is looked at, and nothing is taken from a running task.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use memchr::memmem;
use serde::Deserialize;

use crate::bus::{self, Channel, Extent, Log, Message, Topic, scan};
use crate::checkpoint::Checkpoint;
use crate::codec::{Decoder, RawRows, arrow, json};
use crate::failure::DeadLetter;
use crate::fidelity::{
    self, Audit, Committed, Entry, Error, Evidence, Found, Minute, Minutes, Page, Rows, Status, Times,
};
use crate::stage::facts::LEDGER;
use crate::stage::inlet::is_json;
use crate::stage::owner::{Owner, row_of};
use crate::topology::{Stage, Topology, Work};

/// Compares the books of a pipeline with what its topics hold, of minutes of event time in that range, also while it runs.
///
/// # Errors
/// The bus does not answer, or a checkpoint is damaged.
pub async fn audit(log: &dyn Log, topology: &Topology, range: &Range<Minute>) -> Result<Audit, Error> {
    let first = fidelity::audit(&evidence(log, topology).await?, range);
    if first.findings.is_empty() {
        return Ok(first);
    }
    // What is late can come into minutes that are final while they are looked at. What is wrong is so the next time, too.
    let mut second = fidelity::audit(&evidence(log, topology).await?, range);
    second.findings.retain(|found| first.findings.iter().any(|before| before.is_at_the_place_of(found)));
    Ok(second)
}

/// What the topics of all stages hold, in the order of the topology.
async fn evidence(log: &dyn Log, topology: &Topology) -> Result<Vec<Evidence>, Error> {
    let mut read = Vec::with_capacity(topology.stages.len());
    for stage in &topology.stages {
        read.push((commits(log, stage).await?, checkpoints(log, stage).await?));
    }
    let mut evidence = Vec::with_capacity(topology.stages.len());
    for (stage, (_, checkpoints)) in topology.stages.iter().zip(&read) {
        evidence.push(of_stage(log, stage, checkpoints).await?);
    }
    for (feeder, stage) in topology.stages.iter().enumerate() {
        let consumers: Vec<usize> = topology
            .stages
            .iter()
            .enumerate()
            .filter(|(_, consumer)| consumer.from.contains(&stage.name))
            .map(|(consumer, _)| consumer)
            .collect();
        let positions: Vec<&[Checkpoint]> =
            consumers.iter().map(|consumer| read.get(*consumer).map_or(&[][..], |(_, read)| read.as_slice())).collect();
        let Some((found, pending)) = results(log, stage, &positions).await? else { continue };
        if let Some(evidence) = evidence.get_mut(feeder) {
            evidence.results = Some(found);
        }
        for (consumer, rows) in consumers.into_iter().zip(pending) {
            if let Some(evidence) = evidence.get_mut(consumer) {
                evidence.from.push((stage.name.clone(), rows));
            }
        }
    }
    for ((stage, evidence), (before, _)) in topology.stages.iter().zip(&mut evidence).zip(&read) {
        evidence.is_settled = commits(log, stage).await? == *before;
    }
    Ok(evidence)
}

/// How far the checkpoints of a stage are.
async fn commits(log: &dyn Log, stage: &Stage) -> Result<Vec<Extent>, Error> {
    extents(log, &stage.group().checkpoint).await
}

/// The extents of a topic; none of one that is not there, since the pipeline has not run.
async fn extents(log: &dyn Log, topic: &Topic) -> Result<Vec<Extent>, Error> {
    match log.extents(topic).await {
        Err(bus::Error::UnknownTopic(_)) => Ok(Vec::new()),
        extents => Ok(extents?),
    }
}

/// The last checkpoint of each task; none where the pipeline has not run.
async fn checkpoints(log: &dyn Log, stage: &Stage) -> Result<Vec<Checkpoint>, Error> {
    match fidelity::checkpoints(log, stage).await {
        Err(Error::Bus(bus::Error::UnknownTopic(_))) => Ok(Vec::new()),
        checkpoints => checkpoints,
    }
}

/// What a stage says of itself, and its dead letters.
async fn of_stage(log: &dyn Log, stage: &Stage, checkpoints: &[Checkpoint]) -> Result<Evidence, Error> {
    let (name, letters, pages) = (stage.name.clone(), letters(log, stage).await?, pages(log, stage).await?);
    let Committed { counts, missed, given, taken, .. } = Committed::of(checkpoints.iter().cloned());
    let slo = stage.slo;
    let mut evidence = Evidence { stage: name, letters, counts, missed, given, taken, slo, ..Evidence::default() };
    for (task, checkpoint) in (0..).zip(checkpoints) {
        add(&mut evidence, task, &checkpoint.book);
        said(&mut evidence, task, checkpoint.pages, &pages);
    }
    evidence.through = checkpoints.iter().map(through).min().flatten();
    Ok(evidence)
}

/// Up to when the minutes of a task are final.
fn through(checkpoint: &Checkpoint) -> Option<bus::Micros> {
    let said = checkpoint.clock.said?.watermark;
    Some(if said.status == Status::End { Page::END } else { said.time })
}

fn add(evidence: &mut Evidence, task: u32, entries: &[Entry]) {
    for Entry { minute, from, tally } in entries {
        *evidence.by_task.entry((task, *minute)).or_default() += *tally;
        *evidence.ledger.entry((*minute, from.as_deref().map(Arc::from))).or_default() += *tally;
    }
}

/// Takes in so many pages of a task: its checkpoint has what comes after them.
fn said(evidence: &mut Evidence, task: u32, count: u64, pages: &BTreeMap<(u32, u64), Vec<Page>>) {
    let mut kept = pages.range((task, 1)..(task, count + 1)).peekable();
    let first = kept.peek().map_or(count + 1, |((_, number), _)| *number);
    if first > 1 {
        // The pages before it say nothing of later minutes.
        let since = kept.peek().and_then(|(_, pages)| pages.first()).map(|page| page.through.max(page.early));
        evidence.since = evidence.since.max(since.unwrap_or(Some(bus::Micros::MAX)));
    }
    for number in first..=count {
        match kept.next_if(|((_, next), _)| *next == number).map(|(_, pages)| pages.as_slice()) {
            Some([page]) => add(evidence, task, &page.entries),
            _ => evidence.pages.push((task, number)),
        }
    }
}

/// What the tasks of a stage have said of their books, by task and number.
async fn pages(log: &dyn Log, stage: &Stage) -> Result<BTreeMap<(u32, u64), Vec<Page>>, Error> {
    #[derive(Deserialize)]
    struct Fact<'a> {
        id: &'a str,
        #[serde(rename = "type")]
        kind: &'a str,
        data: Page,
    }
    let topic = stage.topic(Channel::Events);
    let finder = memmem::Finder::new(LEDGER);
    let mut pages: BTreeMap<(u32, u64), Vec<Page>> = BTreeMap::new();
    for (number, extent) in (0..).zip(extents(log, &topic).await?) {
        let mut each = |message: &Message| {
            let text = message.record.payload();
            // Most events are others.
            let fact = finder.find(text).and_then(|_| serde_json::from_slice::<Fact<'_>>(text).ok());
            if let Some(Fact { id, data, .. }) = fact.filter(|fact| fact.kind == LEDGER)
                && let Some(page) = id.rsplit('/').next().and_then(|number| number.parse().ok())
            {
                pages.entry((data.task, page)).or_default().push(data);
            }
        };
        scan(log, &topic.partition(number), extent.start..extent.end, &mut each).await?;
    }
    Ok(pages)
}

async fn letters(log: &dyn Log, stage: &Stage) -> Result<Found, Error> {
    let topic = stage.topic(Channel::DeadLetters);
    let mut found = Found::default();
    for (number, extent) in (0..).zip(extents(log, &topic).await?) {
        found.is_cut |= extent.start > 0;
        let mut each = |message: &Message| {
            let Some(letter) = DeadLetter::from_message(message) else { return };
            let minute = letter.event_time.map_or(Minute::NONE, Minute::of);
            *found.rows.entry(minute).or_insert(0) += u64::from(letter.original.rows);
        };
        scan(log, &topic.partition(number), extent.start..extent.end, &mut each).await?;
    }
    Ok(found)
}

/// What is in the topic of a stage's results, and what of it each of its consumers has still before it, by the checkpoints of its
/// tasks; `None` where it has no such topic.
async fn results(
    log: &dyn Log,
    stage: &Stage,
    consumers: &[&[Checkpoint]],
) -> Result<Option<(Found, Vec<Rows>)>, Error> {
    if matches!(stage.work, Work::Sink(_)) {
        return Ok(None);
    }
    let topic = stage.results();
    let (mut found, mut pending) = (Found::default(), vec![Rows::new(); consumers.len()]);
    for (number, extent) in (0..).zip(extents(log, &topic).await?) {
        found.is_cut |= extent.start > 0;
        let partition = topic.partition(number);
        let next = |tasks: &&[Checkpoint]| tasks.iter().find_map(|task| task.positions.get(&partition)).copied();
        let positions: Vec<u64> = consumers.iter().map(|tasks| next(tasks).unwrap_or(0)).collect();
        let mut counting = Counting::new(stage);
        let mut each = |message: &Message| {
            for (minute, rows) in counting.minutes(message) {
                *found.rows.entry(minute).or_insert(0) += rows;
                for (position, pending) in positions.iter().zip(&mut pending) {
                    if message.offset >= *position {
                        *pending.entry(minute).or_insert(0) += rows;
                    }
                }
            }
        };
        scan(log, &partition, extent.start..extent.end, &mut each).await?;
    }
    Ok(Some((found, pending)))
}

/// Counts the rows of messages by minute.
struct Counting {
    owner: Owner,
    /// The name of the column with their event times.
    time: Option<String>,
    decoder: Option<json::Decoder>,
}

impl Counting {
    fn new(stage: &Stage) -> Self {
        let time = stage.time.and_then(|time| Some(stage.schema.fields().get(time)?.name().clone()));
        Self { owner: Owner::new(stage), time, decoder: json::Decoder::new(stage.schema.clone()).ok() }
    }

    /// The rows of a message that the stage has published.
    fn minutes(&mut self, message: &Message) -> Rows {
        let record = &message.record;
        let mut rows = Rows::new();
        if record.rows == 0 || !self.owner.published(record) {
            return rows;
        }
        let batch = match (&mut self.decoder, &record.batch) {
            (Some(decoder), _) if is_json(message) => {
                Some(decoder.decode(&RawRows::of([row_of(record)].into_iter())).batch)
            }
            (_, Some(batch)) => Some(batch.clone()),
            _ => arrow::decode(record.value.clone().unwrap_or_default()).ok(),
        };
        let count = record.rows as usize;
        let Some(batch) = batch.filter(|batch| batch.num_rows() == count) else {
            rows.insert(Minute::NONE, count as u64);
            return rows;
        };
        let times = self.time.as_ref().and_then(|time| batch.column_by_name(time)).and_then(Times::of);
        Minutes::of(times.as_ref()).count_all(count, |minute, count| *rows.entry(minute).or_insert(0) += count);
        rows
    }
}
