//! What every registry has to do, run for each of them beside it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Registration, SharedAttributeRegistry, TunnelRegistry};
use crate::crdt::Value;
use crate::id::{TunnelId, TunnelName};

/// Writes a test for each name. The async block gives what is to be tested, or nothing where that cannot be had, having
/// said why; whatever else it gives is kept for as long as the test runs.
macro_rules! suite {
    ($suite:ident, $module:ident, $made:expr; $($name:ident,)*) => {
        mod $module {
            use super::*;

            $(
                /// FEATURES S18.
                #[tokio::test]
                async fn $name() {
                    let Some(made) = $made.await else { return };
                    crate::registry::conformance::$suite::$name(&made.0, made.1).await;
                }
            )*
        }
    };
}

/// Runs the suite over the tunnel registry that an async block gives, with a function that turns its records into
/// registrations.
macro_rules! tunnel_suite {
    ($module:ident, $made:expr) => {
        crate::registry::conformance::suite! {
            tunnels, $module, $made;
            what_was_not_registered_is_not_found,
            what_was_registered_is_found_as_it_was,
            the_last_named_wins_and_the_one_before_reappears,
            a_stale_identifier_removes_nothing_else,
            an_identifier_names_one_registration_also_of_one_tunnel,
            names_do_not_mix,
            many_at_once_leave_nothing_behind,
        }
    };
}

/// Runs the suite over the attribute registry that an async block gives, with two targets.
macro_rules! attribute_suite {
    ($module:ident, $made:expr) => {
        crate::registry::conformance::suite! {
            attributes, $module, $made;
            what_was_written_is_read_until_it_is_removed,
            targets_do_not_mix,
            a_list_is_in_the_order_of_names,
            values_are_any_bytes_up_to_the_limit,
            what_is_not_legal_is_refused_and_changes_nothing,
        }
    };
}

pub(crate) use {attribute_suite, suite, tunnel_suite};

/// A registration under a name.
pub(crate) fn registration(name: &str, tunnel: u64) -> Registration {
    Registration {
        name: name.parse().unwrap(),
        tunnel: TunnelId(tunnel),
        node: None,
        holder: None,
        attributes: Arc::default(),
    }
}

fn web() -> TunnelName {
    "web".parse().unwrap()
}

/// The tunnel that a lookup finds.
pub(crate) async fn found<R: TunnelRegistry>(
    registry: &R,
    of: fn(&R::Record) -> Registration,
    name: &TunnelName,
) -> Option<u64> {
    registry.lookup(name).await.unwrap().map(|record| of(&record).tunnel.0)
}

pub(crate) mod tunnels {
    use super::*;

    type Of<R> = fn(&<R as TunnelRegistry>::Record) -> Registration;

    pub(crate) async fn what_was_not_registered_is_not_found<R: TunnelRegistry>(registry: &R, of: Of<R>) {
        assert_eq!(found(registry, of, &web()).await, None);
    }

    pub(crate) async fn what_was_registered_is_found_as_it_was<R: TunnelRegistry>(registry: &R, of: Of<R>) {
        let attributes = HashMap::from([
            ("site".to_owned(), b"north".to_vec()),
            ("binary".to_owned(), (0..=255).collect()),
            ("empty".to_owned(), Vec::new()),
            ("large".to_owned(), vec![7; 3_000]),
        ]);
        let given = Registration { attributes: Arc::new(attributes), ..registration("web", u64::MAX) };
        let identifier = registry.register(given.clone()).await.unwrap();
        let found = of(&registry.lookup(&web()).await.unwrap().unwrap());
        assert_eq!((&found.name, found.tunnel), (&given.name, given.tunnel));
        assert_eq!(found.attributes, given.attributes);
        let removed = registry.deregister_identifier(identifier).await.unwrap();
        assert_eq!(of(&removed.unwrap()).attributes, given.attributes);
    }

