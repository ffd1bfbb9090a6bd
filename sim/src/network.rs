//! Connections as QUIC makes them: ordered reliable channels and unreliable datagrams.
//!
//! A lost packet of a stream is repeated and makes the stream late, never incomplete. A closed path holds a
//! stream up until it opens again or the connection dies of silence, at another time at each end. What was on
//! its way when a connection dies is lost from some frame on, never from the middle.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use snomesh::gossip::{Channel, LinkId};
use snomesh::time::Moment;
use snomesh::wire::{Decoder, Encoder};

use crate::fault::Weather;
use crate::random::{self, Generator, Seed};
use crate::scenario::Net;

/// How long an end waits for any packet before it gives the connection up.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a handshake may take.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a handshake waits before it repeats its packets.
pub(crate) const HANDSHAKE_RETRY: Duration = Duration::from_secs(1);
/// What goes into one packet.
const PACKET: usize = 1_200;
/// The longest pause between two probes into a path that does not answer.
const MAX_PROBE: Duration = Duration::from_secs(4);

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    /// Whose.
    pub(crate) node: usize,
    /// In which of its lives.
    pub(crate) life: u32,
    /// Whether the node knows of it.
    pub(crate) state: EndState,
    /// When any packet came last.
    pub(crate) heard_at: Moment,
    /// Whether the news of its end is on its way.
    pub(crate) closing: bool,
}

/// Whether a node knows of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndState {
    /// Not yet.
    Coming,
    /// Yes.
    Up,
    /// Not any more.
    Gone,
}

/// A frame on its way.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) arrives_at: Moment,
    pub(crate) bytes: Vec<u8>,
}

/// One channel in one direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) frames: VecDeque<Frame>,
    last_arrival: Moment,
    /// Bytes that the writer has handed over and the reader has not taken.
    buffered: usize,
    /// Whether the core may send.
    pub(crate) writable: bool,
    /// Since when nothing moves.
    pub(crate) stalled_at: Option<Moment>,
    /// Whether that is only because its reader does not read: then it goes on at once when it does.
    pub(crate) unread: bool,
    /// What the writer remembers of what it said.
    pub(crate) encoder: Encoder,
    /// What the reader remembers of it.
    pub(crate) decoder: Decoder,
    /// A second writer that is told what the reader reads: it must write the same.
    pub(crate) shadow: Encoder,
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) pipes: [Pipe; 2],
    generator: Generator,
    /// When the last byte that was handed over will have been sent.
    free_at: Moment,
    path: Path,
    /// The state of the faults for which `path` was made.
    epoch: u64,
    datagrams: u64,
    /// The greatest number of a datagram that arrived.
    pub(crate) last_datagram: u64,
}

/// What a path does to packets at the moment.
#[derive(Debug, Clone, Copy)]
struct Path {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    duplicate: f64,
    bandwidth: u64,
}

/// A connection between two nodes: end 0 has dialled. Line 0 leads from end 0 to end 1, line 1 back.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [End; 2],
    pub(crate) lines: [Line; 2],
}

/// When a datagram arrives, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) number: u64,
    pub(crate) arrives_at: Option<Moment>,
    pub(crate) again_at: Option<Moment>,
    /// Whether there was no room for it.
    pub(crate) dropped: bool,
}

/// What becomes of a frame that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) arrives_at: Moment,
    /// Whether there is room for another.
    pub(crate) has_room: bool,
    /// How many packets of it are lost and repeated.
    pub(crate) lost: u64,
    /// Whether there was no room for it in front of the bandwidth, so that it comes late.
    pub(crate) dropped: bool,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    at: Moment,
    lost: u64,
    dropped: bool,
}

/// All connections that there ever were, and the paths under them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) connections: Vec<Connection>,
    seed: Seed,
    net: Net,
    bandwidth: u64,
    buffer: usize,
    queue: u64,
    region: Vec<Option<usize>>,
    delays: RefCell<BTreeMap<(usize, usize), Duration>>,
    /// How many connections there were between two nodes: what is drawn for one is keyed by them alone.
    between: BTreeMap<(usize, usize), u64>,
    /// Pipes in which nothing moves, and writers that wait while the way back is closed.
    pub(crate) stalled: Vec<(usize, usize, Channel)>,
}

