//! What must hold when everything has healed and come to rest.

use std::collections::BTreeMap;
use std::time::Duration;

use snomesh::crdt::CausalContext;
use snomesh::gossip::MemberState;
use snomesh::id::NodeId;

use super::machine::Double;
use super::world::{World, followers};
use crate::checker::{Broken, Checker};
use crate::fault::Effect;
use crate::scenario::{Action, Durable, Operation};
use crate::subscriber::View;
use crate::world::Rehearsal;

/// Two writes of one key by different nodes may have crossed if they are closer than this.
const CROSSING: Duration = Duration::from_secs(2);

/// Commands are given by tasks of their own, and timers are as fine as this: what is closer has no order.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What one node says at rest.
struct Said {
    node: usize,
    context: CausalContext,
    digest: [u8; 16],
    view: View,
    members: BTreeMap<NodeId, MemberState>,
}

/// Checks everything that must hold at rest; tells at which node what does not.
pub(super) async fn at_rest(world: &World<'_>) -> Vec<(Option<usize>, Broken)> {
    let mut broken = Vec::new();
    let noise = world.noise();
    if noise > 0 {
        let what = format!("{noise} frames were sent when all should be at rest");
        broken.push((None, Broken::new(Checker::Silence, what)));
    }
    let mut all = Vec::new();
    for node in 0..world.machines.len() {
        let said = world.ask(node, move |mesh| Said {
            node,
            context: mesh.replica().store().context(),
            digest: mesh.digest(),
            view: View::of(mesh),
            members: mesh.members().map(|member| (member.node, member.state)).collect(),
        });
        all.extend(said.await);
    }
    for said in &all {
        let node = Some(said.node);
        broken.extend(misjudged(world, said).map(|what| (node, Broken::new(Checker::Membership, what))));
        broken.extend(linked_wrongly(world, said.node).map(|what| (node, Broken::new(Checker::Links, what))));
        broken.extend(differs(&all[0], said).map(|what| (node, Broken::new(Checker::Agreement, what))));
        let keeps = world.around.scenario.durability == Durable::Disk;
        for (other, _) in world.running().filter(|_| keeps) {
            let lost = world.machines[other].disk.lost();
            if let Some(dot) = world.ask(said.node, move |mesh| lost(mesh.replica().store())).await.flatten()
            {
                let what = format!("{dot} was confirmed by the disk of n{other} and is not known everywhere");
                broken.push((node, Broken::new(Checker::Durability, what)));
            }
        }
        let Some(process) = &world.machines[said.node].process else { continue };
        for (name, lag, view) in followers(process) {
            broken.extend(lag.map(|what| (node, Broken::new(Checker::Lag, what))));
            if let Some(difference) = view.first_difference(&said.view) {
                let what = format!("subscriber {name} against its replica: {difference}");
                broken.push((node, Broken::new(Checker::View, what)));
            }
        }
    }
    if let Some(first) = all.first().filter(|_| is_calm(&world.rehearsal))
        && let Some(what) = tiers_differ(&world.rehearsal, &first.view)
    {
        broken.push((None, Broken::new(Checker::Tiers, what)));
    }
    broken
}

/// The first thing in which two nodes differ.
fn differs(one: &Said, other: &Said) -> Option<String> {
    let what = if one.context != other.context {
        "they have not seen the same".to_owned()
    } else if let Some(difference) = one.view.first_difference(&other.view) {
        difference
    } else if one.digest != other.digest {
        "the views are equal, the digests are not".to_owned()
    } else {
        return None;
    };
    Some(format!("n{} and n{}: {what}", one.node, other.node))
}

/// Everybody who runs is alive for everybody who runs, and nobody else is.
fn misjudged(world: &World<'_>, said: &Said) -> Option<String> {
    // Who was a copy has the name of another one.
    let mut others = world
        .machines
        .iter()
        .enumerate()
        .filter(|(node, machine)| *node != said.node && machine.double != Some(Double::Copy));
    others.find_map(|(node, machine)| {
        let (runs, state) = (machine.process.is_some(), said.members.get(&machine.id));
        let right = match state {
            Some(MemberState::Alive) => runs,
            Some(MemberState::Down | MemberState::Left | MemberState::Evicted) | None => !runs,
            Some(MemberState::Suspect) => false,
        };
        let runs = if runs { "runs" } else { "does not run" };
        (!right).then(|| format!("n{node} {runs}, but is {state:?} to n{}", said.node))
    })
}

/// A node has at most one tunnel to another that runs, and none to one that does not. One more may be there for a
/// moment each time that a seed is looked at, which both may do at once; the seed may be the node itself.
fn linked_wrongly(world: &World<'_>, node: usize) -> Option<String> {
    let process = world.machines[node].process.as_ref()?;
    world.machines.iter().enumerate().find_map(|(other, machine)| {
        let (tunnels, runs) = (process.peers.node(machine.id).len(), machine.process.is_some());
        let most = usize::from(other != node) + world.greets(node, machine.id);
        let right = tunnels == 0 || (tunnels <= most && runs) || machine.double == Some(Double::Copy);
        (!right).then(|| format!("n{node} has {tunnels} tunnels to n{other}, which runs: {runs}"))
    })
}

