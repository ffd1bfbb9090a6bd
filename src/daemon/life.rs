//! The life of one tunnel, from its connection to the last clean-up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::limits::Places;
use super::pace::Pace;
use super::{AuthenticationFailure, Core, Dropkick, Limits, Peer, TunnelEvent};
use crate::auth::AuthenticationHandler;
use crate::id::TunnelId;
use crate::registry::{Registration, TunnelRegistry};
use crate::service::{Refusal, Service};
use crate::tunnel::{
    ArcTunnel, CloseReason, Closed, Sided, Tunnel, TunnelControl, TunnelDownlink, TunnelMonitoring,
    TunnelStream,
};

/// Lives a tunnel's life. Whatever happens in here, the tunnel is closed and forgotten at the end.
pub(super) async fn live<R, S, A>(
    core: Arc<Core<R, S, A>>,
    tunnel: ArcTunnel,
    id: TunnelId,
    told: oneshot::Sender<Result<Peer, AuthenticationFailure>>,
) where
    R: TunnelRegistry,
    S: Service + Send + Sync + 'static,
    A: AuthenticationHandler,
{
    let gone = CancellationToken::new();
    let (side, remote) = (tunnel.side(), tunnel.remote());
    debug!(tunnel = %id, %side, %remote, "connected");
    core.events.publish(TunnelEvent::Connected { id, side, remote });
    let _forget = {
        let (core, tunnel, gone) = (Arc::clone(&core), tunnel.clone(), gone.clone());
        Dropkick::new(move || forget(&core, id, &tunnel, &gone))
    };
    match admit(&core, id, &tunnel).await {
        Ok(peer) => {
            core.tasks.spawn(keep_registered(Arc::clone(&core), peer.clone(), gone.clone()));
            // Whoever attached the tunnel may not care.
            let _told = told.send(Ok(peer));
            serve(&core, &tunnel, &gone).await;
        }
        Err(failure) => {
            let error: &dyn std::error::Error = &failure;
            info!(tunnel = %id, error, "not authenticated");
            tunnel.close(match failure {
                AuthenticationFailure::TooManyTunnels => CloseReason::TooManyTunnels,
                _ => CloseReason::Unauthenticated,
            });
            core.events.publish(TunnelEvent::AuthenticationFailed { id, failure: failure.clone() });
            // Whoever attached the tunnel may not care.
            let _told = told.send(Err(failure));
        }
    }
}

/// The end of every life. First the view, then everybody who is told of it; the registry follows in its own task.
fn forget<R, S, A>(core: &Core<R, S, A>, id: TunnelId, tunnel: &ArcTunnel, gone: &CancellationToken) {
    tunnel.close(CloseReason::Dropped);
    let closed = tunnel.closed().unwrap_or(Closed::Locally(CloseReason::Dropped));
    let peer = core.peers.remove(id);
    gone.cancel();
    if let Some(peer) = &peer {
        for observer in &core.observers {
            // This may run while a panic unwinds, where a second one would end the process.
            if catch_unwind(AssertUnwindSafe(|| observer.left(peer, &closed))).is_err() {
                warn!(tunnel = %id, "an observer panicked");
            }
        }
    }
    debug!(tunnel = %id, %closed, "disconnected");
    let (name, node) = peer.map(|peer| (peer.name, peer.node)).unzip();
    core.events.publish(TunnelEvent::Disconnected { id, name, node: node.flatten(), closed });
}

/// Authenticates the tunnel and takes it into the peer view.
async fn admit<R, S, A: AuthenticationHandler>(
    core: &Core<R, S, A>,
    id: TunnelId,
    tunnel: &ArcTunnel,
) -> Result<Peer, AuthenticationFailure> {
    let deadline = Instant::now() + core.config.authentication_timeout;
    let handling = timeout_at(deadline, core.authentication.authenticate(tunnel, deadline));
    let authenticated = tokio::select! {
        biased;
        handled = handling => handled
            .map_err(|_elapsed| AuthenticationFailure::TimedOut)?
            .map_err(|refusal| AuthenticationFailure::Refused(Arc::new(refusal)))?,
        closed = tunnel.on_closed() => return Err(closed.into()),
        () = core.stop.cancelled() => return Err(Closed::Locally(CloseReason::ShuttingDown).into()),
    };
    let peer = Peer {
        id,
        name: authenticated.name,
        node: tunnel.identity(),
        side: tunnel.side(),
        attributes: authenticated.attributes,
        tunnel: tunnel.clone(),
    };
    let limits = *core.limits.borrow();
    if !core.peers.insert(&peer, limits.max_tunnels_per_node.get()) {
        return Err(AuthenticationFailure::TooManyTunnels);
    }
    allow_streams(tunnel, &limits);
    for observer in &core.observers {
        observer.joined(&peer);
    }
    info!(tunnel = %id, name = %peer.name, side = %peer.side, "authenticated");
    core.events.publish(TunnelEvent::Authenticated {
        id,
        name: peer.name.clone(),
        node: peer.node,
        side: peer.side,
    });
    Ok(peer)
}

