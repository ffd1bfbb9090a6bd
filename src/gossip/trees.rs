//! Over which link the writes of each author come, so that others are asked for them when it goes.

use std::collections::BTreeMap;

use super::LinkId;
use crate::id::NodeId;

/// The way to each author: the link that brought something new of it last.
#[derive(Debug, Default)]
pub(super) struct Trees {
    sources: BTreeMap<NodeId, LinkId>,
}

impl Trees {
    /// A link has brought something new of an author, or its peer is to. Returns over which other one it came before.
    pub(super) fn came(&mut self, author: NodeId, link: LinkId) -> Option<LinkId> {
        self.sources.insert(author, link).filter(|before| *before != link)
    }

    /// Whether an author's writes come over that link.
    pub(super) fn come_over(&self, author: &NodeId, link: LinkId) -> bool {
        self.sources.get(author) == Some(&link)
    }

    /// Whether it is known over which link an author's writes come.
    pub(super) fn knows(&self, author: &NodeId) -> bool {
        self.sources.contains_key(author)
    }

    /// An author writes no more.
    pub(super) fn forget(&mut self, author: &NodeId) {
        self.sources.remove(author);
    }

    /// A link brings nothing more: returns whose writes had come over it.
    pub(super) fn cut(&mut self, link: LinkId) -> Vec<NodeId> {
        let cut = |(author, source): (&NodeId, &LinkId)| (*source == link).then_some(*author);
        let orphans: Vec<NodeId> = self.sources.iter().filter_map(cut).collect();
        for author in &orphans {
            self.sources.remove(author);
        }
        orphans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_came_over_a_link_last_is_cut_off_with_it() {
        let node = |byte| NodeId::from_bytes([byte; 32]);
        let mut trees = Trees::default();
        for (author, link) in [(1, 7), (2, 7), (3, 8), (2, 8)] {
            trees.came(node(author), LinkId(link));
        }
        assert_eq!(trees.cut(LinkId(7)), [node(1)]);
        assert_eq!(trees.cut(LinkId(7)), []);
        assert_eq!(trees.cut(LinkId(8)), [node(2), node(3)]);
    }
}
