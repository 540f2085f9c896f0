//! TOML text to [`Pipeline`], with every fault at its place. Whether the stages fit each other is `topology`'s business.
//!
//! Every string but those of `[[tests]]` can hold `${NAME}`, which the environment fills in; `$${` stands for `${`
//! itself. What was filled in is secret: no fault and no `Debug` output shows it. Names become parts of topic names,
//! though, so they are no place for a secret.

mod connectors;
mod cursor;
mod decode;
mod examples;
mod fault;
mod kafka;
mod slo;
mod spec;
mod stage;
#[cfg(test)]
mod tests;
mod text;
mod topic;
mod tracing;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use decode::Draft;
pub use fault::Fault;
pub use spec::*;
pub use text::{Env, Secrets};

pub(crate) use cursor::quoted;
pub(crate) use fault::{advice, tidy};
pub(crate) use stage::Hole;

/// For stages that could not be made out wholly, by name, what is made up of them.
pub(crate) type Holes = BTreeMap<String, Hole>;

/// Why there is no pipeline.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or is no text.
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        source: Arc<std::io::Error>,
    },
    /// Something in it has to be put right.
    #[error("{0}")]
    Faulty(Faulty),
}

/// A pipeline file that has to be put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faulty {
    /// The name of the file.
    pub file: Arc<str>,
    /// Its text.
    pub text: Arc<str>,
    /// All that is wrong with it, in the order of the file.
    pub faults: Vec<Fault>,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Faulty { file, text, faults } = self;
        let line = |fault: &Fault| text.get(..fault.span.start).unwrap_or_default().matches('\n').count() + 1;
        let lines: Vec<String> =
            faults.iter().map(|fault| format!("{file}:{}: {}", line(fault), fault.message)).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Pipeline {
    /// Reads a pipeline from text: value by value, not how its stages fit each other. `file` is the name that faults
    /// are shown under, `dir` the folder that relative paths are relative to.
    pub fn parse(text: &str, file: &str, dir: &Path, env: &Env) -> Result<Pipeline, Vec<Fault>> {
        let draft = Draft::parse(text, file, dir, env);
        if draft.faults.is_empty() { Ok(draft.pipeline) } else { Err(draft.faults) }
    }

    /// Reads a pipeline from its file, with the environment of the process.
    pub fn load(path: impl AsRef<Path>) -> Result<Pipeline, Error> {
        let Draft { pipeline, faults, .. } = Draft::load(path)?;
        if faults.is_empty() {
            return Ok(pipeline);
        }
        Err(Error::Faulty(Faulty { file: pipeline.file, text: pipeline.text, faults }))
    }
}

impl Draft {
    /// Reads as much of a pipeline from its file as there is, with the environment of the process.
    pub fn load(path: impl AsRef<Path>) -> Result<Draft, Error> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Unreadable { path: path.to_owned(), source: Arc::new(source) })?;
        let dir = path.parent().unwrap_or(Path::new(""));
        Ok(Draft::parse(&text, &path.display().to_string(), dir, &|name| std::env::var(name).ok()))
    }
}
