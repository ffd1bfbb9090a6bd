//! What the command line takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::checker::Checker;
use crate::random::Seed;
use crate::scenario::{Drawn, Quantity as _, Tier};
use crate::token::{Override, Overrides};

/// Simulates meshes of many nodes and everything that goes wrong between them: same seed, same run.
///
/// Without a command it runs every scenario that comes with it, with a few seeds, and fails if something did
/// not hold or too little of what can go wrong did go wrong.
#[derive(Debug, Parser)]
#[command(name = "sim", version, after_help = EXIT_STATUS)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

const EXIT_STATUS: &str = "Exit status: 0 all held; 1 something did not; 2 bad arguments or scenario; \
3 a fault never happened, or too little was covered; 4 not deterministic; 5 the time was up before all was run";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run scenarios.
    Run(RunArgs),
    /// Repeat one run and write its whole log, up to the first thing that does not hold.
    Replay(ReplayArgs),
    /// Reduce a run that fails to the smallest that fails in the same way, and write it as a scenario file.
    Shrink(ShrinkArgs),
    /// Draw the picture of a trace that was written with run --trace.
    Timeline(TimelineArgs),
    /// Compare two reports that were written with run --json, scenario by scenario.
    Compare {
        /// The report to compare with.
        base: PathBuf,
        /// The report in question.
        new: PathBuf,
    },
    /// List the scenarios, faults, checks and what is counted.
    List,
    /// Run scenarios again and again with the same seed and see that it is the same run.
    Verify {
        /// A scenario's name, a file, or all.
        #[arg(default_value = "all")]
        scenario: String,
        /// The first seed.
        #[arg(long, default_value = "0")]
        seed: Seed,
        /// How much of the product runs.
        #[arg(long, value_enum, default_value_t)]
        tier: Tier,
    },
    /// Try every run there can be of a very small mesh, with messages lost, late, doubled and overtaken.
    Model(ModelArgs),
    /// Measure the network of the second tier: a trivial gossip, as `benches/peers-sim` has it on another simulator.
    #[cfg(feature = "quic")]
    #[command(hide = true)]
    Gossip {
        /// How many hosts.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=1_000))]
        hosts: u16,
        /// For how long, in simulated time.
        #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
        lasts: Duration,
    },
    /// Plant faults in a copy of the sources and see that each is noticed by the check that it names.
    Mutants {
        /// Only the one of that name.
        #[arg(long)]
        only: Option<String>,
    },
    /// Measure the protocol beside flooding, random fan-out, one shared tree and digests, under one workload.
    Baselines {
        /// Among how many nodes.
        #[arg(long, value_delimiter = ',', default_values = ["10", "48", "100", "300"], value_parser = clap::value_parser!(u16).range(2..=10_000))]
        nodes: Vec<u16>,
        /// The seed.
        #[arg(long, default_value = "0")]
        seed: Seed,
        /// Only the protocol itself.
        #[arg(long)]
        alone: bool,
        /// Put the table into this document, between its marks.
        #[arg(long)]
        into: Option<PathBuf>,
    },
    /// Measure what a mesh must keep to as a whole: loading it, losing a node, being cut in halves.
    Budgets {
        /// Among how many nodes.
        #[arg(long, value_delimiter = ',', default_values = ["3", "10", "30", "100"], value_parser = clap::value_parser!(u16).range(3..=10_000))]
        nodes: Vec<u16>,
        /// The seed.
        #[arg(long, default_value = "0")]
        seed: Seed,
        /// Put the table into this document, between its marks.
        #[arg(long)]
        into: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Scenarios: names, files, tokens as failures print them, or all.
    #[arg(required = true)]
    pub(super) scenarios: Vec<String>,
    /// The seed, or the first of several: decimal, 0x and hexadecimal, or a commit's hash. The file's own without.
    #[arg(long)]
    pub(super) seed: Option<Seed>,
    /// How many seeds to run, one after another from the first; or from which to which, as in 5..20, both included.
    #[arg(long, value_name = "N|A..B", value_parser = parse_seeds)]
    pub(super) seeds: Option<Seeds>,
    /// Run seeds for so long, such as 10m; a run that has begun is finished. With --seeds: stop when the time is up, and exit
    /// with 5 if some were left.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub(super) lasts: Option<Duration>,
    #[command(flatten)]
    pub(super) changes: Changes,
    /// How many runs at a time; as many as there are processors without.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub(super) jobs: Option<u16>,
    /// Write a report for programs into this file. - is standard output, for one of the reports; the table then goes to
    /// standard error.
    #[arg(long)]
    pub(super) json: Option<PathBuf>,
    /// Write every record as a line of JSON into this file; for one scenario and one seed.
    #[arg(long)]
    pub(super) trace: Option<PathBuf>,
    /// Draw the run into this file: one page that needs nothing else; for one scenario and one seed.
    #[arg(long)]
    pub(super) html: Option<PathBuf>,
    /// Draw the run into this file, as a picture for documents; for one scenario and one seed.
    #[arg(long)]
    pub(super) svg: Option<PathBuf>,
    /// Stop at the first run that fails.
    #[arg(long)]
    pub(super) fail_fast: bool,
    /// Exit with 3 unless all runs together have reached everything that `sim list` marks.
    #[arg(long)]
    pub(super) gate: bool,
    /// Stop at the first run in which this check fails, as `sim list` names it.
    #[arg(long, value_name = "CHECK", value_parser = parse_check)]
    pub(super) seek: Option<Checker>,
}

