//! `proxy --socks5`: every tunnel of the mesh by its name, for programs that know SOCKS version 5 (RFC 1928).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::attr::encode;
use super::failure::{Exit, Failure};
use super::parse;
use super::screen::Screen;
use super::up::Signals;
use crate::mesh::Destination;
use crate::node::api::Code;
use crate::node::{Client, ClientError, pipe};

/// How long a visitor may take to say where it wants to go.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// What a host name may end in, to tell the mesh's names from others.
const SUFFIX: &str = ".mesh";
/// How long the listener pauses when the system cannot give it another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Proxy {
    /// Where to listen: IP:PORT, or a port of 127.0.0.1; hosts are names of tunnels, with or without .mesh behind them
    #[arg(long, value_name = "ADDR", value_parser = parse::listen)]
    socks5: SocketAddr,
}

/// The answers of RFC 1928, section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Granted = 0,
    Failed = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    Refused = 5,
    NoSuchCommand = 7,
    NoSuchAddress = 8,
}

pub(super) async fn proxy(client: &Client, screen: &mut Screen, proxy: &Proxy) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(proxy.socks5).await.map_err(|error| {
        Failure::new(Exit::Conflict, format!("cannot listen on {}: {error}", proxy.socks5))
    })?;
    let bound = listener.local_addr()?;
    screen.done(format!("socks5://{bound}"))?;
    screen.next(format!("Try it:  curl --proxy socks5h://{bound} http://NAME{SUFFIX}/"))?;
    let mut visitors = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            exit = signals.recv() => return Ok(exit),
            Some(_ended) = visitors.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, visitor)) => {
                let client = client.clone();
                visitors.spawn(async move {
                    if let Err(error) = serve(&client, tcp).await {
                        tracing::debug!(%visitor, %error, "visitor not served to the end");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a visitor");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(client: &Client, mut tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let asked = timeout(GREETING_TIMEOUT, greet(&mut tcp)).await??;
    let opened = match asked {
        Ok(destination) => {
            let to = encode(&destination.to_string());
            client.upgrade(&format!("/v1/connect?to={to}")).await.map_err(|error| refusal(&error))
        }
        Err(reply) => Err(reply),
    };
    match opened {
        Ok(stream) => {
            answer(&mut tcp, Reply::Granted).await?;
            join(tcp, stream).await
        }
        Err(reply) => answer(&mut tcp, reply).await,
    }
}

/// Joins visitor and stream; what breaks becomes a reset.
async fn join(tcp: TcpStream, stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let tcp = tcp.into_std()?;
    let kept = tcp.try_clone()?;
    let (read, write) = TcpStream::from_std(tcp)?.into_split();
    // The output is shut down when it is dropped.
    let joined = pipe::join(stream, read, write, || Ok(())).await;
    if joined.is_err() {
        SockRef::from(&kept).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Hears where a visitor wants to go.
async fn greet(
    visitor: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<Result<Destination, Reply>> {
    const NO_AUTHENTICATION: u8 = 0;
    let [version, methods] = read(visitor).await?;
    let mut offered = vec![0; usize::from(methods)];
    visitor.read_exact(&mut offered).await?;
    if version != 5 || !offered.contains(&NO_AUTHENTICATION) {
        visitor.write_all(&[5, 0xff]).await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    visitor.write_all(&[5, NO_AUTHENTICATION]).await?;
    let [_version, command, _reserved, kind] = read(visitor).await?;
    let host = match kind {
        1 => read::<4>(visitor).await.map(|_address| None)?,
        4 => read::<16>(visitor).await.map(|_address| None)?,
        3 => {
            let [length] = read(visitor).await?;
            let mut host = vec![0; usize::from(length)];
            visitor.read_exact(&mut host).await?;
            String::from_utf8(host).ok()
        }
        _ => return Ok(Err(Reply::NoSuchAddress)),
    };
    let [_high, _low] = read(visitor).await?;
    if command != 1 {
        return Ok(Err(Reply::NoSuchCommand));
    }
    let Some(host) = host else { return Ok(Err(Reply::NoSuchAddress)) };
    let name = host.strip_suffix(SUFFIX).unwrap_or(&host);
    Ok(name.parse().map_err(|_no_name| Reply::HostUnreachable))
}

async fn read<const N: usize>(visitor: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    visitor.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn answer(visitor: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    visitor.write_all(&[5, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

fn refusal(error: &ClientError) -> Reply {
    match error {
        ClientError::Refused(problem) => match problem.code {
            Code::NotFound => Reply::HostUnreachable,
            Code::Unreachable => Reply::Refused,
            Code::Invalid => Reply::NotAllowed,
            _ => Reply::Failed,
        },
        _ => Reply::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(bytes: &[u8]) -> io::Result<Result<String, Reply>> {
        let (mut near, mut far) = tokio::io::duplex(1_000);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let asked = greet(&mut far).await?;
        Ok(asked.map(|destination| destination.to_string()))
    }

    fn request(command: u8, rest: &[u8]) -> Vec<u8> {
        [&[5, 2, 0, 2, 5, command, 0][..], rest, &[0, 80]].concat()
    }

    #[tokio::test]
    async fn hosts_are_names_of_tunnels() {
        assert_eq!(asked(&request(1, b"\x03\x08web.mesh")).await.unwrap(), Ok("web".into()));
        assert_eq!(asked(&request(1, b"\x03\x09web@b.c.d")).await.unwrap(), Ok("web@b.c.d".into()));
        assert_eq!(asked(&request(1, b"\x03\x03Web")).await.unwrap(), Err(Reply::HostUnreachable));
        assert_eq!(asked(&request(1, b"\x01\x7f\0\0\x01")).await.unwrap(), Err(Reply::NoSuchAddress));
        assert_eq!(asked(&request(2, b"\x03\x03web")).await.unwrap(), Err(Reply::NoSuchCommand));
    }

    #[tokio::test]
    async fn what_is_not_socks_is_not_answered_as_such() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[4, 1, 0, 80], &[5, 1, 2], &[5, 1], &request(1, b"\x03\xffx")]
        {
            assert!(asked(bytes).await.is_err(), "{bytes:?}");
        }
    }
}
