//! What goes wrong in a scenario, as it is written.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{Bytes, Chance, Drawn, Skew};
use crate::random::{self, Generator};

/// One fault, which may come again and again.
///
/// The parameters of all kinds are in one table, and [`Fault::check`] says which belong to which: so an error
/// has its place in the file, which it would lose in a tagged enum.
#[derive(Debug, Clone, Deserialize)]
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
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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
    /// Subscribers do not look at their events.
    Stall,
}

impl FaultKind {
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
            Self::Stall => "stall",
        }
    }

    /// The parameters that it needs, and those that it may have besides.
    fn parameters(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Partition => (&["groups", "for"], &[]),
            Self::OneWay | Self::Cut => (&["from", "to", "for"], &[]),
            Self::Flap => (&["from", "to", "for", "down", "up"], &[]),
            Self::Crash => (&["nodes"], &["for", "disk"]),
            Self::Leave | Self::Join => (&["nodes"], &[]),
            Self::Freeze | Self::SlowReader | Self::Stall => (&["nodes", "for"], &[]),
            Self::Weather => (&["for"], &["nodes", "delay", "jitter", "loss", "duplicate", "bandwidth"]),
            Self::ClockJump => (&["nodes", "by"], &[]),
            Self::Corrupt => (&["rate", "for"], &["nodes"]),
        }
    }
}

impl Fault {
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
        if self.every.is_some_and(|every| every.low().is_zero()) {
            return Err("`every` must not be zero".to_owned());
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
        ];
        given.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect()
    }
}

/// What becomes of the disk when its node is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
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
