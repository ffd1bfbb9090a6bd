//! Errors as the API tells them.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::http::HttpError;
use crate::causes::in_one_line;
use crate::mesh::{CommandError, RouteError, Stopped};
use crate::node::api::{Code, Problem};
use crate::node::forwards::ForwardError;
use crate::node::ping::PingError;
use crate::node::trust::{KeysError, TermsError};
use crate::replica::WriteError;
use crate::service::{Listen, OpenError, Refusal};

impl Problem {
    /// A problem without a hint.
    pub(in crate::node) fn new(status: StatusCode, code: Code, title: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            code,
            title: title.into(),
            hint: None,
            retry_after_ms: None,
            request_id: None,
        }
    }

    /// What the client sent is not legal.
    pub(in crate::node) fn invalid(title: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::Invalid, title)
    }

    /// Something that should not be.
    pub(in crate::node) fn bug(title: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, title)
    }

    /// There is no such thing.
    pub(in crate::node) fn not_found(title: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, title)
    }

    /// Says when to try again.
    #[must_use]
    fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub(in crate::node) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).expect("texts and numbers are JSON");
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, Body::from(body)).into_response();
        if let Some(after) = self.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, after.div_ceil(1_000).into());
        }
        // For whoever numbers requests.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<HttpError> for Problem {
    fn from(error: HttpError) -> Self {
        let (title, hint) = (error.to_string(), error.hint());
        let problem = Self::new(StatusCode::CONFLICT, Code::Conflict, title);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

impl From<KeysError> for Problem {
    fn from(error: KeysError) -> Self {
        let title = error.to_string();
        match error {
            KeysError::NoAuthority => Self::new(StatusCode::FORBIDDEN, Code::Forbidden, title)
                .hint("ask the node that began the mesh: ca.key is in its directory"),
            KeysError::NoAddress => Self::new(StatusCode::CONFLICT, Code::Conflict, title)
                .hint("start it with --listen IP:PORT or --advertise HOST:PORT"),
            KeysError::Terms(TermsError::NoRole(_)) => Self::not_found(title)
                .hint("add the group, it may be empty: snomesh acl show, snomesh acl set"),
            KeysError::Policy(_) | KeysError::Terms(_) => Self::invalid(title),
            KeysError::Changed { .. } => Self::new(StatusCode::CONFLICT, Code::Conflict, title)
                .hint("look at it, and try again: snomesh acl show"),
            KeysError::Itself | KeysError::TooMany | KeysError::NoLater => {
                Self::new(StatusCode::CONFLICT, Code::Conflict, title)
            }
            KeysError::Command(error) => error.into(),
            KeysError::DataDir(error) => {
                let problem = Self::new(StatusCode::CONFLICT, Code::Conflict, title);
                match error.hint() {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                }
            }
            KeysError::Credentials(_) => Self::new(StatusCode::CONFLICT, Code::Conflict, title),
            KeysError::File(_)
            | KeysError::Endpoint(_)
            | KeysError::Authority(_)
            | KeysError::Identity(_) => Self::bug(title),
        }
    }
}

impl From<PingError> for Problem {
    fn from(error: PingError) -> Self {
        let title = in_one_line(&error);
        match error {
            PingError::NotFound { near: Some(near), .. } => {
                Self::not_found(title).hint(format!("did you mean \"{near}\"?"))
            }
            PingError::NotFound { near: None, .. } => {
                Self::not_found(title).hint("snomesh node ls, snomesh tunnel ls")
            }
            PingError::Ambiguous { .. } => Self::new(StatusCode::CONFLICT, Code::Conflict, title)
                .hint("say which, by its id: snomesh node ls -o wide"),
            PingError::NoLink { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, Code::Unreachable, title).hint("snomesh doctor says more")
            }
            PingError::NoAnswer { .. } => Self::new(StatusCode::BAD_GATEWAY, Code::Unreachable, title)
                .hint("look at the service, or at the node: snomesh doctor there"),
            PingError::Stopped(stopped) => stopped.into(),
        }
    }
}

impl From<Stopped> for Problem {
    fn from(stopped: Stopped) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, stopped.to_string())
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Stopped(stopped) => stopped.into(),
            CommandError::Write(error @ WriteError::Busy { retry_after }) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy, error.to_string())
                    .retry_after(retry_after)
                    .hint("write less, or fewer times: only what changed, and the last value of each")
            }
            CommandError::Write(error) => Self::new(StatusCode::CONFLICT, Code::Conflict, error.to_string()),
            CommandError::NoRoom | CommandError::Delayed => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, Code::NoRoom, error.to_string())
                    .hint("make room on the disk of the data directory; writing goes on by itself then")
            }
            CommandError::Failed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, error.to_string())
            }
        }
    }
}

