//! Three daemons over real QUIC on loopback. What the protocol decides is tested beside it, on virtual time.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::auth::MeshCredentials;
use crate::auth::test_mesh::TestMesh;
use crate::clock::WallClock;
use crate::crdt::Value;
use crate::daemon::{ModularDaemon, RecvError, Subscription};
use crate::gossip::{Config, Event, MemberState, Mesh};
use crate::id::{Actor, Generation};
use crate::replica::{Address, AttributeKey};
use crate::service::{Declared, Kind, RouteService, ServiceRegistry, TargetService, TargetTable, open};
use crate::tunnel::quic::{Gate, GatedSocket, QuicConfig, QuicEndpoint, bind_socket};
use crate::tunnel::{ArcTunnel, CloseReason, Closed, TunnelMonitoring, TunnelStream};

/// Everything here happens within milliseconds; this is for machines that are asleep.
const PATIENCE: Duration = Duration::from_secs(60);

type Daemon = ModularDaemon<MeshRegistry, ServiceRegistry>;

struct TestNode {
    endpoint: QuicEndpoint,
    mesh: MeshHandle,
    targets: TargetTable,
    address: Address,
    gate: Gate,
    daemon: Daemon,
    cancel: CancellationToken,
    driver: tokio::task::JoinHandle<()>,
}

/// A connector that does not reach some addresses.
struct Avoiding<C> {
    inner: C,
    avoided: Arc<Mutex<Vec<Address>>>,
}

impl<C: Connector> Connector for Avoiding<C> {
    async fn connect(
        &self,
        address: &Address,
        expect: Option<crate::id::NodeId>,
    ) -> Result<(ArcTunnel, crate::id::NodeId), ConnectError> {
        if self.avoided.lock().unwrap().contains(address) {
            return Err(ConnectError::Resolve(std::io::ErrorKind::HostUnreachable.into()));
        }
        self.inner.connect(address, expect).await
    }
}

impl TestNode {
    fn start(credentials: &MeshCredentials, generation: u64, seeds: &[&Address]) -> Self {
        Self::start_avoiding(credentials, generation, seeds, Arc::default())
    }

    /// Starts a node that cannot reach the addresses in `avoided`.
    fn start_avoiding(
        credentials: &MeshCredentials,
        generation: u64,
        seeds: &[&Address],
        avoided: Arc<Mutex<Vec<Address>>>,
    ) -> Self {
        Self::start_as(Config::default(), credentials, generation, seeds, avoided)
    }

    fn start_as(
        config: Config,
        credentials: &MeshCredentials,
        generation: u64,
        seeds: &[&Address],
        avoided: Arc<Mutex<Vec<Address>>>,
    ) -> Self {
        let gate = Gate::new();
        let socket = GatedSocket::wrap(bind_socket("127.0.0.1:0".parse().unwrap()).unwrap(), gate.clone());
        let endpoint =
            QuicEndpoint::with_socket(socket, QuicConfig::default(), credentials.tls().unwrap()).unwrap();
        let address: Address = endpoint.local_addr().unwrap().to_string().parse().unwrap();
        let gossip = Config {
            addresses: vec![address.clone()],
            seeds: seeds.iter().map(|seed| (*seed).clone()).collect(),
            ..config
        };
        let actor = Actor { node: credentials.identity.node_id(), generation: Generation(generation) };
        let event_capacity = NonZeroUsize::new(1_024).unwrap();
        let driver = Driver::new(DriverConfig {
            gossip,
            actor,
            seed: generation,
            event_capacity,
            clock: WallClock::system(),
        })
        .unwrap();
        let mesh = driver.handle();
        let (builder, targets, services) =
            (ModularDaemon::builder(), TargetTable::new(), ServiceRegistry::new());
        let route = RouteService::new(builder.peers());
        let daemon = builder
            .registry(MeshRegistry::new(mesh.clone()))
            .services(services.with(driver.service()).with(TargetService::new(targets.clone())).with(route))
            .build();
        tokio::spawn({
            let (daemon, source) = (daemon.clone(), endpoint.incoming());
            async move { daemon.run(source).await }
        });
        let cancel = CancellationToken::new();
        let connector = Avoiding { inner: DaemonConnector::new(endpoint.clone(), daemon.clone()), avoided };
        let driver = tokio::spawn(driver.run(connector, cancel.clone()));
        Self { endpoint, mesh, targets, address, gate, daemon, cancel, driver }
    }

