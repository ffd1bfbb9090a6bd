//! Who is judged to be down, and when: the mesh's links beside SWIM, on one network, in virtual time.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers-swim/Cargo.toml -- [NODES…]
//! ```
//!
//! Both are production code without I/O: the core of this project, and `foca`, with a probe or a heartbeat a second.
//! Printed is a table in Markdown. Verdicts are read every 50 ms.

mod net;
mod ours;
mod swim;

use std::collections::BTreeSet;
use std::time::Duration;

use net::{Detector, Net, run_until};
use rand::RngExt;
use snomesh::time::Moment;

const STEP: Duration = Duration::from_millis(50);
/// How long everything may take to form, and is left alone before it is measured.
const FORMING: Duration = Duration::from_secs(120);
const SETTLING: Duration = Duration::from_secs(40);
/// How many nodes die one after another.
const DEATHS: usize = 8;

fn main() {
    let nodes: Vec<usize> =
        std::env::args().skip(1).map(|text| text.parse().expect("a number of nodes")).collect();
    let nodes = if nodes.is_empty() { vec![10, 30, 100] } else { nodes };
    println!(
        "| nodes | detector | formed | idle, B/s a node | a death: known to all, p50 · max | 5 % lost: wrong verdicts | 20 % lost | a third of one node's paths cut | two halves: told apart, together again |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for nodes in nodes {
        row::<ours::Links>(nodes);
        row::<swim::Swim>(nodes);
    }
}

/// Measures one detector among so many nodes, each thing on a network of its own.
fn row<D: Detector>(nodes: usize) {
    let (formed, idle, deaths) = World::<D>::formed(nodes).deaths();
    let lost = |per_mille| World::<D>::formed(nodes).lossy(per_mille);
    let (apart, together) = World::<D>::formed(nodes).halves();
    println!(
        "| {nodes} | {} | {} | {idle:.0} | {} · {} | {} | {} | {} | {}, {} |",
        D::NAME,
        seconds(formed),
        seconds(deaths[deaths.len() / 2]),
        seconds(deaths[deaths.len() - 1]),
        lost(50),
        lost(200),
        World::<D>::formed(nodes).partly_cut(),
        seconds(apart),
        seconds(together),
    );
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

struct World<D: Detector> {
    detector: D,
    net: Net<D::Message>,
    nodes: usize,
    formed: Option<Duration>,
}

impl<D: Detector> World<D> {
    fn formed(nodes: usize) -> Self {
        let mut world = Self { detector: D::new(nodes, 1), net: Net::new(nodes, 1), nodes, formed: None };
        for node in 0..nodes {
            world.detector.start(&mut world.net, node);
        }
        let right = |_: usize, _: usize| true;
        world.formed = world.until_right(FORMING, right);
        world.step(SETTLING, |_| ());
        world
    }

    fn step(&mut self, lasts: Duration, mut look: impl FnMut(&Self)) {
        let end = self.net.now + lasts;
        while self.net.now < end {
            let next = self.net.now + STEP;
            run_until(&mut self.detector, &mut self.net, next);
            look(self);
        }
    }

    fn living(&self) -> Vec<usize> {
        (0..self.nodes).filter(|node| !self.net.dead[*node]).collect()
    }

    /// Whether every living node holds exactly those others for up that it should. Whom one does not know is not up.
    fn is_right(&self, up: impl Fn(usize, usize) -> bool) -> bool {
        self.living().into_iter().all(|node| {
            let verdicts = self.detector.verdicts(node);
            (0..self.nodes)
                .filter(|other| *other != node)
                .all(|other| (verdicts[other] == Some(true)) == (up(node, other) && !self.net.dead[other]))
        })
    }

    /// How long it takes until all verdicts are right.
    fn until_right(&mut self, at_most: Duration, up: impl Fn(usize, usize) -> bool) -> Option<Duration> {
        let begin = self.net.now;
        while self.net.now.since(begin) < at_most {
            let next = self.net.now + STEP;
            run_until(&mut self.detector, &mut self.net, next);
            if self.is_right(&up) {
                return Some(self.net.now.since(begin));
            }
        }
        None
    }

    /// Nodes die, one after another; says how long after each death it was known to all, sorted, and what was said before.
    fn deaths(mut self) -> (Option<Duration>, f64, Vec<Option<Duration>>) {
        let (before, begin) = (self.net.bytes, self.net.now);
        self.step(Duration::from_secs(20), |_| ());
        let idle =
            (self.net.bytes - before) as f64 / self.net.now.since(begin).as_secs_f64() / self.nodes as f64;
        let mut known = Vec::new();
        for death in 0..DEATHS.min(self.nodes / 2) {
            let wait = Duration::from_millis(self.net.generator.random_range(5_000..6_000));
            self.step(wait, |_| ());
            // The first node is whom the others knew first.
            self.net.dead[1 + death] = true;
            known.push(self.until_right(Duration::from_secs(120), |_, _| true));
        }
        known.sort_by_key(|known| known.unwrap_or(Duration::MAX));
        (self.formed, idle, known)
    }

    /// How many wrong verdicts there are while nothing happens but that packets are lost, for two minutes: of one node about
    /// another, each time it begins to hold it for down.
    fn lossy(mut self, per_mille: u32) -> usize {
        self.net.lost_per_mille = per_mille;
        self.wrong(Duration::from_secs(120))
    }

    fn wrong(&mut self, lasts: Duration) -> usize {
        let (mut down, mut count) = (BTreeSet::new(), 0);
        self.step(lasts, |world| {
            for node in world.living() {
                for (other, verdict) in world.detector.verdicts(node).into_iter().enumerate() {
                    if node == other || world.net.dead[other] {
                        continue;
                    }
                    if verdict == Some(false) {
                        count += usize::from(down.insert((node, other)));
                    } else {
                        down.remove(&(node, other));
                    }
                }
            }
        });
        count
    }

    /// One node loses its paths to every third of the others for a minute: it is reached by all others, who are reached.
    fn partly_cut(mut self) -> usize {
        let node = self.nodes / 2;
        for other in (0..self.nodes).step_by(3).filter(|other| *other != node) {
            self.net.set_cut(node, other, true);
        }
        self.wrong(Duration::from_secs(60))
    }

    /// Cuts the mesh in two for half a minute: how long until both halves know, and until all is well again.
    fn halves(mut self) -> (Option<Duration>, Option<Duration>) {
        let half = self.nodes / 2;
        self.cut_between(half, true);
        let begin: Moment = self.net.now;
        let apart = self.until_right(Duration::from_secs(60), |one, other| (one < half) == (other < half));
        let rest = Duration::from_secs(60).saturating_sub(self.net.now.since(begin));
        self.step(rest, |_| ());
        self.cut_between(half, false);
        (apart, self.until_right(Duration::from_secs(180), |_, _| true))
    }

    fn cut_between(&mut self, half: usize, is_cut: bool) {
        for one in 0..half {
            for other in half..self.nodes {
                self.net.set_cut(one, other, is_cut);
            }
        }
    }
}
