//! A registry that remembers what another one says, in a third.

mod table;

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::table::{Fact, Next, Table};
use super::{Registration, TunnelRegistry};
use crate::daemon::Dropkick;
use crate::id::TunnelName;

/// How long a cache believes what it was told, and how much of it it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// How long a registration is believed. Long saves questions, and finds tunnels that have gone meanwhile elsewhere.
    pub ttl: Duration,
    /// How long it is believed that there is no registration. Long saves questions, and misses new tunnels.
    pub negative_ttl: Duration,
    /// Of how many names something is kept; beyond it what expires next goes first.
    pub max_names: NonZeroUsize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            negative_ttl: Duration::from_secs(1),
            max_names: const { NonZeroUsize::new(10_000).expect("not zero") },
        }
    }
}

/// Asks a `source`, and keeps its answers in a `cache` for a while: what was found and what was not.
///
/// - **Write-through.** A registration counts when the source has it; then the cache has it too. Whatever this registry
///   writes it reads from then on.
/// - **Single flight.** However many ask for a name at a time, the source is asked once.
/// - **It cleans up.** What it has put into the cache it takes out again, exactly that, when the time is up, when it is
///   overtaken, by [`close`](Self::close), or soon after the last handle has gone. The cache may hold what others put
///   there; that is neither believed nor touched.
///
/// A cache that fails costs a question to the source and nothing else. Clones are handles of the same registry. Must be
/// used in a runtime.
///
/// ```
/// use snomesh::registry::{CacheConfig, CacheTunnelRegistry, InMemoryTunnelRegistry, TunnelRegistry};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let source = InMemoryTunnelRegistry::new(); // for instance one that is far away
/// let cached = CacheTunnelRegistry::new(InMemoryTunnelRegistry::new(), source, CacheConfig::default());
/// assert!(cached.lookup(&"web".parse().unwrap()).await.unwrap().is_none());
/// cached.close().await;
/// # });
/// ```
pub struct CacheTunnelRegistry<C: TunnelRegistry, S: TunnelRegistry> {
    inner: Arc<Inner<C, S>>,
    /// Goes with the last handle, and has the cache emptied.
    used: Arc<DropGuard>,
}

type Answer<S> = Result<Option<Registration>, CacheRegistryError<<S as TunnelRegistry>::Error>>;

struct Inner<C: TunnelRegistry, S: TunnelRegistry> {
    cache: C,
    source: S,
    config: CacheConfig,
    table: Mutex<Table<C::Identifier, Answer<S>>>,
    tasks: TaskTracker,
    /// Cancelled when nobody uses the registry any more.
    unused: CancellationToken,
}

/// Names one registration of a [`CacheTunnelRegistry`].
#[derive(Debug, Clone)]
pub struct CacheIdentifier<I> {
    name: TunnelName,
    source: I,
}

/// The source did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheRegistryError<E> {
    /// As its own error says, which all who asked at the same time share.
    #[error(transparent)]
    Source(Arc<E>),
    /// It panicked, which is its own bug.
    #[error("the registry broke down")]
    Broken,
}

impl<E> Clone for CacheRegistryError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Source(error) => Self::Source(Arc::clone(error)),
            Self::Broken => Self::Broken,
        }
    }
}

impl<C: TunnelRegistry, S: TunnelRegistry> Clone for CacheTunnelRegistry<C, S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), used: Arc::clone(&self.used) }
    }
}

impl<C: TunnelRegistry, S: TunnelRegistry> fmt::Debug for CacheTunnelRegistry<C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheTunnelRegistry").field("names", &self.len()).finish_non_exhaustive()
    }
}

