//! What happened to every row: counts, lag, and the account that shows whether any was lost.

mod account;
mod counts;
mod watermark;

pub use account::{Account, Error, accounts};
pub use counts::Counts;
pub(crate) use counts::is_zero;
pub use watermark::{Said, Status, Watermark};
