//! Reduces a run that fails to the smallest that fails in the same way.
//!
//! First everything that was drawn is written down: faults, operations, numbers. Then parts are taken away as long
//! as the same check fails: what comes after the failure, nodes, operations, faults, then how long faults last and
//! whom they hit, the weather, the duration. Lists are reduced in halves, quarters and so on (Zeller and Hildebrandt,
//! "Simplifying and Isolating Failure-Inducing Input", TSE 2002). Because every generator is keyed by what it is
//! for, taking one thing away leaves all others as they were.

use std::fmt;
use std::time::{Duration, Instant};

use snomesh::time::Moment;

use crate::checker::Violation;
use crate::fault::NoSuchNode;
use crate::run::{Job, run};
use crate::scenario::{Chance, Drawn, Fault, NodeSet, Scenario, Schedule};
use crate::trace::Keep;
use crate::world::World;

/// What a run was reduced to.
#[derive(Debug)]
pub(crate) struct Shrunk {
    /// The smallest that was found.
    pub(crate) scenario: Scenario,
    /// What fails in it.
    pub(crate) violation: Violation,
    /// How large the run was.
    pub(crate) before: Size,
    /// How large it is now.
    pub(crate) after: Size,
    /// How many runs that took.
    pub(crate) runs: u64,
    /// Whether there was time to try everything.
    pub(crate) complete: bool,
}

/// How large a scenario is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    nodes: usize,
    faults: usize,
    operations: usize,
    duration: Duration,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, faults, operations, duration } = self;
        let seconds = duration.as_secs_f64();
        write!(f, "{nodes} nodes, {faults} faults, {operations} operations, {seconds:.1} s")
    }
}

impl Size {
    fn of(scenario: &Scenario) -> Self {
        Self {
            nodes: count(scenario) - absent(scenario).len(),
            faults: scenario.faults.len(),
            operations: scenario.operations().len(),
            duration: scenario.duration.low(),
        }
    }
}

/// Why nothing was reduced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShrinkError {
    /// The scenario speaks of nodes that it does not have.
    #[error(transparent)]
    NoSuchNode(#[from] NoSuchNode),
    /// Everything held.
    #[error("{token} holds: there is nothing to shrink; name a run that fails")]
    Holds {
        /// The run.
        token: String,
    },
    /// Written down, it is another run: a bug of this program.
    #[error("{token} fails, but not when its faults and operations are written down one by one")]
    Differs {
        /// The run.
        token: String,
    },
}

/// Reduces a run, trying no longer than `until`.
///
/// # Errors
///
/// [`ShrinkError`].
pub(crate) fn shrink(job: Job<'_>, until: Instant) -> Result<Shrunk, ShrinkError> {
    let explicit = explicit(job)?;
    let Explicit { scenario, violation } = explicit;
    let Some(violation) = violation else { return Err(ShrinkError::Holds { token: job.token() }) };
    let before = Size::of(&scenario);
    let checker = violation.checker;
    let fails = |candidate: &Scenario| -> Option<Violation> {
        let keep = Keep::default();
        let outcome = run(Job { scenario: candidate, keep: &keep, ..job }).ok()?.outcome;
        outcome.violations.into_iter().next().filter(|violation| violation.checker == checker)
    };
    let Some(violation) = fails(&scenario) else { return Err(ShrinkError::Differs { token: job.token() }) };
    let mut reducer = Reducer { best: scenario, violation, runs: 2, until, fails };
    reducer.reduce();
    let complete = Instant::now() < until;
    let Reducer { mut best, violation, runs, .. } = reducer;
    best.name = format!("{}-{checker}", best.name);
    best.about = format!("shrunk: {} fails, {}", checker, checker.about());
    best.expect.at_least.clear();
    let after = Size::of(&best);
    Ok(Shrunk { scenario: best, violation, before, after, runs, complete })
}

