//! Every promise has a test that names it, and so has every failure of the original that was observed.

use std::collections::BTreeSet;
use std::path::Path;

/// Promises of the change log, what neighbours offer, and what none of them has.
const ROWS: &[(&str, u32)] = &[("S", 26), ("P", 12), ("B", 9)];
/// Failures of the original.
const FAILURES: u32 = 15;

/// The text of all comments of the tests, a paragraph for each item.
fn comments(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            comments(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut paragraph = String::new();
            for line in text.lines() {
                match line.trim_start().strip_prefix("//") {
                    Some(comment) => {
                        paragraph.push(' ');
                        paragraph.push_str(comment.trim_start_matches(['/', '!', ' ']));
                    }
                    None => {
                        // Only what stands above a test counts.
                        if !paragraph.is_empty() && is_of_a_test(line) {
                            found.push(std::mem::take(&mut paragraph));
                        }
                        paragraph.clear();
                    }
                }
            }
        }
    }
}

fn is_of_a_test(line: &str) -> bool {
    let line = line.trim_start();
    let starts = ["#[test]", "#[tokio::test", "proptest!", "fn ", "async fn ", "pub(crate) async fn "];
    // A suite lists its tests by name.
    let listed = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    starts.iter().any(|start| line.starts_with(start)) || line.strip_suffix(';').is_some_and(listed)
}

/// The numbers behind `word` in a text such as "FEATURES S2, B9." or "Failures 1 and 7 of the original".
fn named(text: &str, word: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (at, _) in text.match_indices(word) {
        let rest = &text[at + word.len()..];
        for part in rest.trim_start_matches('s').split([' ', ',', '.', ':', ';', ')']) {
            let is_number = part.trim_start_matches(['S', 'P', 'B']).parse::<u32>().is_ok();
            match part {
                "" | "and" | "HARDENING" => {}
                number if is_number => named.push(number.to_owned()),
                _ => break,
            }
        }
    }
    named
}

fn texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["src", "tests", "sim/src", "sim/tests"] {
        if root.join(directory).is_dir() {
            comments(&root.join(directory), &mut found);
        }
    }
    found
}

/// FEATURES S25: a promise that nobody looks after is none.
#[test]
fn every_row_of_the_features_has_a_test_that_names_it() {
    let texts = texts();
    let named: BTreeSet<String> = texts.iter().flat_map(|text| named(text, "FEATURES")).collect();
    let rows = ROWS.iter().flat_map(|(kind, last)| (1..=*last).map(move |row| format!("{kind}{row}")));
    let missing: Vec<String> = rows.filter(|row| !named.contains(row)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
}

#[test]
fn every_observed_failure_of_the_original_has_a_test_that_names_it() {
    let texts = texts();
    let named: BTreeSet<String> = texts.iter().flat_map(|text| named(text, "Failure")).collect();
    let missing: Vec<u32> = (1..=FAILURES).filter(|number| !named.contains(&number.to_string())).collect();
    assert!(missing.is_empty(), "no test names the failures {missing:?}");
}

/// FEATURES S25: the change log is kept as its head says, and the newest version in it is the package's.
#[test]
fn the_change_log_is_kept_and_versions_are_semantic() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("CHANGELOG.md")).unwrap();
    assert!(text.contains("keepachangelog.com") && text.contains("semver.org"));
    let heads: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## [")).collect();
    assert!(heads[0].starts_with("Unreleased]"), "{heads:?}");
    let versions = heads[1..].iter().map(|head| head.split_once(']').unwrap().0);
    let versions: Vec<&str> = versions.collect();
    let parse =
        |version: &str| -> Vec<u32> { version.split('.').map(|part| part.parse().unwrap()).collect() };
    assert!(versions.iter().all(|version| parse(version).len() == 3), "{versions:?}");
    assert!(versions.windows(2).all(|pair| parse(pair[0]) > parse(pair[1])), "{versions:?}");
    let package = parse(env!("CARGO_PKG_VERSION"));
    assert!(versions.first().is_none_or(|newest| parse(newest) <= package), "{versions:?}");
    let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    for kind in text.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(kinds.contains(&kind), "{kind}");
    }
}
