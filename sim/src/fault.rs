//! The faults of one run: what a scenario says, drawn for one seed, and what of it is on at a time.
//!
//! All drawing is done before the run begins, and for each fault with a generator of its own, keyed by its
//! kind and how many of that kind come before it. So taking one away leaves all others as they were.

mod plan;

use std::time::Duration;

use snomesh::time::Moment;

use crate::scenario::{Bytes, Chance, DiskFate, Drawn, Fault, FaultKind, Groups, NodeSet, Skew};

pub(crate) use plan::plan;

/// Which nodes.
pub(crate) type Members = Vec<bool>;

/// Something that goes wrong, with all that was open drawn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Nodes of different groups do not reach each other. Nodes without a group reach all.
    Split(Vec<Option<usize>>),
    /// Packets from the ones to the others are dropped.
    Block {
        /// Whose packets.
        from: Members,
        /// To whom.
        to: Members,
        /// Whether the way back is closed too.
        both: bool,
        /// Whether the links had been up in between.
        again: bool,
    },
    /// Nodes are killed.
    Crash {
        /// Which.
        nodes: Vec<usize>,
        /// What becomes of their disks.
        disk: DiskFate,
        /// After how long they are started again, if ever.
        down: Option<Duration>,
    },
    /// Nodes say goodbye and go.
    Leave(Vec<usize>),
    /// Nodes are started.
    Join(Vec<usize>),
    /// Nodes do nothing.
    Freeze(Members),
    /// Nodes do not read their streams.
    SlowReader(Members),
    /// The network of some nodes is worse.
    Weather(Members, Weather),
    /// Wall clocks jump.
    ClockJump(Vec<usize>, i64),
    /// Bits flip in what nodes receive.
    Corrupt(Members, f64),
    /// Nodes change what they pass on of others' writes, in so many of the frames that have some.
    Forge(Members, f64),
    /// Subscribers do not look.
    Stall(Members),
    /// The place of each node on a ring, on which it reaches its neighbours only.
    Ring(Vec<Option<usize>>),
    /// All connections are reset.
    Reset(Vec<usize>),
    /// Handshakes fail.
    Refuse(Members),
    /// A machine is started with the identity and the disk of another.
    Clone {
        /// Whose.
        from: usize,
        /// Where.
        to: usize,
        /// After how long it is killed.
        lives: Duration,
    },
    /// Wall clocks stand still.
    ClockFreeze(Members),
    /// Subscribers die and begin anew.
    Panic(Vec<usize>),
}

impl Effect {
    /// Whether a node is hit, be it only that it does not reach another.
    pub(crate) fn touches(&self, node: usize) -> bool {
        match self {
            Self::Split(places) | Self::Ring(places) => places[node].is_some(),
            Self::Block { from, to, .. } => from[node] || to[node],
            Self::Clone { from, to, .. } => *from == node || *to == node,
            Self::Crash { nodes, .. }
            | Self::Leave(nodes)
            | Self::Join(nodes)
            | Self::Reset(nodes)
            | Self::Panic(nodes)
            | Self::ClockJump(nodes, _) => nodes.contains(&node),
            Self::Freeze(nodes)
            | Self::SlowReader(nodes)
            | Self::Weather(nodes, _)
            | Self::Corrupt(nodes, _)
            | Self::Forge(nodes, _)
            | Self::Refuse(nodes)
            | Self::ClockFreeze(nodes)
            | Self::Stall(nodes) => nodes[node],
        }
    }
}

impl Effect {
    /// The side of a partition that a node is on; 0 if it is hit by anything else.
    pub(crate) fn side(&self, node: usize) -> Option<usize> {
        match self {
            Self::Split(groups) => groups[node],
            other => other.touches(node).then_some(0),
        }
    }
}

/// What the network does to packets, where it differs from normal.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Weather {
    /// One way.
    pub(crate) delay: Option<Duration>,
    /// On top of it, from nothing to this.
    pub(crate) jitter: Option<Duration>,
    /// Of packets.
    pub(crate) loss: Option<f64>,
    /// Of datagrams.
    pub(crate) duplicate: Option<f64>,
    /// In bytes per second.
    pub(crate) bandwidth: Option<Bytes>,
}

