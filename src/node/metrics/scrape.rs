//! Everything that `/metrics` tells, read at that moment.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::page::{Labels, Page};
use super::process::Process;
use super::streams::{Streams, Visits};
use super::{MAX_LABELS, Metrics, OTHER};
use crate::gossip::{MemberState, Mesh, Progress};
use crate::id::NodeId;
use crate::mesh::{Changes, Health, Merges, PROPAGATION_BOUNDS, Stopped, Traffic};
use crate::node::agent::Agent;
use crate::node::api::{health_name, state_name};
use crate::node::census::Census;
use crate::tunnel::{PathStats, Tunnel};

const STATES: [MemberState; 5] =
    [MemberState::Alive, MemberState::Suspect, MemberState::Down, MemberState::Left, MemberState::Evicted];

/// What is read of the mesh in one go.
struct State {
    members: BTreeMap<NodeId, (String, MemberState)>,
    progress: BTreeMap<NodeId, Progress>,
    clocks: BTreeMap<NodeId, i64>,
    differing: BTreeMap<NodeId, Duration>,
}

/// A peer that this node has a link to.
struct Peer {
    name: String,
    rtt: f64,
    path: PathStats,
    progress: Progress,
    clock_offset: Option<f64>,
    differs_for: f64,
}

/// Reads everything and writes it down.
pub(in crate::node) async fn scrape(agent: &Agent) -> Result<String, Stopped> {
    let (clocks, differing) = agent.mesh.comparisons().await?;
    let state = State { clocks, differing, ..agent.mesh.view(State::of).await? };
    let readiness = agent.readiness().await?;
    let mut page = Page::new();
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("crypto", "ring".to_owned())];
    page.gauges("build_info", "What is running", [(version, 1.0)]);
    page.gauge("ready", "Whether the node serves as it should", truth(readiness.reasons.is_empty()));
    let expiry = agent.certificates().into_iter();
    page.gauges(
        "cert_expiry_timestamp_seconds",
        "When a certificate ends to be valid, in seconds since 1970",
        expiry.map(|(kind, at)| (vec![("kind", kind.to_owned())], at)),
    );
    members(&mut page, &state, &agent.mesh.changes());
    peers(&mut page, agent, &state);
    gossip(&mut page, &agent.mesh.traffic(), &agent.mesh.changes());
    merges(&mut page, &agent.mesh.merges(), &agent.mesh.changes());
    registry(&mut page, agent.census().await?);
    forwards(&mut page, agent).await;
    own(&mut page, &agent.metrics);
    if let Some(process) = Process::read() {
        system(&mut page, &process);
    }
    Ok(page.finish())
}

impl State {
    fn of(mesh: &Mesh) -> Self {
        let members = mesh.members().map(|member| (member.node, (member.record.label.clone(), member.state)));
        let (clocks, differing) = (BTreeMap::new(), BTreeMap::new());
        Self { members: members.collect(), progress: mesh.progress(), clocks, differing }
    }
}

fn members(page: &mut Page, state: &State, changes: &Changes) {
    let count = |wanted: MemberState| state.members.values().filter(|(_, state)| *state == wanted).count();
    page.gauges(
        "members",
        "Other nodes, by what this one thinks of them",
        STATES.map(|state| (vec![("state", state_name(state).to_owned())], number(count(state)))),
    );
    let transitions = STATES.into_iter().zip(changes.transitions);
    page.counters(
        "member_transitions",
        "How often another node became so",
        transitions.map(|(state, count)| (vec![("to", state_name(state).to_owned())], count)),
    );
}