/// A run with nothing left to draw.
#[derive(Debug)]
pub(crate) struct Explicit {
    /// What was done, as a scenario.
    pub(crate) scenario: Scenario,
    /// What did not hold.
    pub(crate) violation: Option<Violation>,
}

/// Runs a job and writes down all that was drawn for it.
///
/// # Errors
///
/// [`NoSuchNode`].
pub(crate) fn explicit(job: Job<'_>) -> Result<Explicit, NoSuchNode> {
    let keep = Keep { operations: true, ..Keep::default() };
    let drawn = job.scenario.of_seed(job.seed);
    let mut scenario = World::new(&drawn, job.seed, &keep)?.explicit();
    // With as much of the product as the job asks for: what fails in one tier may hold in the other.
    let outcome = run(Job { keep: &keep, ..job })?.outcome;
    let operations = outcome.kept.operations.unwrap_or_default();
    scenario.schedule = Some(Schedule { operations });
    Ok(Explicit { scenario, violation: outcome.violations.into_iter().next() })
}

/// Takes something away.
type Change = fn(&mut Scenario);

struct Reducer<F> {
    best: Scenario,
    violation: Violation,
    runs: u64,
    until: Instant,
    fails: F,
}

impl<F: Fn(&Scenario) -> Option<Violation>> Reducer<F> {
    fn reduce(&mut self) {
        loop {
            let (size, faults) = (Size::of(&self.best), self.best.text().len());
            self.cut_what_comes_after();
            self.drop_nodes();
            self.drop_operations();
            self.drop_faults();
            self.shorten_duration();
            self.narrow_faults();
            self.simplify();
            if Instant::now() >= self.until
                || (Size::of(&self.best), self.best.text().len()) == (size, faults)
            {
                break;
            }
        }
        self.renumber();
        self.round();
    }

