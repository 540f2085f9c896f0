//! A query at work whose results change with each row: joins, aggregates and whatever else puts rows together that are in no
//! windows. What changes flows from where rows come in through the nodes of the query, as rows that are added and rows that are
//! taken away (as in DBSP, Budiu et al., VLDB 2023); what a node needs of former rows it keeps in a store.

mod aggregate;
mod delta;
mod groups;
mod join;
mod latest;
mod plan;
mod store;
mod upserts;

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::state::{Chunk, Piece, State};
use super::step::Failure;
use super::transform::{Transform, guarded, left_out_by_all};
use super::windowed::{Absorbed, Closed, Failed};
use super::{Branch, Operator, Output};
use crate::bus::Micros;
use crate::codec::time;
use crate::failure::{Class, Reject, narrow};
use aggregate::Aggregate;
use delta::Delta;
use groups::Groups;
use join::Join;
use latest::Latest;
pub(crate) use plan::{
    Aggregate as AggregatePlan, DELETED, Flow, Groups as GroupsPlan, Join as JoinPlan, Kind as JoinKind,
    Latest as LatestPlan, Node, Side, Sides, Source, To, Work,
};
use store::{Said, Store};

/// How far something is in event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// No row is older that comes from now on, but for such as are late.
    pub(crate) time: Micros,
    /// Whether there are no more rows.
    pub(crate) ended: bool,
}

impl Mark {
    /// Nothing is known.
    pub(crate) const NONE: Self = Self { time: Micros::MIN, ended: false };

    fn least(marks: impl IntoIterator<Item = Self>) -> Self {
        let together = |one: Self, other: Self| match (one.ended, other.ended) {
            (true, false) => other,
            (false, true) => one,
            (ended, _) => Self { time: one.time.min(other.time), ended },
        };
        marks.into_iter().reduce(together).unwrap_or(Self::NONE)
    }
}

/// How far the sides of a node are in event time, and how long it keeps what nothing else limits.
#[derive(Debug, Clone)]
struct Now {
    sides: Sides<Mark>,
    /// The time that rows are of which have none.
    of_rows: Micros,
    ttl: Option<Micros>,
}

impl Now {
    /// Rows that are kept until an earlier time are not kept any more: those with a bound wait for rows of that side.
    fn of(&self, side: usize, bounded: bool) -> Micros {
        let mark = self.sides.of(side);
        match bounded {
            true if mark.ended => Micros::MAX,
            true => mark.time,
            false => self.time(),
        }
    }

    /// As far as all sides have come.
    fn time(&self) -> Micros {
        self.sides.iter().map(|mark| mark.time).min().unwrap_or(Micros::MIN)
    }

    /// Until when rows are kept that nothing else limits.
    fn until(&self, time: Option<usize>, rows: &RecordBatch) -> Vec<Micros> {
        let Some(ttl) = self.ttl else { return vec![Micros::MAX; rows.num_rows()] };
        match time.and_then(|time| rows.columns().get(time)) {
            Some(times) => time::all_micros(times).into_iter().map(|time| later(time.max(self.of_rows), ttl)).collect(),
            None => vec![later(self.of_rows, ttl); rows.num_rows()],
        }
    }

    /// Until when so many rows are kept that were made of these.
    fn until_of_all(&self, time: Option<usize>, rows: &RecordBatch, made: usize) -> Vec<Micros> {
        let Some(ttl) = self.ttl else { return vec![Micros::MAX; made] };
        let newest = time.and_then(|time| rows.columns().get(time)).and_then(time::greatest_micros);
        vec![later(newest.unwrap_or(Micros::MIN).max(self.of_rows), ttl); made]
    }
}

/// So long after that time; for ever where no time is known.
fn later(time: Micros, ttl: Micros) -> Micros {
    if time == Micros::MIN { Micros::MAX } else { time.saturating_add(ttl) }
}

/// What a node does, with what it keeps.
enum Works {
    Steps(Transform),
    Union,
    Join(Box<Join>),
    Aggregate(Box<Aggregate>),
    Groups(Box<Groups>),
}

