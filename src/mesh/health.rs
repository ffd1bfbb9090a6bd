//! What a holder says of its tunnel's health, in the registration itself.
//!
//! The mark is an attribute of a reserved name. So it is replicated, ordered and forgotten together with the registration,
//! nobody but the holder can set it, and a node that does not know it sees an attribute more.

use std::collections::BTreeMap;

use crate::replica::Attributes;

/// The names that begin so are the mesh's own: nobody sets attributes of a tunnel that are called so.
pub const RESERVED_PREFIX: &str = "snomesh.";
/// Set on a registration that must not be picked: its holder has not found its target healthy.
const MARK: &str = "snomesh.health";

/// What a registration says of what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// It may be picked: it passes its checks, or nobody checks it.
    #[default]
    Healthy,
    /// Its first check is not done: nobody picks it yet.
    Starting,
    /// It fails its checks: nobody picks it.
    Failing,
    /// Its holder is drained: nobody picks it, whatever its checks say.
    Draining,
}

/// An attribute's name is one of the mesh's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attributes that are called {RESERVED_PREFIX}… are the mesh's own")]
pub struct Reserved;

impl Health {
    /// What a registration with these attributes says.
    pub fn of(attributes: &Attributes) -> Self {
        match attributes.get(MARK) {
            None => Self::Healthy,
            Some(b"starting") => Self::Starting,
            Some(b"draining") => Self::Draining,
            // A later version may have other reasons.
            Some(_) => Self::Failing,
        }
    }

    /// These attributes, and that mark.
    ///
    /// # Errors
    ///
    /// [`crate::replica::AttributesError`] if there is no room for the mark.
    pub fn mark(self, attributes: &Attributes) -> Result<Attributes, crate::replica::AttributesError> {
        let word: Option<&[u8]> = match self {
            Self::Healthy => None,
            Self::Starting => Some(b"starting"),
            Self::Failing => Some(b"failing"),
            Self::Draining => Some(b"draining"),
        };
        mark(attributes, MARK, word)
    }
}

/// These attributes, with one of the mesh's own set or, without a value, not set.
pub(super) fn mark(
    attributes: &Attributes,
    name: &str,
    value: Option<&[u8]>,
) -> Result<Attributes, crate::replica::AttributesError> {
    let others = attributes.iter().filter(|(other, _)| *other != name);
    let others = others.map(|(name, value)| (name.to_owned(), value.to_vec()));
    Attributes::new(others.chain(value.map(|value| (name.to_owned(), value.to_vec()))).collect())
}

/// What a holder says of a tunnel, without what is the mesh's own.
pub fn plain(attributes: &Attributes) -> BTreeMap<String, Vec<u8>> {
    let own = attributes.iter().filter(|(name, _)| !name.starts_with(RESERVED_PREFIX));
    own.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
}

/// Whether somebody may give a tunnel these attributes.
///
/// # Errors
///
/// [`Reserved`].
pub fn check_reserved(attributes: &Attributes) -> Result<(), Reserved> {
    let mut names = attributes.iter().map(|(name, _)| name);
    if names.any(|name| name.starts_with(RESERVED_PREFIX)) { Err(Reserved) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Attributes::new(pairs.collect()).unwrap()
    }

    #[test]
    fn a_mark_is_read_as_it_was_set_and_leaves_the_others_alone() {
        let own = attributes(&[("env", "prod")]);
        for health in [Health::Healthy, Health::Starting, Health::Failing, Health::Draining] {
            let marked = health.mark(&own).unwrap();
            assert_eq!(Health::of(&marked), health);
            assert_eq!(Attributes::new(plain(&marked)).unwrap(), own);
            // Marks replace each other.
            assert_eq!(Health::Healthy.mark(&marked).unwrap(), own);
        }
        assert_eq!(Health::of(&attributes(&[(MARK, "eclipsed")])), Health::Failing);
    }

    #[test]
    fn what_is_the_meshs_own_is_nobodys_attribute() {
        assert_eq!(check_reserved(&attributes(&[("snomesh", "x"), ("env", "y")])), Ok(()));
        assert_eq!(check_reserved(&attributes(&[("snomesh.x", "")])), Err(Reserved));
        let full = "x".repeat(Attributes::MAX_LEN - 1);
        assert!(Health::Failing.mark(&attributes(&[("a", &full)])).is_err());
    }
}
