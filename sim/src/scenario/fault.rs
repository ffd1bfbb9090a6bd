//! What goes wrong in a scenario, as it is written.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Spanned;

use super::{Bytes, Chance, Drawn, Skew};
use crate::random::{self, Generator};

/// One fault, which may come again and again.
///
/// The parameters of all kinds are in one table, and [`Fault::check`] says which belong to which: so an error
/// has its place in the file, which it would lose in a tagged enum.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// What.
    pub(crate) kind: Spanned<FaultKind>,
    /// When, after the beginning.
    pub(crate) at: Drawn<Duration>,
    /// How long.
    #[serde(rename = "for")]
    pub(crate) lasts: Option<Drawn<Duration>>,
    /// How long until it comes again.
    pub(crate) every: Option<Drawn<Duration>>,
    /// Whether this seed has it at all.
    pub(crate) chance: Option<Chance>,
    /// Who is apart from whom.
    pub(crate) groups: Option<Groups>,
    /// Who is not heard.
    pub(crate) from: Option<NodeSet>,
    /// Who does not hear.
    pub(crate) to: Option<NodeSet>,
    /// Who is hit.
    pub(crate) nodes: Option<NodeSet>,
    /// What becomes of the disk.
    pub(crate) disk: Option<DiskFate>,
    /// How far the clock jumps.
    pub(crate) by: Option<Drawn<Skew>>,
    /// How often.
    pub(crate) rate: Option<Chance>,
    /// The delay meanwhile.
    pub(crate) delay: Option<Drawn<Duration>>,
    /// The jitter meanwhile.
    pub(crate) jitter: Option<Drawn<Duration>>,
    /// The loss meanwhile.
    pub(crate) loss: Option<Chance>,
    /// The share of datagrams that come twice meanwhile.
    pub(crate) duplicate: Option<Chance>,
    /// The bandwidth meanwhile.
    pub(crate) bandwidth: Option<Drawn<Bytes>>,
    /// How long a flapping link is down at a time.
    pub(crate) down: Option<Drawn<Duration>>,
    /// How long a flapping link is up at a time.
    pub(crate) up: Option<Drawn<Duration>>,
    /// Whether a cut is one of a flapping link after the first: then it counts when the link was up before.
    pub(crate) again: Option<bool>,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// Groups of nodes do not reach each other.
    Partition,
    /// Some nodes are not heard by others, which they hear.
    OneWay,
    /// Links between some nodes are cut, both ways.
    Cut,
    /// Links between some nodes come and go.
    Flap,
    /// Nodes are killed and, after a while, started again.
    Crash,
    /// Nodes say that they go, and go.
    Leave,
    /// Nodes that were not there are started.
    Join,
    /// Nodes do nothing while their transport lives.
    Freeze,
    /// Nodes accept streams and do not read them.
    SlowReader,
    /// Delay, jitter, loss, duplication or bandwidth of the links of some nodes change.
    Weather,
    /// Wall clocks jump.
    ClockJump,
    /// Bits flip after decryption.
    Corrupt,
    /// Nodes change what they pass on of others' writes; where entries are sealed, for they would be believed elsewhere.
    Forge,
    /// Subscribers do not look at their events.
    Stall,
    /// Each node reaches only its two neighbours, as on a ring.
    Ring,
    /// Nodes are cut off one after another and come back in another order.
    Swizzle,
    /// All connections of some nodes are reset.
    Reset,
    /// Handshakes with some nodes fail at once; connections that stand, stand.
    Refuse,
    /// The disk of a node is copied into another machine, which is started beside it.
    Clone,
    /// Wall clocks stand still.
    ClockFreeze,
    /// Nodes get a processor only now and then.
    Starve,
    /// Subscribers die and begin anew.
    Panic,
}

impl FaultKind {
    /// All of them, in the order of `sim list`.
    pub(crate) const ALL: &[Self] = &[
        Self::Partition,
        Self::OneWay,
        Self::Cut,
        Self::Flap,
        Self::Crash,
        Self::Leave,
        Self::Join,
        Self::Freeze,
        Self::SlowReader,
        Self::Weather,
        Self::ClockJump,
        Self::Corrupt,
        Self::Forge,
        Self::Stall,
        Self::Ring,
        Self::Swizzle,
        Self::Reset,
        Self::Refuse,
        Self::Clone,
        Self::ClockFreeze,
        Self::Starve,
        Self::Panic,
    ];