/// A query whose results change, with what it keeps of the rows that have come.
pub(crate) struct Changes {
    flow: Arc<Flow>,
    latest: Vec<Latest>,
    sources: Vec<Transform>,
    nodes: Vec<Works>,
    above: Transform,
    keeps: Vec<String>,
    /// How far each input is in event time.
    inputs: Vec<Mark>,
    /// The event time that the rows are of which come now, as far as that is known.
    time: Micros,
    /// For each node and side, before when a row comes too late.
    late: Vec<Sides<Micros>>,
    /// What has come out and was not asked for yet.
    given: Vec<Delta>,
    failed: Vec<Failed>,
}

impl Changes {
    pub(crate) fn new(flow: Arc<Flow>) -> Self {
        let works = |node: &Node| match node.work.clone() {
            Work::Steps(steps) => {
                Works::Steps(Transform::new([Branch { input: 0, steps }].into(), Arc::clone(&node.schema)))
            }
            Work::Union => Works::Union,
            Work::Join(plan) => Works::Join(Box::new(Join::new(*plan, Arc::clone(&node.schema)))),
            Work::Aggregate(plan) => Works::Aggregate(Box::new(Aggregate::new(*plan, Arc::clone(&node.schema)))),
            Work::Groups(plan) => Works::Groups(Box::new(Groups::new(*plan, Arc::clone(&node.schema)))),
        };
        let source = |source: &Source| Transform::new(source.branches.clone().into(), Arc::clone(&source.rows));
        let above = Branch { input: 0, steps: flow.above.clone() };
        let of_latest = flow.latest.iter().map(|latest| {
            let columns: Vec<String> =
                latest.identity.iter().map(|column| latest.schema.field(*column).name().clone()).collect();
            format!("the latest rows of input {} by {}", latest.input, columns.join(", "))
        });
        Self {
            latest: flow.latest.iter().cloned().map(Latest::new).collect(),
            sources: flow.sources.iter().map(source).collect(),
            nodes: flow.nodes.iter().map(works).collect(),
            above: Transform::new([above].into(), Arc::clone(&flow.schema)),
            keeps: of_latest.chain(flow.nodes.iter().flat_map(|node| node.keeps.iter().cloned())).collect(),
            inputs: Vec::new(),
            time: Micros::MIN,
            late: vec![Sides(Micros::MIN, Micros::MIN); flow.nodes.len()],
            given: Vec::new(),
            failed: Vec::new(),
            flow,
        }
    }

    /// Takes down how far inputs are with the rows that come next.
    pub(crate) fn see(&mut self, inputs: &[Mark]) {
        self.time = self.time.max(Mark::least(inputs.iter().copied()).time);
    }

    /// Takes in the rows of a batch of that input.
    pub(crate) fn absorb(&mut self, input: usize, batch: &RecordBatch) -> Result<Absorbed> {
        let number = self.latest.iter().position(|latest| latest.input() == input);
        let (delta, origins) = match number.and_then(|number| self.latest.get(number)) {
            Some(latest) => {
                let (delta, origins) = latest.changes(batch)?;
                (delta, Some(origins))
            }
            None => (Delta::added(batch.clone()), None),
        };
        let pieces = narrow(0..delta.len(), &mut |rows: Range<usize>| {
            guarded(|| self.piece(input, &delta.slice(rows.start, rows.len())))
        });
        let mut absorbed = Absorbed::default();
        let origin = |row: usize| match &origins {
            Some(origins) => origins.get(row).map_or(row, |row| *row as usize),
            None => row,
        };
        let mut rejected = BTreeSet::new();
        let mut flows = Vec::new();
        for (rows, piece) in pieces {
            match piece {
                Ok(Taken { deltas, late, left_out }) => {
                    let reject = |row: u32| Reject {
                        row: origin(rows.start + row as usize),
                        class: Class::Late,
                        message: "rows that it could have met are not kept any more".into(),
                    };
                    absorbed.rejects.extend(late.into_iter().map(reject));
                    if origins.is_none() {
                        absorbed.left_out.extend(left_out.into_iter().map(|row| rows.start as u32 + row));
                    }
                    flows.push(deltas);
                }
                Err(Failure { class, message }) => {
                    absorbed.rejects.push(Reject { row: origin(rows.start), class, message });
                }
            }
        }
        absorbed.rejects.sort_by_key(|reject| reject.row);
        absorbed.rejects.retain(|reject| rejected.insert(reject.row));
        absorbed.absorbed = (batch.num_rows() - absorbed.rejects.len() - absorbed.left_out.len()) as u64;
        if let Some(number) = number {
            let now = self.now_of_inputs();
            if let Some(latest) = self.latest.get_mut(number) {
                latest.keep(&delta, &now)?;
            }
        }
        flows.into_iter().try_for_each(|deltas| self.enter(deltas))?;
        Ok(absorbed)
    }

