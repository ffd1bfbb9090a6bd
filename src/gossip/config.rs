//! What can be chosen about the protocol, and what too much and too little of it cost.

use std::time::Duration;

use crate::replica::Address;

/// Whether a write waits for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Writes take effect at once; a restart begins with nothing and learns the state from its peers.
    Memory,
    /// Writes take effect when the shell has confirmed [`Output::Persist`](super::Output::Persist).
    Disk,
}

/// The settings of a [`Mesh`](super::Mesh).
///
/// The default suits anything from one machine to a continent; all nodes of a mesh should agree on the
/// intervals within a factor of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What people call this node; need not be unique.
    pub label: String,
    /// Where others reach this node. Empty: it cannot be dialled and dials all others itself.
    pub addresses: Vec<Address>,
    /// Where to look for the mesh. Probed for ever, so that two halves that were seeded apart find each other.
    pub seeds: Vec<Address>,
    /// Whether a write waits for a disk.
    pub durability: Durability,
    /// How far a peer may push this node's clock ahead of its wall clock. Too small flags healthy peers; too
    /// large lets one wrong clock win every concurrent write for that long.
    pub max_drift: Duration,
    /// How often each link says that it lives. Too short is idle traffic, too long is late detection.
    pub heartbeat_interval: Duration,
    /// How long a link may be silent before it is given up: a few heartbeats.
    pub link_timeout: Duration,
    /// How long a node may be out of reach before it is suspect; half as long, if it had said nothing new for ten seconds.
    pub suspect_after: Duration,
    /// How long a node may be out of reach before it is down and its tunnels are no longer offered.
    pub down_after: Duration,
    /// How long a node that lost most of its links within `link_timeout` takes the fault for its own and suspects nobody.
    pub self_blame: Duration,
    /// How long changes of the context gather before they are told on a link; 20 ms in a full mesh if others than their
    /// authors brought them.
    pub announce_interval: Duration,
    /// How long to wait for a linked author's own push before asking another peer for its writes.
    pub want_after: Duration,
    /// How long to wait for what was asked for before asking somebody else.
    pub want_timeout: Duration,
    /// How long two linked nodes may disagree before they tell each other their whole contexts again.
    pub audit_after: Duration,
    /// How long changes of this node's own record gather before it is published.
    pub record_delay: Duration,
    /// The first pause between two attempts to reach a node; doubles with each, with full jitter.
    pub dial_backoff: Duration,
    /// The longest pause between two attempts.
    pub max_dial_backoff: Duration,
    /// How much longer the node with the greater id waits before it dials, so that mostly one of two does.
    pub dial_courtesy: Duration,
    /// How often a seed is called although its node is linked, to see who answers there: behind one name may be
    /// several nodes. In a mesh too large for a full one, proportionally more rarely. While the same node answers, the
    /// pauses double, up to 4 minutes; up to 16 at an IP address that the node there says is its own.
    pub seed_interval: Duration,
    /// How long a node that is down is called: after that it has to call, as everybody who starts does.
    pub forget_after: Duration,
    /// How much longer a node that has just joined may be out of reach before it is suspect: its neighbours have
    /// to find each other and say so.
    pub join_grace: Duration,
    /// Up to how many nodes each is linked with every other. Beyond it each has some ten links, and writes are
    /// passed on along trees.
    pub full_mesh: usize,
    /// How long a link that neither end wants any more is kept.
    pub surplus_after: Duration,
    /// How often removals that may go are looked for.
    pub collect_interval: Duration,
    /// How long a removal is remembered that not every member is known to have seen. Too short, and members that
    /// were away for longer have to compare their whole state with a peer's; too long is memory.
    pub collect_after: Duration,
    /// How long a node may be down before it is evicted: nobody waits for it any more, its registrations and its record go,
    /// and what it had written stays. Too short, and a node that comes back has to compare its whole state; too long
    /// is memory. `None`: this node testifies of nobody, of itself neither, and heeds what others testify.
    pub evict_after: Option<Duration>,
    /// How long a peer may take for a step of a comparison before another is asked.
    pub reconcile_timeout: Duration,
    /// About how many bytes of state go into one frame.
    pub delta_budget: usize,
    /// How many bytes of attributes, counters and sets this node writes per second over long, keys and 64 bytes for each
    /// write included; above it writers are told [`Busy`](crate::replica::WriteError::Busy). Too low refuses what the
    /// mesh could carry; too high lets one writer keep all nodes busy. What a node says of itself and of its
    /// tunnels is never refused.
    pub write_rate: u64,
    /// How many bytes it may write at once after a rest.
    pub write_burst: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            label: String::new(),
            addresses: Vec::new(),
            seeds: Vec::new(),
            durability: Durability::Memory,
            max_drift: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(1),
            link_timeout: Duration::from_millis(3_200),
            suspect_after: Duration::from_millis(500),
            down_after: Duration::from_secs(5),
            self_blame: Duration::from_secs(3),
            announce_interval: Duration::from_millis(500),
            want_after: Duration::from_millis(300),
            want_timeout: Duration::from_secs(2),
            audit_after: Duration::from_secs(5),
            record_delay: Duration::from_millis(200),
            dial_backoff: Duration::from_millis(250),
            max_dial_backoff: Duration::from_secs(8),
            dial_courtesy: Duration::from_millis(1_500),
            seed_interval: Duration::from_secs(30),
            forget_after: Duration::from_secs(600),
            join_grace: Duration::from_secs(5),
            full_mesh: 48,
            surplus_after: Duration::from_secs(5),
            collect_interval: Duration::from_secs(10),
            collect_after: Duration::from_secs(3_600),
            evict_after: Some(Duration::from_secs(72 * 3_600)),
            reconcile_timeout: Duration::from_secs(10),
            delta_budget: 64 * 1024,
            write_rate: 16 * 1024 * 1024,
            write_burst: 64 * 1024 * 1024,
        }
    }
}

