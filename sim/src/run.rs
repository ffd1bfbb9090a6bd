//! Runs: one for each scenario and seed, on as many threads as there are.
//!
//! A run is deterministic and knows nothing of the others, so that neither their number nor the threads change
//! what it comes to.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use snomesh::time::Moment;

use crate::checker::{Checker, Violation};
use crate::coverage::Coverage;
use crate::fault::NoSuchNode;
use crate::random::Seed;
use crate::scenario::Scenario;
use crate::world::{Outcome, World};

/// One scenario with one seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    /// What is simulated.
    pub(crate) scenario: &'a Scenario,
    /// What it is called at the command line: a name, or a file.
    pub(crate) label: &'a str,
    /// With which seed.
    pub(crate) seed: Seed,
    /// With how many nodes, if not as many as the scenario says.
    pub(crate) nodes: Option<usize>,
    /// Whether to keep all records as text.
    pub(crate) lines: bool,
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
}

/// Does all jobs; the results are in their order, without those that were not begun after a failure.
///
/// # Errors
///
/// [`NoSuchNode`] of the first job whose scenario speaks of nodes that are not there.
pub(crate) fn run_all<'a>(jobs: &[Job<'a>], effort: Effort) -> Result<Vec<Finished<'a>>, NoSuchNode> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number).filter(|_| !stop.load(Ordering::Relaxed)) else { return };
            let result = run(*job);
            if effort.fail_fast && result.as_ref().is_ok_and(|finished| !finished.held()) {
                stop.store(true, Ordering::Relaxed);
            }
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

/// Does one job. A panic of the core is something that did not hold.
fn run(job: Job<'_>) -> Result<Finished<'_>, NoSuchNode> {
    let begun = Instant::now();
    let world = World::new(job.scenario, job.seed, job.nodes, job.lines)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let what = text.unwrap_or_else(|| "without a message".to_owned());
        Outcome {
            seed: job.seed,
            nodes: job.nodes.unwrap_or(0),
            simulated: Duration::ZERO,
            events: 0,
            trace_hash: "panicked".to_owned(),
            converged_after: None,
            violations: vec![Violation { checker: Checker::Panic, at: Moment(0), node: None, what }],
            coverage: Coverage::default(),
            unmet: Vec::new(),
            tail: Vec::new(),
            lines: None,
        }
    });
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
