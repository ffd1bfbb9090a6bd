//! Who may expose and connect what: a policy that the mesh's authority has signed.
//!
//! ```text
//! version, 1 | serial, 8 | when, 8 | otherwise, 1
//! count × ( length | group | count × node, 32 )
//! count × ( count × who | acts, 1 | count × ( length | pattern ) )
//! signature, 64
//!
//! who  0 | 1, node, 32 | 2, length, group
//! ```
//! Lengths and counts are varints. Nodes are named by their ids, which are hashes of their keys: what they call
//! themselves, and attributes, which everybody may write, must not decide.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;

use super::{CaError, DecreeError, MeshCa, decree};
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::Value;
use crate::id::{NodeId, TunnelName};
use crate::time::UnixMillis;

const VERSION: u8 = 1;
const LABEL: &[u8] = b"snomesh policy 1\0";
/// How many groups, nodes of a group, rules, and parts of a rule there may be. What binds is the length of a value.
const MAX_COUNT: usize = 4_096;

/// What a node may do with the tunnels of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Offer one.
    Expose,
    /// Open streams to one, or have them pass on their way.
    Connect,
}

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// Every node of the mesh: `*`.
    Everybody,
    /// One node: its id.
    Node(NodeId),
    /// The nodes of a group: `@` and its name.
    Group(GroupName),
}

/// What a policy calls some nodes: 1 to 63 of `a-z 0-9 . -`, as names of tunnels are made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(TunnelName);

/// Names of tunnels: one, all with one beginning (`cam-*`), or all (`*`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: String,
    open: bool,
}

/// A right, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Who.
    pub who: Vec<Who>,
    /// May do this.
    pub may: BTreeSet<Act>,
    /// With tunnels of these names.
    pub what: Vec<Pattern>,
}

/// Who may do what. Rules give rights and take none: their order does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Whether everybody may do what no rule speaks of. What one does speak of is only for those whom it names.
    pub open: bool,
    /// Nodes that rules name together.
    pub groups: BTreeMap<GroupName, BTreeSet<NodeId>>,
    /// The rights.
    pub rules: Vec<Rule>,
}

/// A policy with its place among all that the authority has ever signed: the greatest holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPolicy {
    /// Its number; later ones have greater numbers.
    pub serial: u64,
    /// When it was signed.
    pub at: UnixMillis,
    /// What it says.
    pub policy: Policy,
    proof: Value,
}

/// What a policy says of one wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The rule with this index gives the right.
    Given(usize),
    /// No rule speaks of the name, and the policy is open.
    Open,
    /// Rules speak of the name, and none names the node.
    Withheld,
    /// No rule speaks of the name, and the policy is closed.
    Closed,
}

/// A text of a policy is not legal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Neither `*` nor a node's id nor a group.
    #[error("\"{0}\" is neither *, nor a node's id, nor @GROUP")]
    Who(String),
    /// No name and no beginning of one.
    #[error("\"{0}\" is neither a tunnel's name, nor the beginning of one and *")]
    Pattern(String),
    /// A rule names a group that there is not.
    #[error("there is no group \"{0}\"")]
    NoGroup(GroupName),
    /// A rule has nobody, nothing to do, or nothing to do it with.
    #[error("rule {0} says nothing: it needs who, may and what")]
    Empty(usize),
    /// It is too long to be replicated.
    #[error("the policy has {0} bytes, at most {max} are allowed", max = Value::MAX_LEN)]
    TooLong(usize),
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Expose, Self::Connect];

    const fn bit(self) -> u8 {
        match self {
            Self::Expose => 1,
            Self::Connect => 2,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expose => "expose",
            Self::Connect => "connect",
        })
    }
}

impl FromStr for GroupName {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        text.parse().map(Self).map_err(|_illegal| PolicyError::Who(format!("@{text}")))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Who {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text == "*" {
            return Ok(Self::Everybody);
        }
        match text.strip_prefix('@') {
            Some(group) => Ok(Self::Group(group.parse()?)),
            None => text.parse().map(Self::Node).map_err(|_illegal| PolicyError::Who(text.into())),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("*"),
            Self::Node(node) => node.fmt(f),
            Self::Group(group) => write!(f, "@{group}"),
        }
    }
}

impl Pattern {
    /// Whether it means tunnels of this name.
    pub fn means(&self, name: &TunnelName) -> bool {
        if self.open { name.as_str().starts_with(&self.text) } else { name.as_str() == self.text }
    }
}

