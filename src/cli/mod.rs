//! The command line: a file for each subcommand, and what they share in showing things to a person.

mod acls;
mod alerts;
mod audit;
mod check;
mod diagnostics;
mod dlq;
mod exit;
mod forget;
mod graph;
mod output;
mod pipeline;
mod progress;
mod report;
mod rows;
mod run;
mod state;
mod tail;
mod test;
mod topics;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The exit status of a run that failed.
const FAILED: u8 = 1;

/// The exit status when the command line is not understood; clap's own.
const USAGE: u8 = 2;

/// The exit status when a pipeline file has to be put right; `EX_CONFIG` of sysexits.h.
const BAD_PIPELINE: u8 = 78;

const EXIT_STATUS: &str = "Exit status:
  0   done
  1   the run failed
  2   the command line is not understood
  78  the pipeline file cannot be read or has faults";

/// Stream processing that accounts for every row: pipelines in TOML and SQL, chained through durable topics.
#[derive(Debug, Parser)]
#[command(name = "fidelio", version, after_help = EXIT_STATUS, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Graph(graph::Args),
    Topics(topics::Args),
    Test(test::Args),
    Tail(tail::Args),
    /// Dead letters: rows that a stage could not process
    #[command(subcommand)]
    Dlq(dlq::Command),
    State(state::Args),
    Audit(audit::Args),
    Alerts(alerts::Args),
    Forget(forget::Args),
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Check(args) => check::run(&args),
            Command::Alerts(args) => alerts::run(&args),
            Command::Graph(args) => graph::run(&args),
            Command::Topics(args) => topics::run(&args),
            Command::Run(args) => block_on(run::run(args)),
            Command::Test(args) => block_on(test::run(args)),
            Command::Tail(args) => block_on(tail::run(args)),
            Command::Dlq(command) => block_on(dlq::run(command)),
            Command::Audit(args) => block_on(audit::run(args)),
            Command::State(args) => block_on(state::run(args)),
            Command::Forget(args) => block_on(forget::run(args)),
        }
    }
}

fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            // A thread that is stuck in a read of standard input, or a write to a reader that does not read, is left.
            runtime.shutdown_background();
            code
        }
        Err(error) => exit::failed(&error),
    }
}
