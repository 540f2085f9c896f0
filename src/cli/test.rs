//! `fidelio test`: runs the tests that a pipeline carries.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::{FAILED, exit, pipeline};
use crate::testing::{self, Outcome};

/// Run the tests that a pipeline carries
///
/// They run on a bus in memory: nothing is read from the pipeline's sources, and nothing is written by its sinks.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// The pipeline file.
    file: PathBuf,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

pub(super) async fn run(args: Args) -> ExitCode {
    let (pipeline, topology) = match pipeline::load(&args.file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let topology = Arc::new(topology);
    let (mut passed, mut failed) = (0, 0);
    for test in &pipeline.tests {
        let name = &test.name.value;
        if args.filter.as_deref().is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        match testing::run(test, &topology).await {
            Ok(Outcome::Passed) => {
                passed += 1;
                println!("ok      {name}");
            }
            Ok(Outcome::Differs(difference)) => {
                failed += 1;
                println!("FAILED  {name}\n{difference}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED  {name}\n        {error}\n");
            }
        }
    }
    if passed + failed == 0
        && let Some(filter) = &args.filter
    {
        return exit::usage(&format!("no test of the pipeline has `{filter}` in its name"));
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
}
