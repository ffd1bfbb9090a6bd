//! Lives come and go, testimonies are true and false, and replicas agree in the end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::state::tests::{MAX_DRIFT, key, replica, settle, sync, value};
use super::*;
use crate::crdt::{Delta, Dot, Store};
use crate::replica::AttributeKey;

const WALL: UnixMillis = UnixMillis(1_000);

/// What may happen among nodes. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Write {
        at: u8,
        key: u8,
        removes: bool,
    },
    /// A delta for what the receiver is believed to lack, perhaps a small part of it, perhaps without what it accounts for.
    Send {
        from: u8,
        to: u8,
        belief: u8,
        cut: bool,
        small: bool,
    },
    Deliver {
        which: u8,
        again: bool,
        lost: bool,
    },
    /// Whatever may be collected is.
    Collect {
        at: u8,
    },
    /// A node starts again: with what it had, with an old copy of it, or with nothing.
    Restart {
        at: u8,
        disk: u8,
    },
    Copy {
        at: u8,
    },
    Die {
        at: u8,
    },
    /// Somebody testifies that the lives of a node are over: all but the last it knows of, or that one too. Some hear of
    /// it at once, before all that its author had seen: those whose bits are set.
    Testify {
        at: u8,
        node: u8,
        accuses: bool,
        heard: u8,
    },
    /// A node writes anew what nobody else holds of such lives.
    Save {
        at: u8,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let node = || 0u8..5;
    let rarely = || prop::bool::weighted(0.2);
    prop_oneof![
        8 => (node(), 0u8..3, prop::bool::weighted(0.3)).prop_map(|(at, key, removes)| Step::Write { at, key, removes }),
        10 => (node(), node(), 0u8..16, rarely(), rarely())
            .prop_map(|(from, to, belief, cut, small)| Step::Send { from, to, belief, cut, small }),
        8 => (any::<u8>(), any::<bool>(), rarely()).prop_map(|(which, again, lost)| Step::Deliver { which, again, lost }),
        1 => node().prop_map(|at| Step::Collect { at }),
        2 => (node(), 0u8..4).prop_map(|(at, disk)| Step::Restart { at, disk }),
        1 => node().prop_map(|at| Step::Copy { at }),
        1 => node().prop_map(|at| Step::Die { at }),
        3 => (node(), node(), rarely(), any::<u8>())
            .prop_map(|(at, node, accuses, heard)| Step::Testify { at, node, accuses, heard }),
        1 => node().prop_map(|at| Step::Save { at }),
    ]
}

#[derive(Debug, Clone)]
enum Packet {
    Delta(Delta),
    Snapshot(Box<Store>),
}

/// A write as history has it: its key, whether it puts something, and what its author had seen of the key.
#[derive(Debug, Clone)]
struct Write {
    key: Key,
    puts: bool,
    past: BTreeSet<Dot>,
}

#[derive(Debug, Clone)]
struct Node {
    replica: Replica,
    /// What it has really seen, in all its lives, as far as its disk remembers it.
    knows: BTreeSet<Dot>,
    /// Of that, what it ever held: the rest it knows by name alone.
    held: BTreeSet<Dot>,
}

struct History {
    nodes: Vec<Option<Node>>,
    copies: Vec<Option<Node>>,
    wire: Vec<(usize, Packet)>,
    written: BTreeMap<Dot, Write>,
    generation: u64,
    /// Whether somebody agreed with a past of which it knew no testimony any more.
    blind: bool,
}

fn attribute(number: u8) -> AttributeKey {
    key(&format!("mesh/k{}", number % 3))
}

fn lanes_behind(sender: &Store, known: &CausalContext) -> bool {
    sender.context().lanes().any(|(lane, _)| sender.is_below_floor(lane, known.lane(lane)))
}

/// Whether a testimony still tells what was seen of the life that made a write.
fn is_told_of(store: &Store, dot: &Dot) -> bool {
    let Actor { node, generation } = dot.lane.actor();
    let register = store.register(&Path::Retirement(node).to_key()).unwrap_or_default();
    let values = register.values();
    let said = values.iter().filter_map(|entry| of_value(node, entry.value.as_ref()?).ok()).flatten();
    said.into_iter().any(|said| said.base < generation && generation <= said.upto)
}