    pub(crate) async fn the_last_named_wins_and_the_one_before_reappears<R: TunnelRegistry>(
        registry: &R,
        of: Of<R>,
    ) {
        let mut identifiers = Vec::new();
        for tunnel in 1..=4 {
            identifiers.push(registry.register(registration("web", tunnel)).await.unwrap());
            assert_eq!(found(registry, of, &web()).await, Some(tunnel));
        }
        // Neither the first nor the last goes first.
        for (at, then) in [(2, Some(4)), (3, Some(2)), (0, Some(2)), (1, None)] {
            let removed = registry.deregister_identifier(identifiers[at].clone()).await.unwrap();
            assert_eq!(of(&removed.unwrap()).tunnel.0, at as u64 + 1);
            assert_eq!(found(registry, of, &web()).await, then);
        }
    }

    /// Failure 12 of the original: a stale deregistration removed its successor.
    pub(crate) async fn a_stale_identifier_removes_nothing_else<R: TunnelRegistry>(registry: &R, of: Of<R>) {
        let first = registry.register(registration("web", 1)).await.unwrap();
        let second = registry.register(registration("web", 2)).await.unwrap();
        assert!(registry.deregister_identifier(first.clone()).await.unwrap().is_some());
        assert!(registry.deregister_identifier(first).await.unwrap().is_none());
        assert_eq!(found(registry, of, &web()).await, Some(2));
        assert!(registry.deregister_identifier(second.clone()).await.unwrap().is_some());
        assert!(registry.deregister_identifier(second).await.unwrap().is_none());
        assert_eq!(found(registry, of, &web()).await, None);
    }

    pub(crate) async fn an_identifier_names_one_registration_also_of_one_tunnel<R: TunnelRegistry>(
        registry: &R,
        of: Of<R>,
    ) {
        let before = registry.register(registration("web", 1)).await.unwrap();
        assert!(registry.deregister_identifier(before.clone()).await.unwrap().is_some());
        let after = registry.register(registration("web", 1)).await.unwrap();
        assert!(registry.deregister_identifier(before).await.unwrap().is_none());
        assert_eq!(found(registry, of, &web()).await, Some(1));
        assert!(registry.deregister_identifier(after).await.unwrap().is_some());
        assert_eq!(found(registry, of, &web()).await, None);
    }

    pub(crate) async fn names_do_not_mix<R: TunnelRegistry>(registry: &R, of: Of<R>) {
        let names = ["web", "web.eu", "web-eu", "we", "w"];
        let mut identifiers = Vec::new();
        for (at, name) in (1..).zip(names) {
            identifiers.push(registry.register(registration(name, at)).await.unwrap());
        }
        registry.deregister_identifier(identifiers.swap_remove(0)).await.unwrap().unwrap();
        for (at, name) in (1..).zip(names) {
            let expected = (at > 1).then_some(at);
            assert_eq!(found(registry, of, &name.parse().unwrap()).await, expected, "{name}");
        }
    }

    pub(crate) async fn many_at_once_leave_nothing_behind<R: TunnelRegistry>(registry: &R, of: Of<R>) {
        let mut all = Vec::new();
        for tunnel in 1..=20 {
            all.push(async move {
                let identifier = registry.register(registration("web", tunnel)).await.unwrap();
                assert!(found(registry, of, &web()).await.is_some());
                let removed = registry.deregister_identifier(identifier).await.unwrap();
                assert_eq!(of(&removed.unwrap()).tunnel.0, tunnel);
            });
        }
        join_all(all).await;
        assert_eq!(found(registry, of, &web()).await, None);
    }
}

/// Runs futures side by side in one task.
pub(crate) async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).map(Some).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

pub(crate) mod attributes {
    use super::*;

    type Targets<R> = [<R as SharedAttributeRegistry>::Identifier; 2];

