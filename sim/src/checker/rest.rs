//! What must hold when everything has healed and come to rest.

use snomesh::crdt::{Class, Entry, Register, Store};
use snomesh::gossip::MemberState;
use snomesh::replica::Path;

use super::{Broken, Checker, Reference, WriteId};
use crate::node::{Node, Process};
use crate::subscriber::View;

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Resting<'a> {
    /// All machines.
    pub(crate) nodes: &'a [Node],
    /// All writes.
    pub(crate) reference: &'a Reference,
    /// The writes whose authors still run: nothing explains that one of them is missing anywhere.
    pub(crate) owed: Vec<WriteId>,
}

/// Checks everything that must hold at rest; tells at which node what does not.
pub(crate) fn at_rest(resting: &Resting<'_>) -> Vec<(Option<usize>, Broken)> {
    let mut broken = Vec::new();
    let running = resting
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(node, machine)| Some((node, machine.process.as_ref()?)));
    let running: Vec<(usize, &Process)> = running.collect();
    for &(node, process) in &running {
        let mut add = |found: Option<Broken>| broken.extend(found.map(|found| (Some(node), found)));
        let view = View::of(&process.mesh);
        for subscriber in &process.subscribers {
            add(view_differs(&subscriber.name, subscriber.view(), &view));
        }
        add(resurrected(resting.reference, process));
        add(misjudged(resting.nodes, node, process));
        add(lost(resting.nodes, process));
        add(undelivered(resting, process));
    }
    if let Some((&(first, one), others)) = running.split_first() {
        for &(node, other) in others {
            if let Some(what) = differ(one, other) {
                broken.push((
                    Some(node),
                    Broken::new(Checker::Agreement, format!("n{first} and n{node}: {what}")),
                ));
            }
        }
    }
    broken
}

/// A subscriber that has had time to catch up has the replica's view.
fn view_differs(name: &str, found: &View, expected: &View) -> Option<Broken> {
    let difference = found.first_difference(expected)?;
    Some(Broken::new(Checker::View, format!("subscriber {name} against its replica: {difference}")))
}

/// Nothing is visible of which the node knows that it was replaced or removed.
///
/// A write whose author had seen a removal and let it go does not tell of what that removed. As long as anybody knows the
/// removal, all do at rest; with the last disk that knew it, it may be lost.
fn resurrected(reference: &Reference, process: &Process) -> Option<Broken> {
    let store = process.mesh.replica().store();
    for key in 0..reference.key_count() {
        let Some(register) = store.register(reference.key_name(key)) else { continue };
        for visible in register.entries().iter().filter(|entry| entry.value.is_some()) {
            let Some(visible) = reference.find(&visible.dot) else { continue };
            if let Some(killer) = reference.known_killer(&process.seen, visible) {
                let (key, visible) = (reference.key_name(key), reference.dot(visible));
                let what = format!("{key} shows {visible}, which {killer} replaced or removed");
                return Some(Broken::new(Checker::Resurrection, what));
            }
        }
    }
    None
}

/// Everybody who runs is alive for everybody who runs, and nobody else is.
fn misjudged(nodes: &[Node], own: usize, process: &Process) -> Option<Broken> {
    for (node, machine) in nodes.iter().enumerate().filter(|(node, _)| *node != own) {
        // Of two machines with one name, one may run and the other not.
        if machine.doubled {
            continue;
        }
        let judged = process.mesh.members().find(|member| member.node == machine.id);
        let state = judged.map(|member| member.state);
        let right = match (&machine.process, state) {
            (Some(_), state) => state == Some(MemberState::Alive),
            (None, Some(state)) => matches!(state, MemberState::Down | MemberState::Left),
            (None, None) => true,
        };
        if !right {
            let runs = if machine.process.is_some() { "runs" } else { "does not run" };
            let what = format!("n{node} {runs}, but is {state:?} to n{own}");
            return Some(Broken::new(Checker::Membership, what));
        }
    }
    None
}

/// What a machine that runs has confirmed, all who run have seen.
fn lost(nodes: &[Node], process: &Process) -> Option<Broken> {
    let confirmed = nodes.iter().filter(|machine| machine.process.is_some());
    let confirmed = confirmed.flat_map(|machine| machine.disk.contents()).flat_map(|record| record.items());
    let mut dots = confirmed.flat_map(|item| &item.entries).map(|entry| &entry.dot);
    let store = process.mesh.replica().store();
    let lost = dots.find(|dot| !store.seen(dot))?;
    Some(Broken::new(
        Checker::Durability,
        format!("{lost} was confirmed by a disk and is not known everywhere"),
    ))
}

/// What was written by a life that goes on, all who run have seen.
fn undelivered(resting: &Resting<'_>, process: &Process) -> Option<Broken> {
    let reference = resting.reference;
    let mut owed = resting.owed.iter().map(|write| reference.dot(*write));
    let missing = owed.find(|dot| !process.seen.claims(reference, dot))?;
    let what = format!("{missing} never arrived, although its author lives and nothing is between them");
    Some(Broken::new(Checker::Delivery, what))
}

/// The first thing in which two replicas differ.
fn differ(one: &Process, other: &Process) -> Option<String> {
    let (here, there) = (one.mesh.replica().store(), other.mesh.replica().store());
    if here.context() != there.context() {
        return Some("they have not seen the same".to_owned());
    }
    if let Some(difference) = View::of(&one.mesh).first_difference(&View::of(&other.mesh)) {
        return Some(difference);
    }
    if one.mesh.digest() != other.mesh.digest() {
        return Some("the views are equal, the digests are not".to_owned());
    }
    // Removals are let go by each when it likes, and so is what a life that is over had said of itself.
    let counts = |entry: &&Entry| {
        let lane = &entry.dot.lane;
        !(lane.class() == Class::Registry && here.is_retired(lane))
    };
    let values =
        |register: &Register| register.values().into_iter().filter(counts).cloned().collect::<Vec<_>>();
    for row in here.prefix("") {
        let key = row.key();
        let theirs = there.register(&key);
        if theirs.as_ref().map_or_else(Vec::new, values) != values(&row.register()) {
            return Some(format!("the values of {key} differ"));
        }
        if let Some(Path::Registration { name, .. }) = Path::of(&key)
            && one.mesh.lookup(&name) != other.mesh.lookup(&name)
        {
            return Some(format!("a lookup of {name} finds different tunnels"));
        }
    }
    let kept = |store: &Store| store.prefix("").filter(|row| !values(&row.register()).is_empty()).count();
    (kept(here) != kept(there)).then(|| "one has keys that the other lacks".to_owned())
}
