//! Caches over sources that can be watched, held up and broken.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::super::conformance::{found, join_all, registration, tunnel_suite};
use super::super::{InMemoryTunnelRegistry, MemoryIdentifier};
use super::*;

/// A registry that counts what it is asked, waits to be let go, and fails when told to.
#[derive(Debug)]
struct Watched {
    registry: InMemoryTunnelRegistry,
    lookups: AtomicUsize,
    gate: Semaphore,
    fails: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("on purpose")]
struct OnPurpose;

impl Watched {
    fn new() -> Arc<Self> {
        let (registry, gate) = (InMemoryTunnelRegistry::new(), Semaphore::new(Semaphore::MAX_PERMITS));
        Arc::new(Self { registry, lookups: 0.into(), gate, fails: false.into() })
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), OnPurpose> {
        if self.fails.load(Ordering::Relaxed) { Err(OnPurpose) } else { Ok(()) }
    }
}

impl TunnelRegistry for Watched {
    type Identifier = MemoryIdentifier;
    type Record = Registration;
    type Error = OnPurpose;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<Registration>, OnPurpose> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        // What is said is what was so before the answer was held up.
        let found = self.registry.lookup(name).await.unwrap();
        self.gate.acquire().await.unwrap().forget();
        self.gate.add_permits(1);
        self.check()?;
        Ok(found)
    }

    async fn register(&self, registration: Registration) -> Result<MemoryIdentifier, OnPurpose> {
        self.check()?;
        Ok(self.registry.register(registration).await.unwrap())
    }

    async fn deregister_identifier(
        &self,
        identifier: MemoryIdentifier,
    ) -> Result<Option<Registration>, OnPurpose> {
        self.check()?;
        Ok(self.registry.deregister_identifier(identifier).await.unwrap())
    }
}

type Cache = CacheTunnelRegistry<Arc<Watched>, Arc<Watched>>;

/// A cache, what it fills and what it asks.
fn cached(config: CacheConfig) -> (Cache, Arc<Watched>, Arc<Watched>) {
    let (cache, source) = (Watched::new(), Watched::new());
    (CacheTunnelRegistry::new(Arc::clone(&cache), Arc::clone(&source), config), cache, source)
}

fn same(record: &Registration) -> Registration {
    record.clone()
}

fn web() -> TunnelName {
    "web".parse().unwrap()
}

fn hold_up(source: &Watched) {
    source.gate.forget_permits(Semaphore::MAX_PERMITS);
}

