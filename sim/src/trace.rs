//! What happened, as one hash and, on request, as text.
//!
//! Everything observable goes into the hash: when, where, what and the bytes. Two runs are the same run when
//! their hashes are. The last records are kept for the report of a violation; all of them are written as JSON
//! lines, as a log or as a picture when somebody wants to read them. *Notes* are measurements: they go to the
//! readers and not into the hash.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use snomesh::gossip::Message;
use snomesh::time::Moment;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::random::Seed;
use crate::timeline::Timeline;

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Start,
    Crash,
    Left,
    Timeout,
    Dial,
    DialFailed,
    LinkUp,
    LinkDown,
    Close,
    Send,
    Deliver,
    Datagram,
    Heard,
    Malformed,
    Writable,
    Persist,
    Persisted,
    Set,
    Unset,
    Register,
    Deregister,
    Count,
    Add,
    Discard,
    Event,
    Look,
    Lagged,
    FaultBegins,
    FaultEnds,
    Heal,
    Agreed,
    Diverged,
    Violation,
    /// A note: how many different states there are among how many nodes.
    Digests,
    /// A note: a write was seen for the first time, so many nanoseconds after it was made.
    Seen,
    /// A note: the run is over, and so much did not hold.
    Over,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// When.
    pub(crate) at: Moment,
    /// At which node, if at one.
    pub(crate) node: Option<usize>,
    /// What.
    pub(crate) kind: Kind,
    /// With what: a link, a peer, a number; depends on the kind.
    pub(crate) a: u64,
    /// With what else.
    pub(crate) b: u64,
    /// A short text or bytes of the record, their beginning.
    text: [u8; 24],
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12} s  ", self.at.to_string())?;
        match self.node {
            Some(node) => write!(f, "n{node:<3} ")?,
            None => f.write_str("     ")?,
        }
        let kind = serde_json::to_value(self.kind).ok();
        write!(f, "{:<12}", kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default())?;
        match self.kind {
            Kind::Send | Kind::Deliver | Kind::Datagram | Kind::Heard | Kind::Malformed => {
                write!(f, "peer n{}, {} bytes", self.a, self.b)
            }
            Kind::LinkUp | Kind::LinkDown | Kind::Close | Kind::Dial | Kind::DialFailed | Kind::Writable => {
                write!(f, "peer n{}, link {}", self.a, self.b)
            }
            Kind::Set
            | Kind::Unset
            | Kind::Count
            | Kind::Add
            | Kind::Discard
            | Kind::Look
            | Kind::Event
            | Kind::Violation => Ok(()),
            _ => write!(f, "{} {}", self.a, self.b),
        }?;
        let text = if self.kind.has_text() { printable(&self.text) } else { String::new() };
        if text.is_empty() { Ok(()) } else { write!(f, " {text}") }
    }
}

impl Kind {
    /// Whether the bytes of such a record are a text.
    fn has_text(self) -> bool {
        !self.has_message() && self != Self::Persist
    }

    /// Whether such a record is about a message on its way.
    fn has_message(self) -> bool {
        matches!(self, Self::Send | Self::Deliver | Self::Datagram | Self::Heard)
    }
}

fn printable(bytes: &[u8]) -> String {
    let printable = bytes.iter().take_while(|byte| byte.is_ascii_graphic() || **byte == b' ');
    printable.map(|byte| char::from(*byte)).collect()
}

/// What a message is called.
pub(crate) fn kind_of(message: &Message) -> Cow<'static, str> {
    match message {
        Message::Delta(_) => Cow::Borrowed("delta"),
        Message::Heartbeat { .. } => Cow::Borrowed("heartbeat"),
        other => {
            let text = format!("{other:?}");
            let name = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            Cow::Owned(name.to_ascii_lowercase())
        }
    }
}

