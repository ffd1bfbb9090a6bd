//! `chitchat`, with its UDP transport, whose packets are counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport, UdpTransport};
use chitchat::{
    ChitchatConfig, ChitchatEnvelope, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
    spawn_chitchat,
};
use tokio::time::sleep;

use crate::{Cluster, Tally};

/// A cluster in this process, gossiping every so many milliseconds.
pub struct Chitchat<const MILLIS: u64> {
    nodes: Vec<ChitchatHandle>,
}

impl<const MILLIS: u64> Cluster for Chitchat<MILLIS> {
    const SINGLE: usize = if MILLIS < 1_000 { 200 } else { 30 };

    async fn start(nodes: usize, tally: Arc<Tally>) -> Self {
        let addresses = free_addresses(nodes);
        let mut all = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let config = ChitchatConfig {
                chitchat_id: ChitchatId::new(format!("node-{number}"), 1, *address),
                cluster_id: "peers".to_owned(),
                gossip_interval: Duration::from_millis(MILLIS),
                listen_addr: *address,
                seed_nodes: vec![addresses[0].to_string()],
                failure_detector_config: FailureDetectorConfig::default(),
                marked_for_deletion_grace_period: Duration::from_secs(3_600),
                catchup_callback: None,
                extra_liveness_predicate: None,
                protocol_version: ProtocolVersion::V1,
            };
            let transport = CountedTransport { tally: Arc::clone(&tally) };
            let handle = spawn_chitchat(config, Vec::new(), &transport).await.expect("it starts");
            let (own, tally) = (format!("n{number:02}-"), Arc::clone(&tally));
            let listen = |chitchat: &mut chitchat::Chitchat| {
                let (own, tally) = (own.clone(), Arc::clone(&tally));
                let seen = chitchat.subscribe_event("mesh/", move |event| {
                    if !event.key.starts_with(&own) {
                        tally.saw(1);
                    }
                });
                seen.forever();
            };
            handle.with_chitchat(listen).await;
            all.push(handle);
        }
        for handle in &all {
            while handle.with_chitchat(|chitchat| chitchat.live_nodes().count()).await < nodes {
                sleep(Duration::from_millis(5)).await;
            }
        }
        Self { nodes: all }
    }

    async fn write(&self, node: usize, key: String, value: String) {
        self.nodes[node].with_chitchat(|chitchat| chitchat.self_node_state().set(&key, &value)).await;
    }

    async fn stop(self) {
        for node in self.nodes {
            node.shutdown().await.ok();
        }
    }
}

/// Addresses that were free a moment ago.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let bind = |_| std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let sockets: Vec<_> = (0..count).map(bind).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("it is bound")).collect()
}

struct CountedTransport {
    tally: Arc<Tally>,
}

#[async_trait]
impl Transport for CountedTransport {
    async fn open(&self, address: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = UdpTransport.open(address).await?;
        Ok(Box::new(CountedSocket { socket, tally: Arc::clone(&self.tally) }))
    }
}

struct CountedSocket {
    socket: Box<dyn Socket>,
    tally: Arc<Tally>,
}

#[async_trait]
impl Socket for CountedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.socket.local_addr()
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let outcome = self.socket.send(to, envelope).await?;
        self.tally.sent(outcome.num_bytes_sent);
        Ok(outcome)
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        self.socket.recv().await
    }
}
