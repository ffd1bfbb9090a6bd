//! Tunnels in Redis: a server, or a cluster, that several daemons share.
//!
//! ```text
//! {prefix}tunnel:{<name>}     a hash: identifier ⇒ "<end of lease, ms> <order> <record>"
//! ```
//!
//! All that is known of a name is in one key, whose hash tag keeps it in one slot of a cluster; every command is one
//! script on that key, and none walks the key space. Times are the server's.
//!
//! Redis is a place for claims, and what it says is judged like what a hostile peer says: a value is used only if it is
//! a record of that very name within the limits.

mod config;
mod connection;
mod held;
mod record;

#[cfg(test)]
#[cfg(feature = "integration-redis")]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{RedisError, Value};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connection::Connection;
use self::held::{Claim, Held};
use self::record::MAX_RECORD;
use super::{Registration, TunnelRegistry};
use crate::id::TunnelName;

pub use config::{RedisConfig, RedisConfigError, RedisTls, RedisTopology};

/// How many of a name's registrations a lookup looks at, the last named first, to find one that is legal.
const MAX_CANDIDATES: usize = 8;

/// How many registrations are renewed at a time.
const RENEWALS: usize = 64;

/// The clock of the server, and what the fields of a name's hash mean: `end order record`. The order is the time of
/// naming in µs, or one more than the last. What lies more than a day ahead is no claim: it would outlast all leases,
/// or leave no number for those who come later.
const PRELUDE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function read(field)
  local ends, order, record = string.match(field, '^(%d+) (%d+) (.*)$')
  ends, order = tonumber(ends), tonumber(order)
  if not ends or ends <= now or ends > now + 86400000 or order > (now + 86400000) * 1000 then return nil end
  return ends, order, record
end
";

/// `KEYS` name; `ARGV` identifier, lease in ms, order or 0 for a new one, record. Gives the order.
const REGISTER: &str = r"
local order = tonumber(ARGV[3])
local latest, last = now + ARGV[2], 0
local fields = redis.call('HGETALL', KEYS[1])
for at = 1, #fields, 2 do
  local ends, order = read(fields[at + 1])
  if not ends then
    redis.call('HDEL', KEYS[1], fields[at])
  else
    latest, last = math.max(latest, ends), math.max(last, order)
  end
end
if order == 0 then order = math.max(time[1] * 1000000 + time[2], last + 1) end
local head = string.format('%.0f %.0f ', now + ARGV[2], order)
redis.call('HSET', KEYS[1], ARGV[1], head .. ARGV[4])
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', latest))
return order
";

/// `KEYS` name; `ARGV` longest record, how many. Gives the records, the last named first.
const LOOKUP: &str = r"
local found = {}
local fields = redis.call('HGETALL', KEYS[1])
for at = 1, #fields, 2 do
  local ends, order, record = read(fields[at + 1])
  if ends and #record <= tonumber(ARGV[1]) then table.insert(found, {order, record}) end
end
table.sort(found, function(one, other) return one[1] > other[1] end)
local records = {}
for at = 1, math.min(#found, tonumber(ARGV[2])) do records[at] = found[at][2] end
return records
";

/// `KEYS` name; `ARGV` identifier, longest record. Gives the record, if there was one.
const DEREGISTER: &str = r"
local field = redis.call('HGET', KEYS[1], ARGV[1])
if not field then return false end
redis.call('HDEL', KEYS[1], ARGV[1])
local ends, order, record = read(field)
if not ends or #record > tonumber(ARGV[2]) then return false end
return record
";

/// A tunnel registry in Redis (feature `redis-store`): a single server, also over TLS, or a Redis Cluster.
///
/// - **The last named wins**, and when it goes, the one before re-appears.
/// - **Leases.** A registration ends by itself when its holder has not renewed it for [`RedisConfig::lease`]; holders
///   renew three times as often. What a crashed process had registered is gone after that.
/// - **A restarted or emptied server** gets all registrations again with the next renewal, in the order in which they
///   were made. While it is away, lookups and registrations fail; nothing else depends on it.
/// - **Exact.** Deregistering touches the one registration that this registry has made under that identifier.
///
/// Clones are handles of the same registry; with the last one renewing ends, and the leases run out. To deregister at
/// once call [`close`](Self::close).
///
/// ```no_run
/// use snomesh::registry::redis::{RedisConfig, RedisTunnelRegistry};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let config = RedisConfig::server("rediss://registry.example.com:6380");
/// let registry = RedisTunnelRegistry::connect(&config).await?;
/// # registry.close().await?; Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisTunnelRegistry {
    inner: Arc<Inner>,
    /// Goes with the last handle, and ends the renewing.
    _used: Arc<DropGuard>,
}

