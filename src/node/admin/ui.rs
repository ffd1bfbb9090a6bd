//! The dashboard's files, which are part of the program: no build step, no network, nothing from elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use crate::node::agent::Agent;

const PAGE: &str = include_str!("ui/index.html");
const SCRIPT: &str = include_str!("ui/app.js");
const STYLE: &str = include_str!("ui/style.css");

/// Its own files and its own port, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Arc<Agent>> {
    Router::new()
        .route("/", get(async || Redirect::temporary("/ui/")))
        .route("/ui", get(async || Redirect::temporary("/ui/")))
        .route("/ui/", get(async || file("text/html; charset=utf-8", PAGE)))
        .route("/ui/app.js", get(async || file("text/javascript; charset=utf-8", SCRIPT)))
        .route("/ui/style.css", get(async || file("text/css; charset=utf-8", STYLE)))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FEATURES P8: small, whole, and nothing from elsewhere.
    #[test]
    fn the_dashboard_is_small_and_needs_nobody() {
        assert!(PAGE.len() + SCRIPT.len() + STYLE.len() < 150 * 1024);
        for text in [PAGE, SCRIPT, STYLE] {
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
            assert!(!elsewhere.contains("innerHTML"), "what nodes say is text, never markup");
        }
    }
}
