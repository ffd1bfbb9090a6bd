//! Which tunnel is meant, and a stream to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Json, Response};
use axum::routing::{get, post};
use hyper_util::rt::TokioIo;

use super::Answer;
use crate::mesh::{Destination, Policy, Route};
use crate::node::agent::Agent;
use crate::node::api::{API_VERSION, CONNECT_PROTOCOL, Problem, Resolution};
use crate::node::pipe;
use crate::service::Kind;

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new().route("/v1/connect", post(connect)).route("/v1/resolve", get(resolve))
}

async fn resolve(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<Resolution> {
    let (to, policy) = route(&query)?;
    let explain = query.get("explain").is_some_and(|explain| explain == "true");
    let mut candidates = agent.forwards.router().resolve(&to, policy).await?;
    candidates.retain(|candidate| explain || candidate.refused.is_none());
    Ok(Json(Resolution {
        api_version: API_VERSION.into(),
        to: to.to_string(),
        policy: policy.to_string(),
        candidates: candidates.iter().map(Into::into).collect(),
    }))
}

/// The destination and the policy of a query.
fn route(query: &BTreeMap<String, String>) -> Result<(Destination, Policy), Problem> {
    let to = query.get("to").ok_or_else(|| Problem::invalid("the query has no `to`"))?;
    let policy = query.get("policy").map_or_else(|| Ok(Policy::default()), |policy| self::policy(policy))?;
    Ok((destination(to)?, policy))
}

pub(super) fn destination(text: &str) -> Result<Destination, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}

pub(super) fn policy(text: &str) -> Result<Policy, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}

/// Opens the stream, and answers when what is behind the tunnel has accepted it.
async fn connect(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let (to, policy) = route(&query)?;
    let asked = request.headers().get(header::UPGRADE);
    if asked.is_none_or(|asked| asked != CONNECT_PROTOCOL) {
        return Err(Problem::invalid(format!("ask to upgrade the connection to {CONNECT_PROTOCOL}")));
    }
    let stream = agent.forwards.open(&Route::new(to, policy, Kind::Stream)).await?;
    let upgrading = hyper::upgrade::on(request);
    agent.forwards.spawn(async move {
        match upgrading.await {
            Ok(upgraded) => pipe::carry(TokioIo::new(upgraded), stream).await,
            Err(error) => tracing::debug!(%error, "connection not upgraded"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(CONNECT_PROTOCOL));
    Ok(response)
}
