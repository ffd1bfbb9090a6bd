//! Runs: one for each scenario and seed, on as many threads as there are.
//!
//! A run is deterministic and knows nothing of the others, so that neither their number nor the threads change
//! what it comes to.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::checker::Checker;
use crate::fault::NoSuchNode;
use crate::progress::Progress;
use crate::random::Seed;
use crate::scenario::{Scenario, Tier};
use crate::token::Overrides;
use crate::trace::Keep;
use crate::world::{Outcome, World};

/// One scenario with one seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    /// What is simulated.
    pub(crate) scenario: &'a Scenario,
    /// What it is called at the command line: a name, or a file.
    pub(crate) label: &'a str,
    /// What the command line has changed of it already.
    pub(crate) overrides: &'a Overrides,
    /// With which seed.
    pub(crate) seed: Seed,
    /// What to keep of it.
    pub(crate) keep: &'a Keep,
}

impl Job<'_> {
    /// The word by which it is repeated.
    pub(crate) fn token(&self) -> String {
        format!("{}@{}{}", self.label, self.seed, self.overrides)
    }
}

/// What a job came to.
#[derive(Debug)]
pub(crate) struct Finished<'a> {
    /// What was done.
    pub(crate) job: Job<'a>,
    /// What it came to.
    pub(crate) outcome: Outcome,
    /// How long it took in the real world.
    pub(crate) took: Duration,
}

impl Finished<'_> {
    /// Whether everything held.
    pub(crate) fn held(&self) -> bool {
        self.outcome.violations.is_empty()
    }

    /// Whether everything happened that had to.
    pub(crate) fn tested(&self) -> bool {
        self.outcome.unmet.is_empty()
    }
}

/// How many jobs to do at a time, and whether to go on after the first that fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// At a time.
    pub(crate) threads: usize,
    /// Whether to stop at the first that fails.
    pub(crate) fail_fast: bool,
    /// When to begin no more.
    pub(crate) until: Option<Instant>,
    /// The check after whose first failure no more is begun.
    pub(crate) sought: Option<Checker>,
}

impl Effort {
    /// Everything, on so many threads.
    pub(crate) fn all(threads: usize) -> Self {
        Self { threads, fail_fast: false, until: None, sought: None }
    }
}

/// Does all jobs; the results are in their order, without those that were not begun after a failure or when the
/// time was up. The first is always begun.
///
/// # Errors
///
/// [`NoSuchNode`] of the first job whose scenario speaks of nodes that are not there.
pub(crate) fn run_all<'a>(
    jobs: &[Job<'a>],
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Finished<'a>>, NoSuchNode> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let is_late = number > 0 && effort.until.is_some_and(|until| Instant::now() >= until);
            let Some(job) = jobs.get(number).filter(|_| !is_late && !stop.load(Ordering::Relaxed)) else {
                return;
            };
            let result = run(*job);
            let held = result.as_ref().is_ok_and(Finished::held);
            let found = |finished: &Finished<'_>| {
                let mut failed = finished.outcome.violations.iter().map(|violation| violation.checker);
                failed.any(|checker| Some(checker) == effort.sought)
            };
            if (effort.fail_fast && !held) || result.as_ref().is_ok_and(found) {
                stop.store(true, Ordering::Relaxed);
            }
            progress.done(held);
            results.lock().expect("no thread panics while it holds the lock").push((number, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..effort.threads.clamp(1, jobs.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().expect("no thread panics while it holds the lock");
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Does one job.
///
/// # Errors
///
/// [`NoSuchNode`] if its scenario speaks of nodes that are not there.
pub(crate) fn run(job: Job<'_>) -> Result<Finished<'_>, NoSuchNode> {
    let begun = Instant::now();
    let scenario = job.scenario.of_seed(job.seed);
    let outcome = match scenario.tier {
        Tier::Core => World::new(&scenario, job.seed, job.keep)?.run(),
        #[cfg(feature = "quic")]
        Tier::Quic => crate::quic::run(&scenario, job.seed, job.keep)?,
        #[cfg(not(feature = "quic"))]
        Tier::Quic => unreachable!("a scenario of a tier that is not there is refused before it is run"),
    };
    Ok(Finished { job, outcome, took: begun.elapsed() })
}

/// One hash over the hashes of many runs, in their order.
pub(crate) fn sum_of_hashes(finished: &[Finished<'_>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for finished in finished {
        hasher.update(finished.outcome.trace_hash.as_bytes());
    }
    let mut digits = hasher.finalize().to_hex().to_string();
    digits.truncate(16);
    digits
}
