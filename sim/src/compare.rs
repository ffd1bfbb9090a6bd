//! Two reports side by side: what a change made better and worse.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Deserialize;

/// Why two reports cannot be compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    /// A file is no report: its author's fault.
    #[error("{file}: this is no report of `sim run --json`: {source}")]
    NoReport {
        /// Which.
        file: String,
        /// Why.
        source: serde_json::Error,
    },
    /// They have no scenario in common.
    #[error("the reports have no scenario in common: {base} and {new}")]
    NothingInCommon {
        /// What the one has.
        base: String,
        /// What the other has.
        new: String,
    },
    /// The answer could not be written.
    #[error("cannot write the comparison: {0}")]
    Output(#[from] io::Error),
}

#[derive(Debug, Deserialize)]
struct Report {
    runs: Vec<Run>,
}

#[derive(Debug, Deserialize)]
struct Run {
    scenario: String,
    nodes: u64,
    virtual_ms: u64,
    wall_ms: u64,
    events: u64,
    converged_after_ms: Option<u64>,
    violations: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    sometimes: BTreeMap<String, u64>,
}

/// What the runs of one scenario came to.
#[derive(Debug)]
struct Row {
    runs: usize,
    failed: usize,
    figures: [Option<f64>; FIGURES.len()],
}

/// What is compared, and whether less of it is better.
const FIGURES: [(&str, bool); 5] = [
    ("agreed after p50, ms", true),
    ("p99, ms", true),
    ("bytes per node and s", true),
    ("frames per write", true),
    ("events/s", false),
];

/// Writes a table in Markdown: one line for each scenario that both reports have.
///
/// # Errors
///
/// [`CompareError`].
pub(crate) fn compare(
    (base_path, base): (&Path, &[u8]),
    (new_path, new): (&Path, &[u8]),
    out: &mut dyn Write,
) -> Result<(), CompareError> {
    let read = |path: &Path, text: &[u8]| -> Result<BTreeMap<String, Row>, CompareError> {
        let no_report = |source| CompareError::NoReport { file: path.display().to_string(), source };
        Ok(rows(serde_json::from_slice(text).map_err(no_report)?))
    };
    let (base, new) = (read(base_path, base)?, read(new_path, new)?);
    let both: Vec<&String> = base.keys().filter(|name| new.contains_key(*name)).collect();
    if both.is_empty() {
        let names = |rows: &BTreeMap<String, Row>| rows.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(CompareError::NothingInCommon { base: names(&base), new: names(&new) });
    }
    let heads: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
    writeln!(out, "| scenario | runs | failed | {} |", heads.join(" | "))?;
    writeln!(out, "|---|---|---|{}", "---|".repeat(FIGURES.len()))?;
    for name in both {
        let (before, after) = (&base[name], &new[name]);
        let cells: Vec<String> = (0..FIGURES.len())
            .map(|figure| cell(before.figures[figure], after.figures[figure], FIGURES[figure].1))
            .collect();
        let runs = if before.runs == after.runs {
            after.runs.to_string()
        } else {
            format!("{} → {}", before.runs, after.runs)
        };
        let failed = if before.failed == after.failed {
            after.failed.to_string()
        } else {
            format!("{} → {}", before.failed, after.failed)
        };
        writeln!(out, "| {name} | {runs} | {failed} | {} |", cells.join(" | "))?;
    }
    for (of, other, which) in [(&base, &new, "base"), (&new, &base, "new")] {
        let only: Vec<&str> =
            of.keys().filter(|name| !other.contains_key(*name)).map(String::as_str).collect();
        if !only.is_empty() {
            writeln!(out, "\nonly in the {which} report: {}", only.join(", "))?;
        }
    }
    Ok(())
}

fn rows(report: Report) -> BTreeMap<String, Row> {
    let mut by_name: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for run in report.runs {
        by_name.entry(run.scenario.clone()).or_default().push(run);
    }
    by_name.into_iter().map(|(name, runs)| (name, row(&runs))).collect()
}

