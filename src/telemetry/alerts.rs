//! Alerting rules of a pipeline for Prometheus: what an operator is to be woken by, or told in the morning.
//!
//! Burn rates are those of the Site Reliability Workbook, chapter 5: how fast the part of the minutes that may be bad is used up,
//! over a long window, and over a short one that says whether it still is.

use std::fmt::Write;

use crate::topology::Topology;

/// A long and a short window, how many times as fast as planned the budget is used up in both, and how urgent that is.
const BURNS: [(&str, &str, &str, &str); 3] =
    [("1h", "5m", "14.4", "page"), ("6h", "30m", "6", "page"), ("3d", "6h", "1", "ticket")];

/// An alert.
struct Alert<'a> {
    name: &'a str,
    expr: String,
    /// How long it is so before anybody is told.
    lasts: &'a str,
    severity: &'a str,
    summary: &'a str,
    description: &'a str,
}

/// The rules of a pipeline, as the text of a rule file.
pub fn rules(topology: &Topology) -> String {
    let pipeline = &*topology.prefix;
    let of = format!("pipeline=\"{pipeline}\"");
    let mut text = format!("# Made by `fidelio alerts`: alerting rules of the pipeline {pipeline}.\ngroups:\n");
    let _ = writeln!(text, "  - name: {pipeline}.slo\n    rules:");
    let is_promised = topology.stages.iter().any(|stage| stage.slo.is_some());
    for (long, short, times, severity) in BURNS.into_iter().filter(|_| is_promised) {
        let bad = |window: &str| {
            format!(
                "(sum by (pipeline, stage) (increase(fidelio_slo_minutes_total{{{of},verdict=\"bad\"}}[{window}]))\n\
                 / sum by (pipeline, stage) (increase(fidelio_slo_minutes_total{{{of}}}[{window}])))"
            )
        };
        let budget = format!("{times} * (1 - max by (pipeline, stage) (fidelio_slo_target_ratio{{{of}}}))");
        let expr = format!("{} > {budget}\nand\n{} > {budget}", bad(long), bad(short));
        let summary = format!("{{{{ $labels.stage }}}} uses up its error budget {times} times as fast as planned");
        let description = format!(
            "{{{{ $value | humanizePercentage }}}} of the minutes of the last {long} were bad, and they still are: rows were \
             later than [slo] promises, or lost."
        );
        let alert = Alert {
            name: "FidelioErrorBudgetBurn",
            expr,
            lasts: "0m",
            severity,
            summary: &summary,
            description: &description,
        };
        alert.write(&[("window", long)], &mut text);
    }
    if !is_promised {
        text.truncate(text.len() - "    rules:\n".len());
        text.push_str("    rules: []\n");
    }
    let _ = writeln!(text, "  - name: {pipeline}\n    rules:");
    for alert in others(&of) {
        alert.write(&[], &mut text);
    }
    text
}

