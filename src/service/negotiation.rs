//! Negotiation: how the opener of a stream says what it is for, and hears whether it gets it.
//!
//! ```text
//! opener     "S" | u8 version | u16 length, big-endian | address
//! acceptor   u8: 0 accepted, else a refusal
//! ```
//! Then the stream belongs to the service. A refused or malformed stream costs that stream only; its tunnel lives on.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::address::{AddressError, RouteAddress};
use crate::tunnel::{Closed, ReadError, ReadExactError, StreamCode, TunnelStream, TunnelUplink, WriteError};

const MAGIC: u8 = b'S';
const VERSION: u8 = 1;
const ACCEPTED: u8 = 0;

/// How long a negotiation may take, at either end.
pub const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an acceptor does not give a stream what its opener asks for. Travels as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody there serves such an address. Code 1.
    #[error("no such service")]
    NoSuchService,
    /// The opener may not have it. Code 2.
    #[error("refused")]
    Refused,
    /// The service is there, what the address names is not: no such tunnel, no such target. Code 3.
    #[error("not found")]
    NotFound,
    /// What the address names is there, but does not answer. Code 4.
    #[error("target unreachable")]
    TargetUnreachable,
    /// The request was not one. Code 5.
    #[error("malformed request")]
    Malformed,
    /// A limit is reached; later it may work. Code 6.
    #[error("busy")]
    Busy,
    /// The request did not arrive in time. Code 7.
    #[error("timed out")]
    TimedOut,
    /// A version of the negotiation that the acceptor does not speak. Code 8.
    #[error("unsupported version")]
    Version,
    /// What the address names takes datagrams where the opener brings a stream, or the other way round. Code 9.
    #[error("the target takes the other kind: a stream for datagrams, or datagrams for a stream")]
    OtherKind,
    /// The mesh's policy does not give it to the opener, or not to the one who offers it. Code 10.
    #[error("the mesh's policy does not permit it")]
    NotPermitted,
    /// A code that this version does not know.
    #[error("refused with code {0}")]
    Unknown(u8),
}

impl Refusal {
    const fn code(self) -> u8 {
        match self {
            Self::NoSuchService => 1,
            Self::Refused => 2,
            Self::NotFound => 3,
            Self::TargetUnreachable => 4,
            Self::Malformed => 5,
            Self::Busy => 6,
            Self::TimedOut => 7,
            Self::Version => 8,
            Self::OtherKind => 9,
            Self::NotPermitted => 10,
            Self::Unknown(code) => code,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::NoSuchService,
            2 => Self::Refused,
            3 => Self::NotFound,
            4 => Self::TargetUnreachable,
            5 => Self::Malformed,
            6 => Self::Busy,
            7 => Self::TimedOut,
            8 => Self::Version,
            9 => Self::OtherKind,
            10 => Self::NotPermitted,
            code => Self::Unknown(code),
        }
    }
}

/// A stream was not opened. Except for [`OpenError::Closed`] the tunnel is unharmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The other end answered, and the answer was no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer in time: the peer stalls, or its limit of concurrent streams is used up.
    #[error("no answer in time")]
    TimedOut,
    /// The other end ended the stream without an answer: what served it broke.
    #[error("stream ended without an answer")]
    Unanswered,
    /// The tunnel has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl From<ReadExactError> for OpenError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::Read(ReadError::Closed(closed)) => Self::Closed(closed),
            ReadExactError::Read(ReadError::Reset(_) | ReadError::Stopped) | ReadExactError::Ended => {
                Self::Unanswered
            }
        }
    }
}

