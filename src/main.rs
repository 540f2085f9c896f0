//! The program: what `fidelio::cli` makes of the command line.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fidelio::allocator::keep_memory();
    let _points = fidelio::fault::from_environment();
    fidelio::cli::Cli::parse().run()
}
