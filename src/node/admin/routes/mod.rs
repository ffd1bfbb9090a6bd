//! What is answered to what.

mod acl;
mod attribute;
mod control;
mod route;
mod state;
mod trust;
mod tunnel;
mod typed;
mod watch;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ui;
use crate::node::agent::Agent;
use crate::node::api::{API_VERSION, Code, Digest, NodeList, Problem, Status};
use crate::node::listing::Page;

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
        .route("/v1/digest", get(digest))
        .merge(acl::routes())
        .merge(trust::routes())
        .merge(tunnel::routes())
        .merge(route::routes())
        .merge(attribute::routes())
        .merge(control::routes())
        .merge(watch::routes())
        .merge(ui::routes())
        .merge(typed::routes())
        .merge(state::routes())
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Problem::new(status, Code::MethodNotAllowed, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(json_only))
        .layer(middleware::from_fn(in_time))
        .with_state(agent)
}

/// A `POST` says that it brings JSON: a form of another site cannot.
async fn json_only(request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if request.method() == Method::POST && !kind.eq_ignore_ascii_case("application/json") {
        let title = "a POST takes application/json";
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Invalid, title);
        return problem.hint("send Content-Type: application/json").into_response();
    }
    next.run(request).await
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

async fn nodes(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<NodeList> {
    let page = page(&query, String::new())?;
    let page = page.of_nodes().map_err(|error| Problem::invalid(error.to_string()))?;
    let (nodes, next) = agent.nodes_of(page).await?;
    Ok(Json(NodeList { api_version: API_VERSION.into(), nodes, next }))
}

async fn digest(State(agent): State<Arc<Agent>>) -> Answer<Digest> {
    Ok(Json(Digest { api_version: API_VERSION.into(), digest: agent.digest().await? }))
}

/// Which page of a list a query asks for, of what begins with `prefix`.
fn page(query: &BTreeMap<String, String>, prefix: String) -> Result<Page, Problem> {
    let limit = query.get("limit").map(|limit| limit.parse::<NonZeroUsize>());
    let limit = limit.transpose().map_err(|_no_number| Problem::invalid("limit is a number from 1"))?;
    let page = Page::new(prefix, query.get("after").cloned(), limit.map(NonZeroUsize::get));
    page.map_err(|error| Problem::invalid(error.to_string()))
}

/// The bytes of a body within the limit.
fn bytes(body: Body) -> Result<Bytes, Problem> {
    body.map_err(|rejection| {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::Invalid,
        };
        Problem::new(rejection.status(), code, rejection.body_text())
    })
}

/// What a body in JSON says.
fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    serde_json::from_slice(&bytes(body)?)
        .map_err(|error| Problem::invalid(format!("the body is not what is expected: {error}")))
}

#[cfg(test)]
mod tests {
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    /// HARDENING C6.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_in_time_is_not_waited_for() {
        let slow = Router::<()>::new().route("/slow", get(async || std::future::pending::<()>().await));
        let service = TowerToHyperService::new(slow.layer(middleware::from_fn(in_time)));
        let request = Request::get("/slow").body(axum::body::Body::empty()).unwrap();
        let begun = tokio::time::Instant::now();
        let response = service.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(begun.elapsed(), REQUEST_TIMEOUT);
    }
}
