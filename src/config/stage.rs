//! `[stages.NAME]`

use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::connectors::{sink, source};
use super::cursor::{Table, Value};
use super::decode::{check_topic_word, duration_of, retention, size_of};
use super::fault::Fault;
use super::slo::slo;
use super::spec::{
    Column, Event, EventTime, Format, Input, LineFormat, LineSink, LineSource, MAX_PARTITIONS, Output, Sink, Source,
    Spanned, Sql, Stage, Work,
};
use super::units::{is_event_name, to_event_name};

/// The most memory that can be asked for: more than any machine has.
const MAX_STATE_BYTES: u64 = 1 << 50;

/// What of a stage could not be made out, so that nothing is held against whoever leans on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hole {
    /// What it does; what stands there instead is made up.
    pub work: bool,
    /// Who feeds it.
    pub from: bool,
    /// The contract of its results.
    pub schema: bool,
}

/// The stage, and what of it could not be made out.
pub(super) fn stage(name: Spanned<String>, value: &Value, dir: &Path) -> (Stage, Hole) {
    let title = format!("stage `{}`", name.value);
    check_topic_word(value.document, "the name of a stage", &name);
    let Some(table) = value.clone().named(&title).table(&title, "write it as a table: [stages.NAME]") else {
        return (blank(name), Hole { work: true, from: true, schema: true });
    };
    let work = work(&table, &title, dir);
    let from = from(&table, &title);
    if table.get("sink").is_some() {
        refuse_results(&table);
    }
    let schema = schema(&table, &title);
    let hole = Hole { work: work.is_none(), from: from.is_none(), schema: schema.is_none() };
    let stage = Stage {
        work: work.unwrap_or_else(|| stand_in(&table)),
        from: from.unwrap_or_default(),
        schema: schema.unwrap_or_default(),
        event_time: table.get("event_time").and_then(|value| event_time(&value)),
        corrects_for: corrects_for(&table),
        emits_early: table.get("emit").and_then(|value| {
            let early = value.choice(&[("on_close", false), ("on_update", true)])?;
            early.then(|| Spanned::new((), value.span()))
        }),
        state_limit: table.get("state_limit").and_then(|value| {
            let bytes = size_of(&value, MAX_STATE_BYTES)?;
            Some(Spanned::new(bytes, value.span()))
        }),
        state_ttl: table.get("state_ttl").and_then(|value| Some(Spanned::new(duration_of(&value)?, value.span()))),
        key: table.get("key").and_then(|value| names(&value, "key = [\"origin\"]")).unwrap_or_default(),
        partitions: table.get("partitions").and_then(|value| partitions(&value)),
        events: table.get("events").map(|value| events(&value)).unwrap_or_default(),
        format: table.get("format").and_then(|value| format(&value)).unwrap_or_default(),
        retention: table.get("retention").and_then(|value| retention(&value)),
        slo: table.get("slo").and_then(|value| slo(&value)),
        name,
    };
    table.finish();
    (stage, hole)
}

/// A stage of which nothing but the name is known.
fn blank(name: Spanned<String>) -> Stage {
    Stage {
        name,
        from: Vec::new(),
        work: Work::Sql(nothing()),
        schema: Vec::new(),
        event_time: None,
        corrects_for: None,
        emits_early: None,
        state_limit: None,
        state_ttl: None,
        key: Vec::new(),
        partitions: None,
        events: Vec::new(),
        format: Format::default(),
        retention: None,
        slo: None,
    }
}

/// Work of the kind that the stage seems to do, in place of what could not be made out.
fn stand_in(table: &Table) -> Work {
    if table.get("source").is_some() {
        let source = LineSource { input: Input::Stdin, format: LineFormat::Ndjson, null: None, max_row_bytes: 0 };
        Work::Source(Spanned::new(Source::Lines(source), 0..0))
    } else if table.get("sink").is_some() {
        let sink = LineSink { output: Output::Stdout, format: LineFormat::Ndjson };
        Work::Sink(Spanned::new(Sink::Lines(sink), 0..0))
    } else {
        Work::Sql(nothing())
    }
}

fn nothing() -> Sql {
    Sql { text: String::new(), span: 0..0, from_env: false }
}

