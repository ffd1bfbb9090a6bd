//! TCP through tunnels: visitors, targets, and the nodes between them.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};

use super::*;
use crate::id::TunnelName;
use crate::service::{
    Declared, Listen, ListenerProxy, OpenError, Refusal, RouteService, TargetService, TargetTable,
    UdpListenerProxy,
};
use crate::tunnel::TunnelStream;

fn name(text: &str) -> TunnelName {
    text.parse().unwrap()
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nothing listens.
async fn nowhere() -> SocketAddr {
    listener().await.1
}

fn declare(targets: &TargetTable, text: &str, address: SocketAddr) {
    targets.declare(name(text), Declared { target: address.to_string().parse().unwrap(), id: None });
}

/// A node with targets, a node that can open streams to it, and a local port of the latter.
struct Rig {
    targets: TargetTable,
    opener: Trusting,
    _holder: Trusting<TargetService>,
    tunnel: ArcTunnel,
}

impl Rig {
    async fn new() -> Self {
        let targets = TargetTable::new();
        let holder = trusting(TargetService::new(targets.clone()));
        let opener = trusting(ServiceRegistry::new());
        let (peer, _) = joined((&opener, node(1)), (&holder, node(2))).await;
        Self { targets, opener, _holder: holder, tunnel: peer.tunnel }
    }

    /// Opens a local port whose visitors get to `/target/<text>`.
    async fn bind(&self, text: &str) -> (SocketAddr, CancellationToken) {
        let proxy = ListenerProxy::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let Listen::Tcp(local) = proxy.local_addr().unwrap() else { unreachable!("bound to TCP") };
        (local, self.serve(proxy, &format!("/target/{text}")))
    }

    /// Lets visitors of a listener get to an address of the other node.
    fn serve(&self, proxy: ListenerProxy, text: &str) -> CancellationToken {
        let stop = CancellationToken::new();
        let (tunnel, asked) = (self.tunnel.clone(), address(text));
        let open = move |_| {
            let (tunnel, asked) = (tunnel.clone(), asked.clone());
            async move { open(&tunnel, &asked).await }
        };
        tokio::spawn(proxy.run(open, stop.clone()));
        stop
    }

    /// A visitor of a target and the target's end of its connection.
    async fn visit(&self) -> (TcpStream, TcpStream) {
        let (target, at) = listener().await;
        declare(&self.targets, "web", at);
        let (local, _) = self.bind("web").await;
        let (visitor, accepted) = tokio::join!(TcpStream::connect(local), target.accept());
        (visitor.unwrap(), accepted.unwrap().0)
    }
}

async fn read_error(tcp: &mut TcpStream) -> ErrorKind {
    tcp.read_to_end(&mut Vec::new()).await.unwrap_err().kind()
}

/// FEATURES P1, P2.
#[tokio::test]
async fn a_visitor_reaches_the_target_and_half_close_passes() {
    let rig = Rig::new().await;
    let (mut visitor, mut target) = rig.visit().await;
    let question: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let ask = async {
        visitor.write_all(&question).await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut answer = Vec::new();
        visitor.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = async {
        let mut asked = Vec::new();
        target.read_to_end(&mut asked).await.unwrap();
        asked.reverse();
        target.write_all(&asked).await.unwrap();
        drop(target);
        asked
    };
    let (answered, expected) = tokio::join!(ask, answer);
    assert_eq!(answered, expected);
    assert_eq!(answered.len(), question.len());
}

/// FEATURES B9.
#[tokio::test]
async fn a_reset_at_the_target_is_a_reset_at_the_visitor() {
    let rig = Rig::new().await;
    let (mut visitor, target) = rig.visit().await;
    target.set_zero_linger().unwrap();
    drop(target);
    assert_eq!(read_error(&mut visitor).await, ErrorKind::ConnectionReset);
}

/// FEATURES B9.
#[tokio::test]
async fn a_reset_by_the_visitor_is_a_reset_at_the_target_even_after_its_half_close() {
    let rig = Rig::new().await;
    let (mut visitor, mut target) = rig.visit().await;
    visitor.shutdown().await.unwrap();
    assert_eq!(target.read(&mut [0]).await.unwrap(), 0);
    visitor.set_zero_linger().unwrap();
    drop(visitor);
    // Resets make writing fail sooner or later; nothing but the reset ends this loop.
    while target.write_all(&[0; 1024]).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// Failure 1 of the original: one reset or one refused target removed the listener.
#[tokio::test]
async fn what_befalls_one_visitor_leaves_the_listener_to_the_next() {
    let rig = Rig::new().await;
    declare(&rig.targets, "web", nowhere().await);
    let (local, _stop) = rig.bind("web").await;
    let mut refused = TcpStream::connect(local).await.unwrap();
    assert_eq!(read_error(&mut refused).await, ErrorKind::ConnectionReset);
    let reset = TcpStream::connect(local).await.unwrap();
    reset.set_zero_linger().unwrap();
    drop(reset);
    let (target, at) = listener().await;
    declare(&rig.targets, "web", at);
    // A visitor that came too early may still be on its way: the target sees it come and go.
    let mut visitor = TcpStream::connect(local).await.unwrap();
    visitor.write_all(b"it lives").await.unwrap();
    visitor.shutdown().await.unwrap();
    loop {
        let mut heard = Vec::new();
        let (mut accepted, _) = target.accept().await.unwrap();
        if accepted.read_to_end(&mut heard).await.is_ok() && heard == b"it lives" {
            break;
        }
    }
}

/// Failure 2 of the original: the listener bound all interfaces whatever was asked for.
#[tokio::test]
async fn a_listener_binds_the_address_that_was_asked_for() {
    let rig = Rig::new().await;
    let (local, _stop) = rig.bind("web").await;
    assert_eq!(local.ip().to_string(), "127.0.0.1");
}

#[tokio::test]
async fn stopping_a_listener_resets_its_visitors() {
    let rig = Rig::new().await;
    let (target, at) = listener().await;
    declare(&rig.targets, "web", at);
    let (local, stop) = rig.bind("web").await;
    let (visitor, accepted) = tokio::join!(TcpStream::connect(local), target.accept());
    let (mut visitor, mut target) = (visitor.unwrap(), accepted.unwrap().0);
    stop.cancel();
    assert_eq!(read_error(&mut visitor).await, ErrorKind::ConnectionReset);
    assert_eq!(read_error(&mut target).await, ErrorKind::ConnectionReset);
}

/// Failure 3 of the original: whoever opened a stream chose the host that was dialled.
#[tokio::test]
async fn an_opener_gets_declared_targets_only_and_is_told_why_not() {
    let rig = Rig::new().await;
    let at = nowhere().await;
    declare(&rig.targets, "dead", at);
    declare(&rig.targets, "secrets", "169.254.169.254:80".parse().unwrap());
    let refused = |text: &str| {
        let (tunnel, asked) = (rig.tunnel.clone(), address(text));
        async move {
            match open(&tunnel, &asked).await {
                Err(OpenError::Refused(refusal)) => refusal,
                other => panic!("{asked}: {other:?}"),
            }
        }
    };
    assert_eq!(refused("/target/other").await, Refusal::NotFound);
    assert_eq!(refused("/target/dead").await, Refusal::TargetUnreachable);
    assert_eq!(refused("/target/secrets").await, Refusal::Refused);
    assert_eq!(refused(&format!("/target/{at}")).await, Refusal::NoSuchService);
    assert_eq!(refused("/proxy-tcp/ip4/127.0.0.1/tcp/80").await, Refusal::NoSuchService);
    assert_eq!(rig.opener.peers().len(), 1);
}

/// Opener, relay and holder of the target `web`, in a line.
struct Line {
    opener: Trusting,
    relay: Trusting<RouteService<PeersView>>,
    holder: Trusting<TargetService>,
    targets: TargetTable,
}

impl Line {
    async fn new() -> Self {
        let targets = TargetTable::new();
        let holder = trusting(TargetService::new(targets.clone()));
        let builder = ModularDaemon::builder().authentication(NoOp::named(name("web")));
        let route = RouteService::new(builder.peers());
        let relay = builder.services(route).build();
        let opener = trusting(ServiceRegistry::new());
        joined((&opener, node(1)), (&relay, node(2))).await;
        joined((&relay, node(2)), (&holder, node(3))).await;
        Self { opener, relay, holder, targets }
    }

    async fn open(&self, text: &str) -> Result<TunnelStream, OpenError> {
        open(&self.opener.peers().node(node(2))[0].tunnel, &address(text)).await
    }
}

#[tokio::test]
async fn a_stream_passes_through_the_node_that_holds_the_tunnel() {
    let line = Line::new().await;
    let (target, at) = listener().await;
    declare(&line.targets, "web", at);
    let id = line.relay.peers().node(node(3))[0].id;
    for route in
        ["/tunnel/web/any".to_owned(), format!("/tunnel/web/{id}"), format!("/via/{}/target/web", node(3))]
    {
        let (stream, accepted) = tokio::join!(line.open(&route), target.accept());
        let (mut stream, mut target) = (stream.unwrap(), accepted.unwrap().0);
        stream.send.write_all(b"over").await.unwrap();
        stream.send.finish().unwrap();
        let mut heard = Vec::new();
        target.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"over", "{route}");
        target.set_zero_linger().unwrap();
        drop(target);
        let error = stream.recv.read_chunk(1).await.unwrap_err();
        assert_eq!(error, crate::tunnel::ReadError::Reset(crate::tunnel::StreamCode::RESET), "{route}");
    }
}

#[tokio::test]
async fn a_forwarder_says_what_it_does_not_have_and_what_the_next_node_answered() {
    let line = Line::new().await;
    let id = line.relay.peers().node(node(1))[0].id;
    declare(&line.targets, "dead", nowhere().await);
    for (route, refusal) in [
        ("/tunnel/other/any".to_owned(), Refusal::NotFound),
        ("/tunnel/web/0000000000000000".to_owned(), Refusal::NotFound),
        (format!("/tunnel/other/{id}"), Refusal::NotFound),
        (format!("/via/{}/target/web", node(9)), Refusal::NotFound),
        (format!("/via/{}/target/none", node(3)), Refusal::NotFound),
        (format!("/via/{}/target/dead", node(3)), Refusal::TargetUnreachable),
        (format!("/via/{}/echo", node(3)), Refusal::NoSuchService),
    ] {
        assert_eq!(line.open(&route).await.unwrap_err(), OpenError::Refused(refusal), "{route}");
    }
    assert_eq!(line.holder.peers().len(), 1);
}

/// FEATURES P1, P2.
#[tokio::test]
async fn unix_sockets_serve_at_both_ends() {
    let rig = Rig::new().await;
    let directory = tempfile::tempdir().unwrap();
    let (service, door) = (directory.path().join("service"), directory.path().join("door"));
    let listener = UnixListener::bind(&service).unwrap();
    let target = format!("unix:{}", service.display()).parse().unwrap();
    rig.targets.declare(name("web"), Declared { target, id: None });
    let stop = rig.serve(ListenerProxy::bind_unix(&door).unwrap(), "/target/web");
    let (visitor, accepted) = tokio::join!(UnixStream::connect(&door), listener.accept());
    let (mut visitor, mut target) = (visitor.unwrap(), accepted.unwrap().0);
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut heard = Vec::new();
    target.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"question");
    target.write_all(b"answer").await.unwrap();
    drop(target);
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    stop.cancel();
}

#[tokio::test]
async fn a_program_is_run_for_each_stream_and_sees_the_end_of_its_input() {
    let rig = Rig::new().await;
    let target = "stdio:/usr/bin/env -i /usr/bin/sort".parse().unwrap();
    rig.targets.declare(name("sort"), Declared { target, id: None });
    for (input, output) in [("b\na\n", "a\nb\n"), ("2\n1\n", "1\n2\n")] {
        let mut stream = open(&rig.tunnel, &address("/target/sort")).await.unwrap();
        stream.send.write_all(input.as_bytes()).await.unwrap();
        stream.send.finish().unwrap();
        let mut sorted = Vec::new();
        stream.recv.read_to_end(&mut sorted).await.unwrap();
        assert_eq!(sorted, output.as_bytes());
    }
    let target = "stdio:/nowhere/at/all".parse().unwrap();
    rig.targets.declare(name("none"), Declared { target, id: None });
    let refused = open(&rig.tunnel, &address("/target/none")).await.unwrap_err();
    assert_eq!(refused, OpenError::Refused(Refusal::TargetUnreachable));
}

/// FEATURES B9. What a program says before it fails must not look whole.
#[tokio::test]
async fn a_program_that_fails_is_a_reset() {
    let rig = Rig::new().await;
    for program in ["/bin/sh -c head${IFS}-n1;exit${IFS}3", "/bin/sh -c kill${IFS}-9${IFS}$$"] {
        let target = format!("stdio:{program}").parse().unwrap();
        rig.targets.declare(name("program"), Declared { target, id: None });
        let stream = open(&rig.tunnel, &address("/target/program")).await.unwrap();
        let TunnelStream { mut send, mut recv } = stream;
        // Until nobody reads it any more.
        let feed = async { while send.write_all(b"one\ntwo\n").await.is_ok() {} };
        let mut said = String::new();
        let (read, ()) = tokio::join!(recv.read_to_string(&mut said), feed);
        assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset), "{program}");
    }
}

