//! Scenarios: what is simulated, what goes wrong in it and what must hold and have happened.
//!
//! A scenario is a TOML file (`docs/SIMULATOR.md` describes the language). Reading it is strict: an unknown
//! field, a parameter that does not belong to its fault and a node that does not exist are errors with line
//! and column, because a fault that was never installed makes every run pass.

mod builtin;
mod check;
mod fault;
mod mixture;
mod schedule;
mod value;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use builtin::{BUILTIN, builtin};
pub(crate) use fault::{DiskFate, Fault, FaultKind, Groups, NodeSet};
pub(crate) use mixture::Mixture;
pub(crate) use schedule::{Action, Operation, Schedule, value_of};
pub(crate) use value::{Bytes, Chance, Drawn, Quantity, Skew};

use crate::coverage::Point;
use crate::random::Seed;

/// What the simulator is told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The version of the language.
    pub(crate) schema: u32,
    /// How it is called at the command line and in reports.
    pub(crate) name: String,
    /// What it shows, in one line.
    pub(crate) about: String,
    /// The seed that the file was written for: what is left to draw is drawn with it, unless another is given.
    #[serde(default)]
    pub(crate) seed: Option<Seed>,
    /// How much of the product runs.
    #[serde(default, skip_serializing_if = "Tier::is_core")]
    pub(crate) tier: Tier,
    /// How many nodes.
    pub(crate) nodes: Drawn<u64>,
    /// How long faults and writes may happen; then everything heals.
    pub(crate) duration: Drawn<Duration>,
    /// Whether writes wait for a disk.
    #[serde(default)]
    pub(crate) durability: Durable,
    /// That it is another scenario with each seed, and which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mixture: Option<Mixture>,
    /// The nodes' own settings.
    #[serde(default)]
    pub(crate) mesh: Mesh,
    /// The network without faults.
    #[serde(default)]
    pub(crate) net: Net,
    /// The wall clocks.
    #[serde(default)]
    pub(crate) clock: Clock,
    /// The disks.
    #[serde(default)]
    pub(crate) disk: Disk,
    /// Who writes what.
    #[serde(default, skip_serializing_if = "Workload::is_none")]
    pub(crate) workload: Workload,
    /// Those who follow each node's events.
    #[serde(default, rename = "subscriber", skip_serializing_if = "Vec::is_empty")]
    pub(crate) subscribers: Vec<Subscriber>,
    /// What goes wrong.
    #[serde(default, rename = "fault")]
    pub(crate) faults: Vec<Fault>,
    /// Operations one by one, besides the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<Schedule>,
    /// What must hold in the end, and must have happened.
    pub(crate) expect: Expect,
}

/// How much of the product runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tier {
    /// The core alone, on simulated links: fast, thousands of nodes.
    #[default]
    Core,
    /// Whole daemons on QUIC over simulated sockets: up to 64 nodes.
    Quic,
}

impl Tier {
    /// How it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Quic => "quic",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_core(&self) -> bool {
        *self == Self::Core
    }
}

/// Whether writes wait for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Durable {
    /// They take effect at once and are gone with the process.
    #[default]
    Memory,
    /// They take effect when the disk has answered.
    Disk,
}

