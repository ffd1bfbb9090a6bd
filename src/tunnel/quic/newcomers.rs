//! Strangers at the door: how many connections of one network are taken, and at what price.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Attempts of one network within [`SHORT`] above which it first has to prove its address.
const FREE: u32 = 8;
const SHORT: Duration = Duration::from_secs(10);
/// Attempts of one network within [`LONG`] above which it gets no answer.
const MAX: u32 = 60;
const LONG: Duration = Duration::from_secs(60);
/// Networks that are remembered. With more than that about, all newcomers have to prove their addresses.
const MAX_NETWORKS: usize = 4096;

/// What to do with a connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    Take,
    /// Take it once it has shown that its address is its own.
    Prove,
    Ignore,
}

/// Counts attempts per /24 of IPv4 and per /56 of IPv6.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    networks: HashMap<u64, Attempts>,
}

#[derive(Debug)]
struct Attempts {
    short: Window,
    long: Window,
}

/// Attempts since a moment; begins anew when that lies too far back.
#[derive(Debug)]
struct Window {
    since: Instant,
    count: u32,
}

impl Window {
    fn count(&mut self, now: Instant, length: Duration) -> u32 {
        if now.duration_since(self.since) >= length {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

impl Newcomers {
    /// Counts an attempt and judges it. Those from this very machine are always taken.
    pub(super) fn judge(&mut self, address: IpAddr, now: Instant) -> Treatment {
        let address = address.to_canonical();
        if address.is_loopback() {
            return Treatment::Take;
        }
        let network = network(address);
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(&network) {
            self.networks.retain(|_, attempts| now.duration_since(attempts.long.since) < LONG);
            if self.networks.len() >= MAX_NETWORKS {
                return Treatment::Prove;
            }
        }
        let fresh = || Window { since: now, count: 0 };
        let attempts =
            self.networks.entry(network).or_insert_with(|| Attempts { short: fresh(), long: fresh() });
        let (short, long) = (attempts.short.count(now, SHORT), attempts.long.count(now, LONG));
        if long > MAX {
            Treatment::Ignore
        } else if short > FREE {
            Treatment::Prove
        } else {
            Treatment::Take
        }
    }
}

/// The network of an address; the two families differ in their highest bits, as no IPv6 address in use begins with 0.
fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, ..] = v6.octets();
            u64::from_be_bytes([a, b, c, d, e, f, g, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_busy_network_has_to_prove_itself_and_then_is_ignored() {
        let (mut newcomers, start) = (Newcomers::default(), Instant::now());
        for attempt in 1..=70 {
            let expected = match attempt {
                1..=8 => Treatment::Take,
                9..=60 => Treatment::Prove,
                _ => Treatment::Ignore,
            };
            assert_eq!(newcomers.judge(address("192.0.2.1"), start), expected, "{attempt}");
        }
        assert_eq!(newcomers.judge(address("::ffff:192.0.2.200"), start), Treatment::Ignore);
        assert_eq!(newcomers.judge(address("192.0.3.1"), start), Treatment::Take);
        assert_eq!(newcomers.judge(address("2001:db8::1"), start), Treatment::Take);
        assert_eq!(newcomers.judge(address("192.0.2.1"), start + LONG), Treatment::Take);
    }

    #[test]
    fn this_machine_is_never_a_stranger() {
        let mut newcomers = Newcomers::default();
        for _ in 0..100 {
            assert_eq!(newcomers.judge(address("127.0.0.1"), Instant::now()), Treatment::Take);
        }
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let (mut newcomers, start) = (Newcomers::default(), Instant::now());
        for network in 0..5000_u32 {
            newcomers.judge(IpAddr::V4((0x0a00_0000 + (network << 8)).into()), start);
        }
        assert_eq!(newcomers.networks.len(), MAX_NETWORKS);
        assert_eq!(newcomers.judge(address("192.0.2.1"), start), Treatment::Prove);
        assert_eq!(newcomers.judge(address("192.0.2.1"), start + LONG), Treatment::Take);
        assert_eq!(newcomers.networks.len(), 1);
    }
}
