//! Logs, through `tracing`, to standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. What is logged is said as in `RUST_LOG`: a level, or levels by module.
pub fn init(format: Format, filter: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // What the Kafka client says of itself comes from `bus`; this is what its wrapper says, of no use to anybody.
    let filter = EnvFilter::try_new(format!("rdkafka=off,{filter}"))?;
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false).with_ansi(colour);
    match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    }
}
