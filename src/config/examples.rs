//! `[[tests]]`

use serde_json::{Map, Number};
use toml::de::{DeTable, DeValue};

use super::cursor::{Table, Value};
use super::fault::Fault;
use super::spec::{Row, Spanned, Test};

/// All tests of a file.
pub(super) fn tests(value: Option<Value>) -> Vec<Test> {
    let help = "give each test a table of its own: [[tests]]";
    let tests = value.and_then(|value| value.array(help)).unwrap_or_default();
    tests.into_iter().filter_map(|value| test(&value)).collect()
}

/// One test; `None` if its name or its stage could not be made out.
fn test(value: &Value) -> Option<Test> {
    let table = value.table("a test", "give it a table of its own: [[tests]]")?;
    let name = text(&table, "name", "a sentence about behaviour");
    let stage = text(&table, "stage", "the stage whose results are looked at");
    let given = table.get("given").map(|value| given(&value)).unwrap_or_default();
    let rows = |key| table.get(key).map(|value: Value| rows(&value));
    let expect = rows("expect");
    let expect_events = rows("expect_events");
    let expect_dead_letters = rows("expect_dead_letters");
    if expect.is_none() && expect_events.is_none() && expect_dead_letters.is_none() {
        let fault = Fault::new(table.span.clone(), "this test expects nothing, so it cannot fail");
        let help = "add any of `expect`, `expect_events` and `expect_dead_letters`; `[]` stands for no rows";
        table.document.missing(fault.help(help));
    }
    table.finish();
    Some(Test { name: name?, stage: stage?, given, expect, expect_events, expect_dead_letters })
}

fn text(table: &Table, key: &'static str, help: &str) -> Option<Spanned<String>> {
    table.need(key, help)?.literal(help)
}

/// `given = { STAGE = [ROW, …] }`
fn given(value: &Value) -> Vec<(Spanned<String>, Vec<Row>)> {
    let help = "write it as { STAGE = [{ column = value }] }";
    let stages = value.table("`given`", help).map(|table| table.entries()).unwrap_or_default();
    stages.into_iter().map(|(stage, value)| (stage, rows(&value))).collect()
}

fn rows(value: &Value) -> Vec<Row> {
    let help = "write the rows as [{ column = value }, …]";
    value.array(help).unwrap_or_default().iter().filter_map(|value| row(value, help)).collect()
}

fn row(value: &Value, help: &str) -> Option<Row> {
    let span = value.span();
    let entries = value.table("a row", help)?.entries();
    let values = entries.iter().map(|(column, value)| Some((column.value.clone(), json(value)?)));
    let values: Map<String, serde_json::Value> = values.collect::<Option<_>>()?;
    Some(Row { values, columns: entries.into_iter().map(|(column, _)| column).collect(), span })
}

/// The value as JSON has it.
fn json(value: &Value) -> Option<serde_json::Value> {
    let converted = to_json(value.raw());
    if converted.is_none() {
        value.fault("is a number that JSON does not have", "write it as a text, or leave the column out for null");
    }
    converted
}

fn to_json(value: &DeValue) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    Some(match value {
        DeValue::String(text) => Json::String(text.clone().into_owned()),
        DeValue::Integer(integer) => {
            let (digits, radix) = (integer.as_str(), integer.radix());
            let signed = i64::from_str_radix(digits, radix).ok().map(Number::from);
            Json::Number(signed.or_else(|| u64::from_str_radix(digits, radix).ok().map(Number::from))?)
        }
        DeValue::Float(float) => Json::Number(Number::from_f64(float.as_str().parse().ok()?)?),
        DeValue::Boolean(boolean) => Json::Bool(*boolean),
        DeValue::Datetime(datetime) => Json::String(datetime.to_string()),
        DeValue::Array(values) => {
            Json::Array(values.iter().map(|value| to_json(value.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(table) => Json::Object(object(table)?),
    })
}

fn object(table: &DeTable) -> Option<Map<String, serde_json::Value>> {
    table.iter().map(|(key, value)| Some((key.get_ref().clone().into_owned(), to_json(value.get_ref())?))).collect()
}