    async fn stop(self) {
        self.mesh.leave().await.unwrap();
        self.cancel.cancel();
        self.driver.await.unwrap();
        self.daemon.shutdown().await;
    }
}

/// A mesh of one node that dials nobody.
pub(super) struct Alone {
    handle: MeshHandle,
    _cancel: tokio_util::sync::DropGuard,
}

impl Alone {
    pub(super) fn handle(&self) -> MeshHandle {
        self.handle.clone()
    }
}

struct Nowhere;

impl Connector for Nowhere {
    async fn connect(
        &self,
        _: &Address,
        _: Option<crate::id::NodeId>,
    ) -> Result<(ArcTunnel, crate::id::NodeId), ConnectError> {
        unreachable!("there is no address")
    }
}

pub(super) fn alone() -> Alone {
    let actor = Actor { node: crate::id::NodeId::from_bytes([7; 32]), generation: Generation(1) };
    let event_capacity = NonZeroUsize::new(1_024).unwrap();
    let config = DriverConfig {
        gossip: Config::default(),
        actor,
        seed: 1,
        event_capacity,
        clock: WallClock::system(),
    };
    let driver = Driver::new(config).unwrap();
    let (handle, cancel) = (driver.handle(), CancellationToken::new());
    tokio::spawn(driver.run(Nowhere, cancel.clone()));
    Alone { handle, _cancel: cancel.drop_guard() }
}

fn key(text: &str) -> AttributeKey {
    text.parse().unwrap()
}

fn value(text: &str) -> Value {
    text.as_bytes().try_into().unwrap()
}

