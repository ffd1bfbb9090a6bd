//! How tunnels live and end.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::auth::{HelloError, MutualTls, ProtocolVersions};
use crate::event::{Published, Sequence};
use crate::id::TunnelName;
use crate::registry::{MemoryIdentifier, Registration};
use crate::service::{OpenError, Refusal};
use crate::tunnel::{TunnelDownlink, TunnelMonitoring, TunnelUplink};

fn peer_name() -> TunnelName {
    "peer".parse().unwrap()
}

/// Does as the address says: panics, blocks its thread until told to go on, or waits for ever.
#[derive(Default)]
struct Troublesome {
    go_on: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Service for Troublesome {
    type Error = std::io::Error;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        address.segments() != ["echo"]
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        _: ArcTunnel,
    ) -> Result<(), std::io::Error> {
        match address.segments()[0].as_str() {
            "panic" => panic!("on purpose"),
            "block" => {
                let go_on = self.go_on.lock().unwrap().take().unwrap();
                let _stream = stream.accept().await?;
                go_on.recv().unwrap();
                Ok(())
            }
            _ => {
                let _stream = stream.accept().await?;
                std::future::pending().await
            }
        }
    }
}

/// Failure 4 of the original: a panic in one service ended every tunnel.
#[tokio::test]
async fn a_panic_in_a_handler_ends_its_own_stream_only() {
    let serving = trusting(ServiceRegistry::new().with(Troublesome::default()).with(Echo));
    let asking = trusting(ServiceRegistry::new());
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    assert_eq!(open(&peer.tunnel, &address("/panic")).await.unwrap_err(), OpenError::Unanswered);
    echo(&peer.tunnel).await;
    assert_eq!(serving.peers().len(), 1);
}

/// Failure 4 of the original: a handler that blocked stalled all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_delays_no_other() {
    let (release, go_on) = mpsc::channel();
    let troublesome = Troublesome { go_on: Mutex::new(Some(go_on)) };
    let serving = trusting(ServiceRegistry::new().with(troublesome).with(Echo));
    let asking = trusting(ServiceRegistry::new());
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    let _blocked = open(&peer.tunnel, &address("/block")).await.unwrap();
    echo(&peer.tunnel).await;
    release.send(()).unwrap();
}

/// Failure 6 of the original: one stalled handshake blocked every later client.
#[tokio::test]
async fn a_peer_that_stalls_while_authenticating_delays_no_other() {
    let daemon = ModularDaemon::builder().services(ServiceRegistry::new().with(Echo)).build();
    let (_stalls, far) = DuplexTunnel::pair_between(node(1), node(2));
    let _stalled = daemon.attach(far).unwrap();
    let other = ModularDaemon::builder().build();
    let (peer, _) = joined((&other, node(3)), (&daemon, node(2))).await;
    echo(&peer.tunnel).await;
    assert_eq!(daemon.peers().len(), 1);
}

/// Everything that happens to a daemon's tunnels until one of them has ended.
async fn until_disconnected(events: &mut Subscription<TunnelEvent>) -> Vec<TunnelEvent> {
    let mut seen = Vec::new();
    loop {
        let (_, event) = events.recv().await.unwrap();
        seen.push(event);
        if let Some(TunnelEvent::Disconnected { .. }) = seen.last() {
            return seen;
        }
    }
}

/// Never comes to an end.
struct Endless;

impl AuthenticationHandler for Endless {
    type Error = std::convert::Infallible;

    async fn authenticate(
        &self,
        _: &ArcTunnel,
        _: tokio::time::Instant,
    ) -> Result<crate::auth::Authenticated, Self::Error> {
        std::future::pending().await
    }
}