    /// How it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Cut => "cut",
            Self::Flap => "flap",
            Self::Crash => "crash",
            Self::Leave => "leave",
            Self::Join => "join",
            Self::Freeze => "freeze",
            Self::SlowReader => "slow-reader",
            Self::Weather => "weather",
            Self::ClockJump => "clock-jump",
            Self::Corrupt => "corrupt",
            Self::Forge => "forge",
            Self::Stall => "stall",
            Self::Ring => "ring",
            Self::Swizzle => "swizzle",
            Self::Reset => "reset",
            Self::Refuse => "refuse",
            Self::Clone => "clone",
            Self::ClockFreeze => "clock-freeze",
            Self::Starve => "starve",
            Self::Panic => "panic",
        }
    }

    /// What it does, in one line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Partition => "groups of nodes do not reach each other",
            Self::OneWay => "some nodes are not heard by others, which they hear",
            Self::Cut => "links between some nodes are cut, both ways",
            Self::Flap => "links between some nodes come and go",
            Self::Crash => "nodes are killed and, after a while, started again",
            Self::Leave => "nodes say that they go, and go",
            Self::Join => "nodes that were not there are started",
            Self::Freeze => "nodes do nothing while their transport lives",
            Self::SlowReader => "nodes accept streams and do not read them",
            Self::Weather => "delay, jitter, loss, duplication or bandwidth of links change",
            Self::ClockJump => "wall clocks jump",
            Self::Corrupt => "bits flip after decryption",
            Self::Forge => "nodes change what they pass on of others' writes; where entries are sealed",
            Self::Stall => "subscribers do not look at their events",
            Self::Ring => "each node reaches only its two neighbours, as on a ring",
            Self::Swizzle => "nodes are cut off one after another and come back in another order",
            Self::Reset => "all connections of some nodes are reset",
            Self::Refuse => "handshakes fail at once; connections that stand, stand",
            Self::Clone => "the disk of a node is copied into another machine, which is started beside it",
            Self::ClockFreeze => "wall clocks stand still",
            Self::Starve => "nodes get a processor only now and then",
            Self::Panic => "subscribers die and begin anew",
        }
    }

    /// The parameters that it needs, and those that it may have besides.
    fn parameters(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Partition => (&["groups", "for"], &[]),
            Self::OneWay => (&["from", "to", "for"], &[]),
            Self::Cut => (&["from", "to", "for"], &["again"]),
            Self::Flap => (&["from", "to", "for", "down", "up"], &[]),
            Self::Crash => (&["nodes"], &["for", "disk"]),
            Self::Leave | Self::Join | Self::Reset | Self::Panic => (&["nodes"], &[]),
            Self::Ring | Self::Refuse => (&["for"], &["nodes"]),
            Self::Clone => (&["from", "to", "for"], &[]),
            Self::Starve => (&["nodes", "for", "down", "up"], &[]),
            Self::Freeze | Self::SlowReader | Self::Stall | Self::Swizzle | Self::ClockFreeze => {
                (&["nodes", "for"], &[])
            }
            Self::Weather => (&["for"], &["nodes", "delay", "jitter", "loss", "duplicate", "bandwidth"]),
            Self::ClockJump => (&["nodes", "by"], &[]),
            Self::Corrupt => (&["rate", "for"], &["nodes"]),
            Self::Forge => (&["nodes", "rate", "for"], &[]),
        }
    }
}

impl Fault {
    /// A fault of that kind at that time, without parameters.
    pub(crate) fn new(kind: FaultKind, at: Duration) -> Self {
        Self {
            kind: Spanned::new(0..0, kind),
            at: Drawn::fixed(at),
            lasts: None,
            every: None,
            chance: None,
            groups: None,
            from: None,
            to: None,
            nodes: None,
            disk: None,
            by: None,
            rate: None,
            delay: None,
            jitter: None,
            loss: None,
            duplicate: None,
            bandwidth: None,
            down: None,
            up: None,
            again: None,
        }
    }

    /// Lets it hit a node no more, if it did by number; says whether it did.
    pub(crate) fn spare(&mut self, node: usize) -> bool {
        let before = self.listed();
        self.renumber(|other| (other != node).then_some(other));
        self.listed() != before
    }

    /// Gives the nodes that it hits by number other numbers.
    pub(crate) fn renumber(&mut self, number: impl Fn(usize) -> Option<usize>) {
        for set in [&mut self.from, &mut self.to, &mut self.nodes].into_iter().flatten() {
            set.map(&number);
        }
        if let Some(Groups::Listed(groups)) = &mut self.groups {
            groups.iter_mut().for_each(|group| group.map(&number));
        }
    }

