//! Forwarding into tunnels that this daemon holds.
//!
//! Three kinds of addresses, and each hop consumes a part of its address, so that nothing can go in circles:
//!
//! - `/target/<name>`: the target of that name that the answering node has declared. A `/udp` behind it, and behind the
//!   next, asks for datagrams.
//! - `/tunnel/<name>/<tunnel id or any>`: into a tunnel that the answering node holds, and there to `/target/<name>`.
//! - `/via/<node id>/…`: over one tunnel to that node, and there to the rest, which is one of the two above.
//!
//! Nothing else is ever opened in the name of another node: a peer cannot borrow our tunnels to talk to the mesh as us.

use std::time::Duration;

use tokio::time::Instant;

use super::splice::splice_streams;
use super::{OfferedStream, OpenError, Refusal, RouteAddress, Service, open_by};
use crate::id::{NodeId, TunnelId, TunnelName};
use crate::tunnel::{ArcTunnel, WriteError};

/// How long a forwarder waits for the next hop: less than its opener does, so that it learns why, and more than a
/// target may take.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(4_500);

/// Finds tunnels that this daemon holds at this moment.
///
/// The daemon's own is [`PeersView`](crate::daemon::PeersView). Another may show less, here a single tunnel to whoever
/// asks for its name:
///
/// ```
/// use snomesh::id::{NodeId, TunnelId, TunnelName};
/// use snomesh::service::{RouteService, TunnelLookup};
/// use snomesh::tunnel::{ArcTunnel, duplex::DuplexTunnel};
///
/// struct Only(TunnelId, TunnelName, ArcTunnel);
///
/// impl TunnelLookup for Only {
///     fn tunnel(&self, id: TunnelId) -> Option<(TunnelName, ArcTunnel)> {
///         (id == self.0).then(|| (self.1.clone(), self.2.clone()))
///     }
///
///     fn named(&self, name: &TunnelName) -> Option<ArcTunnel> {
///         (*name == self.1).then(|| self.2.clone())
///     }
///
///     fn node(&self, _: NodeId) -> Option<ArcTunnel> {
///         None
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (near, _far) = DuplexTunnel::pair();
/// let only = Only(TunnelId(1), "web".parse().unwrap(), ArcTunnel::new(near));
/// assert!(only.named(&"web".parse().unwrap()).is_some() && only.named(&"db".parse().unwrap()).is_none());
/// let _forwarder = RouteService::new(only);
/// # });
/// ```
pub trait TunnelLookup: Send + Sync {
    /// The tunnel with this id, and its name.
    fn tunnel(&self, id: TunnelId) -> Option<(TunnelName, ArcTunnel)>;

    /// The tunnel that was last given this name.
    fn named(&self, name: &TunnelName) -> Option<ArcTunnel>;

    /// A tunnel to this node.
    fn node(&self, node: NodeId) -> Option<ArcTunnel>;
}

/// What goes over a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// Bytes, as of TCP.
    #[default]
    Stream,
    /// Datagrams, as of UDP.
    Datagrams,
}

/// What an address asks a node to forward to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// A target that the node has declared.
    Target(TunnelName, Kind),
    /// A tunnel of this name that the node holds; any, if there is no id.
    Tunnel(TunnelName, Option<TunnelId>, Kind),
    /// One of the above at another node.
    Via(NodeId, Box<Self>),
}

impl Kind {
    fn parse(segments: &[String]) -> Option<Self> {
        match segments {
            [] => Some(Self::Stream),
            [udp] if udp == "udp" => Some(Self::Datagrams),
            _ => None,
        }
    }

    fn segment(self) -> Option<String> {
        (self == Self::Datagrams).then(|| "udp".into())
    }
}

impl RouteTarget {
    /// Reads the segments of an address; `None` if it is about something else, or malformed.
    pub fn parse(segments: &[String]) -> Option<Self> {
        let (family, rest) = segments.split_first()?;
        if family == "via" {
            let (node, rest) = rest.split_first()?;
            return match Self::parse(rest)? {
                Self::Via(..) => None,
                inner => Some(Self::Via(node.parse().ok()?, Box::new(inner))),
            };
        }
        match (family.as_str(), rest) {
            ("target", [name, kind @ ..]) => Some(Self::Target(name.parse().ok()?, Kind::parse(kind)?)),
            ("tunnel", [name, id, kind @ ..]) => {
                let id = if id == "any" { None } else { Some(id.parse().ok()?) };
                Some(Self::Tunnel(name.parse().ok()?, id, Kind::parse(kind)?))
            }
            _ => None,
        }
    }

