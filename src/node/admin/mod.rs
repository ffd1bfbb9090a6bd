//! The admin API: HTTP and JSON on a unix socket that only the node's owner may open, and, if wanted, on a port of
//! loopback that a token guards.
//!
//! | method and path | what |
//! |---|---|
//! | `GET /healthz` | the process lives |
//! | `GET /readyz` | it serves as it should; 503 with reasons if not |
//! | `GET /v1/status` | [`Status`](super::api::Status) |
//! | `GET /v1/nodes` | [`NodeList`](super::api::NodeList) |
//! | `GET /v1/tunnels?name=&prefix=&limit=&after=` | [`TunnelList`](super::api::TunnelList), at most 5,000 at a time |
//! | `PUT /v1/tunnels/{name}` | exposes a service: [`Expose`](super::api::Expose) to [`Exposed`](super::api::Exposed) |
//! | `DELETE /v1/tunnels/{name}` | takes it back |
//! | `GET /v1/resolve?to=&policy=&explain=` | which tunnels are meant: [`Resolution`](super::api::Resolution) |
//! | `POST /v1/connect?to=&policy=` | a stream to a tunnel: upgrades to [`CONNECT_PROTOCOL`](super::api::CONNECT_PROTOCOL) |
//! | `GET /v1/binds` | [`BindList`](super::api::BindList) |
//! | `POST /v1/binds` | binds a local address: [`Bind`](super::api::Bind), port 0 takes a free one |
//! | `DELETE /v1/binds/{listen}` | takes it back |
//! | `GET /v1/attributes?prefix=&limit=&after=` | [`AttributeList`](super::api::AttributeList), at most 5,000 at a time |
//! | `GET /v1/attributes/{key}` | the bytes of the value; `?format=json`: [`Attribute`](super::api::Attribute) |
//! | `PUT`, `DELETE /v1/attributes/{key}` | sets it to the bytes of the body, removes it: [`Write`](super::api::Write) |
//! | `GET /v1/state?prefix=` | what the mesh keeps, a [`StateLine`](super::api::StateLine) each |
//! | `POST /v1/state` | lines of a copy, put back: [`ImportState`](super::api::ImportState) to [`ImportedState`](super::api::ImportedState) |
//! | `GET /v1/digest` | [`Digest`](super::api::Digest) |
//! | `GET /v1/events` | server-sent [`Event`](super::api::Event)s from now on |
//! | `GET /v1/watch/attributes?prefix=` | the attributes, `synced`, then changes; after `lagged` all of it again |
//!
//! Errors are [`Problem`](super::api::Problem)s. **Invariant:** nothing changes by a `GET`.

mod guard;
mod http;
mod number;
mod openapi;
mod problem;
mod routes;
mod server;
mod stream;
#[cfg(test)]
pub(super) mod testing;
mod ui;

pub use http::HttpError;
pub use server::AdminError;

pub(super) use http::Http;
pub(super) use number::numbered;
pub(super) use routes::router;
pub(super) use server::{AdminSocket, serve};
