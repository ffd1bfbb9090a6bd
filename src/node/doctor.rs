//! Looks a node over: what an operator would look at, in the order in which they would, each with what to do about it.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::agent::Agent;
use super::api::{Check, Convergence, Node, Status, Tunnel, Verdict};
use crate::auth::Act;
use crate::mesh::Stopped;

/// How long a service of this machine may take to accept a connection.
const TARGET_TIMEOUT: Duration = Duration::from_secs(1);
/// The receive buffer of a UDP socket below which bursts are lost, in bytes.
const UDP_BUFFER: u64 = 2 * 1024 * 1024;
/// How many services are tried.
const MAX_TARGETS: usize = 64;
const DAY: f64 = 86_400.0;

/// All checks.
pub(super) async fn examine(agent: &Agent) -> Result<Vec<Check>, Stopped> {
    let (status, nodes) = (agent.status().await?, agent.nodes().await?);
    let (convergence, tunnels) = (agent.convergence().await?, agent.tunnels().await?);
    let mut checks = vec![
        readiness(&status),
        members(&nodes),
        links(&nodes),
        convergence_of(&convergence),
        clocks(agent),
        certificates(agent),
        core(agent),
    ];
    checks.push(policy(agent, &status));
    checks.extend(targets(&status).await);
    checks.extend(binds(&status, &tunnels));
    checks.extend([udp_buffer(), descriptors()]);
    Ok(checks)
}

fn check(name: &str, verdict: Verdict, found: impl Into<String>) -> Check {
    Check { name: name.into(), verdict, found: found.into(), hint: None }
}