/// The nodes' own settings, where they differ from the core's default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Mesh {
    /// How many of the first nodes every node knows from the start.
    pub(crate) seeds: u64,
    /// When each node is started.
    pub(crate) start: Drawn<Duration>,
    /// About how many bytes of state go into one frame; the core's default without.
    pub(crate) delta_budget: Option<Drawn<Bytes>>,
    /// How long removals are remembered that not everybody has seen, looked for every second; the core's defaults
    /// without.
    pub(crate) collect_after: Option<Drawn<Duration>>,
    /// How long a node may be down before it is evicted; the core's default without.
    pub(crate) evict_after: Option<Drawn<Duration>>,
    /// Whether all nodes seal what they write and believe nothing else.
    pub(crate) sealed: bool,
    /// How many events each node's ring holds.
    pub(crate) ring: Drawn<u64>,
    /// How long changes of the context gather before they are told; the core's default without.
    pub(crate) announce_interval: Option<Drawn<Duration>>,
    /// How long to wait for an author's own push before asking another; the core's default without.
    pub(crate) want_after: Option<Drawn<Duration>>,
    /// How long to wait for what was asked for; the core's default without.
    pub(crate) want_timeout: Option<Drawn<Duration>>,
    /// How long two nodes may differ before they compare everything; the core's default without.
    pub(crate) audit_after: Option<Drawn<Duration>>,
    /// The nodes that are never started. So a failure is reduced without giving the others new numbers.
    #[serde(skip_serializing_if = "NodeSet::is_none")]
    pub(crate) absent: NodeSet,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            seeds: 2,
            start: Drawn::fixed(Duration::ZERO),
            delta_budget: None,
            ring: Drawn::fixed(1_024),
            announce_interval: None,
            want_after: None,
            want_timeout: None,
            audit_after: None,
            absent: NodeSet::none(),
            collect_after: None,
            evict_after: None,
            sealed: false,
        }
    }
}

/// The network without faults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Net {
    /// One way, drawn once for each pair of nodes.
    pub(crate) delay: Drawn<Duration>,
    /// Added to each packet, from nothing to this.
    pub(crate) jitter: Drawn<Duration>,
    /// Of packets. Streams repeat what was lost and are late, datagrams lack it.
    pub(crate) loss: Chance,
    /// Of datagrams that arrive twice.
    pub(crate) duplicate: Chance,
    /// One way, per connection.
    pub(crate) bandwidth: Drawn<Bytes>,
    /// How much a channel takes before it makes its writer wait.
    pub(crate) buffer: Drawn<Bytes>,
    /// How much waits in front of a connection's bandwidth before packets are dropped; without, all of it.
    pub(crate) queue: Option<Drawn<Bytes>>,
    /// Groups of nodes that are far from each other; whoever is in none has `delay` to all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) regions: Vec<NodeSet>,
    /// One way, from each region to each; drawn once for each pair of nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) between: Vec<Vec<Drawn<Duration>>>,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            delay: Drawn::fixed(Duration::from_millis(10)),
            jitter: Drawn::fixed(Duration::from_millis(1)),
            loss: Chance(0.0),
            duplicate: Chance(0.0),
            bandwidth: Drawn::fixed(Bytes(16 << 20)),
            buffer: Drawn::fixed(Bytes(128 << 10)),
            queue: None,
            regions: Vec::new(),
            between: Vec::new(),
        }
    }
}

/// The wall clocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Clock {
    /// How far each node's is off.
    pub(crate) skew: Drawn<Skew>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { skew: Drawn::fixed(Skew::default()) }
    }
}

/// The disks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Disk {
    /// How long each write takes.
    pub(crate) delay: Drawn<Duration>,
}

impl Default for Disk {
    fn default() -> Self {
        Self { delay: Drawn::fixed(Duration::from_millis(2)) }
    }
}