    /// Takes a smaller scenario if it still fails.
    fn take(&mut self, candidate: Scenario) -> bool {
        // What could not be read again could not be replayed.
        if Instant::now() >= self.until || candidate.check_reach().is_err() {
            return false;
        }
        self.runs += 1;
        match (self.fails)(&candidate) {
            Some(violation) => {
                self.best = candidate;
                self.violation = violation;
                true
            }
            None => false,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.take(candidate)
    }

    /// Nothing that happens later can have been the cause.
    fn cut_what_comes_after(&mut self) {
        let at = self.violation.at.since(Moment(0)) + Duration::from_millis(1);
        if at < self.best.duration.low() {
            self.change(|scenario| end_at(scenario, at));
        }
    }

    fn drop_nodes(&mut self) {
        for node in (0..count(&self.best)).rev() {
            if !absent(&self.best).contains(&node) {
                self.change(|scenario| remove_node(scenario, node));
            }
        }
    }

    fn drop_operations(&mut self) {
        self.drop_parts(
            |scenario| scenario.operations().len(),
            |scenario, from, to| {
                if let Some(schedule) = &mut scenario.schedule {
                    schedule.operations.drain(from..to);
                }
            },
        );
    }

    fn drop_faults(&mut self) {
        self.drop_parts(
            |scenario| scenario.faults.len(),
            |scenario, from, to| {
                scenario.faults.drain(from..to);
            },
        );
    }

    /// Drops parts of a list, large ones first.
    fn drop_parts(&mut self, len: impl Fn(&Scenario) -> usize, drop: impl Fn(&mut Scenario, usize, usize)) {
        let mut part = len(&self.best);
        while part > 0 {
            let mut end = len(&self.best);
            while end > 0 {
                let from = end.saturating_sub(part);
                self.change(|scenario| drop(scenario, from, end));
                end = from;
            }
            part = if part == 1 { 0 } else { part.div_ceil(2) };
        }
    }

    fn shorten_duration(&mut self) {
        for (part, of) in [(1, 4), (1, 2), (3, 4), (7, 8)] {
            let shorter = self.best.duration.low() * part / of;
            self.change(|scenario| end_at(scenario, shorter));
        }
    }

    fn narrow_faults(&mut self) {
        for number in 0..self.best.faults.len() {
            for part in [4, 2] {
                if let Some(lasts) = self.best.faults[number].lasts {
                    let shorter = lasts.low() / part;
                    self.change(|scenario| scenario.faults[number].lasts = Some(Drawn::fixed(shorter)));
                }
            }
            for node in 0..count(&self.best) {
                let mut fault = self.best.faults[number].clone();
                if fault.spare(node) {
                    self.change(|scenario| scenario.faults[number] = fault);
                }
            }
        }
    }

    /// Takes away what makes a run harder to read.
    fn simplify(&mut self) {
        let zero = Drawn::fixed(Duration::ZERO);
        let changes: [(bool, Change); 6] = [
            (self.best.net.loss != Chance(0.0), |scenario| scenario.net.loss = Chance(0.0)),
            (self.best.net.duplicate != Chance(0.0), |scenario| scenario.net.duplicate = Chance(0.0)),
            (self.best.net.jitter != zero, |scenario| scenario.net.jitter = Drawn::fixed(Duration::ZERO)),
            (self.best.mesh.start != zero, |scenario| scenario.mesh.start = Drawn::fixed(Duration::ZERO)),
            (self.best.clock.skew != Drawn::fixed(crate::scenario::Skew::default()), |scenario| {
                scenario.clock.skew = Drawn::fixed(crate::scenario::Skew::default());
            }),
            (!self.best.subscribers.is_empty(), |scenario| scenario.subscribers.clear()),
        ];
        for (differs, change) in changes {
            if differs {
                self.change(change);
            }
        }
    }

    /// Makes times whole milliseconds, those that can be.
    fn round(&mut self) {
        let round = |at: Duration| Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        let next = |at: Duration| if round(at) == at { at } else { round(at) + Duration::from_millis(1) };
        self.change(|scenario| scenario.duration = Drawn::fixed(next(scenario.duration.low())));
        for number in 0..self.best.faults.len() {
            self.change(|scenario| {
                let fault = &mut scenario.faults[number];
                fault.at = Drawn::fixed(round(fault.at.low()));
                fault.lasts = fault.lasts.map(|lasts| Drawn::fixed(next(lasts.low())));
            });
        }
        for number in 0..self.best.operations().len() {
            self.change(|scenario| {
                if let Some(schedule) = &mut scenario.schedule {
                    schedule.operations[number].at = round(schedule.operations[number].at);
                }
            });
        }
    }

    /// Gives the nodes that are left the first numbers, if it fails then too.
    fn renumber(&mut self) {
        let absent = absent(&self.best);
        if absent.is_empty() {
            return;
        }
        let kept: Vec<usize> = (0..count(&self.best)).filter(|node| !absent.contains(node)).collect();
        let number = |node: usize| kept.iter().position(|kept| *kept == node);
        self.change(|scenario| {
            scenario.nodes = Drawn::fixed(kept.len() as u64);
            scenario.mesh.absent = NodeSet::none();
            scenario.faults.iter_mut().for_each(|fault| fault.renumber(number));
            if let Some(schedule) = &mut scenario.schedule {
                for operation in &mut schedule.operations {
                    operation.node = number(operation.node).unwrap_or(0);
                }
            }
        });
    }
}

fn count(scenario: &Scenario) -> usize {
    usize::try_from(scenario.nodes.low()).unwrap_or(usize::MAX)
}

fn absent(scenario: &Scenario) -> Vec<usize> {
    scenario.mesh.absent.listed()
}

/// Ends a scenario earlier, and what is in it.
fn end_at(scenario: &mut Scenario, end: Duration) {
    scenario.duration = Drawn::fixed(end);
    scenario.faults.retain(|fault: &Fault| fault.at.low() < end);
    if let Some(schedule) = &mut scenario.schedule {
        schedule.operations.retain(|operation| operation.at < end);
    }
}

/// Never starts a node, and lets nothing happen to it.
fn remove_node(scenario: &mut Scenario, node: usize) {
    let mut absent = absent(scenario);
    absent.push(node);
    absent.sort_unstable();
    scenario.mesh.absent = NodeSet::of(absent);
    for fault in &mut scenario.faults {
        fault.spare(node);
    }
    if let Some(schedule) = &mut scenario.schedule {
        schedule.operations.retain(|operation| operation.node != node);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::checker::Checker;
    use crate::random::Seed;

    use crate::run::Finished;
    use crate::scenario::{BUILTIN, builtin};
    use crate::token::Overrides;

    fn job<'a>(scenario: &'a Scenario, seed: u64, keep: &'a Keep, overrides: &'a Overrides) -> Job<'a> {
        Job { scenario, label: "x", overrides, seed: Seed(seed), keep }
    }

