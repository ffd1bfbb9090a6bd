//! The admin API over TCP, on loopback: for browsers and for Prometheus. It is there if somebody asked for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::middleware;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::{Guard, Secret, guard};
use super::{router, server};
use crate::node::agent::Agent;
use crate::node::files::{self, FileError};
use crate::node::metrics::Metrics;

/// What the port is guarded by, and where it is.
#[derive(Debug)]
pub(in crate::node) struct Http {
    guard: Arc<Guard>,
    open: Mutex<Option<SocketAddr>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The admin API cannot be had over TCP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The address is not one of loopback: whoever reaches it could try to guess the token, and would see it go by.
    #[error("the admin API listens on loopback only, and {listen} is not")]
    NotLoopback {
        /// The address.
        listen: SocketAddr,
    },
    /// The system refuses the address.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The token's file cannot be used.
    #[error(transparent)]
    Token(#[from] FileError),
    /// The token's file holds none.
    #[error("{} does not hold 64 hexadecimal digits", .path.display())]
    NoToken {
        /// Which file.
        path: PathBuf,
    },
}

impl HttpError {
    /// What whoever runs the node can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotLoopback { .. } => {
                Some("choose 127.0.0.1:PORT; from elsewhere: ssh -L, or a proxy with TLS".into())
            }
            Self::Listen { .. } => Some("choose another port, or 0 for a free one".into()),
            Self::Token(error) => error.hint(),
            Self::NoToken { path } => Some(format!("remove {}; a new one is drawn", path.display())),
        }
    }
}

impl Http {
    /// Reads the token, or draws it.
    pub(in crate::node) fn prepare(
        token: PathBuf,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<Self, HttpError> {
        let secret = match files::read_secret(&token)? {
            Some(text) => Secret::parse(&text).ok_or(HttpError::NoToken { path: token })?,
            None => {
                let secret = Secret::draw();
                files::write(&token, &format!("{}\n", secret.reveal()), 0o600)?;
                secret
            }
        };
        let guard = Arc::new(Guard::new(secret, metrics));
        Ok(Self { guard, open: Mutex::default(), tasks: TaskTracker::new(), stop })
    }

    pub(in crate::node) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Where it listens; opens a free port of loopback if it does not.
    pub(in crate::node) async fn ensure(&self, agent: &Arc<Agent>) -> Result<SocketAddr, HttpError> {
        let open = *self.open.lock().await;
        match open {
            Some(open) => Ok(open),
            None => self.listen((Ipv4Addr::LOCALHOST, 0).into(), agent).await,
        }
    }

    /// Listens there from now on until the node stops.
    pub(in crate::node) async fn listen(
        &self,
        listen: SocketAddr,
        agent: &Arc<Agent>,
    ) -> Result<SocketAddr, HttpError> {
        if !listen.ip().is_loopback() {
            return Err(HttpError::NotLoopback { listen });
        }
        let mut open = self.open.lock().await;
        let failed = |source| HttpError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        agent.forwards.targets().keep_from_tcp(bound.port(), true);
        let state = (Arc::clone(&self.guard), bound);
        let router = router(Arc::clone(agent)).layer(middleware::from_fn_with_state(state, guard));
        self.tasks.spawn(server::serve(listener, super::numbered(router), self.stop.clone()));
        *open = Some(bound);
        tracing::info!(listen = %bound, "the admin API is open on loopback");
        Ok(bound)
    }

    /// Where it listens.
    pub(in crate::node) async fn listening(&self) -> Option<SocketAddr> {
        *self.open.lock().await
    }

    /// Waits until everything is closed, after the node was told to stop.
    pub(in crate::node) async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
