//! The settings of `snomesh up`: flags over environment over files over defaults, each with where it comes from.
//!
//! Files are TOML. What is wrong with them is said all at once, with file, line and column, and what was probably
//! meant. [`Settings`] holds what is valid; nobody sees half of it.

mod file;
mod merge;
pub(in crate::node) mod show;
pub(in crate::node) mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub(in crate::node) use file::Place;
pub(in crate::node) use merge::{Sources, default_file};

use crate::id::TunnelName;
use crate::mesh::{Destination, Policy};
use crate::node::CompatConfig;
use crate::node::forwards::Offer;
use crate::replica::Address;
use crate::service::Listen;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Fault {
    /// Where: a place in a file, or the name of a variable.
    pub(in crate::node) place: Option<String>,
    pub(in crate::node) what: String,
    pub(in crate::node) hint: Option<String>,
}

impl Fault {
    fn at(place: &Place, what: impl Into<String>) -> Self {
        Self { place: Some(place.to_string()), what: what.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) enum Origin {
    Default,
    File(Place),
    Env(&'static str),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => place.fmt(f),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag --{flag}"),
        }
    }
}

/// The texts that were chosen for a setting, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Chosen {
    pub(in crate::node) texts: Vec<String>,
    pub(in crate::node) origin: Origin,
}

/// Everything that was set, valid.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::node) struct Settings {
    pub(in crate::node) chosen: BTreeMap<&'static str, Chosen>,
    pub(in crate::node) files: Vec<PathBuf>,
    pub(in crate::node) name: String,
    pub(in crate::node) data_dir: PathBuf,
    pub(in crate::node) seeds: Vec<Address>,
    /// How long a node may be down before it is evicted. `None`: none is.
    pub(in crate::node) evict_after: Option<Duration>,
    pub(in crate::node) listen: SocketAddr,
    pub(in crate::node) advertise: Vec<Address>,
    pub(in crate::node) ca: Option<PathBuf>,
    pub(in crate::node) ca_key: Option<PathBuf>,
    pub(in crate::node) cert_ttl: Duration,
    /// Whether the state is kept in memory alone.
    pub(in crate::node) in_memory: bool,
    /// Whether entries are believed under their authors' signatures only.
    pub(in crate::node) signed: bool,
    pub(in crate::node) admin: Option<PathBuf>,
    pub(in crate::node) http: Option<SocketAddr>,
    pub(in crate::node) token_file: Option<PathBuf>,
    pub(in crate::node) compat: Option<CompatConfig>,
    pub(in crate::node) log_level: String,
    pub(in crate::node) log_format: String,
    pub(in crate::node) max_tunnels: NonZeroUsize,
    pub(in crate::node) max_tunnels_per_node: NonZeroUsize,
    pub(in crate::node) max_streams: NonZeroUsize,
    pub(in crate::node) drain_timeout: Duration,
    pub(in crate::node) tunnels: BTreeMap<TunnelName, Offer>,
    /// By where to listen, as text.
    pub(in crate::node) binds: BTreeMap<String, BindSetting>,
}

/// An entry of `[[bind]]`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::node) struct BindSetting {
    pub(in crate::node) listen: Listen,
    pub(in crate::node) destination: Destination,
    pub(in crate::node) policy: Policy,
}

impl Settings {
    /// The keys of what differs and holds only after a restart.
    pub(in crate::node) fn needs_restart(&self, new: &Self) -> Vec<String> {
        let fixed = table::SETTINGS.iter().filter(|setting| !setting.live);
        let texts = |settings: &Self, key: &str| settings.chosen.get(key).map(|chosen| chosen.texts.clone());
        let differs = fixed.filter(|setting| texts(self, setting.key) != texts(new, setting.key));
        differs.map(|setting| setting.key.to_owned()).collect()
    }
}