impl<C, S> CacheTunnelRegistry<C, S>
where
    C: TunnelRegistry<Record: Into<Registration>>,
    S: TunnelRegistry<Record: Into<Registration>>,
{
    /// Keeps in `cache` what `source` says.
    pub fn new(cache: C, source: S, config: CacheConfig) -> Self {
        let (tasks, unused) = (TaskTracker::new(), CancellationToken::new());
        let used = Arc::new(unused.clone().drop_guard());
        let table = Mutex::new(Table::default());
        Self { inner: Arc::new(Inner { cache, source, config, table, tasks, unused }), used }
    }

    /// Takes everything out of the cache that this registry put there, and waits until it is out. What is asked or
    /// written afterwards goes to the source and is not kept.
    pub async fn close(&self) {
        self.inner.unused.cancel();
        self.inner.clear().await;
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        // What was on its way meanwhile.
        self.inner.clear().await;
    }
}

impl<C: TunnelRegistry, S: TunnelRegistry> CacheTunnelRegistry<C, S> {
    /// Of how many names something is kept.
    pub fn len(&self) -> usize {
        self.inner.table().len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<C: TunnelRegistry, S: TunnelRegistry> Inner<C, S> {
    fn table(&self) -> MutexGuard<'_, Table<C::Identifier, Answer<S>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what this registry has put there out of the cache again.
    async fn take_out(&self, gone: impl IntoIterator<Item = C::Identifier>) {
        for identifier in gone {
            if let Err(error) = self.cache.deregister_identifier(identifier).await {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "not taken out of the cache");
            }
        }
    }

    async fn clear(&self) {
        let gone = self.table().expire(Instant::now(), 0);
        self.take_out(gone).await;
    }
}

impl<C, S> Inner<C, S>
where
    C: TunnelRegistry<Record: Into<Registration>>,
    S: TunnelRegistry<Record: Into<Registration>>,
{
    /// Asks the source and tells all who wait, whether or not somebody still does.
    async fn fetch(self: Arc<Self>, name: TunnelName, epoch: u64, answer: watch::Sender<Option<Answer<S>>>) {
        let landed = Dropkick::new(|| self.table().land(&name, epoch));
        let found = self.source.lookup(&name).await.map(|record| record.map(Into::into));
        let found = found.map_err(|error| CacheRegistryError::Source(Arc::new(error)));
        if let Ok(found) = &found {
            self.fill(&name, epoch, found.as_ref()).await;
        }
        drop(landed);
        answer.send_replace(Some(found));
    }

    /// Keeps what the source said, unless somebody wrote meanwhile.
    async fn fill(self: &Arc<Self>, name: &TunnelName, epoch: u64, found: Option<&Registration>) {
        if self.unused.is_cancelled() {
            return;
        }
        let Some((fact, expires)) = self.put(found).await else { return };
        let gone = self.table().keep(name, epoch, fact, expires);
        self.take_out(gone).await;
        self.sweep();
    }

    /// Puts into the cache what the source has.
    async fn put(&self, found: Option<&Registration>) -> Option<(Fact<C::Identifier>, Instant)> {
        let now = Instant::now();
        let Some(registration) = found else {
            return Some((Fact::Absent, now + self.config.negative_ttl));
        };
        let tunnel = registration.tunnel;
        match self.cache.register(registration.clone()).await {
            Ok(identifier) => Some((Fact::Filled { identifier, tunnel }, now + self.config.ttl)),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "not kept in the cache");
                None
            }
        }
    }

    /// Sees to it that what expires is taken out, whether or not anybody asks for it.
    fn sweep(self: &Arc<Self>) {
        if std::mem::replace(&mut self.table().swept, true) {
            return;
        }
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                let unused = inner.unused.is_cancelled();
                let max = if unused { 0 } else { inner.config.max_names.get() };
                let (gone, next) = {
                    let mut table = inner.table();
                    let gone = table.expire(Instant::now(), max);
                    let next = table.next_expiry();
                    table.swept = next.is_some();
                    (gone, next)
                };
                inner.take_out(gone).await;
                let Some(next) = next else { return };
                // When it is unused it comes round once more, and finds nothing to wait for.
                let _woken = inner.unused.run_until_cancelled(sleep_until(next)).await;
            }
        });
    }

    /// Lets go at once of what is too much.
    async fn trim(self: &Arc<Self>) {
        let gone = self.table().expire(Instant::now(), self.config.max_names.get());
        self.take_out(gone).await;
    }

    /// Writes to the source in an epoch of its own. What the write made of the name is kept.
    async fn write<T>(
        self: &Arc<Self>,
        name: &TunnelName,
        write: impl Future<Output = Result<T, S::Error>>,
        made: Option<&Registration>,
    ) -> Result<T, CacheRegistryError<S::Error>> {
        let (epoch, gone) = self.table().begin_write(name);
        // Also if the caller gives up: who comes next asks the source.
        let unfinished = Dropkick::new(|| {
            let gone = self.table().end_write(name, epoch, None);
            let inner = Arc::clone(self);
            self.tasks.spawn(async move { inner.take_out(gone).await });
        });
        self.take_out(gone).await;
        let written = write.await.map_err(|error| CacheRegistryError::Source(Arc::new(error)))?;
        let (inner, name, made) = (Arc::clone(self), name.clone(), made.cloned());
        unfinished.disarm();
        // In a task of its own, so that nothing stays in the cache if the caller gives up now.
        let keeping = self.tasks.spawn(async move {
            let made = match &made {
                Some(made) if !inner.unused.is_cancelled() => inner.put(Some(made)).await,
                _ => None,
            };
            let gone = inner.table().end_write(&name, epoch, made);
            inner.take_out(gone).await;
            inner.trim().await;
            if inner.table().next_expiry().is_some() {
                inner.sweep();
            }
        });
        keeping.await.ok().ok_or(CacheRegistryError::Broken)?;
        Ok(written)
    }
}