impl History {
    fn new(nodes: u8) -> Self {
        let new =
            |node| Some(Node { replica: replica(node, 1), knows: BTreeSet::new(), held: BTreeSet::new() });
        Self {
            nodes: (0..nodes).map(new).collect(),
            copies: vec![None; usize::from(nodes)],
            wire: Vec::new(),
            written: BTreeMap::new(),
            generation: 1,
            blind: false,
        }
    }

    fn alive(&self, number: u8) -> Option<usize> {
        let at = usize::from(number) % self.nodes.len();
        self.nodes[at].is_some().then_some(at)
    }

    fn node(&mut self, at: usize) -> &mut Node {
        self.nodes[at].as_mut().expect("only those that are alive are asked for")
    }

    /// Lets a write of a node take effect there, and notes it.
    fn write(&mut self, at: usize, prepared: &Prepared) {
        let entry = prepared.delta.items[0].entries[0].clone();
        let (on, dot) = (prepared.delta.items[0].key.clone(), prepared.dot.clone());
        let knows = &self.nodes[at].as_ref().unwrap().knows;
        let seen = self
            .written
            .iter()
            .filter(|(dot, write)| write.key == on && (entry.covers(dot) && knows.contains(dot)));
        let past = seen.flat_map(|(dot, write)| write.past.iter().chain([dot])).cloned().collect();
        self.written.insert(dot, Write { key: on, puts: entry.value.is_some(), past });
        self.merge(at, &prepared.delta);
    }

    /// The same for what is written anew: that is no news, and whoever reads the key reads what he read before.
    fn write_anew(&mut self, at: usize, prepared: &Prepared) {
        let key = prepared.delta.items[0].key.clone();
        let held = |history: &mut Self| history.node(at).replica.store().register(&key).unwrap_or_default();
        let before = held(self);
        self.write(at, prepared);
        let after = held(self);
        if let Some(read) = before.winner().filter(|read| after.entry(&read.dot).is_none()) {
            let value = after.winner().and_then(|winner| winner.value.clone());
            assert_eq!(value, read.value, "what {} writes anew says what was read", prepared.dot);
        }
    }

    fn merge(&mut self, at: usize, delta: &Delta) {
        // A write of somebody who has retired lives takes all that they wrote on its key for seen.
        let store = self.node(at).replica.store();
        let covers_more = delta.items.iter().any(|item| {
            let register = store.register(&item.key);
            let held = register.as_ref().map_or(&[][..], |register| register.entries());
            let buries = |dot: &Dot| item.entries.iter().any(|entry| entry.observed.buries(&dot.lane));
            held.iter().any(|entry| !store.is_retired(&entry.dot.lane) && buries(&entry.dot))
        });
        self.blind |= covers_more;
        self.node(at).replica.merge(WALL, delta).unwrap();
        self.react(at);
    }

    fn react(&mut self, at: usize) {
        let node = self.nodes[at].as_mut().unwrap();
        let store = node.replica.store();
        let seen = self.written.keys().filter(|dot| store.seen(dot) && !store.is_retired(&dot.lane));
        node.knows.extend(seen.cloned());
        for row in store.prefix("") {
            node.held.extend(row.register().entries().iter().map(|entry| entry.dot.clone()));
        }
        node.knows.extend(node.held.iter().cloned());
        if let Some(upto) = node.replica.is_accused() {
            self.generation = self.generation.max(upto.0) + 1;
            node.replica.rebirth(Generation(self.generation));
            node.replica.retire(&[]);
        }
    }

    fn save(&mut self, at: usize) -> bool {
        let before = self.written.len();
        let nodes: Vec<NodeId> = self.node(at).replica.unretired().collect();
        for node in nodes {
            for prepared in self.node(at).replica.save(WALL, node, usize::MAX).unwrap() {
                self.write_anew(at, &prepared);
            }
        }
        self.written.len() > before
    }

