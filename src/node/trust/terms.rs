//! What an invitation gives beside the certificate: places in groups of the policy, the right to expose, attributes.
//!
//! Rights are the policy's and nothing else: whoever joins is written into it by its id, as `snomesh acl set` would do it,
//! before it has its certificate. So they are enforced where the policy is, and taken back as all rights are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::auth::{Act, GroupName, Pattern, Policy, PolicyError, Rule, Who};
use crate::crdt::{Value, ValueError};
use crate::id::NodeId;
use crate::replica::{AttributeKey, AttributeKeyError, AttributeName, Scope};

/// What one invitation gives, as texts: they are looked at when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::node) struct Terms {
    /// Groups of the policy.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(in crate::node) roles: BTreeSet<String>,
    /// Names of tunnels, or their beginnings.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(in crate::node) may_expose: BTreeSet<String>,
    /// Attributes of the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::node) attributes: BTreeMap<String, String>,
}

/// Terms are not legal, or say nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::node) enum TermsError {
    /// A name of a group or of tunnels is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A role that no policy knows gives nothing.
    #[error("the policy has no group \"{0}\", so that role would give nothing")]
    NoRole(GroupName),
    /// An attribute has no legal name.
    #[error("attribute \"{name}\": {source}")]
    Name {
        /// What it is called.
        name: String,
        /// What is wrong with that.
        #[source]
        source: AttributeKeyError,
    },
    /// An attribute is too long.
    #[error("attribute \"{name}\": {source}")]
    Value {
        /// What it is called.
        name: String,
        /// How long it may be.
        #[source]
        source: ValueError,
    },
    /// There are too many of something.
    #[error("an invitation gives at most {} roles, names and attributes each", Terms::MAX)]
    TooMany,
}

impl Terms {
    /// The most roles, names of tunnels, and attributes.
    pub(in crate::node) const MAX: usize = 32;

    /// Whether they are legal, under the policy that holds.
    pub(super) fn check(&self, policy: Option<&Policy>) -> Result<(), TermsError> {
        if [self.roles.len(), self.may_expose.len(), self.attributes.len()]
            .iter()
            .any(|count| *count > Self::MAX)
        {
            return Err(TermsError::TooMany);
        }
        for role in &self.roles {
            let group: GroupName = role.parse()?;
            if !policy.is_some_and(|policy| policy.groups.contains_key(&group)) {
                return Err(TermsError::NoRole(group));
            }
        }
        self.patterns()?;
        self.attributes_of(NodeId::from_bytes([0; 32])).map(drop)
    }

    /// Whether they are about the policy.
    pub(super) fn give_rights(&self) -> bool {
        !self.roles.is_empty() || !self.may_expose.is_empty()
    }

    /// Writes a node into a policy. What it has already it is not given twice.
    pub(super) fn grant(&self, policy: &mut Policy, node: NodeId) -> Result<(), TermsError> {
        for role in &self.roles {
            policy.groups.entry(role.parse()?).or_default().insert(node);
        }
        let what = self.patterns()?;
        if what.is_empty() {
            return Ok(());
        }
        let (may, who) = (BTreeSet::from([Act::Expose]), Who::Node(node));
        let is_ours = |rule: &&mut Rule| {
            let others = rule.who.iter().all(|who| matches!(who, Who::Node(_)));
            others && rule.may == may && rule.what == what
        };
        match policy.rules.iter_mut().find(is_ours) {
            Some(rule) if rule.who.contains(&who) => {}
            Some(rule) => rule.who.push(who),
            None => policy.rules.push(Rule { who: vec![who], may, what }),
        }
        Ok(())
    }

