//! Logs, through `tracing`, to standard error.

use std::io::{self, IsTerminal, Write, stderr};
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::config::Secrets;

/// What is kept out of the logs.
static SECRETS: OnceLock<Secrets> = OnceLock::new();

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
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Concealing { to: stderr(), secrets: SECRETS.get() })
        .with_target(false)
        .with_ansi(colour);
    match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    }
}

/// Keeps what a pipeline file takes from the environment out of the logs from now on. Only what is given first counts.
pub fn conceal(secrets: &Secrets) {
    let _ = SECRETS.set(secrets.clone());
}

/// Where lines are written to, a line at a time, without these secrets.
struct Concealing<W> {
    to: W,
    secrets: Option<&'static Secrets>,
}

impl<W: Write> Write for Concealing<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match (self.secrets, std::str::from_utf8(line)) {
            (Some(secrets), Ok(text)) => self.to.write_all(secrets.conceal(text).as_bytes())?,
            _ => self.to.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Draft;

    #[test]
    fn a_line_has_the_name_of_a_variable_in_place_of_its_value() {
        let env = |name: &str| (name == "PASSWORD").then(|| "hush-hush".to_owned());
        let draft = Draft::parse("[bus]\ndata_dir = \"${PASSWORD}\"", "p.toml", Path::new(""), &env);
        let secrets = Box::leak(Box::new(draft.pipeline.secrets));
        let mut lines = Vec::new();
        let mut log = Concealing { to: &mut lines, secrets: Some(secrets) };
        log.write_all(b"no access with hush-hush\n").unwrap();
        log.write_all(b"\xffhush\n").unwrap();
        assert_eq!(lines, b"no access with ${PASSWORD}\n\xffhush\n");
    }
}