/// Waits until all nodes hold the same and are linked with each other.
async fn converge(nodes: &[&TestNode]) {
    let converged = async {
        loop {
            let mut digests = Vec::new();
            for node in nodes {
                let (digest, linked) =
                    node.mesh.view(|mesh| (mesh.digest(), mesh.linked().count())).await.unwrap();
                if linked == nodes.len() - 1 {
                    digests.push(digest);
                }
            }
            if digests.len() == nodes.len() && digests.iter().all(|digest| *digest == digests[0]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, converged).await.expect("the nodes converge");
}

async fn await_event(events: &mut Subscription<Event>, sought: impl Fn(&Event) -> bool) {
    let found = async {
        loop {
            match events.recv().await {
                Ok((_, event)) if sought(&event) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => panic!("the mesh has stopped"),
            }
        }
    };
    timeout(PATIENCE, found).await.expect("the event comes");
}

/// FEATURES S6, B1.
#[tokio::test]
async fn three_nodes_over_quic_agree_through_a_partition() {
    let test_mesh = TestMesh::new();
    let credentials: Vec<MeshCredentials> = (0..3).map(|_| test_mesh.credentials()).collect();
    let a = TestNode::start(&credentials[0], 1, &[]);
    let b = TestNode::start(&credentials[1], 1, &[&a.address]);
    let c = TestNode::start(&credentials[2], 1, &[&a.address]);
    converge(&[&a, &b, &c]).await;

    let mut events = c.mesh.subscribe();
    assert_eq!(a.mesh.set(key("mesh/x"), value("1")).await, Ok(Written::Yes));
    assert_eq!(a.mesh.set(key("mesh/x"), value("1")).await, Ok(Written::Unchanged));
    await_event(&mut events, |event| matches!(event, Event::Attribute { value: Some(_), .. })).await;
    assert_eq!(
        c.mesh.view(|mesh| mesh.replica().attribute(&key("mesh/x")).unwrap().value).await,
        Ok(value("1"))
    );

    let mut events = a.mesh.subscribe();
    let peer = c.mesh.node();
    c.gate.shut();
    await_event(&mut events, |event| matches!(event, Event::LinkDown { peer: down } if *down == peer)).await;
    a.mesh.set(key("mesh/y"), value("left")).await.unwrap();
    c.mesh.set(key("mesh/y"), value("right")).await.unwrap();
    c.gate.open();
    converge(&[&a, &b, &c]).await;
    let read = b.mesh.view(|mesh| mesh.replica().attribute(&key("mesh/y")).unwrap()).await.unwrap();
    assert_eq!(read.siblings.len(), 1);
    for node in [a, b, c] {
        node.stop().await;
    }
}

/// FEATURES P9.
#[tokio::test]
async fn counters_add_up_and_sets_keep_additions_through_a_partition() {
    let test_mesh = TestMesh::new();
    let a = TestNode::start(&test_mesh.credentials(), 1, &[]);
    let b = TestNode::start(&test_mesh.credentials(), 1, &[&a.address]);
    converge(&[&a, &b]).await;
    let (hits, sites) = (key("mesh/hits"), key("mesh/sites"));
    assert_eq!(a.mesh.increment(hits.clone(), 2).await, Ok(2));
    assert_eq!(a.mesh.add(sites.clone(), value("north")).await, Ok(Written::Yes));
    assert_eq!(a.mesh.add(sites.clone(), value("north")).await, Ok(Written::Unchanged));
    converge(&[&a, &b]).await;
    let mut events = a.mesh.subscribe();
    let peer = b.mesh.node();
    b.gate.shut();
    await_event(&mut events, |event| matches!(event, Event::LinkDown { peer: down } if *down == peer)).await;
    assert_eq!(a.mesh.increment(hits.clone(), 10).await, Ok(12));
    assert_eq!(b.mesh.increment(hits.clone(), -3).await, Ok(-1));
    // One side removes what the other one takes out and adds again.
    assert_eq!(a.mesh.discard(sites.clone(), value("north")).await, Ok(Written::Yes));
    assert_eq!(b.mesh.discard(sites.clone(), value("north")).await, Ok(Written::Yes));
    assert_eq!(b.mesh.add(sites.clone(), value("north")).await, Ok(Written::Yes));
    b.gate.open();
    converge(&[&a, &b]).await;
    for node in [&a, &b] {
        assert_eq!(node.mesh.counter(hits.clone()).await, Ok(Some(9)));
        assert_eq!(node.mesh.members_of(sites.clone()).await, Ok(vec![value("north")]));
    }
    await_event(&mut events, |event| matches!(event, Event::Counter { value: Some(9), .. })).await;
    for node in [a, b] {
        node.stop().await;
    }
}

/// FEATURES B2, S3.
#[tokio::test]
async fn a_slow_reader_of_the_mesh_ends_up_with_the_very_picture() {
    let mesh = alone();
    let handle = mesh.handle();
    handle.set(key("mesh/before"), value("1")).await.unwrap();
    let (snapshot, mut events) = handle.subscribe_with_snapshot().await.unwrap();
    let (_, mut changes) = handle.coalesce(|topic| topic.is_under("mesh/n")).await.unwrap();
    assert_eq!(snapshot.state.attributes.len(), 1);
    let mut picture = snapshot.state;
    // More than the ring holds, on few keys.
    for number in 0..3_000 {
        handle.set(key(&format!("mesh/n{}", number % 3)), value(&number.to_string())).await.unwrap();
        handle.increment(key("mesh/hits"), 1).await.unwrap();
    }
    assert!(matches!(events.recv().await, Err(RecvError::Lagged(_))));
    picture.clone_from(&handle.resync(&mut events).await.unwrap().state);
    handle.unset(key("mesh/before")).await.unwrap();
    let (_, event) = events.recv().await.unwrap();
    picture.apply(&event);
    assert_eq!(picture, handle.subscribe_with_snapshot().await.unwrap().0.state);
    assert_eq!(picture.counters[&key("mesh/hits")], 3_000);
    assert_eq!(changes.pending(), 3);
    let latest = changes.try_recv().unwrap();
    assert!(matches!(latest.latest, Event::Attribute { value: Some(latest), .. } if latest == value("2997")));
}

#[tokio::test]
async fn a_state_larger_than_a_frame_arrives_whole() {
    let test_mesh = TestMesh::new();
    let a = TestNode::start(&test_mesh.credentials(), 1, &[]);
    let large = Value::try_from(&[7; Value::MAX_LEN][..]).unwrap();
    for number in 0..40 {
        a.mesh.set(key(&format!("mesh/large-{number}")), large.clone()).await.unwrap();
    }
    let b = TestNode::start(&test_mesh.credentials(), 1, &[&a.address]);
    converge(&[&a, &b]).await;
    let count = b.mesh.view(|mesh| mesh.replica().attributes("mesh/").count()).await.unwrap();
    assert_eq!(count, 40);
    assert!(a.mesh.traffic().delta_frames >= 40);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn whoever_stops_has_left_and_what_it_registered_is_not_offered() {
    let test_mesh = TestMesh::new();
    let a = TestNode::start(&test_mesh.credentials(), 1, &[]);
    let b = TestNode::start(&test_mesh.credentials(), 1, &[&a.address]);
    converge(&[&a, &b]).await;
    let name: crate::id::TunnelName = "web".parse().unwrap();
    let tunnel = crate::id::TunnelId(7);
    b.mesh.register(name.clone(), tunnel, crate::replica::Attributes::default()).await.unwrap();
    converge(&[&a, &b]).await;
    assert_eq!(a.mesh.lookup(name.clone()).await.unwrap().len(), 1);
    let mut events = a.mesh.subscribe();
    b.stop().await;
    await_event(&mut events, |event| matches!(event, Event::Member { state: MemberState::Left, .. })).await;
    assert!(a.mesh.lookup(name).await.unwrap().is_empty());
    a.stop().await;
}

#[tokio::test]
async fn another_mesh_is_not_joined_and_it_is_known_why() {
    let a = TestNode::start(&TestMesh::new().credentials(), 1, &[]);
    let b = TestNode::start(&TestMesh::new().credentials(), 1, &[&a.address]);
    let refused = async {
        loop {
            if let Some(status) = b.mesh.dials().into_iter().find(|status| status.failures > 0) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let status = timeout(PATIENCE, refused).await.expect("the attempt fails");
    assert_eq!(status.address, a.address);
    let error = status.error.unwrap().to_lowercase();
    assert!(error.contains("certificate") || error.contains("trust") || error.contains("issuer"), "{error}");
    assert_eq!(a.mesh.view(|mesh| mesh.linked().count()).await, Ok(0));
    a.stop().await;
    b.stop().await;
}

impl TestNode {
    /// Offers what one `sort` after the other makes of its input.
    async fn offer_sort(&self) {
        let (name, id): (crate::id::TunnelName, _) = ("sort".parse().unwrap(), crate::id::TunnelId(7));
        let target = "stdio:/usr/bin/sort".parse().unwrap();
        self.targets.declare(name.clone(), Declared { target, id: Some(id) });
        self.mesh.register(name, id, crate::replica::Attributes::default()).await.unwrap();
    }
}

/// Has `sort` at the other end of a stream sort something.
async fn sort(mut stream: TunnelStream) {
    stream.send.write_all(b"b\na\n").await.unwrap();
    stream.send.finish().unwrap();
    let mut sorted = [0; 4];
    stream.recv.read_exact(&mut sorted).await.unwrap();
    assert_eq!(&sorted, b"a\nb\n");
}

/// Two nodes that call each other at once have two tunnels for a moment, of which one goes.
#[tokio::test]
async fn a_stream_that_began_on_the_tunnel_that_loses_the_race_comes_to_its_own_end() {
    let test_mesh = TestMesh::new();
    let mut credentials = [test_mesh.credentials(), test_mesh.credentials()];
    credentials.sort_by_key(|credentials| credentials.identity.node_id());
    // The link that the smaller id dials is preferred: it comes second here.
    let a = TestNode::start(&credentials[0], 1, &[]);
    let b = TestNode::start(&credentials[1], 1, &[&a.address]);
    converge(&[&a, &b]).await;
    a.offer_sort().await;
    let first = b.daemon.peers().node(a.mesh.node()).remove(0).tunnel;
    let stream = open(&first, &"/target/sort".parse().unwrap()).await.unwrap();

    let dialled = a.endpoint.dial(b.address.as_str().parse().unwrap(), None).await.unwrap();
    let second = a.daemon.attach(dialled).unwrap().authenticated().await.unwrap();
    let streams = link::open_streams(&second.tunnel).await.unwrap();
    let connected = input::Input::Connected {
        dial: crate::gossip::DialId(u64::MAX),
        address: b.address.clone(),
        tunnel: second.tunnel.clone(),
        peer: b.mesh.node(),
        streams,
    };
    a.mesh.inputs.send(connected).await.unwrap();
    let retired = async {
        while !first.is_retired() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, retired).await.expect("one of two tunnels goes");
    assert!(!b.daemon.peers().node(a.mesh.node())[0].tunnel.is_same(&first));
    sort(stream).await;
    let closed = timeout(PATIENCE, first.on_closed()).await.expect("it goes when nobody needs it");
    assert!(matches!(
        closed,
        Closed::Locally(CloseReason::Superseded) | Closed::ByPeer(CloseReason::Superseded)
    ));
    assert!(second.tunnel.closed().is_none());
    for node in [a, b] {
        node.stop().await;
    }
}

/// A probe of a seed looks like that from the other end: a tunnel whose link is never introduced.
#[tokio::test]
async fn a_stream_outlives_that_the_link_beside_it_says_nothing() {
    let test_mesh = TestMesh::new();
    let credentials = [test_mesh.credentials(), test_mesh.credentials()];
    let a = TestNode::start(&credentials[0], 1, &[]);
    let b = TestNode::start(&credentials[1], 1, &[&a.address]);
    converge(&[&a, &b]).await;
    b.offer_sort().await;
    let dialled = b.endpoint.dial(a.address.as_str().parse().unwrap(), None).await.unwrap();
    let probe = b.daemon.attach(dialled).unwrap().authenticated().await.unwrap();
    let _mute = link::open_streams(&probe.tunnel).await.unwrap();
    let there = a.daemon.peers().node(b.mesh.node()).remove(0).tunnel;
    let stream = open(&there, &"/target/sort".parse().unwrap()).await.unwrap();
    let given_up = async {
        while !there.is_retired() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, given_up).await.expect("a link that is never introduced is given up");
    sort(stream).await;
    let closed = timeout(PATIENCE, there.on_closed()).await.expect("it goes when nobody needs it");
    assert_eq!(closed, Closed::Locally(CloseReason::Unresponsive));
    for node in [a, b] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_holder_to_which_no_link_leads_is_reached_over_a_node_between() {
    let test_mesh = TestMesh::new();
    let beyond = Arc::new(Mutex::new(Vec::new()));
    let a = TestNode::start_avoiding(&test_mesh.credentials(), 1, &[], Arc::clone(&beyond));
    let b = TestNode::start(&test_mesh.credentials(), 1, &[&a.address]);
    let credentials = test_mesh.credentials();
    let c = {
        // Nobody dials this one before its address is avoided: it has told it to nobody.
        let avoided = Arc::new(Mutex::new(vec![a.address.clone()]));
        let c = TestNode::start_avoiding(&credentials, 1, &[], avoided);
        beyond.lock().unwrap().push(c.address.clone());
        c
    };
    let dialled = c.endpoint.dial(b.address.as_str().parse().unwrap(), None).await.unwrap();
    let between = c.daemon.attach(dialled).unwrap().authenticated().await.unwrap();
    let streams = link::open_streams(&between.tunnel).await.unwrap();
    let connected = input::Input::Connected {
        dial: crate::gossip::DialId(u64::MAX),
        address: b.address.clone(),
        tunnel: between.tunnel.clone(),
        peer: b.mesh.node(),
        streams,
    };
    c.mesh.inputs.send(connected).await.unwrap();
    c.offer_sort().await;
    let router = Router::new(a.mesh.clone(), a.daemon.peers());
    let route = Route::new("sort".parse().unwrap(), Policy::Last, Kind::Stream);
    let relayed = async {
        loop {
            let found = router.resolve(&route.destination, route.policy).await.unwrap();
            match found.first().map(|found| (found.way, found.refused.clone())) {
                Some((Way::Over { relay, .. }, None)) => return relay,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let relay = timeout(PATIENCE, relayed).await.expect("it is found, and the way to it");
    assert_eq!(relay, b.mesh.node());
    sort(router.open(&route, None).await.unwrap()).await;
    assert!(a.daemon.peers().node(c.mesh.node()).is_empty());
    for node in [a, b, c] {
        node.stop().await;
    }
}

/// FEATURES B1: in a mesh too large for a full one, a holder may be several links away.
#[tokio::test]
async fn a_holder_that_is_links_away_is_reached_by_a_tunnel_made_for_it() {
    let test_mesh = TestMesh::new();
    let avoided: [Arc<Mutex<Vec<Address>>>; 4] = Default::default();
    let start = |place: usize, seeds: &[&Address]| {
        let config = Config { full_mesh: 2, ..Config::default() };
        TestNode::start_as(config, &test_mesh.credentials(), 1, seeds, Arc::clone(&avoided[place]))
    };
    // A chain: nobody calls anybody but the next one. Nothing runs before the first wait.
    let a = start(0, &[]);
    let b = start(1, &[&a.address]);
    let c = start(2, &[&b.address]);
    let d = start(3, &[&c.address]);
    let all = [&a, &b, &c, &d];
    for (place, avoided) in avoided.iter().enumerate() {
        let others = all.iter().enumerate().filter(|(other, _)| other.abs_diff(place) > 1);
        avoided.lock().unwrap().extend(others.map(|(_, node)| node.address.clone()));
    }
    d.offer_sort().await;
    let route = Route::new("sort".parse().unwrap(), Policy::Last, Kind::Stream);
    let plain = Router::new(a.mesh.clone(), a.daemon.peers());
    let known = async {
        loop {
            let found = plain.resolve(&route.destination, route.policy).await.unwrap();
            let partial = a.mesh.view(Mesh::is_partial).await.unwrap();
            match found.first() {
                Some(found) if partial && found.state == Some(MemberState::Alive) => return found.way,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    assert_eq!(timeout(PATIENCE, known).await.unwrap(), Way::None);

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let by = |avoided: Vec<Address>| {
        let connector = DaemonConnector::new(a.endpoint.clone(), a.daemon.clone());
        let connector = Avoiding { inner: connector, avoided: Arc::new(Mutex::new(avoided)) };
        let router = Router::new(a.mesh.clone(), a.daemon.peers());
        router.with_shortcuts(connector, &tasks, stop.clone()).with_idle(Duration::from_millis(40))
    };
    // Nobody can be called: several visitors wait for one attempt and are told.
    let nowhere = by(all.iter().map(|node| node.address.clone()).collect());
    let (one, other) = tokio::join!(nowhere.open(&route, None), nowhere.open(&route, None));
    for refused in [one, other] {
        assert!(matches!(refused, Err(RouteError::NoWay { holder }) if holder == d.mesh.node()));
    }
    // The holder itself answers.
    let straight = by(Vec::new());
    let found = straight.resolve(&route.destination, route.policy).await.unwrap();
    assert_eq!((found[0].way, &found[0].refused), (Way::Shortcut, &None));
    sort(straight.open(&route, None).await.unwrap()).await;
    let to_d = || a.daemon.peers().node(d.mesh.node()).first().map(|peer| peer.tunnel.clone());
    // It goes when nothing uses it any more, and while something does, it stays.
    let shortcut = to_d().unwrap();
    timeout(PATIENCE, shortcut.on_closed()).await.expect("it goes");
    let stream = straight.open(&route, None).await.unwrap();
    let shortcut = to_d().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(shortcut.closed().is_none());
    sort(stream).await;
    timeout(PATIENCE, shortcut.on_closed()).await.expect("it goes");
    // It cannot be called: its neighbour passes the stream on.
    let around = by(vec![d.address.clone()]);
    sort(around.open(&route, None).await.unwrap()).await;
    assert_eq!(a.daemon.peers().node(c.mesh.node()).len(), 1);
    // What keeps shortcuts ends when it is told to, and they with it.
    stop.cancel();
    tasks.close();
    timeout(PATIENCE, tasks.wait()).await.expect("no task is left");
    for node in [a, b, c, d] {
        node.stop().await;
    }
}
