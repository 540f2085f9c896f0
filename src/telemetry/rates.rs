//! How often each peer may ask.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The time that a request uses up: 20 a second on average.
const INTERVAL: Duration = Duration::from_millis(50);
/// Requests at once.
const BURST: u32 = 100;
/// Peers that are told apart at a time. Where there are more, new ones have to wait.
const PEERS: usize = 4096;

/// A bucket of requests for each peer, which fills again as time goes by (GCRA).
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<IpAddr, Instant>>);

impl Rates {
    /// Whether a peer may ask now.
    pub(super) fn admit(&self, peer: IpAddr, now: Instant) -> bool {
        let mut full = self.0.lock();
        if full.len() >= PEERS && !full.contains_key(&peer) {
            // One whose bucket is full is like one that never asked.
            full.retain(|_, full| *full > now);
            if full.len() >= PEERS {
                return false;
            }
        }
        let full = full.entry(peer).or_insert(now);
        let after = (*full).max(now) + INTERVAL;
        let is_admitted = after - now <= INTERVAL * BURST;
        if is_admitted {
            *full = after;
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    proptest! {
        #[test]
        fn in_no_stretch_of_time_more_requests_are_answered_than_the_rate_and_the_burst_allow(
            waits in prop::collection::vec(0u64..60, 0..600)
        ) {
            let (rates, mut now, mut admitted) = (Rates::default(), Instant::now(), Vec::new());
            for wait in waits {
                now += Duration::from_millis(wait);
                if rates.admit(PEER, now) {
                    admitted.push(now);
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let most = BURST as u128 + (*to - *from).as_millis() / INTERVAL.as_millis();
                    prop_assert!(((last - first) as u128) < most);
                }
            }
        }

        #[test]
        fn who_asks_at_the_rate_is_always_answered(requests in 0u32..1000) {
            let (rates, begin) = (Rates::default(), Instant::now());
            for request in 0..requests {
                prop_assert!(rates.admit(PEER, begin + INTERVAL * request));
            }
        }
    }

    #[test]
    fn peers_are_told_apart_and_forgotten_when_they_have_not_asked_for_a_while() {
        let (rates, now) = (Rates::default(), Instant::now());
        let peer = |number: u32| IpAddr::V4(Ipv4Addr::from(number));
        assert!((0..BURST).all(|_| rates.admit(peer(0), now)));
        assert!(!rates.admit(peer(0), now) && rates.admit(peer(1), now));
        assert!((2..PEERS as u32).all(|number| rates.admit(peer(number), now)));
        assert!(!rates.admit(peer(PEERS as u32), now));
        assert!(rates.admit(peer(PEERS as u32), now + INTERVAL));
    }
}
