//! Asks a node, or what is behind a tunnel, whether it answers, and takes the time.

use std::time::Instant;

use super::agent::Agent;
use super::api::{API_VERSION, Pong};
use super::nearest::nearest;
use crate::mesh::{Candidate, Destination, Policy, Refused, Route, RouteError, Stopped};
use crate::service::{Kind, OpenError, RouteAddress, open};

/// How many names of tunnels are looked through for one that was meant.
const MAX_SIMILAR: usize = 10_000;

/// Nothing answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum PingError {
    /// There is neither a node nor a tunnel of that name.
    #[error("no node and no tunnel is called \"{name}\"")]
    NotFound {
        /// The name.
        name: String,
        /// One that is near.
        near: Option<String>,
    },
    /// Several nodes have that name.
    #[error("{count} nodes are called \"{name}\"")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// This node has no link to it.
    #[error("this node has no link to \"{name}\"")]
    NoLink {
        /// The node.
        name: String,
    },
    /// It was there and did not answer, or the service behind it did not.
    #[error("\"{name}\" does not answer")]
    NoAnswer {
        /// The node or the tunnel.
        name: String,
        /// Why.
        #[source]
        source: RouteError,
    },
    /// This node is shutting down.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A node by its name, its id or the beginning of one; else a tunnel, however streams to it say which.
pub(super) async fn ping(agent: &Agent, target: &str) -> Result<Pong, PingError> {
    let nodes = agent.nodes().await?;
    let is =
        |node: &&super::api::Node| node.name == target || target.len() >= 8 && node.node.starts_with(target);
    let found: Vec<_> = nodes.iter().filter(is).collect();
    match found.as_slice() {
        [] => {}
        [node] if node.local => return Ok(pong("node", &node.name, Instant::now())),
        [node] => return ping_node(agent, &node.node, &node.name).await,
        several => return Err(PingError::Ambiguous { name: target.into(), count: several.len() }),
    }
    if let Ok(destination) = target.parse::<Destination>()
        && is_held(agent, &destination).await?
    {
        let route = Route::new(destination, Policy::default(), Kind::Stream);
        let asked_at = Instant::now();
        let failed = |source| PingError::NoAnswer { name: target.into(), source };
        agent.forwards.router().open(&route, None).await.map_err(failed)?;
        return Ok(pong("tunnel", target, asked_at));
    }
    let tunnels = agent.tunnel_names(MAX_SIMILAR).await?;
    let known = nodes.iter().map(|node| node.name.as_str()).chain(tunnels.iter().map(String::as_str));
    Err(PingError::NotFound { name: target.into(), near: nearest(target, known).map(str::to_owned) })
}

/// Whether there is such a tunnel, reached or not.
async fn is_held(agent: &Agent, destination: &Destination) -> Result<bool, Stopped> {
    let candidates = agent.forwards.router().resolve(destination, Policy::default()).await?;
    let is_meant =
        |candidate: &Candidate| !matches!(candidate.refused, Some(Refused::OtherNode | Refused::Unmet(_)));
    Ok(candidates.iter().any(is_meant))
}

/// Opens a stream to what no node offers: the refusal is the answer.
async fn ping_node(agent: &Agent, id: &str, name: &str) -> Result<Pong, PingError> {
    let no_link = || PingError::NoLink { name: name.into() };
    let node = id.parse().ok().ok_or_else(no_link)?;
    let peer = agent.peers.node(node).into_iter().next().ok_or_else(no_link)?;
    let address = RouteAddress::from_segments(["ping"]).expect("a short segment is an address");
    let asked_at = Instant::now();
    match open(&peer.tunnel, &address).await {
        Ok(_) | Err(OpenError::Refused(_)) => Ok(pong("node", name, asked_at)),
        Err(error) => Err(PingError::NoAnswer { name: name.into(), source: error.into() }),
    }
}

fn pong(kind: &str, name: &str, asked_at: Instant) -> Pong {
    Pong {
        api_version: API_VERSION.into(),
        kind: kind.into(),
        name: name.into(),
        micros: u64::try_from(asked_at.elapsed().as_micros()).unwrap_or(u64::MAX),
    }
}
