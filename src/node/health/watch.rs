//! Asks again and again, and says what changes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::DropGuard;

use super::probe::ProbeError;
use super::{HealthCheck, Judge};
use crate::causes::in_one_line;
use crate::clock::WallClock;
use crate::mesh::Health;
use crate::time::UnixMillis;

/// What is known of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Reported {
    pub(in crate::node) health: Health,
    /// Since when that is so.
    pub(in crate::node) since: UnixMillis,
    /// What was wrong with the last attempt; nothing if it succeeded.
    pub(in crate::node) failure: Option<String>,
}

/// The checks of one target. They end with this.
#[derive(Debug)]
pub(in crate::node) struct Monitor {
    reported: watch::Receiver<Reported>,
    _stop: DropGuard,
}

impl Reported {
    /// Before the first attempt.
    pub(in crate::node) fn starting() -> Self {
        Self { health: Health::Starting, since: WallClock::system().now(), failure: None }
    }
}

impl Monitor {
    pub(in crate::node) fn new(reported: watch::Receiver<Reported>, stop: DropGuard) -> Self {
        Self { reported, _stop: stop }
    }

    /// What is known now.
    pub(in crate::node) fn reported(&self) -> Reported {
        self.reported.borrow().clone()
    }

    /// Will tell what is known from now on.
    pub(in crate::node) fn follow(&self) -> watch::Receiver<Reported> {
        self.reported.clone()
    }
}

/// Waits for what the first attempt comes to, for so long.
pub(in crate::node) async fn first_verdict(
    mut reported: watch::Receiver<Reported>,
    longest: Duration,
) -> Reported {
    let known = reported.wait_for(|reported| reported.health != Health::Starting);
    // One that is over without a verdict was taken back meanwhile.
    if let Ok(Ok(known)) = timeout(longest, known).await {
        return known.clone();
    }
    reported.borrow().clone()
}

/// What is checked.
pub(in crate::node) trait Watched: Send {
    /// Asks once.
    fn attempt(&mut self) -> impl Future<Output = Result<(), ProbeError>> + Send;

    /// Makes the mesh know of a change, and says whether that was done.
    fn register(&mut self, health: Health) -> impl Future<Output = bool> + Send;
}

/// Makes attempts until it is dropped: the first one at once, each next one an interval after the end of the one before.
///
/// As long as the mesh does not know of a change, it is told again after every attempt. What is reported is what the mesh
/// was told of, as far as it took it.
pub(in crate::node) async fn watch(
    mut watched: impl Watched,
    check: &HealthCheck,
    reported: watch::Sender<Reported>,
) {
    let (mut judge, mut registered) = (Judge::new(check), Health::Starting);
    loop {
        let outcome = watched.attempt().await;
        let health = judge.note(outcome.is_ok());
        if health != registered && watched.register(health).await {
            registered = health;
        }
        reported.send_modify(|reported| {
            if reported.health != health {
                (reported.health, reported.since) = (health, WallClock::system().now());
            }
            reported.failure = outcome.err().map(|error| in_one_line(&error));
        });
        sleep(check.interval).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::node::api;

    fn check() -> HealthCheck {
        let (interval, timeout) = (Some("1s".into()), Some("1s".into()));
        let words = api::HealthCheck { check: "tcp".into(), interval, timeout, rise: Some(2), fall: Some(2) };
        HealthCheck::new(&words, &"localhost:80".parse().unwrap()).unwrap()
    }

    /// Answers as was written down, then never again; the first time that it fails, the mesh does not take it.
    struct Script {
        outcomes: std::str::Chars<'static>,
        begun: Instant,
        heard: mpsc::UnboundedSender<(u64, Health)>,
        refuses: bool,
    }

    impl Watched for Script {
        async fn attempt(&mut self) -> Result<(), ProbeError> {
            match self.outcomes.next() {
                Some('+') => Ok(()),
                Some(_) => Err(ProbeError::Status(hyper::StatusCode::GONE)),
                None => std::future::pending().await,
            }
        }

        async fn register(&mut self, health: Health) -> bool {
            self.heard.send((self.begun.elapsed().as_secs(), health)).unwrap();
            !(health == Health::Failing && std::mem::take(&mut self.refuses))
        }
    }

    /// FEATURES P1: the mesh hears of changes and of nothing else, and until it has taken them.
    #[tokio::test(start_paused = true)]
    async fn the_mesh_hears_of_every_change_until_it_has_taken_it() {
        let (told, reported) = watch::channel(Reported::starting());
        let (heard, mut hearing) = mpsc::unbounded_channel();
        let outcomes = "++--+++".chars();
        let script = Script { outcomes, begun: Instant::now(), heard, refuses: true };
        let watching = async move { watch(script, &check(), told).await };
        let waiting = first_verdict(reported.clone(), Duration::from_secs(5));
        let (ended, first) = tokio::join!(timeout(Duration::from_secs(20), watching), waiting);
        assert!(ended.is_err());
        assert_eq!(first.health, Health::Healthy);
        let mut all = Vec::new();
        while let Some(one) = hearing.recv().await {
            all.push(one);
        }
        let expected =
            [(0, Health::Healthy), (3, Health::Failing), (4, Health::Failing), (5, Health::Healthy)];
        assert_eq!(all, expected);
        let last = reported.borrow().clone();
        assert_eq!((last.health, last.failure), (Health::Healthy, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_verdict_is_not_waited_for_for_ever() {
        let (told, reported) = watch::channel(Reported::starting());
        let begun = Instant::now();
        assert_eq!(first_verdict(reported.clone(), Duration::from_secs(5)).await.health, Health::Starting);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        drop(told);
        assert_eq!(first_verdict(reported, Duration::from_secs(5)).await.health, Health::Starting);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}
