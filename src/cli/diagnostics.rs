//! Faults as a person reads them, with the text they are about underlined, and as a program reads them.

use std::io::IsTerminal;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};
use serde_json::{Value, json};

use crate::config::{Error, Fault, Faulty};

use super::output::counted;

const WIDTH: usize = 100;
/// The widest line of a file that is shown, in bytes.
const WIDEST: usize = 2000;

/// Writes what is wrong with a pipeline file to standard error.
pub(super) fn report(error: &Error) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match error {
        Error::Unreadable { .. } => eprintln!("{error}"),
        Error::Faulty(faulty) => eprint!("{}", drawn(faulty, colour)),
    }
}

/// All faults of a file, one below the other, and how many there are.
fn drawn(faulty: &Faulty, colour: bool) -> String {
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).without_syntax_highlighting();
    let source = Arc::new(NamedSource::new(&*faulty.file, faulty.text.to_string()));
    let mut out = String::new();
    for fault in &faulty.faults {
        let report = match is_wide(&faulty.text, fault) {
            false => Report::new(diagnostic(fault)).with_source_code(Arc::clone(&source)),
            true => Report::new(placed(faulty, fault)),
        };
        if handler.render_report(&mut out, report.as_ref()).is_err() {
            out.push_str(&fault.message);
        }
        out.push('\n');
    }
    out.push_str(&format!("{}: {}\n", faulty.file, counted(faulty.faults.len(), "fault")));
    out
}

/// Whether the line that a fault is on is too wide to be shown.
fn is_wide(text: &str, fault: &Fault) -> bool {
    let before = text.get(..fault.span.start).and_then(|before| before.rsplit('\n').next()).unwrap_or(text);
    let after = text.get(fault.span.start..).and_then(|after| after.split('\n').next()).unwrap_or_default();
    before.len() + after.len() > WIDEST
}

/// A fault without the text around it: where it is stands in the message.
fn placed(faulty: &Faulty, fault: &Fault) -> MietteDiagnostic {
    let (line, column) = position(&faulty.text, fault.span.start);
    let shown: String = fault.message.chars().take(WIDEST).collect();
    let diagnostic = MietteDiagnostic::new(format!("{}:{line}:{column}: {shown}", faulty.file));
    with_help(diagnostic, fault)
}

fn diagnostic(fault: &Fault) -> MietteDiagnostic {
    let label = LabeledSpan::new(fault.label.clone(), fault.span.start, fault.span.len());
    with_help(MietteDiagnostic::new(fault.message.clone()).with_label(label), fault)
}

fn with_help(diagnostic: MietteDiagnostic, fault: &Fault) -> MietteDiagnostic {
    match &fault.help {
        Some(help) => diagnostic.with_help(help.clone()),
        None => diagnostic,
    }
}

/// What is wrong with a pipeline file, as a list of JSON objects.
pub(super) fn objects(error: &Error) -> Vec<Value> {
    match error {
        Error::Unreadable { path, source } => {
            let message = format!("cannot be read: {source}");
            vec![json!({ "file": path.display().to_string(), "message": message })]
        }
        Error::Faulty(faulty) => faulty.faults.iter().map(|fault| object(faulty, fault)).collect(),
    }
}

fn object(faulty: &Faulty, fault: &Fault) -> Value {
    let (line, column) = position(&faulty.text, fault.span.start);
    let (end_line, end_column) = position(&faulty.text, fault.span.end);
    json!({
        "file": &*faulty.file,
        "line": line,
        "column": column,
        "end": { "line": end_line, "column": end_column },
        "message": fault.message,
        "label": fault.label,
        "help": fault.help,
    })
}

/// Line and column of a byte, both counted from 1, columns in characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count();
    (before.matches('\n').count() + 1, column + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("é = 1\nab", 3), (1, 3));
        assert_eq!(position("é = 1\nab", 8), (2, 2));
    }

    #[test]
    fn a_fault_on_a_line_of_any_width_has_its_place() {
        let text = format!("first\n{}nope", " ".repeat(70_000));
        let faults = vec![Fault::new(70_006..70_010, "unknown").help("try again")];
        let drawn = drawn(&Faulty { file: "wide.toml".into(), text: text.into(), faults }, false);
        assert!(drawn.contains("wide.toml:2:70001: unknown") && drawn.contains("try again"), "{drawn}");
        assert!(drawn.len() < 1000);
    }

    #[test]
    fn a_fault_in_an_empty_file_can_be_shown() {
        let faults = vec![Fault::new(0..0, "nothing is here")];
        let faulty = Faulty { file: "empty.toml".into(), text: "".into(), faults };
        let drawn = drawn(&faulty, false);
        assert!(drawn.contains("nothing is here") && drawn.ends_with("empty.toml: 1 fault\n"), "{drawn}");
    }
}