impl Config {
    /// Says whether the settings can work together.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first one that cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let intervals = [
            ("heartbeat_interval", self.heartbeat_interval),
            ("announce_interval", self.announce_interval),
            ("want_timeout", self.want_timeout),
            ("dial_backoff", self.dial_backoff),
            ("seed_interval", self.seed_interval),
            ("collect_interval", self.collect_interval),
            ("reconcile_timeout", self.reconcile_timeout),
        ];
        if let Some((name, _)) = intervals.iter().find(|(_, interval)| interval.is_zero()) {
            return Err(ConfigError::Zero { name });
        }
        if self.link_timeout < 2 * self.heartbeat_interval {
            return Err(ConfigError::LinkTimeout);
        }
        if self.down_after < self.suspect_after {
            return Err(ConfigError::DownBeforeSuspect);
        }
        if self.delta_budget == 0 || self.delta_budget > Self::MAX_DELTA_BUDGET {
            return Err(ConfigError::DeltaBudget);
        }
        if self.write_rate == 0 || self.write_burst == 0 {
            return Err(ConfigError::WriteRate);
        }
        Ok(())
    }

    /// The largest `delta_budget`: with one more value of full size, a frame still fits the protocol's limit.
    pub const MAX_DELTA_BUDGET: usize = 512 * 1024;
}

/// Settings that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An interval is zero.
    #[error("{name} must not be zero")]
    Zero {
        /// Which one.
        name: &'static str,
    },
    /// A link would be given up between two heartbeats.
    #[error("link_timeout must be at least twice the heartbeat_interval")]
    LinkTimeout,
    /// A node would be down before it is suspect.
    #[error("down_after must not be shorter than suspect_after")]
    DownBeforeSuspect,
    /// A frame would be empty or too large.
    #[error("delta_budget must be from 1 to {}", Config::MAX_DELTA_BUDGET)]
    DeltaBudget,
    /// Nothing could ever be written.
    #[error("write_rate and write_burst must not be zero")]
    WriteRate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_each_rule_bites() {
        assert_eq!(Config::default().validate(), Ok(()));
        let second = Duration::from_secs(1);
        let zero = Config { want_timeout: Duration::ZERO, ..Config::default() };
        assert_eq!(zero.validate(), Err(ConfigError::Zero { name: "want_timeout" }));
        let hasty = Config { link_timeout: second, heartbeat_interval: second, ..Config::default() };
        assert_eq!(hasty.validate(), Err(ConfigError::LinkTimeout));
        let inverted = Config { down_after: second, suspect_after: 2 * second, ..Config::default() };
        assert_eq!(inverted.validate(), Err(ConfigError::DownBeforeSuspect));
        let huge = Config { delta_budget: Config::MAX_DELTA_BUDGET + 1, ..Config::default() };
        assert_eq!(huge.validate(), Err(ConfigError::DeltaBudget));
        for mute in
            [Config { write_rate: 0, ..Config::default() }, Config { write_burst: 0, ..Config::default() }]
        {
            assert_eq!(mute.validate(), Err(ConfigError::WriteRate));
        }
    }
}
