//! What is answered to what.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, put};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::stream;
use crate::crdt::Value;
use crate::id::TunnelName;
use crate::mesh::Written;
use crate::node::agent::Agent;
use crate::node::api::{
    API_VERSION, Attribute, AttributeList, Bind, BindList, Code, Digest, Expose, Exposed, NodeList, Problem,
    Status, TunnelList, Write,
};
use crate::replica::{AttributeKey, Attributes};
use crate::service::{ParseTargetError, Target};

/// The longest body of a request, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// How long a request may take until its answer begins.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

type Answer<T> = Result<Json<T>, Problem>;
type Body = Result<Bytes, BytesRejection>;

/// All routes.
pub(in crate::node) fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/status", get(status))
        .route("/v1/nodes", get(nodes))
        .route("/v1/tunnels", get(tunnels))
        .route("/v1/tunnels/{name}", put(expose).delete(unexpose))
        .route("/v1/binds", get(binds).post(bind))
        .route("/v1/binds/{listen}", delete(unbind))
        .route("/v1/attributes", get(attributes))
        .route("/v1/attributes/{*key}", get(attribute).put(set).delete(unset))
        .route("/v1/digest", get(digest))
        .route("/v1/events", get(events))
        .route("/v1/watch/attributes", get(watch))
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Problem::new(status, Code::MethodNotAllowed, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_time))
        .with_state(agent)
}

async fn in_time(request: Request, next: Next) -> Response {
    let answer = timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_elapsed| {
        let title = format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
        Problem::new(StatusCode::GATEWAY_TIMEOUT, Code::TimedOut, title).into_response()
    })
}

async fn status(State(agent): State<Arc<Agent>>) -> Answer<Status> {
    Ok(Json(agent.status().await?))
}

