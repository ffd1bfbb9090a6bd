//! SWIM, as `foca` implements it with its settings for local networks: a probe a second, three indirect ones, suspicion
//! for four periods times the logarithm of the number of nodes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use foca::{AccumulatingRuntime, Config, Foca, Identity, OwnedNotification, PostcardCodec, Timer};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use crate::net::{Detector, Net};

/// A node, in one of the lives that SWIM gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Name {
    node: u16,
    life: u16,
}

impl Identity for Name {
    type Addr = u16;

    fn renew(&self) -> Option<Self> {
        Some(Self { node: self.node, life: self.life.wrapping_add(1) })
    }

    fn addr(&self) -> u16 {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

/// What travels.
pub enum Message {
    Packet(Vec<u8>),
    Timer(Timer<Name>),
    /// The first node has not answered yet, perhaps.
    Join,
}

pub struct Swim {
    nodes: Vec<Foca<Name, PostcardCodec, Xoshiro256PlusPlus, foca::NoCustomBroadcast>>,
    verdicts: Vec<BTreeMap<u16, bool>>,
}

const JOIN_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

fn name(node: usize) -> Name {
    Name { node: u16::try_from(node).expect("few nodes"), life: 0 }
}

impl Swim {
    /// Gives a node an input, and carries out what follows.
    fn feed(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        input: impl FnOnce(
            &mut Foca<Name, PostcardCodec, Xoshiro256PlusPlus, foca::NoCustomBroadcast>,
            &mut AccumulatingRuntime<Name>,
        ) -> Result<(), foca::Error>,
    ) {
        let mut runtime = AccumulatingRuntime::new();
        // Errors are of packets that are late or not for this life: the library says so and goes on.
        input(&mut self.nodes[node], &mut runtime).ok();
        while let Some((to, bytes)) = runtime.to_send() {
            net.send(node, usize::from(to.node), bytes.len(), Message::Packet(bytes.to_vec()));
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            net.at(net.now + after, node, node, Message::Timer(timer));
        }
        while let Some(told) = runtime.to_notify() {
            let verdicts = &mut self.verdicts[node];
            match told {
                OwnedNotification::MemberUp(who) => verdicts.insert(who.node, true),
                OwnedNotification::MemberDown(who) => verdicts.insert(who.node, false),
                _ => None,
            };
        }
    }
}

impl Detector for Swim {
    const NAME: &'static str = "SWIM (foca 2.0)";
    type Message = Message;

    fn new(nodes: usize, seed: u64) -> Self {
        let size = NonZeroU32::new(u32::try_from(nodes).expect("few nodes")).expect("some nodes");
        let node = |node: usize| {
            let mut config = Config::new_lan(size);
            // Whoever is down is called again soon, as the mesh does, and not after a minute.
            if let Some(again) = &mut config.periodic_announce_to_down_members {
                again.frequency = std::time::Duration::from_secs(8);
            }
            let generator = Xoshiro256PlusPlus::seed_from_u64(seed ^ (node as u64) << 32);
            Foca::new(name(node), config, generator, PostcardCodec)
        };
        Self { nodes: (0..nodes).map(node).collect(), verdicts: vec![BTreeMap::new(); nodes] }
    }

    fn start(&mut self, net: &mut Net<Message>, node: usize) {
        if node > 0 {
            self.receive(net, node, node, Message::Join);
        }
    }

    fn receive(&mut self, net: &mut Net<Message>, node: usize, _: usize, message: Message) {
        match message {
            Message::Packet(bytes) => self.feed(net, node, |foca, runtime| foca.handle_data(&bytes, runtime)),
            Message::Timer(timer) => self.feed(net, node, |foca, runtime| foca.handle_timer(timer, runtime)),
            Message::Join => {
                if self.nodes[node].num_members() == 0 {
                    self.feed(net, node, |foca, runtime| foca.announce(name(0), runtime));
                    net.at(net.now + JOIN_AGAIN, node, node, Message::Join);
                }
            }
        }
    }

    fn verdicts(&self, node: usize) -> Vec<Option<bool>> {
        let verdicts = &self.verdicts[node];
        (0..self.nodes.len()).map(|other| verdicts.get(&name(other).node).copied()).collect()
    }
}