    /// Lets what each source has made of rows flow to the results.
    fn enter(&mut self, deltas: Vec<Delta>) -> Result<()> {
        for (number, delta) in deltas.into_iter().enumerate() {
            if let Some(to) = self.flow.sources.get(number).map(|source| source.to) {
                self.flow_on(to, delta)?;
            }
        }
        Ok(())
    }

    /// What each source makes of rows all of which it can take.
    fn piece(&self, input: usize, delta: &Delta) -> Result<Taken, Failure> {
        let rows =
            self.sources.iter().map(|source| source.evaluate(input, &delta.rows)).collect::<Result<Vec<_>, _>>()?;
        let mut late = BTreeSet::new();
        for (source, rows) in self.flow.sources.iter().zip(&rows) {
            let (Some(time), To::Node(node, side)) = (source.time.filter(|_| source.can_be_late), source.to) else {
                continue;
            };
            let before = self.late.get(node).map_or(Micros::MIN, |sides| *sides.of(side));
            let Some(times) = rows.batch.columns().get(time).filter(|_| before > Micros::MIN) else { continue };
            let behind = time::all_micros(times).into_iter().enumerate().filter(|(_, time)| *time < before);
            late.extend(behind.map(|(row, _)| rows.origin_of(row)));
        }
        let left_out = left_out_by_all(&rows);
        let deltas = rows.into_iter().map(|rows| {
            let origins: Vec<u32> = (0..rows.batch.num_rows()).map(|row| rows.origin_of(row)).collect();
            let all = delta.from(rows.batch, &origins);
            if late.is_empty() {
                return Ok(all);
            }
            let on_time = (0..).zip(&origins).filter(|(_, origin)| !late.contains(origin)).map(|(row, _)| row);
            all.take(&on_time.collect::<Vec<u32>>().into())
        });
        let deltas = deltas.collect::<Result<Vec<_>, ArrowError>>()?;
        Ok(Taken { deltas, late: late.into_iter().collect(), left_out })
    }

    /// Lets what changes flow to the results.
    fn flow_on(&mut self, mut to: To, mut delta: Delta) -> Result<()> {
        while !delta.is_empty() {
            match to {
                To::Results => {
                    self.given.push(delta);
                    return Ok(());
                }
                To::Node(node, side) => {
                    delta = self.push(node, side, delta)?;
                    to = self.flow.nodes.get(node).map_or(To::Results, |node| node.to);
                }
            }
        }
        Ok(())
    }

    /// What a node gives for what changes on one of its sides. What it fails on is found out, and left out.
    fn push(&mut self, number: usize, side: usize, delta: Delta) -> Result<Delta> {
        let now = self.now(number);
        let (Some(node), Some(works)) = (self.flow.nodes.get(number), self.nodes.get_mut(number)) else {
            return Ok(delta);
        };
        let mut given = Vec::new();
        let pieces = narrow(0..delta.len(), &mut |rows: Range<usize>| {
            let piece = delta.slice(rows.start, rows.len());
            // What a node keeps is changed only once it is known what it gives.
            guarded(|| match works {
                Works::Steps(transform) => {
                    let Output { batch, origin, rejects, .. } = transform.process(0, &piece.rows);
                    for Reject { row, class, message } in rejects {
                        self.failed.push(Failed { rows: piece.rows.slice(row, 1), class, message });
                    }
                    Ok(piece.from(batch, &origin))
                }
                Works::Union => Ok(Delta { rows: piece.rows.with_schema(node.schema.clone())?, gone: piece.gone }),
                Works::Join(join) => join.push(side, &piece, &now),
                Works::Aggregate(aggregate) => aggregate.push(&piece, &now),
                Works::Groups(groups) => groups.push(&piece, &now),
            })
        });
        for (rows, piece) in pieces {
            match piece {
                Ok(delta) => given.push(delta),
                Err(Failure { class, message }) => {
                    self.failed.push(Failed { rows: delta.rows.slice(rows.start, 1), class, message });
                }
            }
        }
        Ok(Delta::concat(&node.schema, given)?)
    }