/// `source`, `sql` or `sink`, and that there is one of them.
fn work(table: &Table, title: &str, dir: &Path) -> Option<Work> {
    let present: Vec<&'static str> =
        ["source", "sql", "sink"].into_iter().filter(|key| table.get(key).is_some()).collect();
    match present.as_slice() {
        [] => {
            let fault = Fault::new(table.span.clone(), format!("{title} has none of `source`, `sql` and `sink`"));
            table.document.missing(fault.label("does nothing").help("a stage does one of the three"));
        }
        [_] => {}
        [first, others @ ..] => {
            for other in others {
                let span = table.key_span(other).unwrap_or_default();
                let fault = Fault::new(span, format!("{title} has `{other}` beside `{first}`"));
                let help = "a stage does one thing: make it two stages, chained by `from`";
                table.document.fault(fault.label("one too many").help(help));
            }
        }
    }
    let source = table.get("source").map(|value| (value.span(), source(&value, dir)));
    let sql = table.get("sql").map(|value| sql_text(&value));
    let sink = table.get("sink").map(|value| (value.span(), sink(&value, dir)));
    match (source, sql, sink) {
        (Some((span, source)), None, None) => Some(Work::Source(Spanned::new(source?, span))),
        (None, Some(sql), None) => Some(Work::Sql(sql?)),
        (None, None, Some((span, sink))) => Some(Work::Sink(Spanned::new(sink?, span))),
        _ => None,
    }
}

/// `from = ["NAME", …]`; `None` if it could not be made out.
fn from(table: &Table, title: &str) -> Option<Vec<Spanned<String>>> {
    let is_source = table.get("source").is_some();
    let takes_rows = table.get("sql").is_some() || table.get("sink").is_some();
    let example = "from = [\"departures\"]";
    let Some(value) = table.get("from") else {
        if takes_rows && !is_source {
            let fault = Fault::new(table.span.clone(), format!("{title} has no `from`"));
            table
                .document
                .missing(fault.label("takes rows from nowhere").help(format!("name its predecessors: {example}")));
            return None;
        }
        return Some(Vec::new());
    };
    if is_source && !takes_rows {
        let span = table.key_span("from").unwrap_or_default();
        let fault = Fault::new(span, format!("{title} is a source, so it has no `from`"));
        table.document.fault(fault.help("leave it out, or make it an `sql` stage"));
        return None;
    }
    let from = names(&value, example)?;
    if from.is_empty() {
        value.fault("is empty", &format!("name its predecessors: {example}"));
        return None;
    }
    for (index, name) in from.iter().enumerate() {
        if from.iter().take(index).any(|earlier| earlier.value == name.value) {
            let fault = Fault::new(name.span.clone(), format!("{title} names a predecessor twice"));
            table.document.fault(fault.label("the second time").help("leave out one of them"));
        }
    }
    Some(from)
}

/// An array of names; `None` if any of them could not be made out.
pub(super) fn names(value: &Value, example: &str) -> Option<Vec<Spanned<String>>> {
    let help = format!("write it as {example}");
    let values = value.array(&help)?;
    let names: Vec<_> = values.iter().map(|value| value.string(&help)).collect();
    names.into_iter().collect()
}

/// Notes what a sink cannot have, since it has no results.
fn refuse_results(table: &Table) {
    for key in [
        "schema",
        "event_time",
        "late",
        "correct_for",
        "emit",
        "state_limit",
        "state_ttl",
        "key",
        "partitions",
        "events",
        "format",
    ] {
        if table.get(key).is_some() {
            let span = table.key_span(key).unwrap_or_default();
            let fault = Fault::new(span, format!("a sink has no results, so it has no `{key}`"));
            let help = match key {
                "format" => "the format of what it writes goes inside: sink = { format = … }",
                "key" => "give it to the stage before; where the sink is a topic, it goes inside: sink = { key = … }",
                _ => "give it to the stage before",
            };
            table.document.fault(fault.help(help));
        }
    }
}

