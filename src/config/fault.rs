//! What is wrong with a pipeline file, and where. Showing it to a person is the command line's business.

use std::ops::Range;

/// Something in a pipeline file that has to be put right.
///
/// No part of it ever holds a value from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where in the file, in bytes, on character boundaries; empty where something is missing.
    pub span: Range<usize>,
    /// A word or two to stand at that place.
    pub label: Option<String>,
    /// What to do about it, such as the nearest name that exists.
    pub help: Option<String>,
}

impl Fault {
    /// A fault at a place.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span, label: None, help: None }
    }

    /// The same with a label.
    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// The same with advice.
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same with advice, if there is any.
    pub fn maybe_help(self, help: Option<String>) -> Self {
        Self { help: help.or(self.help), ..self }
    }

    /// The same, its place brought into the text and onto character boundaries.
    fn within(mut self, text: &str) -> Self {
        let start = floor_boundary(text, self.span.start);
        let end = ceil_boundary(text, self.span.end.max(start));
        self.span = start..end;
        self
    }
}

/// Orders faults by their place and removes repetitions.
pub(crate) fn tidy(text: &str, faults: Vec<Fault>) -> Vec<Fault> {
    let mut faults: Vec<Fault> = faults.into_iter().map(|fault| fault.within(text)).collect();
    faults.sort_by(|a, b| (a.span.start, a.span.end, &a.message).cmp(&(b.span.start, b.span.end, &b.message)));
    faults.dedup();
    faults
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn ceil_boundary(text: &str, at: usize) -> usize {
    (at.min(text.len())..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}

/// The candidate that `name` is most likely a slip of the pen for, if there is one that near.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let allowed = name.chars().count().div_ceil(3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Advice for a name that is none of the candidates: the nearest one, or else all of them.
pub(crate) fn advice<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    match nearest(name, candidates.clone()) {
        Some(candidate) => Some(format!("did you mean `{candidate}`?")),
        None => listing(candidates),
    }
}

/// All the candidates there are, in a sentence.
pub(crate) fn listing<'a>(candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let names: Vec<String> = candidates.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last()? {
        (last, []) => Some(format!("it can only be {last}")),
        (last, others) => Some(format!("it can be {} or {last}", others.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_name_that_was_meant() {
        let names = ["partitions", "format", "from"];
        assert_eq!(nearest("partition", names), Some("partitions"));
        assert_eq!(nearest("fromat", names), Some("format"));
        assert_eq!(nearest("FROM", names), Some("from"));
        assert_eq!(nearest("colour", names), None);
    }

    #[test]
    fn a_name_like_no_other_is_answered_with_all_there_are() {
        assert_eq!(advice("xyz", ["a1", "b1"]).as_deref(), Some("it can be `a1` or `b1`"));
        assert_eq!(advice("xyz", []), None);
    }

    proptest! {
        #[test]
        fn a_tidied_fault_lies_within_its_text(text in ".*", start in 0usize..200, end in 0usize..200) {
            for fault in tidy(&text, vec![Fault::new(start..end, "x")]) {
                prop_assert!(text.get(fault.span.clone()).is_some());
            }
        }
    }
}
