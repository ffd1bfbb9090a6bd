//! What happened, as one hash and, on request, as text.
//!
//! Everything observable goes into the hash: when, where, what and the bytes. Two runs are the same run when
//! their hashes are. The last records are kept for the report of a violation; all of them are written as JSON
//! lines when somebody wants to read or compare them.

use std::collections::VecDeque;
use std::fmt;

use serde::Serialize;
use snomesh::time::Moment;

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    Event,
    Look,
    Lagged,
    FaultBegins,
    FaultEnds,
    Heal,
    Agreed,
    Diverged,
    Violation,
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
            _ => write!(f, "{} {}", self.a, self.b),
        }?;
        let printable = self.text.iter().take_while(|byte| byte.is_ascii_graphic() || **byte == b' ');
        let text: String = printable.map(|byte| char::from(*byte)).collect();
        if self.is_text() && !text.is_empty() { write!(f, " {text}") } else { Ok(()) }
    }
}

impl Record {
    fn is_text(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Send | Kind::Deliver | Kind::Datagram | Kind::Heard | Kind::Malformed | Kind::Persist
        )
    }
}

/// The hash over what happened so far, and its end.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    /// Gathered before it is hashed: short inputs cost more per byte than long ones.
    pending: Vec<u8>,
    last: VecDeque<Record>,
    records: u64,
    lines: Option<Vec<u8>>,
}

impl Trace {
    /// How many records are kept for a report.
    const KEPT: usize = 4_096;
    const GATHERED: usize = 64 * 1024;

    /// Starts with nothing; `lines` says whether to keep all of it as text.
    pub(crate) fn new(lines: bool) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            pending: Vec::with_capacity(Self::GATHERED + 4_096),
            last: VecDeque::new(),
            records: 0,
            lines: lines.then(Vec::new),
        }
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
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        let mut text = [0; 24];
        let len = bytes.len().min(text.len());
        text[..len].copy_from_slice(&bytes[..len]);
        let record = Record { at, node, kind, a, b, text };
        if self.last.len() == Self::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(record);
        if let Some(lines) = &mut self.lines {
            write_line(lines, self.records, &record, bytes);
        }
    }

    /// The last records that concern a node, or all nodes, oldest first.
    pub(crate) fn tail(&self, node: Option<usize>, count: usize) -> Vec<Record> {
        let concerns = |record: &&Record| node.is_none() || record.node.is_none() || record.node == node;
        let mut tail: Vec<Record> = self.last.iter().rev().filter(concerns).take(count).copied().collect();
        tail.reverse();
        tail
    }

    /// The hash over all records, as 16 hexadecimal digits, and the text if it was kept.
    pub(crate) fn finish(mut self) -> (String, Option<Vec<u8>>) {
        self.hasher.update(&self.pending);
        let mut digits = self.hasher.finalize().to_hex().to_string();
        digits.truncate(16);
        (digits, self.lines)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    t_ns: u64,
    node: Option<usize>,
    kind: Kind,
    a: u64,
    b: u64,
    len: usize,
    hash: &'a str,
}

fn write_line(lines: &mut Vec<u8>, seq: u64, record: &Record, bytes: &[u8]) {
    let hash = blake3::hash(bytes).to_hex();
    let Record { at, node, kind, a, b, .. } = *record;
    let line = Line { seq, t_ns: at.0, node, kind, a, b, len: bytes.len(), hash: &hash[..16] };
    serde_json::to_writer(&mut *lines, &line).expect("a vector takes every byte");
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(records: &[(u64, Kind, &[u8])]) -> String {
        let mut trace = Trace::new(false);
        for (at, kind, bytes) in records {
            trace.record(Moment(*at), Some(1), *kind, 2, 3, bytes);
        }
        trace.finish().0
    }

    #[test]
    fn the_hash_sees_time_kind_and_bytes() {
        let base = hash(&[(1, Kind::Send, b"x"), (2, Kind::Deliver, b"x")]);
        assert_eq!(base, hash(&[(1, Kind::Send, b"x"), (2, Kind::Deliver, b"x")]));
        assert_ne!(base, hash(&[(1, Kind::Send, b"x"), (3, Kind::Deliver, b"x")]));
        assert_ne!(base, hash(&[(1, Kind::Send, b"y"), (2, Kind::Deliver, b"x")]));
        assert_ne!(base, hash(&[(1, Kind::Send, b"x"), (2, Kind::Send, b"x")]));
    }

    #[test]
    fn the_tail_is_of_one_node_and_of_what_concerns_all() {
        let mut trace = Trace::new(true);
        for node in [Some(0), Some(1), None, Some(0)] {
            trace.record(Moment(1), node, Kind::Timeout, 0, 0, b"");
        }
        assert_eq!(trace.tail(Some(1), 10).len(), 2);
        assert_eq!(trace.tail(None, 3).len(), 3);
        assert_eq!(trace.finish().1.unwrap().iter().filter(|byte| **byte == b'\n').count(), 4);
    }
}