/// `[stages.NAME.schema]`; `None` if it could not be made out.
fn schema(table: &Table, title: &str) -> Option<Vec<Column>> {
    let help = "write it as a table of columns: time_hour = \"timestamp not null\"";
    let Some(value) = table.get("schema") else {
        if table.get("source").is_none() || is_nexmark(table) {
            return Some(Vec::new());
        }
        let fault = Fault::new(table.span.clone(), format!("{title} is a source without a `schema`"));
        let help = "declare what its rows are: [stages.NAME.schema], column = \"type\"";
        table.document.missing(fault.label("no contract").help(help));
        return None;
    };
    if is_nexmark(table) {
        value.fault("is known: an event of Nexmark has columns of its own", "leave it out");
    }
    let entries = value.table("`schema`", help)?.entries();
    if entries.is_empty() {
        value.fault("has no columns", help);
        return None;
    }
    let columns = entries.into_iter().map(|(name, value)| {
        let value = value.clone().named(format!("the type of `{}`", name.value));
        Some(Column { sql_type: sql_text(&value)?, name })
    });
    let columns: Vec<_> = columns.collect();
    columns.into_iter().collect()
}

/// Whether its rows are events of Nexmark, whatever else may be wrong with it.
fn is_nexmark(table: &Table) -> bool {
    let is_kind = |source: &Value| match source.raw() {
        DeValue::Table(source) => source.get("kind").is_some_and(|kind| kind.get_ref().as_str() == Some("nexmark")),
        _ => false,
    };
    table.get("source").as_ref().is_some_and(is_kind)
}

/// `event_time = { column = "…", out_of_orderness = "24h", idle_after = "1m" }`
fn event_time(value: &Value) -> Option<EventTime> {
    let table = value.table("`event_time`", "write it as { column = \"…\", out_of_orderness = \"24h\" }")?;
    let help = "the column that says when the event of a row happened";
    let column = table.need("column", help).and_then(|value| value.string(help));
    let out_of_orderness = table.get("out_of_orderness").and_then(|value| duration_of(&value)).unwrap_or_default();
    let idle_after = table.get("idle_after").and_then(|value| duration_of(&value));
    table.finish();
    Some(EventTime { column: column?, out_of_orderness, idle_after })
}

/// `late = "correct"` with `correct_for = "1d"`
fn corrects_for(table: &Table) -> Option<Spanned<Duration>> {
    let late = table.get("late");
    let corrects = late.as_ref().and_then(|late| late.choice(&[("dead-letter", false), ("correct", true)]));
    let duration = table.get("correct_for").map(|value| (duration_of(&value), value.span()));
    match (corrects, duration) {
        (Some(true), None) => {
            let span = late.map(|late| late.span()).unwrap_or_default();
            let fault = Fault::new(span, "windows that can be corrected for ever would be kept for ever");
            table.document.fault(fault.help("say for how long in event time: correct_for = \"1d\""));
            None
        }
        (Some(true), Some((duration, span))) => Some(Spanned::new(duration?, span)),
        (_, Some((_, span))) => {
            let fault = Fault::new(span, "late rows are dead letters, and no window is corrected");
            table.document.fault(fault.help("add late = \"correct\", or leave it out"));
            None
        }
        _ => None,
    }
}

fn partitions(value: &Value) -> Option<Spanned<u32>> {
    let number = value.integer(1, MAX_PARTITIONS.into())?;
    Some(Spanned::new(u32::try_from(number).ok()?, value.span()))
}

/// `[stages.NAME.events]`
fn events(value: &Value) -> Vec<Event> {
    let help = "write it as a table: SevereDelay = \"SELECT …\"";
    let entries = value.table("`events`", help).map(|table| table.entries()).unwrap_or_default();
    let events = entries.into_iter().filter_map(|(name, value)| {
        if !is_event_name(&name.value) {
            let fault = Fault::new(name.span.clone(), format!("`{}` cannot be the type of an event", name.value))
                .label("a capital letter, then letters and digits");
            let proposal = to_event_name(&name.value).map(|name| format!("`{name}` would do"));
            value.document.fault(fault.maybe_help(proposal));
        }
        Some(Event { sql: sql_text(&value)?, name })
    });
    events.collect()
}

fn format(value: &Value) -> Option<Format> {
    value.choice(&[("arrow", Format::Arrow), ("json", Format::Json)])
}

/// A string that is SQL.
fn sql_text(value: &Value) -> Option<Sql> {
    let help = match value.raw() {
        DeValue::Table(_) | DeValue::Array(_) => "write it between triple quotes if it is long: \"\"\" … \"\"\"",
        _ => "write it in quotes",
    };
    let text = value.string(help)?;
    if text.value.trim().is_empty() {
        value.fault("is empty", "write SQL here");
        return None;
    }
    Some(Sql { text: text.value, span: text.span, from_env: text.from_env })
}