impl FromStr for Pattern {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let illegal = || PolicyError::Pattern(text.into());
        let Some(beginning) = text.strip_suffix('*') else {
            let name: TunnelName = text.parse().map_err(|_illegal| illegal())?;
            return Ok(Self { text: name.as_str().into(), open: false });
        };
        // The beginning of a name is one when anything may follow.
        let legal = beginning.is_empty() || format!("{beginning}0").parse::<TunnelName>().is_ok();
        if legal { Ok(Self { text: beginning.into(), open: true }) } else { Err(illegal()) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.open { "*" } else { "" })
    }
}

impl Policy {
    /// What it says of a node that wants to do something with tunnels of a name.
    pub fn judge(&self, node: NodeId, act: Act, name: &TunnelName) -> Judgement {
        let mut spoken_of = false;
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.may.contains(&act) && rule.what.iter().any(|pattern| pattern.means(name)) {
                if rule.who.iter().any(|who| self.is_one(who, node)) {
                    return Judgement::Given(index);
                }
                spoken_of = true;
            }
        }
        match (spoken_of, self.open) {
            (true, _) => Judgement::Withheld,
            (false, true) => Judgement::Open,
            (false, false) => Judgement::Closed,
        }
    }

    /// Whether a node may do something with tunnels of a name.
    pub fn permits(&self, node: NodeId, act: Act, name: &TunnelName) -> bool {
        matches!(self.judge(node, act, name), Judgement::Given(_) | Judgement::Open)
    }

    fn is_one(&self, who: &Who, node: NodeId) -> bool {
        match who {
            Who::Everybody => true,
            Who::Node(named) => *named == node,
            Who::Group(group) => self.groups.get(group).is_some_and(|nodes| nodes.contains(&node)),
        }
    }

    /// Whether it makes sense: every rule says something, and speaks of groups that there are.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Empty`], [`PolicyError::NoGroup`].
    pub fn check(&self) -> Result<(), PolicyError> {
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.who.is_empty() || rule.may.is_empty() || rule.what.is_empty() {
                return Err(PolicyError::Empty(index + 1));
            }
            for who in &rule.who {
                if let Who::Group(group) = who
                    && !self.groups.contains_key(group)
                {
                    return Err(PolicyError::NoGroup(group.clone()));
                }
            }
        }
        Ok(())
    }

    fn encode(&self, writer: &mut Writer) {
        writer.byte(self.open.into());
        writer.count(self.groups.len());
        for (group, nodes) in &self.groups {
            writer.bytes(group.0.as_str().as_bytes());
            writer.count(nodes.len());
            nodes.iter().for_each(|node| writer.raw(node.as_bytes()));
        }
        writer.count(self.rules.len());
        for rule in &self.rules {
            writer.count(rule.who.len());
            for who in &rule.who {
                match who {
                    Who::Everybody => writer.byte(0),
                    Who::Node(node) => {
                        writer.byte(1);
                        writer.raw(node.as_bytes());
                    }
                    Who::Group(group) => {
                        writer.byte(2);
                        writer.bytes(group.0.as_str().as_bytes());
                    }
                }
            }
            writer.byte(rule.may.iter().map(|act| act.bit()).sum());
            writer.count(rule.what.len());
            rule.what.iter().for_each(|pattern| writer.bytes(pattern.to_string().as_bytes()));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut policy = Self { open: reader.flag()?, ..Self::default() };
        for _ in 0..reader.count(MAX_COUNT, "count of groups")? {
            let group = text(reader, "a group")?;
            let count = reader.count(MAX_COUNT, "count of nodes")?;
            let nodes: Result<_, Malformed> = (0..count).map(|_| node(reader)).collect();
            policy.groups.insert(group, nodes?);
        }
        for _ in 0..reader.count(MAX_COUNT, "count of rules")? {
            let who = (0..reader.count(MAX_COUNT, "count of nodes")?).map(|_| match reader.byte()? {
                0 => Ok(Who::Everybody),
                1 => Ok(Who::Node(node(reader)?)),
                2 => Ok(Who::Group(text(reader, "a group")?)),
                tag => Err(Malformed::Unknown { what: "kind of who", tag: tag.into() }),
            });
            let who = who.collect::<Result<_, _>>()?;
            let bits = reader.byte()?;
            let may: BTreeSet<Act> = Act::ALL.into_iter().filter(|act| bits & act.bit() != 0).collect();
            if may.iter().map(|act| act.bit()).sum::<u8>() != bits {
                return Err(Malformed::Unknown { what: "acts", tag: bits.into() });
            }
            let what = (0..reader.count(MAX_COUNT, "count of patterns")?).map(|_| text(reader, "a pattern"));
            let what = what.collect::<Result<_, _>>()?;
            policy.rules.push(Rule { who, may, what });
        }
        Ok(policy)
    }
}

