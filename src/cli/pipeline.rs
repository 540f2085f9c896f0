//! A pipeline file, from its path to its topology, for every command that takes one.

use std::path::Path;
use std::process::ExitCode;

use crate::config::{Draft, Error, Pipeline};
use crate::sql::Engine;
use crate::topology::Topology;

use super::{BAD_PIPELINE, diagnostics};

/// Reads a pipeline and puts it together.
pub(super) fn read(path: &Path) -> Result<(Pipeline, Topology), Error> {
    let draft = Draft::load(path)?;
    Topology::of_draft(draft, &Engine::new()).map_err(Error::Faulty)
}

/// The same; what is wrong goes to standard error, and the exit status comes back.
pub(super) fn load(path: &Path) -> Result<(Pipeline, Topology), ExitCode> {
    read(path).map_err(|error| {
        diagnostics::report(&error);
        ExitCode::from(BAD_PIPELINE)
    })
}