    fn agree(&mut self, at: usize, sender: &Store) {
        let learnt = sender.reconciliation(self.node(at).replica.store());
        let own = self.node(at).replica.actor();
        let last = learnt.delta.accounted.lanes().filter(|(lane, _)| lane.actor().node == own.node).last();
        let last = last.map_or(Generation(0), |(lane, _)| lane.actor().generation);
        if last >= own.generation {
            self.generation = self.generation.max(last.0) + 1;
            let generation = Generation(self.generation);
            self.node(at).replica.rebirth(generation);
        }
        let saved = self.node(at).replica.save_from(WALL, &learnt).unwrap();
        if !saved.is_empty() {
            saved.iter().for_each(|prepared| self.write_anew(at, prepared));
            return;
        }
        let kills = learnt.dead.iter().filter(|(_, dot)| learnt.floors.contains(dot));
        self.blind |= kills.map(|(_, dot)| dot).any(|dot| {
            let store = self.nodes[at].as_ref().unwrap().replica.store();
            !store.is_retired(&dot.lane) && sender.is_retired(&dot.lane) && !is_told_of(sender, dot)
        });
        self.node(at).replica.reconcile(WALL, &learnt).unwrap();
        self.react(at);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { at, key, removes } => {
                let Some(at) = self.alive(at) else { return };
                let text = value(&self.written.len().to_string());
                let replica = &mut self.node(at).replica;
                let prepared = if removes {
                    replica.unset(WALL, &attribute(key))
                } else {
                    replica.set(WALL, &attribute(key), text)
                };
                if let Some(prepared) = prepared.unwrap() {
                    self.write(at, &prepared);
                }
            }
            Step::Send { from, to, belief, cut, small } => {
                let (Some(from), Some(to)) = (self.alive(from), self.alive(to)) else { return };
                if from == to {
                    return;
                }
                let packet = self.packet(from, to, belief, cut, small);
                self.wire.push((to, packet));
            }
            Step::Deliver { which, again, lost } => {
                if self.wire.is_empty() {
                    return;
                }
                let place = usize::from(which) % self.wire.len();
                let (to, packet) = self.wire[place].clone();
                if !again {
                    self.wire.swap_remove(place);
                }
                if self.nodes[to].is_some() && !lost {
                    match packet {
                        Packet::Delta(delta) => self.merge(to, &delta),
                        Packet::Snapshot(sender) => self.agree(to, &sender),
                    }
                }
            }
            Step::Collect { at } => {
                if let Some(at) = self.alive(at) {
                    self.node(at).replica.collect(usize::MAX, |_| true);
                }
            }
            Step::Restart { at, disk } => {
                if let Some(at) = self.alive(at) {
                    self.restart(at, disk);
                }
            }
            Step::Copy { at } => {
                if let Some(at) = self.alive(at) {
                    self.copies[at] = self.nodes[at].clone();
                }
            }
            Step::Die { at } => {
                let survivors = self.nodes.iter().flatten().count();
                if let Some(at) = self.alive(at).filter(|_| survivors > 2) {
                    self.nodes[at] = None;
                }
            }
            Step::Testify { at, node, accuses, heard } => {
                let (Some(at), node) = (self.alive(at), usize::from(node) % self.nodes.len()) else { return };
                self.testify(at, replica(u8::try_from(node).unwrap(), 1).actor().node, accuses, heard);
            }
            Step::Save { at } => {
                if let Some(at) = self.alive(at) {
                    self.save(at);
                }
            }
        }
    }

    fn packet(&self, from: usize, to: usize, belief: u8, cut: bool, small: bool) -> Packet {
        let (sender, receiver) = (self.nodes[from].as_ref().unwrap(), self.nodes[to].as_ref().unwrap());
        let (sender, receiver) = (sender.replica.store(), receiver.replica.store());
        let believed = receiver.context();
        let known: CausalContext = believed
            .lanes()
            .map(|(lane, seen)| {
                let less = seen.last().unwrap_or(0) * u64::from(belief.min(8)) / 8;
                (lane.clone(), if lane.is_past() { seen.clone() } else { seen.truncated(less) })
            })
            .collect();
        if belief.is_multiple_of(2) && lanes_behind(sender, &known) {
            return Packet::Snapshot(Box::new(sender.clone()));
        }
        let all = sender.context();
        let mut delta =
            sender.delta(all.lanes().map(|(lane, _)| lane), &known, if small { 60 } else { usize::MAX });
        if cut {
            delta.accounted = CausalContext::new();
            delta.items.truncate(usize::from(belief % 3));
        }
        Packet::Delta(delta)
    }

    fn restart(&mut self, at: usize, disk: u8) {
        self.generation += 1;
        let actor = Actor { generation: Generation(self.generation), ..self.node(at).replica.actor() };
        let before = match disk {
            0 | 1 => self.nodes[at].clone(),
            2 => self.copies[at].clone(),
            _ => None,
        };
        let mut again =
            Node { replica: Replica::new(actor, MAX_DRIFT), knows: BTreeSet::new(), held: BTreeSet::new() };
        if let Some(Node { replica, knows, held }) = before {
            again.replica = replica;
            again.replica.rebirth(actor.generation);
            (again.knows, again.held) = (knows, held);
        }
        self.nodes[at] = Some(again);
        // So that it is heard of.
        let prepared = self.node(at).replica.publish(WALL, &crate::replica::NodeRecord::default());
        if let Some(prepared) = prepared.unwrap() {
            self.merge(at, &prepared.delta);
        }
    }

    fn testify(&mut self, at: usize, node: NodeId, accuses: bool, heard: u8) {
        let replica = &mut self.node(at).replica;
        let lives: BTreeSet<Generation> =
            replica.store().lanes_of(&node).map(|lane| lane.actor().generation).collect();
        let back = if accuses { 1 } else { 2 };
        let Some(upto) = lives.iter().rev().nth(back - 1).copied() else { return };
        let own = replica.actor();
        if own.node == node && upto >= own.generation {
            return;
        }
        let Some(said) = replica.testify(WALL, node, upto).unwrap() else { return };
        self.write(at, &said);
        for to in (0..self.nodes.len()).filter(|to| *to != at && heard >> to & 1 == 1) {
            if self.nodes[to].is_some() {
                self.merge(to, &said.delta);
            }
        }
    }

    /// Every survivor tells every other what it lacks, until nobody learns anything.
    fn settle(&mut self) {
        for _ in 0..200 {
            let mut learned = false;
            for from in 0..self.nodes.len() {
                for to in 0..self.nodes.len() {
                    if from == to || self.nodes[from].is_none() || self.nodes[to].is_none() {
                        continue;
                    }
                    learned |= self.save(to);
                    let (sender, known) =
                        (self.node(from).replica.store().clone(), self.node(to).replica.store().context());
                    let same = sender.context() == known
                        && sender.digest() != self.node(to).replica.store().digest();
                    if same || lanes_behind(&sender, &known) {
                        self.agree(to, &sender);
                        learned = true;
                        continue;
                    }
                    let delta =
                        sender.delta(sender.context().lanes().map(|(lane, _)| lane), &known, usize::MAX);
                    if !delta.is_empty() {
                        self.merge(to, &delta);
                        learned = true;
                    }
                }
            }
            if !learned {
                return;
            }
        }
        panic!("they never agree");
    }

    /// Returns how many values are missing that somebody who is there had seen.
    fn check(mut self) -> usize {
        self.settle();
        let survivors: Vec<&Node> = self.nodes.iter().flatten().collect();
        let knows: BTreeSet<&Dot> = survivors.iter().flat_map(|node| &node.knows).collect();
        // Who has retired a life takes its writes for seen, and serves what they replaced by name alone, to whom has not:
        // if all who held such a write are gone, nothing tells any more what it had replaced.
        let held: BTreeSet<&Dot> = survivors.iter().flat_map(|node| &node.held).collect();
        let view = |node: &Node| {
            let keys = node.replica.store().prefix("attr/");
            let values = keys.map(|row| {
                let dots: BTreeSet<Dot> =
                    row.register().values().iter().map(|entry| entry.dot.clone()).collect();
                (row.key(), dots)
            });
            values.filter(|(_, dots)| !dots.is_empty()).collect::<BTreeMap<_, _>>()
        };
        let first = view(survivors[0]);
        for node in &survivors {
            assert_eq!(
                node.replica.store().context(),
                survivors[0].replica.store().context(),
                "they have seen the same"
            );
            assert_eq!(view(node), first, "they show the same");
            assert_eq!(node.replica.store().digest(), survivors[0].replica.store().digest());
        }
        let shown: BTreeSet<&Dot> = first.values().flatten().collect();
        let mut lost = 0;
        for (dot, _) in self.written.iter().filter(|(dot, write)| {
            write.puts && knows.contains(dot) && write.key.as_str().starts_with("attr/")
        }) {
            let mut killers =
                self.written.iter().filter(|(_, by)| by.past.contains(dot)).map(|(killer, _)| killer);
            if shown.contains(dot) {
                let known = killers.find(|killer| held.contains(killer));
                assert_eq!(known, None, "{dot} is shown, which that had replaced");
            } else if killers.next().is_none() {
                lost += 1;
            }
        }
        if !self.blind {
            assert_eq!(lost, 0, "nothing is lost that a survivor had seen");
        }
        lost
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn survivors_agree_whatever_is_testified(nodes in 3u8..6, steps in prop::collection::vec(any_step(), 20..160)) {
        let mut history = History::new(nodes);
        for step in &steps {
            history.step(step);
        }
        history.check();
    }
}