/// Who writes what.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Workload {
    /// Writes of attributes per second, over all nodes.
    pub(crate) writes_per_s: f64,
    /// Over how many keys.
    pub(crate) keys: Drawn<u64>,
    /// The share of the writes that goes to one key.
    pub(crate) hot: Chance,
    /// The share of the writes that removes.
    pub(crate) deletes: Chance,
    /// The share of the writes that writes what is there already.
    pub(crate) repeats: Chance,
    /// The share of the writes that removes first and then writes, at once.
    pub(crate) recreates: Chance,
    /// How long a value is.
    pub(crate) value: Drawn<Bytes>,
    /// Tunnels registered per second, over all nodes.
    pub(crate) registrations_per_s: f64,
    /// How long each stays registered.
    pub(crate) lifetime: Drawn<Duration>,
    /// Additions to counters per second, over all nodes.
    pub(crate) counts_per_s: f64,
    /// How many counters there are.
    pub(crate) counters: Drawn<u64>,
    /// Elements added to sets, and removed from them, per second, over all nodes.
    pub(crate) elements_per_s: f64,
    /// How many elements there are, over all sets.
    pub(crate) elements: Drawn<u64>,
    /// The nodes that write.
    pub(crate) writers: NodeSet,
    /// When the writing begins.
    pub(crate) from: Time,
    /// When it ends; the scenario's duration without.
    pub(crate) until: Option<Time>,
    /// Many writes at once.
    pub(crate) burst: Option<Burst>,
    /// All keys written again.
    pub(crate) rewrite: Option<Rewrite>,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            writes_per_s: 0.0,
            keys: Drawn::fixed(16),
            hot: Chance(0.0),
            deletes: Chance(0.0),
            repeats: Chance(0.0),
            recreates: Chance(0.0),
            value: Drawn::fixed(Bytes(32)),
            registrations_per_s: 0.0,
            lifetime: Drawn::fixed(Duration::from_secs(5)),
            counts_per_s: 0.0,
            counters: Drawn::fixed(2),
            elements_per_s: 0.0,
            elements: Drawn::fixed(16),
            writers: NodeSet::all(),
            from: Drawn::fixed(Duration::from_secs(1)),
            until: None,
            burst: None,
            rewrite: None,
        }
    }
}

impl Workload {
    /// Nobody writes.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    fn is_none(&self) -> bool {
        self.writes_per_s == 0.0
            && self.registrations_per_s == 0.0
            && self.counts_per_s == 0.0
            && self.elements_per_s == 0.0
            && self.burst.is_none()
            && self.rewrite.is_none()
    }
}

/// A duration that may be drawn.
pub(crate) type Time = Drawn<Duration>;

/// Many writes in one moment by one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Burst {
    /// How often.
    pub(crate) every: Drawn<Duration>,
    /// How many writes.
    pub(crate) size: Drawn<u64>,
}

/// All keys are written by one node in one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rewrite {
    /// How often.
    pub(crate) every: Drawn<Duration>,
    /// Whether with the values that are there.
    #[serde(default)]
    pub(crate) same: bool,
}

/// A kind of subscriber, one of it on every node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscriber {
    /// How it is called in reports.
    pub(crate) name: String,
    /// How many of this kind there are on every node; one without.
    #[serde(default)]
    pub(crate) count: Option<u64>,
    /// How long it takes between two looks.
    pub(crate) pace: Drawn<Duration>,
    /// How many events it takes at a look; without, all there are.
    #[serde(default)]
    pub(crate) batch: Option<Drawn<u64>>,
}

/// What must hold in the end, and must have happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// How long after the heal all nodes must agree at the latest.
    pub(crate) converge_within: Drawn<Duration>,
    /// How long nothing but heartbeats may be heard then.
    #[serde(default = "quiet_for")]
    pub(crate) quiet_for: Drawn<Duration>,
    /// How often each of these must have happened, or the run has tested nothing.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) at_least: std::collections::BTreeMap<Point, u64>,
    /// How often each of these may happen at most, or something does not hold.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) at_most: std::collections::BTreeMap<Point, u64>,
}

fn quiet_for() -> Drawn<Duration> {
    Drawn::fixed(Duration::from_secs(3))
}

impl Scenario {
    /// The subscribers of each node, one by one.
    pub(crate) fn each_subscriber(&self) -> impl Iterator<Item = &Subscriber> {
        let times = |kind: &Subscriber| usize::try_from(kind.count.unwrap_or(1)).unwrap_or(usize::MAX);
        self.subscribers.iter().flat_map(move |kind| std::iter::repeat_n(kind, times(kind)))
    }

