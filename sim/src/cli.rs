//! The command line.

mod args;
// Of the product, which keeps it to itself.
#[path = "../../src/node/nearest.rs"]
mod nearest;
mod place;

use std::io::{self, Write};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;
use snomesh::time::Moment;

use crate::baseline::{Way, insert, measure, measure_budgets, print, print_budgets};
use crate::checker::Checker;
use crate::compare::{CompareError, compare};
use crate::coverage::Point;
use crate::fault::NoSuchNode;
use crate::model::{Bounds, Carrier, Report, explore};
use crate::mutants::{MutantsError, mutants};
use crate::progress::{Progress, Total};
#[cfg(feature = "quic")]
use crate::quic::{Told, gossip};
use crate::random::Seed;
use crate::report::Batch;
use crate::run::{Effort, Finished, Job, run, run_all};
use crate::scenario::{BUILTIN, FaultKind, Scenario, Tier, builtin};
use crate::shrink::{ShrinkError, Shrunk, shrink};
use crate::timeline::{Timeline, TimelineError, html, svg};
use crate::token::{Override, OverrideError, Overrides, Token, quoted};
#[cfg(feature = "quic")]
use crate::trace::Trace;
use crate::trace::{Filter, Keep};
use crate::verify::{VerifyError, verify};
use crate::world::catch_panics;
use args::{Changes, Cli, Command, ModelArgs, ReplayArgs, RunArgs, ShrinkArgs, TimelineArgs};
use nearest::nearest;
use place::{distinct, is_stdout, writable, write_whole};

/// How many seeds the plain command runs each scenario with.
const PLAIN_SEEDS: u64 = 2;

/// What ends the program before it has an answer.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Scenario(#[from] OverrideError),
    #[error(transparent)]
    NoSuchNode(#[from] NoSuchNode),
    #[error("{} has no marks to put a table between: <!-- sim {command}: begin --> and <!-- sim {command}: end -->, each on a line", path.display())]
    NoMarks { path: PathBuf, command: &'static str },
    #[error("there is no scenario and no file {name}; {hint}")]
    NoSuchScenario { name: String, hint: String },
    #[error("{label} is not for this tier: {why}")]
    NotForTier { label: String, why: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}; name another place", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} and {} both name {}; give each its own", names[0], names[1], path.display())]
    SamePlace { names: [&'static str; 2], path: PathBuf },
    #[error("there is no node {node}, this run has nodes 0 to {last}")]
    NotOfRun { node: usize, last: usize },
    #[error("{option} needs exactly one scenario and one seed, this would be {runs} runs")]
    OneRun { option: &'static str, runs: usize },
    #[error(
        "{run} has a seed of its own, beside other scenarios; run it alone, or give all the same with --seed"
    )]
    SeedOfOne { run: String },
    #[error("{run} names several scenarios; name one, as in SCENARIO@SEED")]
    OneScenario { run: String },
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(transparent)]
    Shrink(#[from] ShrinkError),
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
const TIME_UP: u8 = 5;
/// How many seeds of each scenario are run between two looks at the clock.
const SEEDS_AT_A_TIME: u64 = 16;

/// Parses the arguments, does what they say, and returns the exit status.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    catch_panics();
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
        Some(Command::Run(args)) => run_scenarios(&args),
        Some(Command::Replay(args)) => replay(&args),
        Some(Command::Shrink(args)) => shrink_run(&args),
        Some(Command::Timeline(args)) => draw_trace(&args),
        Some(Command::Compare { base, new }) => {
            let [base, new] = [base, new].map(|path| {
                std::fs::read(&path)
                    .map(|text| (path.clone(), text))
                    .map_err(|source| CliError::Read { path, source })
            });
            let ((base_path, base), (new_path, new)) = (base?, new?);
            compare((&base_path, &base), (&new_path, &new), &mut io::stdout())?;
            Ok(HELD)
        }
        Some(Command::List) => list().map_err(CliError::from),
        Some(Command::Verify { scenario, seed, tier }) => {
            let change = (tier != Tier::Core).then(|| Override::new("tier", tier.name()));
            let chosen = choose(&scenario, &Overrides(change.into_iter().collect()))?;
            let same = verify(&chosen, seed, &mut io::stdout())?;
            Ok(if same { HELD } else { NOT_DETERMINISTIC })
        }
        Some(Command::Model(args)) => model(&args).map_err(CliError::from),
        #[cfg(feature = "quic")]
        Some(Command::Gossip { hosts, lasts }) => {
            let trace = Trace::new(&Keep::default(), || unreachable!("nobody reads it"));
            let Told { messages, trace_hash } = gossip(usize::from(hosts), lasts, Seed(1), trace);
            writeln!(io::stdout(), "{messages} messages arrived, trace {trace_hash}")?;
            Ok(HELD)
        }
        Some(Command::Mutants { only }) => {
            let caught = mutants(only.as_deref(), &mut io::stdout())?;
            Ok(if caught { HELD } else { VIOLATED })
        }
        Some(Command::Baselines { nodes, seed, alone, into }) => {
            let ways = if alone { &Way::ALL[..1] } else { &Way::ALL };
            table_into("baselines", into.as_deref(), || {
                let pairs =
                    nodes.iter().flat_map(|nodes| ways.iter().map(move |way| (*way, usize::from(*nodes))));
                print(&pairs.map(|(way, nodes)| measure(way, nodes, seed)).collect::<Vec<_>>())
            })
        }
        Some(Command::Budgets { nodes, seed, into }) => table_into("budgets", into.as_deref(), || {
            let measured = nodes.iter().map(|nodes| measure_budgets(usize::from(*nodes), seed));
            print_budgets(&measured.collect::<Vec<_>>())
        }),
    }
}