impl Check {
    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

fn readiness(status: &Status) -> Check {
    if status.ready {
        return check("ready", Verdict::Ok, "the node serves as it should");
    }
    check("ready", Verdict::Fail, status.reasons.join("; "))
        .hint("compare the line `mesh` of both nodes' status, and whether UDP gets through to the addresses")
}

fn members(nodes: &[Node]) -> Check {
    let named = |state: &str| {
        let names = nodes.iter().filter(|node| node.state == state).map(|node| node.name.clone());
        names.collect::<Vec<_>>()
    };
    let (suspect, down) = (named("suspect"), named("down"));
    let alive = named("alive").len();
    if !down.is_empty() {
        return check("members", Verdict::Fail, format!("down: {}", down.join(", "))).hint(
            "look at those nodes; one that will not come back stops counting when it leaves or is forgotten",
        );
    }
    if !suspect.is_empty() {
        return check("members", Verdict::Warn, format!("suspect: {}", suspect.join(", ")))
            .hint("look again in ten seconds");
    }
    match alive {
        1 => check("members", Verdict::Ok, "this node is alone"),
        alive => check("members", Verdict::Ok, format!("{alive} nodes are alive")),
    }
}

fn links(nodes: &[Node]) -> Check {
    let others: Vec<&Node> = nodes.iter().filter(|node| !node.local && node.state == "alive").collect();
    let missing: Vec<_> = others.iter().filter(|node| !node.linked).map(|node| node.name.clone()).collect();
    if missing.is_empty() {
        let slowest = others.iter().filter_map(|node| node.rtt_micros).max();
        let slowest = slowest.map(|micros| format!(", the longest round trip is {:.1} ms", millis(micros)));
        return check(
            "links",
            Verdict::Ok,
            format!("{} of {}{}", others.len(), others.len(), slowest.unwrap_or_default()),
        );
    }
    check("links", Verdict::Warn, format!("none to {}, which others reach", missing.join(", ")))
        .hint("one of both ends must be able to dial the other: see --advertise")
}

#[expect(clippy::cast_precision_loss, reason = "a round trip is a small number")]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

fn convergence_of(convergence: &Convergence) -> Check {
    let differing = convergence.peers.iter().filter(|peer| !peer.in_sync || peer.behind > 0);
    let differing: Vec<_> = differing.map(|peer| format!("{} ({} behind)", peer.name, peer.behind)).collect();
    if differing.is_empty() {
        let peers = convergence.peers.len();
        let found = if peers == 0 {
            "no peer to compare with".to_owned()
        } else {
            format!("the same state as {peers} of {peers} peers")
        };
        return check("convergence", Verdict::Ok, found);
    }
    check("convergence", Verdict::Warn, format!("another state at {}", differing.join(", ")))
        .hint("while somebody writes that is so for moments; look again")
}

fn clocks(agent: &Agent) -> Check {
    match agent.mesh.changes().drifts {
        0 => check("clock", Verdict::Ok, "no peer was found beyond the drift bound"),
        times => check("clock", Verdict::Warn, format!("peers were beyond the drift bound {times} times"))
            .hint("run a time service on all nodes; the log names the peers"),
    }
}

fn certificates(agent: &Agent) -> Check {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let ends = agent.facts.certificates.iter().map(|(kind, at)| (*kind, (at - now) / DAY));
    let Some((kind, days)) = ends.min_by(|(_, a), (_, b)| a.total_cmp(b)) else {
        return check("certificates", Verdict::Warn, "none is in the node's directory");
    };
    let found = format!("the first to end is that of the {kind}, in {days:.0} days");
    match days {
        ..=0.0 => check("certificates", Verdict::Fail, format!("that of the {kind} has ended")),
        ..=7.0 => check("certificates", Verdict::Warn, found),
        _ => return check("certificates", Verdict::Ok, found),
    }
    .hint("a node renews its own at every start while ca.key is at hand")
}

fn policy(agent: &Agent, status: &Status) -> Check {
    let access = agent.mesh.access();
    let Some(signed) = access.policy() else {
        return check("policy", Verdict::Ok, "none is set: every node may expose and connect everything");
    };
    let names = status.exposed.iter().filter_map(|exposed| exposed.name.parse().ok());
    let hidden: Vec<_> = names.filter(|name| !access.permits(agent.facts.node, Act::Expose, name)).collect();
    if hidden.is_empty() {
        return check("policy", Verdict::Ok, format!("number {} holds", signed.serial));
    }
    let names: Vec<_> = hidden.iter().map(ToString::to_string).collect();
    check("policy", Verdict::Fail, format!("this node may not expose {}: nobody finds it", names.join(", ")))
        .hint("snomesh acl show; the mesh's authority changes it: snomesh acl set")
}

fn core(agent: &Agent) -> Check {
    let stall = agent.metrics.longest_stall();
    let found = format!("the longest answer in the last minute took {:.1} ms", stall.as_secs_f64() * 1_000.0);
    if stall < Duration::from_secs(1) {
        return check("core", Verdict::Ok, found);
    }
    check("core", Verdict::Warn, found).hint("the machine is too busy, or the disk too slow")
}

async fn targets(status: &Status) -> Vec<Check> {
    let mut checks = Vec::new();
    for exposed in status.exposed.iter().take(MAX_TARGETS) {
        let name = format!("tunnel {}", exposed.name);
        checks.push(match timeout(TARGET_TIMEOUT, TcpStream::connect(&exposed.target)).await {
            Ok(Ok(_)) => check(&name, Verdict::Ok, format!("{} accepts connections", exposed.target)),
            Ok(Err(error)) => check(&name, Verdict::Fail, format!("{}: {error}", exposed.target))
                .hint("start the service, or take the offer back: snomesh unexpose"),
            Err(_elapsed) => check(&name, Verdict::Fail, format!("{}: no answer within 1 s", exposed.target)),
        });
    }
    checks
}

fn binds(status: &Status, tunnels: &[Tunnel]) -> Vec<Check> {
    let bound = status.binds.iter().map(|bind| {
        let name = format!("bind {}", bind.listen);
        match tunnels.iter().find(|tunnel| tunnel.name == bind.tunnel && tunnel.chosen) {
            Some(tunnel) => {
                check(&name, Verdict::Ok, format!("{} is held by {}", bind.tunnel, tunnel.holder_name))
            }
            None => check(&name, Verdict::Fail, format!("nobody that can be reached offers {}", bind.tunnel))
                .hint(format!("on the node that has it: snomesh expose {} PORT", bind.tunnel)),
        }
    });
    bound.collect()
}

fn udp_buffer() -> Check {
    let read = std::fs::read_to_string("/proc/sys/net/core/rmem_max").ok();
    let Some(most) = read.and_then(|text| text.trim().parse::<u64>().ok()) else {
        return check("udp buffer", Verdict::Ok, "this system does not say");
    };
    let found = format!("sockets may have {} KiB", most / 1024);
    if most >= UDP_BUFFER {
        return check("udp buffer", Verdict::Ok, found);
    }
    check("udp buffer", Verdict::Warn, format!("{found}, too little for bursts"))
        .hint(format!("sysctl -w net.core.rmem_max={0} net.core.wmem_max={0}", 2 * UDP_BUFFER))
}

fn descriptors() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    match limit {
        Some(limit) if open.saturating_mul(10) >= limit.saturating_mul(8) => {
            check("descriptors", Verdict::Fail, format!("{open} of {limit} are open"))
                .hint("raise LimitNOFILE of the service, or ulimit -n")
        }
        Some(limit) => check("descriptors", Verdict::Ok, format!("{open} of {limit} are open")),
        None => check("descriptors", Verdict::Ok, format!("{open} are open, without a limit")),
    }
}
