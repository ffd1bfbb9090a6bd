//! Looks a node over: what an operator would look at, in the order in which they would, each with what to do about it.

use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::agent::Agent;
use super::api::{Check, Convergence, Node, Status, Verdict};
use super::forwards::Wish;
use super::health::Reported;
use crate::auth::Act;
use crate::id::TunnelName;
use crate::mesh::{Health, Stopped};
use crate::service::{DialTargetError, Target};

/// How long a service of this machine may take to accept a connection.
const TARGET_TIMEOUT: Duration = Duration::from_secs(1);
/// The receive buffer of a UDP socket below which bursts are lost, in bytes.
const UDP_BUFFER: u64 = 2 * 1024 * 1024;
/// How many services are tried.
const MAX_TARGETS: usize = 64;
/// What is left to do for a node that was revoked.
const REVOKED: &str = "a revoked node does not come back: remove its identity.key, and join as another one with a new invitation";
const DAY: f64 = 86_400.0;

/// All checks.
pub(super) async fn examine(agent: &Agent) -> Result<Vec<Check>, Stopped> {
    let (status, nodes) = (agent.status().await?, agent.nodes().await?);
    let convergence = agent.convergence().await?;
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
    checks.extend(draining(&status));
    checks.extend(targets(agent).await);
    checks.extend(binds(agent).await?);
    checks.extend(agent.forwards.unmet().await.into_iter().map(unmet));
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
    let is_revoked = status.reasons.iter().any(|reason| reason.contains("revoked"));
    check("ready", Verdict::Fail, status.reasons.join("; ")).hint(if is_revoked {
        REVOKED
    } else {
        "compare the line `mesh` of both nodes' status, and whether UDP gets through to the addresses"
    })
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
    let ends = agent.certificates().into_iter().map(|(kind, at)| (kind, (at - now) / DAY));
    let Some((kind, days)) = ends.min_by(|(_, a), (_, b)| a.total_cmp(b)) else {
        return check("certificates", Verdict::Warn, "none is in the node's directory");
    };
    let found = format!("the first to end is that of the {kind}, in {days:.0} days");
    match days {
        ..=0.0 => check("certificates", Verdict::Fail, format!("that of the {kind} has ended")),
        ..=7.0 => check("certificates", Verdict::Warn, found),
        _ => return check("certificates", Verdict::Ok, found),
    }
    .hint("a node asks its peers for the next one when a third of the time is left: is one linked that has ca.key? the log \
           says what they answer")
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

/// Only where it is so: nobody wonders why a node is not drained.
fn draining(status: &Status) -> Option<Check> {
    let found = format!("nobody picks this node's tunnels, {} stream(s) go on", status.serving);
    status.draining.then(|| {
        check("draining", Verdict::Warn, found).hint("when that is no longer wanted: snomesh node resume")
    })
}

fn core(agent: &Agent) -> Check {
    let stall = agent.metrics.longest_stall();
    let found = format!("the longest answer in the last minute took {:.1} ms", stall.as_secs_f64() * 1_000.0);
    if stall < Duration::from_secs(1) {
        return check("core", Verdict::Ok, found);
    }
    check("core", Verdict::Warn, found).hint("the machine is too busy, or the disk too slow")
}

/// All at once: one that does not answer must not keep the others from being looked at.
async fn targets(agent: &Agent) -> Vec<Check> {
    let mut tries = Vec::new();
    for exposed in agent.forwards.exposed().await.into_iter().take(MAX_TARGETS) {
        let table = agent.forwards.targets().clone();
        tries.push(tokio::spawn(async move {
            let (name, target) = (&exposed.name, &exposed.offer.target);
            // What is said to whoever picks is what matters; where nothing is, it is found out now.
            if let Some(reported) = &exposed.health {
                return health_check(name, target, reported);
            }
            let outcome = timeout(TARGET_TIMEOUT, table.probe(target)).await;
            target_check(name, target, outcome)
        }));
    }
    let mut checks = Vec::new();
    for tried in tries {
        // Only the end of the runtime could cut one off.
        checks.extend(tried.await.ok());
    }
    checks
}

fn health_check(name: &TunnelName, target: &Target, reported: &Reported) -> Check {
    let name = format!("tunnel {name}");
    let failure = reported.failure.as_deref().unwrap_or("not asked yet");
    match (reported.health, &reported.failure) {
        (Health::Healthy, None) => check(&name, Verdict::Ok, format!("{target} passes its health checks")),
        (Health::Healthy, Some(_)) | (Health::Starting | Health::Draining, _) => {
            check(&name, Verdict::Warn, format!("{target}: {failure}")).hint("look again in a few seconds")
        }
        (Health::Failing, Some(_)) => {
            check(&name, Verdict::Fail, format!("nobody picks it; {target}: {failure}"))
                .hint("look after the service; the tunnel comes back by itself")
        }
        (Health::Failing, None) => {
            check(&name, Verdict::Warn, format!("{target} begins to pass its health checks again"))
                .hint("look again in a few seconds")
        }
    }
}

fn target_check(
    name: &TunnelName,
    target: &Target,
    outcome: Result<Result<(), DialTargetError>, Elapsed>,
) -> Check {
    let name = format!("tunnel {name}");
    let hint = match target {
        Target::Program(_) => "install the program, or take the offer back: snomesh unexpose",
        Target::Tcp(_) | Target::Udp(_) | Target::Unix(_) => {
            "start the service, or take the offer back: snomesh unexpose"
        }
    };
    let found = match (target, outcome) {
        (Target::Tcp(_) | Target::Unix(_), Ok(Ok(()))) => format!("{target} accepts connections"),
        (Target::Udp(_), Ok(Ok(()))) => format!("{target}: there is a way; nobody has to answer datagrams"),
        (Target::Program(_), Ok(Ok(()))) => format!("{target} can be started"),
        (_, Ok(Err(error))) => return check(&name, Verdict::Fail, described(&error)).hint(hint),
        (_, Err(_elapsed)) => {
            return check(&name, Verdict::Fail, format!("{target}: no answer within 1 s")).hint(hint);
        }
    };
    check(&name, Verdict::Ok, found)
}

/// An error with its cause.
fn described(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Each bind is asked as a visitor would: who would serve.
async fn binds(agent: &Agent) -> Result<Vec<Check>, Stopped> {
    let mut checks = Vec::new();
    for (listen, route) in agent.forwards.binds().await {
        let (name, destination) = (format!("bind {listen}"), &route.destination);
        let candidates = agent.forwards.router().resolve(destination, route.policy).await?;
        checks.push(match candidates.iter().find(|candidate| candidate.refused.is_none()) {
            Some(found) => check(&name, Verdict::Ok, format!("{destination} is held by {}", found.label)),
            None => check(&name, Verdict::Fail, format!("nobody that can be reached offers {destination}"))
                .hint(format!(
                    "snomesh resolve {destination} --explain; or on the node that has it: snomesh expose"
                )),
        });
    }
    Ok(checks)
}

/// What was asked for and does not hold.
fn unmet((wish, why): (Wish, String)) -> Check {
    let undo = match &wish {
        Wish::Tunnel(name) => format!("snomesh unexpose {name}"),
        Wish::Bind(listen) => format!("snomesh unbind {listen}"),
    };
    check(&wish.to_string(), Verdict::Fail, format!("asked for, and does not hold: {why}")).hint(format!(
        "when the reason is gone: snomesh config reload; if it is not wanted any more: {undo}, or change the configuration"
    ))
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