fn peers(page: &mut Page, agent: &Agent, state: &State) {
    let (peers, others) = linked(agent, state);
    connections(page, agent);
    let label = |peer: &Peer| vec![("peer", peer.name.clone())];
    let clocks = peers.iter().filter_map(|peer| Some((label(peer), peer.clock_offset?)));
    page.gauges(
        "clock_offset_seconds",
        "How far a peer's wall clock was ahead of this one when the link began",
        clocks.collect::<Vec<_>>(),
    );
    page.gauges(
        "gossip_peer_last_sync_seconds",
        "How long ago a peer's state was last known to be the same; 0 while it is",
        peers.iter().map(|peer| (label(peer), peer.differs_for)),
    );
    page.gauges(
        "peer_rtt_seconds",
        "The round-trip time of a link",
        peers.iter().map(|peer| (label(peer), peer.rtt)),
    );
    let bytes = |peer: &Peer| {
        let by = |direction: &str| vec![("peer", peer.name.clone()), ("dir", direction.to_owned())];
        [(by("sent"), peer.path.sent_bytes), (by("received"), peer.path.received_bytes)]
    };
    page.counters(
        "peer_bytes",
        "Bytes of UDP payload over the present connection",
        peers.iter().chain(&others).flat_map(bytes),
    );
    page.counters(
        "peer_lost_packets",
        "Packets of the present connection that were declared lost",
        peers.iter().chain(&others).map(|peer| (label(peer), peer.path.lost_packets)),
    );
    page.gauges(
        "peer_congestion_window_bytes",
        "The congestion window of a link",
        peers.iter().map(|peer| (label(peer), bytes_of(peer.path.congestion_window))),
    );
    page.gauges(
        "peer_mtu_bytes",
        "The largest UDP payload that a link is known to carry",
        peers.iter().map(|peer| (label(peer), f64::from(peer.path.mtu))),
    );
    page.gauges(
        "gossip_peer_lag_versions",
        "Writes of this node that a peer neither has nor is about to get",
        peers.iter().map(|peer| (label(peer), bytes_of(peer.progress.behind))),
    );
    page.gauges(
        "gossip_peer_in_sync",
        "Whether a peer's last heartbeat told of the same state",
        peers.iter().map(|peer| (label(peer), truth(peer.progress.differing_since.is_none()))),
    );
}

fn connections(page: &mut Page, agent: &Agent) {
    let connections = agent.peers.len();
    page.gauges(
        "peer_connections",
        "Authenticated connections to other nodes and to clients",
        [(vec![("state", "authenticated".to_owned())], number(connections))],
    );
    let counts = agent.metrics.connections.read();
    let rows = |label: &'static str, counts: BTreeMap<&'static str, u64>| {
        counts.into_iter().map(move |(name, count)| (vec![(label, name.to_owned())], count))
    };
    page.counters(
        "peer_connects",
        "Connections that were authenticated, by who called",
        rows("dir", counts.connects),
    );
    page.counters(
        "peer_disconnects",
        "Connections that have ended, by why",
        rows("reason", counts.disconnects),
    );
}

/// The peers that a link leads to, the first [`MAX_LABELS`] by name apart from the others.
fn linked(agent: &Agent, state: &State) -> (Vec<Peer>, Vec<Peer>) {
    let mut peers: Vec<Peer> = Vec::new();
    for (node, progress) in &state.progress {
        let Some(tunnel) = agent.peers.node(*node).into_iter().next() else { continue };
        let name = state.members.get(node).map(|(name, _)| name.clone()).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| node.short());
        let (rtt, path) = (tunnel.tunnel.rtt().as_secs_f64(), tunnel.tunnel.path());
        #[expect(clippy::cast_precision_loss, reason = "an offset of clocks is a small number")]
        let clock_offset = state.clocks.get(node).map(|millis| *millis as f64 / 1_000.0);
        let differs_for = state.differing.get(node).map_or(0.0, Duration::as_secs_f64);
        peers.push(Peer { name, rtt, path, progress: *progress, clock_offset, differs_for });
    }
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    // Names need not be unique, series must be.
    for at in 1..peers.len() {
        if peers[at].name == peers[at - 1].name {
            peers[at].name = format!("{}-{at}", peers[at].name);
        }
    }
    let mut others = peers.split_off(peers.len().min(MAX_LABELS));
    others.iter_mut().for_each(|peer| OTHER.clone_into(&mut peer.name));
    (peers, others)
}