/// The place of a channel among the pipes of a line.
pub(crate) fn place(channel: Channel) -> usize {
    match channel {
        Channel::Control => 0,
        Channel::Delta => 1,
    }
}

/// The core's name for an end of a connection.
pub(crate) fn link_of(connection: usize, end: usize) -> LinkId {
    LinkId(connection as u64 * 2 + end as u64)
}

/// The connection and the end that the core means.
pub(crate) fn end_of(link: LinkId) -> Option<(usize, usize)> {
    let number = usize::try_from(link.0).ok()?;
    Some((number / 2, number % 2))
}

impl Network {
    /// Starts without connections, for so many nodes.
    pub(crate) fn new(seed: Seed, net: &Net, count: usize) -> Self {
        let mut generator = seed.generator("network", &[]);
        let bandwidth = net.bandwidth.draw(&mut generator).0.max(1);
        let buffer = usize::try_from(net.buffer.draw(&mut generator).0.max(1)).unwrap_or(usize::MAX);
        let queue = net.queue.map_or(u64::MAX, |queue| queue.draw(&mut generator).0);
        let mut region = vec![None; count];
        for (number, set) in net.regions.iter().enumerate() {
            for node in set.resolve(count, &mut generator).unwrap_or_default() {
                region[node] = Some(number);
            }
        }
        Self {
            connections: Vec::new(),
            seed,
            net: net.clone(),
            bandwidth,
            buffer,
            queue,
            region,
            delays: RefCell::default(),
            between: BTreeMap::new(),
            stalled: Vec::new(),
        }
    }

    /// How long a packet takes between two nodes when all is well.
    pub(crate) fn delay(&self, one: usize, other: usize) -> Duration {
        let (low, high) = (one.min(other) as u64, one.max(other) as u64);
        let of_regions =
            self.region[one].zip(self.region[other]).map(|(from, to)| &self.net.between[from][to]);
        let delay = of_regions.unwrap_or(&self.net.delay);
        if delay.is_fixed() {
            return delay.low();
        }
        let mut drawn = self.delays.borrow_mut();
        // Regions may be farther in one direction than in the other.
        let pair = if of_regions.is_some() { (one, other) } else { (one.min(other), one.max(other)) };
        *drawn.entry(pair).or_insert_with(|| delay.draw(&mut self.seed.generator("delay", &[low, high])))
    }

    /// How long a packet takes now.
    pub(crate) fn delay_in(&self, one: usize, other: usize, weather: &Weather) -> Duration {
        weather.delay.unwrap_or_else(|| self.delay(one, other))
    }

    /// The chance that a packet of a handshake is lost.
    pub(crate) fn loss_in(&self, weather: &Weather) -> f64 {
        weather.loss.unwrap_or(self.net.loss.0)
    }

    /// Adds a connection; each end will be up at its time.
    pub(crate) fn connect(&mut self, ends: [(usize, u32); 2], ready: [Moment; 2]) -> usize {
        let number = self.connections.len();
        let pair = self.between.entry((ends[0].0, ends[1].0)).or_default();
        *pair += 1;
        let pair = *pair;
        let end = |at: usize| End {
            node: ends[at].0,
            life: ends[at].1,
            state: EndState::Coming,
            heard_at: ready[at],
            closing: false,
        };
        let path = Path {
            delay: self.delay(ends[0].0, ends[1].0),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            bandwidth: self.bandwidth,
        };
        let line = |from: usize| {
            let (one, other) = (ends[from].0 as u64, ends[1 - from].0 as u64);
            let pipe = || Pipe {
                frames: VecDeque::new(),
                last_arrival: ready[1 - from],
                buffered: 0,
                writable: true,
                stalled_at: None,
                unread: false,
                encoder: Encoder::new(),
                decoder: Decoder::new(),
                shadow: Encoder::new(),
            };
            Line {
                pipes: [pipe(), pipe()],
                generator: self.seed.generator("link", &[one, other, pair]),
                free_at: Moment(0),
                path,
                epoch: u64::MAX,
                datagrams: 0,
                last_datagram: 0,
            }
        };
        self.connections.push(Connection { ends: [end(0), end(1)], lines: [line(0), line(1)] });
        number
    }