fn text<T: FromStr>(reader: &mut Reader<'_>, what: &'static str) -> Result<T, Malformed> {
    let text = reader.text(TunnelName::MAX_LEN + 1, what)?;
    text.parse().ok().ok_or(Malformed::Illegal { what })
}

fn node(reader: &mut Reader<'_>) -> Result<NodeId, Malformed> {
    Ok(NodeId::from_bytes(reader.array()?))
}

/// Why a policy could not be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignPolicyError {
    /// It is not legal.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The authority's key does not sign.
    #[error(transparent)]
    Authority(#[from] CaError),
}

impl SignedPolicy {
    /// Signs a policy.
    ///
    /// # Errors
    ///
    /// [`SignPolicyError`].
    pub fn sign(ca: &MeshCa, serial: u64, at: UnixMillis, policy: Policy) -> Result<Self, SignPolicyError> {
        policy.check()?;
        let mut writer = Writer::new();
        writer.byte(VERSION);
        writer.fixed64(serial);
        writer.fixed64(at.0);
        policy.encode(&mut writer);
        let proof = decree::sign(ca, LABEL, writer.finish())?;
        let length = proof.len();
        let proof = Value::try_from(&proof[..]).map_err(|_too_long| PolicyError::TooLong(length))?;
        Ok(Self { serial, at, policy, proof })
    }