fn row(runs: &[Run]) -> Row {
    let sum = |of: fn(&Run) -> u64| runs.iter().map(of).sum::<u64>() as f64;
    let counted = |run: &Run, name: &str| run.sometimes.get(name).copied().unwrap_or(0);
    let mut agreed: Vec<u64> = runs.iter().filter_map(|run| run.converged_after_ms).collect();
    agreed.sort_unstable();
    let at = |per_mille: usize| {
        agreed
            .get((agreed.len() * per_mille / 1_000).min(agreed.len().saturating_sub(1)))
            .map(|at| *at as f64)
    };
    let bytes: u64 = runs.iter().map(|run| counted(run, "bytes_sent") + counted(run, "datagram_bytes")).sum();
    let frames: u64 = runs.iter().map(|run| counted(run, "frames_sent")).sum();
    let writes: u64 = runs.iter().map(|run| counted(run, "writes")).sum();
    let node_seconds = sum(|run| run.nodes * run.virtual_ms) / 1e3;
    let ratio = |of: f64, to: f64| (to > 0.0).then_some(of / to);
    Row {
        runs: runs.len(),
        failed: runs.iter().filter(|run| !run.violations.is_empty()).count(),
        figures: [
            at(500),
            at(990),
            ratio(bytes as f64, node_seconds),
            ratio(frames as f64, writes as f64),
            ratio(sum(|run| run.events) * 1e3, sum(|run| run.wall_ms)),
        ],
    }
}

/// The figure before and after, and the change; in bold when it is worse by a tenth.
fn cell(before: Option<f64>, after: Option<f64>, less_is_better: bool) -> String {
    let number = |of: f64| if of < 100.0 { format!("{of:.1}") } else { format!("{of:.0}") };
    match (before, after) {
        (Some(before), Some(after)) => {
            if before <= 0.0 {
                return format!("{} → {}", number(before), number(after));
            }
            let change = (after / before - 1.0) * 100.0;
            let worse = if less_is_better { change > 10.0 } else { change < -10.0 };
            let change = format!("{change:+.0} %");
            let change = if worse { format!("**{change}**") } else { change };
            format!("{} → {} ({change})", number(before), number(after))
        }
        (Some(before), None) => format!("{} → never", number(before)),
        (None, Some(after)) => format!("never → {}", number(after)),
        (None, None) => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(converged: u64, bytes: u64, name: &str) -> String {
        let run = format!(
            "{{\"scenario\":\"{name}\",\"nodes\":2,\"virtual_ms\":10000,\"wall_ms\":10,\"events\":5000,\
             \"converged_after_ms\":{converged},\"violations\":[],\"sometimes\":{{\"bytes_sent\":{bytes},\"writes\":10,\"frames_sent\":40}}}}"
        );
        format!("{{\"runs\":[{run}]}}")
    }

    fn compared(base: &str, new: &str) -> Result<String, CompareError> {
        let mut out = Vec::new();
        compare(
            (Path::new("base.json"), base.as_bytes()),
            (Path::new("new.json"), new.as_bytes()),
            &mut out,
        )?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_became_worse_stands_in_bold() {
        let table = compared(&report(200, 4_000, "a"), &report(300, 2_000, "a")).unwrap();
        let row = table.lines().nth(2).unwrap();
        assert!(row.contains("| 200 → 300 (**+50 %**) |"), "{table}");
        assert!(row.contains("| 200 → 100 (-50 %) |") && row.contains("| 4.0 → 4.0 (+0 %) |"), "{table}");
    }

    #[test]
    fn reports_of_different_things_are_not_compared() {
        let error = compared(&report(1, 1, "a"), &report(1, 1, "b")).unwrap_err().to_string();
        assert!(error.contains("nothing") || error.contains("no scenario in common: a and b"), "{error}");
        let error = compared("{}", &report(1, 1, "a")).unwrap_err().to_string();
        assert!(error.starts_with("base.json: this is no report"), "{error}");
    }
}