    /// Brings what is known of a line's path up to date after the faults have changed.
    pub(crate) fn refresh(
        &mut self,
        connection: usize,
        line: usize,
        epoch: u64,
        weather: impl FnOnce(usize, usize) -> Weather,
    ) {
        let Connection { ends, lines } = &self.connections[connection];
        if lines[line].epoch == epoch {
            return;
        }
        let (one, other) = (ends[0].node, ends[1].node);
        let weather = weather(one, other);
        let delay = self.delay_in(one, other, &weather);
        let mut generator = self.seed.generator("jitter", &[]);
        let line = &mut self.connections[connection].lines[line];
        line.epoch = epoch;
        line.path = Path {
            delay,
            jitter: weather.jitter.unwrap_or_else(|| self.net.jitter.draw(&mut generator)),
            loss: weather.loss.unwrap_or(self.net.loss.0),
            duplicate: weather.duplicate.unwrap_or(self.net.duplicate.0),
            bandwidth: weather.bandwidth.map_or(self.bandwidth, |bandwidth| bandwidth.0.max(1)),
        };
    }

    /// Hands a frame over.
    pub(crate) fn send(
        &mut self,
        now: Moment,
        connection: usize,
        line: usize,
        channel: Channel,
        bytes: Vec<u8>,
    ) -> Sent {
        let buffer = self.buffer;
        let line = &mut self.connections[connection].lines[line];
        let Arrival { at: arrival, lost, dropped } = line.arrival(now, bytes.len(), true, self.queue);
        let pipe = &mut line.pipes[place(channel)];
        let arrives_at = arrival.max(pipe.last_arrival + Duration::from_nanos(1));
        pipe.last_arrival = arrives_at;
        pipe.buffered += bytes.len();
        pipe.writable = false;
        pipe.frames.push_back(Frame { arrives_at, bytes });
        Sent { arrives_at, has_room: pipe.buffered < buffer, lost, dropped }
    }

    /// Sends a datagram.
    pub(crate) fn datagram(&mut self, now: Moment, connection: usize, line: usize, len: usize) -> Flight {
        let line = &mut self.connections[connection].lines[line];
        line.datagrams += 1;
        let number = line.datagrams;
        if random::chance(&mut line.generator, line.path.loss) {
            return Flight { number, arrives_at: None, again_at: None, dropped: false };
        }
        let arrival = line.arrival(now, len, false, self.queue);
        if arrival.dropped {
            return Flight { number, arrives_at: None, again_at: None, dropped: true };
        }
        let twice = random::chance(&mut line.generator, line.path.duplicate);
        let again_at = if twice { Some(line.arrival(now, len, false, self.queue).at) } else { None };
        Flight { number, arrives_at: Some(arrival.at), again_at, dropped: false }
    }

    /// Takes the oldest frame out of a pipe, if it has arrived. Says whether its writer has room again, for
    /// which it had to wait.
    pub(crate) fn take(
        &mut self,
        now: Moment,
        connection: usize,
        line: usize,
        channel: Channel,
    ) -> Option<(Vec<u8>, bool)> {
        let buffer = self.buffer;
        let pipe = &mut self.connections[connection].lines[line].pipes[place(channel)];
        if pipe.frames.front()?.arrives_at > now {
            return None;
        }
        let frame = pipe.frames.pop_front()?;
        pipe.buffered -= frame.bytes.len();
        Some((frame.bytes, !pipe.writable && pipe.buffered < buffer))
    }

    /// Whether a pipe has room, for a writer that waits.
    pub(crate) fn has_room(&self, connection: usize, line: usize, channel: Channel) -> bool {
        self.connections[connection].lines[line].pipes[place(channel)].buffered < self.buffer
    }

    /// Nothing moves in a pipe until [`resume`](Self::resume).
    pub(crate) fn stall(&mut self, now: Moment, connection: usize, line: usize, channel: Channel) {
        let pipe = &mut self.connections[connection].lines[line].pipes[place(channel)];
        if pipe.stalled_at.is_none() {
            pipe.stalled_at = Some(now);
            self.stalled.push((connection, line, channel));
        }
    }