/// What a record says, for people and pictures.
fn meaning(kind: Kind, bytes: &[u8], message: Option<&Message>) -> String {
    if kind.has_text() {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    message.map(|message| kind_of(message).into_owned()).unwrap_or_default()
}

/// The same for a log: with the keys.
fn meaning_at_length(kind: Kind, bytes: &[u8], message: Option<&Message>) -> String {
    let mut text = meaning(kind, bytes, message);
    if let Some(Message::Delta(delta)) = message {
        for item in &delta.items {
            let values = item.entries.iter().filter(|entry| entry.value.is_some()).count();
            // A string takes everything.
            write!(text, " {}", item.key).ok();
            if values != 1 {
                write!(text, " ({values} values)").ok();
            }
        }
    }
    text
}

/// What is known of a run before it begins: the first line of its trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The version of the lines.
    pub(crate) schema: u32,
    /// The scenario's name.
    pub(crate) scenario: String,
    /// What it shows.
    pub(crate) about: String,
    /// The run.
    pub(crate) seed: Seed,
    /// The word that repeats it.
    pub(crate) token: String,
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// When everything has healed.
    pub(crate) heal_ns: u64,
    /// When all nodes must agree.
    pub(crate) deadline_ns: u64,
    /// When it is over.
    pub(crate) end_ns: u64,
    /// What will go wrong.
    pub(crate) faults: Vec<HeaderFault>,
}

/// What goes wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeaderFault {
    /// What.
    pub(crate) kind: String,
    /// From when.
    pub(crate) at_ns: u64,
    /// Until when, if it lasts.
    pub(crate) until_ns: Option<u64>,
    /// For each node the side it is on, of a partition; and 0 for each node that is hit, of all others.
    pub(crate) sides: Vec<Option<usize>>,
}

impl Header {
    /// The version of the lines that this program writes and reads.
    pub(crate) const SCHEMA: u32 = 1;
}

/// One record as a line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) seq: u64,
    pub(crate) t_ns: u64,
    pub(crate) node: Option<usize>,
    pub(crate) kind: Kind,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) len: usize,
    pub(crate) hash: String,
    /// What the bytes say: a key, a kind of message.
    #[serde(default)]
    pub(crate) what: String,
}

/// Which records a log has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Up to then.
    pub(crate) until: Option<Moment>,
    /// Of this node, and what concerns all.
    pub(crate) node: Option<usize>,
    /// That name this key.
    pub(crate) key: Option<String>,
}

/// What is kept of a run besides its hash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keep {
    /// What the run is called where it is kept.
    pub(crate) token: String,
    /// All records as lines of JSON.
    pub(crate) lines: bool,
    /// Some records as a log for people.
    pub(crate) log: Option<Filter>,
    /// What the picture needs.
    pub(crate) timeline: bool,
    /// What the nodes were told to do.
    pub(crate) operations: bool,
}

/// What was kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The lines of JSON.
    pub(crate) lines: Option<Vec<u8>>,
    /// The log.
    pub(crate) log: Option<Vec<u8>>,
    /// What the picture needs.
    pub(crate) timeline: Option<Box<Timeline>>,
    /// What the nodes were told to do.
    pub(crate) operations: Option<Vec<crate::scenario::Operation>>,
}

/// The hash over what happened so far, and its end.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Of all but what is pending, each part seeded with the hash of those before.
    hash: u64,
    /// Gathered before it is hashed: short inputs cost more per byte than long ones.
    pending: Vec<u8>,
    last: VecDeque<Record>,
    records: u64,
    lines: Option<Vec<u8>>,
    log: Option<(Filter, Vec<u8>)>,
    timeline: Option<Box<Timeline>>,
}

impl Trace {
    /// How many records are kept for a report.
    const KEPT: usize = 4_096;
    const GATHERED: usize = 64 * 1024;

