//! What a node offers: the target, its registration, and whether it serves.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Exposed, Exposure, ForwardError, Forwards, Keeper, Offer, Opener, State, Wish, refuse_configured,
};
use crate::id::{TunnelId, TunnelName};
use crate::mesh::Health;
use crate::mesh::health::check_reserved;
use crate::node::health::{
    HealthCheck, Monitor, ProbeError, Reported, Watched, first_verdict, watch as watch_target,
};
use crate::replica::{Attributes, AttributesError};
use crate::service::Declared;

/// How long whoever exposes waits for the first check of the target: less than a client waits for the answer.
const FIRST_VERDICT: Duration = Duration::from_secs(5);

impl Forwards {
    /// Offers a local service to the mesh. A name that this node exposes already leads to the new target. Where its health
    /// is checked, the first check is waited for; what it comes to is told and changes nothing of the offer.
    pub(in crate::node) async fn expose(
        &self,
        name: TunnelName,
        offer: Offer,
    ) -> Result<Exposed, ForwardError> {
        let mut state = self.state.lock().await;
        refuse_configured(state.exposed.get(&name).map(|exposure| exposure.keeper), || {
            format!("tunnel \"{name}\"")
        })?;
        let tunnel = self.offer(&mut state, name.clone(), offer.clone(), Keeper::Forwards).await?;
        state.fulfil_wish(&Wish::tunnel(&name));
        let monitor = state.exposed.get(&name).and_then(|exposure| exposure.monitor.as_ref());
        let reported = monitor.map(Monitor::follow);
        let change = state.changes;
        drop(state);
        self.save(change).await?;
        let health = match reported {
            Some(reported) => Some(first_verdict(reported, FIRST_VERDICT).await),
            None => None,
        };
        let draining = self.state.lock().await.draining;
        Ok(Exposed { name, tunnel, offer, health, draining })
    }

    /// Has all nodes pass over whatever this one offers, now and later, or no longer. Says whether that is new; asked for
    /// again it tells the mesh again, so that what failed on the way can be repeated.
    pub(in crate::node) async fn drain(&self, draining: bool) -> Result<bool, ForwardError> {
        let mut state = self.state.lock().await;
        let changed = std::mem::replace(&mut state.draining, draining) != draining;
        for (name, exposure) in &state.exposed {
            let marked = exposure.offer.marked(state.told(exposure.health))?;
            self.opener.mesh.register(name.clone(), exposure.tunnel, marked).await?;
        }
        if changed {
            tracing::info!(
                draining,
                "this node's tunnels are {}",
                if draining { "drained" } else { "resumed" }
            );
        }
        Ok(changed)
    }

    /// Makes an offer. What is checked is not picked before its first check.
    pub(super) async fn offer(
        &self,
        state: &mut State,
        name: TunnelName,
        offer: Offer,
        keeper: Keeper,
    ) -> Result<TunnelId, ForwardError> {
        check_reserved(&offer.attributes)?;
        if self.opener.targets.never_dials(&offer.target) {
            return Err(ForwardError::Forbidden { target: offer.target });
        }
        let health = if offer.health.is_some() { Health::Starting } else { Health::Healthy };
        // Whatever it will have to say later has room, too.
        offer.marked(Health::Draining)?;
        let marked = offer.marked(state.told(health))?;
        let known = state.exposed.get(&name).map(|exposure| exposure.tunnel);
        let tunnel = known.unwrap_or_else(draw_tunnel);
        let declared = Declared { target: offer.target.clone(), id: Some(tunnel) };
        let before = self.opener.targets.declare(name.clone(), declared);
        let registered = self.opener.mesh.register(name.clone(), tunnel, marked).await;
        if let Err(error) = registered {
            match before {
                Some(before) => self.opener.targets.declare(name, before),
                None => self.opener.targets.withdraw(&name),
            };
            return Err(error.into());
        }
        let check = offer.health.clone();
        let monitor = check.map(|check| self.monitor(name.clone(), tunnel, offer.clone(), check));
        state.exposed.insert(name, Exposure { tunnel, offer, keeper, monitor, health });
        state.changes += 1;
        Ok(tunnel)
    }

