//! The node's next certificate, before the present one ends: made here where the authority's key is, asked of a node
//! that has it otherwise. Tunnels that stand are not touched.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Keys, KeysError};
use crate::auth::{BACKDATED, JoinAnswer, JoinRefusal, MeshCa, PassedRenewal, RenewalRequest};
use crate::clock::WallClock;
use crate::daemon::PeersView;
use crate::id::NodeId;
use crate::node::data_dir::Trust;
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

/// Over how many nodes a request is passed on at most: more than a mesh of thousands is wide.
const MAX_HOPS: u8 = 5;
/// How much longer an answer may take for each of them.
const HOP_PATIENCE: Duration = Duration::from_secs(2);
/// Requests that a node passes on at a time.
const MAX_PASSING: usize = 4;
/// How long it knows that it has passed one on, and how many it remembers: when there are more, it passes none on.
const FORGET: Duration = Duration::from_secs(30);
const MAX_SEEN: usize = 256;

fn address() -> RouteAddress {
    RouteAddress::from_segments(["certificate", "renew"]).expect("short segments are an address")
}

/// Where what others ask is passed on, and over how many nodes more.
fn pass_address(hops: u8) -> RouteAddress {
    RouteAddress::from_segments(["certificate", "pass", &hops.to_string()])
        .expect("short segments are an address")
}

/// How many nodes more a request may be passed on over, if that is what is asked.
fn passed(address: &RouteAddress) -> Option<u8> {
    match address.strip_prefix(&["certificate", "pass"])? {
        [hops] => hops.parse().ok().filter(|hops| *hops <= MAX_HOPS),
        _ => None,
    }
}

/// Signs certificates for members that ask in time. Where the authority's key is not at hand, it accepts nothing but what
/// is to be passed on.
#[derive(Debug)]
pub(in crate::node) struct RenewalService {
    keys: Arc<Keys>,
    peers: PeersView,
    /// Who got one a moment ago.
    recent: Mutex<BTreeMap<NodeId, Instant>>,
    /// What was passed on lately, by its hash, so that each node does it once.
    seen: Mutex<BTreeMap<[u8; 32], Instant>>,
    passing: Semaphore,
}

impl RenewalService {
    pub(in crate::node) fn new(keys: Arc<Keys>, peers: PeersView) -> Self {
        let passing = Semaphore::new(MAX_PASSING);
        Self { keys, peers, recent: Mutex::default(), seen: Mutex::default(), passing }
    }

    /// Signs what somebody else passes on, or passes it on.
    async fn judge_passed(
        &self,
        from: Option<NodeId>,
        request: &[u8],
        hops: u8,
    ) -> Result<JoinAnswer, JoinRefusal> {
        let asked = PassedRenewal::decode(request).map_err(|_malformed| JoinRefusal::Request)?;
        let Trust { credentials, authority, .. } = self.keys.trust();
        if let Some(authority) = authority {
            let signed = asked.sign(&credentials, &authority, self.keys.validity()).map_err(|error| {
                tracing::warn!(%error, "a certificate that was asked for over others is not renewed");
                JoinRefusal::Request
            })?;
            if !self.is_rested(signed.node) {
                return Err(JoinRefusal::Unable);
            }
            return Ok(granted(signed.pem, &authority));
        }
        let member = asked.member(&credentials).map_err(|_none| JoinRefusal::Request)?;
        let Some(hops) = hops.checked_sub(1).filter(|_| self.is_new(request)) else {
            return Err(JoinRefusal::Unable);
        };
        let Ok(_passing) = self.passing.try_acquire() else { return Err(JoinRefusal::Unable) };
        // Nonsense that a member answers is not what ends the search.
        let fits = |certificate: &str| {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).ok();
            let whose = certificate.and_then(|certificate| credentials.verify_member(&certificate).ok());
            whose.is_some_and(|(node, _)| node == member)
        };
        let others = self.peers.all().into_iter().filter(|peer| peer.node != from);
        let found = pass(others.map(|peer| peer.tunnel).collect(), request, hops, fits).await;
        found.ok_or(JoinRefusal::Unable)
    }

    /// Whether that is asked for the first time, as far as is remembered.
    fn is_new(&self, request: &[u8]) -> bool {
        let hash = ring::digest::digest(&ring::digest::SHA256, request);
        let hash: [u8; 32] = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        seen.retain(|_, at| now.duration_since(*at) < FORGET);
        seen.len() < MAX_SEEN && seen.insert(hash, now).is_none()
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
        Ok(granted(signed.pem, &authority))
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
        *asked == address() && self.keys.authority().is_some() || passed(asked).is_some()
    }

    async fn handle(&self, asked: RouteAddress, stream: OfferedStream, tunnel: ArcTunnel) -> io::Result<()> {
        let mut stream = stream.accept().await?;
        let hops = passed(&asked);
        let answering = async {
            let mut request = Vec::new();
            let longest = if hops.is_some() { PassedRenewal::MAX_LEN } else { RenewalRequest::MAX_LEN };
            let mut limited = (&mut stream.recv).take(longest as u64 + 1);
            limited.read_to_end(&mut request).await?;
            let answer = match hops {
                Some(hops) => self.judge_passed(tunnel.identity(), &request, hops).await,
                None => self.judge(tunnel.identity(), &request),
            };
            stream.send.write_all(&answer.unwrap_or_else(JoinAnswer::Refused).encode()).await?;
            Ok(stream.send.finish()?)
        };
        timeout(PATIENCE + hops.map_or(Duration::ZERO, patience), answering)
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn granted(certificate: String, authority: &MeshCa) -> JoinAnswer {
    let authority = authority.certificate_pem().to_owned();
    JoinAnswer::Granted { certificate, authority, addresses: Vec::new() }
}

/// How long an answer may take that comes over so many nodes: those behind wait less, so that theirs comes in time.
fn patience(hops: u8) -> Duration {
    HOP_PATIENCE * (u32::from(hops) + 1)
}

/// Asks all of them at once; gives back the first certificate that fits.
async fn pass(
    tunnels: Vec<ArcTunnel>,
    request: &[u8],
    hops: u8,
    fits: impl Fn(&str) -> bool,
) -> Option<JoinAnswer> {
    let request: Arc<[u8]> = request.into();
    let mut asked = JoinSet::new();
    for tunnel in tunnels {
        let request = Arc::clone(&request);
        asked.spawn(async move {
            timeout(patience(hops), ask(&tunnel, &pass_address(hops), &request)).await.ok()?.ok()
        });
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some(JoinAnswer::Granted { certificate, authority, .. })) = answer
            && fits(&certificate)
        {
            return Some(JoinAnswer::Granted { certificate, authority, addresses: Vec::new() });
        }
    }
    None
}