    /// A stalled pipe moves again: at once if only its reader had slept, else with the sender's next probe.
    /// Says when its frames arrive.
    pub(crate) fn resume(
        &mut self,
        now: Moment,
        connection: usize,
        line: usize,
        channel: Channel,
    ) -> Vec<Moment> {
        let line = &mut self.connections[connection].lines[line];
        let Line { pipes, generator, path, .. } = line;
        let pipe = &mut pipes[place(channel)];
        let Some(stalled_at) = pipe.stalled_at.take() else { return Vec::new() };
        let mut next = now;
        if !std::mem::take(&mut pipe.unread) {
            let longest = now.since(stalled_at).min(MAX_PROBE);
            next = next + random::duration(generator, Duration::ZERO, longest) + path.delay;
        }
        for frame in &mut pipe.frames {
            next = frame.arrives_at.max(next + Duration::from_nanos(1));
            frame.arrives_at = next;
        }
        pipe.last_arrival = pipe.last_arrival.max(next);
        pipe.frames.iter().map(|frame| frame.arrives_at).collect()
    }

    /// The writer of a line is gone: of what it had handed over, some end is lost. Says how many frames.
    pub(crate) fn cut(&mut self, connection: usize, line: usize) -> u64 {
        let line = &mut self.connections[connection].lines[line];
        let mut lost = 0;
        for pipe in &mut line.pipes {
            let kept = random::number(&mut line.generator, 0, pipe.frames.len() as u64);
            lost += pipe.frames.len() as u64 - kept;
            pipe.frames.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
        lost
    }

    /// The reader of a line is gone, and with it what was on its way. Says how many frames.
    pub(crate) fn drop_all(&mut self, connection: usize, line: usize) -> u64 {
        let pipes = &mut self.connections[connection].lines[line].pipes;
        pipes.iter_mut().map(|pipe| std::mem::take(&mut pipe.frames).len() as u64).sum()
    }
}

impl Line {
    /// When something of that length arrives that is handed over now, and how many of its packets are lost
    /// on the way if they are to be repeated.
    fn arrival(&mut self, now: Moment, len: usize, reliable: bool, queue: u64) -> Arrival {
        let transmission = Duration::from_nanos(len as u64 * 1_000_000_000 / self.path.bandwidth);
        let begin = now.max(self.free_at);
        let waiting = random::nanos(begin.since(now)).saturating_mul(self.path.bandwidth) / 1_000_000_000;
        let dropped = waiting > queue;
        if dropped && !reliable {
            return Arrival { at: now, lost: 0, dropped };
        }
        self.free_at = begin + transmission;
        let jitter = random::duration(&mut self.generator, Duration::ZERO, self.path.jitter);
        let mut at = self.free_at + self.path.delay + jitter;
        let mut lost = u64::from(dropped);
        if reliable && (self.path.loss > 0.0 || dropped) {
            // Found missing after a round trip and a bit, then sent again; at worst many times.
            let repeat = self.path.delay * 5 / 2 + Duration::from_millis(5);
            let mut worst = u32::from(dropped);
            for _ in 0..len.div_ceil(PACKET).max(1) {
                let mut times = 0u32;
                while times < 8 && random::chance(&mut self.generator, self.path.loss) {
                    times += 1;
                }
                worst = worst.max(times);
                lost += u64::from(times);
            }
            at = at + repeat * ((1 << worst) - 1);
        }
        Arrival { at, lost, dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Bytes, Chance, Drawn};

    const ENDS: [(usize, u32); 2] = [(0, 0), (1, 0)];

    fn network(change: impl FnOnce(&mut Net)) -> Network {
        let mut net = Net { jitter: Drawn::fixed(Duration::ZERO), ..Net::default() };
        change(&mut net);
        let mut network = Network::new(Seed(1), &net, 2);
        network.connect(ENDS, [Moment(0), Moment(0)]);
        network.refresh(0, 0, 0, |_, _| Weather::default());
        network
    }

    fn send(network: &mut Network, len: usize) -> (Moment, bool, u64) {
        let Sent { arrives_at, has_room, lost, .. } =
            network.send(Moment(0), 0, 0, Channel::Delta, vec![0; len]);
        (arrives_at, has_room, lost)
    }

    #[test]
    fn a_full_queue_drops_datagrams_and_makes_streams_late() {
        let slow = |net: &mut Net| {
            net.bandwidth = Drawn::fixed(Bytes(1_000));
            net.queue = Some(Drawn::fixed(Bytes(100)));
        };
        let (mut full, mut empty) = (network(slow), network(slow));
        send(&mut full, 500);
        assert!(full.datagram(Moment(0), 0, 0, 10).dropped && !empty.datagram(Moment(0), 0, 0, 10).dropped);
        assert_eq!((send(&mut full, 10).2, send(&mut empty, 10).2), (1, 0));
    }

    #[test]
    fn regions_are_as_far_from_each_other_as_the_matrix_says() {
        let fixed = |millis| Drawn::fixed(Duration::from_millis(millis));
        let network = network(|net| {
            net.regions = vec![crate::scenario::NodeSet::of([0]), crate::scenario::NodeSet::of([1])];
            net.between = vec![vec![fixed(1), fixed(80)], vec![fixed(70), fixed(2)]];
        });
        let delay = |one, other| network.delay(one, other).as_millis();
        assert_eq!((delay(0, 0), delay(0, 1), delay(1, 0), delay(1, 1)), (1, 80, 70, 2));
    }

    #[test]
    fn frames_take_delay_and_bandwidth_and_stay_in_order() {
        let mut network = network(|net| net.bandwidth = Drawn::fixed(Bytes(1_000)));
        let (first, ..) = send(&mut network, 500);
        let (second, ..) = send(&mut network, 500);
        assert_eq!(first, Moment(0) + Duration::from_millis(510));
        assert_eq!(second, Moment(0) + Duration::from_millis(1_010));
        assert!(network.take(Moment(0), 0, 0, Channel::Delta).is_none());
        assert_eq!(network.take(first, 0, 0, Channel::Delta).unwrap().0.len(), 500);
    }

    #[test]
    fn loss_makes_streams_late_and_datagrams_rare() {
        let mut network = network(|net| net.loss = Chance(0.5));
        let sent: Vec<_> = (0..100).map(|_| send(&mut network, 10)).collect();
        assert!(sent.iter().map(|(.., lost)| lost).sum::<u64>() > 20);
        assert!(sent.windows(2).all(|two| two[0].0 < two[1].0));
        let arrived = (0..100).filter(|_| network.datagram(Moment(0), 0, 0, 10).arrives_at.is_some()).count();
        assert!((20..80).contains(&arrived), "{arrived}");
    }

    #[test]
    fn datagrams_come_twice_when_they_should() {
        let mut network = network(|net| net.duplicate = Chance(1.0));
        assert!(network.datagram(Moment(0), 0, 0, 10).again_at.is_some());
    }

    #[test]
    fn a_full_buffer_makes_its_writer_wait_until_the_reader_took_enough() {
        let mut network = network(|net| net.buffer = Drawn::fixed(Bytes(100)));
        assert!(send(&mut network, 60).1);
        let (arrives_at, has_room, _) = send(&mut network, 60);
        assert!(!has_room);
        assert_eq!(network.take(arrives_at, 0, 0, Channel::Delta).unwrap(), (vec![0; 60], true));
    }

    #[test]
    fn a_stalled_pipe_goes_on_with_everything_in_order() {
        let mut network = network(|_| ());
        send(&mut network, 10);
        send(&mut network, 20);
        network.stall(Moment(0), 0, 0, Channel::Delta);
        let later = Moment(0) + Duration::from_secs(3);
        let arrivals = network.resume(later, 0, 0, Channel::Delta);
        assert!(arrivals[0] > later && arrivals[0] < arrivals[1]);
        assert!(network.resume(later, 0, 0, Channel::Delta).is_empty());
    }

    #[test]
    fn a_cut_loses_the_end_and_not_the_middle() {
        let mut network = network(|_| ());
        for len in 1..=20 {
            send(&mut network, len);
        }
        let lost = network.cut(0, 0);
        let left = &network.connections[0].lines[0].pipes[1].frames;
        assert!(lost > 0 && left.iter().zip(1..).all(|(frame, len)| frame.bytes.len() == len));
        assert_eq!(network.drop_all(0, 0) + lost, 20);
    }

    #[test]
    fn weather_changes_a_path_and_its_end_restores_it() {
        let mut network = network(|_| ());
        let slow = Weather { delay: Some(Duration::from_secs(1)), ..Weather::default() };
        network.refresh(0, 0, 1, |_, _| slow);
        assert!(send(&mut network, 1).0 > Moment(0) + Duration::from_secs(1));
        network.refresh(0, 0, 2, |_, _| Weather::default());
        assert!(
            network.datagram(Moment(0), 0, 0, 1).arrives_at < Some(Moment(0) + Duration::from_millis(20))
        );
    }
}
