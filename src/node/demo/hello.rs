//! A small HTTP service, and a visitor of it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, client, header, server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::StepError;

/// Serves `text` to everybody who comes, until the runtime ends. Returns where.
pub(super) async fn serve(text: String) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let text = Bytes::from(text);
    tokio::spawn(async move {
        while let Ok((visitor, _)) = listener.accept().await {
            let text = text.clone();
            let answer = service_fn(move |_: Request<_>| {
                let answer = Response::new(Full::new(text.clone()));
                async move { Ok::<_, Infallible>(answer) }
            });
            let serving = server::conn::http1::Builder::new().serve_connection(TokioIo::new(visitor), answer);
            // A visitor that leaves early is its own affair.
            tokio::spawn(async move { serving.await.ok() });
        }
    });
    Ok(address)
}

/// Fetches what is served at an address.
pub(super) async fn fetch(address: SocketAddr) -> Result<String, StepError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let talking = tokio::spawn(connection);
    let request = Request::get("/").header(header::HOST, "hello").body(Full::<Bytes>::default())?;
    let answer = sender.send_request(request).await?.into_body().collect().await?;
    talking.abort();
    Ok(String::from_utf8_lossy(&answer.to_bytes()).into_owned())
}