    /// Starts with nothing; `header` is asked for if somebody reads it.
    pub(crate) fn new(keep: &Keep, header: impl FnOnce() -> Header) -> Self {
        let header = (keep.lines || keep.timeline).then(|| Header { token: keep.token.clone(), ..header() });
        let first_line = |header: &Header| {
            let mut line = serde_json::to_value(header).expect("a header has nothing that JSON lacks");
            line["kind"] = "header".into();
            line["t_ns"] = 0.into();
            format!("{line}\n").into_bytes()
        };
        Self {
            hash: 0,
            pending: Vec::with_capacity(Self::GATHERED + 4_096),
            last: VecDeque::with_capacity(Self::KEPT),
            records: 0,
            lines: header.as_ref().filter(|_| keep.lines).map(first_line),
            log: keep.log.clone().map(|filter| (filter, Vec::new())),
            timeline: header.filter(|_| keep.timeline).map(|header| Box::new(Timeline::new(header))),
        }
    }

    /// Whether somebody reads notes.
    pub(crate) fn takes_notes(&self) -> bool {
        self.lines.is_some() || self.timeline.is_some()
    }

    /// Records a measurement, for readers only.
    pub(crate) fn note(&mut self, at: Moment, node: Option<usize>, kind: Kind, a: u64, b: u64) {
        self.tell(&Record { at, node, kind, a, b, text: [0; 24] }, b"", None);
    }

    /// Records something.
    pub(crate) fn record(
        &mut self,
        at: Moment,
        node: Option<usize>,
        kind: Kind,
        a: u64,
        b: u64,
        bytes: &[u8],
    ) {
        self.record_message(at, node, (kind, a, b), bytes, None);
    }

    /// Records something that is about a message, which readers are told.
    pub(crate) fn record_message(
        &mut self,
        at: Moment,
        node: Option<usize>,
        (kind, a, b): (Kind, u64, u64),
        bytes: &[u8],
        message: Option<&Message>,
    ) {
        self.records += 1;
        let number = node.map_or(u32::MAX, |node| u32::try_from(node).unwrap_or(u32::MAX));
        self.pending.extend_from_slice(&at.0.to_le_bytes());
        self.pending.extend_from_slice(&number.to_le_bytes());
        self.pending.push(kind as u8);
        self.pending.extend_from_slice(&a.to_le_bytes());
        self.pending.extend_from_slice(&b.to_le_bytes());
        self.pending.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= Self::GATHERED {
            self.fold();
        }
        let mut text = [0; 24];
        let len = bytes.len().min(text.len());
        text[..len].copy_from_slice(&bytes[..len]);
        let record = Record { at, node, kind, a, b, text };
        if self.last.len() == Self::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(record);
        if self.takes_notes() || self.log.is_some() {
            self.tell(&record, bytes, message);
        }
    }

    fn tell(&mut self, record: &Record, bytes: &[u8], message: Option<&Message>) {
        let Record { at, node, kind, a, b, .. } = *record;
        if self.takes_notes() {
            let hash = self.lines.as_ref().map(|_| blake3::hash(bytes).to_hex()[..16].to_owned());
            let (hash, what) = (hash.unwrap_or_default(), meaning(kind, bytes, message));
            let line = Line { seq: self.records, t_ns: at.0, node, kind, a, b, len: bytes.len(), hash, what };
            if let Some(lines) = &mut self.lines {
                serde_json::to_writer(&mut *lines, &line).expect("a vector takes every byte");
                lines.push(b'\n');
            }
            if let Some(timeline) = &mut self.timeline {
                timeline.take(&line);
            }
        }
        if let Some((filter, log)) = &mut self.log {
            let text = meaning_at_length(kind, bytes, message);
            let concerns = filter.node.is_none_or(|wanted| node.is_none_or(|node| node == wanted))
                && filter.until.is_none_or(|until| at <= until)
                && filter.key.as_ref().is_none_or(|key| names(&text, key) || kind == Kind::Violation);
            if concerns {
                let shown = Record { text: [0; 24], ..*record };
                log.extend_from_slice(format!("{shown} {text}").trim_end().as_bytes());
                log.push(b'\n');
            }
        }
    }

