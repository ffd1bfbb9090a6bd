//! One attempt: a connection, a request, or a program.

use std::io;
use std::process::ExitStatus;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::check::{HealthCheck, Probe};
use crate::id::TunnelName;
use crate::service::{DialTargetError, LocalSocket, Target, TargetTable};

/// The longest head of an answer that is read, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// A target has not shown that it serves.
#[derive(Debug, thiserror::Error)]
pub(in crate::node) enum ProbeError {
    /// It cannot be reached as a visitor would reach it.
    #[error(transparent)]
    Dial(#[from] DialTargetError),
    /// It does not speak HTTP.
    #[error("no answer over HTTP")]
    Http(#[from] hyper::Error),
    /// It says itself that it does not serve.
    #[error("answered with status {0}")]
    Status(StatusCode),
    /// The program cannot be run.
    #[error("the check cannot be run")]
    Run(#[source] io::Error),
    /// The program says no.
    #[error("the check ended with {0}")]
    Command(ExitStatus),
    /// Nothing was heard in time.
    #[error("no answer within {0}")]
    TimedOut(String),
}

impl HealthCheck {
    /// Asks once. What was begun has ended when this returns.
    pub(in crate::node) async fn attempt(
        &self,
        name: &TunnelName,
        target: &Target,
        targets: &TargetTable,
    ) -> Result<(), ProbeError> {
        let attempt = async {
            match &self.probe {
                Probe::Connect => targets.connect(target).await.map(drop).map_err(ProbeError::from),
                Probe::Http(path) => match targets.connect(target).await? {
                    LocalSocket::Tcp(tcp) => ask(tcp, target, path).await,
                    LocalSocket::Unix(unix) => ask(unix, target, path).await,
                },
                Probe::Command(program) => {
                    let about =
                        [("SNOMESH_TUNNEL", name.to_string()), ("SNOMESH_TARGET", target.to_string())];
                    let status = program.run(&about).await.map_err(ProbeError::Run)?;
                    if status.success() { Ok(()) } else { Err(ProbeError::Command(status)) }
                }
            }
        };
        let elapsed = |_| ProbeError::TimedOut(crate::node::parse::shown(self.timeout));
        timeout(self.timeout, attempt).await.map_err(elapsed)?
    }
}

async fn ask<T>(stream: T, target: &Target, path: &str) -> Result<(), ProbeError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await?;
    let host = match target {
        Target::Tcp(host) => host.to_string(),
        _ => "localhost".to_owned(),
    };
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("snomesh-health/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("a path that was looked at, and a host that is one, are legal");
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let answer = tokio::select! {
        answer = &mut answer => answer?,
        // It may have closed right behind its answer, which is there then.
        _closed = &mut connection => answer.await?,
    };
    match answer.status() {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(ProbeError::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;
    use crate::node::api;

    async fn attempt(check: &str, target: &str) -> Result<(), String> {
        attempt_within(check, target, "5s").await
    }

    async fn attempt_within(check: &str, target: &str, timeout: &str) -> Result<(), String> {
        let target = target.parse().unwrap();
        let timeout = Some(timeout.to_owned());
        let words = api::HealthCheck { check: check.into(), interval: None, timeout, rise: None, fall: None };
        let check = HealthCheck::new(&words, &target).unwrap();
        let done = check.attempt(&"web".parse().unwrap(), &target, &TargetTable::new()).await;
        done.map_err(|error| crate::causes::in_one_line(&error))
    }

    /// Answers every request with that, whatever it is; gives back what was asked.
    async fn answering(answer: &'static str) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (told, asked) = tokio::sync::mpsc::unbounded_channel();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut visitor, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let length = visitor.read(&mut request).await.unwrap();
                request.truncate(length);
                told.send(String::from_utf8(request).unwrap()).ok();
                visitor.write_all(answer.as_bytes()).await.ok();
            }
        });
        (address, asked)
    }

    /// FEATURES P1.
    #[tokio::test]
    async fn a_target_is_healthy_if_it_answers_and_says_so() {
        for (answer, healthy) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\nlocation: /x\r\n\r\n", true),
            ("HTTP/1.1 404 Not Found\r\n\r\n", false),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("SSH-2.0-OpenSSH\r\n", false),
            ("", false),
        ] {
            let (address, mut asked) = answering(answer).await;
            let outcome = attempt("http:/healthz?x", &address).await;
            assert_eq!(outcome.is_ok(), healthy, "{answer:?}: {outcome:?}");
            let request = asked.recv().await.unwrap();
            assert!(request.starts_with("GET /healthz?x HTTP/1.1\r\n"), "{request}");
            assert!(request.to_lowercase().contains(&format!("\r\nhost: {address}\r\n")), "{request}");
            assert_eq!(attempt("tcp", &address).await, Ok(()));
        }
    }

    /// A target that sends a head without end, or none at all, costs what the limits say.
    #[tokio::test]
    async fn an_endless_answer_is_no_answer() {
        let endless: &'static str =
            Box::leak(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(4 * MAX_HEAD)).into_boxed_str());
        let (address, _asked) = answering(endless).await;
        assert!(attempt("http:/", &address).await.unwrap_err().starts_with("no answer over HTTP"));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let told = attempt_within("http:/", &address, "50ms").await.unwrap_err();
        assert_eq!(told, "no answer within 50ms");
        drop(silent);
        assert!(attempt("tcp", &address).await.unwrap_err().starts_with("cannot connect to "));
    }

    #[tokio::test]
    async fn a_unix_socket_and_a_program_are_asked_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut visitor, _) = listener.accept().await.unwrap();
            let mut request = [0; 3];
            visitor.read_exact(&mut request).await.unwrap();
            visitor.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        });
        assert_eq!(attempt("http:/", &format!("unix:{}", path.display())).await, Ok(()));
        assert_eq!(attempt("cmd:/usr/bin/env true", "udp:127.0.0.1:1").await, Ok(()));
        let failed = attempt("cmd:/usr/bin/env false", "udp:127.0.0.1:1").await.unwrap_err();
        assert_eq!(failed, "the check ended with exit status: 1");
        // What it is told, and nothing else of the environment but PATH.
        let look = directory.path().join("look");
        std::fs::write(
            &look,
            "#!/bin/sh\ntest \"$SNOMESH_TUNNEL $SNOMESH_TARGET $HOME\" = 'web udp:127.0.0.1:1 '\n",
        )
        .unwrap();
        let shell = format!("cmd:/bin/sh {}", look.display());
        assert_eq!(attempt(&shell, "udp:127.0.0.1:1").await, Ok(()));
        let slow = attempt_within("cmd:/bin/sleep 600", "udp:127.0.0.1:1", "50ms").await;
        assert_eq!(slow, Err("no answer within 50ms".to_owned()));
        assert!(attempt("cmd:/nowhere", "udp:127.0.0.1:1").await.is_err());
    }

    /// HARDENING B12: a check leads nowhere where a visitor could not be led.
    #[tokio::test]
    async fn a_check_dials_nothing_that_is_never_dialled() {
        for check in ["tcp", "http:/latest/meta-data"] {
            let told = attempt(check, "169.254.169.254:80").await.unwrap_err();
            assert!(told.contains("is not dialled"), "{told}");
        }
    }
}
