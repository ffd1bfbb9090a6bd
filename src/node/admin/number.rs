//! Every request has a number, by which its answer and the log speak of the same thing.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;

use crate::node::api::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Numbers the requests of a router. The outermost layer, so that refusals bear numbers as well.
pub(in crate::node) fn numbered(router: Router) -> Router {
    router.layer(middleware::from_fn(number))
}

async fn number(request: Request, next: Next) -> Response {
    let mut drawn = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut drawn)
        .expect("the system has randomness once it has booted");
    let id = data_encoding::HEXLOWER.encode(&drawn);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        if problem.status >= 500 {
            tracing::warn!(request = %id, %method, ?path, problem = ?problem.title, "an admin request failed");
        } else {
            tracing::debug!(request = %id, %method, ?path, problem = ?problem.title, "an admin request was refused");
        }
        problem.request_id = Some(id.clone());
        let body = serde_json::to_string(&problem).expect("texts and numbers are JSON");
        response.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