    fn fold(&mut self) {
        self.hash = xxh3_64_with_seed(&self.pending, self.hash);
        self.pending.clear();
    }

    /// The last records that concern a node, or all nodes, oldest first.
    pub(crate) fn tail(&self, node: Option<usize>, count: usize) -> Vec<Record> {
        let concerns = |record: &&Record| node.is_none() || record.node.is_none() || record.node == node;
        let mut tail: Vec<Record> = self.last.iter().rev().filter(concerns).take(count).copied().collect();
        tail.reverse();
        tail
    }

    /// The hash over all records, as 16 hexadecimal digits, and what was kept.
    pub(crate) fn finish(mut self) -> (String, Kept) {
        self.fold();
        let digits = format!("{:016x}", self.hash);
        let log = self.log.map(|(_, log)| log);
        (digits, Kept { lines: self.lines, log, timeline: self.timeline, operations: None })
    }
}

/// Whether a text names a key, in full or by its end.
fn names(text: &str, key: &str) -> bool {
    text.split([' ', '+', '-'])
        .any(|word| word.strip_suffix(key).is_some_and(|before| before.is_empty() || before.ends_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(keep: &Keep) -> Trace {
        Trace::new(keep, || panic!("nobody asked for it"))
    }

    fn hash(records: &[(u64, Kind, &[u8])]) -> String {
        let mut trace = trace(&Keep::default());
        for (at, kind, bytes) in records {
            trace.record(Moment(*at), Some(1), *kind, 2, 3, bytes);
        }
        trace.finish().0
    }

    #[test]
    fn the_hash_sees_time_kind_and_bytes_and_no_notes() {
        let base = hash(&[(1, Kind::Send, b"x"), (2, Kind::Deliver, b"x")]);
        assert_eq!(base, hash(&[(1, Kind::Send, b"x"), (2, Kind::Deliver, b"x")]));
        assert_ne!(base, hash(&[(1, Kind::Send, b"x"), (3, Kind::Deliver, b"x")]));
        assert_ne!(base, hash(&[(1, Kind::Send, b"y"), (2, Kind::Deliver, b"x")]));
        assert_ne!(base, hash(&[(1, Kind::Send, b"x"), (2, Kind::Send, b"x")]));
        let mut noted = trace(&Keep::default());
        noted.note(Moment(0), None, Kind::Digests, 1, 1);
        assert_eq!(noted.finish().0, hash(&[]));
    }

    #[test]
    fn the_tail_is_of_one_node_and_of_what_concerns_all() {
        let mut trace = trace(&Keep::default());
        for node in [Some(0), Some(1), None, Some(0)] {
            trace.record(Moment(1), node, Kind::Timeout, 0, 0, b"");
        }
        assert_eq!(trace.tail(Some(1), 10).len(), 2);
        assert_eq!(trace.tail(None, 3).len(), 3);
    }

    #[test]
    fn a_log_has_what_its_filter_asks_for() {
        let log = |filter: Filter| {
            let mut trace = trace(&Keep { log: Some(filter), ..Keep::default() });
            trace.record(Moment(1), Some(0), Kind::Set, 0, 9, b"mesh/k1");
            trace.record(Moment(2), Some(1), Kind::Event, 0, 0, b"mesh/k11");
            trace.record(Moment(3), None, Kind::Heal, 0, 0, b"");
            String::from_utf8(trace.finish().1.log.unwrap()).unwrap().lines().count()
        };
        assert_eq!(log(Filter::default()), 3);
        assert_eq!(log(Filter { until: Some(Moment(2)), ..Filter::default() }), 2);
        assert_eq!(log(Filter { node: Some(1), ..Filter::default() }), 2);
        assert_eq!(log(Filter { key: Some("k1".to_owned()), ..Filter::default() }), 1);
    }
}
