//! How much of what was sent on a link's delta channel may be on its way.
//!
//! A transport takes what it is given into buffers, be they of megabytes: what waits there is state as it was, and a
//! later and better frame waits behind it. So the peer says how much it has taken, and not much more than what the
//! path holds (the bandwidth-delay product; the rule is that of BBR: Cardwell et al., "BBR: Congestion-Based Congestion
//! Control", ACM Queue 14(5), 2016) is sent beyond that. A link that carries little is never asked to say anything.

use std::time::Duration;

use crate::time::Moment;

/// What may be on its way however slow the path is; the peer speaks after half of it.
pub(super) const MIN_WINDOW: u64 = 8 * 1024;
/// With which window a link begins.
const FIRST_WINDOW: u64 = 64 * 1024;
/// What is never exceeded.
const MAX_WINDOW: u64 = 8 * 1024 * 1024;
/// A frame below this is one of many while its author goes on writing: the next one gathers for a while.
const SMALL: u64 = 4 * 1024;
/// What a small frame costs its sender and its receiver of a processor's time, about, with all that carries it.
const FRAME_COST: Duration = Duration::from_micros(25);
/// To gather for less is not worth a wake-up.
const MIN_GATHER: Duration = Duration::from_micros(200);
/// How often the path's own delay is measured anew: for a round, hardly anything is on its way.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The sender's end. Sizes are those of [`Message::weight`](super::Message::weight).
#[derive(Debug)]
pub(super) struct Window {
    sent: u64,
    taken: u64,
    limit: u64,
    /// Something was not sent for want of room since the round began.
    is_short: bool,
    round: Option<Round>,
    /// The shortest round since the last probe, and before.
    shortest: [Option<Duration>; 2],
    probed_at: Moment,
    /// The limit that counts again after the probe that is under way.
    suspended: Option<u64>,
    /// Whether the transport takes a frame.
    is_writable: bool,
    /// Until when what is to be sent next gathers.
    gathers_until: Option<Moment>,
}

/// From when something is sent until the peer has taken it.
#[derive(Debug)]
struct Round {
    began_at: Moment,
    /// What had been taken then, and what is to be taken by the end.
    from: u64,
    until: u64,
}

impl Window {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            sent: 0,
            taken: 0,
            limit: FIRST_WINDOW,
            is_short: false,
            round: None,
            shortest: [None; 2],
            probed_at: now,
            suspended: None,
            is_writable: true,
            gathers_until: None,
        }
    }

    /// The transport takes a frame.
    pub(super) fn set_writable(&mut self) {
        self.is_writable = true;
    }

    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Takes the room for a frame and says how large it may be about; nothing if the transport takes none or too much is
    /// on its way.
    pub(super) fn take_room(&mut self, budget: usize) -> Option<usize> {
        if !self.is_writable {
            return None;
        }
        if self.sent - self.taken >= self.limit {
            self.is_short = true;
            return None;
        }
        self.is_writable = false;
        // A frame as large as the window would fill it, and nothing would be on its way while the peer answers.
        usize::try_from(self.limit / 2).ok().map(|room| room.min(budget))
    }

    /// There was nothing to fill the room with.
    pub(super) fn give_back(&mut self) {
        self.is_writable = true;
    }

    /// A frame was sent.
    pub(super) fn add(&mut self, weight: u64, now: Moment) {
        self.sent += weight;
        if self.round.is_none() {
            self.round = Some(Round { began_at: now, from: self.taken, until: self.sent });
        }
    }

    /// A frame like that went to each of `links` peers, or is about to: if it was a small one, the next waits for as long as
    /// all of them cost. So whoever writes without a pause, or passes on what many write, is done with a few large frames
    /// instead of spending a whole processor on small ones; after a rest the first one goes at once.
    pub(super) fn gather(&mut self, weight: u64, links: usize, now: Moment) {
        let cost = FRAME_COST * u32::try_from(links).unwrap_or(u32::MAX);
        self.gathers_until = (weight < SMALL && cost >= MIN_GATHER).then(|| now + cost);
    }

    /// Until when what is to be sent gathers.
    pub(super) fn gathers_until(&self, now: Moment) -> Option<Moment> {
        self.gathers_until.filter(|until| *until > now)
    }

    /// The peer has taken so much since the link began. It cannot have taken what was not sent.
    pub(super) fn acknowledge(&mut self, taken: u64, now: Moment) {
        self.taken = self.taken.max(taken.min(self.sent));
        let Some(round) = self.round.take_if(|round| self.taken >= round.until) else { return };
        let lasted = now.since(round.began_at);
        let [latest, _] = &mut self.shortest;
        *latest = Some(latest.map_or(lasted, |shortest| shortest.min(lasted)));
        if let Some(limit) = self.suspended.take() {
            self.limit = limit;
        } else if std::mem::take(&mut self.is_short) {
            self.adapt(self.taken - round.from, lasted);
        }
        if now.since(self.probed_at) >= PROBE_INTERVAL {
            self.probed_at = now;
            self.shortest = [None, self.shortest[0]];
            self.suspended = Some(std::mem::replace(&mut self.limit, MIN_WINDOW));
        }
    }

    /// Twice what the path holds: so the next frames are there when the peer has taken these.
    fn adapt(&mut self, taken: u64, lasted: Duration) {
        let shortest = self.shortest.iter().flatten().min().copied().unwrap_or(lasted);
        let path = u128::from(taken) * shortest.as_nanos() / lasted.as_nanos().max(1);
        let limit = u64::try_from(2 * path).unwrap_or(MAX_WINDOW);
        self.limit = limit.clamp(MIN_WINDOW, MAX_WINDOW);
    }

    /// How much is on its way.
    #[cfg(test)]
    pub(super) fn on_its_way(&self) -> u64 {
        self.sent - self.taken
    }
}

