//! The time of day: when messages were published, how late what is visible is, and what is old enough to be deleted. No result
//! depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::Micros;

/// The time of day. A test can shift it: the point `clock` of [`crate::fault`] set to `return(3600)` puts it an hour ahead.
pub fn now() -> Micros {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Micros::try_from(now.as_micros()).unwrap_or(Micros::MAX);
    if !fail::has_failpoints() {
        return now;
    }
    let ahead = fail::eval("clock", |seconds| seconds.and_then(|seconds| seconds.parse::<Micros>().ok()));
    now.saturating_add(ahead.flatten().unwrap_or(0).saturating_mul(1_000_000))
}
