//! What happened to every row: counts, lag, and the account that shows whether any was lost.

mod account;
mod audit;
mod counts;
mod lag;
mod ledger;
mod minutes;
mod sequence;
mod slo;
mod times;
mod watermark;
mod way;

pub use account::{Account, Error, accounts};
pub(crate) use account::{Committed, checkpoints};
pub use audit::{Account as AuditAccount, Audit, Check, Finding, Line};
pub(crate) use audit::{Evidence, Found, Rows, audit};
pub use counts::Counts;
pub(crate) use counts::is_zero;
pub(crate) use lag::Lags;
pub(crate) use ledger::{Book, Feeder};
pub use ledger::{Entry, Page, Tally};
pub use minutes::Minute;
pub(crate) use minutes::Minutes;
pub use sequence::Sequence;
pub(crate) use sequence::Sequences;
pub use slo::{Minutes as JudgedMinutes, Objective};
pub(crate) use times::Times;
pub use watermark::{Said, Status, Watermark};
pub use way::{Passage, Way, WayLine};
