//! Values that ride on a tunnel: kept for those who know them from elsewhere.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::ArcTunnel;

/// Arbitrary values attached to a tunnel, one per type. All handles of the tunnel share them; they do not travel to the
/// peer, and go with the last handle.
///
/// A tunnel must not be put into its own baggage, nor anything that holds it: neither would ever go.
#[deprecated(since = "0.1.0", note = "keep what belongs to a tunnel in a map of your own, by its id")]
#[derive(Debug, Default)]
pub struct Baggage {
    items: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

#[expect(deprecated, reason = "the implementation of what is deprecated")]
impl Baggage {
    /// Attaches a value in place of the one of its type, which it gives back.
    ///
    /// # Panics
    ///
    /// If the value is this very tunnel, plain or in an `Arc`, an `Option` or a `Vec`: it would keep itself. What hides
    /// the tunnel deeper is not found out, and never goes.
    pub fn put<T: Send + Sync + 'static>(&self, item: T) -> Option<Arc<T>> {
        let any: &dyn Any = &item;
        let mut held: Vec<&ArcTunnel> = Vec::new();
        held.extend(any.downcast_ref::<ArcTunnel>());
        held.extend(any.downcast_ref::<Arc<ArcTunnel>>().map(Arc::as_ref));
        held.extend(any.downcast_ref::<Option<ArcTunnel>>().into_iter().flatten());
        held.extend(any.downcast_ref::<Vec<ArcTunnel>>().into_iter().flatten());
        let is_own = |tunnel: &ArcTunnel| std::ptr::eq(tunnel.baggage(), self);
        assert!(!held.into_iter().any(is_own), "a tunnel must not be put into its own baggage");
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.insert(TypeId::of::<T>(), Arc::new(item))?.downcast().ok()
    }

    /// The value of this type.
    pub fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(items.get(&TypeId::of::<T>())?).downcast().ok()
    }

    /// Detaches the value of this type.
    pub fn take<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.remove(&TypeId::of::<T>())?.downcast().ok()
    }
}

#[cfg(test)]
#[expect(deprecated, reason = "what is deprecated still works")]
mod tests {
    use std::sync::Arc;

    use crate::tunnel::ArcTunnel;
    use crate::tunnel::duplex::DuplexTunnel;

    /// FEATURES S2.
    #[test]
    fn all_handles_share_the_baggage_and_the_last_one_drops_it() {
        let tunnel = ArcTunnel::new(DuplexTunnel::pair().0);
        let other = tunnel.clone();
        let item = Arc::new(7_u8);
        assert_eq!(tunnel.baggage().put(Arc::clone(&item)), None);
        assert_eq!(other.baggage().find::<Arc<u8>>(), Some(Arc::new(Arc::clone(&item))));
        assert_eq!(other.baggage().find::<u8>(), None);
        drop(tunnel);
        assert_eq!(Arc::strong_count(&item), 2);
        drop(other);
        assert_eq!(Arc::strong_count(&item), 1);
    }

    /// FEATURES S2.
    #[test]
    fn a_tunnel_in_its_own_baggage_is_found_out_and_another_one_may_ride() {
        let (tunnel, other) = DuplexTunnel::pair();
        let (tunnel, other) = (ArcTunnel::new(tunnel), ArcTunnel::new(other));
        assert!(tunnel.baggage().put(other.clone()).is_none());
        let put = |put: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(put)).is_err();
        assert!(put(&|| drop(tunnel.baggage().put(tunnel.clone()))));
        assert!(put(&|| drop(tunnel.baggage().put(Arc::new(tunnel.clone())))));
        assert!(put(&|| drop(tunnel.baggage().put(Some(tunnel.clone())))));
        assert!(put(&|| drop(tunnel.baggage().put(vec![other.clone(), tunnel.clone()]))));
        assert!(tunnel.baggage().find::<ArcTunnel>().unwrap().is_same(&other));
    }

    /// FEATURES S2.
    #[test]
    fn there_is_one_value_of_a_type() {
        let tunnel = ArcTunnel::new(DuplexTunnel::pair().0);
        assert_eq!(tunnel.baggage().put(1_u8), None);
        assert_eq!(tunnel.baggage().put(2_u8), Some(Arc::new(1)));
        assert_eq!(tunnel.baggage().take::<u8>(), Some(Arc::new(2)));
        assert_eq!(tunnel.baggage().take::<u8>(), None);
    }
}
