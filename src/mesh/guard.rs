//! The mesh's policy before a service: who may not have a stream is told so, and who may not any more loses it.

use crate::auth::{Access, Act};
use crate::id::{NodeId, TunnelName};
use crate::service::{AnyError, OfferedStream, Refusal, RouteAddress, RouteTarget, Service};
use crate::tunnel::{ArcTunnel, Tunnel};

/// A service of streams to tunnels and targets, for those whom the mesh's policy permits to have them.
///
/// It judges the node at the other end of the tunnel in which a stream comes: the one that wants it, or one that passes
/// it on. So a stream that goes over a node between is judged there by who wants it, and here by who brings it: a node
/// that may not connect cannot borrow one that may, and nobody has to be believed what he says of others.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    service: S,
    access: Access,
    own: NodeId,
}

impl<S> Guarded<S> {
    /// Guards what `own` serves.
    pub fn new(service: S, access: Access, own: NodeId) -> Self {
        Self { service, access, own }
    }
}

/// The tunnel or target that an address means in the end, and whether this node is the one that offers it.
fn meant(target: RouteTarget) -> (TunnelName, bool) {
    match target {
        RouteTarget::Target(name, _) | RouteTarget::Tunnel(name, ..) => (name, true),
        RouteTarget::Via(_, inner) => (meant(*inner).0, false),
    }
}

/// Whether an opener may have it. Nothing stands between a node and itself.
fn permits(access: &Access, own: NodeId, opener: NodeId, name: &TunnelName, offered_here: bool) -> bool {
    opener == own
        || access.permits(opener, Act::Connect, name)
            && (!offered_here || access.permits(own, Act::Expose, name))
}

impl<S: Service + Sync> Service for Guarded<S> {
    type Error = AnyError;

    fn accepts(&self, address: &RouteAddress, tunnel: &ArcTunnel) -> bool {
        self.service.accepts(address, tunnel)
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        tunnel: ArcTunnel,
    ) -> Result<(), AnyError> {
        let meant = RouteTarget::parse(address.segments()).map(meant);
        // Who has no identity is no node, and no policy speaks of it: what it may is for its own door to say.
        let (Some((name, offered_here)), Some(opener)) = (meant, tunnel.identity()) else {
            return self.service.handle(address, stream, tunnel).await.map_err(Into::into);
        };
        let own = self.own;
        let permitted = |access: &Access| permits(access, own, opener, &name, offered_here);
        if !permitted(&self.access) {
            tracing::debug!(%opener, tunnel = %name, "stream not permitted");
            return Ok(stream.refuse(Refusal::NotPermitted).await?);
        }
        tokio::select! {
            biased;
            served = self.service.handle(address, stream, tunnel) => served.map_err(Into::into),
            () = self.access.until_refused(permitted) => {
                tracing::info!(%opener, tunnel = %name, "stream ended: it is not permitted any more");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::auth::test_mesh::TestMesh;
    use crate::auth::{Policy, Rule, SignedPolicy, Who};
    use crate::service::{NEGOTIATION_TIMEOUT, OpenError, open, receive};
    use crate::time::UnixMillis;
    use crate::tunnel::duplex::DuplexTunnel;
    use crate::tunnel::{TunnelDownlink, TunnelStream};

    /// Sends back what it gets.
    struct Echo;

    impl Service for Echo {
        type Error = std::io::Error;

        fn accepts(&self, _: &RouteAddress, _: &ArcTunnel) -> bool {
            true
        }

        async fn handle(
            &self,
            _: RouteAddress,
            stream: OfferedStream,
            _: ArcTunnel,
        ) -> Result<(), std::io::Error> {
            let mut stream = stream.accept().await?;
            tokio::io::copy(&mut stream.recv, &mut stream.send).await?;
            Ok(stream.send.finish()?)
        }
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    /// Asks node 1, as another node, for something.
    async fn ask(access: &Access, opener: NodeId, address: &str) -> Result<TunnelStream, OpenError> {
        let (near, far) = DuplexTunnel::pair_between(node(1), opener);
        let (near, far) = if far.identity() == Some(opener) { (near, far) } else { (far, near) };
        let guarded = Guarded::new(Echo, access.clone(), node(1));
        tokio::spawn(async move {
            let deadline = Instant::now() + NEGOTIATION_TIMEOUT;
            let stream = far.incoming().await.unwrap().accept().await.unwrap();
            let (address, offered) = receive(stream, deadline).await.unwrap();
            guarded.handle(address, offered, ArcTunnel::new(far)).await.unwrap();
        });
        open(&near, &address.parse().unwrap()).await
    }

    fn may(who: u8, act: Act, what: &str) -> Rule {
        Rule { who: vec![Who::Node(node(who))], may: [act].into(), what: vec![what.parse().unwrap()] }
    }

    fn adopt(access: &Access, mesh: &TestMesh, serial: u64, rules: Vec<Rule>) {
        let policy = Policy { rules, ..Policy::default() };
        access.adopt(&SignedPolicy::sign(&mesh.ca, serial, UnixMillis(1), policy).unwrap());
    }

    /// FEATURES P5.
    #[tokio::test]
    async fn whoever_brings_a_stream_needs_the_right_whatever_the_way() {
        let (mesh, access) = (TestMesh::new(), Access::default());
        let via = format!("/via/{}/tunnel/web/any", node(3));
        let addresses = ["/target/web", "/tunnel/web/any", "/tunnel/web/0123456789abcdef/udp", &via];
        for address in addresses {
            ask(&access, node(2), address).await.unwrap();
        }
        let (connect, expose) = (may(2, Act::Connect, "web"), may(1, Act::Expose, "web"));
        adopt(&access, &mesh, 1, vec![connect.clone(), expose]);
        for address in addresses {
            ask(&access, node(2), address).await.unwrap();
            let refused = ask(&access, node(3), address).await.unwrap_err();
            assert_eq!(refused, OpenError::Refused(Refusal::NotPermitted), "{address}");
            ask(&access, node(1), address).await.unwrap();
        }
        // This node may not offer it any more, and may still pass on what another one offers.
        adopt(&access, &mesh, 2, vec![connect]);
        for address in addresses {
            assert_eq!(ask(&access, node(2), address).await.is_ok(), address == via, "{address}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_not_permitted_any_more_is_cut() {
        let (mesh, access) = (TestMesh::new(), Access::default());
        let mut stream = ask(&access, node(2), &format!("/via/{}/target/web", node(3))).await.unwrap();
        stream.send.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        stream.recv.read_exact(&mut echo).await.unwrap();
        // Another policy that permits it changes nothing.
        adopt(&access, &mesh, 1, vec![may(2, Act::Connect, "w*")]);
        stream.send.write_all(b"pong").await.unwrap();
        stream.recv.read_exact(&mut echo).await.unwrap();
        adopt(&access, &mesh, 2, Vec::new());
        assert!(stream.recv.read_exact(&mut echo).await.is_err());
    }
}