impl<C, S> TunnelRegistry for CacheTunnelRegistry<C, S>
where
    C: TunnelRegistry<Record: Into<Registration>>,
    S: TunnelRegistry<Record: Into<Registration>>,
{
    type Identifier = CacheIdentifier<S::Identifier>;
    type Record = Registration;
    type Error = CacheRegistryError<S::Error>;

    async fn lookup(&self, name: &TunnelName) -> Answer<S> {
        let inner = &self.inner;
        loop {
            let next = inner.table().ask(name, Instant::now());
            let mut wait = match next {
                Next::Known(Fact::Absent) => return Ok(None),
                Next::Known(Fact::Filled { tunnel, .. }) => {
                    let kept = inner.cache.lookup(name).await.ok().flatten().map(Into::into);
                    // Others may have put something there too, or have taken this away.
                    match kept.filter(|kept: &Registration| kept.tunnel == tunnel) {
                        Some(kept) => return Ok(Some(kept)),
                        None => {
                            let gone = inner.table().forget(name, tunnel);
                            inner.take_out(gone).await;
                            continue;
                        }
                    }
                }
                Next::Wait(wait) => wait,
                Next::Ask { epoch, answer, wait } => {
                    let asking = Arc::clone(inner).fetch(name.clone(), epoch, answer);
                    let trimming = Arc::clone(inner);
                    inner.tasks.spawn(async move {
                        asking.await;
                        trimming.trim().await;
                    });
                    wait
                }
            };
            let answered = wait.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
            return answered.unwrap_or(Err(CacheRegistryError::Broken));
        }
    }

    async fn register(&self, registration: Registration) -> Result<Self::Identifier, Self::Error> {
        let name = registration.name.clone();
        let write = self.inner.source.register(registration.clone());
        let source = self.inner.write(&name, write, Some(&registration)).await?;
        Ok(CacheIdentifier { name, source })
    }

    async fn deregister_identifier(
        &self,
        identifier: Self::Identifier,
    ) -> Result<Option<Registration>, Self::Error> {
        let CacheIdentifier { name, source } = identifier;
        let write = self.inner.source.deregister_identifier(source);
        Ok(self.inner.write(&name, write, None).await?.map(Into::into))
    }
}

#[cfg(test)]
mod tests;
