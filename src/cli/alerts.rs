//! `fidelio alerts`: alerting rules of a pipeline for Prometheus.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::{output, pipeline};
use crate::telemetry::alerts;

/// Print alerting rules of a pipeline for Prometheus
///
/// What `[slo]` promises becomes alerts on how fast the minutes that may be bad are used up; others tell of rows that are lost,
/// dead letters that grow or grow old, commits that stall, watermarks that do not move and state that is near its limit. Save
/// them where `rule_files` of Prometheus finds them.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// The pipeline file.
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match pipeline::load(&args.file) {
        Ok((_, topology)) => output::print(&alerts::rules(&topology)),
        Err(code) => code,
    }
}
