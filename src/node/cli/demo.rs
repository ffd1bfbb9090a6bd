//! `snomesh demo`, as it is seen.

use std::time::{Duration, Instant};

use clap::Args;

use super::failure::{Exit, Failure, describe};
use super::screen::Screen;
use super::up::{Signals, harden};
use super::{Global, telemetry};
use crate::node::demo::{Directory, Step, Tour};

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// End after the tour
    #[arg(long)]
    pub(super) once: bool,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=8))]
    pub(super) nodes: u8,
}

/// Where the times stand.
const WIDTH: usize = 68;

pub(super) fn run(global: &Global, demo: Demo, screen: &mut Screen) -> Result<Exit, Failure> {
    telemetry::init(global.verbose, global.quiet);
    if !screen.format().is_for_people() {
        return Err(Failure::usage("a demonstration is for people: it has no other output than its own"));
    }
    harden();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let exit = runtime.block_on(show(demo, screen));
    runtime.shutdown_background();
    exit
}

async fn show(demo: Demo, screen: &mut Screen) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let directory = Directory::new().map_err(|error| {
        Failure::new(Exit::Configuration, format!("cannot make a temporary directory: {error}"))
            .hint("name a place for it: TMPDIR=DIR snomesh demo")
    })?;
    let mut tour = Tour::new(directory.path(), usize::from(demo.nodes));
    screen.line(format!(
        "A mesh of {} nodes on this machine, in {}\n",
        demo.nodes,
        directory.path().display()
    ))?;
    let exit = tokio::select! {
        exit = guide(&mut tour, demo.once, screen) => exit,
        exit = signals.recv() => Ok(exit),
    };
    let exit = match exit {
        Ok(Exit::Success) if !demo.once => {
            signals.recv().await;
            Ok(Exit::Success)
        }
        exit => exit,
    };
    tokio::select! {
        () = tour.end() => {}
        _ = signals.recv() => {}
    }
    exit
}

/// Takes all steps, and says what came of each.
async fn guide(tour: &mut Tour, once: bool, screen: &mut Screen) -> Result<Exit, Failure> {
    let started_at = Instant::now();
    for (number, step) in Step::ALL.into_iter().enumerate() {
        let begun_at = Instant::now();
        match tour.take(step).await {
            Ok(shown) => {
                let time = duration(begun_at.elapsed());
                screen.done(format!("{:<WIDTH$}{time:>9}", shown.title))?;
                for detail in shown.details {
                    screen.next(format!("  {detail}"))?;
                }
            }
            Err(error) => {
                screen.failed(format!("step {} of {} did not hold", number + 1, Step::ALL.len()))?;
                return Err(Failure::new(Exit::Unexpected, describe(&error))
                    .hint("try again with -v, and tell us what it says"));
            }
        }
    }
    let time = duration(started_at.elapsed());
    screen.line(format!("\nAll {} steps held, in {}.", Step::ALL.len(), time.trim_start()))?;
    if !once {
        invite(tour, screen)?;
    }
    Ok(Exit::Success)
}

/// What people can do while the nodes stay up.
fn invite(tour: &Tour, screen: &mut Screen) -> Result<(), Failure> {
    let program = std::env::args().next().unwrap_or_else(|| "snomesh".into());
    let sockets = tour.sockets();
    let (Some((first, near)), Some((last, far))) = (sockets.first(), sockets.last()) else { return Ok(()) };
    screen.line("The nodes stay up until Ctrl-C. In another terminal:\n")?;
    screen.line(format!("  export SNOMESH_AGENT={}   # talk to {first}", near.display()))?;
    for command in ["status", "node ls", "tunnel ls", "attr ls", "events"] {
        screen.line(format!("  {program} {command}"))?;
    }
    if let Some(door) = tour.door() {
        screen.line(format!("  curl http://{door}/"))?;
    }
    screen.line(format!("\nWrite at {last} what {first} reads:\n"))?;
    screen.line(format!("  {program} attr set color green --agent \\\n    {}", far.display()))?;
    screen.line(format!("  {program} attr get color"))?;
    Ok(())
}

fn duration(time: Duration) -> String {
    match time.as_millis() {
        0 => format!("{} µs", time.as_micros()),
        millis @ 1..1_000 => format!("{millis} ms"),
        millis => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
    }
}
