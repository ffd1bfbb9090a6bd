//! How much of a connection may be on its way: CUBIC (RFC 9438) that does not fill the path's buffers.
//!
//! What is on its way stands before a small message of another stream, whatever its priority: it has been sent. CUBIC sends
//! until something is lost, which in a network with large buffers, and on loopback, is until the streams' windows end
//! it. So the window is bounded as BBR bounds its own (Cardwell et al., *BBR: Congestion-Based Congestion Control*,
//! ACM Queue 2016): twice what the path carries in its shortest round trip, and [`FLOOR`] beside that. Losses are
//! CUBIC's alone.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// What may be on its way in any case, in bytes. A busy machine answers late without any buffer being full: with so much on
/// its way loopback is as fast there as with four times that.
const FLOOR: u64 = 128 * 1024;
/// What may be on its way while the shortest round trip is looked for, in bytes.
const PROBE_WINDOW: u64 = 64 * 1024;
/// How long the shortest round trip is believed: paths change.
const BELIEVED: Duration = Duration::from_secs(10);
/// How many rounds the highest rate is remembered for.
const ROUNDS: usize = 10;
/// A round takes no less, or what one wake-up of a task brings would be taken for a rate.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);

/// Makes controllers for new connections and paths.
#[derive(Debug, Default)]
pub(super) struct BoundedConfig(Arc<CubicConfig>);

impl ControllerFactory for BoundedConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bounded::new(Cubic::new(Arc::clone(&self.0), now, current_mtu), now))
    }
}

/// A congestion controller within the path's bounds.
#[derive(Debug, Clone)]
struct Bounded<C> {
    inner: C,
    path: Path,
}

impl<C> Bounded<C> {
    fn new(inner: C, now: Instant) -> Self {
        Self { inner, path: Path::new(now) }
    }
}

impl<C: Controller + Clone + 'static> Controller for Bounded<C> {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.path.acknowledged(now, sent, bytes, app_limited);
        // A window that is not used says nothing about the path, and must not grow (RFC 9002, section 7.8).
        let unused = app_limited || self.inner.window() > self.path.bound();
        self.inner.on_ack(now, sent, bytes, unused, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.path.batch_ended(now);
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().min(self.path.bound())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What a path shows of itself.
#[derive(Debug, Clone)]
struct Path {
    round: Round,
    /// What the last rounds carried, in bytes a second.
    rates: VecDeque<u64>,
    /// The shortest round trip, and when it was measured.
    shortest: Option<(Duration, Instant)>,
    /// Since when the shortest round trip is looked for: what was sent from then on found hardly anything before it.
    probing_since: Option<Instant>,
}

/// What was acknowledged since when.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    bytes: u64,
    /// Whether the path could have carried more.
    limited: bool,
}

impl Path {
    fn new(now: Instant) -> Self {
        let round = Round { began: now, bytes: 0, limited: false };
        Self { round, rates: VecDeque::with_capacity(ROUNDS), shortest: None, probing_since: None }
    }

    /// How much may be on its way.
    fn bound(&self) -> u64 {
        if self.probing_since.is_some() {
            return PROBE_WINDOW;
        }
        let rate = self.rates.iter().max().copied().unwrap_or(0);
        let trip = self.shortest.map_or(Duration::ZERO, |(trip, _)| trip);
        let carried = u128::from(rate) * trip.as_nanos() / 1_000_000_000;
        FLOOR.saturating_add(u64::try_from(2 * carried).unwrap_or(u64::MAX))
    }

