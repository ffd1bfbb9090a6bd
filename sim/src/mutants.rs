//! Planted faults: does the simulator notice when the core is wrong?
//!
//! `sim/mutants.toml` lists changes to the sources, each with the check that must fail. The sources are copied
//! to `target/mutants/`, changed there one fault at a time, built and run. Nothing in `src/` knows of it; an
//! entry whose text is not found exactly once is an error, so that the list cannot go stale unnoticed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// What of the workspace is copied.
const PARTS: &[&str] = &["Cargo.toml", "Cargo.lock", ".clippy.toml", "src", "sim", "tests", "benches"];
/// How long one planted fault may run.
const RUN_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// A planted fault.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// How it is called.
    name: String,
    /// In which file.
    file: PathBuf,
    /// What is there, exactly once.
    find: String,
    /// What is put there instead.
    replace: String,
    /// The check that must fail, or `tests:` and a filter for the core's own tests.
    caught_by: String,
    /// In which scenario.
    #[serde(default = "all")]
    scenario: String,
    /// Within how many seeds of it.
    within_seeds: u64,
}

fn all() -> String {
    "all".to_owned()
}

/// Why it is not known whether the faults are noticed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MutantsError {
    /// Not started within the sources.
    #[error("there is no sim/mutants.toml here or above; run it within the sources")]
    NoSources,
    /// The list cannot be read: its author's fault.
    #[error("sim/mutants.toml: {0}")]
    List(#[from] toml::de::Error),
    /// No planted fault has that name.
    #[error("there is no planted fault {name}; there are: {known}")]
    NoSuchMutant {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The sources have changed: the entry must be written anew.
    #[error("{name}: its text is {count} times in {}, it must be there once; write the entry anew", file.display())]
    Stale {
        /// Which planted fault.
        name: String,
        /// Where it should be.
        file: PathBuf,
        /// How often its text is there.
        count: usize,
    },
    /// The changed sources do not compile: the entry is of no use.
    #[error("{name}: does not build\n{output}")]
    Build {
        /// Which planted fault.
        name: String,
        /// What the compiler said.
        output: String,
    },
    /// The tests that should notice it did not run, or there are none of that name.
    #[error("{name}: its tests did not run\n{output}")]
    Tests {
        /// Which planted fault.
        name: String,
        /// What cargo said.
        output: String,
    },
    /// A file or a process could not be handled.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer could not be written.
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

/// How a planted fault fared.
enum Fate {
    Caught { first_seed: Option<u64> },
    Missed { others: Vec<String> },
}

/// Plants each fault, or the one of that name; says whether all were noticed by whom they should be.
///
/// # Errors
///
/// [`MutantsError`]; the sources themselves are never touched.
pub(crate) fn mutants(only: Option<&str>, out: &mut dyn Write) -> Result<bool, MutantsError> {
    let root = sources()?;
    let list: List = toml::from_str(&read(&root.join("sim/mutants.toml"))?)?;
    let known: Vec<&str> = list.mutant.iter().map(|mutant| mutant.name.as_str()).collect();
    if let Some(name) = only.filter(|name| !known.contains(name)) {
        return Err(MutantsError::NoSuchMutant { name: name.to_owned(), known: known.join(", ") });
    }
    let chosen: Vec<&Mutant> =
        list.mutant.iter().filter(|mutant| only.is_none_or(|name| name == mutant.name)).collect();
    for mutant in &chosen {
        mutant.planted(&root)?;
    }
    let tree = root.join("target/mutants/tree");
    std::fs::create_dir_all(&tree).map_err(|source| failed(&tree, source))?;
    for part in PARTS {
        copy(&root.join(part), &tree.join(part))?;
    }
    let (mut caught, count) = (0, chosen.len());
    for mutant in chosen {
        let begun = Instant::now();
        let file = tree.join(&mutant.file);
        let original = read(&file)?;
        write(&file, &mutant.planted(&root)?)?;
        let fate = mutant.run(&tree);
        write(&file, &original)?;
        let took = begun.elapsed().as_secs();
        let fate = match fate {
            Err(error @ (MutantsError::Build { .. } | MutantsError::Tests { .. })) => {
                writeln!(out, "BROKEN  {error}")?;
                continue;
            }
            other => other?,
        };
        match fate {
            Fate::Caught { first_seed: Some(seed) } => {
                caught += 1;
                writeln!(
                    out,
                    "caught  {:<34} by {}, first with seed {seed} ({took} s)",
                    mutant.name, mutant.caught_by
                )?;
            }
            Fate::Caught { first_seed: None } => {
                caught += 1;
                writeln!(out, "caught  {:<34} by {} ({took} s)", mutant.name, mutant.caught_by)?;
            }
            Fate::Missed { others } => {
                let others = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
                writeln!(
                    out,
                    "MISSED  {:<34} by {}; noticed by {others} ({took} s)",
                    mutant.name, mutant.caught_by
                )?;
            }
        }
        out.flush()?;
    }
    writeln!(out, "{caught} of {count} planted faults were noticed by the check that they name")?;
    Ok(caught == count)
}

impl Mutant {
    /// The file with the fault in it.
    fn planted(&self, root: &Path) -> Result<String, MutantsError> {
        let text = read(&root.join(&self.file))?;
        let count = text.matches(&self.find).count();
        if count != 1 {
            return Err(MutantsError::Stale { name: self.name.clone(), file: self.file.clone(), count });
        }
        Ok(text.replacen(&self.find, &self.replace, 1))
    }

    fn run(&self, tree: &Path) -> Result<Fate, MutantsError> {
        match self.caught_by.strip_prefix("tests:") {
            Some(filter) => self.run_tests(tree, filter),
            None => self.run_scenarios(tree),
        }
    }

    fn run_tests(&self, tree: &Path, filter: &str) -> Result<Fate, MutantsError> {
        self.cargo(tree, &["test", "-p", "snomesh", "--no-default-features", "--lib", "--no-run"])?;
        let args = ["test", "-p", "snomesh", "--no-default-features", "--lib", filter];
        let output = command(tree, &args).output().map_err(|source| failed(tree, source))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("test result: FAILED") {
            return Ok(Fate::Caught { first_seed: None });
        }
        // Neither green nor red: cargo did not come as far as the tests, which says nothing about the fault.
        if !output.status.success() || text.contains(" 0 passed") {
            let output = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
            return Err(MutantsError::Tests { name: self.name.clone(), output });
        }
        Ok(Fate::Missed { others: Vec::new() })
    }

    fn run_scenarios(&self, tree: &Path) -> Result<Fate, MutantsError> {
        self.cargo(tree, &["build", "-p", "snomesh-sim", "--bin", "sim", "--no-default-features"])?;
        let report = tree.with_file_name("report.json");
        std::fs::remove_file(&report).ok();
        let program = tree.with_file_name("target").join("debug").join("sim");
        let mut child = Command::new(&program)
            .args(["run", &self.scenario, "--seeds", &self.within_seeds.to_string()])
            .args(["--seek", &self.caught_by, "--json"])
            .arg(&report)
            .current_dir(tree)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| failed(&program, source))?;
        let begun = Instant::now();
        while child.try_wait().map_err(|source| failed(&program, source))?.is_none() {
            if begun.elapsed() > RUN_TIMEOUT {
                child.kill().and_then(|()| child.wait()).map_err(|source| failed(&program, source))?;
                return Ok(Fate::Missed { others: vec!["running for ever".to_owned()] });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let report: serde_json::Value = serde_json::from_str(&read(&report)?).unwrap_or_default();
        let (mut first_seed, mut others) = (None, Vec::new());
        for run in report["runs"].as_array().into_iter().flatten() {
            for violation in run["violations"].as_array().into_iter().flatten() {
                let checker = violation["checker"].as_str().unwrap_or_default().to_owned();
                if checker == self.caught_by {
                    first_seed = first_seed.or_else(|| run["seed"].as_u64());
                } else if !others.contains(&checker) {
                    others.push(checker);
                }
            }
        }
        Ok(match first_seed {
            Some(seed) => Fate::Caught { first_seed: Some(seed) },
            None => Fate::Missed { others },
        })
    }

    fn cargo(&self, tree: &Path, args: &[&str]) -> Result<(), MutantsError> {
        let output = command(tree, args).output().map_err(|source| failed(tree, source))?;
        if output.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(MutantsError::Build { name: self.name.clone(), output })
    }
}

fn command(tree: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).args(["--quiet", "--locked"]).current_dir(tree);
    command.env("CARGO_TARGET_DIR", tree.with_file_name("target"));
    // Nobody debugs these: what counts is how soon the next one is built.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "1");
    command
}

/// The directory above this one that has the list.
fn sources() -> Result<PathBuf, MutantsError> {
    let here = std::env::current_dir()?;
    let found = here.ancestors().find(|directory| directory.join("sim/mutants.toml").is_file());
    found.map(Path::to_owned).ok_or(MutantsError::NoSources)
}

/// Copies a file or a directory, leaving files alone that are the same already: so that little is built anew.
fn copy(from: &Path, to: &Path) -> Result<(), MutantsError> {
    if !from.is_dir() {
        return if from.exists() { copy_file(from, to) } else { Ok(()) };
    }
    std::fs::create_dir_all(to).map_err(|source| failed(to, source))?;
    let entries = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(from)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    for path in entries().map_err(|source| failed(from, source))? {
        if let Some(name) = path.file_name() {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), MutantsError> {
    let bytes = std::fs::read(from).map_err(|source| failed(from, source))?;
    if std::fs::read(to).ok().as_ref() == Some(&bytes) {
        return Ok(());
    }
    std::fs::write(to, bytes).map_err(|source| failed(to, source))
}

fn read(path: &Path) -> Result<String, MutantsError> {
    std::fs::read_to_string(path).map_err(|source| failed(path, source))
}

fn write(path: &Path, text: &str) -> Result<(), MutantsError> {
    std::fs::write(path, text).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> MutantsError {
    MutantsError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Checker;

    #[test]
    fn every_entry_is_in_the_sources_once_and_names_a_check_that_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let list: List = toml::from_str(include_str!("../mutants.toml")).unwrap();
        assert!(list.mutant.len() >= 34);
        for mutant in &list.mutant {
            mutant.planted(root).unwrap_or_else(|error| panic!("{error}"));
            let checkers = Checker::ALL.iter().any(|checker| checker.name() == mutant.caught_by);
            assert!(checkers || mutant.caught_by.starts_with("tests:"), "{}", mutant.caught_by);
        }
    }
}
