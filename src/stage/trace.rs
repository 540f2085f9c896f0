//! W3C trace contexts: what is made of a row belongs to the trace that the row is of.
//!
//! A message of one row has its context as the headers `traceparent` and `tracestate`, and so has one whose rows are all of
//! one trace. Where they are not, a header tells how many rows in a row are of which: `ROWS traceparent tracestate` a line, or
//! `ROWS` alone. Messages whose rows are of no trace have none of these headers, and nothing is done for them.

use crate::bus::{Headers, Record};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Which rows of a message are of which trace, where they are not all of one.
const RUNS: &str = "fidelio-traces";

/// The context of a row as headers; empty if it is of no trace.
pub(super) type Context = Headers;

/// The contexts of the rows of a message, in runs: each with the number of the row after it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Traces(Vec<(usize, Context)>);

impl Traces {
    /// Those of a message's rows.
    pub fn of(record: &Record) -> Self {
        if let Some(runs) = record.headers.get(RUNS) {
            return Self(parse(runs));
        }
        let context = context(record);
        Self(if context.is_empty() { Vec::new() } else { vec![(usize::MAX, context)] })
    }

    /// Those of rows with these numbers, ascending; the others are of none.
    pub fn of_rows(contexts: Vec<(usize, Context)>) -> Self {
        let mut runs: Vec<(usize, Context)> = Vec::with_capacity(2 * contexts.len());
        for (row, context) in contexts {
            if runs.last().map_or(0, |(end, _)| *end) < row {
                runs.push((row, Context::new()));
            }
            runs.push((row + 1, context));
        }
        Self(runs)
    }

    /// The same with other contexts for runs of rows, given how many these are; there are so many rows in all at most.
    pub fn map(mut self, most: usize, mut other: impl FnMut(usize, &Context) -> Context) -> Self {
        let mut begin = 0;
        for (end, context) in &mut self.0 {
            if !context.is_empty() {
                *context = other((*end).min(most).saturating_sub(begin), context);
            }
            begin = *end;
        }
        self
    }

    /// Whether no row is of any trace.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The context of a row.
    pub fn context(&self, row: usize) -> Context {
        let run = self.0.partition_point(|(end, _)| *end <= row);
        self.0.get(run).map(|(_, context)| context.clone()).unwrap_or_default()
    }
}

/// Whether the message is of a trace.
pub(super) fn is_traced(record: &Record) -> bool {
    record.headers.get(PARENT).is_some()
}

/// The context of a message of one row.
pub(super) fn context(record: &Record) -> Context {
    match is_traced(record) {
        true => record.headers.filter(|name| matches!(name, PARENT | STATE)),
        false => Context::new(),
    }
}

/// The headers of a message with this context in place of those that say which of its rows are of which trace.
pub(super) fn replaced(headers: &Headers, context: &Context) -> Headers {
    let others = headers.iter().filter(|(name, _)| !matches!(*name, PARENT | STATE | RUNS));
    others.chain(context.iter()).collect()
}

/// The context of what is of that span of a trace that is sampled.
pub(super) fn sampled(trace: u128, span: u64) -> Context {
    Context::from([(PARENT, format!("00-{trace:032x}-{span:016x}-01"))])
}

/// The context with what another one has for the systems that a trace comes by.
pub(super) fn with_state(context: Context, other: &Context) -> Context {
    context.iter().chain(other.iter().filter(|(name, _)| *name == STATE)).collect()
}

/// The trace and the span that a context is of, if it is one that is sampled.
pub(super) fn ids_if_sampled(context: &Context) -> Option<(u128, u64)> {
    let parent = std::str::from_utf8(context.get(PARENT)?).ok()?;
    let mut parts = parent.trim().splitn(5, '-');
    let mut part = |digits: usize| parts.next().filter(|part| part.len() == digits);
    let version = part(2)?;
    let (trace, span) = (u128::from_str_radix(part(32)?, 16).ok()?, u64::from_str_radix(part(16)?, 16).ok()?);
    let flags = u8::from_str_radix(part(2)?, 16).ok()?;
    (version != "ff" && trace != 0 && span != 0 && flags & 1 == 1).then_some((trace, span))
}

/// What a message says of its rows, of which these are the contexts.
pub(super) fn headers(rows: &[Context]) -> Headers {
    let Some(first) = rows.first() else { return Headers::new() };
    if rows.iter().all(|context| context == first) {
        return first.clone();
    }
    let mut runs = Vec::new();
    for run in rows.chunk_by(|a, b| a == b) {
        runs.extend_from_slice(run.len().to_string().as_bytes());
        let words = [PARENT, STATE].map(|name| run.first().and_then(|context| context.get(name)));
        for word in words.into_iter().flatten().take_while(|word| is_plain(word)) {
            runs.push(b' ');
            runs.extend_from_slice(word);
        }
        runs.push(b'\n');
    }
    Headers::from([(RUNS, runs)])
}

