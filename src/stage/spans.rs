//! The spans of a task: rows of a trace that is sampled are followed by it, and what is made of them says so.
//!
//! The numbers of traces and spans are made of where rows come from, so a step that is taken again after a crash has the same.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::bus::{Message, Micros};
use crate::stage::origins::{Origins, Rows, SourceRows};
use crate::stage::trace::{self, Context, Traces};
use crate::telemetry::{Span, Tracer};
use crate::topology::Stage;

/// What a task has to do with traces.
pub(super) struct Spans {
    /// `None` where nobody wants to know.
    tracer: Option<Arc<Tracer>>,
    /// The full name of the stage.
    stage: Arc<str>,
    task: u32,
    /// Of how many rows without a trace one begins a trace.
    every: Option<NonZeroU64>,
}

impl Spans {
    pub fn new(tracer: Option<&Arc<Tracer>>, stage: &Stage, task: u32) -> Self {
        // Behind the first stage, rows without a trace are such as were not chosen.
        let every = tracer.and_then(|tracer| tracer.every()).filter(|_| stage.from.is_empty());
        Self { tracer: tracer.cloned(), stage: stage.full_name.clone(), task, every }
    }

    /// Begins spans for rows of sampled traces: what is made of these rows is theirs from now on.
    pub fn enter(&self, rows: &mut [Rows], polled: Micros) -> Vec<Span> {
        let mut spans = Vec::new();
        if self.tracer.is_none() {
            return spans;
        }
        for rows in rows {
            match &mut rows.origins {
                Origins::Source { rows, kept, traces } => {
                    *traces = self.begun(rows, kept.as_deref(), polled, &mut spans);
                }
                Origins::Message { message, traces, .. } if !traces.is_empty() => {
                    let mut entry = Entry::new(self, message, polled);
                    let most = message.record.rows as usize;
                    *traces = std::mem::take(traces).map(most, |rows, context| entry.child(rows, context));
                    spans.extend(entry.spans);
                }
                Origins::Messages(messages) => {
                    messages.iter_mut().for_each(|message| spans.extend(self.of_message(message, polled)));
                }
                Origins::Message { .. } | Origins::Windows { .. } | Origins::Made { .. } => {}
            }
        }
        spans
    }

    /// What these spans are of has become visible.
    pub fn leave(&self, spans: &[Span], visible: Micros) {
        if let Some(tracer) = &self.tracer {
            spans.iter().for_each(|span| tracer.send(span, &self.stage, self.task, visible));
        }
    }

    /// The traces that rows of a source begin.
    fn begun(&self, rows: &SourceRows, kept: Option<&[u32]>, polled: Micros, spans: &mut Vec<Span>) -> Traces {
        let count = rows.block.rows.rows.len() as u64;
        let chosen = self.chosen(&self.task, rows.first, count).map(|number| (number - rows.first) as u32);
        let mut contexts = Vec::new();
        for row in chosen.filter(|row| kept.is_none_or(|kept| kept.binary_search(row).is_ok())) {
            let origin = rows.origin(row as usize);
            let span = Span {
                trace: u128::from(self.number((1, self.task, origin.row))) << 64
                    | u128::from(self.number((2, self.task, origin.row))),
                parent: 0,
                id: self.number((3, self.task, origin.row)),
                from: rows.name.clone(),
                partition: None,
                offset: origin.offset,
                rows: 1,
                begin: polled,
            };
            contexts.push((row as usize, trace::sampled(span.trace, span.id)));
            spans.push(span);
        }
        Traces::of_rows(contexts)
    }

    /// The span of a message of a row, which is of it from then on.
    fn of_message(&self, message: &mut Message, polled: Micros) -> Option<Span> {
        let context = trace::context(&message.record);
        let mut entry = Entry::new(self, message, polled);
        let context = if context.is_empty() {
            let of = (message.partition.topic.as_str(), message.partition.partition);
            self.chosen(&of, message.offset, 1).next()?;
            entry.root()
        } else {
            entry.child(1, &context)
        };
        let span = entry.spans.pop()?;
        message.record.headers = trace::replaced(&message.record.headers, &context);
        Some(span)
    }

