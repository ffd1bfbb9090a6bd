//! The node's next certificate, before the present one ends: made here where the authority's key is, asked of a node
//! that has it otherwise. Tunnels that stand are not touched.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Keys, KeysError};
use crate::auth::{BACKDATED, JoinAnswer, JoinRefusal, RenewalRequest};
use crate::clock::WallClock;
use crate::daemon::PeersView;
use crate::id::NodeId;
use crate::node::metrics::Metrics;
use crate::service::{OfferedStream, OpenError, RouteAddress, Service, open};
use crate::tunnel::{ArcTunnel, Tunnel};

/// How long one end waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one node gets a certificate at most.
const REST: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes: two certificates.
const MAX_ANSWER: u64 = 20_000;
/// How long it is waited at most before it is looked again: the wall clock may be set, certificates replaced.
const LOOK_INTERVAL: Duration = Duration::from_secs(60 * 60);

fn address() -> RouteAddress {
    RouteAddress::from_segments(["certificate", "renew"]).expect("short segments are an address")
}

/// Signs certificates for members that ask in time. Accepts nothing where the authority's key is not at hand.
#[derive(Debug)]
pub(in crate::node) struct RenewalService {
    keys: Arc<Keys>,
    /// Who got one a moment ago.
    recent: Mutex<BTreeMap<NodeId, Instant>>,
}

impl RenewalService {
    pub(in crate::node) fn new(keys: Arc<Keys>) -> Self {
        Self { keys, recent: Mutex::default() }
    }

    fn judge(&self, asking: Option<NodeId>, request: &[u8]) -> Result<JoinAnswer, JoinRefusal> {
        let asking = asking.ok_or(JoinRefusal::Request)?;
        if self.keys.denied().contains(asking) {
            return Err(JoinRefusal::Revoked);
        }
        let authority = self.keys.authority().ok_or(JoinRefusal::Unable)?;
        let request = RenewalRequest::decode(request).map_err(|_malformed| JoinRefusal::Request)?;
        if !self.is_rested(asking) {
            return Err(JoinRefusal::Unable);
        }
        let signed = request.sign(asking, &authority, self.keys.validity()).map_err(|error| {
            tracing::warn!(node = %asking, %error, "a certificate is not renewed");
            JoinRefusal::Request
        })?;
        Ok(JoinAnswer::Granted {
            certificate: signed.pem,
            authority: authority.certificate_pem().to_owned(),
            addresses: Vec::new(),
        })
    }

    fn is_rested(&self, node: NodeId) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        recent.retain(|_, at| now.duration_since(*at) < REST);
        recent.insert(node, now).is_none()
    }
}

impl Service for RenewalService {
    type Error = io::Error;

    fn accepts(&self, asked: &RouteAddress, _: &ArcTunnel) -> bool {
        *asked == address() && self.keys.authority().is_some()
    }

    async fn handle(&self, _: RouteAddress, stream: OfferedStream, tunnel: ArcTunnel) -> io::Result<()> {
        let mut stream = stream.accept().await?;
        let answering = async {
            let mut request = Vec::new();
            let mut limited = (&mut stream.recv).take(RenewalRequest::MAX_LEN as u64 + 1);
            limited.read_to_end(&mut request).await?;
            let answer = self.judge(tunnel.identity(), &request).unwrap_or_else(JoinAnswer::Refused);
            stream.send.write_all(&answer.encode()).await?;
            Ok(stream.send.finish()?)
        };
        timeout(PATIENCE, answering).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// There is no next certificate yet; the present one is as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewError {
    /// No linked node has the authority's key, or answers.
    #[error("none of {peers} linked nodes gives one: does one have the authority's key? {last}")]
    Nobody {
        /// How many were asked.
        peers: usize,
        /// What the last one that said something else than that it has no key said.
        last: String,
    },
    /// The answer does not serve.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Renews the certificate whenever it is due, until the node stops.
pub(in crate::node) async fn keep_certificate(
    keys: Arc<Keys>,
    peers: PeersView,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(keys.renewal_due_in().min(LOOK_INTERVAL)) => {}
            // It may end sooner than the one before.
            () = keys.changed.notified() => {}
        }
        if !keys.renewal_due_in().is_zero() {
            continue;
        }
        let renewed = stop.run_until_cancelled(renew(&keys, &peers)).await;
        match renewed {
            None => return,
            Some(Ok(())) => {
                metrics.renewed(Ok(()));
                tracing::info!("the node's certificate was renewed");
            }
            Some(Err(error)) => {
                metrics.renewed(Err(()));
                tracing::warn!(%error, "the node's certificate was not renewed");
            }
        }
        // After a failure in time for another try, and never at once.
        if stop.run_until_cancelled(sleep(keys.retry_in())).await.is_none() {
            return;
        }
    }
}

async fn renew(keys: &Arc<Keys>, peers: &PeersView) -> Result<(), RenewError> {
    if keys.authority().is_some() {
        return Ok(keys.reload()?);
    }
    let request = RenewalRequest::new(&keys.identity).map_err(KeysError::Identity)?.encode();
    let (asked, mut last) = (peers.all(), String::new());
    for peer in &asked {
        match timeout(PATIENCE, ask(&peer.tunnel, &request)).await {
            Ok(Ok(JoinAnswer::Granted { certificate, .. })) => match keys.install(&certificate) {
                Ok(()) => return Ok(()),
                // A member that gives nonsense stands in nobody's way.
                Err(error) => last = error.to_string(),
            },
            Ok(Ok(JoinAnswer::Refused(why))) => last = why.to_string(),
            Ok(Err(AskError::Open(OpenError::Refused(_)))) => {}
            Ok(Err(error)) => last = error.to_string(),
            Err(_elapsed) => last = "no answer in time".to_owned(),
        }
    }
    Err(RenewError::Nobody { peers: asked.len(), last })
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the answer makes no sense: {0}")]
    Malformed(#[from] crate::codec::Malformed),
}

async fn ask(tunnel: &ArcTunnel, request: &[u8]) -> Result<JoinAnswer, AskError> {
    let mut stream = open(tunnel, &address()).await?;
    stream.send.write_all(request).await.map_err(io::Error::from)?;
    stream.send.finish().map_err(io::Error::from)?;
    let mut answer = Vec::new();
    (&mut stream.recv).take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(JoinAnswer::decode(&answer)?)
}

impl Keys {
    /// How long until the certificate should be renewed: when a third of its time is left.
    fn renewal_due_in(&self) -> Duration {
        let trust = self.trust();
        let Some((from, until)) = trust.credentials.certificate_validity() else { return LOOK_INTERVAL };
        let backdated = u64::try_from(BACKDATED.as_millis()).unwrap_or(0);
        let lifetime = until.0.saturating_sub(from.0).saturating_sub(backdated);
        let due = until.0.saturating_sub(lifetime / 3);
        Duration::from_millis(due.saturating_sub(WallClock::system().now().0))
    }

    /// How long to wait after an attempt: a tenth of the time that is left, between a second and an hour.
    fn retry_in(&self) -> Duration {
        let ends = self.certificate_expires_at().map_or(0, |at| at.0);
        let left = Duration::from_millis(ends.saturating_sub(WallClock::system().now().0));
        (left / 10).clamp(Duration::from_secs(1), LOOK_INTERVAL)
    }
}
