//! Who may do what over TCP.
//!
//! Everybody on the machine can open a TCP port of loopback, and every page in a browser can make it be opened. Hence
//! several layers, none of which is enough alone: the `Host` must be a name of this port, or a page could reach it
//! under a name of its own (DNS rebinding); what a browser says of where a request comes from must be this very page;
//! and a token must be shown, which is in a file that only the node's owner can read, or was handed to the dashboard
//! by a link that works once. The unix socket needs none of this: its file's permissions are the token.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::node::api::{Code, Problem};
use crate::node::metrics::Metrics;

/// How long a link to the dashboard works, if nobody follows it.
const CODE_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long a dashboard may look before it needs a new link.
const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// How many links, and how many dashboards, there may be at a time; the oldest gives way.
const MAX_SESSIONS: usize = 16;

/// Thirty-two bytes that nobody can guess, in hexadecimal.
#[derive(Clone)]
pub(in crate::node) struct Secret(String);

impl Secret {
    pub(in crate::node) fn draw() -> Self {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).expect("the system has randomness once it has booted");
        Self(HEXLOWER.encode(&bytes))
    }

    /// What stands in a file; nothing if that is no secret.
    pub(in crate::node) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Self(text.to_owned()))
    }

    pub(in crate::node) fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes the same time wherever they differ.
    fn is(&self, shown: &str) -> bool {
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Secrets that work for a while.
#[derive(Debug, Default)]
struct Passes(Vec<(Secret, Instant)>);

impl Passes {
    fn issue(&mut self, lifetime: Duration) -> Secret {
        let secret = Secret::draw();
        self.expire();
        if self.0.len() == MAX_SESSIONS {
            self.0.remove(0);
        }
        self.0.push((secret.clone(), Instant::now() + lifetime));
        secret
    }

    fn expire(&mut self) {
        let now = Instant::now();
        self.0.retain(|(_, until)| *until > now);
    }

    /// Looks at all of them, whichever it is.
    fn find(&mut self, shown: &str) -> Option<usize> {
        self.expire();
        self.0.iter().enumerate().fold(
            None,
            |found, (at, (secret, _))| {
                if secret.is(shown) { Some(at) } else { found }
            },
        )
    }
}

/// What guards the TCP port.
#[derive(Debug)]
pub(in crate::node) struct Guard {
    token: Secret,
    /// Links to the dashboard, each good for one session.
    codes: Mutex<Passes>,
    /// Dashboards, which may look and not touch.
    sessions: Mutex<Passes>,
    metrics: Arc<Metrics>,
}

/// What a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// Everything.
    Owner,
    /// Look.
    Dashboard,
    None,
}

impl Guard {
    pub(in crate::node) fn new(token: Secret, metrics: Arc<Metrics>) -> Self {
        Self { token, codes: Mutex::default(), sessions: Mutex::default(), metrics }
    }

    /// A secret that opens one dashboard.
    pub(in crate::node) fn code(&self) -> Secret {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner).issue(CODE_LIFETIME)
    }

    /// Turns a secret of a link into one of a dashboard. It works once: it is looked up and consumed in one step.
    pub(in crate::node) fn redeem(&self, code: &str) -> Option<Secret> {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = codes.find(code)?;
        codes.0.remove(at);
        Some(self.sessions.lock().unwrap_or_else(PoisonError::into_inner).issue(SESSION_LIFETIME))
    }

    fn rights(&self, headers: &HeaderMap) -> Rights {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, shown)) = shown.and_then(|shown| shown.split_once(' ')) else {
            return Rights::None;
        };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Rights::None;
        }
        let shown = shown.trim();
        let dashboard = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).find(shown).is_some();
        if self.token.is(shown) {
            Rights::Owner
        } else if dashboard {
            Rights::Dashboard
        } else {
            Rights::None
        }
    }

    /// Why a request is not looked at any further, and the word for that in the metrics.
    fn objection(&self, request: &Request, port: u16) -> Option<(&'static str, Problem)> {
        let headers = request.headers();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !is_ours(host, port) {
            let title = "this port answers to 127.0.0.1, [::1] and localhost only";
            return Some(("host", Problem::new(StatusCode::MISDIRECTED_REQUEST, Code::Forbidden, title)));
        }
        if comes_from_elsewhere(headers, host) {
            let title = "requests from other sites are refused";
            return Some(("origin", Problem::new(StatusCode::FORBIDDEN, Code::Forbidden, title)));
        }
        if is_public(request) {
            return None;
        }
        match (self.rights(headers), request.method() == Method::GET) {
            (Rights::Owner, _) | (Rights::Dashboard, true) => None,
            (Rights::Dashboard, false) => {
                let title = "a dashboard may look and not touch";
                let problem = Problem::new(StatusCode::FORBIDDEN, Code::Forbidden, title);
                Some(("read_only", problem.hint("use the command line, or the node's own token")))
            }
            (Rights::None, _) => {
                let title = "a token is needed: Authorization: Bearer TOKEN";
                let problem = Problem::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, title);
                Some((
                    "token",
                    problem.hint("it is in admin.token in the node's directory; for a dashboard: snomesh ui"),
                ))
            }
        }
    }
}