/// Registers a peer and, when its tunnel is gone, deregisters exactly that. A slow registry delays nobody; shutdown
/// waits for it.
async fn keep_registered<R: TunnelRegistry, S, A>(
    core: Arc<Core<R, S, A>>,
    peer: Peer,
    gone: CancellationToken,
) {
    let Peer { id, name, node, attributes, tunnel, .. } = peer;
    // Only the name is needed from here on: the registration does not keep the tunnel's memory.
    drop(tunnel);
    let registration = Registration { name: name.clone(), tunnel: id, node, holder: None, attributes };
    match core.registry.register(registration).await {
        Ok(identifier) => {
            gone.cancelled().await;
            if let Err(error) = core.registry.deregister_identifier(identifier).await {
                let error: &dyn std::error::Error = &error;
                warn!(tunnel = %id, %name, error, "not deregistered");
            }
        }
        Err(error) => {
            let shown: &dyn std::error::Error = &error;
            warn!(tunnel = %id, %name, error = shown, "not registered");
            core.events.publish(TunnelEvent::RegistrationFailed { id, name, error: Arc::new(error) });
        }
    }
}

/// Serves the streams of a peer until the tunnel ends or the daemon stops; then lets those that live come to their end.
async fn serve<R, S, A>(core: &Arc<Core<R, S, A>>, tunnel: &ArcTunnel, gone: &CancellationToken)
where
    R: TunnelRegistry,
    S: Service + Send + Sync + 'static,
    A: AuthenticationHandler,
{
    let streams = TaskTracker::new();
    tokio::select! {
        biased;
        // While all places are taken nobody accepts, and so nobody else would notice.
        _closed = tunnel.on_closed() => return,
        () = core.stop.cancelled() => {}
        () = follow_limits(core.limits.subscribe(), tunnel) => {}
        _closed = accept(core, tunnel, gone, &streams) => return,
    }
    streams.close();
    tokio::select! {
        biased;
        () = streams.wait() => {}
        () = core.cut.cancelled() => {}
        _closed = tunnel.on_closed() => {}
    }
    tunnel.close(CloseReason::ShuttingDown);
}

fn allow_streams(tunnel: &ArcTunnel, limits: &Limits) {
    tunnel.allow_streams(u32::try_from(limits.max_streams.get()).unwrap_or(u32::MAX));
}

/// Lets the peer open as many streams as there may be by now; never ends.
async fn follow_limits(mut limits: watch::Receiver<Limits>, tunnel: &ArcTunnel) {
    while limits.changed().await.is_ok() {
        allow_streams(tunnel, &limits.borrow_and_update());
    }
    std::future::pending::<()>().await;
}

async fn accept<R, S, A>(
    core: &Arc<Core<R, S, A>>,
    tunnel: &ArcTunnel,
    gone: &CancellationToken,
    streams: &TaskTracker,
) -> Closed
where
    R: TunnelRegistry,
    S: Service + Send + Sync + 'static,
    A: AuthenticationHandler,
{
    let mut incoming = match tunnel.incoming().await {
        Ok(incoming) => incoming,
        Err(closed) => return closed,
    };
    let (places, mut limits) = (Arc::new(Places::default()), core.limits.subscribe());
    let undecided = Arc::new(Semaphore::new(core.config.max_undecided_streams.get()));
    let (rate, burst) = (core.config.max_wasted_streams.get(), core.config.wasted_stream_burst.get());
    let pace = Arc::new(Mutex::new(Pace::new(rate, burst, Instant::now())));
    let open = "the semaphore is never closed";
    loop {
        let place = places.take(&mut limits, |limits| limits.max_streams).await;
        let decision = Arc::clone(&undecided).acquire_owned().await.expect(open);
        let stream = match incoming.accept().await {
            Ok(stream) => stream,
            Err(closed) => return closed,
        };
        let ready = pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        // Timers are exact to a millisecond only: asked for the present moment, they would let through 1,000 streams a
        // second and no more.
        if ready > Instant::now() {
            sleep_until(ready).await;
        }
        let pace = Arc::clone(&pace);
        let (core, tunnel) = (Arc::clone(core), tunnel.clone());
        let tasks = core.tasks.clone();
        let served = gone.child_token().run_until_cancelled_owned(async move {
            serve_stream(&core, tunnel, stream, &pace, || drop(decision)).await;
        });
        tasks.spawn(streams.track_future(async move {
            served.await;
            drop(place);
        }));
    }
}

/// Finds the service that the stream asks for and hands the stream over.
async fn serve_stream<R, S: Service + Sync, A>(
    core: &Core<R, S, A>,
    tunnel: ArcTunnel,
    stream: TunnelStream,
    pace: &Mutex<Pace>,
    decided: impl FnOnce(),
) {
    let deadline = Instant::now() + core.config.negotiation_timeout;
    let received = core.config.dialect.receive(stream, deadline).await;
    decided();
    let (address, offered) = match received {
        Ok(received) => received,
        Err(error) => {
            debug!(%error, "stream not negotiated");
            if pace.lock().unwrap_or_else(PoisonError::into_inner).is_abused_again() {
                warn!(remote = %tunnel.remote(), "most streams of a peer make no sense: its tunnel is closed");
                tunnel.close(CloseReason::ProtocolViolation);
            }
            return;
        }
    };
    if !core.services.accepts(&address, &tunnel) {
        debug!(address = ?address.to_string(), "no such service");
        // The opener may be gone already, and then needs no answer.
        let _gone = offered.refuse(Refusal::NoSuchService).await;
        return;
    }
    let text = address.to_string();
    let pace = || pace.lock().unwrap_or_else(PoisonError::into_inner);
    pace().give_back(Instant::now());
    if let Err(error) = core.services.handle(address, offered, tunnel).await {
        let error: crate::service::AnyError = error.into();
        pace().charge(Instant::now());
        debug!(address = ?text, %error, "stream failed");
    }
}
