//! What an operator looks at and changes while the node runs: metrics, the log, the configuration, the dashboard.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use tokio::sync::oneshot;

use super::{Answer, Body, json};
use crate::node::admin::openapi;
use crate::node::agent::Agent;
use crate::node::api::{
    API_VERSION, Code, Convergence, Doctor, Drain, LogLevel, LogState, Ping, Pong, Problem, Reload, UiCode,
    UiLink, UiSession,
};
use crate::node::{doctor, metrics, ping};

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/openapi.json", get(description))
        .route("/v1/convergence", get(convergence))
        .route("/v1/doctor", get(doctor))
        .route("/v1/ping", post(ping))
        .route("/v1/shutdown", post(shutdown))
        .route("/v1/drain", post(drain))
        .route("/v1/resume", post(resume))
        .route("/v1/reload", post(reload))
        .route("/v1/debug/log", get(log))
        .route("/v1/debug/log", put(set_log))
        .route("/v1/ui/links", post(link))
        .route("/v1/ui/sessions", post(session))
}

async fn scrape(State(agent): State<Arc<Agent>>) -> Result<Response, Problem> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], metrics::scrape(&agent).await?).into_response())
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::text()).into_response()
}

async fn convergence(State(agent): State<Arc<Agent>>) -> Answer<Convergence> {
    Ok(Json(agent.convergence().await?))
}

async fn doctor(State(agent): State<Arc<Agent>>) -> Answer<Doctor> {
    Ok(Json(Doctor { api_version: API_VERSION.into(), checks: doctor::examine(&agent).await? }))
}

async fn ping(State(agent): State<Arc<Agent>>, body: Body) -> Answer<Pong> {
    let Ping { target } = json(body)?;
    Ok(Json(ping::ping(&agent, &target).await?))
}

async fn shutdown(State(agent): State<Arc<Agent>>) -> Result<StatusCode, Problem> {
    let stop = agent.controls.shutdown.as_ref().ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            Code::Conflict,
            "this node is a part of another program, which ends it",
        )
    })?;
    stop.notify_one();
    Ok(StatusCode::ACCEPTED)
}

async fn drain(State(agent): State<Arc<Agent>>) -> Answer<Drain> {
    set_draining(&agent, true).await
}

async fn resume(State(agent): State<Arc<Agent>>) -> Answer<Drain> {
    set_draining(&agent, false).await
}

async fn set_draining(agent: &Agent, draining: bool) -> Answer<Drain> {
    let changed = agent.forwards.drain(draining).await?;
    let serving = agent.metrics.streams.serving();
    Ok(Json(Drain { api_version: API_VERSION.into(), draining, changed, serving }))
}

async fn reload(State(agent): State<Arc<Agent>>) -> Answer<Reload> {
    let nothing = || {
        Problem::new(StatusCode::CONFLICT, Code::Conflict, "this node was not started with a configuration")
            .hint("snomesh up reads one: snomesh config path")
    };
    let requests = agent.controls.reload.as_ref().ok_or_else(nothing)?;
    let (told, outcome) = oneshot::channel();
    let gone =
        || Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "the node is shutting down");
    requests.send(told).await.map_err(|_nobody| gone())?;
    match outcome.await.map_err(|_nobody| gone())? {
        Ok(reload) => Ok(Json(reload)),
        Err(error) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, Code::Configuration, error)
            .hint("nothing has changed; snomesh config check tells the same")),
    }
}

fn no_log() -> Problem {
    Problem::new(StatusCode::CONFLICT, Code::Conflict, "the log of this process is not this node's to change")
}

async fn log(State(agent): State<Arc<Agent>>) -> Answer<LogState> {
    let log = agent.controls.log.as_ref().ok_or_else(no_log)?;
    Ok(Json(LogState { api_version: API_VERSION.into(), spec: log.spec() }))
}

async fn set_log(State(agent): State<Arc<Agent>>, body: Body) -> Answer<LogState> {
    let LogLevel { spec, for_seconds } = json(body)?;
    let lasting = for_seconds.map(Duration::from_secs);
    let set = agent.controls.set_log(&spec, lasting, &agent.stop).ok_or_else(no_log)?;
    let spec = set.map_err(|error| {
        Problem::invalid(error)
            .hint("a filter is a level, or TARGET=LEVEL with commas: info,snomesh::mesh=debug")
    })?;
    tracing::info!(%spec, "the log was changed");
    Ok(Json(LogState { api_version: API_VERSION.into(), spec }))
}

async fn link(State(agent): State<Arc<Agent>>) -> Result<(StatusCode, Json<UiLink>), Problem> {
    let address = agent.http.ensure(&agent).await?;
    let url = format!("http://{address}/ui/#{}", agent.http.guard().code().reveal());
    Ok((StatusCode::CREATED, Json(UiLink { api_version: API_VERSION.into(), url })))
}

async fn session(
    State(agent): State<Arc<Agent>>,
    body: Body,
) -> Result<(StatusCode, Json<UiSession>), Problem> {
    let UiCode { code } = json(body)?;
    let session = agent.http.guard().redeem(&code).ok_or_else(|| {
        Problem::new(StatusCode::FORBIDDEN, Code::Forbidden, "this link was used, or is too old")
            .hint("make another one: snomesh ui")
    })?;
    let session = UiSession { api_version: API_VERSION.into(), token: session.reveal().to_owned() };
    Ok((StatusCode::CREATED, Json(session)))
}