/// FEATURES S4. Failure 11 of the original: no disconnected event for such tunnels. Failure 14: authentication took for
/// ever.
#[tokio::test(start_paused = true)]
async fn a_tunnel_that_does_not_authenticate_is_ended_told_of_and_nothing_else() {
    let daemon = ModularDaemon::builder().authentication(Endless).build();
    let mut events = daemon.subscribe();
    let (silent, far) = DuplexTunnel::pair_between(node(1), node(2));
    let failure = daemon.attach(far).unwrap().authenticated().await.unwrap_err();
    assert!(matches!(failure, AuthenticationFailure::TimedOut), "{failure}");
    assert_eq!(silent.on_closed().await, Closed::ByPeer(CloseReason::Unauthenticated));
    let seen = until_disconnected(&mut events).await;
    let [
        TunnelEvent::Connected { .. },
        TunnelEvent::AuthenticationFailed { .. },
        TunnelEvent::Disconnected { name: None, closed, .. },
    ] = &seen[..]
    else {
        panic!("{seen:?}")
    };
    assert_eq!(*closed, Closed::Locally(CloseReason::Unauthenticated));
    assert!(daemon.peers().is_empty());
    assert!(daemon.registry().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_does_not_come_is_not_waited_for() {
    let daemon = ModularDaemon::builder().build();
    let (_silent, far) = DuplexTunnel::pair_between(node(1), node(2));
    let failure = daemon.attach(far).unwrap().authenticated().await.unwrap_err();
    let AuthenticationFailure::Refused(error) = failure else { panic!("{failure}") };
    assert_eq!(error.downcast_ref(), Some(&HelloError::TimedOut));
}

/// FEATURES S4.
#[tokio::test]
async fn a_peer_that_skips_the_hello_is_never_served() {
    let daemon = ModularDaemon::builder().services(ServiceRegistry::new().with(Echo)).build();
    let (hasty, far) = DuplexTunnel::pair_between(node(1), node(2));
    let attached = daemon.attach(far).unwrap();
    let opened = open(&hasty, &address("/echo")).await.unwrap_err();
    assert!(matches!(opened, OpenError::Unanswered | OpenError::Closed(_)), "{opened:?}");
    let failure = attached.authenticated().await.unwrap_err();
    let AuthenticationFailure::Refused(error) = failure else { panic!("{failure}") };
    assert_eq!(error.downcast_ref(), Some(&HelloError::Malformed));
}

/// Failure 10 of the original: an idle subscriber kept refused connections open.
#[tokio::test]
async fn a_subscriber_that_never_listens_keeps_no_tunnel_open() {
    let daemon = ModularDaemon::builder().build();
    let idle = daemon.subscribe();
    let (near, far) = DuplexTunnel::pair();
    let attached = daemon.attach(far).unwrap();
    attached.authenticated().await.unwrap_err();
    assert_eq!(near.on_closed().await, Closed::ByPeer(CloseReason::Unauthenticated));
    assert_eq!(daemon.shutdown().await, Drained::Clean);
    assert_eq!(idle.behind(), 3);
}

/// FEATURES S1.
#[tokio::test]
async fn what_a_peer_tells_in_its_hello_are_its_attributes() {
    let attributes = BTreeMap::from([("site".to_owned(), b"north".to_vec()), (String::new(), Vec::new())]);
    let telling = ModularDaemon::builder().authentication(MutualTls::telling(attributes.clone())).build();
    let hearing = ModularDaemon::builder().build();
    let (_, heard) = joined((&telling, node(1)), (&hearing, node(2))).await;
    assert_eq!(*heard.attributes, attributes.into_iter().collect());
    assert_eq!(heard.name.as_str(), node(1).to_string());
}

#[tokio::test]
async fn nodes_without_a_common_version_part_and_both_know_why() {
    let versions = |oldest, newest| {
        let handler = MutualTls::default().speaking(ProtocolVersions { oldest, newest });
        ModularDaemon::builder().authentication(handler).build()
    };
    let (old, new) = (versions(1, 2), versions(3, 4));
    for (near, far) in [(&old, &new), (&new, &old)] {
        let (dialling, listening) = DuplexTunnel::pair_between(node(1), node(2));
        let (dialling, listening) = (near.attach(dialling).unwrap(), far.attach(listening).unwrap());
        let (dialling, listening) = tokio::join!(dialling.authenticated(), listening.authenticated());
        let AuthenticationFailure::Refused(error) = listening.unwrap_err() else { panic!("not refused") };
        assert!(matches!(error.downcast_ref(), Some(HelloError::NoCommonVersion(_))), "{error}");
        let AuthenticationFailure::Refused(error) = dialling.unwrap_err() else { panic!("not refused") };
        assert_eq!(error.downcast_ref(), Some(&HelloError::Refused(1)));
    }
}

/// Notes what the peer view holds whenever the registry is called.
#[derive(Default)]
struct Watching {
    registry: InMemoryTunnelRegistry,
    view: Mutex<PeersView>,
    notes: Mutex<Vec<(&'static str, usize)>>,
}

impl Watching {
    fn note(&self, call: &'static str) {
        let held = self.view.lock().unwrap().len();
        self.notes.lock().unwrap().push((call, held));
    }
}

impl TunnelRegistry for Watching {
    type Identifier = MemoryIdentifier;
    type Record = Registration;
    type Error = std::convert::Infallible;

    async fn lookup(&self, name: &TunnelName) -> Result<Option<Registration>, Self::Error> {
        self.registry.lookup(name).await
    }

    async fn register(&self, registration: Registration) -> Result<MemoryIdentifier, Self::Error> {
        self.note("register");
        self.registry.register(registration).await
    }

    async fn deregister_identifier(
        &self,
        identifier: MemoryIdentifier,
    ) -> Result<Option<Registration>, Self::Error> {
        self.note("deregister");
        self.registry.deregister_identifier(identifier).await
    }
}

/// FEATURES S12. Failure 15 of the original: peers were tracked after the registry call, and untracked after the event.
#[tokio::test]
async fn the_peer_view_changes_before_the_registry_is_asked_and_before_the_event() {
    let watching = Arc::new(Watching::default());
    let builder = ModularDaemon::builder().authentication(NoOp::named(peer_name()));
    *watching.view.lock().unwrap() = builder.peers();
    let daemon = builder.registry(Arc::clone(&watching)).build();
    let mut events = daemon.subscribe();
    let (near, far) = DuplexTunnel::pair();
    daemon.attach(far).unwrap().authenticated().await.unwrap();
    assert_eq!(daemon.peers().len(), 1);
    near.close(CloseReason::Requested);
    until_disconnected(&mut events).await;
    assert!(daemon.peers().is_empty());
    daemon.shutdown().await;
    assert_eq!(*watching.notes.lock().unwrap(), [("register", 1), ("deregister", 0)]);
    assert!(watching.registry.is_empty());
}

/// Panics at the end of every tunnel, and at the beginning of the second.
#[derive(Default)]
struct Fragile {
    joined: Mutex<usize>,
}

impl TunnelObserver for Fragile {
    fn joined(&self, _: &Peer) {
        let count = {
            let mut joined = self.joined.lock().unwrap();
            *joined += 1;
            *joined
        };
        assert_ne!(count, 2, "on purpose");
    }

    fn left(&self, _: &Peer, _: &Closed) {
        panic!("on purpose");
    }
}

/// FEATURES S14.
#[tokio::test]
async fn no_way_out_misses_the_clean_up() {
    let daemon = ModularDaemon::builder()
        .authentication(NoOp::named(peer_name()))
        .observer(Arc::new(Fragile::default()))
        .build();
    let mut events = daemon.subscribe();
    // Closed by the peer.
    let (near, far) = DuplexTunnel::pair();
    daemon.attach(far).unwrap().authenticated().await.unwrap();
    near.close(CloseReason::Requested);
    until_disconnected(&mut events).await;
    // Ended by a panic in its own task.
    let (near, far) = DuplexTunnel::pair();
    let failure = daemon.attach(far).unwrap().authenticated().await.unwrap_err();
    assert!(matches!(failure, AuthenticationFailure::Broken), "{failure}");
    until_disconnected(&mut events).await;
    assert!(near.closed().is_some());
    // Closed by command.
    let (_near, far) = DuplexTunnel::pair();
    let peer = daemon.attach(far).unwrap().authenticated().await.unwrap();
    assert!(daemon.disconnect(peer.id, CloseReason::Denied));
    until_disconnected(&mut events).await;
    assert!(!daemon.disconnect(peer.id, CloseReason::Denied));
    // Closed by the shutdown.
    let (near, far) = DuplexTunnel::pair();
    daemon.attach(far).unwrap().authenticated().await.unwrap();
    assert_eq!(daemon.shutdown().await, Drained::Clean);
    assert_eq!(near.closed(), Some(Closed::ByPeer(CloseReason::ShuttingDown)));
    assert!(daemon.peers().is_empty());
    assert!(daemon.registry().is_empty());
}

/// Failure 8 of the original: a shutdown never completed while a client was attached, and went on serving.
#[tokio::test(start_paused = true)]
async fn a_shutdown_takes_nothing_new_and_ends_although_a_peer_stays() {
    let serving = trusting(ServiceRegistry::new().with(Troublesome::default()).with(Echo));
    let asking = trusting(ServiceRegistry::new());
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    let mut stays = open(&peer.tunnel, &address("/wait")).await.unwrap();
    let shutdown = tokio::spawn({
        let serving = serving.clone();
        async move { serving.shutdown().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(serving.attach(DuplexTunnel::pair().1).unwrap_err(), AttachError::ShuttingDown);
    open(&peer.tunnel, &address("/echo")).await.unwrap_err();
    assert_eq!(shutdown.await.unwrap(), Drained::Cut);
    stays.recv.read_chunk(1).await.unwrap_err();
    assert_eq!(peer.tunnel.on_closed().await, Closed::ByPeer(CloseReason::ShuttingDown));
    assert!(serving.registry().is_empty());
}

#[tokio::test]
async fn a_shutdown_lets_streams_come_to_their_end() {
    let serving = trusting(Echo);
    let asking = trusting(ServiceRegistry::new());
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    let mut stream = open(&peer.tunnel, &address("/echo")).await.unwrap();
    let finish = async {
        tokio::task::yield_now().await;
        stream.send.write_all(b"last").await.unwrap();
        stream.send.finish().unwrap();
        let mut echoed = [0; 4];
        stream.recv.read_exact(&mut echoed).await.unwrap();
        echoed
    };
    let (drained, echoed) = tokio::join!(serving.shutdown(), finish);
    assert_eq!(drained, Drained::Clean);
    assert_eq!(&echoed, b"last");
}

#[tokio::test]
async fn tunnels_beyond_the_limit_are_turned_away_and_one_that_ends_makes_room() {
    let config = DaemonConfig { max_tunnels: NonZeroUsize::MIN, ..DaemonConfig::default() };
    let daemon = ModularDaemon::builder().authentication(NoOp::named(peer_name())).config(config).build();
    let mut events = daemon.subscribe();
    let (first, far) = DuplexTunnel::pair();
    daemon.attach(far).unwrap();
    let (second, far) = DuplexTunnel::pair();
    assert_eq!(daemon.attach(far).unwrap_err(), AttachError::TooManyTunnels);
    assert_eq!(second.closed(), Some(Closed::ByPeer(CloseReason::TooManyTunnels)));
    first.close(CloseReason::Requested);
    until_disconnected(&mut events).await;
    while daemon.attach(DuplexTunnel::pair().1).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_node_has_only_so_many_tunnels() {
    let config = DaemonConfig { max_tunnels_per_node: NonZeroUsize::MIN, ..DaemonConfig::default() };
    let daemon = ModularDaemon::builder().authentication(NoOp::named(peer_name())).config(config).build();
    let (_first, far) = DuplexTunnel::pair_between(node(1), node(9));
    daemon.attach(far).unwrap().authenticated().await.unwrap();
    let (second, far) = DuplexTunnel::pair_between(node(1), node(9));
    let failure = daemon.attach(far).unwrap().authenticated().await.unwrap_err();
    assert!(matches!(failure, AuthenticationFailure::TooManyTunnels), "{failure}");
    assert_eq!(second.on_closed().await, Closed::ByPeer(CloseReason::TooManyTunnels));
    let (_other, far) = DuplexTunnel::pair_between(node(2), node(9));
    daemon.attach(far).unwrap().authenticated().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn streams_that_never_say_what_they_want_give_their_places_back() {
    let serving = trusting(Echo);
    let asking = trusting(ServiceRegistry::new());
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    let mut stalled = Vec::new();
    for _ in 0..serving.core.config.max_undecided_streams.get() {
        let mut stream = peer.tunnel.open_stream().await.unwrap();
        stream.send.write_all(b"S").await.unwrap();
        stalled.push(stream);
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let opened = crate::service::open_by(&peer.tunnel, &address("/echo"), deadline).await;
    opened.unwrap();
    for mut stream in stalled {
        let mut answer = [0];
        stream.recv.read_exact(&mut answer).await.unwrap();
        assert_ne!(answer, [0]);
    }
}

/// FEATURES B2, S3. However small the buffer: a snapshot, the stream and a resync after each lag make the very table.
#[tokio::test]
async fn a_slow_reader_of_a_daemons_events_ends_up_with_the_very_table() {
    let config = DaemonConfig { event_capacity: NonZeroUsize::new(3).unwrap(), ..DaemonConfig::default() };
    let daemon = ModularDaemon::builder().authentication(NoOp::named(peer_name())).config(config).build();
    let (_before, far) = DuplexTunnel::pair();
    daemon.attach(far).unwrap().authenticated().await.unwrap();
    let (snapshot, mut events) = daemon.subscribe_with_snapshot();
    let mut latest = daemon.coalesce(|_| true);
    let (mut table, mut seen) = (snapshot.state.clone(), snapshot.state);
    assert_eq!(table.len(), 1);
    let mut tunnels = Vec::new();
    let mut lags = 0;
    for round in 0_usize..40 {
        let (near, far) = DuplexTunnel::pair();
        daemon.attach(far).unwrap().authenticated().await.unwrap();
        tunnels.push(near);
        if round % 3 == 0 {
            tunnels.swap_remove(round % tunnels.len()).close(CloseReason::Requested);
        }
        // The reader's pace changes: sometimes it keeps up, sometimes it is far behind.
        for _ in 0..round % 7 {
            match events.try_recv() {
                Ok(Some((_, event))) => event.apply(&mut table),
                Ok(None) => {
                    assert_eq!(table, daemon.subscribe_with_snapshot().0.state);
                    break;
                }
                Err(_lagged) => {
                    lags += 1;
                    table = events.resync().state;
                }
            }
        }
        if round % 5 == 0
            && let Some(change) = latest.try_recv()
        {
            note(&mut seen, change);
        }
    }
    loop {
        match events.try_recv() {
            Ok(Some((_, event))) => event.apply(&mut table),
            Ok(None) => break,
            Err(_lagged) => table = events.resync().state,
        }
    }
    while let Some(change) = latest.try_recv() {
        note(&mut seen, change);
    }
    let state = daemon.subscribe_with_snapshot().0.state;
    assert!(lags > 0 && state.len() > 20, "{lags} lags, {} tunnels", state.len());
    assert_eq!(table, state);
    assert_eq!(seen, state);
    assert_eq!(daemon.peers().len(), state.len());
}

fn note(table: &mut TunnelTable, change: crate::event::Change<TunnelId, Option<TunnelStatus>>) {
    match change.latest {
        Some(status) => table.insert(change.key, status),
        None => table.remove(&change.key),
    };
}

/// FEATURES S13. A source may go and come back; its tunnels live on, and none is lost in between.
#[tokio::test]
async fn sources_are_attached_and_detached_while_the_daemon_runs() {
    let daemon = trusting(Echo);
    let (quick, quick_source) = tokio::sync::mpsc::channel(4);
    let (other, other_source) = tokio::sync::mpsc::channel(4);
    let first = daemon.attach_source(quick_source);
    let second = daemon.attach_source(other_source);
    let pairs: Vec<_> = (0..3).map(|_| DuplexTunnel::pair()).collect();
    quick.send(pairs[0].1.clone()).await.unwrap();
    echo(&ArcTunnel::new(pairs[0].0.clone())).await;
    let detached = first.detach().await.unwrap();
    quick.send(pairs[1].1.clone()).await.unwrap();
    other.send(ArcTunnel::new(pairs[2].1.clone())).await.unwrap();
    echo(&ArcTunnel::new(pairs[2].0.clone())).await;
    assert_eq!(daemon.peers().len(), 2);
    echo(&ArcTunnel::new(pairs[0].0.clone())).await;
    let again = daemon.attach_source(detached);
    echo(&ArcTunnel::new(pairs[1].0.clone())).await;
    assert_eq!(daemon.peers().len(), 3);
    drop(quick);
    assert!(again.detach().await.is_some());
    daemon.shutdown().await;
    assert!(second.detach().await.is_some());
}

/// HARDENING: streams that come to nothing are slowed down, those that are served are not.
#[tokio::test(start_paused = true)]
async fn a_peer_that_opens_streams_for_nothing_is_slowed_down_and_no_other() {
    let config = DaemonConfig {
        max_wasted_streams: std::num::NonZeroU32::new(10).unwrap(),
        wasted_stream_burst: std::num::NonZeroU32::new(20).unwrap(),
        ..DaemonConfig::default()
    };
    let authentication = NoOp::named(peer_name());
    let serving =
        ModularDaemon::builder().authentication(authentication).services(Echo).config(config).build();
    let (asking, honest) = (trusting(ServiceRegistry::new()), trusting(ServiceRegistry::new()));
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    let (other, _) = joined((&honest, node(3)), (&serving, node(2))).await;
    let begin = tokio::time::Instant::now();
    for _ in 0..200 {
        echo(&peer.tunnel).await;
    }
    assert_eq!(begin.elapsed(), Duration::ZERO, "what is served costs nothing");
    for _ in 0..20 {
        open(&peer.tunnel, &address("/nothing")).await.unwrap_err();
    }
    assert_eq!(begin.elapsed(), Duration::ZERO, "a burst is free");
    for _ in 0..30 {
        open(&peer.tunnel, &address("/nothing")).await.unwrap_err();
    }
    assert_eq!(begin.elapsed(), Duration::from_secs(3), "then it is ten a second");
    let before = tokio::time::Instant::now();
    for _ in 0..50 {
        echo(&other.tunnel).await;
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;
    echo(&peer.tunnel).await;
}

/// HARDENING B16: open and reset.
#[tokio::test(start_paused = true)]
async fn a_peer_whose_streams_mostly_make_no_sense_loses_its_tunnel_and_no_other_does() {
    let serving = trusting(Echo);
    let (rude, honest) = (trusting(ServiceRegistry::new()), trusting(ServiceRegistry::new()));
    let (peer, _) = joined((&rude, node(1)), (&serving, node(2))).await;
    let (other, _) = joined((&honest, node(3)), (&serving, node(2))).await;
    for number in 0..900 {
        open(&other.tunnel, &address("/nothing")).await.unwrap_err();
        let Ok(mut stream) = peer.tunnel.open_stream().await else { panic!("closed after {number}") };
        stream.send.write_all(b"S").await.unwrap();
    }
    for _ in 0..300 {
        open(&other.tunnel, &address("/nothing")).await.unwrap_err();
        let Ok(mut stream) = peer.tunnel.open_stream().await else { break };
        // Whether it is closed at this very moment is up to the other side.
        stream.send.write_all(b"S").await.ok();
    }
    assert_eq!(peer.tunnel.on_closed().await, Closed::ByPeer(CloseReason::ProtocolViolation));
    echo(&other.tunnel).await;
}

/// FEATURES S4. A daemon whose peers have tokens and no certificates.
#[tokio::test]
async fn a_daemon_takes_tunnels_by_bearer_token() {
    use crate::auth::{BearerSecret, BearerToken, Grant};
    let token = BearerSecret::new("a secret of enough bytes").unwrap();
    let accepted = BearerToken::new();
    accepted.grant(&token, Grant { name: "edge-7".parse().unwrap(), attributes: Arc::default() });
    let listening = ModularDaemon::builder().authentication(accepted).services(Echo).build();
    let showing = BearerToken::new().showing(token, "hub".parse().unwrap());
    let connecting = ModularDaemon::builder().authentication(showing).build();
    let (near, far) = DuplexTunnel::pair();
    let (near, far) = (connecting.attach(near).unwrap(), listening.attach(far).unwrap());
    let (near, far) = tokio::join!(near.authenticated(), far.authenticated());
    assert_eq!(far.unwrap().name.as_str(), "edge-7");
    let near = near.unwrap();
    assert_eq!(near.name.as_str(), "hub");
    echo(&near.tunnel).await;
    let wrong = BearerToken::new().showing(BearerSecret::new([7; 32]).unwrap(), "hub".parse().unwrap());
    let wrong = ModularDaemon::builder().authentication(wrong).build();
    let (near, far) = DuplexTunnel::pair();
    let (near, far) = (wrong.attach(near).unwrap(), listening.attach(far).unwrap());
    let (near, far) = tokio::join!(near.authenticated(), far.authenticated());
    assert!(near.is_err() && far.is_err());
    assert_eq!(listening.peers().len(), 1);
}

/// FEATURES S5, S7. What is registered is never changed: what changes is an attribute beside it. The registry may know
/// more and less than the daemon does, and says nothing of the daemon's own view.
#[tokio::test]
async fn a_registration_is_as_it_was_made_whatever_the_registry_says_of_it_meanwhile() {
    let registry = Arc::new(InMemoryTunnelRegistry::new());
    let daemon = ModularDaemon::builder()
        .registry(Arc::clone(&registry))
        .authentication(NoOp::named(peer_name()))
        .build();
    let (_near, far) = DuplexTunnel::pair();
    let peer = daemon.attach(far).unwrap().authenticated().await.unwrap();
    let record = loop {
        if let Some(record) = registry.lookup(&peer_name()).await.unwrap() {
            break record;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((record.tunnel, &record.attributes), (peer.id, &peer.attributes));
    // Another process registers the name, and a record of this one goes: the daemon goes by its own view.
    let elsewhere = Registration { tunnel: TunnelId(1), ..record.clone() };
    registry.register(elsewhere.clone()).await.unwrap();
    assert_eq!(registry.lookup(&peer_name()).await.unwrap(), Some(elsewhere));
    assert_eq!(daemon.peers().named(&peer_name()).unwrap().id, peer.id);
    daemon.shutdown().await;
    let left = registry.lookup(&peer_name()).await.unwrap();
    assert_eq!(left.map(|left| left.tunnel), Some(TunnelId(1)), "only its own record went");
}

/// FEATURES S15, S19.
#[tokio::test]
async fn an_address_that_nobody_serves_is_refused_and_the_tunnel_lives() {
    let serving = trusting(ServiceRegistry::new().with(Echo));
    let asking = trusting(ServiceRegistry::new());
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    let refused = open(&peer.tunnel, &address("/nothing")).await.unwrap_err();
    assert_eq!(refused, OpenError::Refused(Refusal::NoSuchService));
    echo(&peer.tunnel).await;
}

/// FEATURES S13, S21.
#[tokio::test]
async fn one_daemon_runs_sources_of_different_tunnels_and_holds_their_incoming_side() {
    let daemon = trusting(Echo);
    let mut events = daemon.subscribe();
    let (tunnels, source) = tokio::sync::mpsc::channel(1);
    let (dynamic, dynamic_source) = tokio::sync::mpsc::channel(1);
    let ((near, far), (other, dynamic_far)) = (DuplexTunnel::pair(), DuplexTunnel::pair());
    tunnels.send(far.clone()).await.unwrap();
    dynamic.send(ArcTunnel::new(dynamic_far)).await.unwrap();
    drop((tunnels, dynamic));
    tokio::join!(daemon.run(source), daemon.run(dynamic_source));
    echo(&ArcTunnel::new(near.clone())).await;
    echo(&ArcTunnel::new(other)).await;
    let mut numbers = Vec::new();
    while let Ok(Some((number, _))) = events.try_recv() {
        numbers.push(number);
    }
    assert_eq!(numbers, (0..4).map(Sequence).collect::<Vec<_>>());
    let incoming = tokio::spawn(async move { far.incoming().await.unwrap_err() });
    near.close(CloseReason::Requested);
    assert_eq!(incoming.await.unwrap(), Closed::ByPeer(CloseReason::Requested));
}
