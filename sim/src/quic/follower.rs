//! Subscribers of a daemon: each rebuilds what it is told into a view of its own, at its own pace.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snomesh::daemon::{RecvError, Subscription};
use snomesh::gossip::{Event, Mesh};
use snomesh::mesh::MeshHandle;
use tokio::time::sleep;

use super::network::Network;
use crate::coverage::Point;
use crate::random::{self, Generator};
use crate::scenario::Subscriber;
use crate::subscriber::View;

/// What one subscriber believes.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) name: String,
    node: usize,
    /// The first subscriber of a node never stalls, so that a stall is seen to be the subscriber's.
    stalls: bool,
    /// Its node may have had a state before it had events.
    restored: bool,
    pace: Duration,
    batch: u64,
    view: View,
    lags: u64,
    caught_up: bool,
    /// What was not as it must be.
    pub(super) broken: Option<String>,
}

impl Follower {
    pub(super) fn new(kind: &Subscriber, place: usize, node: usize, generator: &mut Generator) -> Self {
        Self {
            name: kind.name.clone(),
            node,
            stalls: place > 0,
            restored: false,
            pace: kind.pace.draw(generator).max(Duration::from_millis(1)),
            batch: kind.batch.map_or(u64::MAX, |batch| batch.draw(generator).max(1)),
            view: View::default(),
            lags: 0,
            caught_up: true,
            broken: None,
        }
    }

    /// The same of a node with a disk.
    pub(super) fn restored(self, restored: bool) -> Self {
        Self { restored, ..self }
    }

    /// What it believes.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    fn note_lag(&mut self, network: &Network) {
        let again = self.lags > 0 && self.caught_up;
        self.lags += 1;
        self.caught_up = false;
        let coverage = &mut network.lock().coverage;
        coverage.hit(Point::Lagged);
        coverage.add(Point::LaggedTwice, u64::from(again));
    }

    /// Every event comes, in order, or is among those that it was told that it missed.
    fn check(&mut self, expects: Option<u64>, missed: u64, found: u64) {
        if expects.is_some_and(|expects| expects + missed != found) {
            let what =
                format!("{} was given event {found}, after {expects:?} and {missed} missed", self.name);
            self.broken.get_or_insert(what);
        }
    }
}

/// Lets a subscriber follow a daemon that has not been started yet; it ends with the daemon. Of what was restored no event
/// tells, so that it begins with what is there.
pub(super) fn follow(
    follower: Follower,
    mesh: MeshHandle,
    network: Network,
    jitter: Generator,
) -> (Arc<Mutex<Follower>>, impl Future<Output = ()> + Send) {
    let events = mesh.subscribe();
    let follower = Arc::new(Mutex::new(follower));
    let reading = read(Arc::clone(&follower), events, mesh, network, jitter);
    (follower, reading)
}

/// Waits for an event, takes as many as it takes at a time, and does something else for a while.
async fn read(
    follower: Arc<Mutex<Follower>>,
    mut events: Subscription<Event>,
    mesh: MeshHandle,
    network: Network,
    mut jitter: Generator,
) {
    let lock = || follower.lock().unwrap_or_else(PoisonError::into_inner);
    let (node, stalls, pace, batch, restored) = {
        let follower = lock();
        (follower.node, follower.stalls, follower.pace, follower.batch, follower.restored)
    };
    let resync = || {
        let again = mesh.clone();
        // In one go with the driver: the view and what follows it, without a gap.
        mesh.view(move |mesh: &Mesh| (View::of(mesh), again.subscribe()))
    };
    // The number of the next event, if that is known.
    let mut expects = Some(0);
    if restored {
        let Ok((view, from_now)) = resync().await else { return };
        lock().view = view;
        (events, expects) = (from_now, None);
    }
    loop {
        let mut told = events.recv().await.map(Some);
        let mut taken = 0;
        loop {
            match told {
                Ok(Some((sequence, event))) => {
                    let mut follower = lock();
                    follower.check(expects, 0, sequence.0);
                    follower.view.apply(&event);
                    expects = Some(sequence.0 + 1);
                }
                Ok(None) => {
                    lock().caught_up = true;
                    break;
                }
                Err(RecvError::Lagged(lagged)) => {
                    lock().note_lag(&network);
                    if let Ok(Some((sequence, _))) = events.try_recv() {
                        lock().check(expects, lagged.missed, sequence.0);
                    }
                    let Ok((view, from_now)) = resync().await else { return };
                    lock().view = view;
                    (events, expects) = (from_now, None);
                }
                Err(_) => return,
            }
            taken += 1;
            if taken >= batch && !network.lock().healed {
                break;
            }
            told = events.try_recv();
        }
        loop {
            sleep(pace + random::duration(&mut jitter, Duration::ZERO, pace / 4)).await;
            if !stalls || !network.lock().faults.is_stalled(node) {
                break;
            }
        }
    }
}