/// A request could not be read or answered. The stream is gone, the tunnel unharmed unless it has ended itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// The opener sent something that is not a request; it was told so.
    #[error("malformed request")]
    Malformed,
    /// The opener's address is not one; it was told so.
    #[error("malformed address")]
    Address(#[from] AddressError),
    /// The opener speaks another version; it was told so.
    #[error("unsupported version {0}")]
    Version(u8),
    /// The opener did not send its request in time; it was told so.
    #[error("no request in time")]
    TimedOut,
    /// The opener ended the stream before its request was complete.
    #[error("request broke off")]
    Read(#[from] ReadExactError),
    /// The answer could not be sent.
    #[error("cannot answer")]
    Write(#[from] WriteError),
}

/// Opens a stream to what serves `address` at the other end of the tunnel.
///
/// # Errors
///
/// [`OpenError`]; after [`NEGOTIATION_TIMEOUT`] at the latest.
pub async fn open(tunnel: &impl TunnelUplink, address: &RouteAddress) -> Result<TunnelStream, OpenError> {
    open_by(tunnel, address, Instant::now() + NEGOTIATION_TIMEOUT).await
}

/// Like [`open`], with a deadline of the caller's choice.
///
/// # Errors
///
/// [`OpenError`]; at the deadline at the latest.
pub async fn open_by(
    tunnel: &impl TunnelUplink,
    address: &RouteAddress,
    deadline: Instant,
) -> Result<TunnelStream, OpenError> {
    let opened = async {
        let mut stream = tunnel.open_stream().await?;
        match stream.send.write_all(&request(address)).await {
            // An acceptor may answer before it has read everything; its answer is what counts.
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            Err(WriteError::Closed(closed)) => return Err(closed.into()),
            Err(WriteError::Ended) => return Err(OpenError::Unanswered),
        }
        let mut answer = [0];
        stream.recv.read_exact(&mut answer).await?;
        match answer {
            [ACCEPTED] => Ok(stream),
            [code] => Err(Refusal::from_code(code).into()),
        }
    };
    timeout_at(deadline, opened).await.unwrap_or_else(|_elapsed| Err(OpenError::TimedOut))
}

fn request(address: &RouteAddress) -> Vec<u8> {
    let text = address.to_string();
    let length = u16::try_from(text.len()).expect("an address has at most 2048 bytes");
    let mut request = vec![MAGIC, VERSION];
    request.extend(length.to_be_bytes());
    request.extend(text.as_bytes());
    request
}

/// Reads the request of a stream that the peer opened. What is malformed or late is refused here and now.
///
/// # Errors
///
/// [`NegotiationError`]; at the deadline at the latest.
pub async fn receive(
    mut stream: TunnelStream,
    deadline: Instant,
) -> Result<(RouteAddress, OfferedStream), NegotiationError> {
    let read = match timeout_at(deadline, read_request(&mut stream)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(NegotiationError::TimedOut),
    };
    let offered = OfferedStream { stream };
    let refusal = match &read {
        Ok(_) => None,
        Err(NegotiationError::Malformed | NegotiationError::Address(_)) => Some(Refusal::Malformed),
        Err(NegotiationError::Version(_)) => Some(Refusal::Version),
        Err(NegotiationError::TimedOut) => Some(Refusal::TimedOut),
        Err(NegotiationError::Read(_) | NegotiationError::Write(_)) => None,
    };
    if let Some(refusal) = refusal {
        offered.refuse(refusal).await?;
        return Err(read.expect_err("only errors are refused"));
    }
    read.map(|address| (address, offered))
}

async fn read_request(stream: &mut TunnelStream) -> Result<RouteAddress, NegotiationError> {
    let mut head = [0; 4];
    stream.recv.read_exact(&mut head[..2]).await?;
    match head {
        [MAGIC, VERSION, ..] => {}
        [MAGIC, version, ..] => return Err(NegotiationError::Version(version)),
        _ => return Err(NegotiationError::Malformed),
    }
    stream.recv.read_exact(&mut head[2..]).await?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if length > RouteAddress::MAX_LEN {
        return Err(AddressError::TooLong.into());
    }
    let mut text = vec![0; length];
    stream.recv.read_exact(&mut text).await?;
    let text = String::from_utf8(text).map_err(|_not_utf8| NegotiationError::Malformed)?;
    Ok(text.parse::<RouteAddress>()?)
}

/// How the first bytes of a stream are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// As this module's documentation has it.
    #[default]
    Native,
    /// snocat's version 0: both sides say `NYAN` and 0, the opener then its address behind a length of four bytes,
    /// big-endian; the acceptor answers as here. What is malformed ends without an answer.
    Snocat0,
}

const SNOCAT_HEAD: [u8; 5] = *b"NYAN\0";

impl Dialect {
    /// Opens a stream to what serves `address` at the other end of the tunnel.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; at the deadline at the latest.
    pub async fn open(
        self,
        tunnel: &impl TunnelUplink,
        address: &RouteAddress,
        deadline: Instant,
    ) -> Result<TunnelStream, OpenError> {
        match self {
            Self::Native => open_by(tunnel, address, deadline).await,
            Self::Snocat0 => {
                let opened = timeout_at(deadline, open_snocat(tunnel, address)).await;
                opened.unwrap_or_else(|_elapsed| Err(OpenError::TimedOut))
            }
        }
    }

    /// Reads the request of a stream that the peer opened.
    ///
    /// # Errors
    ///
    /// [`NegotiationError`]; at the deadline at the latest.
    pub async fn receive(
        self,
        mut stream: TunnelStream,
        deadline: Instant,
    ) -> Result<(RouteAddress, OfferedStream), NegotiationError> {
        match self {
            Self::Native => receive(stream, deadline).await,
            Self::Snocat0 => {
                let read = timeout_at(deadline, read_snocat(&mut stream)).await;
                let read = read.unwrap_or(Err(NegotiationError::TimedOut));
                match read {
                    Ok(address) => Ok((address, OfferedStream { stream })),
                    Err(error) => {
                        stream.recv.stop(StreamCode::PROTOCOL_VIOLATION);
                        let _ended = stream.send.finish();
                        Err(error)
                    }
                }
            }
        }
    }
}

async fn open_snocat(tunnel: &impl TunnelUplink, address: &RouteAddress) -> Result<TunnelStream, OpenError> {
    let mut stream = tunnel.open_stream().await?;
    let written = |written: Result<(), WriteError>| match written {
        Ok(()) => Ok(()),
        Err(WriteError::Closed(closed)) => Err(OpenError::Closed(closed)),
        Err(WriteError::Stopped(_) | WriteError::Ended) => Err(OpenError::Unanswered),
    };
    written(stream.send.write_all(&SNOCAT_HEAD).await)?;
    let mut head = [0; SNOCAT_HEAD.len()];
    stream.recv.read_exact(&mut head).await?;
    if head != SNOCAT_HEAD {
        return Err(Refusal::Version.into());
    }
    let text = address.to_string();
    let length = u32::try_from(text.len()).expect("an address has at most 2048 bytes");
    written(stream.send.write_all(&[&length.to_be_bytes(), text.as_bytes()].concat()).await)?;
    let mut answer = [0];
    stream.recv.read_exact(&mut answer).await?;
    match answer {
        [ACCEPTED] => Ok(stream),
        _ => Err(Refusal::Refused.into()),
    }
}

async fn read_snocat(stream: &mut TunnelStream) -> Result<RouteAddress, NegotiationError> {
    stream.send.write_all(&SNOCAT_HEAD).await?;
    let mut head = [0; SNOCAT_HEAD.len()];
    stream.recv.read_exact(&mut head).await?;
    match head {
        SNOCAT_HEAD => {}
        [b'N', b'Y', b'A', b'N', version] => return Err(NegotiationError::Version(version)),
        _ => return Err(NegotiationError::Malformed),
    }
    let mut length = [0; 4];
    stream.recv.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > RouteAddress::MAX_LEN {
        return Err(AddressError::TooLong.into());
    }
    let mut text = vec![0; length];
    stream.recv.read_exact(&mut text).await?;
    let text = String::from_utf8(text).map_err(|_not_utf8| NegotiationError::Malformed)?;
    Ok(text.parse::<RouteAddress>()?)
}

/// A stream whose opener waits for an answer. Dropped without one, the opener learns that nobody answered.
#[derive(Debug)]
pub struct OfferedStream {
    stream: TunnelStream,
}

impl OfferedStream {
    /// Gives the opener what it asks for; from here on the bytes are the service's.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the opener is gone.
    pub async fn accept(mut self) -> Result<TunnelStream, WriteError> {
        self.stream.send.write_all(&[ACCEPTED]).await?;
        Ok(self.stream)
    }

    /// Says no, and why.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the opener is gone.
    pub async fn refuse(mut self, refusal: Refusal) -> Result<(), WriteError> {
        self.stream.recv.stop(StreamCode::REFUSED);
        self.stream.send.write_all(&[refusal.code()]).await?;
        self.stream.send.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::TunnelDownlink;
    use crate::tunnel::duplex::DuplexTunnel;

    fn address(text: &str) -> RouteAddress {
        text.parse().unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + NEGOTIATION_TIMEOUT
    }

    async fn accepted(tunnel: &DuplexTunnel) -> TunnelStream {
        tunnel.incoming().await.unwrap().accept().await.unwrap()
    }

    #[tokio::test]
    async fn an_accepted_stream_carries_what_follows() {
        let (near, far) = DuplexTunnel::pair();
        let serve = async {
            let (asked, offered) = receive(accepted(&far).await, soon()).await.unwrap();
            assert_eq!(asked, address("/echo/x"));
            let mut stream = offered.accept().await.unwrap();
            stream.send.write_all(b"welcome").await.unwrap();
            stream.send.finish().unwrap();
        };
        let ask = async {
            let mut stream = open(&near, &address("/echo/x")).await.unwrap();
            let mut welcome = [0; 7];
            stream.recv.read_exact(&mut welcome).await.unwrap();
            assert_eq!(&welcome, b"welcome");
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn every_refusal_reaches_the_opener_as_it_was_meant() {
        let (near, far) = DuplexTunnel::pair();
        let asked = address("/x");
        for code in 1..=10 {
            let refusal = Refusal::from_code(code);
            assert_eq!(refusal.code(), code);
            let serve = async {
                let (_, offered) = receive(accepted(&far).await, soon()).await.unwrap();
                offered.refuse(refusal).await.unwrap();
            };
            let (opened, ()) = tokio::join!(open(&near, &asked), serve);
            assert_eq!(opened.unwrap_err(), OpenError::Refused(refusal));
        }
    }

    #[tokio::test]
    async fn a_dropped_offer_is_no_answer() {
        let (near, far) = DuplexTunnel::pair();
        let asked = address("/x");
        let serve = async { drop(receive(accepted(&far).await, soon()).await.unwrap()) };
        let (opened, ()) = tokio::join!(open(&near, &asked), serve);
        assert_eq!(opened.unwrap_err(), OpenError::Unanswered);
    }

    #[tokio::test]
    async fn malformed_requests_are_refused_and_the_tunnel_lives() {
        let (near, far) = DuplexTunnel::pair();
        let too_long = [&[MAGIC, VERSION, 8, 1][..], &[b'/'; 2049]].concat();
        for (bytes, answer) in [
            (&b"GET / HTTP/1.1\r\n"[..], Refusal::Malformed),
            (&[MAGIC, 2, 0, 0], Refusal::Version),
            (&[MAGIC, VERSION, 0, 2, b'/', 0xff], Refusal::Malformed),
            (&[MAGIC, VERSION, 0, 1, b'x'], Refusal::Malformed),
            (&too_long, Refusal::Malformed),
        ] {
            let mut stream = near.open_stream().await.unwrap();
            stream.send.write_all(bytes).await.unwrap();
            receive(accepted(&far).await, soon()).await.unwrap_err();
            let mut code = [0];
            stream.recv.read_exact(&mut code).await.unwrap();
            assert_eq!(Refusal::from_code(code[0]), answer);
        }
        let asked = address("/x");
        let serve = async { receive(accepted(&far).await, soon()).await.unwrap().1.accept().await.unwrap() };
        let (opened, _served) = tokio::join!(open(&near, &asked), serve);
        opened.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_stalls_is_refused_in_time() {
        let (near, far) = DuplexTunnel::pair();
        let mut stream = near.open_stream().await.unwrap();
        stream.send.write_all(&[MAGIC]).await.unwrap();
        let received = receive(accepted(&far).await, soon()).await;
        assert_eq!(received.unwrap_err(), NegotiationError::TimedOut);
        let mut code = [0];
        stream.recv.read_exact(&mut code).await.unwrap();
        assert_eq!(Refusal::from_code(code[0]), Refusal::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_opener_does_not_wait_for_ever() {
        let (near, _far) = DuplexTunnel::pair();
        assert_eq!(open(&near, &address("/x")).await.unwrap_err(), OpenError::TimedOut);
    }
}
