//! `[tracing]`: where spans of sampled rows go.

use super::cursor::Value;
use super::slo::percent;
use super::spec::Tracing;

const ENDPOINT: &str = "the address of a collector that takes OTLP over HTTP, such as \"http://localhost:4318\"";
const SAMPLE: &str = "a part of the rows that come in, such as \"0.1%\"";

/// `{ endpoint = "http://localhost:4318", sample = "0.1%", headers = { authorization = "Bearer ${TOKEN}" } }`
pub(super) fn tracing(value: &Value) -> Option<Tracing> {
    let table = value.table("`[tracing]`", "write it as a table: [tracing]")?;
    let endpoint = table.need("endpoint", ENDPOINT).and_then(|value| value.parsed(ENDPOINT, address));
    let sample = table.get("sample").and_then(|value| value.parsed(SAMPLE, part)).unwrap_or(0.0);
    let headers = table.get("headers").and_then(|value| {
        let headers = value.table("`headers`", "write it as { authorization = \"Bearer ${TOKEN}\" }")?;
        let header = |(name, value): (super::Spanned<String>, Value)| Some((name.value, value.string("a text")?.value));
        Some(headers.entries().into_iter().filter_map(header).collect())
    });
    table.finish();
    Some(Tracing { endpoint: endpoint?, headers: headers.unwrap_or_default(), sample })
}

fn address(text: &str) -> Option<String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    let is_host = !host.trim_end_matches('/').is_empty() && !host.contains(char::is_whitespace);
    is_host.then(|| text.trim_end_matches('/').to_owned())
}

/// `0.1%`, as a part of 1; also none, and all.
fn part(text: &str) -> Option<f64> {
    match text.strip_suffix('%')?.trim() {
        "0" => Some(0.0),
        "100" => Some(1.0),
        _ => percent(text),
    }
}
