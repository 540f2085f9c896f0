//! What DataFusion says about a query, in words for the person who wrote it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use datafusion::common::{Column, DataFusionError, SchemaError, Span};
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

use super::Fault;
use super::catalog::{Catalog, UnknownInput};
use super::parse;

/// Everything that the error says is wrong; of it only names that do not exist if `names_only`.
pub(super) fn of_error(error: &DataFusionError, sql: &str, catalog: &Catalog<'_>, names_only: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    collect(error, None, &Context { sql, catalog, names_only }, &mut faults);
    faults
}

/// One fault about the text as a whole.
pub(super) fn of_whole(error: &DataFusionError) -> Fault {
    let (message, help) = words(error);
    Fault { message, span: None, help }
}

/// In the order of the text, each once.
pub(super) fn in_order(mut faults: Vec<Fault>) -> Vec<Fault> {
    faults.sort_by_key(|fault| fault.span.as_ref().map_or((0, 0), |span| (span.start, span.end)));
    faults.dedup();
    faults
}

/// The candidate that looks most like the name, if half of it is right.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase());
    let length = |candidate: &str| name.chars().count().max(candidate.chars().count());
    let near = |candidate: &str| distance(candidate) * 2 <= length(candidate);
    candidates.into_iter().filter(|candidate| near(candidate)).min_by_key(|candidate| distance(candidate))
}

struct Context<'a> {
    sql: &'a str,
    catalog: &'a Catalog<'a>,
    names_only: bool,
}

fn collect(error: &DataFusionError, span: Option<Span>, context: &Context<'_>, faults: &mut Vec<Fault>) {
    match error {
        DataFusionError::Collection(errors) => errors.iter().for_each(|error| collect(error, span, context, faults)),
        DataFusionError::Diagnostic(diagnostic, inner) => collect(inner, diagnostic.span.or(span), context, faults),
        DataFusionError::Context(_, inner) => collect(inner, span, context, faults),
        DataFusionError::Shared(inner) => collect(inner, span, context, faults),
        error => {
            if let Some(fault) = name_fault(error, context) {
                let place = span.and_then(|span| bytes(context.sql, span));
                faults.push(Fault { span: place.or(fault.span), ..fault });
            } else if !context.names_only {
                let (message, help) = words(error);
                faults.push(Fault { message, span: span.and_then(|span| bytes(context.sql, span)), help });
            }
        }
    }
}

/// The fault if the error is about a name that does not exist.
fn name_fault(error: &DataFusionError, context: &Context<'_>) -> Option<Fault> {
    let (message, name, candidates) = match error {
        DataFusionError::SchemaError(inner, _) => match inner.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                // What begins like that is in the query that a call in FROM stands for.
                let names = valid_fields.iter().map(Column::name).filter(|name| !name.starts_with('$'));
                let names: Vec<&str> = names.collect();
                (format!("there is no column `{}`", field.name()), field.name().to_owned(), names)
            }
            _ => return None,
        },
        DataFusionError::External(inner) => {
            let unknown = inner.downcast_ref::<UnknownInput>()?;
            (unknown.to_string(), unknown.0.clone(), context.catalog.inputs())
        }
        DataFusionError::Plan(text) => {
            let name = text.strip_prefix("Invalid function '")?.split('\'').next()?;
            (format!("there is no function `{name}`"), name.to_owned(), context.catalog.functions())
        }
        _ => return None,
    };
    let help = match nearest(&name, candidates.iter().copied()) {
        Some(near) => Some(format!("did you mean `{}`?", quoted(near))),
        None if matches!(error, DataFusionError::Plan(_)) || candidates.is_empty() => None,
        None => Some(format!("there are {}", listed(&candidates))),
    };
    Some(Fault { message, span: word(context.sql, &name), help })
}

/// As it has to be written in SQL.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_plain = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    if is_plain { name.to_owned() } else { format!("\"{name}\"") }
}

fn listed(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{}`", quoted(name))).collect();
    names.join(", ")
}

/// The message without the names of the layers it came through, and what it offers as help.
fn words(error: &DataFusionError) -> (String, Option<String>) {
    let text = match error.find_root() {
        DataFusionError::SchemaError(inner, _) => match inner.as_ref() {
            SchemaError::AmbiguousReference { field } => {
                let name = field.name();
                return (format!("`{name}` can be a column of more than one input"), Some("say of which".into()));
            }
            other => other.to_string(),
        },
        DataFusionError::ArrowError(inner, _) => inner.to_string(),
        other => other.message().into_owned(),
    };
    let text = clean(&text);
    match text.split_once("\n\tCandidate functions:") {
        Some((message, candidates)) => {
            let candidates: Vec<&str> = candidates.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
            (first_line(message), Some(format!("it can be called as {}", candidates.join(", "))))
        }
        None => (first_line(&text), None),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// What an evaluation gives, or, if a function panics in it, such as one that makes a text longer than a column can hold,
/// what it said. The evaluation has to leave nothing half changed.
pub(crate) fn caught<T>(evaluate: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(evaluate)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let said = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why");
        format!("a function gave up: {}", clean(said))
    })
}

/// The text without the prefixes by which DataFusion and Arrow mark the kinds of their errors.
pub(crate) fn clean(text: &str) -> String {
    const PREFIXES: &[&str] = &[
        "Error during planning: ",
        "Schema error: ",
        "Execution error: ",
        "Arrow error: ",
        "Optimizer rule 'simplify_expressions' failed\ncaused by\n",
        "type_coercion\ncaused by\n",
        "This feature is not implemented: ",
        "Internal error: ",
        "Invalid argument error: ",
        "Compute error: ",
        "Arithmetic overflow: ",
        "Cast error: ",
        "Parser error: ",
        "Json error: ",
        "Csv error: ",
        "External error: ",
        "Divide by zero error",
    ];
    let mut text = text.to_owned();
    for prefix in PREFIXES {
        let replacement = if prefix.starts_with("Divide") { "division by zero" } else { "" };
        text = text.replace(prefix, replacement);
    }
    match text.find("\nThis issue was likely caused by a bug") {
        Some(end) => text.get(..end).unwrap_or_default().trim_end_matches('.').to_owned(),
        None => text,
    }
}

fn bytes(sql: &str, span: Span) -> Option<Range<usize>> {
    let at = |line, column| parse::offset(sql, Location { line, column });
    let range = at(span.start.line, span.start.column)..at(span.end.line, span.end.column);
    (span.start.line > 0 && range.start <= range.end).then_some(range)
}

/// Where the name first stands in the text.
fn word(sql: &str, name: &str) -> Option<Range<usize>> {
    let named = |token: &Token| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(name));
    parse::tokens(sql).into_iter().find(|(token, _)| named(token)).map(|(_, place)| place)
}