    /// Reads one, if one of these authorities has signed it.
    ///
    /// # Errors
    ///
    /// [`DecreeError`]: whoever wrote it is wrong, or an enemy, or the authority speaks a later version.
    pub fn verify(proof: &Value, authorities: &[CertificateDer<'_>]) -> Result<Self, DecreeError> {
        let mut reader = Reader::new(decree::verify(proof.as_bytes(), LABEL, authorities)?);
        match reader.byte()? {
            VERSION => {}
            tag => return Err(Malformed::Unknown { what: "version of a policy", tag: tag.into() }.into()),
        }
        let (serial, at) = (reader.fixed64()?, UnixMillis(reader.fixed64()?));
        let policy = Policy::decode(&mut reader)?;
        reader.finish()?;
        Ok(Self { serial, at, policy, proof: proof.clone() })
    }

    /// The bytes that prove it.
    pub fn proof(&self) -> &Value {
        &self.proof
    }

    /// Which of two holds: the greater number, and of those with one number, signed on two sides of a partition, the
    /// one with the greater bytes. So all nodes that have seen both hold the same.
    pub fn cmp_rank(&self, other: &Self) -> Ordering {
        let rank = |signed: &Self| (signed.serial, signed.proof.as_bytes().to_vec());
        rank(self).cmp(&rank(other))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::test_mesh::TestMesh;

    fn node_id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn name(text: &str) -> TunnelName {
        text.parse().unwrap()
    }

    pub(crate) fn rule(who: &str, may: &[Act], what: &str) -> Rule {
        Rule {
            who: who.split(' ').map(|who| who.parse().unwrap()).collect(),
            may: may.iter().copied().collect(),
            what: what.split(' ').map(|what| what.parse().unwrap()).collect(),
        }
    }

    fn cameras() -> Policy {
        let group = [node_id(1), node_id(2)].into();
        Policy {
            open: false,
            groups: [("edge".parse().unwrap(), group)].into(),
            rules: vec![
                rule("@edge", &[Act::Expose], "cam-* door"),
                rule("*", &[Act::Connect], "web"),
                rule(&node_id(3).to_string(), &Act::ALL, "*"),
            ],
        }
    }

    /// FEATURES P5.
    #[test]
    fn rules_give_rights_and_what_none_speaks_of_is_as_the_policy_begins() {
        let mut policy = cameras();
        for (node, act, tunnel, judged) in [
            (1, Act::Expose, "cam-7", Judgement::Given(0)),
            (2, Act::Expose, "door", Judgement::Given(0)),
            (2, Act::Expose, "doors", Judgement::Withheld),
            (2, Act::Connect, "cam-7", Judgement::Withheld),
            (9, Act::Connect, "web", Judgement::Given(1)),
            (3, Act::Connect, "cam-7", Judgement::Given(2)),
        ] {
            assert_eq!(policy.judge(node_id(node), act, &name(tunnel)), judged, "{node} {act} {tunnel}");
        }
        policy.rules.pop();
        assert_eq!(policy.judge(node_id(9), Act::Connect, &name("db")), Judgement::Closed);
        policy.open = true;
        // What rules speak of is for those whom they name, open or not.
        assert_eq!(policy.judge(node_id(9), Act::Connect, &name("db")), Judgement::Open);
        assert_eq!(policy.judge(node_id(9), Act::Expose, &name("cam-7")), Judgement::Withheld);
        assert!(Policy { open: true, ..Policy::default() }.permits(node_id(9), Act::Expose, &name("x")));
        assert!(!Policy::default().permits(node_id(9), Act::Expose, &name("x")));
    }

    #[test]
    fn texts_that_mean_nothing_are_refused() {
        for text in ["*", "cam-*", "cam.*", "web"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in ["", "-*", "Cam*", "*cam", "a*b", "cam-", &format!("{}*", "x".repeat(63))] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        for text in ["", "@", "@-", "edge-17", "@Edge"] {
            assert!(text.parse::<Who>().is_err(), "{text}");
        }
        let mut policy = cameras();
        policy.groups.clear();
        assert_eq!(policy.check(), Err(PolicyError::NoGroup("edge".parse().unwrap())));
        let mut policy = cameras();
        policy.rules[1].what.clear();
        assert_eq!(policy.check(), Err(PolicyError::Empty(2)));
    }

    #[test]
    fn only_the_meshs_authority_makes_policies_and_not_one_bit_may_differ() {
        let (mesh, other) = (TestMesh::new(), TestMesh::new());
        let signed = SignedPolicy::sign(&mesh.ca, 7, UnixMillis(9), cameras()).unwrap();
        let authorities = [other.ca.certificate().clone(), mesh.ca.certificate().clone()];
        assert_eq!(SignedPolicy::verify(signed.proof(), &authorities), Ok(signed.clone()));
        assert_eq!(SignedPolicy::verify(signed.proof(), &authorities[..1]), Err(DecreeError::Forged));
        let bytes = signed.proof().as_bytes();
        for at in 0..bytes.len() {
            let mut forged = bytes.to_vec();
            forged[at] ^= 1;
            let forged = Value::try_from(&forged[..]).unwrap();
            assert_eq!(SignedPolicy::verify(&forged, &authorities), Err(DecreeError::Forged), "{at}");
        }
        // What was signed to be a revocation is no policy.
        let revocation =
            crate::auth::Revocation { node: node_id(1), at: UnixMillis(1), reason: String::new() };
        let revocation = Value::try_from(&revocation.sign(&mesh.ca).unwrap()[..]).unwrap();
        assert_eq!(SignedPolicy::verify(&revocation, &authorities), Err(DecreeError::Forged));
    }

    #[test]
    fn the_greatest_number_holds_and_of_two_with_one_number_the_same_everywhere() {
        let mesh = TestMesh::new();
        let sign = |serial, policy| SignedPolicy::sign(&mesh.ca, serial, UnixMillis(9), policy).unwrap();
        let (first, second) = (sign(1, cameras()), sign(2, Policy::default()));
        assert_eq!(first.cmp_rank(&second), Ordering::Less);
        let twin = sign(2, cameras());
        assert_ne!(second.cmp_rank(&twin), Ordering::Equal);
        assert_eq!(second.cmp_rank(&twin), twin.cmp_rank(&second).reverse());
    }

    #[test]
    fn a_policy_that_is_too_long_to_be_replicated_is_refused() {
        let mesh = TestMesh::new();
        let nodes = (0..3_000u16).map(|number| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            NodeId::from_bytes(id)
        });
        let policy =
            Policy { groups: [("all".parse().unwrap(), nodes.collect())].into(), ..Policy::default() };
        let refused = SignedPolicy::sign(&mesh.ca, 1, UnixMillis(1), policy);
        assert!(matches!(refused, Err(SignPolicyError::Policy(PolicyError::TooLong(_)))), "{refused:?}");
    }

    /// The bytes are a format that other versions read: a change of it is a new version.
    #[test]
    fn the_bytes_of_a_policy_are_as_written_down() {
        let mut writer = Writer::new();
        let mut policy = cameras();
        policy.rules.pop();
        policy.encode(&mut writer);
        let bytes = writer.finish();
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        let golden = format!(
            "00 01 04 65646765 02 {one} {two} 02 01 02 04 65646765 01 02 05 63616d2d2a 04 646f6f72 01 00 02 01 03 776562"
        );
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden.replace(' ', ""));
        assert_eq!(Policy::decode(&mut Reader::new(&bytes)), Ok(policy));
    }

    proptest! {
        #[test]
        fn no_bytes_make_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(policy) = Policy::decode(&mut reader) {
                let mut writer = Writer::new();
                policy.encode(&mut writer);
                prop_assert_eq!(Policy::decode(&mut Reader::new(&writer.finish())), Ok(policy));
            }
        }
    }
}