    /// FEATURES P11. Whatever a scenario leaves to draw, the same run can be written down.
    #[test]
    fn every_scenario_written_down_is_the_same_run() {
        let same = |name: &str, text: &str| {
            let (keep, overrides) = (Keep::default(), Overrides::default());
            for seed in [0, 7] {
                let scenario = Scenario::parse(name, text).unwrap();
                let drawn = run(job(&scenario, seed, &keep, &overrides)).unwrap();
                let Explicit { scenario: explicit, .. } =
                    explicit(job(&scenario, seed, &keep, &overrides)).unwrap();
                let written =
                    Scenario::parse("written.toml", &explicit.text()).unwrap_or_else(|e| panic!("{e}"));
                let again = run(job(&written, seed, &keep, &overrides)).unwrap();
                let hash = |finished: &Finished<'_>| finished.outcome.trace_hash.clone();
                assert_eq!(hash(&drawn), hash(&again), "{name} with seed {seed}");
            }
        };
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(found) = BUILTIN.get(next.fetch_add(1, Ordering::Relaxed)) {
                same(found.name, found.text);
            }
        };
        std::thread::scope(|scope| [(); 4].map(|()| scope.spawn(work)).map(|thread| thread.join().unwrap()));
    }

    /// A planted failure: no mesh agrees a millisecond after a partition has healed.
    #[test]
    fn a_failure_is_reduced_to_what_it_needs() {
        let (keep, overrides) = (Keep::default(), Overrides::default());
        let text =
            builtin("swarm").unwrap().text.replace("converge_within = \"40s\"", "converge_within = \"1ms\"");
        let scenario = Scenario::parse("x", &text).unwrap();
        let fails = |seed: &u64| !run(job(&scenario, *seed, &keep, &overrides)).unwrap().held();
        let seed = (0..20).find(fails).unwrap();
        let until = Instant::now() + Duration::from_secs(3_600);
        let shrunk = shrink(job(&scenario, seed, &keep, &overrides), until).unwrap();
        assert_eq!(shrunk.violation.checker, Checker::Convergence);
        assert!(shrunk.complete && shrunk.before.operations > 100, "{shrunk:?}");
        let Size { nodes, faults, operations, .. } = shrunk.after;
        assert!(nodes <= 2 && faults <= 1 && operations <= 1, "{}\n{}", shrunk.after, shrunk.scenario.text());
        let again = Scenario::parse("again.toml", &shrunk.scenario.text()).unwrap();
        let outcome = run(job(&again, seed, &keep, &overrides)).unwrap().outcome;
        assert_eq!(outcome.violations[0].checker, Checker::Convergence);
    }

    #[test]
    fn what_holds_is_not_reduced() {
        let (keep, overrides) = (Keep::default(), Overrides::default());
        let scenario = Scenario::parse("x", builtin("three-node-partition").unwrap().text).unwrap();
        let error = shrink(job(&scenario, 0, &keep, &overrides), Instant::now()).unwrap_err();
        assert!(error.to_string().contains("holds"), "{error}");
    }
}
