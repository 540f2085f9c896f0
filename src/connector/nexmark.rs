//! The events of Nexmark, the benchmark of an auction site, as a source: persons, the auctions that they open, and bids for
//! these. What each event is depends on its number alone (Tucker et al., "NEXMark – A Benchmark for Queries over Data Streams";
//! the generator is the crate `nexmark`).
//!
//! Several stages can each take one kind of the same events, and several tasks of a stage share its kind.

use std::sync::Arc;
use std::time::Duration;

use ::nexmark::EventGenerator;
use ::nexmark::config::NexmarkConfig;
use ::nexmark::event::{Auction, Bid, Event, EventType, Person};
use arrow::array::{ArrayRef, Int64Builder, StringBuilder, TimestampNanosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::{Position, Result, position};
use crate::bus::{Limit, Micros};
use crate::config::{NexmarkEvent, NexmarkSource};
use crate::time_of_day::now;

const VERSION: u32 = 1;
const NAME: &str = "nexmark";

/// When the first event happens where events are not paced: 2015-07-15, as in the generator of Apache Beam.
const BASE_TIME_MILLIS: u64 = 1_436_918_400_000;
/// Events that happen in a second of event time where they are not paced.
const EVENTS_PER_SECOND: usize = 10_000;
const MICROS_PER_MILLI: Micros = 1_000;
const NANOS_PER_MILLI: i64 = 1_000_000;

/// The columns of the events of a kind.
pub(crate) fn schema(event: NexmarkEvent) -> SchemaRef {
    let number = |name| Field::new(name, DataType::Int64, false);
    let text = |name| Field::new(name, DataType::Utf8, false);
    let time = |name| Field::new(name, DataType::Timestamp(TimeUnit::Nanosecond, None), false);
    Arc::new(Schema::new(match event {
        NexmarkEvent::Person => vec![
            number("id"),
            text("name"),
            text("email_address"),
            text("credit_card"),
            text("city"),
            text("state"),
            time("date_time"),
            text("extra"),
        ],
        NexmarkEvent::Auction => vec![
            number("id"),
            text("item_name"),
            text("description"),
            number("initial_bid"),
            number("reserve"),
            time("date_time"),
            time("expires"),
            number("seller"),
            number("category"),
            text("extra"),
        ],
        NexmarkEvent::Bid => vec![
            number("auction"),
            number("bidder"),
            number("price"),
            text("channel"),
            text("url"),
            time("date_time"),
            text("extra"),
        ],
    }))
}

/// How far a task is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Place {
    version: u32,
    /// When the first event of all happened, in milliseconds since 1970.
    base_time: u64,
}

/// The events of one kind that one task gives.
pub(crate) struct Nexmark {
    source: NexmarkSource,
    schema: SchemaRef,
    task: u64,
    tasks: u64,
    config: NexmarkConfig,
    generator: EventGenerator,
    /// How many it has given.
    given: u64,
    /// How many it gives in all.
    total: u64,
}

/// What is next.
#[derive(Debug)]
pub(crate) enum Generated {
    /// Events.
    Rows(RecordBatch),
    /// None has happened since the last ones.
    Idle,
    /// There are no more.
    Finished,
}

impl Nexmark {
    /// The source of the task of that number.
    pub(crate) fn new(source: &NexmarkSource, task: u32, tasks: u32) -> Self {
        let rate = source.rate.map_or(EVENTS_PER_SECOND, |rate| rate as usize);
        let config = NexmarkConfig {
            base_time: match source.rate {
                Some(_) => (now() / MICROS_PER_MILLI).unsigned_abs(),
                None => BASE_TIME_MILLIS,
            },
            first_rate: rate,
            next_rate: rate,
            ..NexmarkConfig::default()
        };
        let (task, tasks) = (u64::from(task), u64::from(tasks.max(1)));
        let total = source.events.map_or(u64::MAX, |events| of_kind(source.event, events, &config));
        Self {
            schema: schema(source.event),
            generator: EventGenerator::default(),
            given: 0,
            total: total.saturating_sub(task).div_ceil(tasks),
            source: source.clone(),
            task,
            tasks,
            config,
        }
    }

    /// Goes to where a commit left it; see [`super::Source::resume`].
    pub(crate) fn resume(&mut self, position: Option<Position>) -> Result<()> {
        if let Some(Position { rows, at }) = position {
            let Place { base_time, .. } = position::read_place(at, VERSION, NAME)?;
            (self.given, self.config.base_time) = (rows, base_time);
        }
        let kind = match self.source.event {
            NexmarkEvent::Person => EventType::Person,
            NexmarkEvent::Auction => EventType::Auction,
            NexmarkEvent::Bid => EventType::Bid,
        };
        self.generator = EventGenerator::new(self.config.clone())
            .with_type_filter(kind)
            .with_offset(self.task + self.given * self.tasks)
            .with_step(self.tasks);
        Ok(())
    }