impl From<RouteError> for Problem {
    fn from(error: RouteError) -> Self {
        let title = in_one_line(&error);
        match error {
            RouteError::Stopped(stopped) => stopped.into(),
            RouteError::NotFound { destination } => Self::not_found(title).hint(format!(
                "see what there is, and why it is not meant: snomesh resolve --explain '{destination}'"
            )),
            RouteError::NotPermitted { .. } | RouteError::Open(OpenError::Refused(Refusal::NotPermitted)) => {
                Self::new(StatusCode::FORBIDDEN, Code::Forbidden, title)
                    .hint("snomesh acl show; the mesh's authority changes it: snomesh acl set")
            }
            RouteError::Unhealthy { destination } => {
                Self::new(StatusCode::BAD_GATEWAY, Code::Unreachable, title).hint(format!(
                    "snomesh resolve --explain '{destination}'; on the node that holds it: snomesh doctor"
                ))
            }
            RouteError::NoWay { .. } | RouteError::Open(_) => {
                Self::new(StatusCode::BAD_GATEWAY, Code::Unreachable, title)
            }
        }
    }
}

impl From<ForwardError> for Problem {
    fn from(error: ForwardError) -> Self {
        let title = error.to_string();
        match error {
            ForwardError::Command(error) => error.into(),
            ForwardError::Listen { listen, source } => not_listened(&listen, &source, title),
            ForwardError::Bound { listen, .. } => Self::new(StatusCode::CONFLICT, Code::Conflict, title)
                .hint(format!("snomesh unbind {listen}")),
            ForwardError::Forbidden { .. } => {
                Self::invalid(title).hint("name where a service of yours listens")
            }
            ForwardError::Reserved(_) | ForwardError::Attributes(_) | ForwardError::Illegal => {
                Self::invalid(title)
            }
            ForwardError::Configured { .. } => Self::new(StatusCode::CONFLICT, Code::Conflict, title)
                .hint("change it there, then: snomesh config reload"),
            ForwardError::Save(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, title),
        }
    }
}

/// The system does not let the node listen there.
fn not_listened(listen: &Listen, source: &io::Error, title: String) -> Problem {
    let is_path = matches!(listen, Listen::Unix(_));
    let hint = |path: &'static str, port: &'static str| if is_path { path } else { port };
    match source.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => {
            Problem::new(StatusCode::CONFLICT, Code::Conflict, title).hint(hint(
                "choose another path, or remove what is there",
                "choose another address, or port 0 for a free one",
            ))
        }
        io::ErrorKind::PermissionDenied => {
            Problem::new(StatusCode::FORBIDDEN, Code::Forbidden, title).hint(hint(
                "the user of the node must be allowed to write to the directory",
                "choose a port above 1023, or give the node the capability CAP_NET_BIND_SERVICE",
            ))
        }
        io::ErrorKind::AddrNotAvailable => {
            Problem::invalid(title).hint("name an address of the node's machine, or 0.0.0.0 for all of them")
        }
        io::ErrorKind::NotFound => Problem::invalid(title).hint("make the directory first"),
        _ => Problem::invalid(title).hint("name an address of the node's machine, or choose another path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What another has, or the user may not, is no misuse of the command.
    #[test]
    fn an_address_that_the_system_refuses_is_told_by_its_reason() {
        let problem = |listen: &str, kind: io::ErrorKind| {
            let listen = listen.parse().unwrap();
            let problem = Problem::from(ForwardError::Listen { listen, source: kind.into() });
            (problem.code, problem.hint.unwrap())
        };
        let (code, hint) = problem("80", io::ErrorKind::PermissionDenied);
        assert!(code == Code::Forbidden && hint.contains("1023"), "{hint}");
        let (code, hint) = problem("unix:/root/x", io::ErrorKind::PermissionDenied);
        assert!(code == Code::Forbidden && hint.contains("directory"), "{hint}");
        let (code, hint) = problem("8.8.8.8:0", io::ErrorKind::AddrNotAvailable);
        assert!(code == Code::Invalid && hint.contains("0.0.0.0"), "{hint}");
        assert_eq!(problem("80", io::ErrorKind::AddrInUse).0, Code::Conflict);
        assert_eq!(problem("unix:/x", io::ErrorKind::AlreadyExists).0, Code::Conflict);
    }

    /// FEATURES B3: whoever writes too much is told when to go on, in the form that HTTP clients know.
    #[test]
    fn a_writer_who_is_too_fast_is_told_when_to_go_on() {
        let busy = WriteError::Busy { retry_after: Duration::from_millis(2_100) };
        let problem = Problem::from(CommandError::Write(busy));
        assert_eq!((problem.code, problem.retry_after_ms), (Code::Busy, Some(2_100)));
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