/// There is no next certificate yet; the present one is as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewError {
    /// No linked node has the authority's key, or answers, and none that they reach.
    #[error(
        "none of {peers} linked nodes gives one, nor one behind them: does one have the authority's key? {last}"
    )]
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
        match timeout(PATIENCE, ask(&peer.tunnel, &address(), &request)).await {
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
    // Nobody who is linked: in a large mesh somebody who is linked with one who is.
    let request = PassedRenewal::new(&keys.trust().credentials).map_err(KeysError::Identity)?.encode();
    let tunnels = asked.iter().map(|peer| peer.tunnel.clone()).collect();
    match pass(tunnels, &request, MAX_HOPS, |certificate| keys.install(certificate).is_ok()).await {
        Some(_installed) => Ok(()),
        None => Err(RenewError::Nobody { peers: asked.len(), last }),
    }
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

async fn ask(tunnel: &ArcTunnel, address: &RouteAddress, request: &[u8]) -> Result<JoinAnswer, AskError> {
    let mut stream = open(tunnel, address).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Identity, NoOp};
    use crate::daemon::ModularDaemon;
    use crate::node::{CaSource, DataDir, NodeConfig};
    use crate::registry::InMemoryTunnelRegistry;
    use crate::time::UnixMillis;
    use crate::tunnel::duplex::DuplexTunnel;
    use crate::tunnel::quic::{QuicConfig, QuicEndpoint};

    const LONG: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    const SHORT: Duration = Duration::from_secs(100);

    /// A node, as far as its keys go, and whom it is linked with.
    struct Party {
        keys: Arc<Keys>,
        daemon: ModularDaemon<InMemoryTunnelRegistry, RenewalService, NoOp>,
        _directory: tempfile::TempDir,
    }

    impl Party {
        /// The one that begins a mesh, or a member whose certificate ends soon.
        fn new(authority: Option<&MeshCa>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let data_dir = DataDir::open(&directory.path().join("node")).unwrap();
            let identity: Identity = data_dir.identity().unwrap();
            if let Some(authority) = authority {
                let certificate = authority.sign(&identity, SHORT).unwrap();
                std::fs::write(data_dir.file("node.crt"), certificate.pem).unwrap();
                std::fs::write(data_dir.file("ca.crt"), authority.certificate_pem()).unwrap();
            }
            let trust = data_dir.trust(&identity, &CaSource::Own, LONG).unwrap();
            let any = "127.0.0.1:0".parse().unwrap();
            let endpoint = QuicEndpoint::bind(any, QuicConfig::default(), trust.credentials.tls().unwrap());
            let config = NodeConfig { certificate_validity: LONG, ..NodeConfig::new("n", data_dir.path()) };
            let keys = Keys::new((*data_dir).clone(), &config, trust, endpoint.unwrap(), Vec::new()).unwrap();
            let keys = Arc::new(keys);
            let builder = ModularDaemon::builder();
            let service = RenewalService::new(Arc::clone(&keys), builder.peers());
            let authentication = NoOp::named("peer".parse().unwrap());
            let daemon = builder.services(service).authentication(authentication).build();
            Self { keys, daemon, _directory: directory }
        }

        fn id(&self) -> NodeId {
            self.keys.identity.node_id()
        }

        async fn link(&self, other: &Self) {
            let (near, far) = DuplexTunnel::pair_between(self.id(), other.id());
            let (near, far) = (self.daemon.attach(near).unwrap(), other.daemon.attach(far).unwrap());
            near.authenticated().await.unwrap();
            far.authenticated().await.unwrap();
        }

        async fn renew(&self) -> Result<UnixMillis, RenewError> {
            renew(&self.keys, &self.daemon.peers()).await?;
            Ok(self.keys.certificate_expires_at().unwrap())
        }
    }

    /// An authority, two members in between that are linked in a row, and one at the far end.
    async fn row() -> [Party; 4] {
        let first = Party::new(None);
        let authority = first.keys.authority().unwrap();
        let [near, far, last] = [(); 3].map(|()| Party::new(Some(&authority)));
        first.link(&near).await;
        near.link(&far).await;
        far.link(&last).await;
        [first, near, far, last]
    }

    /// FEATURES B8, P5.
    #[tokio::test]
    async fn a_revoked_node_gets_no_other_certificate() {
        let [first, near, ..] = row().await;
        let service = RenewalService::new(Arc::clone(&first.keys), first.daemon.peers());
        let request = RenewalRequest::new(&near.keys.identity).unwrap().encode();
        assert!(matches!(service.judge(Some(near.id()), &request), Ok(JoinAnswer::Granted { .. })));
        first.keys.denied().deny(near.id());
        assert_eq!(service.judge(Some(near.id()), &request), Err(JoinRefusal::Revoked));
        assert!(near.renew().await.is_err());
        // Nor for somebody who is not, who carries its request.
        let request = PassedRenewal::new(&near.keys.trust().credentials).unwrap().encode();
        let carried = service.judge_passed(Some(NodeId::from_bytes([9; 32])), &request, 1).await;
        assert_eq!(carried, Err(JoinRefusal::Request));
    }

    /// FEATURES P5: in a mesh too large for a full one the authority is rarely a neighbour.
    #[tokio::test]
    async fn a_node_is_given_a_certificate_over_those_between() {
        let [first, near, far, last] = row().await;
        let before = last.keys.certificate_expires_at().unwrap();
        // In a ring what is asked comes back to who has asked, and is not asked again.
        near.link(&last).await;
        assert!(last.renew().await.unwrap().0 > before.0 + 1_000_000_000);
        assert_eq!(last.keys.trust().credentials.verify().map_err(|error| error.to_string()), Ok(()));
        assert!(far.renew().await.unwrap() > before);
        // Whoever was revoked is not served, however many are between.
        let another = Party::new(first.keys.authority().as_deref());
        far.link(&another).await;
        first.keys.denied().deny(another.id());
        assert!(matches!(another.renew().await, Err(RenewError::Nobody { peers: 1, .. })));
    }

    #[tokio::test]
    async fn what_is_passed_on_is_passed_on_once_and_not_for_ever() {
        let [_, near, _, last] = row().await;
        let service = RenewalService::new(Arc::clone(&near.keys), near.daemon.peers());
        let request = PassedRenewal::new(&last.keys.trust().credentials).unwrap().encode();
        let from = Some(NodeId::from_bytes([9; 32]));
        let ended = service.judge_passed(from, &request, 0).await;
        assert_eq!(ended, Err(JoinRefusal::Unable));
        assert!(matches!(service.judge_passed(from, &request, 1).await, Ok(JoinAnswer::Granted { .. })));
        assert_eq!(service.judge_passed(from, &request, 1).await, Err(JoinRefusal::Unable));
        assert_eq!(service.judge_passed(from, b"nonsense", 1).await, Err(JoinRefusal::Request));
        let address = |text: &str| passed(&text.parse().unwrap());
        assert_eq!((address("/certificate/pass/5"), address("/certificate/pass/6")), (Some(5), None));
        assert_eq!((address("/certificate/pass"), address("/certificate/pass/1/2")), (None, None));
    }
}