fn plain() -> Result<u8, CliError> {
    let chosen = choose("all", &Overrides::default())?;
    let begun = Instant::now();
    let keep = Keep::default();
    let jobs = jobs(&chosen, Seed(0), PLAIN_SEEDS, &keep);
    let progress = Progress::on_terminal(Total::Runs(jobs.len() as u64));
    let finished = run_all(&jobs, Effort::all(processors()), &progress)?;
    drop(progress);
    let batch = Batch { finished: &finished, took: begun.elapsed(), required: Point::REQUIRED };
    batch.print(&mut io::stdout())?;
    Ok(status(&batch))
}

fn run_scenarios(args: &RunArgs) -> Result<u8, CliError> {
    let (chosen, seed) = choose_all(args)?;
    let seeds = args.seeds.map(|seeds| seeds.count);
    let first = args
        .seeds
        .and_then(|seeds| seeds.first)
        .or(args.seed)
        .or(seed)
        .or_else(|| chosen.first().and_then(|one| one.scenario.seed));
    let first = first.unwrap_or(Seed(0));
    let begun = Instant::now();
    let draws = args.html.is_some() || args.svg.is_some();
    let label = chosen.first().map(|one| format!("{}@{first}{}", one.label, one.overrides));
    let token = label.unwrap_or_default();
    let keep = Keep { token, lines: args.trace.is_some(), timeline: draws, ..Keep::default() };
    let one_run = chosen.len() == 1 && seeds.unwrap_or(1) == 1 && args.lasts.is_none();
    let of_one = [("--trace", &args.trace), ("--html", &args.html), ("--svg", &args.svg)];
    let of_one = of_one.into_iter().find(|(_, path)| path.is_some());
    if let (Some((option, _)), false) = (of_one, one_run) {
        let runs = chosen.len() * usize::try_from(seeds.unwrap_or(2)).unwrap_or(usize::MAX);
        return Err(CliError::OneRun { option, runs });
    }
    check_places(args)?;
    let until = args.lasts.map(|lasts| begun + lasts);
    let threads = args.jobs.map_or_else(processors, usize::from);
    let effort = Effort { threads, fail_fast: args.fail_fast, until, sought: args.seek };
    let (finished, complete) = search(&chosen, first, args, effort, &keep)?;
    let required = if args.gate { Point::REQUIRED } else { &[] };
    let batch = Batch { finished: &finished, took: begun.elapsed(), required };
    if let (Some(path), [Finished { outcome, .. }]) = (&args.trace, finished.as_slice()) {
        write_whole(path, |out| out.write_all(outcome.kept.lines.as_deref().unwrap_or_default()))?;
    }
    if let [Finished { outcome, .. }] = finished.as_slice()
        && let Some(timeline) = &outcome.kept.timeline
    {
        draw(timeline, args.html.as_deref(), args.svg.as_deref())?;
    }
    if let Some(path) = &args.json {
        write_whole(path, |out| batch.write_json(out))?;
    }
    batch.print(&mut *beside(reports(args).into_iter().filter_map(|(_, path)| path)))?;
    let status = status(&batch);
    if status == HELD && !complete {
        let wanted = seeds.unwrap_or(1) * chosen.len() as u64;
        writeln!(io::stderr(), "sim: the time was up after {} of {wanted} runs", finished.len())?;
        return Ok(TIME_UP);
    }
    Ok(status)
}

