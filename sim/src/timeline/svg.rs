//! The picture: faults, nodes, states, traffic and verdicts over one axis of time, and how long writes took.

use std::fmt::Write as _;

use super::scale::{Scale, bytes, cut, delay, escaped, step};
use super::{CLASSES, Lane, Mark, MarkKind, SLICES, Timeline, Traffic, class_end};
use crate::trace::HeaderFault;

/// Colours, for light and dark.
pub(super) const STYLE: &str = include_str!("style.css");
/// How wide the picture is.
const WIDTH: f64 = 1_180.0;
/// Where time begins and ends.
const LEFT: f64 = 96.0;
const RIGHT: f64 = WIDTH - 24.0;
/// How high the lanes of all nodes may be together.
const LANES: f64 = 720.0;
/// How many nodes have a lane.
const MAX_LANES: usize = 720;
/// How many kinds of messages have a colour of their own.
const COLOURS: usize = 8;

/// The picture as a file of its own.
pub(crate) fn svg(timeline: &Timeline) -> String {
    let mut picture = Picture { timeline, out: String::new(), y: 20.0 };
    picture.title();
    picture.faults();
    picture.nodes();
    picture.states();
    picture.traffic();
    picture.verdicts();
    picture.bottom();
    let Picture { out, y, .. } = picture;
    let height = y + 8.0;
    let label = escaped(&format!("{}, seed {}", timeline.header.scenario, timeline.header.seed));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"sim\" role=\"img\" aria-label=\"{label}\" \
         viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif\" font-size=\"12\">\n\
         <style>{STYLE}</style>\n\
         <defs><pattern id=\"frozen\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
         <rect width=\"6\" height=\"6\" fill=\"var(--track)\"/><rect width=\"3\" height=\"6\" fill=\"var(--weather)\"/></pattern></defs>\n\
         <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"var(--bg)\"/>\n{out}</svg>\n"
    )
}

struct Picture<'a> {
    timeline: &'a Timeline,
    out: String,
    /// Where the next part begins.
    y: f64,
}