async fn readyz(State(agent): State<Arc<Agent>>) -> Result<Response, Problem> {
    let reasons = agent.readiness().await?.reasons;
    if reasons.is_empty() {
        return Ok("ready\n".into_response());
    }
    Ok((StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response())
}

async fn nodes(State(agent): State<Arc<Agent>>) -> Answer<NodeList> {
    Ok(Json(NodeList { api_version: API_VERSION.into(), nodes: agent.nodes().await? }))
}

async fn tunnels(State(agent): State<Arc<Agent>>) -> Answer<TunnelList> {
    Ok(Json(TunnelList { api_version: API_VERSION.into(), tunnels: agent.tunnels().await? }))
}

async fn digest(State(agent): State<Arc<Agent>>) -> Answer<Digest> {
    Ok(Json(Digest { api_version: API_VERSION.into(), digest: agent.digest().await? }))
}

async fn expose(State(agent): State<Arc<Agent>>, Path(name): Path<String>, body: Body) -> Answer<Exposed> {
    let name = tunnel_name(&name)?;
    let Expose { target, attributes } = json(body)?;
    let target: Target =
        target.parse().map_err(|error: ParseTargetError| Problem::invalid(error.to_string()))?;
    let attributes = attributes.into_iter().map(|(name, value)| (name, value.into_bytes()));
    let attributes =
        Attributes::new(attributes.collect()).map_err(|error| Problem::invalid(error.to_string()))?;
    let tunnel = agent.forwards.expose(name.clone(), target.clone(), attributes).await?;
    Ok(Json(Exposed { name: name.to_string(), target: target.to_string(), tunnel: tunnel.to_string() }))
}

async fn unexpose(State(agent): State<Arc<Agent>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let name = tunnel_name(&name)?;
    if agent.forwards.unexpose(&name).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let exposed = agent.forwards.exposed().await.into_iter().map(|(name, ..)| name.to_string());
    Err(Problem::not_found(format!("this node does not expose \"{name}\""))
        .hint(known("it exposes", exposed)))
}

async fn binds(State(agent): State<Arc<Agent>>) -> Json<BindList> {
    Json(BindList { api_version: API_VERSION.into(), binds: agent.binds().await })
}

async fn bind(State(agent): State<Arc<Agent>>, body: Body) -> Result<(StatusCode, Json<Bind>), Problem> {
    let Bind { listen, tunnel } = json(body)?;
    let tunnel = tunnel_name(&tunnel)?;
    let bound = agent.forwards.bind(socket_address(&listen)?, tunnel.clone()).await?;
    Ok((StatusCode::CREATED, Json(Bind { listen: bound.to_string(), tunnel: tunnel.to_string() })))
}

async fn unbind(State(agent): State<Arc<Agent>>, Path(listen): Path<String>) -> Result<StatusCode, Problem> {
    let listen = socket_address(&listen)?;
    if agent.forwards.unbind(listen).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let bound = agent.forwards.binds().await.into_iter().map(|(listen, _)| listen.to_string());
    Err(Problem::not_found(format!("nothing is bound to {listen}")).hint(known("bound are", bound)))
}

async fn attributes(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<AttributeList> {
    let prefix = query.get("prefix").cloned().unwrap_or_default();
    let read = agent.mesh.view(move |mesh| {
        mesh.replica().attributes(&prefix).map(|attribute| Attribute::from(&attribute)).collect()
    });
    Ok(Json(AttributeList { api_version: API_VERSION.into(), attributes: read.await? }))
}

async fn attribute(
    State(agent): State<Arc<Agent>>,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let key = attribute_key(&key)?;
    let sought = key.clone();
    let found = agent.mesh.view(move |mesh| mesh.replica().attribute(&sought)).await?;
    let found = found.ok_or_else(|| {
        Problem::not_found(format!("attribute \"{key}\" is not set")).hint("snomesh attr ls")
    })?;
    match query.get("format").map(String::as_str) {
        Some("json") => Ok(Json(Attribute::from(&found)).into_response()),
        None | Some("raw") => {
            let raw = [(header::CONTENT_TYPE, "application/octet-stream")];
            Ok((raw, found.value.as_bytes().to_vec()).into_response())
        }
        Some(_) => Err(Problem::invalid("format is raw or json")),
    }
}

async fn set(State(agent): State<Arc<Agent>>, Path(key): Path<String>, body: Body) -> Answer<Write> {
    let key = attribute_key(&key)?;
    let value = Value::try_from(&bytes(body)?[..]).map_err(|error| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, error.to_string())
            .hint("keep large things elsewhere and their address here")
    })?;
    let changed = agent.mesh.set(key.clone(), value).await? == Written::Yes;
    Ok(Json(Write { api_version: API_VERSION.into(), key: key.to_string(), changed }))
}

async fn unset(State(agent): State<Arc<Agent>>, Path(key): Path<String>) -> Answer<Write> {
    let key = attribute_key(&key)?;
    let changed = agent.mesh.unset(key.clone()).await? == Written::Yes;
    Ok(Json(Write { api_version: API_VERSION.into(), key: key.to_string(), changed }))
}

async fn events(State(agent): State<Arc<Agent>>) -> Response {
    stream::events(&agent.mesh)
}

async fn watch(
    State(agent): State<Arc<Agent>>,
    Query(mut query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let prefix = query.remove("prefix").unwrap_or_default();
    Ok(stream::watch_attributes(agent.mesh.clone(), prefix).await?)
}

fn tunnel_name(text: &str) -> Result<TunnelName, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}

fn attribute_key(text: &str) -> Result<AttributeKey, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}

fn socket_address(text: &str) -> Result<SocketAddr, Problem> {
    let illegal = || Problem::invalid(format!("\"{}\" is not IP:PORT", text.escape_debug()));
    text.parse().ok().ok_or_else(illegal)
}

fn bytes(body: Body) -> Result<Bytes, Problem> {
    body.map_err(|rejection| {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::Invalid,
        };
        Problem::new(rejection.status(), code, rejection.body_text())
    })
}

fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    serde_json::from_slice(&bytes(body)?)
        .map_err(|error| Problem::invalid(format!("the body is not what is expected: {error}")))
}

/// Lists what there is instead.
fn known(what: &str, names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { format!("{what} nothing") } else { format!("{what} {}", names.join(", ")) }
}
