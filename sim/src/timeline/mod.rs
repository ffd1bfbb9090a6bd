//! What happened in a run, over time: gathered from its trace, drawn as a picture.
//!
//! The same lines that `--trace` writes are gathered while a run goes on, or read from a file later; so both
//! pictures are the same. Nothing depends on the clock or the machine: the same trace is the same picture.

mod page;
mod scale;
mod svg;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use crate::trace::{Header, Kind, Line};

pub(crate) use page::html;
pub(crate) use svg::svg;

/// How many slices of time there are.
const SLICES: usize = 268;
/// How many classes of delay there are.
const CLASSES: usize = 44;

/// All that the picture shows.
#[derive(Debug)]
pub(crate) struct Timeline {
    header: Header,
    lanes: Vec<Lane>,
    /// When it was counted, how many different states there were, among how many nodes.
    digests: Vec<(u64, u64, u64)>,
    /// For each kind of message what was sent.
    traffic: BTreeMap<String, Traffic>,
    /// How many writes were seen after how long.
    seen: [u64; CLASSES],
    slowest_ns: u64,
    /// For each slice of time how many nodes were suspect or down to another at its end.
    verdicts: Vec<Verdicts>,
    judged: BTreeMap<(usize, String), Verdict>,
    violations: Vec<(u64, Option<usize>, String)>,
    agreed_ns: Option<u64>,
    ended_ns: u64,
    over: bool,
}

/// What was sent of one kind.
#[derive(Debug, Clone, Default)]
struct Traffic {
    messages: u64,
    bytes: u64,
    slices: Vec<u64>,
}

/// What one node went through.
#[derive(Debug, Clone, Default)]
struct Lane {
    /// From when to when it ran.
    ran: Vec<(u64, Option<u64>)>,
    marks: Vec<Mark>,
}

