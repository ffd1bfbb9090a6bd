//! Where a stream is to go: a tunnel by its name, or any tunnel with the right attributes.

use std::fmt;
use std::str::FromStr;

use crate::id::{NodeId, ParseIdError, TunnelName};
use crate::replica::{NodeRecord, Selector, SelectorError};

/// `web`, `web@node-7`, or a selector such as `service=db,region in (eu,us),!canary`.
///
/// The one way to say it, on the command line, in the admin API and in files. What has a `=`, `!`, `,` or `(` in it is
/// a [`Selector`], everything else a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A tunnel of this name.
    Name {
        /// The name.
        name: TunnelName,
        /// Whose tunnel it has to be.
        node: Option<NodeHint>,
    },
    /// A tunnel whose attributes meet this: those it was registered with, overlaid with those that the mesh has
    /// under `tunnel/<name>/`.
    Selector(Selector),
}

/// A node as people name it: its id, at least the first eight characters of it, or its label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeHint(String);

/// Why a text is no [`Destination`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] ParseIdError),
    /// Behind the `@` stands nothing, or more than a node can be called.
    #[error("behind '@' comes the id or the label of a node, 1 to {} bytes", NodeRecord::MAX_TEXT_LEN)]
    Node,
    /// The selector is none.
    #[error(transparent)]
    Selector(#[from] SelectorError),
}

impl NodeHint {
    /// The fewest characters of an id that stand for it.
    const MIN_ID_LEN: usize = 8;

    /// Whether it means this node.
    pub fn means(&self, node: NodeId, label: &str) -> bool {
        self.0 == label || self.0.len() >= Self::MIN_ID_LEN && node.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for NodeHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<TunnelName> for Destination {
    fn from(name: TunnelName) -> Self {
        Self::Name { name, node: None }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name, node: None } => write!(f, "{name}"),
            Self::Name { name, node: Some(node) } => write!(f, "{name}@{node}"),
            Self::Selector(selector) => write!(f, "{selector}"),
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if text.contains(['=', '!', ',', '(']) {
            return Ok(Self::Selector(text.parse()?));
        }
        let (name, node) = match text.split_once('@') {
            Some((name, node)) => (name, Some(node)),
            None => (text, None),
        };
        let legal = |node: &&str| {
            !node.is_empty() && node.len() <= NodeRecord::MAX_TEXT_LEN && !node.chars().any(char::is_control)
        };
        let node = match node {
            None => None,
            Some(node) => Some(NodeHint(legal(&node).then(|| node.into()).ok_or(DestinationError::Node)?)),
        };
        Ok(Self::Name { name: name.parse()?, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Destination, DestinationError> {
        text.parse()
    }

    #[test]
    fn a_destination_survives_its_text() {
        for text in ["web", "web@node-7", "web@a b", "service=db,!canary", "canary,", "region in (eu,us)"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert!(matches!(parse("web"), Ok(Destination::Name { node: None, .. })));
        assert!(matches!(parse("web@x"), Ok(Destination::Name { node: Some(_), .. })));
        assert!(matches!(parse("web,"), Ok(Destination::Selector(_))));
    }

    #[test]
    fn what_is_none_is_refused_as_what_it_looks_like() {
        assert_eq!(parse("Web"), Err(DestinationError::Name(ParseIdError::TunnelName)));
        assert_eq!(parse(""), Err(DestinationError::Name(ParseIdError::TunnelName)));
        assert_eq!(parse("web@"), Err(DestinationError::Node));
        assert_eq!(parse(&format!("web@{}", "x".repeat(64))), Err(DestinationError::Node));
        assert_eq!(parse("a=1,,"), Err(DestinationError::Selector(SelectorError::Empty)));
    }

    #[test]
    fn a_node_is_meant_by_its_label_its_id_or_enough_of_it() {
        let node = NodeId::from_bytes([0xa7; 32]);
        let means = |text: &str| NodeHint(text.into()).means(node, "edge-7");
        assert!(means("edge-7") && means(&node.short()) && means(&node.to_string()));
        assert!(!means("edge") && !means(&node.to_string()[..7]) && !means("zzzzzzzz"));
    }
}