/// What the command line changes of a scenario.
#[derive(Debug, Args)]
pub(super) struct Changes {
    /// How much of the product runs, if not as much as the scenario says.
    #[arg(long, value_enum)]
    pub(super) tier: Option<Tier>,
    /// How many nodes, if not as many as the scenario says; or a range that is drawn per seed, such as 4..6.
    #[arg(long, value_name = "N|A..B", value_parser = parse_nodes)]
    pub(super) nodes: Option<Drawn<u64>>,
    /// How long faults and writes may happen, if not as long as the scenario says, such as 60s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) duration: Option<Duration>,
    /// Which of the scenario's faults: all, none, swarm (each with an even chance) or kinds with commas between.
    #[arg(long)]
    pub(super) faults: Option<String>,
    /// Another value for a field of the scenario, such as net.loss=0.1; may be given again.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<Override>,
}

impl Changes {
    pub(super) fn overrides(&self, of_token: Overrides) -> Overrides {
        let mut all = of_token;
        let tier = self.tier.map(|tier| Override::new("tier", tier.name()));
        let nodes = self.nodes.map(|nodes| Override::new("nodes", &nodes.text()));
        let duration = self.duration.map(|duration| Override::new("duration", &duration.text()));
        let faults = self.faults.as_deref().map(|faults| Override::new("faults", faults));
        all.0.extend(
            tier.into_iter().chain(nodes).chain(duration).chain(faults).chain(self.set.iter().cloned()),
        );
        all
    }
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A token as failures print it, or a scenario file.
    pub(super) run: String,
    #[command(flatten)]
    pub(super) changes: Changes,
    /// Only what happened up to then, such as 12.5s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) until: Option<Duration>,
    /// Only what happened at this node, and what concerns all.
    #[arg(long)]
    pub(super) node: Option<usize>,
    /// Only what names this key, such as k7 or attr/mesh/k7.
    #[arg(long)]
    pub(super) key: Option<String>,
}

impl ReplayArgs {
    /// What the log is limited to, as it was written.
    pub(super) fn filter(&self) -> String {
        let until = self.until.map(|until| format!("--until {}", until.text()));
        let node = self.node.map(|node| format!("--node {node}"));
        let key = self.key.as_ref().map(|key| format!("--key {key}"));
        until.into_iter().chain(node).chain(key).collect::<Vec<_>>().join(" ")
    }
}

#[derive(Debug, Args)]
pub(super) struct TimelineArgs {
    /// The trace.
    pub(super) trace: PathBuf,
    /// Where to write the page; beside the trace, ending in .html, without either.
    #[arg(long)]
    pub(super) html: Option<PathBuf>,
    /// Where to write a picture for documents.
    #[arg(long)]
    pub(super) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ShrinkArgs {
    /// A token as failures print it, or a scenario file.
    pub(super) run: String,
    #[command(flatten)]
    pub(super) changes: Changes,
    /// Where to write the scenario; a name made of the scenario, the check and the seed without.
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
    /// How long to try at most.
    #[arg(long = "for", value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    pub(super) lasts: Duration,
}

/// Which seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seeds {
    /// The first one, if it is said so here.
    pub(super) first: Option<Seed>,
    pub(super) count: u64,
}

/// The most seeds of one run of the program.
const MAX_SEEDS: u64 = 10_000_000;

fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let expected = |_| {
        format!(
            "write how many seeds, such as 20, or from which to which, such as 5..20; at most {MAX_SEEDS}"
        )
    };
    let Some((first, last)) = text.split_once("..") else {
        let count = text.parse().ok().filter(|count| (1..=MAX_SEEDS).contains(count));
        return Ok(Seeds { first: None, count: count.ok_or(()).map_err(expected)? });
    };
    let seed = |text: &str| text.trim().parse::<Seed>().map_err(|error| format!("{text}: {error}"));
    let (first, last) = (seed(first)?, seed(last)?);
    if last < first {
        return Err(format!("the range is backwards; write {last}..{first}"));
    }
    let count = (last.0 - first.0).checked_add(1).filter(|count| *count <= MAX_SEEDS);
    Ok(Seeds { first: Some(first), count: count.ok_or(()).map_err(expected)? })
}

/// The most nodes of one run.
const MAX_NODES: u64 = 10_000;

fn parse_nodes(text: &str) -> Result<Drawn<u64>, String> {
    let nodes = Drawn::parse(text).filter(|nodes: &Drawn<u64>| nodes.low() >= 1 && nodes.high() <= MAX_NODES);
    nodes.ok_or_else(|| {
        format!("write how many, such as 5, or a range, such as 4..6; at least 1, at most {MAX_NODES}")
    })
}

fn parse_check(text: &str) -> Result<Checker, String> {
    let found = Checker::ALL.iter().copied().find(|checker| checker.name() == text);
    found.ok_or_else(|| format!("there is no check {text}; `sim list` names them"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).ok_or_else(|| "write a duration such as 90s, 250ms or 10m".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// How many replicas.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(super) nodes: u8,
    /// How many keys.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(super) keys: u8,
    /// How many writes and removals, of all together.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(super) writes: u8,
    /// How many messages, of all together; each may arrive any number of times.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(super) sends: u8,
    /// How often removals are let go, by all together.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
    pub(super) collections: u8,
}
