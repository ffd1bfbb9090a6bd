//! Tunnels, what this node offers, and what it reaches.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{delete, get, put};

use super::{Answer, Body, json, page, route};
use crate::auth::Act;
use crate::id::TunnelName;
use crate::mesh::Weight;
use crate::node::agent::Agent;
use crate::node::api::{API_VERSION, Bind, BindList, Code, Expose, Exposed, Problem, TunnelList};
use crate::node::forwards::Offer;
use crate::node::health::HealthCheck;
use crate::replica::Attributes;
use crate::service::{Listen, ParseTargetError, Target};

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/tunnels", get(tunnels))
        .route("/v1/tunnels/{name}", put(expose).delete(unexpose))
        .route("/v1/binds", get(binds).post(bind))
        .route("/v1/binds/{*listen}", delete(unbind))
}

async fn tunnels(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<TunnelList> {
    let prefix = match query.get("name") {
        Some(name) => format!("{}/", tunnel_name(name)?),
        None => query.get("prefix").cloned().unwrap_or_default(),
    };
    let healthy = query.get("healthy").map(|healthy| healthy.parse::<bool>()).transpose();
    let healthy = healthy.map_err(|_neither| Problem::invalid("healthy is true or false"))?;
    let (tunnels, next) = agent.tunnels(page(&query, prefix)?, healthy).await?;
    Ok(Json(TunnelList { api_version: API_VERSION.into(), tunnels, next }))
}

async fn expose(State(agent): State<Arc<Agent>>, Path(name): Path<String>, body: Body) -> Answer<Exposed> {
    let name = tunnel_name(&name)?;
    let Expose { target, attributes, health, weight } = json(body)?;
    let target: Target =
        target.parse().map_err(|error: ParseTargetError| Problem::invalid(error.to_string()))?;
    let attributes = attributes.into_iter().map(|(name, value)| (name, value.into_bytes()));
    let attributes =
        Attributes::new(attributes.collect()).map_err(|error| Problem::invalid(error.to_string()))?;
    let health = health.map(|words| HealthCheck::new(&words, &target)).transpose();
    let health = health.map_err(|error| Problem::invalid(error.to_string()))?;
    let weight = Weight::try_from(weight).map_err(|error| Problem::invalid(error.to_string()))?;
    if !agent.mesh.access().permits(agent.facts.node, Act::Expose, &name) {
        let title = format!("the mesh's policy does not permit this node to expose \"{name}\"");
        return Err(Problem::new(StatusCode::FORBIDDEN, Code::Forbidden, title).hint("snomesh acl show"));
    }
    let exposed = agent.forwards.expose(name, Offer { target, attributes, health, weight }).await?;
    Ok(Json((&exposed).into()))
}

async fn unexpose(State(agent): State<Arc<Agent>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let name = tunnel_name(&name)?;
    if agent.forwards.unexpose(&name).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let exposed = agent.forwards.exposed().await.into_iter().map(|exposed| exposed.name.to_string());
    Err(Problem::not_found(format!("this node does not expose \"{name}\""))
        .hint(known("it exposes", exposed)))
}

async fn binds(State(agent): State<Arc<Agent>>) -> Json<BindList> {
    Json(BindList { api_version: API_VERSION.into(), binds: agent.binds().await })
}

async fn bind(State(agent): State<Arc<Agent>>, body: Body) -> Result<(StatusCode, Json<Bind>), Problem> {
    let Bind { listen, tunnel, policy } = json(body)?;
    let (destination, policy) = (route::destination(&tunnel)?, route::policy(&policy)?);
    let bound = agent.forwards.bind(self::listen(&listen)?, destination.clone(), policy).await?;
    let (tunnel, policy) = (destination.to_string(), policy.to_string());
    Ok((StatusCode::CREATED, Json(Bind { listen: bound.to_string(), tunnel, policy })))
}

async fn unbind(State(agent): State<Arc<Agent>>, Path(listen): Path<String>) -> Result<StatusCode, Problem> {
    let listen = self::listen(&listen)?;
    if agent.forwards.unbind(&listen).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let bound = agent.forwards.binds().await.into_iter().map(|(listen, _)| listen.to_string());
    Err(Problem::not_found(format!("nothing is bound to {listen}")).hint(known("bound are", bound)))
}

pub(super) fn tunnel_name(text: &str) -> Result<TunnelName, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}

fn listen(text: &str) -> Result<Listen, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}

/// Lists what there is instead.
fn known(what: &str, names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { format!("{what} nothing") } else { format!("{what} {}", names.join(", ")) }
}
