//! Attributes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;

use super::{Answer, Body, bytes, page};
use crate::crdt::Value;
use crate::gossip::Durability;
use crate::mesh::Written;
use crate::node::agent::Agent;
use crate::node::api::{API_VERSION, Attribute, AttributeList, Code, Problem, Write};
use crate::node::listing;
use crate::node::nearest::nearest;
use crate::replica::{self, AttributeKey};

/// How many keys of the same scope are looked through for one that was meant.
const MAX_SIMILAR: usize = 1_000;

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/attributes", get(attributes))
        .route("/v1/attributes/{*key}", get(attribute).put(set).delete(unset))
}

async fn attributes(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<AttributeList> {
    let page = page(&query, query.get("prefix").cloned().unwrap_or_default())?;
    let read = agent.mesh.view(move |mesh| {
        listing::read(mesh, "attr", &page, |key| {
            let Some(replica::Path::Attribute(key)) = replica::Path::of(key) else { return None };
            let found = mesh.replica().attribute(&key)?;
            let values = std::iter::once(&found.value).chain(&found.siblings);
            let size = values.map(|value| value.as_bytes().len()).sum();
            Some((Attribute::from(&found), size))
        })
    });
    let (attributes, next) = read.await?;
    Ok(Json(AttributeList { api_version: API_VERSION.into(), attributes, next }))
}

async fn attribute(
    State(agent): State<Arc<Agent>>,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let key = attribute_key(&key)?;
    let sought = key.clone();
    let found = agent.mesh.view(move |mesh| mesh.replica().attribute(&sought)).await?;
    let found = found.ok_or_else(|| Problem::not_found(format!("attribute \"{key}\" is not set")));
    let found = match found {
        Ok(found) => found,
        Err(problem) => return Err(problem.hint(similar(&agent, key.to_string()).await?)),
    };
    match query.get("format").map(String::as_str) {
        Some("json") => Ok(Json(Attribute::from(&found)).into_response()),
        None | Some("raw") => {
            let raw = [(header::CONTENT_TYPE, "application/octet-stream")];
            Ok((raw, found.value.as_bytes().to_vec()).into_response())
        }
        Some(_) => Err(Problem::invalid("format is raw or json")),
    }
}

/// What was probably meant, or where to look.
async fn similar(agent: &Agent, key: String) -> Result<String, Problem> {
    let scope = key.rsplit_once('/').map_or_else(String::new, |(scope, _)| format!("{scope}/"));
    let near = agent.mesh.view(move |mesh| {
        let family = format!("attr/{scope}");
        let keys = mesh.replica().store().prefix(&family).take(MAX_SIMILAR);
        let keys: Vec<String> = keys.filter_map(|row| row.name().get(5..)).map(str::to_owned).collect();
        nearest(&key, keys.iter().map(String::as_str)).map(str::to_owned)
    });
    let near = near.await?;
    Ok(near.map_or_else(|| "snomesh attr ls".to_owned(), |near| format!("did you mean \"{near}\"?")))
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

/// How durable a write has to be before it is acknowledged.
pub(super) fn durability(query: &BTreeMap<String, String>) -> Result<Durability, Problem> {
    match query.get("durability").map(String::as_str) {
        None | Some("disk") => Ok(Durability::Disk),
        Some("memory") => Ok(Durability::Memory),
        Some(_) => Err(Problem::invalid("durability is disk or memory")),
    }
}

pub(super) fn attribute_key(text: &str) -> Result<AttributeKey, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("\"{}\": {error}", text.escape_debug())))
}
