//! Streams: what happens, and parts of the state as they are and as they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

use crate::node::admin::stream::{LastSeen, Source, Topic};
use crate::node::agent::Agent;
use crate::node::api::Problem;

type Parameters = Query<BTreeMap<String, String>>;

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/events", get(events))
        .route("/v1/watch/attributes", get(watch_attributes))
        .route("/v1/watch/tunnels", get(watch_tunnels))
}

async fn events(
    State(agent): State<Arc<Agent>>,
    Query(query): Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(source(&agent).events(last_seen(&headers, &query)?))
}

async fn watch_attributes(
    State(agent): State<Arc<Agent>>,
    Query(mut query): Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = last_seen(&headers, &query)?;
    let topic = Topic::Attributes(query.remove("prefix").unwrap_or_default());
    Ok(source(&agent).watch(topic, last).await?)
}

async fn watch_tunnels(
    State(agent): State<Arc<Agent>>,
    Query(mut query): Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = last_seen(&headers, &query)?;
    let topic = Topic::Tunnels(query.remove("prefix").unwrap_or_default());
    Ok(source(&agent).watch(topic, last).await?)
}

fn source(agent: &Agent) -> Source {
    let (mesh, metrics) = (agent.mesh.clone(), Arc::clone(&agent.metrics));
    Source { mesh, metrics, generation: agent.facts.generation }
}

/// Where the client was: the header that browsers send by themselves, or `?from=`.
fn last_seen(headers: &HeaderMap, query: &BTreeMap<String, String>) -> Result<Option<LastSeen>, Problem> {
    let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default());
    let Some(text) = header.or_else(|| query.get("from").map(String::as_str)) else { return Ok(None) };
    let illegal = |()| {
        Problem::invalid(format!("\"{}\" is no id of an event", text.escape_debug()))
            .hint("send the `id` of the last event as it came, or none")
    };
    text.parse().map(Some).map_err(illegal)
}
