//! How a command ends that could not do what it was asked.

use std::error::Error;
use std::process::ExitCode;

use crate::config::Secrets;

/// Says what failed, with its causes.
pub(super) fn failed(error: &dyn Error) -> ExitCode {
    failed_with(error, &Secrets::default())
}

/// The same of a pipeline, without what the environment makes of its `${NAME}`s.
pub(super) fn failed_with(error: &dyn Error, secrets: &Secrets) -> ExitCode {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    eprintln!("fidelio: {}", secrets.conceal(&message));
    ExitCode::from(super::FAILED)
}

/// Says what is wrong with the command line.
pub(super) fn usage(message: &str) -> ExitCode {
    eprintln!("fidelio: {message}");
    ExitCode::from(super::USAGE)
}