    fn listed(&self) -> Vec<Vec<usize>> {
        let sets = [&self.from, &self.to, &self.nodes].into_iter().flatten().map(NodeSet::listed);
        let groups = match &self.groups {
            Some(Groups::Listed(groups)) => groups.as_slice(),
            _ => &[],
        };
        sets.chain(groups.iter().map(NodeSet::listed)).collect()
    }

    /// Says whether the parameters are those of its kind.
    ///
    /// # Errors
    ///
    /// What is wrong and what to write instead.
    pub(super) fn check(&self) -> Result<(), String> {
        let kind = *self.kind.get_ref();
        let (needed, optional) = kind.parameters();
        let given = self.given();
        let name = kind.name();
        if let Some(parameter) = needed.iter().find(|parameter| !given.contains(*parameter)) {
            return Err(format!("the fault `{name}` needs `{parameter}`"));
        }
        let foreign = given.iter().find(|given| !needed.contains(given) && !optional.contains(given));
        if let Some(parameter) = foreign {
            let legal = [needed, optional].concat().join("`, `");
            return Err(format!(
                "the fault `{name}` has no `{parameter}`; it has `{legal}`, `at`, `every` and `chance`"
            ));
        }
        Ok(())
    }

    fn given(&self) -> Vec<&'static str> {
        let given = [
            ("groups", self.groups.is_some()),
            ("for", self.lasts.is_some()),
            ("from", self.from.is_some()),
            ("to", self.to.is_some()),
            ("nodes", self.nodes.is_some()),
            ("disk", self.disk.is_some()),
            ("by", self.by.is_some()),
            ("rate", self.rate.is_some()),
            ("delay", self.delay.is_some()),
            ("jitter", self.jitter.is_some()),
            ("loss", self.loss.is_some()),
            ("duplicate", self.duplicate.is_some()),
            ("bandwidth", self.bandwidth.is_some()),
            ("down", self.down.is_some()),
            ("up", self.up.is_some()),
            ("again", self.again.is_some()),
        ];
        given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect()
    }
}

/// What becomes of the disk when its node is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DiskFate {
    /// All that was confirmed is there, and perhaps some of what was on its way.
    #[default]
    Keep,
    /// The last confirmed writes are gone: the disk had lied about them.
    Tail,
    /// An old copy was put back.
    Stale,
    /// Nothing is there.
    Lose,
}

