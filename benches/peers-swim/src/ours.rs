//! The production core: heartbeats on links, and a verdict from what nodes publish of their links.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use snomesh::gossip::{
    Channel, Config, DialId, LinkId, MemberState, Mesh as Core, Message as Said, Output, Side,
};
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::time::{Moment, Now, UnixMillis};
use snomesh::wire;

use crate::net::{Detector, Net};

/// How long a call to somebody who does not answer takes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// What a lost packet costs a stream, besides the way there and back again.
const RETRANSMISSION: Duration = Duration::from_millis(25);
/// How often it is looked whether a cut has ended.
const HELD: Duration = Duration::from_millis(250);

/// One end of a link.
struct End {
    node: usize,
    peer: usize,
    there: LinkId,
    /// When the last frame that was sent on a stream arrives: streams keep their order.
    last: Moment,
    held: VecDeque<Said>,
}

pub enum Message {
    Up {
        link: LinkId,
        side: Side,
    },
    Down {
        link: LinkId,
    },
    Failed {
        dial: DialId,
    },
    /// On a stream, or as a datagram.
    Said {
        link: LinkId,
        said: Said,
    },
    /// A cut may have ended.
    Resume {
        link: LinkId,
    },
    Wake,
}

pub struct Links {
    nodes: Vec<Option<Core>>,
    ids: Vec<NodeId>,
    seed: u64,
    ends: BTreeMap<LinkId, End>,
    encoders: BTreeMap<(LinkId, Channel), wire::Encoder>,
    wakes_at: Vec<Option<Moment>>,
    next: u64,
}

fn time(now: Moment) -> Now {
    Now { monotone: now, wall: UnixMillis(1_700_000_000_000 + now.0 / 1_000_000) }
}

impl Links {
    fn feed(&mut self, net: &mut Net<Message>, node: usize, input: impl FnOnce(&mut Core, Now)) {
        let now = time(net.now);
        let Some(core) = &mut self.nodes[node] else { return };
        input(core, now);
        while let Some(output) = self.nodes[node].as_mut().and_then(|core| core.poll_output(now)) {
            self.carry_out(net, node, output);
        }
        let next = self.nodes[node].as_ref().and_then(Core::next_timeout);
        if let Some(at) = next
            && self.wakes_at[node].is_none_or(|wakes_at| at < wakes_at)
        {
            self.wakes_at[node] = Some(at);
            net.at(at, node, node, Message::Wake);
        }
    }

    fn carry_out(&mut self, net: &mut Net<Message>, node: usize, output: Output) {
        match output {
            Output::Send { link, channel, message } => {
                net.bytes +=
                    self.encoders.entry((link, channel)).or_default().encode(&message).len() as u64 + 2;
                self.send(net, link, message);
                if let Some(core) = &mut self.nodes[node] {
                    core.link_writable(time(net.now), link, channel);
                }
            }
            Output::Datagram { link, message } => {
                let len = wire::encode(&message).len();
                if let Some(&End { peer, there, .. }) = self.ends.get(&link) {
                    net.send(node, peer, len, Message::Said { link: there, said: message });
                }
            }
            Output::Dial { dial, address, .. } => self.dial(net, node, dial, address.as_str()),
            Output::Close { link, .. } => self.close(net, link),
            Output::Persist { .. } | Output::Event(_) => {}
        }
    }

    /// A frame on a stream: it is not lost, it is late.
    fn send(&mut self, net: &mut Net<Message>, link: LinkId, said: Said) {
        let Some(end) = self.ends.get_mut(&link) else { return };
        if net.is_cut(end.node, end.peer) || !end.held.is_empty() {
            if end.held.is_empty() {
                net.at(net.now + HELD, end.node, end.node, Message::Resume { link });
            }
            end.held.push_back(said);
            return;
        }
        let way = net.delay(end.node, end.peer);
        let mut at = net.now + way;
        while net.loses() {
            at = at + way * 2 + RETRANSMISSION;
        }
        end.last = end.last.max(at);
        net.at(end.last, end.peer, end.node, Message::Said { link: end.there, said });
    }

    fn resume(&mut self, net: &mut Net<Message>, link: LinkId) {
        let Some(end) = self.ends.get_mut(&link) else { return };
        if net.is_cut(end.node, end.peer) {
            net.at(net.now + HELD, end.node, end.node, Message::Resume { link });
            return;
        }
        for said in std::mem::take(&mut end.held) {
            self.send(net, link, said);
        }
    }

