//! How fast a peer may open streams that come to nothing.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket of tokens, refilled steadily.
///
/// Every stream that a peer opens takes one, and gives it back when it turns out to be a request that somebody serves.
/// What is opened and reset, malformed, refused or fails is paid for. An empty bucket holds up the accepting: the peer's
/// streams wait at the peer, nothing is dropped, and other tunnels do not notice.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time between two tokens.
    interval: Duration,
    burst: u32,
    /// When the bucket would be full: the tokens that are missing are those until then.
    full_at: Instant,
    /// Streams of late, and those of them that did not even say what they were for.
    opened: u32,
    senseless: u32,
}

/// So many streams are looked at before a peer is judged by them; those of long ago count ever less.
const SAMPLE: u32 = 1_000;

impl Pace {
    /// A full bucket of `burst` tokens that gets `rate` a second.
    pub(super) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / rate.max(1), burst, full_at: now, opened: 0, senseless: 0 }
    }

    /// Takes a token; when it is there. Later than `now` means: wait until then.
    pub(super) fn take(&mut self, now: Instant) -> Instant {
        if self.opened >= 2 * SAMPLE {
            (self.opened, self.senseless) = (self.opened / 2, self.senseless / 2);
        }
        self.opened += 1;
        let ready = (self.full_at + self.interval).checked_sub(self.interval * self.burst).unwrap_or(now);
        self.full_at = self.full_at.max(now) + self.interval;
        ready.max(now)
    }

    /// Gives a token back.
    pub(super) fn give_back(&mut self, now: Instant) {
        self.full_at = self.full_at.checked_sub(self.interval).unwrap_or(now).max(now);
    }

    /// Notes a stream that ended before it had said what it was for, or that said nothing that makes sense. Whether that
    /// is what this peer mostly does: no honest one does it at all, whatever its visitors do.
    pub(super) fn is_abused_again(&mut self) -> bool {
        self.senseless += 1;
        self.opened >= SAMPLE && self.senseless > self.opened / 2
    }

    /// Takes a token that is not waited for: those who come next pay.
    pub(super) fn charge(&mut self, now: Instant) {
        // No deeper into debt than a bucket: whoever mends his ways is served again within reason.
        let deepest = now + self.interval * self.burst * 2;
        self.full_at = (self.full_at.max(now) + self.interval).min(deepest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_then_it_is_so_many_a_second() {
        let begin = Instant::now();
        let mut pace = Pace::new(200, 400, begin);
        for _ in 0..400 {
            assert_eq!(pace.take(begin), begin);
        }
        for number in 1..=200 {
            assert_eq!(pace.take(begin), begin + number * Duration::from_millis(5));
        }
        // A minute later it is full again, and holds no more than that.
        let later = begin + Duration::from_secs(60);
        let free = (0..1_000).filter(|_| pace.take(later) == later).count();
        assert_eq!(free, 400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_judged_by_a_thousand_streams_and_by_what_it_does_of_late() {
        let now = Instant::now();
        let mut pace = Pace::new(10, 2, now);
        let mut open = |senseless: bool| {
            pace.take(now);
            senseless && pace.is_abused_again()
        };
        assert!((0..999).all(|_| !open(true)), "too few to judge");
        assert!(open(true));
        let mut pace = Pace::new(10, 2, now);
        let mut open = |senseless: bool| {
            pace.take(now);
            senseless && pace.is_abused_again()
        };
        assert!((0..10_000).all(|number| !open(number % 2 == 1)), "half of them is not most");
        assert!((0..2_000).any(|_| open(true)), "a good name does not last for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_costs_nothing_and_a_debt_has_an_end() {
        let begin = Instant::now();
        let mut pace = Pace::new(10, 2, begin);
        for _ in 0..1_000 {
            assert_eq!(pace.take(begin), begin);
            pace.give_back(begin);
        }
        for _ in 0..1_000 {
            pace.charge(begin);
        }
        assert_eq!(pace.take(begin), begin + Duration::from_millis(300));
    }
}
