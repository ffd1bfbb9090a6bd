//! `forwards.json`: what was asked for at the admin API, for the next start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::unmet::Kept;
use super::{Forwards, Keeper, Offer, State};
use crate::id::TunnelName;
use crate::mesh::{Destination, Policy, Weight};
use crate::node::api;
use crate::node::files::{self, FileError};
use crate::node::health::HealthCheck;
use crate::replica::Attributes;
use crate::service::Listen;
use crate::store;

/// The longest file of forwards that is read, in bytes: some hundred thousand of them.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// `forwards.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    exposed: Vec<SavedExposure>,
    binds: Vec<SavedBind>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedExposure {
    pub(super) name: String,
    target: String,
    attributes: BTreeMap<String, Vec<u8>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<api::HealthCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedBind {
    pub(super) listen: String,
    /// A destination; older files have names here, which are destinations too.
    tunnel: String,
    #[serde(default)]
    policy: Option<String>,
}

impl SavedExposure {
    pub(super) fn read(&self) -> Option<(TunnelName, Offer)> {
        let target = self.target.parse().ok()?;
        let health = self.health.as_ref().map(|words| HealthCheck::new(words, &target)).transpose().ok()?;
        let attributes = Attributes::new(self.attributes.clone()).ok()?;
        let weight = self.weight.map_or_else(|| Ok(Weight::default()), Weight::try_from).ok()?;
        Some((self.name.parse().ok()?, Offer { target, attributes, health, weight }))
    }
}

impl SavedBind {
    pub(super) fn read(&self) -> Option<(Listen, (Destination, Policy))> {
        let policy = self.policy.as_ref().map_or_else(|| Ok(Policy::default()), |policy| policy.parse());
        Some((self.listen.parse().ok()?, (self.tunnel.parse().ok()?, policy.ok()?)))
    }
}

impl Forwards {
    /// Reads what was asked for. It waits until [`configure`](Self::configure) makes hold whatever is to be forwarded.
    pub(in crate::node) async fn restore(&self) {
        let saved: Saved = match files::read_up_to(&self.file, MAX_FILE) {
            Ok(None) => return,
            Ok(Some(text)) => match serde_json::from_str(&text) {
                Ok(saved) => saved,
                Err(error) => return self.set_aside(&error),
            },
            Err(error) => return self.set_aside(&error),
        };
        let mut state = self.state.lock().await;
        let exposed = saved.exposed.into_iter().map(Kept::Exposure);
        for saved in exposed.chain(saved.binds.into_iter().map(Kept::Bind)) {
            state.await_taking_up(saved);
        }
    }

    /// What cannot be taken up is not written over by the next change either.
    fn set_aside(&self, error: &dyn std::error::Error) {
        match store::set_aside(&self.file) {
            Ok(aside) => {
                let aside = aside.unwrap_or_default();
                tracing::error!(%error, aside = %aside.display(), "forwards cannot be read: they are kept aside");
            }
            Err(kept) => tracing::error!(%error, %kept, "forwards cannot be read and are not taken up"),
        }
    }

    /// Saves a change, unless somebody has saved it meanwhile along with a later one: changes that come together cost one
    /// file.
    pub(super) async fn save(&self, change: u64) -> Result<(), FileError> {
        let mut saved = self.saved.lock().await;
        if *saved >= change {
            return Ok(());
        }
        let (changes, text) = {
            let state = self.state.lock().await;
            (state.changes, state.text())
        };
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || files::write(&file, &text, 0o600));
        written.await.expect("writing a file does not panic")?;
        *saved = changes;
        Ok(())
    }
}

impl State {
    /// What of it is kept in the file.
    fn text(&self) -> String {
        let ours = |keeper: Keeper| keeper == Keeper::Forwards;
        let exposed = self.exposed.iter().filter(|(_, exposure)| ours(exposure.keeper));
        let exposed = exposed.map(|(name, exposure)| SavedExposure {
            name: name.to_string(),
            target: exposure.offer.target.to_string(),
            attributes: exposure
                .offer
                .attributes
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            health: exposure.offer.health.as_ref().map(HealthCheck::words),
            weight: Some(exposure.offer.weight)
                .filter(|weight| *weight != Weight::default())
                .map(Weight::get),
        });
        let binds = self.binds.values().filter(|binding| ours(binding.keeper));
        let binds = binds.map(|binding| SavedBind {
            // A free port stays the same one after a restart; of a range it is again the lowest.
            listen: match &binding.asked {
                range @ Listen::Ports(..) => range.to_string(),
                Listen::Tcp(_) | Listen::Udp(_) | Listen::Unix(_) => binding.bound.to_string(),
            },
            tunnel: binding.route.destination.to_string(),
            policy: Some(binding.route.policy.to_string()),
        });
        let mut saved = Saved { exposed: exposed.collect(), binds: binds.collect() };
        for unmet in self.saved_and_unmet() {
            match unmet {
                Kept::Exposure(exposure) => saved.exposed.push(exposure.clone()),
                Kept::Bind(bind) => saved.binds.push(bind.clone()),
            }
        }
        serde_json::to_string(&saved).expect("texts and numbers are JSON")
    }
}
