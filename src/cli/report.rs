//! What a run leaves behind, as a table for people or as one JSON object.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::{Map, Value, json};

use crate::stage::{StageSummary, Summary};

/// Writes the summary as one JSON object and a line end.
pub fn json(summary: &Summary, to: &mut dyn Write) -> io::Result<()> {
    let stages: Map<String, Value> = summary
        .stages
        .iter()
        .map(|stage| (stage.account.stage.to_string(), stage_json(stage, summary.elapsed)))
        .collect();
    let whole = json!({ "stages": stages, "elapsed_seconds": summary.elapsed.as_secs_f64() });
    writeln!(to, "{whole}")
}

fn stage_json(stage: &StageSummary, elapsed: Duration) -> Value {
    let counts = &stage.account.counts;
    json!({
        "rows_in": counts.rows_in,
        "rows_out": counts.rows_out,
        "filtered": counts.filtered,
        "expanded": counts.expanded,
        "dead_lettered": counts.dead_lettered,
        "late": counts.late,
        "absorbed": counts.absorbed,
        "emitted": counts.emitted,
        "events": counts.events,
        "pending": stage.account.pending,
        "lost": stage.account.lost,
        "rows_per_second": rate(stage, elapsed),
        "lag_p50_seconds": stage.seen.lag(0.5).map(|lag| lag.as_secs_f64()),
        "lag_p99_seconds": stage.seen.lag(0.99).map(|lag| lag.as_secs_f64()),
    })
}

/// Writes the summary as a table. Rows are counted since the first run on the data; rates and lags are this run's.
pub fn table(summary: &Summary, to: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    // Most pipelines have no windows.
    let has_windows =
        summary.stages.iter().any(|stage| stage.account.counts.absorbed + stage.account.counts.emitted > 0);
    let of_windows = |columns: [String; 3]| columns.into_iter().filter(move |_| has_windows);
    let mut header: Vec<String> = ["stage", "rows in", "out", "filtered", "expanded"].map(str::to_owned).into();
    header.extend(of_windows(["absorbed", "emitted", "late"].map(str::to_owned)));
    header.extend(["dead-lettered", "pending", "lost", "rows/s", "lag p50", "p99"].map(str::to_owned));
    table.set_header(header);
    for stage in &summary.stages {
        let counts = &stage.account.counts;
        let mut row = vec![stage.account.stage.to_string()];
        row.extend([counts.rows_in, counts.rows_out, counts.filtered, counts.expanded].map(|rows| rows.to_string()));
        row.extend(of_windows([counts.absorbed, counts.emitted, counts.late].map(|rows| rows.to_string())));
        row.extend([
            counts.dead_lettered.to_string(),
            stage.account.pending.to_string(),
            stage.account.lost.to_string(),
            format!("{:.0}", rate(stage, summary.elapsed)),
            lag(stage, 0.5),
            lag(stage, 0.99),
        ]);
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(to, "{table}")?;
    let events: u64 = summary.stages.iter().map(|stage| stage.account.counts.events).sum();
    writeln!(to, "{events} domain events, {:.2} s", summary.elapsed.as_secs_f64())
}

/// Rows that came in per second of this run.
fn rate(stage: &StageSummary, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { stage.seen.run.rows_in as f64 / seconds } else { 0.0 }
}

fn lag(stage: &StageSummary, quantile: f64) -> String {
    match stage.seen.lag(quantile) {
        Some(lag) if lag < Duration::from_secs(1) => format!("{:.1} ms", lag.as_secs_f64() * 1e3),
        Some(lag) => format!("{:.1} s", lag.as_secs_f64()),
        None => "-".to_owned(),
    }
}
