//! `[slo]` of the pipeline and of a stage: what is promised of every minute.

use super::cursor::{Table, Value};
use super::decode::duration_of;
use super::fault::Fault;
use super::spec::{LagObjective, Slo, Spanned};

/// The quantiles that there are, with their keys.
const LAGS: [(&str, f64); 4] = [("lag_p50", 0.5), ("lag_p90", 0.9), ("lag_p95", 0.95), ("lag_p99", 0.99)];

/// What part of the minutes is to be good where nothing is said.
const TARGET: f64 = 0.999;

/// `{ lag_p95 = "2s", loss = 0, target = "99.9%" }`
pub(super) fn slo(value: &Value) -> Option<Spanned<Slo>> {
    let table = value.table("`slo`", "write it as { lag_p95 = \"2s\", loss = 0, target = \"99.9%\" }")?;
    let lag = lag(&table);
    let loss = table.get("loss").and_then(|value| value.integer(0, u32::MAX.into())).unwrap_or(0);
    let target =
        table.get("target").and_then(|value| value.parsed("a part of all minutes, such as \"99.9%\"", percent));
    table.finish();
    Some(Spanned::new(Slo { lag, loss, target: target.unwrap_or(TARGET) }, value.span()))
}

fn lag(table: &Table) -> Option<LagObjective> {
    let mut given = LAGS.into_iter().filter_map(|(key, quantile)| Some((key, quantile, table.get(key)?)));
    let (_, quantile, value) = given.next()?;
    for (key, _, _) in given {
        let span = table.key_span(key).unwrap_or_default();
        let fault = Fault::new(span, "there is another objective for the lag").label("one too many");
        table.document.fault(fault.help("a minute is good or bad by one of them: leave out the other"));
    }
    let most = duration_of(&value)?;
    if most.is_zero() {
        value.fault("is nothing", "a row takes some time: write for example \"2s\"");
    }
    Some(LagObjective { quantile, most })
}

/// `99.9%`, as a part of 1: more than none, and less than all.
pub(super) fn percent(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    (percent > 0.0 && percent < 100.0).then_some(percent / 100.0)
}
