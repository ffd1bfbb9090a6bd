//! Which way each author's writes come: how a way is found, kept, improved and replaced. In a full mesh authors serve
//! everybody themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Mesh;
use crate::crdt::{Lane, RangeSet};
use crate::gossip::link::Link;
use crate::gossip::{LinkId, Member, MemberState};
use crate::id::NodeId;
use crate::time::{Moment, Now};

/// How long a node waits for each member before it probes again: all probes together say the same in a mesh of any size.
const PROBE_PAUSE: Duration = Duration::from_secs(2);

impl Mesh {
    /// A link has brought something new of some lanes: their authors' writes come over it from now on, and over no other.
    pub(super) fn note_ways(&mut self, link: LinkId, fresh: &BTreeSet<Lane>) {
        let own = self.actor().node;
        // Over a link that nobody wants came what was asked for, and nothing follows.
        let Some(state) = self.links.get(&link).filter(|state| state.is_neighbour()) else { return };
        // Nor does it where the peer was told to bring nothing: what was on its way would turn the way back.
        let follows = |author: NodeId| author != own && (author == state.peer || !state.refuses(&author));
        let follow: Vec<&Lane> = fresh.iter().filter(|lane| follows(lane.actor().node)).collect();
        for lane in follow {
            let before = self.trees.come_by(lane.actor().node, link);
            if let Some(id) = before.filter(|_| self.overlay.is_partial())
                && let Some(other) = self.links.get_mut(&id)
            {
                other.prune(lane.clone());
                self.busy.insert(id);
            }
        }
    }

    /// A link brings nothing more: others are asked for the writes that came over it.
    pub(super) fn graft(&mut self, gone: LinkId, lost: Option<NodeId>) {
        let orphans = self.trees.cut(gone);
        self.ask_nearest(&orphans, lost);
    }

    /// Asks for the writes of those of whom it is not known which way they come.
    pub(super) fn ask_for_unknown(&mut self) {
        let unknown =
            |member: &&Member| member.state == MemberState::Alive && !self.trees.knows(&member.node);
        let orphans: Vec<NodeId> = self.members.iter().filter(unknown).map(|member| member.node).collect();
        self.ask_nearest(&orphans, None);
    }

    /// For each of some authors, the neighbour that published links lead to the author from in the fewest steps, and not
    /// over a peer that is lost, is asked to pass its writes on: the ways that all who ask choose so make no circle. Where
    /// links have been there for a while, all neighbours are asked, and the first one is it.
    fn ask_nearest(&mut self, authors: &[NodeId], lost: Option<NodeId>) {
        if !self.overlay.is_partial() || authors.is_empty() {
            return;
        }
        let neighbours: Vec<(LinkId, NodeId)> =
            self.ways_out().filter_map(|id| Some((id, self.links.get(&id)?.peer))).collect();
        let peers: Vec<NodeId> = neighbours.iter().map(|(_, peer)| *peer).collect();
        let nearest = self.members.nearest(&peers, authors, lost);
        for (author, nearest) in authors.iter().zip(nearest) {
            let Some((nearest, _)) = nearest.and_then(|place| neighbours.get(place)) else { continue };
            // Whoever gets them from here cannot bring them: then all others are asked. In a mesh at rest they are
            // anyhow: it is rare there that a way is lost, a superfluous one costs one write, and a gap costs a second.
            let is_child = |id: &LinkId| self.links.get(id).is_some_and(|link| link.serves(author));
            let rests = self.links.get(nearest).is_some_and(Link::is_settled);
            let mut asked: Vec<LinkId> = if rests || is_child(nearest) {
                neighbours.iter().map(|(id, _)| *id).filter(|id| !is_child(id)).collect()
            } else {
                vec![*nearest]
            };
            // All get them from here: they look elsewhere. Of whom is lost itself there is nothing to be had.
            if rests && asked.is_empty() && lost != Some(*author) {
                asked.extend(neighbours.iter().filter(|(_, peer)| lost != Some(*peer)).map(|(id, _)| *id));
            }
            for id in asked {
                self.ask_for(author, id);
                self.trees.come_by(*author, id);
            }
        }
    }

    /// The links over which writes are passed on.
    fn ways_out(&self) -> impl Iterator<Item = LinkId> {
        let links = self.links.iter().filter(|(_, link)| link.is_established() && link.is_neighbour());
        links.map(|(id, _)| *id)
    }