    /// The address that asks for it.
    pub fn address(&self) -> RouteAddress {
        RouteAddress::from_segments(self.segments()).expect("names and ids are short")
    }

    fn segments(&self) -> Vec<String> {
        match self {
            Self::Target(name, kind) => {
                let mut segments = vec!["target".into(), name.to_string()];
                segments.extend(kind.segment());
                segments
            }
            Self::Tunnel(name, id, kind) => {
                let id = id.map_or_else(|| "any".into(), |id| id.to_string());
                let mut segments = vec!["tunnel".into(), name.to_string(), id];
                segments.extend(kind.segment());
                segments
            }
            Self::Via(node, inner) => {
                let mut segments = vec!["via".into(), node.to_string()];
                segments.extend(inner.segments());
                segments
            }
        }
    }
}

/// Forwards streams into the tunnels of a [`TunnelLookup`], for instance a daemon's peer view.
#[derive(Debug, Clone)]
pub struct RouteService<L> {
    lookup: L,
}

impl<L: TunnelLookup> RouteService<L> {
    /// Forwards into the tunnels that `lookup` finds.
    pub fn new(lookup: L) -> Self {
        Self { lookup }
    }

    /// The tunnel to go through and what to ask for at its other end.
    fn next_hop(&self, target: RouteTarget) -> Option<(ArcTunnel, RouteAddress)> {
        match target {
            RouteTarget::Target(..) => None,
            RouteTarget::Tunnel(name, None, kind) => {
                Some((self.lookup.named(&name)?, RouteTarget::Target(name, kind).address()))
            }
            RouteTarget::Tunnel(name, Some(id), kind) => {
                let (bears, tunnel) = self.lookup.tunnel(id)?;
                (bears == name).then(|| (tunnel, RouteTarget::Target(name, kind).address()))
            }
            RouteTarget::Via(node, inner) => Some((self.lookup.node(node)?, inner.address())),
        }
    }
}

impl<L: TunnelLookup> Service for RouteService<L> {
    type Error = WriteError;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        matches!(RouteTarget::parse(address.segments()), Some(RouteTarget::Tunnel(..) | RouteTarget::Via(..)))
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        _: ArcTunnel,
    ) -> Result<(), WriteError> {
        let hop = RouteTarget::parse(address.segments()).and_then(|target| self.next_hop(target));
        let Some((tunnel, address)) = hop else {
            return stream.refuse(Refusal::NotFound).await;
        };
        let opened = open_by(&tunnel, &address, Instant::now() + FORWARD_TIMEOUT).await;
        // The streams hold the tunnel; nothing else here should.
        drop(tunnel);
        match opened {
            Ok(onward) => splice_streams(stream.accept().await?, onward).await,
            Err(OpenError::Refused(refusal)) => stream.refuse(refusal).await?,
            Err(OpenError::TimedOut | OpenError::Unanswered | OpenError::Closed(_)) => {
                stream.refuse(Refusal::TargetUnreachable).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<RouteTarget> {
        RouteTarget::parse(text.parse::<RouteAddress>().unwrap().segments())
    }

    #[test]
    fn a_route_survives_its_address() {
        let node = NodeId::from_bytes([3; 32]);
        for text in [
            "/target/web".to_owned(),
            "/target/web/udp".to_owned(),
            "/tunnel/web/any".to_owned(),
            "/tunnel/web/any/udp".to_owned(),
            "/tunnel/web/0123456789abcdef".to_owned(),
            format!("/via/{node}/target/web"),
            format!("/via/{node}/tunnel/web/any"),
        ] {
            assert_eq!(parse(&text).unwrap().address().to_string(), text);
        }
    }

    #[test]
    fn only_tunnels_and_targets_are_forwarded_to_and_only_over_one_node() {
        let node = NodeId::from_bytes([3; 32]);
        for text in [
            "".to_owned(),
            "/gossip/control".to_owned(),
            "/target/Not.A.Name".to_owned(),
            "/target/web/more".to_owned(),
            "/tunnel/web".to_owned(),
            "/tunnel/web/some".to_owned(),
            "/tunnel/web/any/gossip".to_owned(),
            format!("/via/{node}"),
            format!("/via/{node}/gossip/control"),
            format!("/via/{node}/via/{node}/target/web"),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }
}