/// The receiver's end.
#[derive(Debug, Default)]
pub(super) struct Taken {
    total: u64,
    told: u64,
}

impl Taken {
    /// A frame was taken. Says whether the sender may be waiting to hear of it.
    pub(super) fn add(&mut self, weight: u64) -> bool {
        self.total += weight;
        self.is_news()
    }

    fn is_news(&self) -> bool {
        self.total - self.told >= MIN_WINDOW / 2
    }

    /// What to tell the sender, if it is time to.
    pub(super) fn news(&mut self) -> Option<u64> {
        self.is_news().then(|| {
            self.told = self.total;
            self.total
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that takes one frame after another at a rate, and a peer that answers at once.
    struct Path {
        delay: Duration,
        bytes_per_s: u64,
        free_at: Moment,
        /// What arrives when, in all.
        arrivals: std::collections::VecDeque<(Moment, u64)>,
    }

    /// Sends as much as the window lets for some time; says what arrived, and the most that was on its way in the end.
    fn flood(window: &mut Window, path: &mut Path, from: Moment, lasts: Duration) -> (u64, u64) {
        let (mut now, mut taken) = (from, Taken { total: window.taken, told: window.taken });
        let (begin, mut most) = (window.taken, 0);
        while now.since(from) < lasts {
            while let Some(room) = window.take_room(65_536) {
                let weight = room as u64;
                window.add(weight, now);
                window.set_writable();
                let begins_at = path.free_at.max(now);
                path.free_at = begins_at + Duration::from_nanos(weight * 1_000_000_000 / path.bytes_per_s);
                path.arrivals.push_back((path.free_at + path.delay, weight));
            }
            if now.since(from) > lasts / 2 {
                most = most.max(window.on_its_way());
            }
            let (at, weight) = path.arrivals.pop_front().expect("something is on its way");
            now = at;
            if taken.add(weight)
                && let Some(total) = taken.news()
            {
                // The answer takes the way back while the next frames come.
                window.acknowledge(total, now + path.delay);
            }
        }
        (window.taken - begin, most)
    }

    fn path(millis: u64, bytes_per_s: u64) -> Path {
        let delay = Duration::from_millis(millis);
        Path { delay, bytes_per_s, free_at: Moment(0), arrivals: std::collections::VecDeque::new() }
    }

    #[test]
    fn little_waits_on_a_slow_path_and_a_long_one_is_filled() {
        // At 16 KiB/s with 10 ms there and back the path holds nothing worth speaking of; at 100 MB/s with 100 ms it holds 10 MB.
        for (mut path, least, bound) in [
            (path(10, 16 * 1024), 0.9, 3 * MIN_WINDOW + 2_048),
            (path(50, 1_000_000), 0.9, 400_000),
            (path(50, 50_000_000), 0.7, 2 * MAX_WINDOW),
        ] {
            let mut window = Window::new(Moment(0));
            let (arrived, most) = flood(&mut window, &mut path, Moment(0), Duration::from_secs(60));
            let possible = path.bytes_per_s as f64 * 60.0;
            assert!(arrived as f64 > least * possible, "{arrived} of {possible}");
            assert!(most <= bound, "{most} were on their way at {} B/s", path.bytes_per_s);
        }
    }

    #[test]
    fn a_path_that_grew_longer_is_filled_again() {
        let mut window = Window::new(Moment(0));
        let mut short = path(5, 1_000_000);
        flood(&mut window, &mut short, Moment(0), Duration::from_secs(15));
        let mut long = path(200, 1_000_000);
        let from = Moment(16_000_000_000);
        window.acknowledge(u64::MAX, from);
        let (arrived, _) = flood(&mut window, &mut long, from, Duration::from_secs(60));
        assert!(arrived > 40_000_000, "{arrived} of 60,000,000");
    }

    #[test]
    fn what_was_not_sent_cannot_be_taken() {
        let mut window = Window::new(Moment(0));
        window.add(100, Moment(0));
        window.acknowledge(u64::MAX, Moment(1));
        assert_eq!((window.taken, window.on_its_way()), (100, 0));
        window.acknowledge(1, Moment(2));
        assert_eq!(window.taken, 100);
    }

    #[test]
    fn who_takes_little_says_nothing() {
        let mut taken = Taken::default();
        assert!(!taken.add(MIN_WINDOW / 2 - 1));
        assert_eq!(taken.news(), None);
        assert!(taken.add(1));
        assert_eq!(taken.news(), Some(MIN_WINDOW / 2));
        assert_eq!(taken.news(), None);
    }
}