/// Something that happened to a node in a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    at: u64,
    kind: MarkKind,
    /// How often, in one slice of time.
    count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MarkKind {
    Killed,
    Left,
    Lagged,
    Snapshot,
    ClockJump,
    Violation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Suspect,
    Down,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Verdicts {
    suspect: u64,
    down: u64,
}

/// A file is not a trace: its author's fault. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TimelineError {
    /// It cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Its first line is something else.
    #[error("{file}:1: this is no trace of `sim run --trace`: {source}")]
    Header {
        /// Which.
        file: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Another version of the program wrote it.
    #[error("{file}:1: the trace has schema {found}, this program reads {}; write it anew", Header::SCHEMA)]
    Schema {
        /// Which.
        file: String,
        /// What it says.
        found: u32,
    },
    /// Some line is no record.
    #[error("{file}:{line}: this is no record of a trace: {source}")]
    Line {
        /// Which.
        file: String,
        /// Where.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

impl Timeline {
    /// Starts with nothing.
    pub(crate) fn new(header: Header) -> Self {
        let mut lanes = vec![Lane::default(); header.nodes];
        for fault in header.faults.iter().filter(|fault| fault.kind == "clock-jump") {
            for (lane, side) in lanes.iter_mut().zip(&fault.sides) {
                if side.is_some() {
                    lane.marks.push(Mark { at: fault.at_ns, kind: MarkKind::ClockJump, count: 1 });
                }
            }
        }
        Self {
            header,
            lanes,
            digests: Vec::new(),
            traffic: BTreeMap::new(),
            seen: [0; CLASSES],
            slowest_ns: 0,
            verdicts: Vec::new(),
            judged: BTreeMap::new(),
            violations: Vec::new(),
            agreed_ns: None,
            ended_ns: 0,
            over: false,
        }
    }

    /// Reads a trace; `file` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`TimelineError`].
    pub(crate) fn read(file: &str, lines: impl BufRead) -> Result<Self, TimelineError> {
        let file = || file.to_owned();
        let mut lines = lines.lines();
        let first =
            lines.next().transpose().map_err(|source| TimelineError::Read { file: file(), source })?;
        let header: Header = serde_json::from_str(first.as_deref().unwrap_or_default())
            .map_err(|source| TimelineError::Header { file: file(), source })?;
        if header.schema != Header::SCHEMA {
            return Err(TimelineError::Schema { file: file(), found: header.schema });
        }
        let mut timeline = Self::new(header);
        for (number, line) in lines.enumerate() {
            let line = line.map_err(|source| TimelineError::Read { file: file(), source })?;
            let line = serde_json::from_str(&line).map_err(|source| TimelineError::Line {
                file: file(),
                line: number + 2,
                source,
            })?;
            timeline.take(&line);
        }
        Ok(timeline)
    }

    /// Takes the next record.
    pub(crate) fn take(&mut self, line: &Line) {
        let at = line.t_ns;
        self.ended_ns = self.ended_ns.max(at);
        self.fill_verdicts(at);
        match (line.kind, line.node) {
            (Kind::Start, Some(node)) => self.lane(node, |lane| lane.ran.push((at, None))),
            (Kind::Crash, Some(node)) => {
                self.lane(node, |lane| lane.stop(at));
                self.mark(node, at, MarkKind::Killed);
                self.judged.retain(|(observer, _), _| *observer != node);
            }
            (Kind::Left, Some(node)) => {
                self.lane(node, |lane| lane.stop(at));
                self.mark(node, at, MarkKind::Left);
                self.judged.retain(|(observer, _), _| *observer != node);
            }
            (Kind::Lagged, Some(node)) => self.mark(node, at, MarkKind::Lagged),
            (Kind::Send | Kind::Datagram, _) => self.sent(at, &line.what, line.b),
            (Kind::Deliver, Some(node)) if line.what.starts_with("snapshot") => {
                self.mark(node, at, MarkKind::Snapshot);
            }
            (Kind::Event, Some(node)) => self.judge(node, &line.what),
            (Kind::Digests, _) => self.digests.push((at, line.a, line.b)),
            (Kind::Seen, _) => {
                self.seen[class_of(line.a)] += 1;
                self.slowest_ns = self.slowest_ns.max(line.a);
            }
            (Kind::Agreed, _) => self.agreed_ns = Some(at),
            (Kind::Diverged, _) => self.agreed_ns = None,
            (Kind::Violation, node) => {
                self.violations.push((at, node, line.what.clone()));
                if let Some(node) = node {
                    self.mark(node, at, MarkKind::Violation);
                }
            }
            (Kind::Over, _) => self.over = true,
            _ => {}
        }
    }

    fn lane(&mut self, node: usize, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(node) {
            change(lane);
        }
    }

    /// Marks of one kind in one slice of time are one mark.
    fn mark(&mut self, node: usize, at: u64, kind: MarkKind) {
        let slice = self.slice_ns();
        self.lane(node, |lane| {
            let last = lane.marks.iter_mut().rev().find(|mark| mark.kind == kind);
            match last.filter(|last| at - last.at < 3 * slice && kind != MarkKind::Violation) {
                Some(last) => last.count += 1,
                None => lane.marks.push(Mark { at, kind, count: 1 }),
            }
        });
    }

    fn sent(&mut self, at: u64, kind: &str, bytes: u64) {
        let slice = self.slice_of(at);
        if !self.traffic.contains_key(kind) {
            self.traffic.insert(kind.to_owned(), Traffic { slices: vec![0; SLICES], ..Traffic::default() });
        }
        if let Some(traffic) = self.traffic.get_mut(kind) {
            traffic.messages += 1;
            traffic.bytes += bytes;
            traffic.slices[slice] += bytes;
        }
    }

    /// An event such as "abcd1234 Suspect" is a verdict.
    fn judge(&mut self, node: usize, text: &str) {
        let Some((member, state)) = text.split_once(' ') else { return };
        let verdict = match state {
            "Suspect" => Some(Verdict::Suspect),
            "Down" => Some(Verdict::Down),
            "Alive" | "Left" => None,
            _ => return,
        };
        let pair = (node, member.to_owned());
        match verdict {
            Some(verdict) => self.judged.insert(pair, verdict),
            None => self.judged.remove(&pair),
        };
    }

    /// Counts the verdicts that stood at the end of each slice of time before `at`.
    fn fill_verdicts(&mut self, at: u64) {
        let slice = self.slice_of(at);
        if self.verdicts.len() < slice {
            let count = |wanted| self.judged.values().filter(|verdict| **verdict == wanted).count() as u64;
            let counts = Verdicts { suspect: count(Verdict::Suspect), down: count(Verdict::Down) };
            self.verdicts.resize(slice, counts);
        }
    }

    fn slice_ns(&self) -> u64 {
        (self.header.end_ns / SLICES as u64).max(1)
    }

    fn slice_of(&self, at: u64) -> usize {
        usize::try_from(at / self.slice_ns()).unwrap_or(usize::MAX).min(SLICES - 1)
    }

    /// After how long so many of a thousand had been seen at the latest.
    fn delay_at(&self, per_mille: u64) -> Option<u64> {
        let total: u64 = self.seen.iter().sum();
        let mut rest = (total * per_mille).div_ceil(1_000);
        let class = self.seen.iter().position(|count| {
            rest = rest.saturating_sub(*count);
            rest == 0
        });
        class.filter(|_| total > 0).map(|class| class_end(class).min(self.slowest_ns))
    }
}

impl Lane {
    fn stop(&mut self, at: u64) {
        if let Some((_, end @ None)) = self.ran.last_mut() {
            *end = Some(at);
        }
    }
}

/// Classes of delay, two to an octave, from 100 microseconds.
fn class_of(delay_ns: u64) -> usize {
    (0..CLASSES - 1).find(|class| delay_ns <= class_end(*class)).unwrap_or(CLASSES - 1)
}

/// The longest delay of a class: twice as long every other class.
fn class_end(class: usize) -> u64 {
    let octave = 100_000u64 << (class / 2);
    if class.is_multiple_of(2) { octave } else { octave / 1_000 * 1_414 }
}

#[cfg(test)]
mod tests;