impl Picture<'_> {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn x(&self, at_ns: u64) -> f64 {
        Scale { low: 0.0, high: self.timeline.header.end_ns as f64, from: LEFT, to: RIGHT }.at(at_ns as f64)
    }

    fn text(&mut self, x: f64, y: f64, colour: &str, attributes: &str, text: &str) {
        let text = escaped(text);
        self.push(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"var(--{colour})\" {attributes}>{text}</text>"
        ));
    }

    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str, more: &str) {
        self.push(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{fill}\"{more}",
            width.max(0.8)
        ));
        if !more.ends_with("</rect>") {
            self.out.truncate(self.out.trim_end().len());
            self.push("/>");
        }
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, more: &str) {
        self.push(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"var(--{colour})\" {more}/>"
        ));
    }

    fn title(&mut self) {
        let timeline = self.timeline;
        let header = &timeline.header;
        self.text(24.0, 34.0, "ink", "font-size=\"20\" font-weight=\"650\"", &header.scenario);
        self.text(24.0, 54.0, "muted", "font-size=\"13\"", &cut(&header.about, 130));
        let agreed = timeline.agreed_ns.map(|at| after(at.saturating_sub(header.heal_ns)));
        let agreed = agreed.map_or_else(|| "never agreed".to_owned(), |after| format!("agreed {after}"));
        let facts =
            format!("seed {} · {} nodes · {} · {agreed}", header.seed, header.nodes, delay(header.end_ns));
        self.text(24.0, 72.0, "muted", "", &facts);
        let (text, colour, back) = match (timeline.violations.first(), timeline.over) {
            (Some((_, _, what)), _) => (format!("✖ {}", cut(what, 90)), "bad", "badbg"),
            (None, true) => ("✔ everything held".to_owned(), "good", "goodbg"),
            (None, false) => ("the trace ends early".to_owned(), "muted", "track"),
        };
        let width = 7.0 * text.chars().count() as f64 + 22.0;
        self.rect((RIGHT - width, 18.0), (width, 24.0), &format!("var(--{back})"), " rx=\"12\"");
        let x = RIGHT - width / 2.0;
        self.text(x, 34.0, colour, "text-anchor=\"middle\" font-weight=\"600\"", &text);
        self.y = 92.0;
    }

    /// A heading, with a legend beside it.
    fn heading(&mut self, text: &str, legend: &[(String, String)]) {
        self.y += 30.0;
        let y = self.y;
        self.text(24.0, y, "ink", "font-size=\"13\" font-weight=\"600\"", text);
        let mut x = RIGHT;
        for (label, fill) in legend.iter().rev() {
            x -= 6.6 * label.chars().count() as f64 + 8.0;
            self.text(x, y, "muted", "font-size=\"11\"", label);
            x -= 14.0;
            self.rect((x, y - 9.0), (10.0, 10.0), fill, " rx=\"2\"");
            x -= 10.0;
        }
        self.y += 8.0;
    }

    /// What lies under a part over time: when the heal is, by when all must agree, and the ticks.
    fn ground(&mut self, top: f64, bottom: f64, labels: bool) {
        let header = &self.timeline.header;
        let (heal, deadline) = (self.x(header.heal_ns), self.x(header.deadline_ns));
        let end = header.end_ns as f64 / 1e9;
        self.rect((heal, top), (deadline - heal, bottom - top), "var(--goodbg)", " opacity=\"0.55\"");
        let every = step(end);
        let mut at = 0.0;
        while at <= end + 1e-9 {
            let x = Scale { low: 0.0, high: end, from: LEFT, to: RIGHT }.at(at);
            self.line((x, top), (x, bottom), "grid", "stroke-width=\"1\"");
            if labels {
                let label = if every < 1.0 { format!("{at:.1} s") } else { format!("{at:.0} s") };
                self.text(x, bottom + 14.0, "muted", "text-anchor=\"middle\" font-size=\"11\"", &label);
            }
            at += every;
        }
        self.moments(top, bottom);
    }

    /// When everything has healed, and when something did not hold.
    fn moments(&mut self, top: f64, bottom: f64) {
        let heal = self.x(self.timeline.header.heal_ns);
        self.line((heal, top), (heal, bottom), "good", "stroke-width=\"1.5\" stroke-dasharray=\"5 3\"");
        let bad: Vec<f64> = self.timeline.violations.iter().map(|(at, ..)| self.x(*at)).collect();
        for x in bad.into_iter().take(1) {
            self.line((x, top), (x, bottom), "bad", "stroke-width=\"1.5\"");
        }
    }

    /// One row for each kind of fault.
    fn faults(&mut self) {
        let timeline = self.timeline;
        let faults = &timeline.header.faults;
        let mut kinds: Vec<&str> = Vec::new();
        for fault in faults {
            if !kinds.contains(&fault.kind.as_str()) {
                kinds.push(&fault.kind);
            }
        }
        self.heading("What went wrong", &[]);
        let top = self.y;
        let bottom = top + 15.0 * kinds.len().max(1) as f64;
        self.ground(top, bottom, false);
        if kinds.is_empty() {
            self.text(LEFT + 6.0, top + 11.0, "muted", "font-size=\"11\"", "nothing");
        }
        for (row, kind) in kinds.iter().enumerate() {
            let y = top + 15.0 * row as f64;
            self.text(LEFT - 8.0, y + 11.0, "muted", "text-anchor=\"end\" font-size=\"11\"", kind);
            for fault in faults.iter().filter(|fault| fault.kind == *kind) {
                self.fault(fault, y);
            }
        }
        let heal = self.x(timeline.header.heal_ns);
        let (x, anchor) = if heal > RIGHT - 200.0 { (RIGHT, "end") } else { (heal + 4.0, "start") };
        let attributes = format!("font-size=\"11\" text-anchor=\"{anchor}\"");
        self.text(x, top - 4.0, "good", &attributes, "healed; must agree while green");
        self.y = bottom;
    }

    fn fault(&mut self, fault: &HeaderFault, y: f64) {
        let who: Vec<String> = fault
            .sides
            .iter()
            .enumerate()
            .filter_map(|(node, side)| side.map(|_| format!("n{node}")))
            .collect();
        let who = cut(&who.join(" "), 80);
        let until = fault.until_ns.map_or_else(String::new, |until| format!(" to {}", delay(until)));
        let title = escaped(&format!("{} at {}{until}: {who}", fault.kind, delay(fault.at_ns)));
        let (from, to) = (self.x(fault.at_ns), self.x(fault.until_ns.unwrap_or(fault.at_ns)));
        let width = (to - from).max(4.0);
        let more = format!(" rx=\"3\"><title>{title}</title></rect>");
        self.rect((from, y + 3.0), (width, 9.0), colour_of(&fault.kind), &more);
    }

    fn nodes(&mut self) {
        let timeline = self.timeline;
        let count = timeline.lanes.len().max(1) as f64;
        let height = (LANES / count).clamp(1.0, 24.0);
        let shown = timeline.lanes.len().min(MAX_LANES);
        let legend = [
            ("runs", "var(--up)"),
            ("side A", "var(--side0)"),
            ("side B", "var(--side1)"),
            ("cut", "var(--cut)"),
            ("weather", "var(--weather)"),
            ("frozen", "url(#frozen)"),
        ];
        let legend = legend.map(|(label, fill)| (label.to_owned(), fill.to_owned()));
        self.heading("Nodes", &legend);
        let signs = "▲ lagged · ✕ killed · ◁ left · ◆ snapshot · ◷ clock jumped · ✖ did not hold";
        let (top, y) = (self.y, self.y - 8.0);
        self.text(LEFT, y, "muted", "font-size=\"11\"", signs);
        let bottom = top + height * shown as f64;
        self.rect((LEFT, top), (RIGHT - LEFT, bottom - top), "var(--track)", "");
        self.ground(top, bottom, false);
        for (number, lane) in timeline.lanes.iter().enumerate().take(shown) {
            let y = top + height * number as f64;
            if height >= 10.0 || number % 10 == 0 {
                let place = y + height / 2.0 + 4.0;
                self.text(
                    LEFT - 8.0,
                    place,
                    "muted",
                    "text-anchor=\"end\" font-size=\"11\"",
                    &format!("n{number}"),
                );
            }
            self.lane(number, lane, y, height);
        }
        self.moments(top, bottom);
        for (number, lane) in timeline.lanes.iter().enumerate().take(shown) {
            let y = top + height * number as f64;
            for mark in &lane.marks {
                self.mark(mark, y, height);
            }
        }
        if shown < timeline.lanes.len() {
            let text = format!("and {} more nodes", timeline.lanes.len() - shown);
            self.text(LEFT, bottom + 13.0, "muted", "font-size=\"11\"", &text);
            self.y += 14.0;
        }
        self.y = bottom;
    }

    fn lane(&mut self, number: usize, lane: &Lane, y: f64, height: f64) {
        let timeline = self.timeline;
        let pad = if height >= 8.0 { 3.0 } else { 0.0 };
        let (top, thick) = (y + pad, height - 2.0 * pad);
        for &(from, to) in &lane.ran {
            let to = to.unwrap_or_else(|| timeline.ended_ns.max(from));
            self.piece((from, to), (top, thick), "var(--up)", &format!("n{number} runs"));
            for fault in &timeline.header.faults {
                let (Some(Some(side)), Some(until)) = (fault.sides.get(number), fault.until_ns) else {
                    continue;
                };
                let (begin, end) = (fault.at_ns.max(from), until.min(to));
                if begin >= end {
                    continue;
                }
                let title = format!("n{number} {}", fault.kind);
                let side_colour = format!("var(--side{})", side % 4);
                match fault.kind.as_str() {
                    "partition" => self.piece((begin, end), (top, thick), &side_colour, &title),
                    "freeze" => self.piece((begin, end), (top, thick), "url(#frozen)", &title),
                    "weather" => self.piece((begin, end), (top, thick / 4.0), "var(--weather)", &title),
                    kind => {
                        self.piece((begin, end), (top + thick * 0.7, thick * 0.3), colour_of(kind), &title);
                    }
                }
            }
        }
    }

    fn piece(&mut self, (from, to): (u64, u64), (y, height): (f64, f64), fill: &str, title: &str) {
        let (from, to) = (self.x(from), self.x(to));
        let more = format!("><title>{}</title></rect>", escaped(title));
        self.rect((from, y), (to - from, height), fill, &more);
    }

    fn mark(&mut self, mark: &Mark, y: f64, height: f64) {
        let (sign, colour, name) = match mark.kind {
            MarkKind::Killed => ("✕", "bad", "killed"),
            MarkKind::Left => ("◁", "ink", "left"),
            MarkKind::Lagged => ("▲", "warn", "a subscriber lagged"),
            MarkKind::Snapshot => ("◆", "good", "snapshot"),
            MarkKind::ClockJump => ("◷", "ink", "clock jumped"),
            MarkKind::Violation => ("✖", "bad", "did not hold"),
        };
        let x = self.x(mark.at);
        let size = if mark.kind == MarkKind::Violation { 16.0 } else { height.clamp(5.0, 13.0) };
        let times = if mark.count > 1 { format!(", {} times", mark.count) } else { String::new() };
        let title = escaped(&format!("{name} at {}{times}", delay(mark.at)));
        let place = y + height / 2.0 + size * 0.36;
        self.push(&format!(
            "<text x=\"{x:.1}\" y=\"{place:.1}\" fill=\"var(--{colour})\" font-size=\"{size:.0}\" font-weight=\"700\" \
             text-anchor=\"middle\" stroke=\"var(--bg)\" stroke-width=\"2.5\" paint-order=\"stroke\">{sign}<title>{title}</title></text>"
        ));
    }

    /// Ticks for a value, at the left.
    fn values(&mut self, (top, bottom): (f64, f64), labels: &[(f64, String)]) {
        for (part, label) in labels {
            let y = bottom - part * (bottom - top);
            self.line((LEFT, y), (RIGHT, y), "grid", "stroke-width=\"1\"");
            self.text(LEFT - 8.0, y + 4.0, "muted", "text-anchor=\"end\" font-size=\"11\"", label);
        }
    }

    fn states(&mut self) {
        let timeline = self.timeline;
        let most = timeline.digests.iter().map(|(_, distinct, _)| *distinct).max().unwrap_or(1).max(2);
        self.heading("Different states among the nodes that run (1: all agree)", &[]);
        let (top, bottom) = (self.y, self.y + 84.0);
        self.ground(top, bottom, false);
        let part = |count: u64| count as f64 / most as f64;
        self.values((top, bottom), &[(part(1), "1".to_owned()), (1.0, most.to_string())]);
        let scale = Scale { low: 0.0, high: most as f64, from: bottom, to: top };
        let mut path = String::new();
        let (mut first, mut last) = (LEFT, LEFT);
        for (number, (at, distinct, _)) in timeline.digests.iter().enumerate() {
            let (x, y) = (self.x(*at), scale.at(*distinct as f64));
            // A string takes everything.
            if number == 0 {
                first = x;
                write!(path, "M{x:.1} {y:.1}").ok();
            } else {
                write!(path, "H{x:.1}V{y:.1}").ok();
            }
            last = x;
        }
        if !path.is_empty() {
            self.push(&format!(
                "<path d=\"{path}V{bottom:.1}H{first:.1}Z\" fill=\"var(--side3)\" opacity=\"0.22\"/>"
            ));
            self.push(&format!(
                "<path d=\"{path}H{last:.1}\" fill=\"none\" stroke=\"var(--side3)\" stroke-width=\"1.6\"/>"
            ));
        }
        if let Some(at) = timeline.agreed_ns {
            let (x, y) = (self.x(at), scale.at(1.0));
            self.push(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"var(--good)\"/>"));
            let words = format!("agreed {}", after(at.saturating_sub(timeline.header.heal_ns)));
            self.text(x + 8.0, y - 8.0, "good", "font-size=\"11\"", &words);
        }
        self.y = bottom;
    }

    /// The kinds of messages, the one with most bytes first, and the colour of each.
    fn kinds(&self) -> Vec<(&str, &Traffic, String)> {
        let mut kinds: Vec<(&str, &Traffic)> =
            self.timeline.traffic.iter().map(|(kind, traffic)| (kind.as_str(), traffic)).collect();
        kinds.sort_by_key(|(kind, traffic)| (u64::MAX - traffic.bytes, *kind));
        let coloured = kinds.into_iter().enumerate();
        coloured
            .map(|(number, (kind, traffic))| (kind, traffic, format!("var(--k{})", number.min(COLOURS - 1))))
            .collect()
    }

    fn traffic(&mut self) {
        let timeline = self.timeline;
        let kinds: Vec<(String, Vec<u64>, String)> = self
            .kinds()
            .into_iter()
            .map(|(kind, traffic, colour)| (kind.to_owned(), traffic.slices.clone(), colour))
            .collect();
        let legend: Vec<(String, String)> =
            kinds.iter().map(|(kind, _, colour)| (kind.clone(), colour.clone())).collect();
        self.heading("Bytes per second, all nodes together", &legend);
        let (top, bottom) = (self.y, self.y + 110.0);
        let slice_s = timeline.slice_ns() as f64 / 1e9;
        let sum =
            |slice: usize| kinds.iter().map(|(_, slices, _)| slices[slice]).sum::<u64>() as f64 / slice_s;
        let most = (0..SLICES).map(sum).fold(1.0, f64::max);
        self.ground(top, bottom, false);
        self.values((top, bottom), &[(0.5, bytes(most / 2.0)), (1.0, bytes(most))]);
        let scale = Scale { low: 0.0, high: most, from: 0.0, to: bottom - top };
        let width = (RIGHT - LEFT) / SLICES as f64;
        let mut below = vec![0.0; SLICES];
        for (_, slices, colour) in &kinds {
            let mut path = String::new();
            for (slice, count) in slices.iter().enumerate().filter(|(_, count)| **count > 0) {
                let height = scale.at(*count as f64 / slice_s);
                let (x, y) = (LEFT + width * slice as f64, bottom - below[slice]);
                write!(path, "M{x:.1} {y:.1}v-{height:.1}h{width:.2}v{height:.1}z").ok();
                below[slice] += height;
            }
            self.push(&format!("<path d=\"{path}\" fill=\"{colour}\"/>"));
        }
        self.y = bottom;
    }

    fn verdicts(&mut self) {
        let timeline = self.timeline;
        let legend = [("suspect", "var(--warn)"), ("down", "var(--bad)")];
        let legend = legend.map(|(label, fill)| (label.to_owned(), fill.to_owned()));
        self.heading("Verdicts: how many nodes are suspect or down to another", &legend);
        let (top, bottom) = (self.y, self.y + 64.0);
        let most = timeline.verdicts.iter().map(|of| of.suspect + of.down).max().unwrap_or(0).max(1);
        self.ground(top, bottom, true);
        self.values((top, bottom), &[(1.0, most.to_string())]);
        let scale = Scale { low: 0.0, high: most as f64, from: 0.0, to: bottom - top };
        let width = (RIGHT - LEFT) / SLICES as f64;
        let (mut down, mut suspect) = (String::new(), String::new());
        for (slice, of) in timeline.verdicts.iter().enumerate() {
            let x = LEFT + width * slice as f64;
            let (low, high) = (scale.at(of.down as f64), scale.at(of.suspect as f64));
            if of.down > 0 {
                write!(down, "M{x:.1} {bottom:.1}v-{low:.1}h{width:.2}v{low:.1}z").ok();
            }
            if of.suspect > 0 {
                write!(suspect, "M{x:.1} {:.1}v-{high:.1}h{width:.2}v{high:.1}z", bottom - low).ok();
            }
        }
        self.push(&format!(
            "<path d=\"{down}\" fill=\"var(--bad)\"/><path d=\"{suspect}\" fill=\"var(--warn)\"/>"
        ));
        self.y = bottom + 18.0;
    }

    /// How long writes took, and what was sent.
    fn bottom(&mut self) {
        let top = self.y;
        self.heading("How long until a write was seen by another node", &[]);
        let middle = LEFT + (RIGHT - LEFT) * 0.56;
        self.histogram((self.y + 4.0, self.y + 110.0), middle);
        self.messages(top + 30.0, middle + 60.0);
        self.y += 136.0;
    }

    fn histogram(&mut self, (top, bottom): (f64, f64), right: f64) {
        let timeline = self.timeline;
        let most = timeline.seen.iter().copied().max().unwrap_or(0);
        if most == 0 {
            self.text(LEFT, top + 14.0, "muted", "", "no write was seen by another node");
            return;
        }
        let used = |class: &usize| timeline.seen[*class] > 0;
        let first = (0..CLASSES).find(used).unwrap_or(0).saturating_sub(1);
        let last = (0..CLASSES).rev().find(used).unwrap_or(CLASSES - 1).max(first + 5);
        let width = (right - LEFT) / (last - first + 1) as f64;
        let scale = Scale { low: 0.0, high: most as f64, from: 0.0, to: bottom - top - 16.0 };
        for class in first..=last.min(CLASSES - 1) {
            let x = LEFT + width * (class - first) as f64;
            let count = timeline.seen[class];
            if count > 0 {
                let height = scale.at(count as f64).max(1.0);
                let title =
                    format!(" rx=\"1.5\"><title>{count} within {}</title></rect>", delay(class_end(class)));
                self.rect((x + 1.0, bottom - height), (width - 2.0, height), "var(--side0)", &title);
            }
            if (class - first).is_multiple_of(((last - first) / 6).max(1)) {
                let label = format!("≤ {}", delay(class_end(class)));
                self.text(
                    x + width / 2.0,
                    bottom + 14.0,
                    "muted",
                    "text-anchor=\"middle\" font-size=\"11\"",
                    &label,
                );
            }
        }
        self.line((LEFT, bottom), (right, bottom), "muted", "stroke-width=\"1\"");
        let total: u64 = timeline.seen.iter().sum();
        let at = |per_mille| timeline.delay_at(per_mille).map_or_else(String::new, delay);
        let words = format!(
            "{total} times · half within {} · 99 % within {} · slowest {}",
            at(500),
            at(990),
            delay(timeline.slowest_ns)
        );
        self.text(LEFT, top + 8.0, "muted", "font-size=\"11\"", &words);
    }

    fn messages(&mut self, top: f64, left: f64) {
        let rows: Vec<(String, u64, u64, String)> = self
            .kinds()
            .into_iter()
            .take(COLOURS)
            .map(|(kind, traffic, colour)| (kind.to_owned(), traffic.messages, traffic.bytes, colour))
            .collect();
        self.text(left, top, "ink", "font-size=\"13\" font-weight=\"600\"", "Messages");
        let most = rows.iter().map(|(_, _, bytes, _)| *bytes).max().unwrap_or(1).max(1);
        for (row, (kind, messages, sent, colour)) in rows.iter().enumerate() {
            let y = top + 20.0 + 14.5 * row as f64;
            self.text(left, y, "muted", "font-size=\"11\"", kind);
            let room = RIGHT - left - 200.0;
            let width = room * *sent as f64 / most as f64;
            self.rect((left + 68.0, y - 8.5), (width, 9.0), colour, " rx=\"2\"");
            let words = format!("{messages} · {}", bytes(*sent as f64));
            self.text(left + 68.0 + width + 6.0, y, "muted", "font-size=\"11\"", &words);
        }
    }
}

/// How long after the heal something was.
fn after(nanos: u64) -> String {
    if nanos == 0 {
        "as soon as all had healed".to_owned()
    } else {
        format!("{} after the heal", delay(nanos))
    }
}

/// The colour of a kind of fault.
fn colour_of(kind: &str) -> &'static str {
    match kind {
        "partition" => "var(--side0)",
        "freeze" | "starve" => "url(#frozen)",
        "crash" | "corrupt" | "reset" => "var(--bad)",
        "cut" | "one-way" | "flap" | "ring" | "swizzle" | "refuse" => "var(--cut)",
        "stall" | "slow-reader" | "panic" => "var(--warn)",
        "join" => "var(--good)",
        _ => "var(--weather)",
    }
}