fn let_go(source: &Watched) {
    source.gate.add_permits(1);
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

tunnel_suite!(as_any_tunnel_registry, async {
    let cache = InMemoryTunnelRegistry::new();
    Some((CacheTunnelRegistry::new(cache, InMemoryTunnelRegistry::new(), CacheConfig::default()), same))
});

tunnel_suite!(as_any_tunnel_registry_with_a_cache_that_keeps_nothing, async {
    let config = CacheConfig { ttl: Duration::ZERO, negative_ttl: Duration::ZERO, ..CacheConfig::default() };
    Some((
        CacheTunnelRegistry::new(InMemoryTunnelRegistry::new(), InMemoryTunnelRegistry::new(), config),
        same,
    ))
});

/// FEATURES S9.
#[tokio::test(start_paused = true)]
async fn a_found_tunnel_is_asked_for_once_until_its_time_is_up_and_then_taken_out() {
    let (registry, cache, source) = cached(CacheConfig::default());
    source.registry.register(registration("web", 1)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(found(&registry, same, &web()).await, Some(1));
    }
    assert_eq!((source.lookups(), cache.registry.len(), registry.len()), (1, 1, 1));
    tokio::time::advance(CacheConfig::default().ttl).await;
    settle().await;
    // Nobody has asked meanwhile, and yet it is gone.
    assert_eq!((cache.registry.len(), registry.len(), registry.inner.table().slots()), (0, 0, 0));
    assert_eq!(found(&registry, same, &web()).await, Some(1));
    assert_eq!(source.lookups(), 2);
}

/// FEATURES S9.
#[tokio::test(start_paused = true)]
async fn that_there_is_nothing_is_remembered_for_a_shorter_while() {
    let (registry, cache, source) = cached(CacheConfig::default());
    for _ in 0..3 {
        assert_eq!(found(&registry, same, &web()).await, None);
    }
    assert_eq!((source.lookups(), cache.registry.len()), (1, 0));
    source.registry.register(registration("web", 1)).await.unwrap();
    tokio::time::advance(CacheConfig::default().negative_ttl).await;
    assert_eq!(found(&registry, same, &web()).await, Some(1));
}

/// FEATURES S9.
#[tokio::test]
async fn what_is_written_goes_to_both_and_overrules_what_was_remembered() {
    let (registry, cache, source) = cached(CacheConfig::default());
    assert_eq!(found(&registry, same, &web()).await, None);
    let first = registry.register(registration("web", 1)).await.unwrap();
    let second = registry.register(registration("web", 2)).await.unwrap();
    assert_eq!(found(&registry, same, &web()).await, Some(2));
    assert_eq!(source.lookups(), 1, "what was written is known without asking");
    assert_eq!(cache.registry.len(), 1);
    registry.deregister_identifier(second).await.unwrap().unwrap();
    assert_eq!(found(&registry, same, &web()).await, Some(1));
    registry.deregister_identifier(first).await.unwrap().unwrap();
    assert_eq!(found(&registry, same, &web()).await, None);
    assert!(cache.registry.is_empty() && source.registry.is_empty());
}

/// FEATURES S9.
#[tokio::test]
async fn many_who_ask_at_once_ask_once_and_share_the_answer_or_the_failure() {
    let (registry, _, source) = cached(CacheConfig::default());
    source.registry.register(registration("web", 1)).await.unwrap();
    let asks = (0..50).map(|_| async { assert_eq!(found(&registry, same, &web()).await, Some(1)) });
    join_all(asks.collect()).await;
    assert_eq!(source.lookups(), 1);
    source.fails.store(true, Ordering::Relaxed);
    let db: TunnelName = "db".parse().unwrap();
    let asks = (0..50).map(|_| async {
        let error = registry.lookup(&db).await.unwrap_err();
        assert!(matches!(error, CacheRegistryError::Source(_)), "{error}");
    });
    join_all(asks.collect()).await;
    assert_eq!(source.lookups(), 2);
    source.fails.store(false, Ordering::Relaxed);
    assert_eq!(found(&registry, same, &db).await, None, "a failure is not remembered");
    assert_eq!(source.lookups(), 3);
}

/// FEATURES S9.
#[tokio::test]
async fn who_gives_up_asking_does_not_spoil_the_answer_for_others() {
    let (registry, _, source) = cached(CacheConfig::default());
    source.registry.register(registration("web", 1)).await.unwrap();
    hold_up(&source);
    let impatient = tokio::spawn({
        let registry = registry.clone();
        async move { registry.lookup(&web()).await }
    });
    settle().await;
    let patient = tokio::spawn({
        let registry = registry.clone();
        async move { found(&registry, same, &web()).await }
    });
    settle().await;
    impatient.abort();
    settle().await;
    let_go(&source);
    assert_eq!(patient.await.unwrap(), Some(1));
    assert_eq!(source.lookups(), 1);
}

/// FEATURES S9.
#[tokio::test]
async fn an_answer_that_was_overtaken_by_a_write_is_not_kept() {
    let (registry, cache, source) = cached(CacheConfig::default());
    source.registry.register(registration("web", 1)).await.unwrap();
    hold_up(&source);
    let old = tokio::spawn({
        let registry = registry.clone();
        async move { found(&registry, same, &web()).await }
    });
    settle().await;
    let second = registry.register(registration("web", 2)).await.unwrap();
    registry.deregister_identifier(second).await.unwrap().unwrap();
    registry.register(registration("web", 3)).await.unwrap();
    let_go(&source);
    assert_eq!(old.await.unwrap(), Some(1), "who asked before is told what was so then");
    assert_eq!(found(&registry, same, &web()).await, Some(3));
    assert_eq!(cache.registry.len(), 1);
    assert_eq!(source.lookups(), 1);
}

/// FEATURES S9.
#[tokio::test]
async fn what_others_put_into_the_cache_is_neither_believed_nor_touched() {
    let (registry, cache, source) = cached(CacheConfig::default());
    source.registry.register(registration("web", 1)).await.unwrap();
    assert_eq!(found(&registry, same, &web()).await, Some(1));
    cache.registry.register(registration("web", 9)).await.unwrap();
    assert_eq!(found(&registry, same, &web()).await, Some(1));
    registry.close().await;
    let left = cache.registry.lookup(&web()).await.unwrap();
    assert_eq!(left.map(|left| left.tunnel.0), Some(9));
}

/// FEATURES S9.
#[tokio::test]
async fn a_cache_that_fails_costs_a_question_and_nothing_else() {
    let (registry, cache, source) = cached(CacheConfig::default());
    cache.fails.store(true, Ordering::Relaxed);
    let identifier = registry.register(registration("web", 1)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(found(&registry, same, &web()).await, Some(1));
    }
    assert_eq!(source.lookups(), 2);
    registry.deregister_identifier(identifier).await.unwrap().unwrap();
    assert_eq!(found(&registry, same, &web()).await, None);
}

/// FEATURES S9.
#[tokio::test]
async fn a_source_that_refuses_a_write_leaves_nothing_in_the_cache() {
    let (registry, cache, source) = cached(CacheConfig::default());
    source.fails.store(true, Ordering::Relaxed);
    registry.register(registration("web", 1)).await.unwrap_err();
    source.fails.store(false, Ordering::Relaxed);
    assert_eq!(found(&registry, same, &web()).await, None);
    assert!(cache.registry.is_empty());
}

/// FEATURES S9.
#[tokio::test]
async fn it_keeps_so_many_names_and_no_more() {
    let max_names = NonZeroUsize::new(3).unwrap();
    let (registry, cache, _) = cached(CacheConfig { max_names, ..CacheConfig::default() });
    for at in 0..10 {
        registry.register(registration(&format!("t{at}"), at)).await.unwrap();
        assert_eq!(found(&registry, same, &format!("absent{at}").parse().unwrap()).await, None);
    }
    settle().await;
    assert_eq!(registry.len(), 3);
    assert!(cache.registry.len() <= 3);
    assert_eq!(registry.inner.table().slots(), 3);
}

/// FEATURES S9, S14.
#[tokio::test]
async fn the_last_handle_and_closing_take_everything_out_again() {
    let (registry, cache, _) = cached(CacheConfig::default());
    for at in 0..10 {
        registry.register(registration(&format!("t{at}"), at)).await.unwrap();
    }
    assert_eq!(cache.registry.len(), 10);
    let other = registry.clone();
    drop(registry);
    settle().await;
    assert_eq!(cache.registry.len(), 10);
    drop(other);
    settle().await;
    assert!(cache.registry.is_empty());

    let (registry, cache, source) = cached(CacheConfig::default());
    registry.register(registration("web", 1)).await.unwrap();
    registry.close().await;
    assert!(cache.registry.is_empty());
    for _ in 0..2 {
        assert_eq!(found(&registry, same, &web()).await, Some(1));
    }
    assert_eq!((cache.registry.len(), source.lookups()), (0, 2));
}