/// A node comes back with an old copy, says what it knows of its last life, and does so again in the next one: whoever
/// hears of both by the second alone keeps what that life had written last.
#[test]
fn what_was_testified_before_is_told_again() {
    let (mut a, mut b) = (replica(1, 1), replica(2, 1));
    let write = |replica: &mut Replica, text: &str| {
        let prepared = replica.set(WALL, &attribute(0), value(text)).unwrap();
        settle(replica, prepared);
    };
    write(&mut a, "1");
    let copy = a.clone();
    write(&mut a, "2");
    sync(&a, &mut b);
    let mut a = copy;
    for life in [2, 3] {
        a.rebirth(Generation(life));
        let prepared = a.publish(WALL, &crate::replica::NodeRecord::default()).unwrap();
        settle(&mut a, prepared);
        let prepared = a.testify(WALL, a.actor().node, Generation(life - 1)).unwrap();
        settle(&mut a, prepared);
    }
    assert_eq!(a.store().retired(&a.actor().node), Generation(2));
    let learnt = a.store().reconciliation(b.store());
    for saved in b.save_from(WALL, &learnt).unwrap() {
        settle(&mut b, Some(saved));
    }
    let learnt = a.store().reconciliation(b.store());
    assert!(b.at_stake(&learnt).is_empty());
    b.reconcile(WALL, &learnt).unwrap();
    sync(&b, &mut a);
    for replica in [&a, &b] {
        assert_eq!(replica.attribute(&attribute(0)).unwrap().value, value("2"));
    }
}