/// Says what is wrong with the places of the reports, before anything is run whose report would find none.
fn check_places(args: &RunArgs) -> Result<(), CliError> {
    let reports = reports(args);
    distinct(&reports)?;
    reports.into_iter().filter_map(|(_, path)| path).try_for_each(writable)
}

/// The reports that may be asked for, each with its option.
fn reports(args: &RunArgs) -> [(&'static str, Option<&Path>); 4] {
    let RunArgs { json, trace, html, svg, .. } = args;
    let reports = [("--json", json), ("--trace", trace), ("--html", html), ("--svg", svg)];
    reports.map(|(option, path)| (option, path.as_deref()))
}

/// Where people are told of what else was written: standard output, unless a report goes there.
fn beside<'a>(mut reports: impl Iterator<Item = &'a Path>) -> Box<dyn Write> {
    if reports.any(is_stdout) { Box::new(io::stderr()) } else { Box::new(io::stdout()) }
}

/// All scenarios that are named, and the seed, if a token has one.
fn choose_all(args: &RunArgs) -> Result<(Vec<Chosen>, Option<Seed>), CliError> {
    let (mut chosen, mut seed) = (Vec::new(), None);
    for word in &args.scenarios {
        let token: Token = word.parse()?;
        if token.seed.is_some() && args.scenarios.len() > 1 {
            return Err(CliError::SeedOfOne { run: word.clone() });
        }
        seed = token.seed;
        chosen.extend(choose(&token.scenario, &args.changes.overrides(token.overrides))?);
    }
    Ok((chosen, seed))
}

/// Runs seeds until all are run, or the time is up. Says whether all were.
fn search<'a>(
    chosen: &'a [Chosen],
    first: Seed,
    args: &RunArgs,
    effort: Effort,
    keep: &'a Keep,
) -> Result<(Vec<Finished<'a>>, bool), CliError> {
    let endless = args.lasts.is_some() && args.seeds.is_none();
    let seeds = args.seeds.map_or(if endless { u64::MAX } else { 1 }, |seeds| seeds.count);
    let total = match args.lasts {
        Some(lasts) if endless => Total::Time(lasts),
        _ => Total::Runs(seeds * chosen.len() as u64),
    };
    let progress = Progress::on_terminal(total);
    let (mut finished, mut run) = (Vec::new(), 0);
    while run < seeds {
        let some = if effort.until.is_some() { SEEDS_AT_A_TIME.min(seeds - run) } else { seeds };
        let jobs = jobs(chosen, Seed(first.0.wrapping_add(run)), some, keep);
        let results = run_all(&jobs, effort, &progress)?;
        let stopped = results.len() < jobs.len();
        let failed = results.iter().any(|finished| !finished.held());
        finished.extend(results);
        run += some;
        if stopped || (effort.fail_fast && failed) {
            return Ok((finished, endless));
        }
        if run < seeds && effort.until.is_some_and(|until| Instant::now() >= until) {
            return Ok((finished, endless));
        }
    }
    Ok((finished, true))
}

