//! What Fidelio promises, a module for each behaviour.

// In a test a panic is the message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod audit;
mod bad_input;
mod browser;
mod bus;
mod check;
mod edits;
mod embed;
mod embedded;
mod facts;
mod grafana;
mod kafka;
mod kill;
mod lag;
mod nexmark;
mod overlap;
mod page;
mod pipeline_tests;
mod run;
mod slo;
mod support;
mod tamper;
mod topics;
mod tracing;
mod updates;
mod windows;
