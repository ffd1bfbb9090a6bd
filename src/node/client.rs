//! The other end of the admin API, for the command line.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::api::{CONNECT_PROTOCOL, Event, Paged, Problem};

/// The longest answer that is read, in bytes: a list of a hundred thousand large things.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// The longest event: a value in base64 and a little more.
const MAX_EVENT: usize = 1024 * 1024;

/// Where a node's admin API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// On a unix socket.
    Unix(PathBuf),
    /// On a port of loopback, behind a token.
    Http {
        /// `HOST:PORT`.
        address: String,
        /// What is in the node's `admin.token`.
        token: Token,
    },
}

/// A token, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes the token that a file holds.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Http { address, .. } => write!(f, "http://{address}"),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Agent {
    fn from(path: P) -> Self {
        Self::Unix(path.into())
    }
}

/// Asks the node behind one admin API, with a connection for each request.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    /// How long a request may take; a stream, until it begins.
    timeout: Duration,
}

/// A request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens on the socket, or we may not open it.
    #[error("no node answers on {agent}")]
    Unreachable {
        /// Where it was looked for.
        agent: Box<Agent>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node did not answer in time. Whether it did what was asked is not known.
    #[error("the node did not answer within {after:?}")]
    TimedOut {
        /// How long we waited.
        after: Duration,
    },
    /// The connection broke off.
    #[error("the connection to the node broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is none of the admin API: another program, or another version.
    #[error("the node's answer makes no sense")]
    Unintelligible(#[source] serde_json::Error),
    /// The node said no.
    #[error("{}", .0.title)]
    Refused(Problem),
}

impl Client {
    /// Will ask the node behind that admin API, for instance the path of its socket.
    pub fn new(agent: impl Into<Agent>, timeout: Duration) -> Self {
        Self { agent: agent.into(), timeout }
    }

    /// `GET` of a document.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.ask(Method::GET, path, Bytes::new()).await?)
    }

    /// `GET` of a list, all of its pages joined. What changes while they are read may be in it or not.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn list<T: Paged>(&self, path: &str) -> Result<T, ClientError> {
        let mut list: T = self.get(path).await?;
        let more = if path.contains('?') { '&' } else { '?' };
        while let Some(after) = list.next() {
            // Whatever follows is made of the characters of keys, which stand for themselves in a query.
            let page = self.get(&format!("{path}{more}after={after}")).await?;
            list.append(page);
        }
        Ok(list)
    }

    /// `GET` of bytes.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// `PUT` of bytes.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, ClientError> {
        parse(&self.ask(Method::PUT, path, body).await?)
    }

    /// `PUT` of a document.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn put_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.put(path, json(body)).await
    }

    /// `POST` of a document.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        parse(&self.ask(Method::POST, path, json(body)).await?)
    }

    /// `POST` of nothing, answered by nothing.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn post_empty(&self, path: &str) -> Result<(), ClientError> {
        self.ask(Method::POST, path, Bytes::new()).await.map(drop)
    }

    /// `DELETE` with an answer of bytes, often none.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<Bytes, ClientError> {
        self.ask(Method::DELETE, path, Bytes::new()).await
    }

    /// `GET` of a stream of events.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn stream(&self, path: &str) -> Result<EventStream, ClientError> {
        let response = self.in_time(self.send(Method::GET, path, Bytes::new())).await?;
        let body = accepted(response).await?;
        Ok(EventStream { body, buffer: Vec::new() })
    }

    /// `GET` of bytes that come piece by piece, for as long as they take.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn pieces(&self, path: &str) -> Result<PieceStream, ClientError> {
        let response = self.in_time(self.send(Method::GET, path, Bytes::new())).await?;
        Ok(PieceStream { body: accepted(response).await?, timeout: self.timeout })
    }

    /// `POST` that turns the connection into a stream of [`CONNECT_PROTOCOL`].
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn upgrade(
        &self,
        path: &str,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, ClientError> {
        let response =
            self.in_time(self.send_asking(Method::POST, path, Bytes::new(), Some(CONNECT_PROTOCOL)));
        let response = response.await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let _body = accepted(response).await?;
            return Err(ClientError::Broken("the node did not upgrade the connection".into()));
        }
        let upgraded = hyper::upgrade::on(response).await;
        Ok(TokioIo::new(upgraded.map_err(|error| ClientError::Broken(error.into()))?))
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.in_time(async {
            let body = accepted(self.send(method, path, body).await?).await?;
            collect(body).await
        })
        .await
    }

    async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let after = self.timeout;
        timeout(after, asking).await.unwrap_or(Err(ClientError::TimedOut { after }))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        self.send_asking(method, path, body, None).await
    }

    async fn send_asking(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        protocol: Option<&'static str>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request =
            self.request(method, path, body).map_err(|error| ClientError::Broken(error.into()))?;
        if let Some(protocol) = protocol {
            let headers = request.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
        }
        let unreachable = |source| ClientError::Unreachable { agent: Box::new(self.agent.clone()), source };
        match &self.agent {
            Agent::Unix(path) => {
                converse(UnixStream::connect(path).await.map_err(unreachable)?, request).await
            }
            Agent::Http { address, .. } => {
                converse(TcpStream::connect(address).await.map_err(unreachable)?, request).await
            }
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> hyper::http::Result<Request<Full<Bytes>>> {
        let is_post = method == Method::POST;
        let mut request = Request::builder().method(method).uri(path);
        if is_post {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = match &self.agent {
            Agent::Unix(_) => request.header(header::HOST, "snomesh"),
            Agent::Http { address, token } => request
                .header(header::HOST, address)
                .header(header::AUTHORIZATION, format!("Bearer {}", token.0)),
        };
        request.body(Full::new(body))
    }
}

/// Sends one request and reads the head of its answer.
async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| ClientError::Broken(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(async move {
        // What breaks the connection shows in the answer.
        connection.with_upgrades().await.ok();
    });
    sender.send_request(request).await.map_err(broken)
}

/// Events as they come.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl EventStream {
    /// The next event, as the node sent it and as it is understood; nothing when the node has ended the stream.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<(String, Event)>, ClientError> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let message: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let message = String::from_utf8_lossy(&message);
                if let Some(data) = message.lines().find_map(|line| line.strip_prefix("data: ")) {
                    let event = serde_json::from_str(data).map_err(ClientError::Unintelligible)?;
                    return Ok(Some((data.to_owned(), event)));
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Broken(error.into())),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(ClientError::Broken("an event is too long".into()));
            }
        }
    }
}

/// Bytes as they come.
#[derive(Debug)]
pub struct PieceStream {
    body: Incoming,
    timeout: Duration,
}

impl PieceStream {
    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    ///
    /// [`ClientError`], also if nothing comes for as long as an answer may take.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let after = self.timeout;
        loop {
            let frame = timeout(after, self.body.frame()).await;
            match frame.map_err(|_elapsed| ClientError::TimedOut { after })? {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// The body of an answer, unless it is a problem.
async fn accepted(response: Response<Incoming>) -> Result<Incoming, ClientError> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SERVICE_UNAVAILABLE && is_text(&response) {
        return Ok(response.into_body());
    }
    Err(ClientError::Refused(parse(&collect(response.into_body()).await?)?))
}

/// `/readyz` says no in plain text.
fn is_text(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let collected = Limited::new(body, MAX_ANSWER).collect().await;
    collected.map(|body| body.to_bytes()).map_err(ClientError::Broken)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(ClientError::Unintelligible)
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("texts and numbers are JSON").into()
}
