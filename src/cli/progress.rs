//! A progress bar a stage, on a terminal, while a run goes on.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::config::{Input, LineSource, Source};
use crate::connector::InputBytes;
use crate::stage::Meters;
use crate::topology::{Stage, Topology, Work};

/// How often the bars move.
const INTERVAL: Duration = Duration::from_millis(100);

/// Bars that move by themselves.
pub struct Bars {
    all: MultiProgress,
    mover: JoinHandle<()>,
}

/// Shows a bar for each stage: how many of the rows that its predecessors have published it has dealt with; for a source,
/// how much of its files it has read, where they are not followed. Only stages that run here have one, all of them if
/// `selected` is empty.
pub fn show(topology: &Arc<Topology>, meters: Arc<Meters>, selected: &[String]) -> Bars {
    let all = MultiProgress::new();
    let width = topology.stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
    let runs = |stage: &&Arc<Stage>| selected.is_empty() || selected.iter().any(|name| **name == *stage.name);
    let bars = topology.stages.iter().filter(runs).map(|stage| (stage.clone(), all.add(bar(stage, width))));
    let bars: Vec<(Arc<Stage>, ProgressBar)> = bars.collect();
    let mover = tokio::spawn(async move {
        loop {
            for (stage, bar) in &bars {
                let seen = meters.seen(&stage.name);
                bar.set_message(HumanCount(seen.total.rows_in).to_string());
                let (done, of) = match (seen.input, stage.from.is_empty()) {
                    (Some(InputBytes { read, total }), _) => (read, total),
                    (None, true) => (seen.total.rows_in, 0),
                    (None, false) => {
                        (seen.total.rows_in, stage.from.iter().map(|name| meters.seen(name).total.rows_out).sum())
                    }
                };
                // An empty bar, not a full one, before there is anything to do.
                bar.set_length(of.max(1));
                bar.set_position(done);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    });
    Bars { all, mover }
}

impl Bars {
    /// Takes the bars off the terminal.
    pub async fn clear(self) {
        self.mover.abort();
        // It ends at its next await; until then it could draw once more.
        let _ = self.mover.await;
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

fn bar(stage: &Stage, width: usize) -> ProgressBar {
    let template = match &stage.work {
        Work::Source(Source::Lines(LineSource { input: Input::File { follow: false, .. }, .. })) => {
            "{prefix} {bar:30} {msg} rows, {bytes} of {total_bytes}, {eta} left"
        }
        Work::Source(_) => "{prefix} {spinner} {human_pos} rows, {per_sec}",
        Work::Sql(_) | Work::Sink(_) => "{prefix} {bar:30} {human_pos}/{human_len} rows, {per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_prefix(format!("{:width$}", stage.name))
}
