//! What a batch of runs came to: for people, and as JSON for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::coverage::{Coverage, Point};
use crate::run::{Finished, sum_of_hashes};
use crate::token::quoted;

/// The version of the JSON.
const SCHEMA: u32 = 1;

/// What must be known besides the runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a, 'b> {
    /// The runs.
    pub(crate) finished: &'a [Finished<'b>],
    /// How long all of them took together in the real world.
    pub(crate) took: Duration,
    /// What all of them together must have reached at least once.
    pub(crate) required: &'a [Point],
}

impl Batch<'_, '_> {
    /// What all runs together reached.
    pub(crate) fn coverage(&self) -> Coverage {
        let mut sum = Coverage::default();
        for finished in self.finished {
            sum.merge(&finished.outcome.coverage);
        }
        sum
    }

    /// What all runs together missed.
    pub(crate) fn missed(&self) -> Vec<Point> {
        let coverage = self.coverage();
        self.required.iter().copied().filter(|point| coverage.count(*point) == 0).collect()
    }

    fn events(&self) -> u64 {
        self.finished.iter().map(|finished| finished.outcome.events).sum()
    }

    fn simulated(&self) -> Duration {
        self.finished.iter().map(|finished| finished.outcome.simulated).sum()
    }

    /// Writes the table, what failed, what was not tested, and the last line.
    ///
    /// # Errors
    ///
    /// Whatever the writer says.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        self.print_table(out)?;
        self.print_failures(out)?;
        self.print_untested(out)?;
        let seconds = self.took.as_secs_f64().max(1e-9);
        writeln!(
            out,
            "{} runs, {} events, {:.0} s simulated in {:.2} s: {:.0} × real time, {} events/s, {:.0} runs/s, trace {}",
            self.finished.len(),
            grouped(self.events()),
            self.simulated().as_secs_f64(),
            seconds,
            self.simulated().as_secs_f64() / seconds,
            grouped(per_second(self.events(), seconds)),
            self.finished.len() as f64 / seconds,
            sum_of_hashes(self.finished),
        )
    }

    fn print_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let width =
            self.finished.iter().map(|finished| finished.job.scenario.name.len()).max().unwrap_or(8).max(8);
        writeln!(out, "{:<width$}  seeds  nodes    events  agreed after (p50, max)  result", "scenario")?;
        let mut rows: Vec<(&str, Vec<&Finished<'_>>)> = Vec::new();
        for finished in self.finished {
            match rows.iter_mut().find(|(name, _)| *name == finished.job.scenario.name) {
                Some((_, row)) => row.push(finished),
                None => rows.push((&finished.job.scenario.name, vec![finished])),
            }
        }
        for (name, row) in rows {
            let nodes = row.iter().map(|finished| finished.outcome.nodes);
            let (fewest, most) = (nodes.clone().min().unwrap_or(0), nodes.max().unwrap_or(0));
            let nodes = if fewest == most { fewest.to_string() } else { format!("{fewest}-{most}") };
            let events: u64 = row.iter().map(|finished| finished.outcome.events).sum();
            let mut agreed: Vec<Duration> =
                row.iter().filter_map(|finished| finished.outcome.converged_after).collect();
            agreed.sort();
            let seconds = |at: Option<&Duration>| {
                at.map_or_else(|| "never".to_owned(), |at| format!("{:.2} s", at.as_secs_f64()))
            };
            let agreed = format!("{}, {}", seconds(agreed.get(agreed.len() / 2)), seconds(agreed.last()));
            let failed = row.iter().filter(|finished| !finished.held()).count();
            let untested = row.iter().filter(|finished| finished.held() && !finished.tested()).count();
            let result = match (failed, untested) {
                (0, 0) => "ok".to_owned(),
                (0, untested) => format!("{untested} TESTED NOTHING"),
                (failed, _) => format!("{failed} FAILED"),
            };
            writeln!(
                out,
                "{name:<width$}  {:>5}  {nodes:>5}  {:>8}  {agreed:<23}  {result}",
                row.len(),
                grouped(events)
            )?;
        }
        Ok(())
    }

    fn print_failures(&self, out: &mut dyn Write) -> io::Result<()> {
        let failed: Vec<&Finished<'_>> = self.finished.iter().filter(|finished| !finished.held()).collect();
        for finished in failed.iter().take(3) {
            let outcome = &finished.outcome;
            for violation in outcome.violations.iter().take(4) {
                let node = violation.node.map_or_else(|| "all nodes".to_owned(), |node| format!("n{node}"));
                writeln!(
                    out,
                    "\nFAIL {}  scenario={} seed={} t={} s {node}\n     {}",
                    violation.checker, finished.job.label, outcome.seed, violation.at, violation.what
                )?;
            }
            let token = quoted(&finished.job.token());
            writeln!(out, "     replay: cargo run --bin sim -- replay {token}")?;
            writeln!(out, "     shrink: cargo run --bin sim -- shrink {token}")?;
            writeln!(out, "     the last that happened there:")?;
            for record in &outcome.tail {
                writeln!(out, "       {record}")?;
            }
        }
        if failed.len() > 3 {
            writeln!(out, "\n... and {} more runs failed", failed.len() - 3)?;
        }
        Ok(())
    }

    fn print_untested(&self, out: &mut dyn Write) -> io::Result<()> {
        for finished in self.finished.iter().filter(|finished| finished.held() && !finished.tested()).take(5)
        {
            let unmet = finished.outcome.unmet.iter().map(|(point, least)| {
                format!("{point} {} of {least}", finished.outcome.coverage.count(*point))
            });
            let unmet: Vec<String> = unmet.collect();
            writeln!(
                out,
                "\nTESTED NOTHING  scenario={} seed={}: expected at least {}; make the fault longer or earlier, or expect less",
                finished.job.label,
                finished.outcome.seed,
                unmet.join(", ")
            )?;
        }
        let missed = self.missed();
        if !missed.is_empty() {
            let names: Vec<&str> = missed.iter().map(|point| point.name()).collect();
            writeln!(out, "\nNOT COVERED by any run: {}", names.join(", "))?;
        }
        Ok(())
    }

    /// All of it as JSON.
    ///
    /// # Errors
    ///
    /// Whatever the writer says.
    pub(crate) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let runs = self.finished.iter().map(json_run).collect();
        let missed = self.missed().iter().map(|point| point.name()).collect();
        let report = JsonReport {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            runs,
            not_covered: missed,
            events: self.events(),
            virtual_ms: millis(self.simulated()),
            wall_ms: millis(self.took),
            trace_hash: sum_of_hashes(self.finished),
        };
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    schema: u32,
    version: &'a str,
    runs: Vec<JsonRun<'a>>,
    not_covered: Vec<&'a str>,
    events: u64,
    virtual_ms: u64,
    wall_ms: u64,
    trace_hash: String,
}

