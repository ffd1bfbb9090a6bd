//! The wall clock of a node's shell.
//!
//! The core is handed the time ([`crate::time`]); this is where the shell takes it from: the system's clock, or
//! whatever an embedder has instead, such as a disciplined clock of its own or the simulator's.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::time::UnixMillis;

/// Tells the time of day. Clones are the same clock; the default is the system's.
///
/// It may be wrong and it may jump: stamps of writes survive that, and certificates that are not valid yet by this
/// clock are refused.
#[derive(Clone)]
pub struct WallClock {
    read: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}

impl WallClock {
    /// The clock of the system. Before 1970 it stands still.
    pub fn system() -> Self {
        Self::reading(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
        })
    }

    /// A clock that is read so. It is read often, and must answer at once.
    pub fn reading(read: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read) }
    }

    /// What it shows.
    pub fn now(&self) -> UnixMillis {
        (self.read)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WallClock").field(&self.now()).finish()
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(self.now().0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_what_it_is_given_to_everybody_who_asks() {
        let clock = WallClock::reading(|| UnixMillis(1_234_567));
        assert_eq!(clock.now(), UnixMillis(1_234_567));
        assert_eq!(clock.current_time().unwrap().as_secs(), 1_234);
    }
}
