//! `source = { … }` and `sink = { … }`

use std::path::{Path, PathBuf};

use super::cursor::{Table, Value};
use super::decode::{path, size_of};
use super::fault::Fault;
use super::spec::{
    Compression, Input, LineFormat, LineSink, LineSource, NexmarkEvent, NexmarkSource, Output, Sink, Source,
};
use super::topic;

const MAX_ROW_BYTES: u64 = 1 << 30;
const DEFAULT_ROW_BYTES: usize = 64 << 20;
/// So many that none has a number which is too large for a column.
const MAX_EVENTS: u64 = 1 << 60;
const MAX_RATE: u64 = 1_000_000_000;

#[derive(Clone, Copy)]
enum SourceKind {
    File,
    Stdin,
    Topic,
    Nexmark,
}

#[derive(Clone, Copy)]
enum SinkKind {
    File,
    Stdout,
    Topic,
}

/// `source = { … }`; `None` if it could not be made out.
pub(super) fn source(value: &Value, dir: &Path) -> Option<Source> {
    let help = "write it as { kind = \"file\", path = \"…\" }";
    let table = value.table("`source`", help)?;
    let kind = table.need("kind", "\"file\", \"stdin\", \"topic\" or \"nexmark\"");
    let kinds = [
        ("file", SourceKind::File),
        ("stdin", SourceKind::Stdin),
        ("topic", SourceKind::Topic),
        ("nexmark", SourceKind::Nexmark),
    ];
    let source = match kind?.choice(&kinds)? {
        SourceKind::File => lines(&table, file_input(&table, dir)).map(Source::Lines),
        SourceKind::Stdin => lines(&table, Some(Input::Stdin)).map(Source::Lines),
        SourceKind::Topic => topic::source(&table).map(Source::Topic),
        SourceKind::Nexmark => nexmark(&table).map(Source::Nexmark),
    };
    table.finish();
    source
}

/// What is particular to `kind = "nexmark"`.
fn nexmark(table: &Table) -> Option<NexmarkSource> {
    let kinds = [("person", NexmarkEvent::Person), ("auction", NexmarkEvent::Auction), ("bid", NexmarkEvent::Bid)];
    let event = table.need("event", "\"person\", \"auction\" or \"bid\"").and_then(|value| value.choice(&kinds));
    let events = table.get("events").map(|value| value.integer(1, MAX_EVENTS));
    let rate = table.get("rate").map(|value| value.integer(1, MAX_RATE));
    if events.is_none() && rate.is_none() {
        let fault = Fault::new(table.span.clone(), "events without an end would come as fast as they can");
        let help = "say how many there are, events = 1000000, or how many in a second, rate = 1000";
        table.document.fault(fault.help(help));
    }
    let whole = |number: Option<Option<u64>>| number.map_or(Some(None), |number| number.map(Some));
    Some(NexmarkSource {
        event: event?,
        events: whole(events)?,
        rate: whole(rate)?.and_then(|rate| u32::try_from(rate).ok()),
    })
}

/// A source of lines, of which it is known where they are from.
fn lines(table: &Table, input: Option<Input>) -> Option<LineSource> {
    let name = match &input {
        Some(Input::File { path, .. }) => Some(path.as_path()),
        _ => None,
    };
    let sure = input.is_some();
    let format = line_format(table, name, sure && name.is_none());
    let null = null(table, format);
    let max_row_bytes = table.get("max_row_bytes").and_then(|value| size_of(&value, MAX_ROW_BYTES));
    let max_row_bytes = max_row_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(DEFAULT_ROW_BYTES);
    Some(LineSource { input: input?, format: format?, null, max_row_bytes })
}

