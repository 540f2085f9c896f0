//! How what a stage published differs from what a test expects, for a person to read.

use serde_json::{Map, Value};
use similar::{ChangeTag, TextDiff};

use crate::config::Row;

/// The differences of two lists, a line an item; empty if there are none.
pub(super) fn of(what: &str, expected: &[Value], found: &[Value]) -> String {
    if expected == found {
        return String::new();
    }
    let (expected, found) = (lines(expected), lines(found));
    let mut text = format!("        {what}: - expected, + found\n");
    for change in TextDiff::from_lines(&expected, &found).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        text += &format!("        {sign} {}\n", change.value().trim_end());
    }
    text
}

/// The same, where an expected item says only some of what was found: what it does not name can be anything.
pub(super) fn of_named(what: &str, expected: &[Row], found: &[Value]) -> String {
    let mut expected_items = expected.iter();
    let found: Vec<Value> = found
        .iter()
        .map(|item| match expected_items.next() {
            Some(expected) => named(item, &expected.values),
            None => item.clone(),
        })
        .collect();
    let expected: Vec<Value> = expected.iter().map(|row| Value::Object(row.values.clone())).collect();
    of(what, &expected, &found)
}

/// The part of an item that an expected one names, at every depth.
fn named(item: &Value, expected: &Map<String, Value>) -> Value {
    let Value::Object(item) = item else { return item.clone() };
    let part = expected.iter().filter_map(|(name, wanted)| {
        let value = item.get(name)?;
        let value = match wanted {
            Value::Object(wanted) => named(value, wanted),
            _ => value.clone(),
        };
        Some((name.clone(), value))
    });
    Value::Object(part.collect())
}

fn lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_lists_do_not_differ() {
        assert_eq!(of("results", &[json!({"a": 1})], &[json!({"a": 1})]), "");
    }

    #[test]
    fn a_missing_and_an_unexpected_item_are_shown_with_their_signs() {
        let text = of("results", &[json!(1), json!(2)], &[json!(2), json!(3)]);
        assert!(text.contains("- 1\n") && text.contains("  2\n") && text.contains("+ 3\n"), "{text}");
    }

    #[test]
    fn what_an_expected_event_does_not_name_can_be_anything() {
        let values = json!({"type": "Late", "data": {"a": 1}}).as_object().unwrap().clone();
        let expected = [Row { values, columns: Vec::new(), span: 0..0 }];
        let found = [json!({"type": "Late", "id": "x", "data": {"a": 1, "b": 2}})];
        assert_eq!(of_named("events", &expected, &found), "");
        assert_ne!(of_named("events", &expected, &[json!({"type": "Late", "data": {"a": 2}})]), "");
        assert_ne!(of_named("events", &expected, &[]), "");
        assert_ne!(of_named("events", &[], &found), "");
    }
}