    /// Of rows with these numbers those that begin a trace: one in each stretch, in a place that is any.
    fn chosen(&self, of: &impl Hash, first: u64, count: u64) -> impl Iterator<Item = u64> {
        let every = self.every.map(NonZeroU64::get);
        let stretches = every.map(|every| first / every..=(first + count) / every).into_iter().flatten();
        let of = self.number(of);
        stretches.filter_map(move |stretch| {
            let mut place = DefaultHasher::new();
            (of, stretch).hash(&mut place);
            let every = every?;
            let number = stretch * every + place.finish() % every;
            (first..first + count).contains(&number).then_some(number)
        })
    }

    /// A number for something of the stage: not 0, and the same each time.
    fn number(&self, of: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&*self.stage, of).hash(&mut hasher);
        hasher.finish().max(1)
    }
}

/// The spans of a message.
struct Entry<'a> {
    of: &'a Spans,
    from: Arc<str>,
    partition: u32,
    offset: u64,
    begin: Micros,
    spans: Vec<Span>,
    by_id: HashMap<u64, usize>,
}

impl<'a> Entry<'a> {
    fn new(of: &'a Spans, message: &Message, begin: Micros) -> Self {
        let from = message.partition.topic.name();
        let (partition, offset) = (message.partition.partition, message.offset);
        Self { of, from, partition, offset, begin, spans: Vec::new(), by_id: HashMap::new() }
    }

    /// The context of what is made of rows of this one.
    fn child(&mut self, rows: usize, context: &Context) -> Context {
        let Some((trace, parent)) = trace::ids_if_sampled(context) else { return context.clone() };
        let id = self.of.number((trace, parent, &*self.from, self.partition, self.offset));
        match self.by_id.get(&id).and_then(|number| self.spans.get_mut(*number)) {
            Some(span) => span.rows += rows as u64,
            None => self.begin(trace, parent, id, rows),
        }
        trace::with_state(trace::sampled(trace, id), context)
    }

    /// The context of what is made of a row that begins a trace.
    fn root(&mut self) -> Context {
        let number = |part: u8| self.of.number((part, &*self.from, self.partition, self.offset));
        let (trace, id) = (u128::from(number(1)) << 64 | u128::from(number(2)), number(3));
        self.begin(trace, 0, id, 1);
        trace::sampled(trace, id)
    }

    fn begin(&mut self, trace: u128, parent: u64, id: u64, rows: usize) {
        self.by_id.insert(id, self.spans.len());
        let (from, partition) = (self.from.clone(), Some(self.partition));
        let (offset, begin, rows) = (self.offset, self.begin, rows as u64);
        self.spans.push(Span { trace, parent, id, from, partition, offset, rows, begin });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans(every: u64) -> Spans {
        Spans { tracer: None, stage: "acme.shop.orders".into(), task: 0, every: NonZeroU64::new(every) }
    }

    proptest! {
        #[test]
        fn of_each_stretch_of_rows_one_is_chosen_however_rows_are_cut_into_batches(
            every in 1u64..50,
            batches in prop::collection::vec(0u64..100, 0..20),
        ) {
            let (spans, mut first, mut chosen) = (spans(every), 0, Vec::new());
            for rows in batches {
                chosen.extend(spans.chosen(&0, first, rows));
                first += rows;
            }
            let stretches: Vec<u64> = chosen.iter().map(|number| number / every).collect();
            let whole = first / every;
            prop_assert!(stretches.iter().copied().eq(0..stretches.len() as u64));
            prop_assert!(stretches.len() as u64 == whole || stretches.len() as u64 == whole + 1);
        }
    }

    #[test]
    fn nothing_is_chosen_where_nobody_wants_it() {
        assert_eq!(spans(0).chosen(&0, 0, 1000).count(), 0);
    }
}
