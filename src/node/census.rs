//! How many keys of which kind there are.
//!
//! Counting looks at every key. A small state is counted when somebody asks; a large one piece by piece, so that the mesh
//! goes on between two pieces, and so seldom that it takes a twentieth of the time at most. Until then the last count is told.

use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::crdt::{Key, KeyRange, Revision, Row};
use crate::gossip::Mesh;
use crate::mesh::{MeshHandle, Stopped};
use crate::replica::Path;

/// How many keys are counted at a time: less than a millisecond.
const PIECE: usize = 4_096;
/// A large state is counted again after so many times the time that it took.
const PAUSE: u32 = 20;

/// How many keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Census {
    pub(super) attributes: u64,
    pub(super) tunnels: u64,
    pub(super) nodes: u64,
    /// Those of the tunnels whose holders have not begun another life since.
    pub(super) registrations: u64,
    /// Removed, and remembered.
    pub(super) tombstones: u64,
    /// Values that lost against a concurrent one.
    pub(super) siblings: u64,
    /// The bytes of all keys and of their values.
    pub(super) bytes: u64,
}

impl AddAssign for Census {
    fn add_assign(&mut self, other: Self) {
        self.attributes += other.attributes;
        self.tunnels += other.tunnels;
        self.nodes += other.nodes;
        self.registrations += other.registrations;
        self.tombstones += other.tombstones;
        self.siblings += other.siblings;
        self.bytes += other.bytes;
    }
}

impl Census {
    fn count(&mut self, mesh: &Mesh, row: Row<'_>) {
        self.bytes += (row.name().len() + row.value_bytes()) as u64;
        let family = row.name().split('/').next().unwrap_or_default();
        let live = match family {
            "attr" => &mut self.attributes,
            "tunnel" => &mut self.tunnels,
            "node" => &mut self.nodes,
            _ => return,
        };
        let values = row.value_count() as u64;
        *(if values > 0 { live } else { &mut self.tombstones }) += 1;
        self.siblings += values.saturating_sub(1);
        if let ("tunnel", Some(Path::Registration { name, tunnel })) = (family, Path::of(&row.key())) {
            self.registrations += u64::from(mesh.replica().registration(&name, tunnel).is_some());
        }
    }

    /// Counts the next keys from there on, and says where to go on.
    fn piece(mesh: &Mesh, from: Option<Key>) -> (Self, Option<Key>) {
        let mut census = Self::default();
        let range = KeyRange { from, until: None };
        let mut keys = mesh.replica().store().range(&range);
        for row in keys.by_ref().take(PIECE) {
            census.count(mesh, row);
        }
        (census, keys.next().map(|row| row.key()))
    }
}

/// Which state was counted: two that agree in this have the same numbers.
type State = (Revision, usize, [u8; 16]);

fn state(mesh: &Mesh) -> State {
    let store = mesh.replica().store();
    (store.revision(), store.len(), store.digest())
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    census: Census,
    of: State,
    at: Instant,
    took: Duration,
}

/// Counts, and remembers.
#[derive(Debug, Default)]
pub(super) struct Counter {
    last: Mutex<Option<Counted>>,
    /// Held while somebody counts.
    counting: Arc<tokio::sync::Mutex<()>>,
}

impl Counter {
    /// How many keys there are. Of a state of more than a few thousand keys that changes, some moments ago.
    pub(super) async fn read(self: &Arc<Self>, mesh: &MeshHandle) -> Result<Census, Stopped> {
        let last = self.last();
        let looked = mesh.view(move |mesh| {
            let now = state(mesh);
            if let Some(last) = last.filter(|last| last.of == now) {
                return Some(last.census);
            }
            let (census, more) = Census::piece(mesh, None);
            more.is_none().then_some(census)
        });
        if let Some(census) = looked.await? {
            return Ok(census);
        }
        match self.last() {
            // Nothing is known yet: whoever asks waits.
            None => {
                let _counting = self.counting.lock().await;
                match self.last() {
                    Some(last) => Ok(last.census),
                    None => self.walk(mesh).await,
                }
            }
            Some(last) => {
                if last.at.elapsed() > last.took * PAUSE
                    && let Ok(counting) = Arc::clone(&self.counting).try_lock_owned()
                {
                    let (counter, mesh) = (Arc::clone(self), mesh.clone());
                    tokio::spawn(async move {
                        // The mesh may stop meanwhile; then nobody asks any more.
                        counter.walk(&mesh).await.ok();
                        drop(counting);
                    });
                }
                Ok(last.census)
            }
        }
    }

    async fn walk(&self, mesh: &MeshHandle) -> Result<Census, Stopped> {
        let begun = Instant::now();
        let of = mesh.view(state).await?;
        let (mut census, mut from) = (Census::default(), None);
        loop {
            let (piece, next) = mesh.view(move |mesh| Census::piece(mesh, from)).await?;
            census += piece;
            from = next;
            if from.is_none() {
                break;
            }
        }
        let counted = Counted { census, of, at: Instant::now(), took: begun.elapsed() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
        Ok(census)
    }

    fn last(&self) -> Option<Counted> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::Value;
    use crate::gossip::Config;
    use crate::id::{Actor, Generation, NodeId, TunnelId};
    use crate::replica::Attributes;
    use crate::time::{Moment, Now, UnixMillis};

    const NOW: Now = Now { monotone: Moment(0), wall: UnixMillis(1_000_000) };

    /// FEATURES P7: numbers are those of the whole state, in however many pieces it was counted.
    #[test]
    fn pieces_add_up_to_what_is_there() {
        let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
        let mut mesh = Mesh::new(Config::default(), actor, 1, NOW);
        let value = Value::try_from(&b"v"[..]).unwrap();
        let many = 2 * PIECE as u64 + 5;
        for number in 0..many {
            mesh.set(NOW, &format!("mesh/k{number}").parse().unwrap(), value.clone()).unwrap();
        }
        mesh.unset(NOW, &"mesh/k7".parse().unwrap()).unwrap();
        mesh.register(NOW, &"web".parse().unwrap(), TunnelId(1), &Attributes::default()).unwrap();
        let (mut census, mut from, mut pieces) = (Census::default(), None, 0);
        loop {
            let (piece, next) = Census::piece(&mesh, from);
            census += piece;
            pieces += 1;
            match next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        let nodes = mesh.replica().nodes().count() as u64;
        assert_eq!(pieces, 3);
        let counted = Census { bytes: 0, ..census };
        let expected = Census {
            attributes: many - 1,
            tunnels: 1,
            nodes,
            registrations: 1,
            tombstones: 1,
            siblings: 0,
            bytes: 0,
        };
        assert_eq!(counted, expected);
        // Each name and its value; what is removed has a name still. The rest is the tunnel, and what the node says of itself.
        let names: usize = (0..many).map(|number| format!("attr/mesh/k{number}").len()).sum();
        let all = mesh.replica().store().prefix("");
        let others = all.filter(|row| !row.name().starts_with("attr/"));
        let others = others.map(|row| {
            let register = row.register();
            let values = register.entries().iter().filter_map(|entry| entry.value.as_ref());
            row.name().len() + values.map(|value| value.as_bytes().len()).sum::<usize>()
        });
        let others: usize = others.sum();
        assert_eq!(census.bytes, (names + others) as u64 + many - 1);
    }
}