    /// A packet was acknowledged.
    fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        self.round.bytes += bytes;
        self.round.limited |= app_limited;
        let trip = now.saturating_duration_since(sent);
        let is_clean = self.probing_since.is_some_and(|since| sent >= since);
        if is_clean || self.shortest.is_none_or(|(shortest, _)| trip <= shortest) {
            self.shortest = Some((trip, now));
            self.probing_since = None;
        }
    }

    /// All that one message of the peer's acknowledged has been taken note of.
    fn batch_ended(&mut self, now: Instant) {
        self.end_round(now);
        let is_old = self.shortest.is_some_and(|(_, at)| now.saturating_duration_since(at) >= BELIEVED);
        if is_old && self.probing_since.is_none() {
            self.probing_since = Some(now);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let least = self.shortest.map_or(SHORTEST_ROUND, |(trip, _)| trip.max(SHORTEST_ROUND));
        let Round { began, bytes, limited } = self.round;
        let took = now.saturating_duration_since(began);
        if took < least {
            return;
        }
        self.round = Round { began: now, bytes: 0, limited: false };
        // The path was at rest in between, or the machine was.
        if took > least * 8 {
            return;
        }
        let rate = u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        if !limited || self.rates.iter().all(|known| *known < rate) {
            self.rates.truncate(ROUNDS - 1);
            self.rates.push_front(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1_200;

    /// A path whose buffer takes anything, and a sender that always has something to send and loses nothing: for the
    /// window there is nothing but the bound.
    struct Line {
        now: Instant,
        path: Path,
        /// Bytes a second.
        rate: u64,
        /// There and back, with nothing in the buffer.
        trip: Duration,
        /// When the buffer will be empty.
        free_at: Instant,
        /// What is on its way: sent, acknowledged.
        packets: VecDeque<(Instant, Instant)>,
        most: u64,
        carried: u64,
    }

    impl Line {
        fn new(rate: u64, trip: Duration) -> Self {
            let now = Instant::now();
            let path = Path::new(now);
            Self { now, path, rate, trip, free_at: now, packets: VecDeque::new(), most: 0, carried: 0 }
        }

        fn in_flight(&self) -> u64 {
            self.packets.len() as u64 * PACKET
        }

        /// Sends for so long whatever the window allows; says how many bytes arrived, and how many were on their way at most.
        fn run(&mut self, for_: Duration) -> (u64, u64) {
            let end = self.now + for_;
            (self.most, self.carried) = (0, 0);
            while self.now < end {
                while self.in_flight() + PACKET <= self.path.bound() {
                    let takes = Duration::from_nanos(PACKET * 1_000_000_000 / self.rate);
                    self.free_at = self.free_at.max(self.now) + takes;
                    self.packets.push_back((self.now, self.free_at + self.trip));
                }
                self.most = self.most.max(self.in_flight());
                // A message acknowledges two packets.
                let acknowledged: Vec<_> = self.packets.drain(..2).collect();
                self.now = self.now.max(acknowledged[1].1);
                for (sent, _) in acknowledged {
                    self.path.acknowledged(self.now, sent, PACKET, false);
                    self.carried += PACKET;
                }
                self.path.batch_ended(self.now);
            }
            (self.carried, self.most)
        }

        /// Asks something small every so often, for so long.
        fn ask(&mut self, every: Duration, for_: Duration) {
            let end = self.now + for_;
            self.packets.clear();
            while self.now < end {
                let sent = self.now;
                self.now += self.trip;
                self.path.acknowledged(self.now, sent, PACKET, true);
                self.path.batch_ended(self.now);
                self.now += every;
            }
            self.free_at = self.now;
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_path_is_kept_busy_and_its_buffer_is_not_filled() {
        // A loopback, a town, a continent.
        for (rate, trip) in [(1_000_000_000, 50), (100_000_000, 2_000), (12_500_000, 80_000)] {
            let trip = Duration::from_micros(trip);
            let mut line = Line::new(rate, trip);
            line.run(SECOND);
            let (carried, most) = line.run(SECOND);
            let held = u64::try_from(u128::from(rate) * trip.as_nanos() / 1_000_000_000).unwrap();
            assert!(carried >= rate / 100 * 98, "{carried} of {rate} bytes");
            // The shortest trip includes the time that the packet itself takes.
            assert!(
                most <= FLOOR + 2 * held + held / 5 + 4 * PACKET,
                "{most} on their way, the path holds {held}"
            );
        }
    }

    #[test]
    fn a_path_that_becomes_longer_is_kept_busy_after_a_while() {
        let mut line = Line::new(100_000_000, Duration::from_millis(1));
        line.run(2 * SECOND);
        line.trip = Duration::from_millis(100);
        line.run(15 * SECOND);
        let (carried, _) = line.run(4 * SECOND);
        assert!(carried >= 380_000_000, "{carried} of 400,000,000 bytes");
    }

    #[test]
    fn a_long_transfer_does_not_take_its_own_queue_for_the_path() {
        let mut line = Line::new(1_000_000_000, Duration::from_micros(50));
        let (carried, most) = line.run(25 * SECOND);
        assert!(most <= FLOOR + 300_000, "{most} on their way");
        assert!(carried >= 24_500_000_000, "{carried} of 25,000,000,000 bytes");
    }

    #[test]
    fn a_connection_that_is_not_busy_learns_the_round_trip_without_being_held_up() {
        let mut line = Line::new(100_000_000, Duration::from_millis(1));
        line.run(SECOND);
        line.trip = Duration::from_millis(30);
        line.ask(SECOND / 20, 12 * SECOND);
        assert_eq!(line.path.shortest.map(|(trip, _)| trip), Some(line.trip));
        assert_eq!(line.path.probing_since, None);
        // What is said now and then says nothing of the rate.
        assert!(line.path.bound() > 6_000_000, "{}", line.path.bound());
    }
}
