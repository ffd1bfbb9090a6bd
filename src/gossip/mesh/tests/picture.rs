//! Pictures that are carried on by events, against pictures of the mesh.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::event::{Feed, Lagged};
use crate::gossip::Picture;

/// What happens to a mesh of three nodes; the reader is at the first.
#[derive(Debug, Clone)]
enum Act {
    Set(usize, u8, Option<u8>),
    Count(usize, u8, i64),
    Member(usize, u8, bool),
    Register(usize, u8, bool),
    Isolate(usize, bool),
    Restart(usize),
    Run(u64),
    Read(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let node = || 0usize..3;
    let act = prop_oneof![
        4 => (node(), 0u8..3, any::<Option<u8>>()).prop_map(|(node, key, value)| Act::Set(node, key, value)),
        2 => (node(), 0u8..2, -2i64..3).prop_map(|(node, key, by)| Act::Count(node, key, by)),
        3 => (node(), 0u8..3, any::<bool>()).prop_map(|(node, element, add)| Act::Member(node, element, add)),
        3 => (node(), 0u8..3, any::<bool>()).prop_map(|(node, tunnel, up)| Act::Register(node, tunnel, up)),
        1 => (node(), any::<bool>()).prop_map(|(node, cut)| Act::Isolate(node, cut)),
        1 => (1usize..3).prop_map(Act::Restart),
        4 => (1u64..12_000).prop_map(Act::Run),
        4 => (0usize..9).prop_map(Act::Read),
    ];
    prop::collection::vec(act, 0..50)
}

impl World {
    /// The node comes back in another life and knows nothing.
    fn lose(&mut self, node: usize, generation: u64) {
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            let (one, other) = self.links[&link];
            if [one, other].contains(&node) {
                self.links.remove(&link);
                let peer = if one == node { other } else { one };
                self.schedule(DELAY, peer, Arrival::Down { link });
            }
        }
        self.arrivals.retain(|_, (at, _)| *at != node);
        self.nodes[node].mesh = self.mesh(node, generation, Durability::Memory);
        self.drain(node);
    }

    fn act(&mut self, act: &Act, generation: &mut u64) {
        let now = self.time();
        match act {
            Act::Set(node, key, value) => {
                let (mesh, key) = (&mut self.nodes[*node].mesh, self::key(&format!("mesh/{key}")));
                match value {
                    Some(value) => mesh.set(now, &key, self::value(&value.to_string())).unwrap(),
                    None => mesh.unset(now, &key).unwrap(),
                };
                self.drain(*node);
            }
            Act::Count(node, key, by) => {
                let key = self::key(&format!("mesh/{key}"));
                self.nodes[*node].mesh.increment(now, &key, *by).unwrap();
                self.drain(*node);
            }
            Act::Member(node, element, add) => {
                let (mesh, set) = (&mut self.nodes[*node].mesh, key("mesh/set"));
                let element = value(&element.to_string());
                if *add {
                    mesh.add(now, &set, element).unwrap()
                } else {
                    mesh.discard(now, &set, &element).unwrap()
                };
                self.drain(*node);
            }
            Act::Register(node, tunnel, up) => {
                let (mesh, name) = (&mut self.nodes[*node].mesh, "web".parse().unwrap());
                let tunnel = TunnelId(u64::from(*tunnel) * 10 + *node as u64);
                if *up {
                    mesh.register(now, &name, tunnel, &Attributes::default()).unwrap();
                } else {
                    // Of what another life held nothing may be left, or what nobody takes back.
                    mesh.deregister(now, &name, tunnel).ok();
                }
                self.drain(*node);
            }
            Act::Isolate(node, cut) => self.isolate(*node, *cut),
            Act::Restart(node) => {
                *generation += 1;
                self.lose(*node, *generation);
            }
            Act::Run(millis) => self.run(Duration::from_millis(*millis)),
            Act::Read(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// FEATURES B2, S3. Whatever happens to the mesh, however small the buffer and slow the reader: a snapshot, the
    /// stream, and a snapshot again after each lag make the very picture.
    #[test]
    fn events_carry_a_picture_on_to_the_very_state(capacity in 1usize..40, acts in acts()) {
        let mut world = World::new(3);
        world.run(Duration::from_secs(2));
        world.nodes[0].events.clear();
        let mut feed = Feed::new(NonZeroUsize::new(capacity).unwrap());
        let (mut cursor, mut picture) = (feed.subscribe(), Picture::of(&world.nodes[0].mesh));
        let all = feed.coalesce(Box::new(|_| true));
        let mut latest = picture.clone();
        let mut generation = 1;
        for act in acts.iter().chain([&Act::Read(usize::MAX)]) {
            world.act(act, &mut generation);
            for event in world.nodes[0].events.drain(..) {
                feed.publish(event);
            }
            let Act::Read(read) = act else { continue };
            for _ in 0..(*read).min(10_000) {
                match feed.poll(&mut cursor) {
                    Ok(Some((_, event))) => picture.apply(event),
                    Ok(None) => break,
                    Err(Lagged { .. }) => {
                        picture = Picture::of(&world.nodes[0].mesh);
                        feed.resync(&mut cursor);
                    }
                }
            }
            for _ in 0..(*read).min(10_000) {
                let Some(change) = feed.poll_change(all) else { break };
                latest.apply(&change.latest);
            }
        }
        let state = Picture::of(&world.nodes[0].mesh);
        prop_assert_eq!(&picture, &state);
        prop_assert_eq!(&latest, &state);
    }
}
