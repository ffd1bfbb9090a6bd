//! Why tunnels end: what one side asks for ([`CloseReason`]) and what either side sees ([`Closed`]).

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

/// Why one side ends a tunnel. Travels to the peer as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The last handle and the last stream are gone. Code 0.
    Dropped,
    /// The node stops or leaves. Code 1.
    ShuttingDown,
    /// The peer did not authenticate, or not in time. Code 2.
    Unauthenticated,
    /// A limit on tunnels is reached, in all or for this peer. Code 3.
    TooManyTunnels,
    /// The peer broke the protocol. Code 4.
    ProtocolViolation,
    /// Another tunnel to the same peer takes this one's place. Code 5.
    Superseded,
    /// The peer's identity is no longer accepted. Code 6.
    Denied,
    /// An operator asked for it. Code 7.
    Requested,
    /// The peer no longer answers. Code 8.
    Unresponsive,
    /// The certificate that the peer proved itself with has ended, and it has shown no later one. Code 9.
    Expired,
    /// A reason of a protocol above tunnels, or one that this version does not know. Codes from 256 are free for use.
    Application(u32),
}

impl CloseReason {
    /// The number that travels.
    pub const fn code(self) -> u32 {
        match self {
            Self::Dropped => 0,
            Self::ShuttingDown => 1,
            Self::Unauthenticated => 2,
            Self::TooManyTunnels => 3,
            Self::ProtocolViolation => 4,
            Self::Superseded => 5,
            Self::Denied => 6,
            Self::Requested => 7,
            Self::Unresponsive => 8,
            Self::Expired => 9,
            Self::Application(code) => code,
        }
    }

    /// The reason that a number stands for.
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Dropped,
            1 => Self::ShuttingDown,
            2 => Self::Unauthenticated,
            3 => Self::TooManyTunnels,
            4 => Self::ProtocolViolation,
            5 => Self::Superseded,
            6 => Self::Denied,
            7 => Self::Requested,
            8 => Self::Unresponsive,
            9 => Self::Expired,
            code => Self::Application(code),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "no longer used",
            Self::ShuttingDown => "shutting down",
            Self::Unauthenticated => "not authenticated",
            Self::TooManyTunnels => "too many tunnels",
            Self::ProtocolViolation => "protocol violation",
            Self::Superseded => "superseded by another tunnel",
            Self::Denied => "identity denied",
            Self::Requested => "requested by an operator",
            Self::Unresponsive => "peer unresponsive",
            Self::Expired => "certificate expired",
            Self::Application(code) => return write!(f, "application code {code}"),
        })
    }
}

/// How a tunnel ended, as this side saw it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// This side closed it.
    #[error("closed by this side: {0}")]
    Locally(CloseReason),
    /// The peer closed it and said why.
    #[error("closed by the peer: {0}")]
    ByPeer(CloseReason),
    /// The peer was silent for the idle timeout, or never answered.
    #[error("timed out")]
    TimedOut,
    /// The peer answered that it knows nothing of this tunnel: it restarted.
    #[error("the peer has restarted")]
    PeerRestarted,
    /// The transport gave up, for a violation of its own protocol or a failed handshake.
    #[error("transport error {code:#x}: {text:?}")]
    Transport {
        /// The transport's code of the error.
        code: u64,
        /// The transport's words, for people. May come from the peer, so it is escaped when printed.
        text: Arc<str>,
    },
}

/// The place where the first reason is kept and waited for.
#[derive(Debug)]
pub(crate) struct CloseCell {
    first: watch::Sender<Option<Closed>>,
}

impl CloseCell {
    pub(crate) fn new() -> Self {
        Self { first: watch::Sender::new(None) }
    }

    /// Keeps the reason if it is the first, and says whether it was.
    pub(crate) fn settle(&self, closed: Closed) -> bool {
        self.settle_by(closed, || {})
    }

    /// Keeps the reason if it is the first, and carries it out before anybody can see it. Whoever sees it drops what it has
    /// of the tunnel; that must not reach the peer as streams that end while the tunnel stands. `end` must not look here.
    pub(crate) fn settle_by(&self, closed: Closed, end: impl FnOnce()) -> bool {
        self.first.send_if_modified(|first| {
            let wins = first.is_none();
            if wins {
                end();
                *first = Some(closed);
            }
            wins
        })
    }

    pub(crate) fn first(&self) -> Option<Closed> {
        self.first.borrow().clone()
    }

    /// Waits for the first reason; a cell that goes without one was dropped by this side.
    pub(crate) fn settled(&self) -> impl Future<Output = Closed> + Send + 'static {
        let mut first = self.first.subscribe();
        async move {
            let settled = first.wait_for(Option::is_some).await.ok().and_then(|first| first.clone());
            settled.unwrap_or(Closed::Locally(CloseReason::Dropped))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_for_itself() {
        for code in (0..300).chain([u32::MAX]) {
            assert_eq!(CloseReason::from_code(code).code(), code);
        }
    }

    #[tokio::test]
    async fn a_reason_is_carried_out_before_it_is_seen_and_only_the_first_one() {
        let cell = Arc::new(CloseCell::new());
        let (began, begun) = std::sync::mpsc::channel();
        let looking = {
            let cell = Arc::clone(&cell);
            std::thread::spawn(move || {
                begun.recv().unwrap();
                cell.first()
            })
        };
        let carried_out = std::sync::atomic::AtomicBool::new(false);
        assert!(cell.settle_by(Closed::TimedOut, || {
            began.send(()).unwrap();
            // Whoever looks meanwhile waits: it cannot have seen anything.
            assert!(!looking.is_finished());
            carried_out.store(true, std::sync::atomic::Ordering::SeqCst);
        }));
        assert!(carried_out.into_inner());
        assert_eq!(looking.join().unwrap(), Some(Closed::TimedOut));
        assert!(!cell.settle_by(Closed::PeerRestarted, || panic!("it has ended already")));
    }

    #[tokio::test]
    async fn the_first_reason_wins() {
        let cell = CloseCell::new();
        let settled = cell.settled();
        assert!(cell.settle(Closed::TimedOut));
        assert!(!cell.settle(Closed::PeerRestarted));
        assert_eq!(settled.await, Closed::TimedOut);
        assert_eq!(cell.first(), Some(Closed::TimedOut));
    }
}