    /// How far the sides of a node are.
    fn now(&self, number: usize) -> Now {
        // Most nodes have one side.
        let [first, second] = [0, 1].map(|side| self.mark_at(To::Node(number, side)));
        let first = first.or(second).unwrap_or(Mark::NONE);
        self.at(Sides(first, second.unwrap_or(first)))
    }

    /// How far that is which flows there; `None` where nothing does.
    fn mark_at(&self, here: To) -> Option<Mark> {
        let of_input = |branch: &Branch| self.inputs.get(branch.input).copied().unwrap_or(Mark::NONE);
        let sources = self.flow.sources.iter().filter(|source| source.to == here);
        let sources = sources.map(|source| Mark::least(source.branches.iter().map(of_input)));
        let nodes = self.flow.nodes.iter().enumerate().filter(|(_, node)| node.to == here);
        let mut marks = sources.chain(nodes.map(|(node, _)| self.mark(node))).peekable();
        marks.peek().is_some().then(|| Mark::least(marks))
    }

    /// How far what a node gives is.
    fn mark(&self, number: usize) -> Mark {
        let mark = Mark::least(self.now(number).sides.iter().copied());
        match self.nodes.get(number) {
            Some(Works::Join(join)) => Mark { time: mark.time.min(join.oldest()), ..mark },
            _ => mark,
        }
    }

    fn now_of_inputs(&self) -> Now {
        let mark = Mark::least(self.inputs.iter().copied());
        self.at(Sides(mark, mark))
    }

    fn at(&self, sides: Sides<Mark>) -> Now {
        Now { sides, of_rows: self.time, ttl: self.flow.ttl }
    }

    /// Takes down how far each input is, lets go of what is not kept any longer, and gives how far results are.
    pub(crate) fn advance(&mut self, inputs: Vec<Mark>) -> Result<Mark> {
        if inputs != self.inputs {
            self.inputs = inputs;
            let now = self.now_of_inputs();
            for number in 0..self.latest.len() {
                let Some(latest) = self.latest.get_mut(number) else { continue };
                let (input, gone) = (latest.input(), latest.advance(&now)?);
                if gone.is_empty() {
                    continue;
                }
                // What they were made of could be taken in, and so can what is taken away.
                if let Ok(Taken { deltas, .. }) = self.piece(input, &gone) {
                    self.enter(deltas)?;
                }
            }
            for number in 0..self.nodes.len() {
                let now = self.now(number);
                let given = match (self.nodes.get_mut(number), self.late.get_mut(number)) {
                    (Some(Works::Join(join)), Some(late)) => {
                        for (late, mark) in late.iter_mut().zip(now.sides.iter()) {
                            *late = (*late).max(if mark.ended { Micros::MIN } else { mark.time });
                        }
                        join.advance(&now, late)?
                    }
                    (Some(Works::Aggregate(aggregate)), _) => aggregate.advance(&now)?,
                    (Some(Works::Groups(groups)), _) => groups.advance(&now)?,
                    _ => continue,
                };
                if let Some(to) = self.flow.nodes.get(number).map(|node| node.to) {
                    self.flow_on(to, given)?;
                }
            }
        }
        Ok(self.mark_at(To::Results).unwrap_or(Mark::NONE))
    }

    /// What has come out since this was last asked for.
    pub(crate) fn given(&mut self) -> Result<Closed> {
        let given = std::mem::take(&mut self.given);
        let mut failed = std::mem::take(&mut self.failed);
        let Some(schema) = given.first().map(|delta| delta.rows.schema()) else {
            return Ok(Closed { results: RecordBatch::new_empty(self.flow.results()), failed });
        };
        let delta = Delta::concat(&schema, given)?;
        let Output { batch, origin, rejects, .. } = self.above.process(0, &delta.rows);
        failed.extend(rejects.into_iter().map(|Reject { row, class, message }| Failed {
            rows: delta.rows.slice(row, 1),
            class,
            message,
        }));
        let delta = delta.from(batch, &origin);
        let results = match &self.flow.identity {
            Some(identity) => upserts::of(&delta, identity)?,
            None => delta.rows,
        };
        Ok(Closed { results, failed })
    }

