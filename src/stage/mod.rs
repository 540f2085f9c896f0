//! Running stages: the loop of a task, and the worker that starts and ends tasks.
//!
//! The folder is the way of a row: [`inlet`] polls and decodes, [`process`] applies the stage's queries, [`outlet`]
//! encodes ([`published`] for a topic), and [`task`] holds the loop that strings them together and commits. [`worker`] runs the tasks of a pipeline.

mod books;
mod clock;
mod diary;
mod drained;
mod envelope;
mod evidence;
mod facts;
mod found;
mod growing;
mod inlet;
mod keys;
mod origins;
mod others;
mod outlet;
mod owner;
mod plan;
mod process;
mod published;
mod running;
mod signals;
mod spans;
mod state;
mod step;
mod task;
mod trace;
mod worker;

pub use evidence::audit;
pub(crate) use facts::is_fact;
pub(crate) use outlet::results_of;
pub(crate) use owner::{has_no_rows, row_of};
pub(crate) use state::{Held, held};
pub use task::Error as TaskError;
pub use worker::{Error, Meters, Options, StageSummary, Stop, Summary, Worker};
