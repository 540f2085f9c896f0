//! The document as a whole: `[pipeline]`, `[bus]`, and the order of everything else.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, Error as TomlError};

use super::cursor::{Document, Syntax, Table, Value};
use super::fault::{Fault, tidy};

use super::spec::{Bus, Embedded, Pipeline, Retention, Spanned, Stage, Sync};
use super::stage::{self, Hole};
use super::text::{Env, Secrets};
use super::units::{duration, is_topic_word, size, to_topic_word};
use super::{Holes, examples, kafka, slo, tracing};

const DURATION: &str = "a number and `ms`, `s`, `m`, `h` or `d`, such as \"24h\"";
const SIZE: &str = "a number and `B`, `KB`, `MB`, `GB`, `TB`, `KiB`, `MiB`, `GiB` or `TiB`, such as \"64MiB\"";
const RETENTION: &str = "write it as { age = \"7d\", bytes = \"1GB\" }, or leave out either of them";
pub(super) const DEFAULT_RETENTION: Retention = Retention { age: Some(Duration::from_secs(7 * 86_400)), bytes: None };

#[derive(Clone, Copy)]
enum Kind {
    Embedded,
    Kafka,
}

const KINDS: &[(&str, Kind)] = &[("embedded", Kind::Embedded), ("kafka", Kind::Kafka)];

/// As much of a pipeline as could be made out, and all that is wrong with the rest.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The pipeline; where there are faults, what could not be made out is left out or made up.
    pub pipeline: Pipeline,
    /// What is wrong, in the order of the file.
    pub faults: Vec<Fault>,
    /// What is missing of stages.
    pub(crate) holes: Holes,
    /// Whether the text was sound TOML, so that nothing is missing unseen.
    pub(crate) sound: bool,
}

impl Draft {
    /// Reads as much of a pipeline as there is; parameters as of [`Pipeline::parse`].
    pub fn parse(text: &str, file: &str, dir: &Path, env: &Env) -> Draft {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Document::new(text, env, syntax(text, &errors));
        let root = Table::new(&document, root.get_ref(), 0..0, "a pipeline file");

        let (company, namespace) = identity(&root);
        let bus = bus(root.get("bus"), dir);
        let slo = root.get("slo").and_then(|value| slo::slo(&value));
        let tracing = root.get("tracing").and_then(|value| tracing::tracing(&value));
        let (stages, holes) = stages(root.get("stages"), dir);
        let tests = examples::tests(root.get("tests"));
        root.finish();

        let sound = document.sound;
        Draft {
            pipeline: Pipeline {
                company,
                namespace,
                bus,
                slo,
                tracing,
                stages,
                tests,
                dir: dir.to_owned(),
                text: text.into(),
                file: file.into(),
                secrets: Secrets::of(text, env),
            },
            faults: tidy(text, document.into_faults()),
            holes,
            sound,
        }
    }
}

/// What the TOML parser found. A table that is there twice is one fault, not one more for each of its keys.
fn syntax(text: &str, errors: &[TomlError]) -> Syntax {
    let mut found = Syntax::default();
    let mut repeated: Range<usize> = 0..0;
    let mut errors: Vec<&TomlError> = errors.iter().collect();
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let unclosed = unclosed(&errors);
    for (index, error) in errors.iter().enumerate() {
        let span = error.span().unwrap_or(0..0);
        if unclosed == Some(index) {
            // What follows is read as part of the bracket, and nothing that is said about it is of use.
            found.doubtful.push(span.start..=text.len());
            found.faults.push(Fault::new(span, "a bracket is not closed before this").label("not TOML"));
            break;
        }
        if error.message() != "duplicate key" {
            found.doubtful.push(span.start..=span.end);
            found.faults.push(Fault::new(span, error.message()).label("not TOML"));
        } else if !repeated.contains(&span.start) {
            let (table, fault) = duplicate(text, span);
            found.faults.push(fault);
            if let Some(table) = table {
                found.doubtful.push(table.start..=table.end);
                repeated = table;
            }
        }
    }
    found
}

/// The error at which the parser first stumbled over a bracket that is never closed.
fn unclosed(errors: &[&TomlError]) -> Option<usize> {
    let never_closed = errors.iter().any(|error| error.message().starts_with("unclosed"));
    never_closed.then(|| errors.iter().position(|error| error.message().starts_with("missing comma")))?
}

/// The fault of a key that is there twice and, if it is that of a table with a header, the part of the text that
/// belongs to the table.
fn duplicate(text: &str, span: Range<usize>) -> (Option<Range<usize>>, Fault) {
    let name = text.get(span.clone()).unwrap_or_default();
    let line_start = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let before = text.get(line_start..span.start).unwrap_or_default().trim();
    let rest = text.get(span.end..).unwrap_or_default();
    let table = before.starts_with('[').then(|| span.end..span.end + rest.find("\n[").unwrap_or(rest.len()));
    let fault = if before == "[stages." && rest.trim_start().starts_with(']') {
        Fault::new(span, format!("there are two stages of the name `{name}`, and both would own its topics"))
            .label("the second one")
            .help("a topic has one owner: give each stage a name of its own")
    } else {
        Fault::new(span, format!("`{name}` is there twice")).label("the second one").help("leave out one of them")
    };
    (table, fault)
}

