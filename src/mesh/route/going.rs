//! Which tunnels this node's streams go to, counted while they live.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::TunnelId;
use crate::tunnel::StreamObserver;

/// How many streams go to each tunnel; those without any are not in it.
#[derive(Debug, Default)]
pub(super) struct Going(Mutex<BTreeMap<TunnelId, usize>>);

/// A stream, from the attempt to open it to its end.
#[derive(Debug)]
struct Stream {
    going: Arc<Going>,
    tunnel: TunnelId,
}

impl Going {
    pub(super) fn count(&self, tunnel: TunnelId) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&tunnel).copied().unwrap_or(0)
    }

    /// One more goes there, until what is given back is dropped.
    pub(super) fn begin(self: &Arc<Self>, tunnel: TunnelId) -> Arc<dyn StreamObserver> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(tunnel).or_default() += 1;
        Arc::new(Stream { going: Arc::clone(self), tunnel })
    }
}

impl StreamObserver for Stream {
    fn sent(&self, _: usize) {}

    fn received(&self, _: usize) {}
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut counts = self.going.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tunnel) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tunnel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_counted_until_its_last_holder_drops_it() {
        let going = Arc::new(Going::default());
        let (first, second) = (going.begin(TunnelId(1)), going.begin(TunnelId(1)));
        let other_half = Arc::clone(&first);
        assert_eq!((going.count(TunnelId(1)), going.count(TunnelId(2))), (2, 0));
        drop(first);
        assert_eq!(going.count(TunnelId(1)), 2);
        drop((other_half, second));
        assert!(going.0.lock().unwrap().is_empty());
    }
}