/// The one run that a token or a file stands for.
fn one_run(run: &str, changes: &Changes) -> Result<(Chosen, Seed), CliError> {
    let token: Token = run.parse()?;
    let mut chosen = choose(&token.scenario, &changes.overrides(token.overrides))?;
    match (chosen.pop(), chosen.is_empty()) {
        (Some(one), true) => {
            let seed = token.seed.or(one.scenario.seed).unwrap_or(Seed(0));
            Ok((one, seed))
        }
        _ => Err(CliError::OneScenario { run: run.to_owned() }),
    }
}

fn replay(args: &ReplayArgs) -> Result<u8, CliError> {
    let (chosen, seed) = one_run(&args.run, &args.changes)?;
    let until = args.until.map(|until| Moment(0) + until);
    let filter = Filter { until, node: args.node, key: args.key.clone() };
    let keep = Keep { log: Some(filter), ..Keep::default() };
    let begun = Instant::now();
    let finished = [run(chosen.job(seed, &keep))?];
    let batch = Batch { finished: &finished, took: begun.elapsed(), required: &[] };
    let [Finished { outcome, .. }] = &finished;
    if let Some(node) = args.node.filter(|node| *node >= outcome.nodes) {
        return Err(CliError::NotOfRun { node, last: outcome.nodes - 1 });
    }
    let log = outcome.kept.log.as_deref().unwrap_or_default();
    let filter = args.filter();
    if log.is_empty() && !filter.is_empty() {
        writeln!(io::stderr(), "sim: nothing in the log is of {filter}")?;
    }
    let mut out = io::stdout().lock();
    out.write_all(log)?;
    writeln!(out)?;
    batch.print(&mut out)?;
    Ok(status(&batch))
}

fn shrink_run(args: &ShrinkArgs) -> Result<u8, CliError> {
    let (chosen, seed) = one_run(&args.run, &args.changes)?;
    args.out.iter().try_for_each(|path| writable(path))?;
    let keep = Keep::default();
    let begun = Instant::now();
    let shrunk = shrink(chosen.job(seed, &keep), begun + args.lasts)?;
    let Shrunk { scenario, violation, before, after, runs, complete } = &shrunk;
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}-{seed}.toml", scenario.name)));
    write_whole(&path, |out| out.write_all(scenario.text().as_bytes()))?;
    let mut out = beside(iter::once(path.as_path()));
    writeln!(out, "{}  t={} s  {}", violation.checker, violation.at, violation.what)?;
    writeln!(out, "from {before}\nto   {after}")?;
    let seconds = begun.elapsed().as_secs_f64();
    let rest = if *complete { "" } else { "; the time was up, more --for may reduce it further" };
    writeln!(out, "in {runs} runs, {seconds:.1} s{rest}")?;
    writeln!(out, "replay: cargo run --bin sim -- replay {}", quoted(&path.display().to_string()))?;
    Ok(if *complete { HELD } else { TIME_UP })
}

fn model(args: &ModelArgs) -> io::Result<u8> {
    let ModelArgs { nodes, keys, writes, sends, collections } = *args;
    let [nodes, keys, writes, sends, collections] =
        [nodes, keys, writes, sends, collections].map(usize::from);
    let begun = Instant::now();
    let Report { states, steps, depth, broken } =
        explore(Bounds { nodes, keys, writes, sends, collections }, Carrier::Honest);
    let seconds = begun.elapsed().as_secs_f64();
    let mut out = io::stdout().lock();
    if let Some((what, way)) = &broken {
        writeln!(out, "FAIL {what}\n     the shortest way there:")?;
        way.iter().try_for_each(|step| writeln!(out, "       {step}"))?;
    }
    writeln!(
        out,
        "{nodes} nodes, {keys} keys, {writes} writes, {sends} messages, {collections} collections: {states} states, {steps} steps, \
         at most {depth} one after another, {seconds:.1} s",
    )?;
    Ok(if broken.is_some() { VIOLATED } else { HELD })
}

fn draw(timeline: &Timeline, page: Option<&Path>, picture: Option<&Path>) -> Result<(), CliError> {
    if let Some(path) = page {
        write_whole(path, |out| out.write_all(html(timeline).as_bytes()))?;
    }
    if let Some(path) = picture {
        write_whole(path, |out| out.write_all(svg(timeline).as_bytes()))?;
    }
    Ok(())
}

