//! What an operator sees of a running worker: metrics, health and logs.
//!
//! Every metric's name, unit and help is in [`metrics`]; [`Meter`] is how a task reports; [`http`] serves it all.

pub mod http;
pub mod logs;
mod meter;
mod metrics;
mod upkeep;

pub use meter::{Meter, Seen};
pub use metrics::Registry;
pub(crate) use upkeep::upkeep;