/// Somebody who has heard of nothing else hears that two lives are over, of which the first had written: nothing was seen of
/// the second, and yet it is not enough to have seen nothing.
#[test]
fn a_testimony_takes_effect_after_those_before_it() {
    let (mut a, mut witness, mut late) = (replica(1, 1), replica(2, 1), replica(3, 1));
    let node = a.actor().node;
    let prepared = a.set(WALL, &attribute(0), value("1")).unwrap();
    settle(&mut a, prepared);
    sync(&a, &mut witness);
    let mut last = None;
    for life in [2, 3] {
        a.rebirth(Generation(life));
        let prepared = a.publish(WALL, &crate::replica::NodeRecord::default()).unwrap();
        settle(&mut a, prepared);
        sync(&a, &mut witness);
        last = witness.testify(WALL, node, Generation(life - 1)).unwrap();
        settle(&mut witness, last.clone());
    }
    assert_eq!(witness.store().retired(&node), Generation(2));
    late.merge(WALL, &last.unwrap().delta).unwrap();
    assert_eq!(late.store().retired(&node), Generation(0));
    let learnt = witness.store().reconciliation(late.store());
    late.reconcile(WALL, &learnt).unwrap();
    assert_eq!(late.attribute(&attribute(0)).unwrap().value, value("1"));
    assert_eq!(late.store().retired(&node), Generation(2));
}

#[test]
fn of_too_many_testimonies_those_are_left_out_that_have_taken_effect_and_no_others() {
    let node = replica(1, 1).actor().node;
    let life = |life| (Generation(life), CausalContext::new());
    let said = (0..MAX_SAID as u64 + 6).map(|before| {
        let ((base, seen), (upto, _)) = (life(before), life(before + 1));
        Testimony { node, base, upto, seen }
    });
    let said: Vec<Testimony> = said.collect();
    let kept = |retired| Some(of_value(node, &to_value(&said, Generation(retired))?).unwrap());
    assert_eq!(kept(6), Some(said[6..].to_vec()));
    assert_eq!(kept(5), None, "the sixth is still to be told of");
    assert_eq!(
        to_value(&said[..3], Generation(0)).map(|value| of_value(node, &value).unwrap()),
        Some(said[..3].to_vec())
    );
}
