//! The command line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};

use crate::checker::Checker;
use crate::coverage::Point;
use crate::fault::NoSuchNode;
use crate::mutants::{MutantsError, mutants};
use crate::random::Seed;
use crate::report::Batch;
use crate::run::{Effort, Finished, Job, run_all};
use crate::scenario::{BUILTIN, Scenario, ScenarioError, builtin};
use crate::verify::{VerifyError, verify};

/// How many seeds the plain command runs each scenario with.
const PLAIN_SEEDS: u64 = 2;

/// Simulates meshes of many nodes and everything that goes wrong between them: same seed, same run.
///
/// Without a command it runs every scenario that comes with it, with a few seeds, and fails if something did
/// not hold or too little of what can go wrong did go wrong.
#[derive(Debug, Parser)]
#[command(name = "sim", version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_STATUS: &str = "Exit status: 0 all held; 1 something did not; 2 bad arguments or scenario; \
3 a fault never happened, or too little was covered; 4 not deterministic";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios.
    Run(RunArgs),
    /// List the scenarios, the checks and what is counted.
    List,
    /// Run scenarios again and again with the same seed and see that it is the same run.
    Verify {
        /// A scenario's name, a file, or all.
        #[arg(default_value = "all")]
        scenario: String,
        /// The first seed.
        #[arg(long, default_value = "0")]
        seed: Seed,
    },
    /// Plant faults in a copy of the sources and see that each is noticed by the check that it names.
    Mutants {
        /// Only the one of that name.
        #[arg(long)]
        only: Option<String>,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// A scenario's name, a file, or all.
    scenario: String,
    /// The seed, or the first of several; decimal or 0x and hexadecimal.
    #[arg(long, default_value = "0")]
    seed: Seed,
    /// How many seeds to run, one after another from the first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    seeds: u64,
    /// How many nodes, if not as many as the scenario says.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    nodes: Option<u16>,
    /// How many runs at a time; as many as there are processors without.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    jobs: Option<u16>,
    /// Write a report for programs into this file; - is standard output, the table then goes to standard error.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write every record as a line of JSON into this file; for one scenario and one seed.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Stop at the first run that fails.
    #[arg(long)]
    fail_fast: bool,
}

/// What ends the program before it has an answer.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    NoSuchNode(#[from] NoSuchNode),
    #[error("there is no scenario and no file {name}; `sim list` names the scenarios")]
    NoSuchScenario { name: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("--trace needs exactly one scenario and one seed, this would be {runs} runs")]
    OneTrace { runs: usize },
    #[error(transparent)]
    Mutants(#[from] MutantsError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

const HELD: u8 = 0;
const VIOLATED: u8 = 1;
const USAGE: u8 = 2;
const UNTESTED: u8 = 3;
const NOT_DETERMINISTIC: u8 = 4;

/// Parses the arguments, does what they say, and returns the exit status.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(HELD),
        Err(error) => {
            // Nothing is left to do if standard error is gone too.
            writeln!(io::stderr(), "sim: {error}").ok();
            ExitCode::from(USAGE)
        }
    }
}

fn execute(command: Option<Command>) -> Result<u8, CliError> {
    match command {
        None => plain(),
        Some(Command::Run(args)) => run(&args),
        Some(Command::List) => list().map_err(CliError::from),
        Some(Command::Verify { scenario, seed }) => {
            let same = verify(&scenarios(&scenario)?, seed, &mut io::stdout())?;
            Ok(if same { HELD } else { NOT_DETERMINISTIC })
        }
        Some(Command::Mutants { only }) => {
            let caught = mutants(only.as_deref(), &mut io::stdout())?;
            Ok(if caught { HELD } else { VIOLATED })
        }
    }
}

fn plain() -> Result<u8, CliError> {
    let scenarios = scenarios("all")?;
    let begun = Instant::now();
    let jobs = jobs(&scenarios, Seed(0), PLAIN_SEEDS, None, false);
    let finished = run_all(&jobs, Effort { threads: processors(), fail_fast: false })?;
    let batch = Batch { finished: &finished, took: begun.elapsed(), required: Point::REQUIRED };
    batch.print(&mut io::stdout())?;
    Ok(status(&batch))
}

