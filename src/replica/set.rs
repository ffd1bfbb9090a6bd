//! Sets: elements that all nodes add and remove, where adding wins.
//!
//! ```text
//! set/<scope>/<name>/<element id>     an element, as its value
//! ```
//!
//! Each element is a sub-key of its own, named by its hash. A removal removes the additions that it has seen; one that
//! was made meanwhile elsewhere survives it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;

use super::{AttributeKey, Path, Prepared, Replica, WriteError};
use crate::crdt::{Register, Value};
use crate::id::ParseIdError;
use crate::time::UnixMillis;

/// Names an element of a set: the first 128 bits of its BLAKE3 hash. Prints as 26 characters of base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElementId([u8; 16]);

impl ElementId {
    /// The id of an element.
    pub fn of(element: &Value) -> Self {
        let hash = blake3::hash(element.as_bytes());
        Self(hash.as_bytes().first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for ElementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for ElementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ElementId({self})")
    }
}

impl FromStr for ElementId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let lower_case = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes =
            lower_case.then(|| BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()).flatten();
        let bytes = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        bytes.map(Self).ok_or(ParseIdError::Element)
    }
}

/// The element that is there, if what is there is the one of that id.
fn element(id: ElementId, register: &Register) -> Option<Value> {
    let values = register.values();
    let mut elements = values.iter().filter_map(|entry| entry.value.as_ref());
    elements.find(|element| ElementId::of(element) == id).cloned()
}

impl Replica {
    /// Adds an element to a set. Nothing if it is in it.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was added.
    pub fn add(
        &mut self,
        wall: UnixMillis,
        key: &AttributeKey,
        element: Value,
    ) -> Result<Option<Prepared>, WriteError> {
        let path = Path::Element { set: key.clone(), element: ElementId::of(&element) };
        let at = path.to_key();
        let there = self.store().register(&at).is_some_and(|register| {
            register.winner().is_some_and(|entry| entry.value.as_ref() == Some(&element))
        });
        if there && !self.is_unsettled(&at) {
            return Ok(None);
        }
        self.prepare(wall, &path, Some(element))
    }

    /// Removes an element from a set, as far as its additions are known here. Nothing if it is not in it.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing was removed.
    pub fn discard(
        &mut self,
        wall: UnixMillis,
        key: &AttributeKey,
        element: &Value,
    ) -> Result<Option<Prepared>, WriteError> {
        self.prepare(wall, &Path::Element { set: key.clone(), element: ElementId::of(element) }, None)
    }

    /// The element of that id, if it is in the set.
    pub fn element(&self, key: &AttributeKey, id: ElementId) -> Option<Value> {
        let at = Path::Element { set: key.clone(), element: id }.to_key();
        element(id, &self.store().register(&at)?)
    }

    /// The elements of a set, in the order of their bytes.
    pub fn members(&self, key: &AttributeKey) -> Vec<Value> {
        let prefix = Path::elements_of(key);
        let mut members: Vec<Value> = self
            .store()
            .prefix(&prefix)
            .filter_map(|row| match Path::of(&row.key())? {
                Path::Element { set, element: id } if set == *key => element(id, &row.register()),
                _ => None,
            })
            .collect();
        members.sort_unstable();
        members
    }

    /// The sets whose full names begin with `prefix` and that have elements, with how many. The empty prefix gives all.
    pub fn sets(&self, prefix: &str) -> BTreeMap<AttributeKey, usize> {
        let mut sets = BTreeMap::new();
        let keys = format!("set/{prefix}");
        for row in self.store().prefix(&keys) {
            if let Some(Path::Element { set, element: id }) = Path::of(&row.key())
                && element(id, &row.register()).is_some()
                && set.to_string().starts_with(prefix)
            {
                *sets.entry(set).or_default() += 1;
            }
        }
        sets
    }
}

#[cfg(test)]
mod tests {
    use crdts::{CmRDT, CvRDT, Orswot};
    use proptest::prelude::*;

    use super::super::state::tests::{key, replica, settle, sync, value};
    use super::*;

    const WALL: UnixMillis = UnixMillis(1_000);

    fn add(replica: &mut Replica, element: &str) -> bool {
        let prepared = replica.add(WALL, &key("mesh/sites"), value(element)).unwrap();
        settle(replica, prepared).is_some()
    }

    fn discard(replica: &mut Replica, element: &str) -> bool {
        let prepared = replica.discard(WALL, &key("mesh/sites"), &value(element)).unwrap();
        settle(replica, prepared).is_some()
    }