/// A fault with its time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    /// From when.
    pub(crate) at: Moment,
    /// Until when, if it is not over in a moment.
    pub(crate) until: Option<Moment>,
    /// What.
    pub(crate) effect: Effect,
    /// What the scenario calls it.
    pub(crate) kind: FaultKind,
}

impl Planned {
    /// The fault as a scenario says it, with nothing left to draw.
    pub(crate) fn written(&self) -> Fault {
        let mut fault = Fault::new(self.kind, self.at.since(Moment(0)));
        fault.lasts = self.until.map(|until| Drawn::fixed(until.since(self.at)));
        let set = |members: &Members| Some(NodeSet::of((0..members.len()).filter(|node| members[*node])));
        let list = |nodes: &[usize]| Some(NodeSet::of(nodes.iter().copied()));
        match &self.effect {
            Effect::Split(groups) => {
                let count = groups.iter().flatten().max().map_or(0, |greatest| greatest + 1);
                let group =
                    |group| NodeSet::of((0..groups.len()).filter(move |node| groups[*node] == Some(group)));
                fault.groups = Some(Groups::Listed((0..count).map(group).collect()));
            }
            Effect::Block { from, to, again, .. } => {
                (fault.from, fault.to) = (set(from), set(to));
                fault.again = again.then_some(true);
            }
            Effect::Crash { nodes, disk, down } => {
                (fault.nodes, fault.disk, fault.lasts) = (list(nodes), Some(*disk), down.map(Drawn::fixed));
            }
            Effect::Leave(nodes) | Effect::Join(nodes) | Effect::Reset(nodes) | Effect::Panic(nodes) => {
                fault.nodes = list(nodes);
            }
            Effect::Ring(places) => {
                fault.nodes = Some(NodeSet::of((0..places.len()).filter(|node| places[*node].is_some())));
            }
            Effect::Clone { from, to, lives } => {
                (fault.from, fault.to) = (list(&[*from]), list(&[*to]));
                fault.lasts = Some(Drawn::fixed(*lives));
            }
            Effect::Freeze(nodes)
            | Effect::SlowReader(nodes)
            | Effect::Refuse(nodes)
            | Effect::ClockFreeze(nodes)
            | Effect::Stall(nodes) => fault.nodes = set(nodes),
            Effect::Weather(nodes, weather) => {
                fault.nodes = set(nodes);
                fault.delay = weather.delay.map(Drawn::fixed);
                fault.jitter = weather.jitter.map(Drawn::fixed);
                fault.loss = weather.loss.map(Chance);
                fault.duplicate = weather.duplicate.map(Chance);
                fault.bandwidth = weather.bandwidth.map(Drawn::fixed);
            }
            Effect::ClockJump(nodes, millis) => {
                (fault.nodes, fault.by) = (list(nodes), Some(Drawn::fixed(Skew { millis: *millis })));
            }
            Effect::Corrupt(nodes, rate) | Effect::Forge(nodes, rate) => {
                (fault.nodes, fault.rate) = (set(nodes), Some(Chance(*rate)));
            }
        }
        fault
    }
}

/// A scenario names a node that this run does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} names node {node}, but there are {count}, from 0; use --nodes or another number")]
pub(crate) struct NoSuchNode {
    what: String,
    node: usize,
    count: usize,
}

/// Why a packet does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Neither direction is open.
    BothWays,
    /// The way back is open.
    OneWay,
}

/// The faults of a run, and which of them are on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    planned: Vec<Planned>,
    on: Vec<usize>,
    /// Counts the changes, for whoever remembers what follows from them.
    epoch: u64,
}

impl Faults {
    /// Starts with all of them to come.
    pub(crate) fn new(planned: Vec<Planned>) -> Self {
        Self { planned, on: Vec::new(), epoch: 0 }
    }

    /// All of them.
    pub(crate) fn planned(&self) -> &[Planned] {
        &self.planned
    }

    /// One of them begins.
    pub(crate) fn begin(&mut self, fault: usize) {
        self.on.push(fault);
        self.epoch += 1;
    }

    /// One of them is over.
    pub(crate) fn end(&mut self, fault: usize) {
        self.on.retain(|on| *on != fault);
        self.epoch += 1;
    }

    /// Counts the changes of what is on.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether something is wrong with a node.
    pub(crate) fn touches(&self, node: usize) -> bool {
        self.effects().any(|effect| effect.touches(node))
    }

    fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.on.iter().map(|fault| &self.planned[*fault].effect)
    }

    /// Whether packets from one node to another are dropped.
    pub(crate) fn blocked(&self, from: usize, to: usize) -> Option<Blocked> {
        if self.on.is_empty() || !self.blocks(from, to) {
            return None;
        }
        Some(if self.blocks(to, from) { Blocked::BothWays } else { Blocked::OneWay })
    }

    fn blocks(&self, from: usize, to: usize) -> bool {
        self.effects().any(|effect| match effect {
            Effect::Split(groups) => groups[from].zip(groups[to]).is_some_and(|(from, to)| from != to),
            Effect::Ring(places) => places[from].zip(places[to]).is_some_and(|(from, to)| {
                let round = places.iter().flatten().count();
                !(from.abs_diff(to) <= 1 || from.abs_diff(to) + 1 == round)
            }),
            Effect::Block { from: here, to: there, both, .. } => {
                (here[from] && there[to]) || (*both && here[to] && there[from])
            }
            _ => false,
        })
    }

    /// The group of a node while the mesh is split.
    pub(crate) fn group(&self, node: usize) -> Option<usize> {
        self.effects().find_map(|effect| match effect {
            Effect::Split(groups) => groups[node],
            _ => None,
        })
    }

    /// What the network does to packets between two nodes.
    pub(crate) fn weather(&self, one: usize, other: usize) -> Weather {
        let mut sum = Weather::default();
        for effect in self.effects() {
            if let Effect::Weather(nodes, weather) = effect
                && (nodes[one] || nodes[other])
            {
                sum.delay = weather.delay.or(sum.delay);
                sum.jitter = weather.jitter.or(sum.jitter);
                sum.loss = weather.loss.or(sum.loss);
                sum.duplicate = weather.duplicate.or(sum.duplicate);
                sum.bandwidth = weather.bandwidth.or(sum.bandwidth);
            }
        }
        sum
    }

    /// Whether a node leaves its streams unread.
    pub(crate) fn is_slow_reader(&self, node: usize) -> bool {
        self.effects().any(|effect| matches!(effect, Effect::SlowReader(nodes) if nodes[node]))
    }

    /// Whether a node does nothing.
    pub(crate) fn is_frozen(&self, node: usize) -> bool {
        self.effects().any(|effect| matches!(effect, Effect::Freeze(nodes) if nodes[node]))
    }

    /// When the freezing of a node ends. One that begins before another ends goes on with it: what waits for the end
    /// must not wake to wait again, behind what came later.
    pub(crate) fn frozen_until(&self, node: usize) -> Option<Moment> {
        let freezes = |fault: &&Planned| matches!(&fault.effect, Effect::Freeze(nodes) if nodes[node]);
        let on = self.on.iter().map(|fault| &self.planned[*fault]);
        let mut until = on.filter(freezes).filter_map(|fault| fault.until).max()?;
        loop {
            let longer = |fault: &&Planned| fault.at <= until && fault.until > Some(until);
            let Some(next) = self.planned.iter().filter(freezes).find(longer) else { return Some(until) };
            until = next.until.unwrap_or(until);
        }
    }

    /// Whether handshakes with a node fail.
    pub(crate) fn refuses(&self, node: usize) -> bool {
        self.effects().any(|effect| matches!(effect, Effect::Refuse(nodes) if nodes[node]))
    }

    /// Since when a node's wall clock stands still.
    pub(crate) fn clock_stands_since(&self, node: usize) -> Option<Moment> {
        let on = self.on.iter().map(|fault| &self.planned[*fault]);
        let standing = on.filter(|fault| matches!(&fault.effect, Effect::ClockFreeze(nodes) if nodes[node]));
        standing.map(|fault| fault.at).min()
    }

    /// Whether a node's subscribers do not look.
    pub(crate) fn is_stalled(&self, node: usize) -> bool {
        self.effects().any(|effect| matches!(effect, Effect::Stall(nodes) if nodes[node]))
    }

    /// How often a bit flips in what a node receives.
    pub(crate) fn corruption(&self, node: usize) -> f64 {
        let rates = self.effects().filter_map(|effect| match effect {
            Effect::Corrupt(nodes, rate) if nodes[node] => Some(*rate),
            _ => None,
        });
        rates.fold(0.0, f64::max)
    }

    /// How often a node changes what it passes on.
    pub(crate) fn forging(&self, node: usize) -> f64 {
        let rates = self.effects().filter_map(|effect| match effect {
            Effect::Forge(nodes, rate) if nodes[node] => Some(*rate),
            _ => None,
        });
        rates.fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seed;
    use crate::scenario::Scenario;

    fn faults(text: &str, count: usize) -> Result<Faults, NoSuchNode> {
        let head = "schema = 1\nname = \"x\"\nabout = \"x\"\nnodes = 4\nduration = \"60s\"\n";
        let text = format!("{head}[expect]\nconverge_within = \"9s\"\n{text}");
        let scenario = Scenario::parse("x.toml", &text).unwrap_or_else(|error| panic!("{error}"));
        let planned = plan(&scenario, Seed(1), count, Moment(0) + Duration::from_secs(60))?;
        Ok(Faults::new(planned))
    }

    fn on(text: &str) -> Faults {
        let mut faults = faults(text, 4).unwrap();
        faults.begin(0);
        faults
    }

    #[test]
    fn a_partition_blocks_between_groups_and_not_within() {
        let faults =
            on("[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"1s\"\ngroups = [[0], [\"1..2\"]]\n");
        assert_eq!(faults.blocked(0, 1), Some(Blocked::BothWays));
        assert_eq!(faults.blocked(1, 2), None);
        assert_eq!(faults.blocked(0, 3), None);
        assert!(faults.touches(0) && !faults.touches(3));
        assert_eq!(faults.group(2), Some(1));
    }

    #[test]
    fn one_way_blocks_one_way() {
        let faults = on("[[fault]]\nkind = \"one-way\"\nat = \"1s\"\nfor = \"1s\"\nfrom = 0\nto = \"all\"\n");
        assert_eq!(faults.blocked(0, 1), Some(Blocked::OneWay));
        assert_eq!(faults.blocked(1, 0), None);
        assert_eq!(faults.blocked(0, 0), None);
    }

    #[test]
    fn a_cut_blocks_both_ways_between_the_two_and_nobody_else() {
        let faults = on("[[fault]]\nkind = \"cut\"\nat = \"1s\"\nfor = \"1s\"\nfrom = 0\nto = 1\n");
        assert_eq!(faults.blocked(1, 0), Some(Blocked::BothWays));
        assert_eq!(faults.blocked(0, 2), None);
    }

    #[test]
    fn a_flapping_link_goes_down_again_and_again() {
        let text = "[[fault]]\nkind = \"flap\"\nat = \"1s\"\nfor = \"10s\"\nfrom = 0\nto = 1\ndown = \"1s\"\nup = \"2s\"\n";
        let faults = faults(text, 4).unwrap();
        assert_eq!(faults.planned().len(), 4);
        assert!(faults.planned().iter().all(|planned| planned.until > Some(planned.at)));
    }

    #[test]
    fn weather_freezing_reading_corruption_and_stalls_hit_whom_they_name() {
        let hit = "at = \"1s\"\nfor = \"1s\"\nnodes = 2\n";
        let faults = on(&format!("[[fault]]\nkind = \"weather\"\nloss = 0.5\n{hit}"));
        assert_eq!((faults.weather(2, 0).loss, faults.weather(0, 1).loss), (Some(0.5), None));
        let faults = on(&format!("[[fault]]\nkind = \"freeze\"\n{hit}"));
        assert!(faults.is_frozen(2) && !faults.is_frozen(1) && faults.frozen_until(2).is_some());
        let faults = on(&format!("[[fault]]\nkind = \"slow-reader\"\n{hit}"));
        assert!(faults.is_slow_reader(2) && !faults.is_slow_reader(1));
        let faults = on(&format!("[[fault]]\nkind = \"corrupt\"\nrate = 0.25\n{hit}"));
        assert_eq!((faults.corruption(2), faults.corruption(1)), (0.25, 0.0));
        let faults = on(&format!("[[fault]]\nkind = \"forge\"\nrate = 0.25\n{hit}"));
        assert_eq!((faults.forging(2), faults.forging(1)), (0.25, 0.0));
        let faults = on(&format!("[[fault]]\nkind = \"stall\"\n{hit}"));
        assert!(faults.is_stalled(2) && !faults.is_stalled(1));
    }

    #[test]
    fn a_freeze_that_begins_before_another_ends_goes_on_with_it() {
        let freeze = |at: &str, lasts: &str| {
            format!("[[fault]]\nkind = \"freeze\"\nat = \"{at}\"\nfor = \"{lasts}\"\nnodes = 2\n")
        };
        let text = [freeze("3s", "2s"), freeze("1s", "1s"), freeze("2s", "1s"), freeze("7s", "1s")].concat();
        let mut faults = faults(&text, 4).unwrap();
        faults.begin(1);
        assert_eq!(faults.frozen_until(2), Some(Moment(5_000_000_000)));
        assert_eq!(faults.frozen_until(1), None);
    }

    #[test]
    fn a_ring_leaves_each_node_its_two_neighbours() {
        let faults = on("[[fault]]\nkind = \"ring\"\nat = \"1s\"\nfor = \"1s\"\n");
        let reached =
            |node| (0..4).filter(|other| faults.blocked(node, *other).is_none()).collect::<Vec<_>>();
        assert_eq!((reached(0), reached(2)), (vec![0, 1, 3], vec![1, 2, 3]));
    }

    #[test]
    fn swizzled_nodes_go_one_after_another_and_come_back_in_another_order() {
        let text = "[[fault]]\nkind = \"swizzle\"\nat = \"10s\"\nfor = \"40s\"\nnodes = \"all\"\n";
        let cuts = faults(text, 9).unwrap();
        let mut coming: Vec<_> =
            cuts.planned().iter().map(|cut| (cut.until.unwrap(), cut.written().from)).collect();
        assert!(cuts.planned().is_sorted_by(|one, other| one.at < other.at));
        assert!(
            cuts.planned()
                .iter()
                .all(|cut| cut.at < Moment(30_000_000_000) && cut.until > Some(Moment(30_000_000_000)))
        );
        let going: Vec<_> = cuts.planned().iter().map(|cut| cut.written().from).collect();
        coming.sort_by_key(|(until, _)| *until);
        assert_ne!(going, coming.into_iter().map(|(_, node)| node).collect::<Vec<_>>());
    }

    #[test]
    fn a_starved_node_freezes_again_and_again() {
        let text = "[[fault]]\nkind = \"starve\"\nat = \"1s\"\nfor = \"1s\"\nnodes = 2\ndown = \"90ms\"\nup = \"10ms\"\n";
        let mut faults = faults(text, 4).unwrap();
        assert_eq!(faults.planned().len(), 10);
        faults.begin(0);
        assert!(faults.is_frozen(2) && !faults.is_frozen(1));
    }

    #[test]
    fn clocks_stand_and_handshakes_are_refused_where_they_are_told_to() {
        let hit = "at = \"1s\"\nfor = \"1s\"\nnodes = 2\n";
        let faults = on(&format!("[[fault]]\nkind = \"clock-freeze\"\n{hit}"));
        assert_eq!(
            (faults.clock_stands_since(2), faults.clock_stands_since(1)),
            (Some(Moment(1_000_000_000)), None)
        );
        let faults = on(&format!("[[fault]]\nkind = \"refuse\"\n{hit}"));
        assert!(faults.refuses(2) && !faults.refuses(1));
    }

    #[test]
    fn taking_one_fault_away_leaves_the_others_as_they_were() {
        let halves =
            "[[fault]]\nkind = \"partition\"\nat = \"1s..9s\"\nfor = \"1s..9s\"\ngroups = \"halves\"\n";
        let crash = "[[fault]]\nkind = \"crash\"\nat = \"1s..9s\"\nfor = \"1s..9s\"\nnodes = \"any\"\n";
        let both = faults(&format!("{crash}{halves}"), 4).unwrap();
        let alone = faults(halves, 4).unwrap();
        assert_eq!(both.planned()[1], alone.planned()[0]);
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error() {
        let error = faults("[[fault]]\nkind = \"crash\"\nat = \"1s\"\nnodes = 3\n", 2).unwrap_err();
        assert!(error.to_string().contains("names node 3, but there are 2"), "{error}");
    }
}