    fn close(&mut self, net: &mut Net<Message>, link: LinkId) {
        if let Some(End { node, peer, there, .. }) = self.forget(link) {
            net.send(node, peer, 0, Message::Down { link: there });
        }
    }

    fn forget(&mut self, link: LinkId) -> Option<End> {
        self.encoders.remove(&(link, Channel::Control));
        self.encoders.remove(&(link, Channel::Delta));
        self.ends.remove(&link)
    }

    fn dial(&mut self, net: &mut Net<Message>, node: usize, dial: DialId, address: &str) {
        let number = address.strip_prefix('n').and_then(|rest| rest.split('.').next()?.parse().ok());
        let there = number.filter(|peer: &usize| *peer < self.nodes.len() && !net.dead[*peer]);
        let there = there.filter(|peer| self.nodes[*peer].is_some() && !net.is_cut(node, *peer));
        let Some(peer) = there else {
            return net.at(net.now + DIAL_TIMEOUT, node, node, Message::Failed { dial });
        };
        let (here, away) = (LinkId(self.next), LinkId(self.next + 1));
        self.next += 2;
        let end = |node, peer, there| End { node, peer, there, last: Moment(0), held: VecDeque::new() };
        self.ends.insert(here, end(node, peer, away));
        self.ends.insert(away, end(peer, node, here));
        let mut way = net.delay(node, peer);
        while net.loses() {
            way = way * 2 + RETRANSMISSION;
        }
        net.at(net.now + way * 2, node, peer, Message::Up { link: here, side: Side::Connect(dial) });
        net.at(net.now + way * 3, peer, node, Message::Up { link: away, side: Side::Listen });
    }
}

impl Detector for Links {
    const NAME: &'static str = "snomesh";
    type Message = Message;

    fn new(nodes: usize, seed: u64) -> Self {
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        let ids = (0..nodes).map(|_| NodeId::from_bytes(generator.random())).collect();
        Self {
            nodes: (0..nodes).map(|_| None).collect(),
            ids,
            seed,
            ends: BTreeMap::new(),
            encoders: BTreeMap::new(),
            wakes_at: vec![None; nodes],
            next: 0,
        }
    }

    fn start(&mut self, net: &mut Net<Message>, node: usize) {
        let address = |number: usize| format!("n{number}.sim:1").parse().expect("a legal address");
        let config = Config {
            addresses: vec![address(node)],
            seeds: if node == 0 { vec![] } else { vec![address(0)] },
            ..Config::default()
        };
        let actor = Actor { node: self.ids[node], generation: Generation(1 << 50) };
        self.nodes[node] = Some(Core::new(config, actor, self.seed ^ (node as u64) << 32, time(net.now)));
        self.feed(net, node, |_, _| ());
    }

    fn receive(&mut self, net: &mut Net<Message>, node: usize, from: usize, message: Message) {
        match message {
            Message::Up { link, side } => {
                if let Some(end) = self.ends.get(&link) {
                    let peer = self.ids[end.peer];
                    self.feed(net, node, |core, now| core.link_up(now, link, peer, side));
                }
            }
            Message::Down { link } => {
                self.forget(link);
                self.feed(net, node, |core, now| core.link_down(now, link));
            }
            Message::Failed { dial } => self.feed(net, node, |core, now| core.dial_failed(now, dial)),
            Message::Said { link, said } => {
                if self.ends.contains_key(&link) {
                    self.feed(net, node, |core, now| core.handle_message(now, link, said));
                } else if let Some((&there, _)) = self.ends.iter().find(|(_, end)| end.there == link) {
                    // A connection that this end knows no more: the transport says so.
                    net.send(node, from, 0, Message::Down { link: there });
                }
            }
            Message::Resume { link } => self.resume(net, link),
            Message::Wake => {
                self.wakes_at[node] = None;
                self.feed(net, node, |core, now| {
                    if core.next_timeout().is_some_and(|at| at <= now.monotone) {
                        core.handle_timeout(now);
                    }
                });
            }
        }
    }

    fn verdicts(&self, node: usize) -> Vec<Option<bool>> {
        let Some(core) = &self.nodes[node] else { return vec![None; self.nodes.len()] };
        let states: BTreeMap<NodeId, MemberState> =
            core.members().map(|member| (member.node, member.state)).collect();
        let up = |state: &MemberState| !matches!(state, MemberState::Down | MemberState::Left);
        self.ids.iter().map(|id| states.get(id).map(up)).collect()
    }
}
