//! Counters and sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::get;
use data_encoding::BASE64;

use super::attribute::attribute_key;
use super::{Answer, Body, json, page};
use crate::crdt::Value;
use crate::mesh::Written;
use crate::node::agent::Agent;
use crate::node::api::{
    API_VERSION, Code, Counter, CounterList, Increment, Members, Problem, SetChange, SetList, SetSize, Write,
};
use crate::node::listing;

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/counters", get(counters))
        .route("/v1/counters/{*key}", get(counter).post(increment))
        .route("/v1/sets", get(sets))
        .route("/v1/sets/{*key}", get(members).post(change))
}

async fn counters(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<CounterList> {
    let page = page(&query, query.get("prefix").cloned().unwrap_or_default())?;
    let (counters, next) = agent.mesh.view(move |mesh| listing::counters(mesh, &page)).await?;
    let counters =
        counters.into_iter().map(|(key, value)| Counter { key: key.to_string(), value: value.to_string() });
    Ok(Json(CounterList { api_version: API_VERSION.into(), counters: counters.collect(), next }))
}

async fn counter(State(agent): State<Arc<Agent>>, Path(key): Path<String>) -> Answer<Counter> {
    let key = attribute_key(&key)?;
    let value = agent.mesh.counter(key.clone()).await?.ok_or_else(|| {
        Problem::not_found(format!("nobody has counted \"{key}\"")).hint("snomesh attr counters")
    })?;
    Ok(Json(Counter { key: key.to_string(), value: value.to_string() }))
}

async fn increment(State(agent): State<Arc<Agent>>, Path(key): Path<String>, body: Body) -> Answer<Counter> {
    let key = attribute_key(&key)?;
    let Increment { by } = json(body)?;
    let value = agent.mesh.increment(key.clone(), by).await?;
    Ok(Json(Counter { key: key.to_string(), value: value.to_string() }))
}

async fn sets(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<SetList> {
    let page = page(&query, query.get("prefix").cloned().unwrap_or_default())?;
    let (sets, next) = agent.mesh.view(move |mesh| listing::sets(mesh, &page)).await?;
    let sets = sets.into_iter().map(|(key, elements)| SetSize { key: key.to_string(), elements });
    Ok(Json(SetList { api_version: API_VERSION.into(), sets: sets.collect(), next }))
}

async fn members(
    State(agent): State<Arc<Agent>>,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<Members> {
    let key = attribute_key(&key)?;
    let page = page(&query, format!("{key}/"))?;
    let set = key.clone();
    let (members, next) = agent.mesh.view(move |mesh| listing::members(mesh, &set, &page)).await?;
    let members = members.iter().map(Into::into).collect();
    Ok(Json(Members { api_version: API_VERSION.into(), key: key.to_string(), members, next }))
}

async fn change(State(agent): State<Arc<Agent>>, Path(key): Path<String>, body: Body) -> Answer<Write> {
    let key = attribute_key(&key)?;
    let written = match json(body)? {
        SetChange::Add(added) => agent.mesh.add(key.clone(), element(&added)?).await?,
        SetChange::Remove(removed) => agent.mesh.discard(key.clone(), element(&removed)?).await?,
    };
    Ok(Json(Write {
        api_version: API_VERSION.into(),
        key: key.to_string(),
        changed: written == Written::Yes,
    }))
}

fn element(base64: &str) -> Result<Value, Problem> {
    let bytes = BASE64.decode(base64.as_bytes()).ok();
    let bytes = bytes.ok_or_else(|| Problem::invalid("an element is given in base64, with padding"))?;
    Value::try_from(&bytes[..])
        .map_err(|error| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, error.to_string()))
}