fn gossip(page: &mut Page, traffic: &Traffic, changes: &Changes) {
    let row = |kind: &str, direction: &str, count| {
        (vec![("kind", kind.to_owned()), ("dir", direction.to_owned())], count)
    };
    page.counters(
        "gossip_messages",
        "Frames and datagrams of the protocol",
        [
            row("control", "sent", traffic.control_frames),
            row("delta", "sent", traffic.delta_frames),
            row("heartbeat", "sent", traffic.datagrams),
            row("all", "received", traffic.received),
        ],
    );
    page.counters(
        "gossip_bytes",
        "Their bytes, without those of the transport",
        [
            row("control", "sent", traffic.control_bytes),
            row("delta", "sent", traffic.delta_bytes),
            row("heartbeat", "sent", traffic.datagram_bytes),
            row("all", "received", traffic.received_bytes),
        ],
    );
    page.counters(
        "registry_changes",
        "Changes of attributes and registrations that this node saw; of a removal nobody knows who made it",
        [("local", changes.local), ("remote", changes.remote), ("removal", changes.removals)]
            .map(|(origin, count)| (vec![("origin", origin.to_owned())], count)),
    );
    #[expect(clippy::cast_precision_loss, reason = "bounds of buckets are small numbers")]
    let bounds = PROPAGATION_BOUNDS.iter().map(|millis| *millis as f64 / 1_000.0).chain([f64::INFINITY]);
    page.histogram(
        "gossip_propagation_seconds",
        "From the stamp of a value's origin until it was applied here, by both wall clocks",
        changes.propagation.sum.as_secs_f64(),
        bounds.zip(changes.propagation.buckets).collect(),
    );
    page.counters(
        "alarms",
        "What an operator should look at",
        [
            ("double", changes.doubles),
            ("corrupt", changes.corruptions),
            ("forged", changes.forgeries),
            ("trust", changes.unlike),
            ("clock", changes.drifts),
        ]
        .map(|(kind, count)| (vec![("kind", kind.to_owned())], count)),
    );
}

fn registry(page: &mut Page, census: Census) {
    let Census { attributes, tunnels, nodes, tombstones, siblings, bytes, registrations: _ } = census;
    let kinds = [("attr", attributes), ("tunnel", tunnels), ("node", nodes), ("tombstone", tombstones)];
    page.gauges(
        "registry_entries",
        "Keys of the replicated state",
        kinds.map(|(kind, count)| (vec![("kind", kind.to_owned())], bytes_of(count))),
    );
    page.gauge("registry_siblings", "Values that lost against a concurrent one", bytes_of(siblings));
    page.gauge("registry_bytes", "Bytes of the keys and values of the replicated state", bytes_of(bytes));
}

async fn forwards(page: &mut Page, agent: &Agent) {
    let (exposed, binds) = (agent.forwards.exposed().await, agent.forwards.binds().await);
    page.gauges(
        "tunnels",
        "Tunnels that this node offers, by what others are told of them; those without a health check are taken to be healthy",
        [Health::Healthy, Health::Failing, Health::Starting, Health::Draining].map(|state| {
            let of = exposed.iter().filter(|exposed| exposed.state() == state);
            (vec![("state", health_name(state).to_owned())], number(of.count()))
        }),
    );
    page.gauge("binds", "Local addresses that lead into tunnels", number(binds.len()));
    let checks = agent.metrics.health.0.read();
    let label = |tunnel: &String| vec![("tunnel", tunnel.clone())];
    page.histograms(
        "health_check_duration_seconds",
        "How long a health check took",
        checks.iter().map(|(tunnel, checked)| (label(tunnel), checked.took.into())).collect(),
    );
    page.counters(
        "health_check_failures",
        "Health checks that failed",
        checks.iter().map(|(tunnel, checked)| (label(tunnel), checked.failures)),
    );
    page.gauges(
        "tunnel_registered",
        "The tunnels that this node offers",
        exposed.iter().take(MAX_LABELS).map(|exposed| (vec![("tunnel", exposed.name.to_string())], 1.0)),
    );
    visits(page, &agent.metrics.streams);
    streams(page, &agent.metrics.streams);
}