fn run(args: &RunArgs) -> Result<u8, CliError> {
    let scenarios = scenarios(&args.scenario)?;
    let begun = Instant::now();
    let jobs = jobs(&scenarios, args.seed, args.seeds, args.nodes, args.trace.is_some());
    if args.trace.is_some() && jobs.len() != 1 {
        return Err(CliError::OneTrace { runs: jobs.len() });
    }
    let threads = args.jobs.map_or_else(processors, usize::from);
    let finished = run_all(&jobs, Effort { threads, fail_fast: args.fail_fast })?;
    let batch = Batch { finished: &finished, took: begun.elapsed(), required: &[] };
    if let (Some(path), [Finished { outcome, .. }]) = (&args.trace, finished.as_slice()) {
        write_whole(path, |out| out.write_all(outcome.lines.as_deref().unwrap_or_default()))?;
    }
    match &args.json {
        Some(path) if path.as_os_str() == "-" => {
            batch.write_json(&mut io::stdout())?;
            batch.print(&mut io::stderr())?;
        }
        Some(path) => {
            write_whole(path, |out| batch.write_json(out))?;
            batch.print(&mut io::stdout())?;
        }
        None => batch.print(&mut io::stdout())?,
    }
    Ok(status(&batch))
}

fn status(batch: &Batch<'_, '_>) -> u8 {
    if batch.finished.iter().any(|finished| !finished.held()) {
        VIOLATED
    } else if batch.finished.iter().any(|finished| !finished.tested()) || !batch.missed().is_empty() {
        UNTESTED
    } else {
        HELD
    }
}

fn jobs<'a>(
    scenarios: &'a [(String, Scenario)],
    first: Seed,
    seeds: u64,
    nodes: Option<u16>,
    lines: bool,
) -> Vec<Job<'a>> {
    let of = |(label, scenario): &'a (String, Scenario)| {
        (0..seeds).map(move |seed| Job {
            scenario,
            label,
            seed: Seed(first.0.wrapping_add(seed)),
            nodes: nodes.map(usize::from),
            lines,
        })
    };
    scenarios.iter().flat_map(of).collect()
}

/// The scenario of that name, the one in that file, or all that come with the program.
fn scenarios(wanted: &str) -> Result<Vec<(String, Scenario)>, CliError> {
    if wanted == "all" {
        let all =
            BUILTIN.iter().map(|found| Ok((found.name.to_owned(), Scenario::parse(found.name, found.text)?)));
        return all.collect();
    }
    if let Some(found) = builtin(wanted) {
        return Ok(vec![(wanted.to_owned(), Scenario::parse(found.name, found.text)?)]);
    }
    let path = Path::new(wanted);
    if !path.exists() {
        return Err(CliError::NoSuchScenario { name: wanted.to_owned() });
    }
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    Ok(vec![(wanted.to_owned(), Scenario::parse(wanted, &text)?)])
}

/// Writes a file as a whole or not at all.
fn write_whole(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
    let failed = |source| CliError::Write { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    content(&mut bytes).map_err(failed)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    let written = std::fs::write(&beside, &bytes).and_then(|()| std::fs::rename(&beside, path));
    written.inspect_err(|_| drop(std::fs::remove_file(&beside))).map_err(failed)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn list() -> io::Result<u8> {
    let mut out = io::stdout().lock();
    writeln!(out, "Scenarios (sim run NAME):")?;
    for found in BUILTIN {
        let about = Scenario::parse(found.name, found.text).map(|scenario| scenario.about);
        writeln!(out, "  {:<26} {}", found.name, about.unwrap_or_default())?;
    }
    writeln!(out, "\nChecks:")?;
    for checker in Checker::ALL {
        writeln!(out, "  {:<26} {}", checker.name(), checker.about())?;
    }
    writeln!(out, "\nCounted (expect.at_least in a scenario; * must be reached by the plain sim):")?;
    for point in Point::ALL {
        let required = if Point::REQUIRED.contains(point) { '*' } else { ' ' };
        writeln!(out, "{required} {:<26} {}", point.name(), point.about())?;
    }
    Ok(HELD)
}