/// What is particular to `kind = "file"`.
fn file_input(table: &Table, dir: &Path) -> Option<Input> {
    let file = table.need("path", "a path or a pattern, relative to the folder of this file");
    let path = file.as_ref().and_then(|value| path(value, dir));
    if let (Some(value), Some(path)) = (&file, &path)
        && glob::Pattern::new(&path.to_string_lossy()).is_err()
    {
        value.fault("is no pattern", "`*`, `?`, `[…]` and, between slashes, `**` stand for what can vary");
    }
    let compression = table.get("compression").and_then(|value| {
        value.choice(&[("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)])
    });
    let follow = table.get("follow").and_then(|value| value.boolean()).unwrap_or(false);
    Some(Input::File { path: path?, compression, follow })
}

/// `null = "NA"`
fn null(table: &Table, format: Option<LineFormat>) -> Option<String> {
    let value = table.get("null")?;
    let null = value.string("the text that stands for null")?;
    if format == Some(LineFormat::Ndjson) {
        value.fault("is for CSV, and this is NDJSON", "leave it out: JSON has a null of its own");
    }
    Some(null.value)
}

/// `sink = { … }`; `None` if it could not be made out.
pub(super) fn sink(value: &Value, dir: &Path) -> Option<Sink> {
    let help = "write it as { kind = \"file\", path = \"…\" }";
    let table = value.table("`sink`", help)?;
    let kind = table.need("kind", "\"file\", \"stdout\" or \"topic\"");
    let kinds = [("file", SinkKind::File), ("stdout", SinkKind::Stdout), ("topic", SinkKind::Topic)];
    let sink = match kind?.choice(&kinds)? {
        SinkKind::File => file(&table, dir).map(Sink::Lines),
        SinkKind::Stdout => {
            line_format(&table, None, true).map(|format| Sink::Lines(LineSink { output: Output::Stdout, format }))
        }
        SinkKind::Topic => topic::sink(&table).map(Sink::Topic),
    };
    table.finish();
    sink
}

/// What is particular to `kind = "file"`.
fn file(table: &Table, dir: &Path) -> Option<LineSink> {
    let path = file_output(table, dir);
    let format = line_format(table, path.as_deref(), false);
    Some(LineSink { output: Output::File { path: path? }, format: format? })
}

/// The path of a file that is written.
fn file_output(table: &Table, dir: &Path) -> Option<PathBuf> {
    let value = table.need("path", "a path, relative to the folder of this file")?;
    let path = path(&value, dir)?;
    let text = path.to_string_lossy();
    if without_packing(&text).len() < text.len() {
        value.fault("ends like a packed file, and a sink writes plain text", "leave out the last part of the name");
    }
    let rest = text.replace("{partition}", "");
    if rest.contains(['{', '}']) {
        value.fault("has braces around something else than `{partition}`", "`{partition}` is all that is filled in");
    }
    Some(path)
}

/// `format`, or what the name of the file says, or NDJSON for a stream.
fn line_format(table: &Table, path: Option<&Path>, stream: bool) -> Option<LineFormat> {
    if let Some(value) = table.get("format") {
        return value.choice(&[("ndjson", LineFormat::Ndjson), ("csv", LineFormat::Csv)]);
    }
    if stream {
        return Some(LineFormat::Ndjson);
    }
    let format = format_of(path?);
    if format.is_none()
        && let Some(value) = table.get("path")
    {
        value.fault("does not say what format the file has", "add format = \"ndjson\" or format = \"csv\"");
    }
    format
}

/// The format that a file's name says.
fn format_of(path: &Path) -> Option<LineFormat> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    match without_packing(&name).rsplit_once('.')?.1 {
        "csv" => Some(LineFormat::Csv),
        "ndjson" | "jsonl" | "json" => Some(LineFormat::Ndjson),
        _ => None,
    }
}

fn without_packing(name: &str) -> &str {
    name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_its_format() {
        let format = |name: &str| format_of(Path::new(name));
        assert_eq!(format("a/b.csv"), Some(LineFormat::Csv));
        assert_eq!(format("a/*.NDJSON.gz"), Some(LineFormat::Ndjson));
        assert_eq!(format("b.jsonl.zst"), Some(LineFormat::Ndjson));
        assert_eq!(format("b.gz"), None);
        assert_eq!(format("csv"), None);
    }
}
