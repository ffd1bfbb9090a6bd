//! A socket with a switch: cuts a node off from the network for real, as demos and tests need it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// The switch of any number of [`GatedSocket`]s. Clones are the same switch; it begins open.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    shut: Arc<AtomicBool>,
}

impl Gate {
    /// A switch that is open.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets packets pass again.
    pub fn open(&self) {
        self.shut.store(false, Ordering::Release);
    }

    /// Drops all packets from now on, both ways, without telling anyone.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// Whether packets pass.
    pub fn is_open(&self) -> bool {
        !self.shut.load(Ordering::Acquire)
    }
}

/// A socket that behaves like a dead network while its [`Gate`] is shut.
#[derive(Debug)]
pub struct GatedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    gate: Gate,
}

impl GatedSocket {
    /// Puts a gate before a socket.
    pub fn wrap(socket: Arc<dyn AsyncUdpSocket>, gate: Gate) -> Arc<dyn AsyncUdpSocket> {
        Arc::new(Self { socket, gate })
    }
}

impl AsyncUdpSocket for GatedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.gate.is_open() { self.socket.try_send(transmit) } else { Ok(()) }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let received = self.socket.poll_recv(cx, buffers, meta);
            if self.gate.is_open() || !matches!(received, Poll::Ready(Ok(_))) {
                return received;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