fn visits(page: &mut Page, streams: &Streams) {
    let binds = streams.binds.read();
    page.counters(
        "bind_accepts",
        "Visitors of a bind",
        binds.iter().map(|(bind, visits)| (vec![("bind", bind.clone())], visits.accepted)),
    );
    let errors = |(bind, visits): (&String, &Visits)| {
        let bind = bind.clone();
        let errors = visits.errors.clone().into_iter();
        errors
            .map(move |(reason, count)| (vec![("bind", bind.clone()), ("reason", reason.to_owned())], count))
    };
    page.counters("bind_errors", "Visitors that were turned away", binds.iter().flat_map(errors));
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    page.counters(
        "resolve",
        "Lookups for streams: a holder was found, nobody was, or one was found and did not take the stream",
        ["hit", "miss", "stale"]
            .into_iter()
            .zip(&streams.resolved)
            .map(|(result, counter)| (vec![("result", result.to_owned())], read(counter))),
    );
    let took = *streams.resolving.lock().unwrap_or_else(PoisonError::into_inner);
    let help = "How long lookups for streams took, the wait for a way included";
    page.histograms("resolve_duration_seconds", help, vec![(Labels::new(), took.into())]);
}

fn streams(page: &mut Page, streams: &Streams) {
    let (opened, served) = (streams.opened.read(), streams.served.read());
    let label = |tunnel: &String| vec![("tunnel", tunnel.clone())];
    let directions = [("opened", &opened), ("served", &served)];
    let all = || directions.into_iter().flat_map(|(dir, tallies)| tallies.iter().map(move |of| (dir, of)));
    page.gauges(
        "streams_active",
        "Streams that live: opened for a visitor here, or served by a target here",
        all().map(|(dir, (tunnel, tally))| {
            #[expect(clippy::cast_precision_loss, reason = "there are some thousand streams at most")]
            let active = tally.flow.active.load(Ordering::Relaxed) as f64;
            (vec![("tunnel", tunnel.clone()), ("dir", dir.to_owned())], active)
        }),
    );
    page.counters(
        "streams",
        "Streams that this node opened for its visitors, or did not",
        opened.iter().flat_map(|(tunnel, tally)| {
            let results = tally.results.clone().into_iter();
            results.map(move |(result, count)| {
                (vec![("tunnel", tunnel.clone()), ("result", result.to_owned())], count)
            })
        }),
    );
    page.histograms(
        "stream_open_duration_seconds",
        "How long it took to open a stream, until its target had accepted it",
        opened.iter().map(|(tunnel, tally)| (label(tunnel), tally.open.into())).collect(),
    );
    page.histograms(
        "stream_duration_seconds",
        "How long streams lived that have ended",
        all()
            .map(|(dir, (tunnel, tally))| {
                (vec![("tunnel", tunnel.clone()), ("dir", dir.to_owned())], tally.lived.into())
            })
            .collect(),
    );
    page.counters(
        "stream_bytes",
        "Bytes of streams that this node gave to the mesh and took from it",
        all().flat_map(|(_, (tunnel, tally))| {
            let row = |dir: &str, counter: &AtomicU64| {
                let labels = vec![("tunnel", tunnel.clone()), ("dir", dir.to_owned())];
                (labels, counter.load(Ordering::Relaxed))
            };
            [row("sent", &tally.flow.sent), row("received", &tally.flow.received)]
        }),
    );
    page.histograms(
        "target_connect_duration_seconds",
        "How long it took to connect to a target",
        streams.connects.read().iter().map(|(tunnel, times)| (label(tunnel), (*times).into())).collect(),
    );
}