    /// The position after all that was given so far.
    pub(crate) fn position(&self) -> Position {
        let place = Place { version: VERSION, base_time: self.config.base_time };
        Position { rows: self.given, at: serde_json::to_value(place).unwrap_or_default() }
    }

    /// The next events, in order: of those that are paced the ones that have happened. Waits up to `wait` for the first one.
    pub(crate) async fn poll(&mut self, limit: Limit, wait: Duration) -> std::result::Result<Generated, ArrowError> {
        let most = (limit.bytes / self.size()).clamp(1, limit.rows.max(1)) as u64;
        let left = self.total - self.given;
        if left == 0 {
            return Ok(Generated::Finished);
        }
        let mut until = u64::MAX;
        if self.source.rate.is_some() {
            let ahead = self.generator.timestamp().saturating_sub(millis());
            tokio::time::sleep(Duration::from_millis(ahead).min(wait)).await;
            until = millis();
        }
        let mut columns = Columns::new(self.source.event);
        let mut rows = 0;
        while rows < most.min(left) && self.generator.timestamp() <= until {
            let Some(event) = self.generator.next() else { break };
            columns.push(event);
            rows += 1;
        }
        if rows == 0 {
            return Ok(Generated::Idle);
        }
        self.given += rows;
        Ok(Generated::Rows(RecordBatch::try_new(Arc::clone(&self.schema), columns.finish())?))
    }

    /// About how many bytes an event takes.
    fn size(&self) -> usize {
        match self.source.event {
            NexmarkEvent::Person => self.config.avg_person_byte_size,
            NexmarkEvent::Auction => self.config.avg_auction_byte_size,
            // Its texts for the channel do not count there.
            NexmarkEvent::Bid => 2 * self.config.avg_bid_byte_size,
        }
    }
}

/// Milliseconds since 1970.
fn millis() -> u64 {
    (now() / MICROS_PER_MILLI).unsigned_abs()
}

/// How many of the first so many events are of a kind.
fn of_kind(event: NexmarkEvent, events: u64, config: &NexmarkConfig) -> u64 {
    let (persons, auctions, bids) = (config.person_proportion, config.auction_proportion, config.bid_proportion);
    let (before, of_kind) = match event {
        NexmarkEvent::Person => (0, persons),
        NexmarkEvent::Auction => (persons, auctions),
        NexmarkEvent::Bid => (persons + auctions, bids),
    };
    let (before, of_kind, all) = (before as u64, of_kind as u64, (persons + auctions + bids) as u64);
    events / all * of_kind + (events % all).saturating_sub(before).min(of_kind)
}

/// Columns that events are added to.
struct Columns {
    numbers: Vec<Int64Builder>,
    texts: Vec<StringBuilder>,
    times: Vec<TimestampNanosecondBuilder>,
    event: NexmarkEvent,
}

impl Columns {
    fn new(event: NexmarkEvent) -> Self {
        let (numbers, texts, times) = match event {
            NexmarkEvent::Person => (1, 6, 1),
            NexmarkEvent::Auction => (5, 3, 2),
            NexmarkEvent::Bid => (3, 3, 1),
        };
        Self {
            numbers: (0..numbers).map(|_| Int64Builder::new()).collect(),
            texts: (0..texts).map(|_| StringBuilder::new()).collect(),
            times: (0..times).map(|_| TimestampNanosecondBuilder::new()).collect(),
            event,
        }
    }

    fn push(&mut self, event: Event) {
        match event {
            Event::Person(Person { id, name, email_address, credit_card, city, state, date_time, extra }) => {
                self.put(&[id], &[&name, &email_address, &credit_card, &city, &state, &extra], &[date_time]);
            }
            Event::Auction(Auction {
                id,
                item_name,
                description,
                initial_bid,
                reserve,
                date_time,
                expires,
                seller,
                category,
                extra,
            }) => {
                let numbers = [id, initial_bid, reserve, seller, category];
                self.put(&numbers, &[&item_name, &description, &extra], &[date_time, expires]);
            }
            Event::Bid(Bid { auction, bidder, price, channel, url, date_time, extra }) => {
                self.put(&[auction, bidder, price], &[&channel, &url, &extra], &[date_time]);
            }
        }
    }

    fn put(&mut self, numbers: &[usize], texts: &[&str], times: &[u64]) {
        self.numbers.iter_mut().zip(numbers).for_each(|(column, number)| column.append_value(*number as i64));
        self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.append_value(text));
        self.times.iter_mut().zip(times).for_each(|(column, millis)| {
            column.append_value((*millis as i64).saturating_mul(NANOS_PER_MILLI));
        });
    }

    /// The columns, in the order of the schema.
    fn finish(self) -> Vec<ArrayRef> {
        let Self { mut numbers, mut texts, mut times, event } = self;
        let mut columns: Vec<Option<ArrayRef>> = Vec::new();
        let mut next = |column: &Field| match column.data_type() {
            DataType::Int64 => take(&mut numbers).map(|mut column| Arc::new(column.finish()) as ArrayRef),
            DataType::Utf8 => take(&mut texts).map(|mut column| Arc::new(column.finish()) as ArrayRef),
            _ => take(&mut times).map(|mut column| Arc::new(column.finish()) as ArrayRef),
        };
        columns.extend(schema(event).fields().iter().map(|field| next(field)));
        columns.into_iter().flatten().collect()
    }
}

