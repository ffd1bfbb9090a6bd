//! Attributes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;

use super::{Answer, Body, bytes};
use crate::crdt::Value;
use crate::gossip::Durability;
use crate::mesh::Written;
use crate::node::admin::stream;
use crate::node::agent::Agent;
use crate::node::api::{API_VERSION, Attribute, AttributeList, Code, Problem, Write};
use crate::replica::AttributeKey;

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/attributes", get(attributes))
        .route("/v1/attributes/{*key}", get(attribute).put(set).delete(unset))
        .route("/v1/watch/attributes", get(watch))
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

async fn set(
    State(agent): State<Arc<Agent>>,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Body,
) -> Answer<Write> {
    let (key, durability) = (attribute_key(&key)?, durability(&query)?);
    let value = Value::try_from(&bytes(body)?[..]).map_err(|error| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, error.to_string())
            .hint("keep large things elsewhere and their address here")
    })?;
    let changed = agent.mesh.set_with(durability, key.clone(), value).await? == Written::Yes;
    Ok(Json(Write { api_version: API_VERSION.into(), key: key.to_string(), changed }))
}

async fn unset(
    State(agent): State<Arc<Agent>>,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<Write> {
    let (key, durability) = (attribute_key(&key)?, durability(&query)?);
    let changed = agent.mesh.unset_with(durability, key.clone()).await? == Written::Yes;
    Ok(Json(Write { api_version: API_VERSION.into(), key: key.to_string(), changed }))
}

async fn watch(
    State(agent): State<Arc<Agent>>,
    Query(mut query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let prefix = query.remove("prefix").unwrap_or_default();
    Ok(stream::watch_attributes(agent.mesh.clone(), prefix).await?)
}

/// How durable a write has to be before it is acknowledged.
fn durability(query: &BTreeMap<String, String>) -> Result<Durability, Problem> {
    match query.get("durability").map(String::as_str) {
        None | Some("disk") => Ok(Durability::Disk),
        Some("memory") => Ok(Durability::Memory),
        Some(_) => Err(Problem::invalid("durability is disk or memory")),
    }
}

fn attribute_key(text: &str) -> Result<AttributeKey, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}
