//! The product.

use std::time::Duration;

use snomesh::crdt::{Lane, Value};
use snomesh::gossip::Message;
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::replica::{self, AttributeKey};
use snomesh::time::UnixMillis;
use snomesh::wire;

use crate::Replica;

const WALL: UnixMillis = UnixMillis(1_700_000_000_000);
/// What a link sends in one frame.
const FRAME: usize = 64 * 1024;

pub(crate) struct Snomesh(replica::Replica);

/// An attribute's key in the store begins with `attr/`.
fn name(key: &str) -> AttributeKey {
    key[5..].parse().expect("it is made of a key's characters")
}

impl Replica for Snomesh {
    const NAME: &'static str = "snomesh";

    fn new(author: u8) -> Self {
        let actor = Actor { node: NodeId::from_bytes([author; 32]), generation: Generation(1) };
        Self(replica::Replica::new(actor, Duration::from_secs(10)).seeded(7))
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        let value = Value::try_from(value).expect("a short value");
        let prepared = self.0.set(WALL, &name(key), value).expect("the clock has room");
        self.0.merge_own(WALL, &prepared.expect("the value is new").delta);
        self.0.take_changed();
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        Some(self.0.attribute(&name(key))?.value.as_bytes().to_vec())
    }

    /// As after a reconnection: the receiver tells its whole context, and hears what it lacks in frames.
    fn sync(&mut self, other: &mut Self) -> usize {
        let hello = Message::Context { complete: true, seen: other.0.store().context() };
        let hello = wire::encode(&hello);
        let mut bytes = hello.len();
        let Ok(Message::Context { seen: mut known, .. }) = wire::decode(&hello) else { unreachable!() };
        let (mut encoder, mut decoder) = (wire::Encoder::new(), wire::Decoder::new());
        let lanes: Vec<Lane> = self.0.store().context().lanes().map(|(lane, _)| lane.clone()).collect();
        loop {
            let delta = self.0.store().delta(&lanes, &known, FRAME);
            if delta.is_empty() {
                return bytes;
            }
            known.union(&delta.accounted);
            let dots = delta.items.iter().flat_map(|item| &item.entries).map(|entry| &entry.dot);
            for dot in dots {
                known.insert(dot);
            }
            let frame = encoder.encode(&Message::Delta(delta));
            bytes += frame.len();
            let Ok(Message::Delta(delta)) = decoder.decode(&frame) else { unreachable!() };
            other.0.merge(WALL, &delta).expect("nothing was damaged");
            other.0.take_changed();
        }
    }
}
