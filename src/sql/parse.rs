//! SQL text to syntax: exactly one query, or a fault with its place.

use std::ops::Range;

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{Ident, Query, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, Tokenizer};

use super::{Fault, depth};

pub(super) const DIALECT: GenericDialect = GenericDialect;

/// How deep the parser goes into itself. More than `depth` allows, so that what is wrong is said in its words.
const RECURSION: usize = 1000;

/// Parses the text of a query over inputs. To be called where there is much stack.
pub(super) fn query(sql: &str, inputs: &[(&str, SchemaRef)]) -> Result<Box<Query>, Fault> {
    if let Some(fault) = depth::too_long(sql) {
        return Err(fault);
    }
    let parsed = Parser::new(&DIALECT).with_recursion_limit(RECURSION).try_with_sql(sql);
    let statements = parsed.and_then(|mut parser| parser.parse_statements()).map_err(|error| {
        let fault = fault(&error, sql);
        match unquoted(sql, inputs) {
            Some(name) => Fault { help: Some(format!("write \"{name}\" in double quotes")), ..fault },
            None => fault,
        }
    })?;
    let mut statements = statements.into_iter();
    match (statements.next(), statements.next()) {
        (Some(Statement::Query(query)), None) => match depth::too_deep(&query, sql) {
            Some(fault) => Err(fault),
            None => Ok(query),
        },
        (None, _) => Err(Fault { message: "there is no query".into(), span: None, help: None }),
        (Some(Statement::Query(_)), Some(_)) => Err(Fault {
            message: "there is more than one query".into(),
            span: None,
            help: Some("give each query a stage of its own, or put UNION ALL between them".into()),
        }),
        (Some(_), _) => Err(Fault {
            message: "this is not a query".into(),
            span: first_word(sql),
            help: Some("a stage's SQL is a SELECT over the stages it is fed by".into()),
        }),
    }
}

/// What the parser says, without its own words about where.
pub(super) fn fault(error: &ParserError, sql: &str) -> Fault {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => "this is nested too deeply",
    };
    let (message, place) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, location(place)),
        None => (text, None),
    };
    let message = message.strip_prefix("Expected: ").map_or(message.to_owned(), |rest| format!("expected {rest}"));
    Fault {
        message: message.replace("found: EOF", "found the end"),
        span: place.map(|place| token_at(sql, offset(sql, place))),
        help: None,
    }
}

/// `1, Column: 15`
fn location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

/// The byte at which a line and column, both counted from 1 and in characters, lie.
pub(super) fn offset(sql: &str, place: Location) -> usize {
    let mut start = 0;
    for _ in 1..place.line {
        match sql.get(start..).and_then(|rest| rest.find('\n')) {
            Some(end) => start += end + 1,
            None => return sql.len(),
        }
    }
    let rest = sql.get(start..).unwrap_or_default();
    let column = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
    rest.char_indices().nth(column).map_or(sql.len(), |(index, _)| start + index)
}

/// The bytes of a span, `None` for the empty span that the parser gives to what it made up itself.
pub(super) fn bytes(sql: &str, span: Span) -> Option<Range<usize>> {
    if span.start.line == 0 || span.end.line == 0 {
        return None;
    }
    let range = offset(sql, span.start)..offset(sql, span.end);
    (range.start <= range.end).then_some(range)
}

/// The tokens of the text that are not space, each with its place; empty where it cannot be divided into tokens.
pub(super) fn tokens(sql: &str) -> Vec<(Token, Range<usize>)> {
    let tokens = Tokenizer::new(&DIALECT, sql).tokenize_with_location().unwrap_or_default();
    let tokens = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    tokens.filter_map(|token| Some((token.token, bytes(sql, token.span)?))).collect()
}

/// A name as it is meant: in small letters where it is not quoted.
pub(super) fn name(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn token_at(sql: &str, at: usize) -> Range<usize> {
    let place = tokens(sql).into_iter().map(|(_, place)| place).find(|place| place.start == at);
    place.unwrap_or_else(|| at..at + sql.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8))
}

fn first_word(sql: &str) -> Option<Range<usize>> {
    tokens(sql).into_iter().next().map(|(_, place)| place)
}

/// An input whose name needs quotes and stands in the text without them.
fn unquoted<'a>(sql: &str, inputs: &[(&'a str, SchemaRef)]) -> Option<&'a str> {
    let names = inputs.iter().map(|(name, _)| *name);
    names.filter(|name| name.contains('-')).find(|name| sql.contains(name) && !sql.contains(&format!("\"{name}\"")))
}