fn take<T>(columns: &mut Vec<T>) -> Option<T> {
    (!columns.is_empty()).then(|| columns.remove(0))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, UInt32Array};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Int64Type, TimestampNanosecondType};

    use super::*;

    const LIMIT: Limit = Limit { rows: 1000, bytes: 1 << 20 };
    const EVENTS: u64 = 50_031;

    fn source(event: NexmarkEvent) -> NexmarkSource {
        NexmarkSource { event, events: Some(EVENTS), rate: None }
    }

    async fn all(source: &mut Nexmark) -> RecordBatch {
        let mut batches = Vec::new();
        while let Generated::Rows(rows) = source.poll(LIMIT, Duration::ZERO).await.unwrap() {
            batches.push(rows);
        }
        concat_batches(&source.schema, &batches).unwrap()
    }

    #[tokio::test]
    async fn the_kinds_are_those_of_one_sequence_of_events() {
        let mut events = Vec::new();
        for kind in [NexmarkEvent::Person, NexmarkEvent::Auction, NexmarkEvent::Bid] {
            let mut source = Nexmark::new(&source(kind), 0, 1);
            source.resume(None).unwrap();
            let rows = all(&mut source).await;
            assert_eq!(rows.num_rows() as u64, of_kind(kind, EVENTS, &source.config), "{kind:?}");
            let number = rows.column(0).as_primitive::<Int64Type>().clone();
            let times = rows.column_by_name("date_time").unwrap();
            let times = times.as_primitive::<TimestampNanosecondType>().values().to_vec();
            assert!(times.is_sorted());
            events.extend(number.values().iter().copied().zip(times).map(|(number, time)| (kind, number, time)));
        }
        let config = NexmarkConfig { base_time: BASE_TIME_MILLIS, ..NexmarkConfig::default() };
        let of_all = EventGenerator::new(config).take(EVENTS as usize).map(|event| {
            let time = event.timestamp() as i64 * NANOS_PER_MILLI;
            match event {
                Event::Person(person) => (NexmarkEvent::Person, person.id as i64, time),
                Event::Auction(auction) => (NexmarkEvent::Auction, auction.id as i64, time),
                Event::Bid(bid) => (NexmarkEvent::Bid, bid.auction as i64, time),
            }
        });
        let mut of_all: Vec<_> = of_all.collect();
        of_all.sort_by_key(|(kind, ..)| *kind as u8);
        assert_eq!(events, of_all);
    }

    #[tokio::test]
    async fn tasks_share_the_events_and_go_on_where_they_were() {
        let mut alone = Nexmark::new(&source(NexmarkEvent::Bid), 0, 1);
        alone.resume(None).unwrap();
        let alone = all(&mut alone).await;
        for task in 0..3 {
            let mut first = Nexmark::new(&source(NexmarkEvent::Bid), task, 3);
            first.resume(None).unwrap();
            let Generated::Rows(begun) = first.poll(LIMIT, Duration::ZERO).await.unwrap() else { panic!("rows") };
            let mut second = Nexmark::new(&source(NexmarkEvent::Bid), task, 3);
            second.resume(Some(first.position())).unwrap();
            let shared = concat_batches(&second.schema.clone(), &[begun, all(&mut second).await]).unwrap();
            let rows = (0..alone.num_rows() as u32).filter(|row| row % 3 == task).collect::<Vec<_>>();
            let wanted = arrow::compute::take_record_batch(&alone, &UInt32Array::from(rows)).unwrap();
            assert_eq!(shared, wanted);
        }
    }

    #[tokio::test]
    async fn events_that_are_paced_come_when_they_happen() {
        let paced = NexmarkSource { rate: Some(1_000_000), ..source(NexmarkEvent::Bid) };
        let mut source = Nexmark::new(&paced, 0, 1);
        source.resume(None).unwrap();
        let mut rows = 0;
        loop {
            match source.poll(LIMIT, Duration::from_millis(10)).await.unwrap() {
                Generated::Rows(batch) => {
                    let times = batch.column_by_name("date_time").unwrap().as_primitive::<TimestampNanosecondType>();
                    assert!(times.value(times.len() - 1) <= now() * 1_000);
                    rows += batch.num_rows();
                }
                Generated::Idle => {}
                Generated::Finished => break,
            }
        }
        assert_eq!(rows as u64, source.total);
    }
}