#[derive(Serialize)]
struct JsonRun<'a> {
    scenario: &'a str,
    token: String,
    seed: u64,
    nodes: usize,
    virtual_ms: u64,
    wall_ms: u64,
    events: u64,
    trace_hash: &'a str,
    converged: bool,
    converged_after_ms: Option<u64>,
    violations: Vec<JsonViolation<'a>>,
    unmet: BTreeMap<&'a str, u64>,
    faults: BTreeMap<&'a str, u64>,
    sometimes: BTreeMap<&'a str, u64>,
}

#[derive(Serialize)]
struct JsonViolation<'a> {
    checker: &'a str,
    at_ms: u64,
    node: Option<usize>,
    what: &'a str,
}

fn json_run<'a>(finished: &'a Finished<'_>) -> JsonRun<'a> {
    let outcome = &finished.outcome;
    let counts = |faults: bool| {
        let counts = outcome.coverage.iter().filter(|(point, _)| point.is_fault() == faults);
        counts.map(|(point, count)| (point.name(), count)).collect()
    };
    let violations = outcome.violations.iter().map(|violation| JsonViolation {
        checker: violation.checker.name(),
        at_ms: violation.at.0 / 1_000_000,
        node: violation.node,
        what: &violation.what,
    });
    JsonRun {
        scenario: &finished.job.scenario.name,
        token: finished.job.token(),
        seed: outcome.seed.0,
        nodes: outcome.nodes,
        virtual_ms: millis(outcome.simulated),
        wall_ms: millis(finished.took),
        events: outcome.events,
        trace_hash: &outcome.trace_hash,
        converged: outcome.converged_after.is_some(),
        converged_after_ms: outcome.converged_after.map(millis),
        violations: violations.collect(),
        unmet: outcome.unmet.iter().map(|(point, least)| (point.name(), *least)).collect(),
        faults: counts(true),
        sometimes: counts(false),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn per_second(count: u64, seconds: f64) -> u64 {
    Duration::try_from_secs_f64(count as f64 / seconds).map_or(u64::MAX, |per| per.as_secs())
}

/// A number with a comma between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