struct Inner {
    connection: Connection,
    prefix: String,
    holder: Option<crate::id::NodeId>,
    lease: Duration,
    held: Held,
    tasks: TaskTracker,
    unused: CancellationToken,
}

/// Names one registration of a [`RedisTunnelRegistry`]: 128 bits that nobody can guess.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RedisIdentifier {
    name: TunnelName,
    id: [u8; 16],
}

impl RedisIdentifier {
    fn new(name: TunnelName) -> Self {
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).expect("the system has randomness once it has booted");
        Self { name, id }
    }

    fn field(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.id)
    }
}

/// Without the number, which is what keeps others from deregistering it.
impl fmt::Debug for RedisIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisIdentifier").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Redis did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisRegistryError {
    /// The server cannot be reached, is too slow, or refuses. What was written may have been written all the same; then
    /// it ends with its lease.
    #[error("the Redis server does not do it")]
    Server(#[from] RedisError),
    /// What the tunnel's peer tells of itself is too long: the caller's fault, nothing was registered.
    #[error("a registration of {len} bytes is too long, at most {MAX_RECORD} are allowed")]
    TooLong {
        /// Its length, encoded.
        len: usize,
    },
    /// There are values for that name, and none of them is legal: somebody else writes under this prefix. Nothing of
    /// them was used; the holder's next renewal puts its own right.
    #[error("nothing that the Redis server has for this name is a registration")]
    Poisoned,
}

impl fmt::Debug for RedisTunnelRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTunnelRegistry").field("held", &self.inner.held.len()).finish_non_exhaustive()
    }
}

impl RedisTunnelRegistry {
    /// Connects, and keeps reconnecting from then on. Must be called in a runtime.
    ///
    /// # Errors
    ///
    /// [`RedisConfigError`] if a setting is not legal, a file cannot be read, or nobody answers.
    pub async fn connect(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        let config = config.validate()?;
        let (tasks, unused) = (TaskTracker::new(), CancellationToken::new());
        let inner = Arc::new(Inner {
            connection: Connection::open(config).await?,
            prefix: config.prefix.clone(),
            holder: config.holder,
            lease: config.lease,
            held: Held::default(),
            tasks: tasks.clone(),
            unused: unused.clone(),
        });
        let renewing = Arc::clone(&inner);
        tasks.spawn(
            async move { renewing.unused.clone().run_until_cancelled(renewing.keep_renewing()).await },
        );
        Ok(Self { inner, _used: Arc::new(unused.drop_guard()) })
    }

    /// Ends the renewing and deregisters everything that this registry holds.
    ///
    /// # Errors
    ///
    /// [`RedisRegistryError`] of the first registration that could not be taken back; what is left ends with its lease.
    pub async fn close(&self) -> Result<(), RedisRegistryError> {
        self.inner.unused.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        let mut outcome = Ok(());
        for identifier in self.inner.held.all() {
            let removed = self.deregister_identifier(identifier).await;
            outcome = outcome.and_then(|()| removed.map(drop));
        }
        outcome
    }
}

impl Inner {
    fn key(&self, name: &TunnelName) -> String {
        format!("{}tunnel:{{{name}}}", self.prefix)
    }

    /// Runs a script on the key of a name.
    async fn run(&self, script: &str, name: &TunnelName, args: &[&[u8]]) -> Result<Value, RedisError> {
        let mut command = ::redis::cmd("EVAL");
        command.arg(format!("{PRELUDE}{script}")).arg(1).arg(self.key(name));
        for arg in args {
            command.arg(*arg);
        }
        self.connection.query(&command).await
    }