    /// A peer is asked for an author's writes.
    fn ask_for(&mut self, author: &NodeId, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        for lane in self.replica.store().lanes_of(author).filter(|lane| !lane.is_past()) {
            link.ask(lane.clone());
        }
        self.busy.insert(id);
    }

    /// A peer asks for some authors' writes.
    pub(super) fn handle_want(&mut self, id: LinkId, lanes: Vec<(Lane, RangeSet)>) {
        let lost = self.lost_by(id, &lanes);
        let Some(state) = self.links.get_mut(&id) else { return };
        let (members, overlay, peer) = (&self.members, &self.overlay, state.peer);
        // Over a link that nobody wants it gets what it lacks, and nothing from then on.
        let is_served = overlay.is_partial() && !state.is_neighbour();
        let has_better = |author: &NodeId| {
            if overlay.is_partial() { is_served } else { members.claims(author, &peer) }
        };
        state.handle_want(lanes, has_better);
        lost.iter().for_each(|author| self.trees.lose(author));
        self.ask_nearest(&Vec::from_iter(lost), Some(peer));
    }

    /// Those whose writes a peer asks for although they come from that peer itself: it has lost its way to them, and with it
    /// this node has. Others are asked, as the route errors of AODV have it (Perkins and Royer, WMCSA 1999).
    fn lost_by(&self, id: LinkId, lanes: &[(Lane, RangeSet)]) -> BTreeSet<NodeId> {
        let link = self.links.get(&id).filter(|link| link.is_neighbour() && link.is_settled());
        let Some(peer) = link.map(|link| link.peer).filter(|_| self.overlay.is_partial()) else {
            return BTreeSet::new();
        };
        let authors = lanes.iter().map(|(lane, _)| lane.actor().node);
        authors.filter(|author| *author != peer && self.trees.come_over(author, id)).collect()
    }

    /// Looks for the fastest ways to everybody, once its own links will stay and whenever links have changed since:
    /// what goes everywhere at once comes everywhere by the fastest way first, as the route requests of AODV do (Perkins
    /// and Royer, WMCSA 1999). The trees that grew while the mesh formed are those of whoever was there first.
    pub(super) fn probe(&mut self, now: Now) {
        let is_due = |at: Moment| {
            let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
            self.members.changed_at() > at && now.monotone.since(at) >= PROBE_PAUSE * members
        };
        let is_settled = |id: LinkId| self.links.get(&id).is_some_and(Link::is_settled);
        let ways: Vec<LinkId> = self.ways_out().collect();
        let stays = !ways.is_empty() && ways.iter().all(|id| is_settled(*id));
        if !self.overlay.is_partial() || !stays || !self.trees.probed_at().is_none_or(is_due) {
            return;
        }
        let (lane, number) = (self.replica.own_lanes()[0].clone(), self.trees.probe(now.monotone));
        self.pass_probe(&ways, &lane, number);
    }

    /// Probes came: those that are new go on, and where they came from is the way. They clear all branches of their
    /// authors that they pass, so that the tree is grown anew by who asks for them.
    pub(super) fn handle_probes(&mut self, now: Now, id: LinkId, probes: Vec<(Lane, u64)>) {
        if !self.overlay.is_partial() || !self.links.get(&id).is_some_and(Link::is_neighbour) {
            return;
        }
        let ways: Vec<LinkId> = self.ways_out().filter(|other| *other != id).collect();
        for (lane, number) in probes {
            let author = lane.actor().node;
            // Whom nothing was heard of, offers tell of.
            let is_known = author != self.actor().node && self.replica.store().seen_of(&lane).is_some();
            if !is_known || !self.trees.is_new_probe(lane.actor(), number, now.monotone) {
                continue;
            }
            if let Some(link) = self.links.get_mut(&id) {
                link.handle_probe(author);
            }
            self.trees.come_by(author, id);
            self.ask_for(&author, id);
            self.pass_probe(&ways, &lane, number);
        }
    }

    fn pass_probe(&mut self, ways: &[LinkId], lane: &Lane, number: u64) {
        for id in ways {
            if let Some(link) = self.links.get_mut(id) {
                link.probe(lane.clone(), number);
                self.busy.insert(*id);
            }
        }
    }
}
