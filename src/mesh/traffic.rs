//! How much the mesh has said and heard: exact counts of frames and bytes, without those of the transport.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::gossip::Channel;

/// Frames and bytes since the start, headers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Frames of hellos, contexts and wants sent.
    pub control_frames: u64,
    /// Their bytes.
    pub control_bytes: u64,
    /// Frames of state sent.
    pub delta_frames: u64,
    /// Their bytes.
    pub delta_bytes: u64,
    /// Heartbeats sent.
    pub datagrams: u64,
    /// Their bytes.
    pub datagram_bytes: u64,
    /// Frames and datagrams received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// The counters behind [`Traffic`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    control: Counter,
    delta: Counter,
    datagram: Counter,
    received: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    number: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    fn add(&self, bytes: usize) {
        self.number.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.number.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Counters {
    pub(super) fn sent(&self, channel: Channel, bytes: usize) {
        match channel {
            Channel::Control => self.control.add(bytes),
            Channel::Delta => self.delta.add(bytes),
        }
    }

    pub(super) fn sent_datagram(&self, bytes: usize) {
        self.datagram.add(bytes);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.add(bytes);
    }

    pub(super) fn read(&self) -> Traffic {
        let (control_frames, control_bytes) = self.control.read();
        let (delta_frames, delta_bytes) = self.delta.read();
        let (datagrams, datagram_bytes) = self.datagram.read();
        let (received, received_bytes) = self.received.read();
        Traffic {
            control_frames,
            control_bytes,
            delta_frames,
            delta_bytes,
            datagrams,
            datagram_bytes,
            received,
            received_bytes,
        }
    }
}