/// The alerts that need no promise.
fn others(of: &str) -> [Alert<'static>; 13] {
    let alert = |name, expr: String, lasts, severity, summary, description| Alert {
        name,
        expr,
        lasts,
        severity,
        summary,
        description,
    };
    [
        alert(
            "FidelioRowsLost",
            format!("sum by (pipeline, stage, from) (increase(fidelio_rows_lost_total{{{of}}}[10m])) > 0"),
            "0m",
            "page",
            "rows are lost between {{ $labels.from }} and {{ $labels.stage }}",
            "{{ $labels.from }} has published rows that have not come. The log says which; fidelio audit says of which minutes.",
        ),
        alert(
            "FidelioRowsRepeated",
            format!("sum by (pipeline, stage, from) (increase(fidelio_rows_repeated_total{{{of}}}[10m])) > 0"),
            "0m",
            "page",
            "rows have come to {{ $labels.stage }} more than once",
            "More rows have come from {{ $labels.from }} than it has published. The log says where; fidelio audit says of which minutes.",
        ),
        alert(
            "FidelioRowsUnbalanced",
            format!("sum by (pipeline, stage) (increase(fidelio_rows_unbalanced_total{{{of}}}[10m])) > 0"),
            "0m",
            "page",
            "the counts of {{ $labels.stage }} do not balance",
            "What came in is not what became of it: a bug of Fidelio.",
        ),
        alert(
            "FidelioMessagesGone",
            format!("sum by (pipeline, stage) (increase(fidelio_messages_gone_total{{{of}}}[10m])) > 0"),
            "0m",
            "page",
            "messages were gone before {{ $labels.stage }} could read them",
            "Retention has overtaken the stage, or the topic was deleted and made anew.",
        ),
        alert(
            "FidelioForeignRows",
            format!("sum by (pipeline, stage) (increase(fidelio_rows_foreign_total{{{of}}}[10m])) > 0"),
            "0m",
            "ticket",
            "somebody else publishes to a topic that {{ $labels.stage }} reads",
            "What they publish is dead letters of the class foreign. fidelio topics --acls prints the rules that keep them out.",
        ),
        alert(
            "FidelioDeadLettersGrow",
            format!("sum by (pipeline, stage) (increase(fidelio_dead_letters_total{{{of}}}[15m])) > 0"),
            "15m",
            "ticket",
            "dead letters of {{ $labels.stage }} grow",
            "{{ $value | humanize }} in a quarter of an hour. fidelio dlq list shows them.",
        ),
        alert(
            "FidelioOldDeadLetters",
            format!("time() - min by (pipeline, stage) (fidelio_dead_letter_oldest_timestamp_seconds{{{of}}}) > 86400"),
            "1h",
            "ticket",
            "a dead letter of {{ $labels.stage }} is older than a day",
            "The oldest is {{ $value | humanizeDuration }} old, and nobody has dealt with it. fidelio dlq list shows it.",
        ),
        alert(
            "FidelioCommitsStalled",
            format!(
                "time() - fidelio_last_commit_timestamp_seconds{{{of}}} > 300\nand on (pipeline, stage, task)\n\
                 fidelio_consumer_lag_seconds{{{of}}} > 300"
            ),
            "0m",
            "page",
            "task {{ $labels.task }} of {{ $labels.stage }} has not committed for five minutes, and has rows to",
            "The last commit is {{ $value | humanizeDuration }} ago. The log and /readyz say why.",
        ),
        alert(
            "FidelioCheckpointOld",
            format!(
                "time() - fidelio_last_commit_timestamp_seconds{{{of}}} > 3600\nand on (pipeline, stage, task)\n\
                 rate(fidelio_task_seconds_total{{{of},state=\"idle\"}}[15m]) < 0.5"
            ),
            "0m",
            "ticket",
            "the last checkpoint of task {{ $labels.task }} of {{ $labels.stage }} is an hour old",
            "After a crash the task does again what it has done since, {{ $value | humanizeDuration }}.",
        ),
        alert(
            "FidelioWatermarkStuck",
            format!(
                "changes(fidelio_watermark_timestamp_seconds{{{of}}}[15m]) == 0\nand on (pipeline, stage, task)\n\
                 increase(fidelio_rows_in_total{{{of}}}[15m]) > 0"
            ),
            "0m",
            "ticket",
            "the watermark of {{ $labels.stage }} does not move, and rows come in",
            "Some task before it has fallen silent and holds back all windows: say idle_after in its event_time, or see why.",
        ),
        alert(
            "FidelioStateNearLimit",
            format!("fidelio_state_bytes{{{of}}} / fidelio_state_limit_bytes{{{of}}} > 0.9"),
            "5m",
            "page",
            "what {{ $labels.stage }} keeps takes nine tenths of what it may",
            "At state_limit the task stops. {{ $value | humanizePercentage }} are taken.",
        ),
        alert(
            "FidelioTaskRestarts",
            format!("increase(fidelio_task_restarts_total{{{of}}}[15m]) > 3"),
            "0m",
            "ticket",
            "task {{ $labels.task }} of {{ $labels.stage }} fails again and again",
            "It has gone on from its last commit {{ $value | humanize }} times in a quarter of an hour. The log says why.",
        ),
        alert(
            "FidelioNotRunning",
            format!("absent(fidelio_task_running{{{of}}} == 1)"),
            "5m",
            "page",
            "no task of the pipeline runs",
            "No worker that Prometheus sees runs any of its tasks.",
        ),
    ]
}

impl Alert<'_> {
    fn write(&self, labels: &[(&str, &str)], to: &mut String) {
        let Self { name, expr, lasts, severity, summary, description } = self;
        let expr: String = expr.lines().map(|line| format!("          {}\n", line.trim())).collect();
        let labels: String = labels.iter().map(|(name, value)| format!("          {name}: {value}\n")).collect();
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        // Nothing fails that writes to a text.
        let _ = write!(
            to,
            "      - alert: {name}\n        expr: |\n{expr}        for: {lasts}\n        labels:\n          severity: {severity}\n\
             {labels}        annotations:\n          summary: {}\n          description: {}\n",
            quoted(summary),
            quoted(description)
        );
    }
}