/// Whether the value can stand in a line. One that cannot is not what the specification allows, and is left out.
fn is_plain(value: &[u8]) -> bool {
    value.iter().all(|byte| (b' '..=b'~').contains(byte))
}

fn parse(runs: &[u8]) -> Vec<(usize, Context)> {
    let mut end = 0;
    let mut parsed = Vec::new();
    for line in runs.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let rows = words.next().and_then(|rows| std::str::from_utf8(rows).ok()?.parse::<usize>().ok());
        end += rows.unwrap_or(0);
        parsed.push((end, [PARENT, STATE].into_iter().zip(words).collect()));
    }
    parsed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(trace: Option<(u8, bool)>) -> Context {
        let Some((id, has_state)) = trace else { return Context::new() };
        let parent = (PARENT, format!("00-{id:032x}-00f067aa0ba902b7-01"));
        let state = has_state.then(|| (STATE, "congo=t61rcWkgMzE, rojo=1".to_owned()));
        [parent].into_iter().chain(state).collect()
    }

    proptest! {
        #[test]
        fn each_row_of_a_message_keeps_its_context(traces: Vec<Option<(u8, bool)>>, few: bool) {
            let few = |id: u8| if few { id % 2 } else { id };
            let rows: Vec<Context> =
                traces.iter().map(|trace| context(trace.map(|(id, state)| (few(id), state)))).collect();
            let record = Record { headers: headers(&rows), ..Record::default() };
            let found = Traces::of(&record);
            prop_assert_eq!(found.is_empty(), rows.iter().all(Headers::is_empty));
            for (row, context) in rows.iter().enumerate() {
                prop_assert_eq!(&found.context(row), context);
            }
        }

        #[test]
        fn any_header_is_read_as_something(runs: Vec<u8>, row: u16) {
            let headers = Headers::from([(RUNS, runs)]);
            Traces::of(&Record { headers, ..Record::default() }).context(row.into());
        }
    }

    #[test]
    fn runs_of_rows_get_other_contexts_by_how_many_rows_they_are() {
        let traces = Traces::of_rows(vec![(0, sampled(1, 1)), (3, sampled(2, 1)), (4, sampled(2, 1))]);
        let contexts = |traces: &Traces| (0..6).map(|row| ids_if_sampled(&traces.context(row))).collect::<Vec<_>>();
        assert_eq!(contexts(&traces), [Some((1, 1)), None, None, Some((2, 1)), Some((2, 1)), None]);
        let mut seen = Vec::new();
        let others = traces.map(6, |rows, context| {
            let (trace, span) = ids_if_sampled(context).unwrap();
            seen.push((rows, trace));
            sampled(trace, span + 1)
        });
        assert_eq!(seen, [(1, 1), (1, 2), (1, 2)]);
        assert_eq!(contexts(&others), [Some((1, 2)), None, None, Some((2, 2)), Some((2, 2)), None]);
        let whole = Traces::of(&Record { headers: sampled(7, 7), ..Record::default() });
        whole.map(6, |rows, context| {
            assert_eq!(rows, 6);
            context.clone()
        });
    }

    #[test]
    fn a_context_is_followed_if_it_is_sound_and_sampled() {
        let ids = |parent: &str| ids_if_sampled(&Context::from([(PARENT, parent)]));
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let expected = Some((0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7));
        assert_eq!(ids(&format!("00-{trace}-{span}-01")), expected);
        assert_eq!(ids(&format!("01-{trace}-{span}-03-more")), expected);
        let (no_trace, no_span) = ("0".repeat(32), "0".repeat(16));
        for unsound in [
            format!("00-{trace}-{span}-00"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{no_trace}-{span}-01"),
            format!("00-{trace}-{no_span}-01"),
            format!("00-{trace}-{span}"),
            format!("00-{trace}x-{span}-01"),
            String::new(),
        ] {
            assert_eq!(ids(&unsound), None, "{unsound}");
        }
        assert_eq!(ids_if_sampled(&sampled(7, 8)), Some((7, 8)));
    }

    #[test]
    fn rows_of_one_trace_are_of_it_in_a_way_that_others_understand() {
        let rows = vec![context(Some((7, true))); 3];
        assert_eq!(headers(&rows), rows[0]);
        assert_eq!(headers(&[Context::new(), Context::new()]), Headers::new());
    }

    #[test]
    fn what_cannot_be_a_context_is_left_out() {
        let strange = Headers::from([(PARENT, "a\nb")]);
        let record = Record { headers: headers(&[strange, context(Some((1, false)))]), ..Record::default() };
        let found = Traces::of(&record);
        assert_eq!((found.context(0), found.context(1)), (Context::new(), context(Some((1, false)))));
    }
}