    /// Reads a scenario; `file` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`ScenarioError`] with the place and what to do; the author's fault.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario = Self::read(file, text)?;
        scenario.check_reach().map_err(|wrong| wrong.within(file, text))?;
        Ok(scenario)
    }

    /// Reads a scenario that will be changed: its parts may still be out of each other's reach.
    ///
    /// # Errors
    ///
    /// [`ScenarioError`] with the place and what to do; the author's fault.
    pub(crate) fn read(file: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            ScenarioError::new(file, text, start, error.message().to_owned())
        })?;
        scenario.check().map_err(|wrong| wrong.within(file, text))?;
        Ok(scenario)
    }

    /// The operations of its schedule.
    pub(crate) fn operations(&self) -> &[Operation] {
        self.schedule.as_ref().map_or(&[], |schedule| &schedule.operations)
    }

    /// Writes the scenario as a file that reads as the same.
    pub(crate) fn text(&self) -> String {
        let mut rest = self.clone();
        let schedule = rest.schedule.take();
        let text = toml::to_string(&rest).expect("a scenario has nothing that TOML lacks");
        text + &schedule.map(|schedule| schedule.text()).unwrap_or_default()
    }

    /// Why its tier cannot run it, if it cannot.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self.tier {
            Tier::Core => None,
            #[cfg(feature = "quic")]
            Tier::Quic => crate::quic::refusal(self),
            #[cfg(not(feature = "quic"))]
            Tier::Quic => {
                Some("this program was built without that tier; build it with --features quic".to_owned())
            }
        }
    }

    /// The version of the language that this program reads.
    pub(crate) const SCHEMA: u32 = 1;
}

/// A scenario cannot be read or does not make sense: its author's fault. Nothing was run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ScenarioError {
    file: String,
    line: usize,
    column: usize,
    message: String,
}

impl ScenarioError {
    /// An error at a byte of a file's text.
    fn new(file: &str, text: &str, start: usize, message: String) -> Self {
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self { file: file.to_owned(), line, column, message }
    }

    /// What is wrong, without its place.
    pub(crate) fn message(&self) -> &str {
        self.message.trim_end()
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
schema = 1
name = "small"
about = "two nodes"
nodes = 2
duration = "5s"
[expect]
converge_within = "10s"
"#;

    fn error(extra: &str) -> String {
        Scenario::parse("x.toml", &format!("{SMALL}{extra}")).unwrap_err().to_string()
    }

    #[test]
    fn a_small_scenario_is_enough() {
        let scenario = Scenario::parse("x.toml", SMALL).unwrap();
        assert_eq!(scenario.name, "small");
        assert!(scenario.faults.is_empty());
    }

    #[test]
    fn errors_name_the_place_and_what_was_expected() {
        assert!(
            error("quiet = \"1s\"\n").starts_with("x.toml:9:1: unknown field `quiet`"),
            "{}",
            error("quiet = 1\n")
        );
        let unit = error("quiet_for = \"5\"\n");
        assert!(unit.starts_with("x.toml:9:13: ") && unit.contains("\"5s\""), "{unit}");
        let point = error("at_least = { nonsense = 1 }\n");
        assert!(point.starts_with("x.toml:9:14: unknown variant `nonsense`"), "{point}");
    }

    #[test]
    fn a_parameter_that_its_fault_does_not_have_is_an_error() {
        let fault = error("[[fault]]\nkind = \"crash\"\nat = \"1s\"\ngroups = \"halves\"\nnodes = 1\n");
        assert!(fault.starts_with("x.toml:10:8: "), "{fault}");
        assert!(fault.contains("`crash`") && fault.contains("`groups`"), "{fault}");
    }

    #[test]
    fn a_fault_without_what_it_needs_is_an_error() {
        let fault = error("[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"1s\"\n");
        assert!(fault.contains("needs `groups`"), "{fault}");
    }

    #[test]
    fn every_builtin_scenario_is_legal_has_its_own_name_and_reads_as_it_is_written() {
        for builtin in BUILTIN {
            let scenario = Scenario::parse(builtin.name, builtin.text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(scenario.name, builtin.name);
            let text = scenario.text();
            let again = Scenario::parse(builtin.name, &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(again.text(), text);
        }
    }
}
