//! A connection on this machine's side of a stream: TCP or a unix socket.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// When and how often the kernel asks a silent TCP peer whether it is there.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
/// The longest path of a unix socket on Linux, without the closing zero.
pub(super) const MAX_PATH_LEN: usize = 107;

/// The path of a unix socket, if it is absolute and not too long.
pub(super) fn legal_path(text: &str) -> Option<PathBuf> {
    let legal = Path::new(text).is_absolute() && text.len() <= MAX_PATH_LEN && !text.contains('\0');
    legal.then(|| text.into())
}

/// A connection of either kind. Reading and writing take `&self`, so that two directions can share it.
#[derive(Debug)]
pub enum LocalSocket {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection of a unix socket.
    Unix(UnixStream),
}

/// Calls the method of either kind.
macro_rules! either {
    ($socket:expr, $name:ident => $call:expr) => {
        match $socket {
            LocalSocket::Tcp($name) => $call,
            LocalSocket::Unix($name) => $call,
        }
    };
}

impl LocalSocket {
    /// Small messages go at once, peers that vanished are noticed, and dropping it resets it, whatever the reason:
    /// [`drop_in_order`](Self::drop_in_order) takes the last back. A unix socket has nothing of all that.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => {
                tcp.set_zero_linger()?;
                tcp.set_nodelay(true)?;
                SockRef::from(tcp).set_tcp_keepalive(&KEEPALIVE)
            }
            Self::Unix(_) => Ok(()),
        }
    }

    pub(super) fn drop_in_order(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => SockRef::from(tcp).set_linger(None),
            Self::Unix(_) => Ok(()),
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        either!(self, socket => socket.readable().await)
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        either!(self, socket => socket.writable().await)
    }

    pub(super) fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        either!(self, socket => socket.try_read_buf(buffer))
    }

    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, socket => socket.try_write_vectored(slices))
    }

    /// Says that nothing more comes from this side.
    pub(super) fn finish(&self) -> io::Result<()> {
        let finished = either!(self, socket => SockRef::from(socket).shutdown(Shutdown::Write));
        match finished {
            // The peer has closed both directions already: it needs no end.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            finished => finished,
        }
    }

    /// Waits until the connection is reset, without reading.
    pub(super) async fn broken(&self) -> io::Error {
        loop {
            let ready = either!(self, socket => socket.ready(Interest::ERROR).await);
            match ready {
                Ok(ready) if ready.is_error() => {
                    let taken = either!(self, socket => SockRef::from(socket).take_error());
                    let reset = || io::ErrorKind::ConnectionReset.into();
                    return taken.unwrap_or_else(Some).unwrap_or_else(reset);
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}
