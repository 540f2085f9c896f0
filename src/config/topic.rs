//! `source = { kind = "topic", … }` and `sink = { kind = "topic", … }`: topics of others.

use super::cursor::{Table, Value};
use super::fault::Fault;
use super::spec::{MAX_PARTITIONS, Part, Spanned, TopicSink, TopicSource};
use super::stage::names;

/// The longest name that a topic can have on the buses there are.
const MAX_NAME: usize = 249;

/// The parts of a message that can be columns.
const PARTS: [(&str, Part); 6] = [
    ("key", Part::Key),
    ("headers", Part::Headers),
    ("timestamp", Part::Timestamp),
    ("partition", Part::Partition),
    ("offset", Part::Offset),
    ("tombstone", Part::Tombstone),
];

/// What is particular to a source of that kind.
pub(super) fn source(table: &Table) -> Option<TopicSource> {
    let topic = name(table);
    let format = format(table);
    let columns = table.get("columns").map(|value| columns(&value)).unwrap_or_default();
    let follow = table.get("follow").and_then(|value| value.boolean()).unwrap_or(true);
    format?;
    Some(TopicSource { topic: topic?, columns, follow })
}

/// What is particular to a sink of that kind.
pub(super) fn sink(table: &Table) -> Option<TopicSink> {
    let topic = name(table);
    let format = format(table);
    let key = table.get("key").map_or(Some(Vec::new()), |value| names(&value, "key = [\"customer\"]"));
    let tombstone =
        table.get("tombstone").and_then(|value| value.string("the column that says where there is no value"));
    if let (Some(column), Some([])) = (&tombstone, key.as_deref()) {
        let fault = Fault::new(column.span.clone(), "a tombstone is about a key, and the messages have none");
        table.document.fault(fault.help("say which columns make the key: key = [\"customer\"]"));
    }
    let partitions = table.get("partitions").and_then(|value| value.integer(1, MAX_PARTITIONS.into()));
    let partitions = partitions.and_then(|number| u32::try_from(number).ok());
    format?;
    Some(TopicSink { topic: topic?, key: key?, tombstone, partitions })
}

/// `topic = "…"`
fn name(table: &Table) -> Option<Spanned<String>> {
    let help = "the full name of a topic that is not this pipeline's";
    let value = table.need("topic", help)?;
    let name = value.string(help)?;
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = !name.value.is_empty() && name.value.len() <= MAX_NAME && name.value.chars().all(is_good);
    if !fits || matches!(name.value.as_str(), "." | "..") {
        let help = format!("letters, digits, `.`, `_` and `-`, {MAX_NAME} at most");
        value.fault("cannot be the name of a topic", &help);
        return None;
    }
    Some(name)
}

/// `format = "json"`, which is the only one there is.
fn format(table: &Table) -> Option<()> {
    table.get("format").map_or(Some(()), |value| value.choice(&[("json", ())]))
}

/// `columns = { key = "…", … }`
fn columns(value: &Value) -> Vec<(Part, Spanned<String>)> {
    let help = "write it as { key = \"…\", timestamp = \"…\" }, with columns of the schema";
    let Some(table) = value.table("`columns`", help) else { return Vec::new() };
    let column = |(name, part): (&'static str, Part)| Some((part, table.get(name)?.string("a column of the schema")?));
    let columns = PARTS.into_iter().filter_map(column).collect();
    table.finish();
    columns
}
