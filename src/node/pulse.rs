//! Whether the core still answers, and how long it takes.
//!
//! The one task that owns the mesh is asked for nothing, once a second. What takes long there holds up everything
//! of the mesh: the time of the longest answer is a metric, and whoever supervises the process (systemd's watchdog)
//! is told that it lives only after an answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use crate::mesh::MeshHandle;

/// How often the core is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many answers count as lately: those of about a minute.
const LATELY: usize = 60;

/// Asks until the node stops, and calls `alive` after every answer.
pub(super) async fn watch(
    mesh: MeshHandle,
    metrics: Arc<Metrics>,
    alive: impl Fn(),
    stop: CancellationToken,
) {
    let mut lately = VecDeque::with_capacity(LATELY);
    while !stop.is_cancelled() {
        let asked_at = Instant::now();
        let answer = mesh.view(|_| ());
        tokio::pin!(answer);
        let answered = loop {
            tokio::select! {
                answered = &mut answer => break answered,
                () = sleep(INTERVAL) => {
                    let longest = lately.iter().max().copied().unwrap_or_default();
                    metrics.stalled(asked_at.elapsed().max(longest));
                }
            }
        };
        if answered.is_err() {
            return;
        }
        if lately.len() == LATELY {
            lately.pop_front();
        }
        lately.push_back(asked_at.elapsed());
        metrics.stalled(lately.iter().max().copied().unwrap_or_default());
        alive();
        stop.run_until_cancelled(sleep(INTERVAL)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::node::admin::testing::{alone, idle};

    fn counted() -> (Arc<AtomicUsize>, impl Fn()) {
        let beats = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&beats);
        (beats, move || {
            counting.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// FEATURES P7: a core that answers is called alive, once a second.
    #[tokio::test(start_paused = true)]
    async fn who_supervises_hears_of_every_answer() {
        let (metrics, stop, (beats, alive)) = (Arc::default(), CancellationToken::new(), counted());
        let watching = tokio::spawn(watch(alone(16), metrics, alive, stop.clone()));
        sleep(Duration::from_millis(9_500)).await;
        assert_eq!(beats.load(Ordering::Relaxed), 10);
        stop.cancel();
        watching.await.unwrap();
    }

    /// FEATURES P7: a core that is stuck is not, and the time is told while it lasts.
    #[tokio::test(start_paused = true)]
    async fn a_core_that_does_not_answer_is_not_called_alive() {
        let (metrics, stop, (beats, alive)) =
            (Arc::<Metrics>::default(), CancellationToken::new(), counted());
        let (mesh, _never_run) = idle();
        tokio::spawn(watch(mesh, Arc::clone(&metrics), alive, stop));
        sleep(Duration::from_millis(9_500)).await;
        assert_eq!(beats.load(Ordering::Relaxed), 0);
        assert_eq!(metrics.longest_stall(), Duration::from_secs(9));
    }
}