    /// Writes a claim, new or again, and gives its order.
    async fn put(&self, identifier: &RedisIdentifier, claim: &Claim) -> Result<u64, RedisError> {
        let (lease, order) = (self.lease.as_millis().to_string(), claim.order.to_string());
        let (field, record) = (identifier.field(), &claim.record);
        let args = [field.as_bytes(), lease.as_bytes(), order.as_bytes(), record];
        ::redis::from_redis_value(self.run(REGISTER, &identifier.name, &args).await?)
            .map_err(RedisError::from)
    }

    async fn keep_renewing(self: &Arc<Self>) {
        let (interval, retry) = (self.lease / 3, self.lease / 10);
        let mut wait = interval;
        let mut failing = false;
        loop {
            sleep(wait).await;
            match self.renew().await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("registrations in Redis renewed again");
                    }
                    wait = interval;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(error, "registrations in Redis not renewed; trying again");
                    }
                    wait = retry;
                }
            }
        }
    }

    /// Renews all claims, and gives the first failure.
    async fn renew(self: &Arc<Self>) -> Result<(), RedisError> {
        let mut outcome = Ok(());
        let mut claims = self.held.all().into_iter();
        let mut renewing = JoinSet::new();
        loop {
            while renewing.len() < RENEWALS
                && let Some(identifier) = claims.next()
            {
                let inner = Arc::clone(self);
                renewing.spawn(async move {
                    let Some(claim) = inner.held.lock(&identifier).await else { return Ok(()) };
                    inner.put(&identifier, &claim).await.map(drop)
                });
            }
            match renewing.join_next().await {
                Some(Ok(renewed)) => outcome = outcome.and(renewed),
                // A panic is a bug of ours, and costs this one renewal.
                Some(Err(_panicked)) => {}
                None => return outcome,
            }
        }
    }
}

impl TunnelRegistry for RedisTunnelRegistry {
    type Identifier = RedisIdentifier;
    type Record = Registration;
    type Error = RedisRegistryError;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<Registration>, RedisRegistryError> {
        let (longest, many) = (MAX_RECORD.to_string(), MAX_CANDIDATES.to_string());
        let found = self.inner.run(LOOKUP, name, &[longest.as_bytes(), many.as_bytes()]).await?;
        let records: Vec<Vec<u8>> = ::redis::from_redis_value(found).map_err(RedisError::from)?;
        for record in &records {
            match record::decode(record, name) {
                Ok(registration) => return Ok(Some(registration)),
                Err(error) => tracing::warn!(%name, %error, "a value in Redis is no registration"),
            }
        }
        if records.is_empty() { Ok(None) } else { Err(RedisRegistryError::Poisoned) }
    }

    async fn register(&self, mut registration: Registration) -> Result<RedisIdentifier, RedisRegistryError> {
        registration.holder = registration.holder.or(self.inner.holder);
        let record = record::encode(&registration);
        if record.len() > MAX_RECORD {
            return Err(RedisRegistryError::TooLong { len: record.len() });
        }
        let identifier = RedisIdentifier::new(registration.name);
        let mut claim = Claim { order: 0, record };
        claim.order = self.inner.put(&identifier, &claim).await?;
        self.inner.held.insert(identifier.clone(), claim);
        Ok(identifier)
    }

    async fn deregister_identifier(
        &self,
        identifier: RedisIdentifier,
    ) -> Result<Option<Registration>, RedisRegistryError> {
        // From here on it is not renewed, whatever comes of the rest.
        let Some(_claim) = self.inner.held.remove(&identifier).await else { return Ok(None) };
        let (field, longest) = (identifier.field(), MAX_RECORD.to_string());
        let args = [field.as_bytes(), longest.as_bytes()];
        let removed = self.inner.run(DEREGISTER, &identifier.name, &args).await?;
        let record: Option<Vec<u8>> = ::redis::from_redis_value(removed).map_err(RedisError::from)?;
        Ok(record.and_then(|record| record::decode(&record, &identifier.name).ok()))
    }
}
