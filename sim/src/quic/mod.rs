//! The second tier: the daemon itself, on QUIC itself, over sockets that are queues.
//!
//! The first tier simulates what is between two cores, and could be wrong about it; the shell around the core it does
//! not run at all. Here the product runs as it is: daemon, driver, links, hellos, negotiation, TLS and QUIC, on a
//! runtime with one thread whose clock is the simulation's. Only the packets are ours, and the seed of everything
//! random.
//!
//! A run repeats what a run of the first tier did: the same scenario and seed, the same commands at the same
//! milliseconds, the same faults on the same links. What a daemon cannot be made to do without asking it (freeze,
//! leave streams unread, flip bits behind the decryption) is not for this tier.

mod disk;
mod entropy;
mod follower;
mod gossip;
mod machine;
mod network;
mod panics;
mod rest;
mod world;

#[cfg(test)]
mod tests;

use tokio::runtime::Builder;
use tokio::time::Instant;

use crate::coverage::Point;
use crate::fault::{Faults, NoSuchNode};
use crate::random::Seed;
use crate::scenario::{FaultKind, Scenario};
use crate::trace::{Keep, Trace};
use crate::world::{Outcome, Rehearsal, World as FirstTier, header};
use machine::{Identities, Machine, Surroundings};
use network::Network;
use world::World;

pub(crate) use gossip::{Told, gossip};

/// How many daemons a run may have.
pub(crate) const MAX_NODES: u64 = 64;

/// What this tier counts by itself.
const COUNTED: &[Point] = &[
    Point::BlockedByPartition,
    Point::BlockedOneWay,
    Point::Flaps,
    Point::Crashes,
    Point::Restarts,
    Point::Joins,
    Point::Leaves,
    Point::CrashWithUnsyncedWrite,
    Point::RestartFromKeptDisk,
    Point::RestartFromStaleDisk,
    Point::WipedRejoin,
    Point::Lost,
    Point::Duplicated,
    Point::Reordered,
    Point::ClockJumps,
    Point::ClockWentBack,
    Point::ClockStood,
    Point::EarlierLives,
    Point::DriftAlarms,
    Point::IdleTimeouts,
    Point::Resets,
    Point::DialsFailed,
    Point::Lagged,
    Point::LaggedTwice,
    Point::Suspected,
    Point::Downs,
    Point::Clones,
    Point::Doubles,
];

/// What is true of the commands, which are those of the first tier.
const INHERITED: &[Point] = &[Point::Writes, Point::NoOpWrites, Point::WrittenOnBothSides];

/// Why a scenario is not for this tier, if it is not.
pub(crate) fn refusal(scenario: &Scenario) -> Option<String> {
    let most = scenario.nodes.high();
    if most > MAX_NODES {
        return Some(format!("it has up to {most} nodes, this tier takes {MAX_NODES}; use --nodes"));
    }
    let foreign = |kind: &FaultKind| {
        matches!(
            kind,
            FaultKind::Freeze
                | FaultKind::Starve
                | FaultKind::SlowReader
                | FaultKind::Corrupt
                | FaultKind::Forge
                | FaultKind::Reset
                | FaultKind::Refuse
                | FaultKind::Panic
        )
    };
    let fault = scenario.faults.iter().map(|fault| *fault.kind.get_ref()).find(foreign)?;
    Some(format!("it has the fault `{}`, which cannot be done to a daemon from outside", fault.name()))
}

/// Runs a scenario with one seed, to the end or to the first thing that does not hold.
///
/// # Errors
///
/// [`NoSuchNode`] if the scenario speaks of nodes that this run does not have.
pub(crate) fn run(scenario: &Scenario, seed: Seed, keep: &Keep) -> Result<Outcome, NoSuchNode> {
    let first = FirstTier::new(scenario, seed, &Keep { operations: true, ..Keep::default() })?;
    let identities = Identities::new(seed, first.count());
    let rehearsal = first.rehearse(&identities.ids());
    if !rehearsal.outcome.violations.is_empty() {
        return Ok(rehearsal.outcome);
    }
    panics::watch();
    // Before the runtime, whose last tasks may still draw while it ends.
    let _seeded = entropy::Seeded::with(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without a network asks nothing of the system");
    let play = async { set_up(scenario, seed, &identities, rehearsal, keep).run().await };
    let mut outcome = runtime.block_on(play);
    if !keep.operations {
        outcome.kept.operations = None;
    }
    Ok(outcome)
}

/// Puts the machines and what is between them in their places. Must be called in the runtime.
fn set_up<'a>(
    scenario: &'a Scenario,
    seed: Seed,
    identities: &Identities,
    rehearsal: Rehearsal,
    keep: &Keep,
) -> World<'a> {
    let count = rehearsal.skew_millis.len();
    let trace = Trace::new(keep, || header(scenario, seed, count, rehearsal.times, &rehearsal.faults));
    let faults = Faults::new(rehearsal.faults.clone());
    let around = Surroundings {
        scenario,
        seed,
        network: Network::new(seed, count, &scenario.net, faults, trace),
        provider: entropy::provider(),
        began_at: Instant::now(),
    };
    let drawn = rehearsal.skew_millis.iter().zip(&rehearsal.rings).enumerate();
    let machines =
        drawn.map(|(number, (skew, ring))| Machine::new(number, identities, *skew, *ring)).collect();
    World::new(around, machines, rehearsal)
}
