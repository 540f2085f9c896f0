//! What an operator sees of a running worker: metrics, health and logs.
//!
//! Every metric's name, unit and help is in [`metrics`]; [`Meter`] is how a task reports, and [`Health`]
//! whether all is well; [`http`] serves it all, and a page that shows it.

pub mod alerts;
mod health;
pub mod http;
pub mod logs;
mod meter;
mod metrics;
mod rates;
mod spans;
mod status;
mod upkeep;
mod weighted;

pub use health::Health;
pub(crate) use meter::{Doing, Report};
pub use meter::{Meter, Seen};
pub use metrics::Registry;
pub(crate) use spans::Span;
pub use spans::Tracer;
pub(crate) use status::Held;
pub(crate) use upkeep::{upkeep, watch};