/// Who is apart from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Groups {
    /// Two halves, drawn.
    Halves,
    /// One node, drawn, from all others.
    One,
    /// As told; whoever is in no group reaches all.
    Listed(Vec<NodeSet>),
}

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Groups;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"halves\", \"one\" or a list of groups such as [[0], [1, 2]] or [\"0..3\", \"4..\"]",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Groups, E> {
                match text {
                    "halves" => Ok(Groups::Halves),
                    "one" => Ok(Groups::One),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Groups, A::Error> {
                let mut groups = Vec::new();
                while let Some(group) = sequence.next_element()? {
                    groups.push(group);
                }
                Ok(Groups::Listed(groups))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Some of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeSet(Vec<Pick>);

/// A part of a [`NodeSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pick {
    /// All.
    All,
    /// So many, drawn.
    Any(usize),
    /// From one to another, both included; to the last without.
    Range(usize, Option<usize>),
}

impl NodeSet {
    /// No node.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether it names nobody.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// These nodes.
    pub(crate) fn of(nodes: impl IntoIterator<Item = usize>) -> Self {
        Self(nodes.into_iter().map(|node| Pick::Range(node, Some(node))).collect())
    }

    /// All nodes.
    pub(crate) fn all() -> Self {
        Self(vec![Pick::All])
    }

    /// Which of `count` nodes it means.
    ///
    /// # Errors
    ///
    /// The number of a node that there is not.
    pub(crate) fn resolve(&self, count: usize, generator: &mut Generator) -> Result<BTreeSet<usize>, usize> {
        let mut nodes = BTreeSet::new();
        for pick in &self.0 {
            match *pick {
                Pick::All => nodes.extend(0..count),
                Pick::Any(wanted) => {
                    let mut rest: Vec<usize> = (0..count).filter(|node| !nodes.contains(node)).collect();
                    for _ in 0..wanted.min(rest.len()) {
                        nodes.insert(rest.swap_remove(random::index(generator, rest.len())));
                    }
                }
                Pick::Range(first, last) => {
                    let last = last.unwrap_or_else(|| count.saturating_sub(1).max(first));
                    if last >= count {
                        return Err(last);
                    }
                    nodes.extend(first..=last);
                }
            }
        }
        Ok(nodes)
    }

    /// The nodes that it names by number.
    pub(crate) fn listed(&self) -> Vec<usize> {
        let range = |pick: &Pick| match *pick {
            Pick::Range(first, last) => first..last.unwrap_or(first) + 1,
            Pick::All | Pick::Any(_) => 0..0,
        };
        self.0.iter().flat_map(range).collect()
    }

    /// The most nodes that are drawn at once for it.
    pub(super) fn most_drawn(&self) -> usize {
        let drawn = |pick: &Pick| if let Pick::Any(count) = *pick { count } else { 0 };
        self.0.iter().map(drawn).max().unwrap_or(0)
    }

    /// The first node that is in both, whatever is drawn.
    pub(super) fn shared_with(&self, other: &Self) -> Option<usize> {
        let certain = |pick: &Pick| match *pick {
            Pick::All => Some((0, usize::MAX)),
            Pick::Any(_) => None,
            Pick::Range(first, last) => Some((first, last.unwrap_or(usize::MAX))),
        };
        let others: Vec<_> = other.0.iter().filter_map(certain).collect();
        let shared = |(first, last): (usize, usize)| {
            let both = others.iter().map(move |other| (first.max(other.0), last.min(other.1)));
            both.filter(|(first, last)| first <= last).map(|(first, _)| first).min()
        };
        self.0.iter().filter_map(certain).filter_map(shared).min()
    }

    /// Changes the nodes that it names by number; those that become none are gone.
    fn map(&mut self, number: impl Fn(usize) -> Option<usize>) {
        *self = Self::of(self.listed().into_iter().filter_map(number));
    }

    fn pick(text: &str) -> Option<Pick> {
        if let Some(count) = text.strip_prefix("any") {
            return if count.is_empty() { Some(1) } else { count.trim().parse().ok() }.map(Pick::Any);
        }
        match text.split_once("..") {
            _ if text == "all" => Some(Pick::All),
            Some((first, "")) => Some(Pick::Range(first.parse().ok()?, None)),
            Some((first, last)) => Some(Pick::Range(first.parse().ok()?, Some(last.parse().ok()?))),
            None => None,
        }
    }
}

impl Serialize for NodeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for Pick {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::All => serializer.serialize_str("all"),
            Self::Any(count) => serializer.serialize_str(&format!("any {count}")),
            Self::Range(first, None) => serializer.serialize_str(&format!("{first}..")),
            Self::Range(first, Some(last)) if first == last => serializer.serialize_u64(first as u64),
            Self::Range(first, Some(last)) => serializer.serialize_str(&format!("{first}..{last}")),
        }
    }
}

impl Serialize for Groups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Halves => serializer.serialize_str("halves"),
            Self::One => serializer.serialize_str("one"),
            Self::Listed(groups) => groups.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for NodeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = NodeSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a node such as 0, \"all\", \"any\", \"any 2\", \"0..3\", \"4..\" or a list of these",
                )
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<NodeSet, E> {
                let node = usize::try_from(number).ok();
                node.map(|node| NodeSet(vec![Pick::Range(node, Some(node))]))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NodeSet, E> {
                NodeSet::pick(text)
                    .map(|pick| NodeSet(vec![pick]))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<NodeSet, A::Error> {
                let mut picks = Vec::new();
                while let Some(NodeSet(more)) = sequence.next_element()? {
                    picks.extend(more);
                }
                Ok(NodeSet(picks))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seed;

    fn resolve(text: &str, count: usize) -> Result<Vec<usize>, usize> {
        let set = NodeSet(text.split(',').map(|pick| NodeSet::pick(pick).unwrap()).collect());
        set.resolve(count, &mut Seed(1).generator("test", &[])).map(|nodes| nodes.into_iter().collect())
    }

    #[test]
    fn sets_of_nodes_are_resolved() {
        assert_eq!(resolve("all", 3), Ok(vec![0, 1, 2]));
        assert_eq!(resolve("1..", 3), Ok(vec![1, 2]));
        assert_eq!(resolve("0..1", 3), Ok(vec![0, 1]));
        assert_eq!(resolve("0..0,any 2", 3), Ok(vec![0, 1, 2]));
        assert_eq!(resolve("any", 1), Ok(vec![0]));
        assert_eq!(resolve("1..3", 3), Err(3));
        assert_eq!(resolve("3..", 3), Err(3));
    }
}