    /// Takes an offer back; streams that are open go on. Says whether there was one.
    pub(in crate::node) async fn unexpose(&self, name: &TunnelName) -> Result<bool, ForwardError> {
        let mut state = self.state.lock().await;
        let keeper = state.exposed.get(name).map(|exposure| exposure.keeper);
        refuse_configured(keeper, || format!("tunnel \"{name}\""))?;
        let was_unmet = state.withdraw_wish(&Wish::tunnel(name));
        if keeper.is_none() && !was_unmet {
            return Ok(false);
        }
        self.withdraw(&mut state, name).await?;
        let change = state.changes;
        drop(state);
        self.save(change).await?;
        Ok(true)
    }

    pub(super) async fn withdraw(&self, state: &mut State, name: &TunnelName) -> Result<(), ForwardError> {
        if let Some(exposure) = state.exposed.get(name) {
            self.opener.mesh.deregister(name.clone(), exposure.tunnel).await?;
            self.opener.targets.withdraw(name);
            state.exposed.remove(name);
            self.opener.metrics.health.forget(name.as_str());
            state.changes += 1;
        }
        Ok(())
    }

    /// Checks a target for as long as the monitor is kept.
    fn monitor(&self, name: TunnelName, tunnel: TunnelId, offer: Offer, check: HealthCheck) -> Monitor {
        let (told, reported) = watch::channel(Reported::starting());
        let stop = self.stop.child_token();
        let (state, checks, stopped) = (Arc::clone(&self.state), Arc::clone(&self.checks), stop.clone());
        let checked =
            Checked { name, tunnel, offer, check, opener: self.opener.clone(), state, checks, stop };
        let guard = stopped.clone().drop_guard();
        self.tasks.spawn(async move {
            let check = checked.check.clone();
            stopped.run_until_cancelled(watch_target(checked, &check, told)).await;
        });
        Monitor::new(reported, guard)
    }
}

impl State {
    /// What others are told of a target whose checks came to that.
    fn told(&self, health: Health) -> Health {
        if self.draining { Health::Draining } else { health }
    }
}

impl Offer {
    /// What is registered of it.
    fn marked(&self, health: Health) -> Result<Attributes, AttributesError> {
        health.mark(&self.weight.mark(&self.attributes)?)
    }
}

/// A target whose health is checked.
struct Checked {
    name: TunnelName,
    tunnel: TunnelId,
    offer: Offer,
    check: HealthCheck,
    opener: Opener,
    state: Arc<Mutex<State>>,
    checks: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Watched for Checked {
    async fn attempt(&mut self) -> Result<(), ProbeError> {
        let _place = self.checks.acquire().await.expect("the semaphore is never closed");
        let begun = Instant::now();
        let Opener { targets, metrics, .. } = &self.opener;
        let outcome = self.check.attempt(&self.name, &self.offer.target, targets).await;
        metrics.health.checked(self.name.as_str(), begun.elapsed(), outcome.is_ok());
        outcome
    }

    async fn register(&mut self, health: Health) -> bool {
        // Not while the offer changes; and one that has changed is another one's.
        let mut state = self.state.lock().await;
        if self.stop.is_cancelled() {
            return false;
        }
        let (name, target) = (&self.name, &self.offer.target);
        let marked = self.offer.marked(state.told(health)).expect("there was room for the longest mark");
        if let Err(error) = self.opener.mesh.register(name.clone(), self.tunnel, marked).await {
            tracing::warn!(tunnel = %name, %error, "the mesh is not told of a target's health yet");
            return false;
        }
        if let Some(exposure) = state.exposed.get_mut(name) {
            exposure.health = health;
        }
        match health {
            Health::Failing => tracing::warn!(tunnel = %name, %target, "the target fails its health checks"),
            _ => tracing::info!(tunnel = %name, %target, "the target is healthy"),
        }
        true
    }
}

/// Draws an id that no other tunnel of any node has.
fn draw_tunnel() -> TunnelId {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness once it has booted");
    TunnelId(u64::from_be_bytes(bytes))
}