    async fn read<R>(registry: &R, target: &R::Identifier, name: &str) -> Option<Vec<u8>>
    where
        R: SharedAttributeRegistry<Record: AsRef<[u8]>>,
    {
        registry.read(target, name).await.unwrap().map(|record| record.as_ref().to_vec())
    }

    async fn list<R>(registry: &R, target: &R::Identifier) -> Vec<(String, Vec<u8>)>
    where
        R: SharedAttributeRegistry<Record: AsRef<[u8]>>,
    {
        let list = registry.list(target).await.unwrap();
        list.into_iter().map(|(name, record)| (name, record.as_ref().to_vec())).collect()
    }

    pub(crate) async fn what_was_written_is_read_until_it_is_removed<R>(registry: &R, [one, _]: Targets<R>)
    where
        R: SharedAttributeRegistry<Record: AsRef<[u8]>>,
    {
        assert_eq!(read(registry, &one, "color").await, None);
        assert!(!registry.remove(&one, "color").await.unwrap());
        for color in ["green", "green", "red"] {
            registry.write(&one, "color", color.into()).await.unwrap();
            assert_eq!(read(registry, &one, "color").await, Some(color.into()));
        }
        assert!(registry.remove(&one, "color").await.unwrap());
        assert!(!registry.remove(&one, "color").await.unwrap());
        assert_eq!(read(registry, &one, "color").await, None);
        assert_eq!(list(registry, &one).await, []);
    }

    pub(crate) async fn targets_do_not_mix<R>(registry: &R, [one, two]: Targets<R>)
    where
        R: SharedAttributeRegistry<Record: AsRef<[u8]>>,
    {
        registry.write(&one, "color", b"green".to_vec()).await.unwrap();
        assert_eq!(read(registry, &two, "color").await, None);
        registry.write(&two, "color", b"red".to_vec()).await.unwrap();
        assert!(registry.remove(&one, "color").await.unwrap());
        assert_eq!(list(registry, &two).await, [("color".to_owned(), b"red".to_vec())]);
    }

    pub(crate) async fn a_list_is_in_the_order_of_names<R>(registry: &R, [one, _]: Targets<R>)
    where
        R: SharedAttributeRegistry<Record: AsRef<[u8]>>,
    {
        let names = ["b", "a/b", "a", "a.b", "c", "B"];
        for name in names {
            registry.write(&one, name, name.into()).await.unwrap();
        }
        let mut expected: Vec<_> = names.map(|name| (name.to_owned(), name.as_bytes().to_vec())).into();
        expected.sort();
        assert_eq!(list(registry, &one).await, expected);
    }

    pub(crate) async fn values_are_any_bytes_up_to_the_limit<R>(registry: &R, [one, _]: Targets<R>)
    where
        R: SharedAttributeRegistry<Record: AsRef<[u8]>>,
    {
        for value in [Vec::new(), (0..=255).collect(), vec![7; Value::MAX_LEN]] {
            registry.write(&one, "value", value.clone()).await.unwrap();
            assert_eq!(read(registry, &one, "value").await, Some(value));
        }
    }

    pub(crate) async fn what_is_not_legal_is_refused_and_changes_nothing<R>(
        registry: &R,
        [one, _]: Targets<R>,
    ) where
        R: SharedAttributeRegistry<Record: AsRef<[u8]>>,
    {
        registry.write(&one, "value", b"kept".to_vec()).await.unwrap();
        registry.write(&one, "value", vec![7; Value::MAX_LEN + 1]).await.unwrap_err();
        for name in ["", "a b", "ä", "/a", "a/../b", &"n".repeat(129)] {
            registry.write(&one, name, Vec::new()).await.unwrap_err();
        }
        registry.write(&one, &"n".repeat(128), Vec::new()).await.unwrap();
        assert!(registry.remove(&one, &"n".repeat(128)).await.unwrap());
        assert_eq!(list(registry, &one).await, [("value".to_owned(), b"kept".to_vec())]);
    }
}
