//! Limits that change while a daemon runs.

use std::time::Duration;

use super::*;
use crate::tunnel::TunnelMonitoring;

/// Accepts every stream and keeps it.
struct Keep;

impl Service for Keep {
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
        // Until the opener has had enough.
        let _ended = stream.recv.read_chunk(1).await;
        Ok(())
    }
}

fn at_most(tunnels: usize, per_node: usize, streams: usize) -> Limits {
    let count = |count: usize| count.try_into().unwrap();
    Limits {
        max_tunnels: count(tunnels),
        max_tunnels_per_node: count(per_node),
        max_streams: count(streams),
        ..Limits::from(&DaemonConfig::default())
    }
}

/// FEATURES P1: who is there stays, who comes is judged by the limit of then.
#[tokio::test]
async fn newcomers_are_judged_by_the_limits_of_then() {
    let daemon = trusting(ServiceRegistry::new());
    daemon.limit(at_most(1, 4, 1));
    assert_eq!(daemon.limits(), at_most(1, 4, 1));
    let (first, far) = DuplexTunnel::pair_between(node(1), node(9));
    daemon.attach(far).unwrap().authenticated().await.unwrap();
    let refused = daemon.attach(DuplexTunnel::pair_between(node(2), node(9)).1);
    assert_eq!(refused.unwrap_err(), AttachError::TooManyTunnels);
    daemon.limit(at_most(3, 1, 1));
    let failure = daemon.attach(DuplexTunnel::pair_between(node(1), node(9)).1).unwrap();
    let failure = failure.authenticated().await.unwrap_err();
    assert!(matches!(failure, AuthenticationFailure::TooManyTunnels), "{failure}");
    daemon.limit(at_most(3, 2, 1));
    let (_second, far) = DuplexTunnel::pair_between(node(1), node(9));
    daemon.attach(far).unwrap().authenticated().await.unwrap();
    daemon.limit(at_most(1, 1, 1));
    assert_eq!(daemon.peers().len(), 2);
    assert_eq!(first.closed(), None);
}

/// FEATURES P1: over a tunnel that stands.
#[tokio::test(start_paused = true)]
async fn streams_of_a_tunnel_that_stands_wait_for_the_limit_of_then() {
    let (serving, asking) = (trusting(Keep), trusting(ServiceRegistry::new()));
    serving.limit(at_most(9, 9, 2));
    let (peer, _) = joined((&asking, node(1)), (&serving, node(2))).await;
    let open_now = async || {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        crate::service::open_by(&peer.tunnel, &address("/keep"), deadline).await
    };
    let (_first, second) = (open_now().await.unwrap(), open_now().await.unwrap());
    open_now().await.unwrap_err();
    serving.limit(at_most(9, 9, 3));
    let third = open_now().await.unwrap();
    open_now().await.unwrap_err();
    serving.limit(at_most(9, 9, 1));
    drop(second);
    open_now().await.unwrap_err();
    drop(third);
    open_now().await.unwrap_err();
}
