//! Invitations, revocations, certificates, and nodes that are gone.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::post;

use super::{Answer, Body, json};
use crate::auth::Revocation;
use crate::id::NodeId;
use crate::mesh::Written;
use crate::node::agent::Agent;
use crate::node::api::{
    API_VERSION, Code, Forget, Forgotten, Invite, Invited, Problem, Reloaded, Revoke, Revoked,
};
use crate::node::trust::{MAX_TTL, Terms};

/// The fewest characters that name a node as the beginning of its id.
const MIN_PREFIX: usize = 4;

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/invites", post(invite))
        .route("/v1/revocations", post(revoke))
        .route("/v1/nodes/{node}/forget", post(forget))
        .route("/v1/certificates/reload", post(reload))
}

async fn invite(State(agent): State<Arc<Agent>>, body: Body) -> Answer<Invited> {
    let Invite { ttl_ms, uses, roles, may_expose, attributes } = json(body)?;
    let ttl = Duration::from_millis(ttl_ms);
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(Problem::invalid("an invitation holds for more than nothing and at most 30 days"));
    }
    if !(1..=1_000).contains(&uses) {
        return Err(Problem::invalid("an invitation has 1 to 1000 uses"));
    }
    let (keys, holds) = (Arc::clone(&agent.keys), agent.mesh.access().policy());
    let terms = Terms { roles, may_expose, attributes };
    let making = move || keys.invite(ttl, (uses, terms), holds.as_ref().map(|holds| &holds.policy));
    let made = tokio::task::spawn_blocking(making).await;
    let token = made.map_err(|_panicked| Problem::bug("making an invitation failed"))??;
    Ok(Json(Invited {
        api_version: API_VERSION.into(),
        token: token.to_string(),
        expires_at: token.expires_at.0,
        uses,
    }))
}

async fn revoke(State(agent): State<Arc<Agent>>, body: Body) -> Answer<Revoked> {
    let Revoke { node, reason, dry_run } = json(body)?;
    if reason.len() > Revocation::MAX_REASON {
        return Err(Problem::invalid(format!("a reason has at most {} bytes", Revocation::MAX_REASON)));
    }
    let (id, name) = find(&agent, &node).await?;
    let changed = !dry_run && agent.keys.revoke(&agent.mesh, id, reason).await? == Written::Yes;
    Ok(Json(Revoked { api_version: API_VERSION.into(), node: id.to_string(), name, changed }))
}

async fn forget(State(agent): State<Arc<Agent>>, Path(node): Path<String>, body: Body) -> Answer<Forgotten> {
    let Forget { dry_run } = json(body)?;
    let (id, name) = find(&agent, &node).await?;
    let changed = !dry_run && agent.mesh.forget(id).await? == Written::Yes;
    Ok(Json(Forgotten { api_version: API_VERSION.into(), node: id.to_string(), name, changed }))
}

async fn reload(State(agent): State<Arc<Agent>>) -> Answer<Reloaded> {
    let keys = Arc::clone(&agent.keys);
    let reloaded = tokio::task::spawn_blocking(move || keys.reload()).await;
    reloaded.map_err(|_panicked| Problem::bug("reloading the certificates failed"))??;
    let expires_at = agent.keys.certificate_expires_at().map(|at| at.0);
    Ok(Json(Reloaded { api_version: API_VERSION.into(), expires_at }))
}

/// The node that a text names: an id, known or not, or a known one's name or the beginning of its id.
pub(super) async fn find(agent: &Agent, text: &str) -> Result<(NodeId, String), Problem> {
    let nodes = agent.nodes().await?;
    if let Ok(id) = text.parse::<NodeId>() {
        let known = nodes.iter().find(|node| node.node == id.to_string());
        return Ok((id, known.map(|node| node.name.clone()).unwrap_or_default()));
    }
    let is_prefix = |node: &str| text.len() >= MIN_PREFIX && node.starts_with(text);
    let found: Vec<_> = nodes.iter().filter(|node| node.name == text || is_prefix(&node.node)).collect();
    match found[..] {
        [node] => {
            let id = node.node.parse().map_err(|_unlikely| Problem::bug("a node has no id"))?;
            Ok((id, node.name.clone()))
        }
        [] => Err(Problem::not_found(format!("no node is called \"{}\"", text.escape_debug()))
            .hint("snomesh node ls; a node that is not known can be named by its full id")),
        _ => {
            let ids: Vec<_> = found.iter().map(|node| node.node.as_str()).collect();
            let title = format!("\"{}\" could be any of {} nodes", text.escape_debug(), found.len());
            Err(Problem::new(StatusCode::CONFLICT, Code::Conflict, title).hint(ids.join(", ")))
        }
    }
}