fn merges(page: &mut Page, merges: &Merges, changes: &Changes) {
    #[expect(clippy::cast_precision_loss, reason = "bounds of buckets are small numbers")]
    let bound = |micros: u64| if micros == u64::MAX { f64::INFINITY } else { micros as f64 / 1e6 };
    page.histogram(
        "registry_merge_duration_seconds",
        "How long the core took for a piece of state that a peer sent",
        merges.sum.as_secs_f64(),
        merges.took.iter().map(|(micros, count)| (bound(*micros), *count)).collect(),
    );
    page.counters(
        "gossip_duplicates",
        "Pieces of state that a peer sent and of which everything was known",
        [(Labels::new(), merges.duplicates)],
    );
    let rows = |label: &'static str, rows: &[(&'static str, u64)]| -> Vec<(Labels, u64)> {
        rows.iter().map(|(name, count)| (vec![(label, (*name).to_owned())], *count)).collect()
    };
    page.counters(
        "antientropy_rounds",
        "Comparisons of the whole state with a peer that this node has begun, and that came to their end",
        rows("result", &[("begun", merges.rounds_begun), ("ok", merges.rounds_ended)]),
    );
    let [received, sent] = merges.items;
    page.counters(
        "antientropy_items",
        "Entries that were told in such comparisons",
        rows("dir", &[("received", received), ("sent", sent)]),
    );
    let [rate, clock, other] = merges.refused;
    page.counters(
        "registry_rejected",
        "What was not taken: of peers what cannot be read, fails its checksum or lacks its author's signature; of this node what is too much, stamped by a \
         clock that is off, or not possible",
        rows(
            "reason",
            &[
                ("decode", merges.malformed),
                ("checksum", changes.corruptions),
                ("signature", changes.forgeries),
                ("rate", rate),
                ("clock", clock),
                ("other", other),
            ],
        ),
    );
}

fn own(page: &mut Page, metrics: &Metrics) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let pair = |label: &'static str, names: [&str; 2], counters: &[AtomicU64; 2]| -> Vec<(Labels, u64)> {
        let rows = names.into_iter().zip(counters);
        rows.map(|(name, counter)| (vec![(label, name.to_owned())], read(counter))).collect()
    };
    page.counters(
        "events_lagged",
        "How often a reader of events was told that it missed some",
        pair("consumer", ["events", "watch"], &metrics.lagged),
    );
    #[expect(clippy::cast_precision_loss, reason = "there are at most some dozens of readers")]
    let readers = metrics.readers.load(Ordering::Relaxed) as f64;
    page.gauge("event_subscribers", "Readers of events at the admin API", readers);
    page.counters(
        "cert_renewals",
        "Attempts to renew the node's certificate",
        pair("result", ["ok", "failed"], &metrics.renewals),
    );
    page.counters(
        "config_reloads",
        "Reloads of the configuration",
        pair("result", ["ok", "refused"], &metrics.reloads),
    );
    let failed = truth(read(&metrics.reload_failed) > 0);
    page.gauge("config_reload_failed", "Whether the last one was refused", failed);
    let refused = metrics.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
    page.counters(
        "admin_refused",
        "Requests to the admin API that were refused before they were looked at",
        refused.into_iter().map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
    );
    let stall = metrics.longest_stall().as_secs_f64();
    let help = "The longest time that the core took for an answer in the last minute";
    page.gauge("event_loop_stall_seconds", help, stall);
}

fn system(page: &mut Page, process: &Process) {
    page.seconds("process_cpu_seconds", "User and system time", process.cpu_seconds);
    let gauges = [
        ("process_resident_memory_bytes", "Memory that is in use", bytes_of(process.resident_bytes)),
        ("process_virtual_memory_bytes", "Memory that is mapped", bytes_of(process.virtual_bytes)),
        ("process_threads", "Threads", bytes_of(process.threads)),
        ("process_open_fds", "Open file descriptors", bytes_of(process.open_fds)),
        ("process_start_time_seconds", "When it started, in seconds since 1970", process.started_at),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, value);
    }
    if let Some(max) = process.max_fds {
        page.gauge("process_max_fds", "How many file descriptors there may be", bytes_of(max));
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn bytes_of(count: u64) -> f64 {
    count as f64
}

fn number(count: usize) -> f64 {
    bytes_of(count as u64)
}