    /// The attributes, as that node's.
    pub(super) fn attributes_of(&self, node: NodeId) -> Result<Vec<(AttributeKey, Value)>, TermsError> {
        let attributes = self.attributes.iter().map(|(name, value)| {
            let key: Result<AttributeName, _> = name.parse();
            let key = key.map_err(|source| TermsError::Name { name: name.clone(), source })?;
            let value = Value::try_from(value.as_bytes());
            let value = value.map_err(|source| TermsError::Value { name: name.clone(), source })?;
            Ok((AttributeKey { scope: Scope::Node(node), name: key }, value))
        });
        attributes.collect()
    }

    fn patterns(&self) -> Result<Vec<Pattern>, PolicyError> {
        self.may_expose.iter().map(|text| text.parse()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TunnelName;

    fn texts(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    /// FEATURES P5, P6: an invitation gives what it says and takes nothing from anybody who was named.
    #[test]
    fn whoever_joins_stands_in_the_policy_and_once_however_often_it_joins() {
        let mut policy = Policy { open: true, ..Policy::default() };
        policy.groups.insert("edge".parse().unwrap(), BTreeSet::from([node(9)]));
        let terms =
            Terms { roles: texts(&["edge"]), may_expose: texts(&["cam-*", "door"]), ..Terms::default() };
        for joining in [1, 2, 1] {
            terms.grant(&mut policy, node(joining)).unwrap();
        }
        assert_eq!(policy.groups[&"edge".parse().unwrap()], [node(9), node(1), node(2)].into());
        assert_eq!((policy.rules.len(), policy.rules[0].who.len()), (1, 2), "{policy:?}");
        let may = |number, name: &str| {
            policy.permits(node(number), Act::Expose, &name.parse::<TunnelName>().unwrap())
        };
        assert!(may(1, "cam-7") && may(2, "door") && !may(9, "cam-7") && !may(9, "door"));
        assert!(may(9, "web") && policy.permits(node(9), Act::Connect, &"door".parse().unwrap()));
        policy.check().unwrap();
        // A rule for everybody stays one, and a rule of somebody else's.
        let others = "*".parse().unwrap();
        let mut open = Policy::default();
        open.rules.push(Rule {
            who: vec![others],
            may: [Act::Expose].into(),
            what: vec!["x".parse().unwrap()],
        });
        Terms { may_expose: texts(&["x"]), ..Terms::default() }.grant(&mut open, node(1)).unwrap();
        assert_eq!(open.rules[0].who, [Who::Everybody]);
    }

    #[test]
    fn what_is_not_legal_or_gives_nothing_is_refused() {
        let mut policy = Policy::default();
        policy.groups.insert("edge".parse().unwrap(), BTreeSet::new());
        let check = |terms: &Terms| terms.check(Some(&policy));
        assert_eq!(check(&Terms::default()), Ok(()));
        let role = |role: &str| Terms { roles: texts(&[role]), ..Terms::default() };
        assert_eq!(check(&role("edge")), Ok(()));
        assert_eq!(check(&role("egde")), Err(TermsError::NoRole("egde".parse().unwrap())));
        assert!(matches!(role("edge").check(None), Err(TermsError::NoRole(_))));
        assert!(matches!(check(&role("Edge")), Err(TermsError::Policy(PolicyError::Who(_)))));
        let pattern = Terms { may_expose: texts(&["cam*x"]), ..Terms::default() };
        assert!(matches!(check(&pattern), Err(TermsError::Policy(PolicyError::Pattern(_)))));
        let attribute = |name: &str, length| Terms {
            attributes: [(name.to_owned(), "x".repeat(length))].into(),
            ..Terms::default()
        };
        assert_eq!(check(&attribute("site", Value::MAX_LEN)), Ok(()));
        assert!(matches!(check(&attribute("site", Value::MAX_LEN + 1)), Err(TermsError::Value { .. })));
        assert!(matches!(check(&attribute("a b", 1)), Err(TermsError::Name { .. })));
        let many = (0..=Terms::MAX).map(|number| (number.to_string(), String::new())).collect();
        assert_eq!(check(&Terms { attributes: many, ..Terms::default() }), Err(TermsError::TooMany));
    }
}