/// Whether nothing went wrong that could make the tiers differ.
fn is_calm(rehearsal: &Rehearsal) -> bool {
    let harmless = |effect: &Effect| matches!(effect, Effect::Join(_) | Effect::Leave(_) | Effect::Stall(_));
    rehearsal.faults.iter().all(|planned| harmless(&planned.effect))
        && rehearsal.skew_millis.iter().all(|skew| *skew == 0)
}

/// The first thing in which the state differs from the one that the first tier ended with.
///
/// A removal and a write that cross may end either way, depending on the millisecond; such keys are left out.
fn tiers_differ(rehearsal: &Rehearsal, found: &View) -> Option<String> {
    let undecided = undecided(rehearsal.outcome.kept.operations.as_deref().unwrap_or_default());
    let decided = |view: &View| -> View {
        let attributes = view.attributes.iter().filter(|(key, _)| !undecided.contains(&key.to_string()));
        View {
            attributes: attributes.map(|(key, value)| (key.clone(), value.clone())).collect(),
            counters: view.counters.clone(),
            ..View::default()
        }
    };
    if let Some(difference) = decided(found).first_difference(&decided(&rehearsal.view)) {
        return Some(format!("against the first tier: {difference}"));
    }
    let names = |view: &View| view.registrations.keys().cloned().collect::<Vec<_>>();
    (names(found) != names(&rehearsal.view)).then(|| {
        let (here, there) = (found.registrations.len(), rehearsal.view.registrations.len());
        format!("against the first tier: other tunnels are registered, {here} here and {there} there")
    })
}

/// The keys whose last write and one of another node's, one of them a removal, may have crossed; and those of which several
/// writes were given at once, so that any of them may have been the last.
fn undecided(operations: &[Operation]) -> Vec<String> {
    let mut writes: BTreeMap<String, Vec<(Duration, usize, bool)>> = BTreeMap::new();
    for Operation { at, node, action } in operations {
        let (key, removes) = match action {
            Action::Set { key, .. } | Action::Repeat(key) => (key, false),
            Action::Unset(key) => (key, true),
            Action::Register(..)
            | Action::Deregister(..)
            | Action::Count(..)
            | Action::Add(..)
            | Action::Discard(..) => continue,
        };
        writes.entry(key.to_string()).or_default().push((*at, *node, removes));
    }
    let crossed = writes.into_iter().filter(|(_, writes)| {
        let Some((end, _, _)) = writes.last() else { return false };
        let window = || writes.iter().rev().take_while(|(at, _, _)| end.saturating_sub(*at) < CROSSING);
        let several = window().any(|(_, node, _)| Some(node) != window().next().map(|(_, node, _)| node));
        let before = writes.iter().rev().nth(1);
        let at_once = before.is_some_and(|(at, _, _)| end.saturating_sub(*at) < AT_ONCE);
        at_once || (several && window().any(|(_, _, removes)| *removes))
    });
    crossed.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(millis: u64, node: usize, action: Action) -> Operation {
        Operation { at: Duration::from_millis(millis), node, action }
    }

    fn set() -> Action {
        Action::Set { key: "mesh/k".parse().unwrap(), text: "v".to_owned(), len: 1 }
    }

    fn unset() -> Action {
        Action::Unset("mesh/k".parse().unwrap())
    }

    #[test]
    fn a_state_that_the_first_tier_did_not_end_in_is_found() {
        let text = "schema = 1\nname = \"x\"\nabout = \"x\"\nnodes = 2\nduration = \"3s\"\n[workload]\n\
            writes_per_s = 9.0\nregistrations_per_s = 2.0\n[expect]\nconverge_within = \"9s\"\n";
        let scenario = crate::scenario::Scenario::parse("x.toml", text).unwrap();
        let keep = crate::trace::Keep { operations: true, ..Default::default() };
        let first = crate::world::World::new(&scenario, crate::random::Seed(1), &keep).unwrap();
        let rehearsal = first.rehearse(&[NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32])]);
        assert!(is_calm(&rehearsal));
        assert_eq!(tiers_differ(&rehearsal, &rehearsal.view), None);
        let mut other = rehearsal.view.clone();
        other.attributes.pop_first().expect("something was written");
        assert!(tiers_differ(&rehearsal, &other).unwrap().contains("first tier: mesh/k"));
        let mut other = rehearsal.view.clone();
        other.registrations.pop_first().expect("something was registered");
        assert!(tiers_differ(&rehearsal, &other).unwrap().contains("other tunnels"));
    }

    #[test]
    fn what_crosses_a_removal_or_was_given_at_once_is_undecided() {
        let is_undecided = |operations: &[Operation]| !undecided(operations).is_empty();
        assert!(is_undecided(&[line(0, 0, set()), line(1_000, 1, unset())]));
        assert!(!is_undecided(&[line(0, 0, set()), line(2_000, 1, unset())]));
        assert!(!is_undecided(&[line(0, 0, set()), line(1_000, 0, unset())]));
        assert!(!is_undecided(&[line(0, 0, set()), line(1_000, 1, set())]));
        assert!(!is_undecided(&[line(0, 0, set()), line(1, 0, set())]));
        assert!(is_undecided(&[line(1, 0, set()), line(1, 0, set())]));
        assert!(!is_undecided(&[line(0, 0, set()), line(1, 1, unset()), line(5_000, 1, set())]));
    }
}