fn draw_trace(args: &TimelineArgs) -> Result<u8, CliError> {
    let path = &args.trace;
    let named_alike = path.with_extension("html");
    let page = args.html.as_deref().or_else(|| args.svg.is_none().then_some(named_alike.as_path()));
    let picture = args.svg.as_deref();
    distinct(&[("the trace", Some(path.as_path())), ("--html", page), ("--svg", picture)])?;
    let file = std::fs::File::open(path).map_err(|source| CliError::Read { path: path.clone(), source })?;
    let timeline = Timeline::read(&path.display().to_string(), io::BufReader::new(file))?;
    draw(&timeline, page, picture)?;
    for path in [page, picture].into_iter().flatten().filter(|path| !is_stdout(path)) {
        writeln!(beside([page, picture].into_iter().flatten()), "wrote {}", path.display())?;
    }
    Ok(HELD)
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

/// A scenario, as the command line calls it and has changed it.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// A name, or a file.
    pub(crate) label: String,
    /// What is simulated.
    pub(crate) scenario: Scenario,
    /// What was changed of it.
    pub(crate) overrides: Overrides,
}

impl Chosen {
    fn job<'a>(&'a self, seed: Seed, keep: &'a Keep) -> Job<'a> {
        Job { scenario: &self.scenario, label: &self.label, overrides: &self.overrides, seed, keep }
    }
}

/// For each scenario one job for each seed.
fn jobs<'a>(chosen: &'a [Chosen], first: Seed, seeds: u64, keep: &'a Keep) -> Vec<Job<'a>> {
    let of = |one: &'a Chosen| (0..seeds).map(move |seed| one.job(Seed(first.0.wrapping_add(seed)), keep));
    chosen.iter().flat_map(of).collect()
}

/// The scenario of that name, the one in that file, or all that come with the program.
fn choose(wanted: &str, overrides: &Overrides) -> Result<Vec<Chosen>, CliError> {
    let chosen = |label: &str, text: &str| -> Result<Chosen, CliError> {
        let scenario = overrides.apply(label, text)?;
        Ok(Chosen { label: label.to_owned(), scenario, overrides: overrides.clone() })
    };
    if wanted == "all" {
        let mut all = Vec::new();
        for found in BUILTIN {
            let one = chosen(found.name, found.text)?;
            match one.scenario.refusal() {
                // Said, so that nobody takes for tested what was not run.
                Some(why) => writeln!(io::stderr(), "sim: not run: {}: {why}", found.name)?,
                None => all.push(one),
            }
        }
        return Ok(all);
    }
    let only = |one: Chosen| match one.scenario.refusal() {
        Some(why) => Err(CliError::NotForTier { label: one.label, why }),
        None => Ok(vec![one]),
    };
    if let Some(found) = builtin(wanted) {
        return only(chosen(wanted, found.text)?);
    }
    let path = Path::new(wanted);
    if !path.exists() {
        let near = nearest(wanted, BUILTIN.iter().map(|found| found.name));
        let hint = near.map_or_else(
            || "`sim list` names the scenarios".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        return Err(CliError::NoSuchScenario { name: wanted.to_owned(), hint });
    }
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    only(chosen(wanted, &text)?)
}

/// Measures the protocol and its alternatives, and prints the table or puts it into a document.
fn table_into(
    command: &'static str,
    into: Option<&Path>,
    measure: impl FnOnce() -> String,
) -> Result<u8, CliError> {
    // Read first, so that nothing is measured for a document that cannot take it.
    let document = match into {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
            if insert(&text, command, "").is_none() {
                return Err(CliError::NoMarks { path: path.to_owned(), command });
            }
            Some((path, text))
        }
        None => None,
    };
    let table = measure();
    match document {
        Some((path, text)) => {
            let text = insert(&text, command, &table).unwrap_or(text);
            write_whole(path, |out| out.write_all(text.as_bytes()))?;
        }
        None => write!(io::stdout(), "{table}")?,
    }
    Ok(HELD)
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
    writeln!(out, "\nFaults (fault.kind in a scenario, --faults):")?;
    for kind in FaultKind::ALL {
        writeln!(out, "  {:<26} {}", kind.name(), kind.about())?;
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