    fn stores(&self) -> Vec<&Store> {
        let latest = self.latest.iter().map(Latest::store);
        let nodes = self.nodes.iter().flat_map(|works| match works {
            Works::Steps(_) | Works::Union => Vec::new(),
            Works::Join(join) => join.stores().iter().collect(),
            Works::Aggregate(aggregate) => vec![aggregate.store()],
            Works::Groups(groups) => vec![groups.store()],
        });
        latest.chain(nodes).collect()
    }

    fn stores_mut(&mut self) -> Vec<&mut Store> {
        let latest = self.latest.iter_mut().map(Latest::store_mut);
        let nodes = self.nodes.iter_mut().flat_map(|works| match works {
            Works::Steps(_) | Works::Union => Vec::new(),
            Works::Join(join) => join.stores_mut().iter_mut().collect(),
            Works::Aggregate(aggregate) => vec![aggregate.store_mut()],
            Works::Groups(groups) => vec![groups.store_mut()],
        });
        latest.chain(nodes).collect()
    }
}

impl State for Changes {
    fn keeps(&self) -> &[String] {
        &self.keeps
    }

    /// Before when rows come too late, by join and side.
    fn closed(&self) -> Option<String> {
        let joins = self.nodes.iter().zip(&self.late).filter(|(works, _)| matches!(works, Works::Join(_)));
        let late: Vec<String> = joins.flat_map(|(_, late)| late.iter()).map(Micros::to_string).collect();
        (!late.is_empty()).then(|| late.join(" "))
    }

    fn fresh(&mut self) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        for (number, store) in self.stores_mut().into_iter().enumerate() {
            chunks.extend(store.fresh()?.into_iter().map(|(said, rows)| Chunk { leaf: leaf_of(number, said), rows }));
        }
        Ok(chunks)
    }

    fn pieces(&self, rows: usize) -> VecDeque<Piece> {
        let stores = self.stores().into_iter().enumerate();
        let pieces = |(number, store): (usize, &Store)| {
            store.stretches(rows).into_iter().map(move |numbers| Piece::Numbers(number, numbers))
        };
        stores.flat_map(pieces).collect()
    }

    fn still_kept(&self, piece: Piece) -> Result<Option<Chunk>> {
        let Piece::Numbers(number, numbers) = piece else { return Ok(None) };
        let rows = match self.stores().get(number) {
            Some(store) => store.kept(numbers)?,
            None => None,
        };
        Ok(rows.map(|rows| Chunk { leaf: leaf_of(number, Said::Kept), rows }))
    }

    fn restore(&mut self, closed: Option<&str>, chunks: Vec<Chunk>) -> Result<()> {
        let mut of_stores: Vec<Vec<(Said, RecordBatch)>> = self.stores().iter().map(|_| Vec::new()).collect();
        for Chunk { leaf, rows } in chunks {
            let said = Said::ALL.get(leaf % Said::ALL.len()).copied();
            if let (Some(store), Some(said)) = (of_stores.get_mut(leaf / Said::ALL.len()), said) {
                store.push((said, rows));
            }
        }
        for (store, said) in self.stores_mut().into_iter().zip(of_stores) {
            store.restore(said)?;
        }
        let mut times = closed.into_iter().flat_map(|late| late.split(' ')).map_while(|time| time.parse().ok());
        let joins = self.nodes.iter().zip(&mut self.late).filter(|(works, _)| matches!(works, Works::Join(_)));
        joins.flat_map(|(_, late)| late.iter_mut()).for_each(|late| *late = times.next().unwrap_or(Micros::MIN));
        Ok(())
    }

    fn shown(&mut self) -> Result<Vec<RecordBatch>> {
        Ok(self.stores().into_iter().map(Store::all).collect::<Result<_, _>>()?)
    }

    fn rows(&self) -> usize {
        self.stores().into_iter().map(Store::len).sum()
    }

    fn bytes(&self) -> usize {
        self.stores().into_iter().map(Store::bytes).sum()
    }
}

/// What a chunk says that it is of.
fn leaf_of(store: usize, said: Said) -> usize {
    store * Said::ALL.len() + Said::ALL.iter().position(|it| *it == said).unwrap_or_default()
}

/// What becomes of rows none of which fails.
struct Taken {
    /// By source.
    deltas: Vec<Delta>,
    /// Rows that are late, ascending.
    late: Vec<u32>,
    /// Rows that no source has anything of.
    left_out: Vec<u32>,
}
