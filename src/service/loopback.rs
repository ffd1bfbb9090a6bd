//! The way from a bind to a service of the same node: the same proxy, without a network between.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{
    NEGOTIATION_TIMEOUT, OpenError, RouteTarget, Service, TargetService, TargetTable, negotiation, open,
};
use crate::id::NodeId;
use crate::tunnel::duplex::DuplexTunnel;
use crate::tunnel::{ArcTunnel, TunnelDownlink, TunnelStream};

/// A tunnel from a node to itself, in memory. No peer, and in no peer view.
#[derive(Debug, Clone)]
pub struct Loopback {
    tunnel: ArcTunnel,
}

impl Loopback {
    /// Serves `targets` to the node itself, in tasks of `tasks`, until `stop` is cancelled.
    pub fn new(node: NodeId, targets: TargetTable, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let (near, far) = DuplexTunnel::pair_between(node, node);
        let (service, streams) = (TargetService::new(targets), tasks.clone());
        tasks.spawn(async move {
            let far = ArcTunnel::new(far);
            let serve = async {
                let Ok(mut incoming) = far.incoming().await else { return };
                while let Ok(stream) = incoming.accept().await {
                    let serving = serve(service.clone(), stream, far.clone());
                    let stop = stop.clone();
                    streams.spawn(async move { stop.run_until_cancelled(serving).await });
                }
            };
            stop.run_until_cancelled(serve).await;
        });
        Self { tunnel: ArcTunnel::new(near) }
    }

    /// Opens a stream to a target of this node.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(&self, target: &RouteTarget) -> Result<TunnelStream, OpenError> {
        open(&self.tunnel, &target.address()).await
    }
}

async fn serve(service: TargetService, stream: TunnelStream, tunnel: ArcTunnel) {
    let received = negotiation::receive(stream, Instant::now() + NEGOTIATION_TIMEOUT).await;
    let Ok((address, offered)) = received else { return };
    if let Err(error) = service.handle(address, offered, tunnel).await {
        let error: &dyn std::error::Error = &error;
        tracing::debug!(error, "local stream ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::service::{Declared, Kind, Refusal};

    #[tokio::test]
    async fn a_service_of_the_same_node_is_reached_without_a_network() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let targets = TargetTable::new();
        let target = listener.local_addr().unwrap().to_string().parse().unwrap();
        targets.declare("web".parse().unwrap(), Declared { target, id: None });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let loopback = Loopback::new(NodeId::from_bytes([1; 32]), targets, &tasks, stop.clone());
        let mut stream =
            loopback.open(&RouteTarget::Target("web".parse().unwrap(), Kind::Stream)).await.unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        stream.send.write_all(b"ping").await.unwrap();
        let mut ping = [0; 4];
        tcp.read_exact(&mut ping).await.unwrap();
        tcp.write_all(b"pong").await.unwrap();
        let mut pong = [0; 4];
        stream.recv.read_exact(&mut pong).await.unwrap();
        assert_eq!((&ping, &pong), (b"ping", b"pong"));
        let refused = loopback.open(&RouteTarget::Target("other".parse().unwrap(), Kind::Stream)).await;
        assert!(matches!(refused, Err(OpenError::Refused(Refusal::NotFound))));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