/// `[pipeline]`
fn identity(root: &Table) -> (Spanned<String>, Spanned<String>) {
    let nothing = || Spanned::new(String::new(), 0..0);
    let help = "begin the file with [pipeline], company = \"…\" and namespace = \"…\"";
    let value = root.get("pipeline");
    if value.is_none() {
        root.document.missing(Fault::new(0..0, "the file has no [pipeline]").help(help));
    }
    let table = value.and_then(|value| value.table("`[pipeline]`", help));
    let Some(table) = table else { return (nothing(), nothing()) };
    let word = |key, help| {
        let value: Value = table.need(key, help)?;
        let text = value.string(help)?;
        check_topic_word(table.document, &format!("`{key}`"), &text);
        Some(text)
    };
    let company = word("company", "the first part of every topic's name");
    let namespace = word("namespace", "the second part of every topic's name");
    table.finish();
    (company.unwrap_or_else(nothing), namespace.unwrap_or_else(nothing))
}

/// Notes a fault if the text cannot be part of a topic's name.
pub(super) fn check_topic_word(document: &Document, what: &str, text: &Spanned<String>) {
    if is_topic_word(&text.value) {
        return;
    }
    let fault = Fault::new(text.span.clone(), format!("{what} cannot be part of a topic's name"))
        .label("a small letter, then small letters, digits and `-`");
    let proposal = if text.from_env { None } else { to_topic_word(&text.value) };
    document.fault(fault.maybe_help(proposal.map(|word| format!("`{word}` would do"))));
}

/// `[bus]`
fn bus(value: Option<Value>, dir: &Path) -> Bus {
    let embedded = Embedded { data_dir: dir.join("data"), sync: Sync::Commit, retention: DEFAULT_RETENTION };
    let Some(table) = value.and_then(|value| value.table("`[bus]`", "write it as a table: [bus]")) else {
        return Bus::Embedded(embedded);
    };
    let kind = table.get("kind").map_or(Some(Kind::Embedded), |value| value.choice(KINDS));
    let bus = match kind {
        Some(Kind::Embedded) => Bus::Embedded(self::embedded(&table, embedded, dir)),
        Some(Kind::Kafka) => kafka::kafka(&table).map_or(Bus::Embedded(embedded), Bus::Kafka),
        // Of which kind the other keys are is not known.
        None => return Bus::Embedded(embedded),
    };
    table.finish();
    bus
}

/// What is particular to `kind = "embedded"`.
fn embedded(table: &Table, mut bus: Embedded, dir: &Path) -> Embedded {
    if let Some(data_dir) = table.get("data_dir").and_then(|value| path(&value, dir)) {
        bus.data_dir = data_dir;
    }
    if let Some(sync) = table.get("sync").and_then(|value| sync(&value)) {
        bus.sync = sync;
    }
    if let Some(retention) = table.get("retention").and_then(|value| retention(&value)) {
        bus.retention = retention;
    }
    bus
}

/// `sync = "commit"`
fn sync(value: &Value) -> Option<Sync> {
    let help = "\"commit\", \"never\", or an interval such as \"100ms\"";
    value.parsed(help, |text| match text {
        "commit" => Some(Sync::Commit),
        "never" => Some(Sync::Never),
        _ => duration(text).filter(|interval| !interval.is_zero()).map(Sync::Every),
    })
}

/// `retention = { age = "7d", bytes = "1GB" }`
pub(super) fn retention(value: &Value) -> Option<Retention> {
    let table = value.table("`retention`", RETENTION)?;
    let age = table.get("age").map(|value| duration_of(&value));
    let bytes = table.get("bytes").map(|value| size_of(&value, u64::MAX));
    table.finish();
    Some(Retention { age: age.flatten(), bytes: bytes.flatten() })
}

/// A duration.
pub(super) fn duration_of(value: &Value) -> Option<Duration> {
    value.parsed(DURATION, duration)
}

/// A number of bytes, at least one.
pub(super) fn size_of(value: &Value, max: u64) -> Option<u64> {
    let bytes = match value.raw() {
        toml::de::DeValue::Integer(_) => return value.integer(1, max),
        _ => value.parsed(SIZE, size)?,
    };
    let fits = (1..=max).contains(&bytes);
    if !fits {
        value.fault("is out of range", &format!("from 1 to {max} bytes"));
    }
    fits.then_some(bytes)
}

/// A path, relative to the folder of the file.
pub(super) fn path(value: &Value, dir: &Path) -> Option<PathBuf> {
    let help = "a path, relative to the folder of this file";
    value.parsed(help, |text| (!text.is_empty()).then(|| dir.join(text)))
}

/// `[stages]`
fn stages(value: Option<Value>, dir: &Path) -> (Vec<Stage>, Holes) {
    let help = "give each stage a table of its own: [stages.NAME]";
    let mut stages = Vec::new();
    let mut holes = Holes::new();
    let Some(table) = value.and_then(|value| value.table("`[stages]`", help)) else {
        return (stages, holes);
    };
    for (name, value) in table.entries() {
        let (stage, hole) = stage::stage(name, &value, dir);
        if hole != Hole::default() {
            holes.insert(stage.name.value.clone(), hole);
        }
        stages.push(stage);
    }
    (stages, holes)
}