    fn members(replica: &Replica) -> Vec<String> {
        let members = replica.members(&key("mesh/sites")).into_iter();
        members.map(|member| String::from_utf8(member.as_bytes().to_vec()).unwrap()).collect()
    }

    proptest! {
        /// FEATURES P9. The oracle is `crdts::Orswot`, in which adding wins too.
        #[test]
        fn sets_agree_with_the_oracle(
            steps in prop::collection::vec((0usize..3, 0usize..3, 0u8..3, 0u8..4), 0..80),
        ) {
            let mut nodes: [(Replica, Orswot<String, u8>); 3] =
                [1, 2, 3].map(|node| (replica(node, 1), Orswot::new()));
            for (node, other, what, element) in steps {
                let element = format!("e{element}");
                match what {
                    0 => {
                        let actor = u8::try_from(node).unwrap();
                        let (ours, theirs) = &mut nodes[node];
                        // The oracle makes a new addition of what is there already, ours does not.
                        if add(ours, &element) {
                            let context = theirs.read_ctx().derive_add_ctx(actor);
                            theirs.apply(theirs.add(element, context));
                        }
                    }
                    1 => {
                        let (ours, theirs) = &mut nodes[node];
                        let removed = discard(ours, &element);
                        prop_assert_eq!(removed, theirs.contains(&element).val);
                        theirs.apply(theirs.rm(element.clone(), theirs.contains(&element).derive_rm_ctx()));
                    }
                    _ if node != other => {
                        let [from, to] = nodes.get_disjoint_mut([node, other]).unwrap();
                        sync(&from.0, &mut to.0);
                        to.1.merge(from.1.clone());
                    }
                    _ => {}
                }
                for (ours, theirs) in &nodes {
                    let mut expected: Vec<String> = theirs.read().val.into_iter().collect();
                    expected.sort();
                    prop_assert_eq!(members(ours), expected);
                }
            }
        }
    }

    /// FEATURES P9.
    #[test]
    fn an_addition_survives_a_removal_that_has_not_seen_it() {
        let (mut a, mut b) = (replica(1, 1), replica(2, 1));
        assert!(add(&mut a, "north"));
        assert!(!add(&mut a, "north"));
        sync(&a, &mut b);
        assert!(discard(&mut b, "north"));
        assert!(!discard(&mut b, "north"));
        assert!(discard(&mut a, "north"));
        assert!(add(&mut a, "north"));
        sync(&a, &mut b);
        sync(&b, &mut a);
        assert_eq!((members(&a), members(&b)), (vec!["north".to_owned()], vec!["north".to_owned()]));
    }

    #[test]
    fn a_value_under_the_id_of_another_is_no_element() {
        let mut a = replica(1, 1);
        assert!(add(&mut a, "north"));
        let forged = Path::Element { set: key("mesh/sites"), element: ElementId::of(&value("south")) };
        let prepared = a.prepare(WALL, &forged, Some(value("evil"))).unwrap();
        settle(&mut a, prepared);
        assert_eq!(members(&a), ["north"]);
        assert_eq!(a.sets(""), [(key("mesh/sites"), 1)].into());
        // Who adds the true one puts it right.
        assert!(add(&mut a, "south"));
        assert_eq!(members(&a), ["north", "south"]);
    }

    #[test]
    fn an_element_added_and_removed_before_it_is_durable_is_not_there() {
        let mut a = replica(1, 1);
        let added = a.add(WALL, &key("mesh/sites"), value("north")).unwrap();
        let removed = a.discard(WALL, &key("mesh/sites"), &value("north")).unwrap();
        assert!(removed.is_some());
        settle(&mut a, added);
        assert_eq!(members(&a), ["north"]);
        let again = a.add(WALL, &key("mesh/sites"), value("north")).unwrap();
        settle(&mut a, removed);
        assert_eq!(members(&a), Vec::<String>::new());
        settle(&mut a, again);
        assert_eq!(members(&a), ["north"]);
    }

    #[test]
    fn ids_survive_their_text_and_elements_may_be_any_bytes() {
        for bytes in [&b""[..], b"north", &[0xff; 100]] {
            let id = ElementId::of(&Value::try_from(bytes).unwrap());
            assert_eq!(id.to_string().len(), 26);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!("".parse::<ElementId>(), Err(ParseIdError::Element));
    }
}
