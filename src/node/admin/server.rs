//! The socket, and the limits that hold whoever connects to it.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::files::our_user;

/// Connections at a time; the next ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long answers under way have when the node stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The pause when the system cannot give us another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest path of a unix socket on Linux, without the closing zero.
const MAX_PATH_LEN: usize = 107;

/// The admin socket cannot be had. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// A live process listens there.
    #[error("another process answers on the admin socket {}", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is there.
    #[error("{} is there and is no socket", .path.display())]
    NotASocket {
        /// What it is.
        path: PathBuf,
    },
    /// Unix sockets have short paths.
    #[error("the path of the admin socket has {len} bytes, at most {MAX_PATH_LEN} are possible: {}", .path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The system refuses it.
    #[error("cannot listen on {}", .path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl AdminError {
    /// What whoever runs the node can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { .. } | Self::NotASocket { .. } => Some("choose another path: --admin PATH".into()),
            Self::PathTooLong { .. } => Some("choose a shorter path: --admin PATH".into()),
            Self::Bind { .. } => None,
        }
    }
}

/// The listening socket. Its file goes when this value does.
#[derive(Debug)]
pub(in crate::node) struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens for the owner alone, in place of what a dead process has left there. Must be called in a runtime.
    pub(in crate::node) fn bind(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Bind { path: path.into(), source };
        let len = path.as_os_str().len();
        if len > MAX_PATH_LEN {
            return Err(AdminError::PathTooLong { path: path.into(), len });
        }
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(AdminError::NotASocket { path: path.into() });
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(AdminError::InUse { path: path.into() }),
                Err(_nobody_listens) => std::fs::remove_file(path).map_err(failed)?,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.into() })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // One that is left behind is replaced at the next start.
        let _left_behind = std::fs::remove_file(&self.path);
    }
}

/// Where clients come from.
pub(in crate::node) trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one; nothing if it may not come in.
    fn accept(&self) -> impl Future<Output = io::Result<Option<Self::Stream>>> + Send;
}

impl Listener for AdminSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<Option<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        if is_allowed(&stream) {
            return Ok(Some(stream));
        }
        tracing::warn!("another user was turned away from the admin socket");
        Ok(None)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<Option<TcpStream>> {
        Ok(Some(Self::accept(self).await?.0))
    }
}

/// Serves until `stop` is cancelled, then lets answers under way come to their end. Each listener has places of its
/// own, [`MAX_CONNECTIONS`]: however full the port of loopback is, the owner's socket is not.
pub(in crate::node) async fn serve<L: Listener>(listener: L, router: Router, stop: CancellationToken) {
    let (places, connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(Some(stream)) => {
                let serving = converse(stream, router.clone(), stop.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// Ourselves and the superuser; the socket's permissions say the same, once more where they do not hold.
fn is_allowed(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == our_user() || peer.uid() == 0)
}

async fn converse<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWERS, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_owners_and_a_dead_ones_place_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(matches!(AdminSocket::bind(&path), Err(AdminError::InUse { .. })));
        drop(socket);
        assert!(!path.exists());
    }

    /// HARDENING C6: whoever begins a request and does not go on is not waited for.
    #[tokio::test(start_paused = true)]
    async fn half_a_request_holds_its_place_for_a_while_only() {
        let (mut client, server) = tokio::io::duplex(1024);
        let served = tokio::spawn(converse(server, Router::new(), CancellationToken::new()));
        let begun_at = tokio::time::Instant::now();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        served.await.unwrap();
        assert_eq!(begun_at.elapsed().as_secs(), HEADER_TIMEOUT.as_secs());
    }

    /// HARDENING C6: the next one waits until a place is free, and is then served.
    #[tokio::test]
    async fn there_are_only_so_many_places() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = Router::new().route("/", axum::routing::get(async || "here"));
        let serving = tokio::spawn(serve(listener, router, stop.clone()));
        let ask = async |stream: &mut TcpStream| {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        };
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream).await;
            held.push(stream);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        // All places are taken: there is nothing to read until one is free.
        tokio::task::yield_now().await;
        assert!(late.try_read(&mut [0; 1]).is_err());
        drop(held.pop());
        let mut answer = [0; 12];
        late.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stop.cancel();
        drop((held, late));
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminError::NotASocket { .. })));
        let long = directory.path().join("x".repeat(100));
        assert!(matches!(AdminSocket::bind(&long), Err(AdminError::PathTooLong { .. })));
    }
}
