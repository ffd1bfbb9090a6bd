//! What the configuration wants to be forwarded, made to hold by difference.

use std::collections::BTreeMap;

use super::unmet::Wish;
use super::{Binding, Exposure, Forwards, Keeper, Offer};
use crate::id::TunnelName;
use crate::mesh::{Destination, Policy};
use crate::service::Listen;

/// What the configuration wants to be forwarded.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::node) struct Wanted {
    pub(in crate::node) tunnels: BTreeMap<TunnelName, Offer>,
    /// By where to listen, as text.
    pub(in crate::node) binds: BTreeMap<String, (Listen, Destination, Policy)>,
}

/// What a configuration changed, a sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::node) struct Applied {
    pub(in crate::node) done: Vec<String>,
    pub(in crate::node) failed: Vec<String>,
}

impl Forwards {
    /// Makes what was saved and does not hold, and what the configuration wants hold, by difference: what is as it was is
    /// not touched.
    pub(in crate::node) async fn configure(&self, wanted: &Wanted) -> Applied {
        let mut applied = Applied::default();
        let mut note = |what: &str, done: &str, outcome: Result<(), String>| match outcome {
            Ok(()) => applied.done.push(format!("{what} {done}")),
            Err(why) => applied.failed.push(format!("{what} not {done}: {why}")),
        };
        let mut state = self.state.lock().await;
        // What does not hold and is only in the configuration is looked for there.
        state.unmet.retain(|_, unmet| unmet.saved.is_some());
        for saved in state.saved_and_unmet().cloned().collect::<Vec<_>>() {
            note(&saved.wish().to_string(), "taken up", self.take_up(&mut state, &saved).await);
        }
        let configured = |keeper: &Keeper| *keeper == Keeper::Configuration;
        let gone = state.exposed.iter().filter(|(_, exposure)| configured(&exposure.keeper));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone.iter().filter(|name| !wanted.tunnels.contains_key(*name)) {
            let outcome = self.withdraw(&mut state, name).await;
            note(&format!("tunnel \"{name}\""), "taken back", outcome.map_err(|error| error.to_string()));
        }
        let gone = state.binds.iter().filter(|(_, binding)| configured(&binding.keeper));
        let gone = gone.filter(|(_, binding)| {
            let wanted = wanted.binds.get(&binding.asked.to_string());
            !wanted.is_some_and(|(_, destination, policy)| binding.leads_to(destination, *policy))
        });
        let gone: Vec<_> = gone.map(|(listen, _)| listen.clone()).collect();
        for listen in &gone {
            if let Some(binding) = state.binds.remove(listen) {
                self.close(&binding).await;
                state.changes += 1;
                note(&format!("bind {listen}"), "taken back", Ok(()));
            }
        }
        for (name, offer) in &wanted.tunnels {
            let same = |exposure: &Exposure| configured(&exposure.keeper) && exposure.offer == *offer;
            if !state.exposed.get(name).is_some_and(same) {
                let outcome =
                    self.offer(&mut state, name.clone(), offer.clone(), Keeper::Configuration).await;
                let outcome = state.keep_in_mind(Wish::tunnel(name), outcome);
                note(&format!("tunnel \"{name}\""), &format!("offered at {}", offer.target), outcome);
            }
        }
        for (listen, destination, policy) in wanted.binds.values() {
            let holds = |binding: &Binding| configured(&binding.keeper) && binding.asked == *listen;
            if !state.binds.values().any(holds) {
                let route = (destination.clone(), *policy);
                let outcome = self.listen(&mut state, listen.clone(), route, Keeper::Configuration).await;
                let outcome = state.keep_in_mind(Wish::bind(listen), outcome);
                note(&format!("bind {listen} to \"{destination}\""), "made", outcome);
            }
        }
        let change = state.changes;
        drop(state);
        if let Err(error) = self.save(change).await {
            applied.failed.push(format!("not saved: {error}"));
        }
        applied
    }
}
