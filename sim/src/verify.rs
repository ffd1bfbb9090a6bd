//! Is a run the same run every time? In one process, in two, on one thread and on two.

use std::io::{self, Write};
use std::process::Command;

use crate::cli::Chosen;
use crate::fault::NoSuchNode;
use crate::progress::Progress;
use crate::random::Seed;
use crate::run::{Effort, Job, run_all};
use crate::trace::Keep;

/// Why the question could not be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// The scenario speaks of nodes that it does not have: its author's fault.
    #[error(transparent)]
    NoSuchNode(#[from] NoSuchNode),
    /// This program could not start itself, or write its answer.
    #[error("cannot run another process of this program: {0}")]
    Process(#[from] io::Error),
    /// The other process said something else than a report: a bug of this program.
    #[error("the other process wrote no report: {what}")]
    NoReport {
        /// What it wrote instead.
        what: String,
    },
}

/// How many seeds each scenario is run with.
const SEEDS: u64 = 2;

/// Runs each scenario several times with the same seed; says whether all came to the same.
///
/// # Errors
///
/// [`VerifyError`]; nothing is known then.
pub(crate) fn verify(scenarios: &[Chosen], first: Seed, out: &mut dyn Write) -> Result<bool, VerifyError> {
    let mut same = true;
    let (nothing, lines) = (Keep::default(), Keep { lines: true, ..Keep::default() });
    for Chosen { label, scenario, overrides } in scenarios {
        let job = |seed: u64, keep| Job {
            scenario,
            label,
            overrides,
            seed: Seed(first.0.wrapping_add(seed)),
            keep,
        };
        let jobs: Vec<Job<'_>> = (0..SEEDS).map(|seed| job(seed, &nothing)).collect();
        let one_thread = hashes(&jobs, 1)?;
        let again = hashes(&jobs, 1)?;
        let two_threads = hashes(&jobs, 2)?;
        let process = |job: &Job<'_>| other_process(&job.token());
        let elsewhere = jobs.iter().map(process).collect::<Result<Vec<_>, _>>()?;
        let elsewhere_again = jobs.iter().map(process).collect::<Result<Vec<_>, _>>()?;
        let others = [
            ("again", again),
            ("two threads", two_threads),
            ("another process", elsewhere),
            ("a third process", elsewhere_again),
        ];
        let differing: Vec<&str> =
            others.iter().filter(|(_, hashes)| *hashes != one_thread).map(|(name, _)| *name).collect();
        if differing.is_empty() {
            writeln!(out, "same    {label}  {}", one_thread.join(" "))?;
            continue;
        }
        same = false;
        writeln!(out, "DIFFERS {label}  {}", differing.join(", "))?;
        for seed in 0..SEEDS {
            if let Some(difference) = first_difference(job(seed, &lines))? {
                writeln!(out, "        seed {}: {difference}", Seed(first.0.wrapping_add(seed)))?;
            }
        }
    }
    Ok(same)
}

fn hashes(jobs: &[Job<'_>], threads: usize) -> Result<Vec<String>, NoSuchNode> {
    let finished = run_all(jobs, Effort::all(threads), &Progress::silent())?;
    Ok(finished.into_iter().map(|finished| finished.outcome.trace_hash).collect())
}

fn other_process(token: &str) -> Result<String, VerifyError> {
    let program = std::env::current_exe()?;
    let output = Command::new(program).args(["run", token, "--json", "-"]).output()?;
    let report: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let hash = report.as_ref().and_then(|report| report["runs"][0]["trace_hash"].as_str());
    let what = || String::from_utf8_lossy(&output.stderr).into_owned();
    hash.map(str::to_owned).ok_or_else(|| VerifyError::NoReport { what: what() })
}

/// The first record in which two runs of one job differ.
fn first_difference(job: Job<'_>) -> Result<Option<String>, NoSuchNode> {
    let lines = || -> Result<Vec<u8>, NoSuchNode> {
        let mut finished = run_all(&[job], Effort::all(1), &Progress::silent())?;
        Ok(finished.pop().and_then(|finished| finished.outcome.kept.lines).unwrap_or_default())
    };
    Ok(differing_line(&lines()?, &lines()?))
}

fn differing_line(one: &[u8], other: &[u8]) -> Option<String> {
    let (mut ones, mut others) = (one.split(|byte| *byte == b'\n'), other.split(|byte| *byte == b'\n'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return None,
            (one, other) if one == other => {}
            (one, other) => {
                let text =
                    |line: Option<&[u8]>| String::from_utf8_lossy(line.unwrap_or(b"the end")).into_owned();
                return Some(format!("first {}\n        then {}", text(one), text(other)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_told() {
        assert_eq!(differing_line(b"a\nb\n", b"a\nb\n"), None);
        let difference = differing_line(b"a\nb\nc", b"a\nx\nc").unwrap();
        assert!(difference.contains("first b") && difference.contains("then x"));
        assert!(differing_line(b"a", b"a\nb").unwrap().contains("the end"));
    }
}