/// The middleware of the TCP port.
pub(super) async fn guard(
    State((guard, address)): State<(Arc<Guard>, SocketAddr)>,
    request: Request,
    next: Next,
) -> Response {
    let Some((reason, problem)) = guard.objection(&request, address.port()) else {
        return next.run(request).await;
    };
    guard.metrics.refused(reason);
    tracing::debug!(reason, path = ?request.uri().path(), "an admin request was refused");
    let mut response = problem.into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        let scheme = header::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Whether a `Host` is a name of this port.
fn is_ours(host: &str, port: u16) -> bool {
    ["127.0.0.1", "[::1]", "localhost"].iter().any(|name| {
        let rest = host
            .get(..name.len())
            .filter(|start| start.eq_ignore_ascii_case(name))
            .map(|_| &host[name.len()..]);
        rest.and_then(|rest| rest.strip_prefix(':')) == Some(port.to_string().as_str())
    })
}

/// Whether a browser says that another site made this request.
fn comes_from_elsewhere(headers: &HeaderMap, host: &str) -> bool {
    let text = |value: &header::HeaderValue| value.to_str().unwrap_or("?").to_owned();
    let origin = headers.get(header::ORIGIN).map(text);
    let site = headers.get("sec-fetch-site").map(text);
    origin.is_some_and(|origin| origin != format!("http://{host}"))
        || site.is_some_and(|site| site != "same-origin" && site != "none")
}

/// What anybody on this machine may know: that the node lives, whether it is ready, the dashboard's own files, and
/// what the API looks like; and the exchange of a link, which brings a secret of its own.
fn is_public(request: &Request) -> bool {
    let path = request.uri().path();
    match *request.method() {
        Method::GET | Method::HEAD => {
            matches!(path, "/" | "/healthz" | "/readyz" | "/openapi.json" | "/ui") || path.starts_with("/ui/")
        }
        Method::POST => path == "/v1/ui/sessions",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(Secret::draw(), Arc::default())
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let builder = Request::builder().method(method).uri(path).header("host", "127.0.0.1:7668");
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(axum::body::Body::empty()).unwrap()
    }

    /// The status that a request is refused with.
    fn refusal(guard: &Guard, request: &Request) -> Option<u16> {
        guard.objection(request, 7668).map(|(_, problem)| problem.status)
    }

    /// HARDENING C1: a page cannot reach the port under a name of its own.
    #[test]
    fn only_names_of_this_port_are_answered() {
        for host in ["127.0.0.1:7668", "localhost:7668", "LOCALHOST:7668", "[::1]:7668"] {
            assert!(is_ours(host, 7668), "{host}");
        }
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:7669",
            "evil.example:7668",
            "127.0.0.1.evil.example:7668",
            "localhost:7668.",
            "localhost",
            "127.0.0.1:07668",
            "0.0.0.0:7668",
            "[::ffff:127.0.0.1]:7668",
            "ü:7668",
        ] {
            assert!(!is_ours(host, 7668), "{host}");
        }
        let guard = guard();
        let rebound = Request::builder().uri("/healthz").header("host", "evil.example:7668");
        assert_eq!(refusal(&guard, &rebound.body(axum::body::Body::empty()).unwrap()), Some(421));
        let nameless = Request::builder().uri("/healthz").body(axum::body::Body::empty()).unwrap();
        assert_eq!(refusal(&guard, &nameless), Some(421));
    }

    /// HARDENING C1: nor through a browser that says where a request comes from, token or not.
    #[test]
    fn requests_of_other_sites_are_refused() {
        let guard = guard();
        let bearer = format!("Bearer {}", guard.token.reveal());
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:1"),
            ("origin", "https://127.0.0.1:7668"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
                let request = request(method, "/v1/status", &[(name, value), ("authorization", &bearer)]);
                assert_eq!(refusal(&guard, &request), Some(403), "{method} {name}: {value}");
            }
        }
        for (name, value) in [
            ("origin", "http://127.0.0.1:7668"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            let request = request("POST", "/v1/binds", &[(name, value), ("authorization", &bearer)]);
            assert_eq!(refusal(&guard, &request), None, "{name}: {value}");
        }
    }

    /// HARDENING C1, C2.
    #[test]
    fn without_the_token_nothing_is_told_and_nothing_changes() {
        let guard = guard();
        let other = format!("Bearer {}", Secret::draw().reveal());
        let almost = format!("Bearer {}", &guard.token.reveal()[..63]);
        let basic = format!("Basic {}", guard.token.reveal());
        for path in ["/v1/status", "/v1/events", "/metrics", "/v1/attributes/mesh/x", "/nowhere"] {
            for headers in [
                &[][..],
                &[("authorization", other.as_str())],
                &[("authorization", almost.as_str())],
                &[("authorization", basic.as_str())],
                &[("authorization", "Bearer ")],
                &[("authorization", "Bearer")],
            ] {
                assert_eq!(refusal(&guard, &request("GET", path, headers)), Some(401), "{path} {headers:?}");
            }
        }
        assert_eq!(refusal(&guard, &request("PUT", "/healthz", &[])), Some(401));
        for path in ["/healthz", "/readyz", "/ui/", "/openapi.json"] {
            assert_eq!(refusal(&guard, &request("GET", path, &[])), None, "{path}");
        }
    }

    /// HARDENING C2: a link is consumed by the first who follows it, and a dashboard may only look.
    #[test]
    fn a_link_works_once_and_its_dashboard_may_not_touch() {
        let guard = guard();
        let code = guard.code();
        let session = guard.redeem(code.reveal()).unwrap();
        assert!(guard.redeem(code.reveal()).is_none());
        assert!(guard.redeem(session.reveal()).is_none());
        assert!(guard.redeem("").is_none());
        let bearer = format!("Bearer {}", session.reveal());
        let headers = [("authorization", bearer.as_str())];
        assert_eq!(refusal(&guard, &request("GET", "/v1/status", &headers)), None);
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            assert_eq!(refusal(&guard, &request(method, "/v1/binds", &headers)), Some(403), "{method}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn links_and_dashboards_do_not_last_for_ever() {
        let guard = guard();
        let (late, code) = (guard.code(), guard.code());
        let session = guard.redeem(code.reveal()).unwrap();
        tokio::time::advance(CODE_LIFETIME).await;
        assert!(guard.redeem(late.reveal()).is_none());
        let bearer = format!("Bearer {}", session.reveal());
        let look = request("GET", "/v1/status", &[("authorization", &bearer)]);
        assert_eq!(refusal(&guard, &look), None);
        tokio::time::advance(SESSION_LIFETIME).await;
        assert_eq!(refusal(&guard, &look), Some(401));
    }

    #[test]
    fn the_oldest_link_gives_way() {
        let guard = guard();
        let first = guard.code();
        let others: Vec<_> = (0..MAX_SESSIONS).map(|_| guard.code()).collect();
        assert!(guard.redeem(first.reveal()).is_none());
        assert!(others.iter().all(|code| guard.redeem(code.reveal()).is_some()));
    }

    /// HARDENING C5.
    #[test]
    fn secrets_are_not_printed() {
        let guard = guard();
        let printed = format!("{guard:?} {:?}", guard.code());
        assert!(!printed.contains(guard.token.reveal()) && printed.contains("Secret(..)"));
        assert!(Secret::parse("short").is_none() && Secret::parse(&"g".repeat(64)).is_none());
        assert!(Secret::parse(&format!("{}\n", "a".repeat(64))).is_some());
    }
}