/// FEATURES P1.
#[tokio::test]
async fn datagrams_pass_one_by_one_and_each_source_hears_its_own() {
    let rig = Rig::new().await;
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = format!("udp:{}", service.local_addr().unwrap()).parse().unwrap();
    rig.targets.declare(name("dns"), Declared { target, id: None });
    let proxy = UdpListenerProxy::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let door = proxy.local_addr().unwrap();
    let stop = CancellationToken::new();
    let tunnel = rig.tunnel.clone();
    let opening = move |_| {
        let tunnel = tunnel.clone();
        async move { open(&tunnel, &address("/target/dns/udp")).await }
    };
    tokio::spawn(proxy.run(opening, stop.clone()));
    let mut sources = Vec::new();
    for number in 0..3_u8 {
        let source = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        source.connect(door).await.unwrap();
        // An empty one, a small one, and one that fits no packet of the path.
        for len in [0, 1, 20_000] {
            source.send(&vec![number; len]).await.unwrap();
            let mut buffer = vec![9; 65_536];
            let (heard, from) = service.recv_from(&mut buffer).await.unwrap();
            assert_eq!((heard, &buffer[..heard]), (len, &vec![number; len][..]));
            service.send_to(&[number, 100], from).await.unwrap();
            let heard = source.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..heard], [number, 100]);
        }
        sources.push(source);
    }
    stop.cancel();
}

#[tokio::test]
async fn streams_and_datagrams_are_not_taken_for_each_other() {
    let rig = Rig::new().await;
    declare(&rig.targets, "web", nowhere().await);
    rig.targets.declare(name("dns"), Declared { target: "udp:127.0.0.1:53".parse().unwrap(), id: None });
    for text in ["/target/web/udp", "/target/dns"] {
        let refused = open(&rig.tunnel, &address(text)).await.unwrap_err();
        assert_eq!(refused, OpenError::Refused(Refusal::OtherKind), "{text}");
    }
}
