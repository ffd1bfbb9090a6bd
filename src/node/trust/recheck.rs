//! Peers' certificates, while they are connected.
//!
//! A handshake judges a certificate once, and connections outlive it. What proves a node is its key, and that does not
//! change when a certificate does: so a peer whose certificate is about to end is asked for its present one, over the
//! tunnel that stands, and nothing is cut as long as it has one. Who has none is no member any more.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Keys;
use crate::clock::WallClock;
use crate::daemon::{Peer, PeersView, TunnelObserver};
use crate::id::TunnelId;
use crate::service::{OfferedStream, RouteAddress, Service, open};
use crate::time::UnixMillis;
use crate::tunnel::{ArcTunnel, CloseReason, Closed, Tunnel, TunnelControl};

/// How long a peer has to show its certificate.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest certificate that is read, in bytes.
const MAX_LEN: u64 = 8_192;
/// So long before its certificate ends a peer is asked for a later one.
const LEAD: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it is asked, at most and at least: a quarter of what is left.
const OFTEN: Duration = Duration::from_millis(500);
const SELDOM: Duration = Duration::from_secs(60 * 60);

fn address() -> RouteAddress {
    RouteAddress::from_segments(["certificate", "show"]).expect("short segments are an address")
}

/// Shows a peer the node's present certificate.
#[derive(Debug)]
pub(in crate::node) struct ShowService {
    keys: Arc<Keys>,
}

impl ShowService {
    pub(in crate::node) fn new(keys: Arc<Keys>) -> Self {
        Self { keys }
    }
}

impl Service for ShowService {
    type Error = io::Error;

    fn accepts(&self, asked: &RouteAddress, _: &ArcTunnel) -> bool {
        *asked == address()
    }

    async fn handle(&self, _: RouteAddress, stream: OfferedStream, _: ArcTunnel) -> io::Result<()> {
        let mut stream = stream.accept().await?;
        let certificate = self.keys.trust().credentials.certificate;
        stream.send.write_all(&certificate).await?;
        Ok(stream.send.finish()?)
    }
}

/// Wakes [`keep_checked`] when there is another peer.
#[derive(Debug)]
pub(in crate::node) struct Newcomers(pub(in crate::node) Arc<Notify>);

impl TunnelObserver for Newcomers {
    fn joined(&self, _: &Peer) {
        self.0.notify_one();
    }

    fn left(&self, _: &Peer, _: &Closed) {}
}

/// Closes the tunnels of peers whose certificates have ended, until the node stops.
pub(in crate::node) async fn keep_checked(
    keys: Arc<Keys>,
    peers: PeersView,
    newcomers: Arc<Notify>,
    stop: CancellationToken,
) {
    // When the certificates end that were shown since the handshake.
    let mut shown: BTreeMap<TunnelId, UnixMillis> = BTreeMap::new();
    loop {
        let next = look(&keys, &peers, &mut shown).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = newcomers.notified() => {}
            () = sleep(next) => {}
        }
    }
}

/// Looks at each peer once; says how long to wait until the next time.
async fn look(keys: &Arc<Keys>, peers: &PeersView, shown: &mut BTreeMap<TunnelId, UnixMillis>) -> Duration {
    let now = WallClock::system().now();
    let peers = peers.all();
    shown.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
    let (mut next, mut asked) = (SELDOM, JoinSet::new());
    for peer in peers {
        let Some(proved) = peer.tunnel.proof_ends_at() else { continue };
        let end = shown.get(&peer.id).copied().map_or(proved, |shown| shown.max(proved));
        let left = Duration::from_millis(end.0.saturating_sub(now.0));
        if end < now {
            tracing::warn!(peer = %peer.name, tunnel = %peer.id, "a peer's certificate has ended: its tunnel is closed");
            peer.tunnel.close(CloseReason::Expired);
            continue;
        }
        if left > LEAD {
            next = next.min(left - LEAD);
            continue;
        }
        // The last look is just behind the end.
        next = next.min((left / 4).clamp(OFTEN, SELDOM));
        let keys = Arc::clone(keys);
        asked.spawn(async move {
            let present = timeout(PATIENCE, ask(&peer.tunnel)).await.ok()?.ok()?;
            Some((peer.id, judge(&keys, &peer, &present)?))
        });
    }
    while let Some(asked) = asked.join_next().await {
        if let Ok(Some((id, end))) = asked {
            shown.insert(id, end);
        }
    }
    next
}

/// When a certificate ends that a peer has shown, if it is one of its own that counts.
fn judge(keys: &Keys, peer: &Peer, certificate: &[u8]) -> Option<UnixMillis> {
    let verified = keys.trust().credentials.verify_member(&CertificateDer::from(certificate));
    match verified {
        Ok((node, end)) if Some(node) == peer.tunnel.identity() => Some(end),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(peer = %peer.name, %error, "a peer shows a certificate that does not count");
            None
        }
    }
}

async fn ask(tunnel: &ArcTunnel) -> io::Result<Vec<u8>> {
    let mut stream = open(tunnel, &address()).await.map_err(io::Error::other)?;
    stream.send.finish()?;
    let mut certificate = Vec::new();
    (&mut stream.recv).take(MAX_LEN).read_to_end(&mut certificate).await?;
    Ok(certificate)
}
