//! Drawing the faults of a run: from what a scenario says to what happens when and to whom.

use std::collections::BTreeMap;
use std::time::Duration;

use snomesh::time::Moment;

use super::{Effect, Members, NoSuchNode, Planned, Weather};
use crate::random::{self, Generator, Seed};
use crate::scenario::{Fault, FaultKind, Groups, NodeSet, Scenario};

/// Looks at all nodes that a scenario names outside its faults.
fn check_nodes(scenario: &Scenario, count: usize) -> Result<(), NoSuchNode> {
    let no_such = |what: &str, node| NoSuchNode { what: what.to_owned(), node, count };
    let mut nothing = Seed(0).generator("check", &[]);
    let mut operations = scenario.operations().iter();
    if let Some(operation) = operations.find(|operation| operation.node >= count) {
        return Err(no_such("an operation of the schedule", operation.node));
    }
    for (what, set) in
        [("mesh.absent", &scenario.mesh.absent), ("workload.writers", &scenario.workload.writers)]
    {
        set.resolve(count, &mut nothing).map_err(|node| no_such(what, node))?;
    }
    Ok(())
}

/// Draws all faults of a run. None begins or lasts after `end`.
///
/// # Errors
///
/// [`NoSuchNode`].
pub(crate) fn plan(
    scenario: &Scenario,
    seed: Seed,
    count: usize,
    end: Moment,
) -> Result<Vec<Planned>, NoSuchNode> {
    check_nodes(scenario, count)?;
    let mut planned = Vec::new();
    let mut before: BTreeMap<&str, u64> = BTreeMap::new();
    for fault in &scenario.faults {
        let kind = *fault.kind.get_ref();
        let number = before.entry(kind.name()).or_default();
        let mut generator = seed.generator("fault", &[blake3_key(kind.name()), *number]);
        *number += 1;
        if fault.chance.is_some_and(|chance| !random::chance(&mut generator, chance.0)) {
            continue;
        }
        let mut at = Moment(0) + fault.at.draw(&mut generator);
        while at < end {
            let drawn = Draw { fault, kind, count, at, end, generator: &mut generator }.draw();
            planned.extend(drawn.map_err(|node| NoSuchNode {
                what: format!("the fault `{}`", kind.name()),
                node,
                count,
            })?);
            let Some(every) = fault.every else { break };
            at = at + every.draw(&mut generator);
        }
    }
    Ok(planned)
}

fn blake3_key(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

struct Draw<'a> {
    fault: &'a Fault,
    kind: FaultKind,
    count: usize,
    at: Moment,
    end: Moment,
    generator: &'a mut Generator,
}

impl Draw<'_> {
    fn draw(&mut self) -> Result<Vec<Planned>, usize> {
        let lasts = self.fault.lasts.map(|lasts| lasts.draw(self.generator));
        let until = lasts.map(|lasts| (self.at + lasts).min(self.end));
        let effect = match self.kind {
            FaultKind::Partition => Effect::Split(self.groups()?),
            FaultKind::OneWay => self.block(false)?,
            FaultKind::Cut => self.block(true)?,
            FaultKind::Flap => return self.flap(until.unwrap_or(self.end)),
            FaultKind::Crash => {
                let disk = self.fault.disk.unwrap_or_default();
                let down = until.map(|until| until.since(self.at));
                let nodes = self.listed()?;
                return Ok(vec![self.planned(None, Effect::Crash { nodes, disk, down })]);
            }
            FaultKind::Leave => {
                let nodes = self.listed()?;
                return Ok(vec![self.planned(None, Effect::Leave(nodes))]);
            }
            FaultKind::Join => {
                let nodes = self.listed()?;
                return Ok(vec![self.planned(None, Effect::Join(nodes))]);
            }
            FaultKind::Reset => {
                let nodes = self.listed()?;
                return Ok(vec![self.planned(None, Effect::Reset(nodes))]);
            }
            FaultKind::Panic => {
                let nodes = self.listed()?;
                return Ok(vec![self.planned(None, Effect::Panic(nodes))]);
            }
            FaultKind::Clone => {
                let lives = until.unwrap_or(self.end).since(self.at);
                let pairs = self.pair()?.into_iter();
                let clone = |(from, to)| self.planned(None, Effect::Clone { from, to, lives });
                return Ok(pairs.map(clone).collect());
            }
            FaultKind::Starve => return self.starve(until.unwrap_or(self.end)),
            FaultKind::Swizzle => return self.swizzle(until.unwrap_or(self.end)),
            FaultKind::Ring => {
                let members = self.listed()?;
                let place = |node| members.iter().position(|member| *member == node);
                Effect::Ring((0..self.count).map(place).collect())
            }
            FaultKind::Refuse => Effect::Refuse(self.members()?),
            FaultKind::ClockFreeze => Effect::ClockFreeze(self.members()?),
            FaultKind::Freeze => Effect::Freeze(self.members()?),
            FaultKind::SlowReader => Effect::SlowReader(self.members()?),
            FaultKind::Stall => Effect::Stall(self.members()?),
            FaultKind::Weather => Effect::Weather(self.members()?, self.weather()),
            FaultKind::Corrupt => {
                Effect::Corrupt(self.members()?, self.fault.rate.map_or(0.0, |rate| rate.0))
            }
            FaultKind::Forge => Effect::Forge(self.members()?, self.fault.rate.map_or(0.0, |rate| rate.0)),
            FaultKind::ClockJump => {
                let by = self.fault.by.map_or(0, |by| by.draw(self.generator).millis);
                let nodes = self.listed()?;
                return Ok(vec![self.planned(None, Effect::ClockJump(nodes, by))]);
            }
        };
        Ok(vec![self.planned(until, effect)])
    }

    fn planned(&self, until: Option<Moment>, effect: Effect) -> Planned {
        Planned { at: self.at, until, effect, kind: self.kind }
    }

    fn members_of(&mut self, set: Option<&NodeSet>) -> Result<Members, usize> {
        let mut members = vec![false; self.count];
        let all = NodeSet::all();
        for node in set.unwrap_or(&all).resolve(self.count, self.generator)? {
            members[node] = true;
        }
        Ok(members)
    }

    fn members(&mut self) -> Result<Members, usize> {
        let fault = self.fault;
        self.members_of(fault.nodes.as_ref())
    }

    fn listed(&mut self) -> Result<Vec<usize>, usize> {
        let members = self.members()?;
        Ok((0..self.count).filter(|node| members[*node]).collect())
    }

    fn block(&mut self, both: bool) -> Result<Effect, usize> {
        let fault = self.fault;
        let (from, mut to) = (self.members_of(fault.from.as_ref())?, self.members_of(fault.to.as_ref())?);
        for (to, from) in to.iter_mut().zip(&from) {
            *to &= !from;
        }
        Ok(Effect::Block { from, to, both, again: fault.again.unwrap_or(false) })
    }

    fn flap(&mut self, end: Moment) -> Result<Vec<Planned>, usize> {
        let fault = self.fault;
        let Effect::Block { from, to, .. } = self.block(true)? else { return Ok(Vec::new()) };
        let (mut flaps, mut at) = (Vec::new(), self.at);
        while at < end {
            let mut pause = |of: Option<crate::scenario::Time>| {
                of.map_or(Duration::from_secs(1), |of| of.draw(self.generator)).max(Duration::from_millis(1))
            };
            let until = (at + pause(fault.down)).min(end);
            let up = pause(fault.up);
            let effect =
                Effect::Block { from: from.clone(), to: to.clone(), both: true, again: !flaps.is_empty() };
            flaps.push(Planned { at, until: Some(until), effect, kind: FaultKind::Cut });
            at = until + up;
        }
        Ok(flaps)
    }

    /// The first node of `from` and the first of `to`.
    fn pair(&mut self) -> Result<Option<(usize, usize)>, usize> {
        let fault = self.fault;
        let (from, to) = (self.members_of(fault.from.as_ref())?, self.members_of(fault.to.as_ref())?);
        let first = |members: &Members| members.iter().position(|is_member| *is_member);
        Ok(first(&from).zip(first(&to)).filter(|(from, to)| from != to))
    }

    /// The node freezes again and again.
    fn starve(&mut self, end: Moment) -> Result<Vec<Planned>, usize> {
        let (members, fault) = (self.members()?, self.fault);
        let (mut pauses, mut at) = (Vec::new(), self.at);
        let moment = Duration::from_millis(1);
        while at < end {
            let down = fault.down.map_or(moment, |down| down.draw(self.generator)).max(moment);
            let up = fault.up.map_or(moment, |up| up.draw(self.generator)).max(moment);
            let until = Some((at + down).min(end));
            let effect = Effect::Freeze(members.clone());
            pauses.push(Planned { at, until, effect, kind: FaultKind::Freeze });
            at = at + down + up;
        }
        Ok(pauses)
    }

    /// One node after another is cut off in the first half, and comes back in another order in the second.
    fn swizzle(&mut self, end: Moment) -> Result<Vec<Planned>, usize> {
        let nodes = self.listed()?;
        let half = end.since(self.at) / 2;
        let step = half / u32::try_from(nodes.len().max(1)).unwrap_or(u32::MAX);
        let mut order = |of: &[usize]| {
            let mut rest = of.to_vec();
            let mut order = Vec::new();
            while !rest.is_empty() {
                order.push(rest.swap_remove(random::index(self.generator, rest.len())));
            }
            order
        };
        let (going, coming) = (order(&nodes), order(&nodes));
        let cut = |(number, node): (usize, &usize)| {
            let place = coming.iter().position(|back| back == node).unwrap_or(0);
            let times = |count: usize| step * u32::try_from(count).unwrap_or(u32::MAX);
            let one = |wanted: bool| (0..self.count).map(|other| (other == *node) == wanted).collect();
            let effect = Effect::Block { from: one(true), to: one(false), both: true, again: false };
            let until = Some(self.at + half + times(place + 1));
            Planned { at: self.at + times(number), until, effect, kind: FaultKind::Cut }
        };
        Ok(going.iter().enumerate().map(cut).collect())
    }

    fn groups(&mut self) -> Result<Vec<Option<usize>>, usize> {
        let fault = self.fault;
        let mut groups = vec![None; self.count];
        match &fault.groups {
            Some(Groups::Listed(listed)) => {
                for (number, set) in listed.iter().enumerate() {
                    for node in set.resolve(self.count, self.generator)? {
                        groups[node] = Some(number);
                    }
                }
            }
            Some(Groups::One) => {
                let one = random::index(self.generator, self.count);
                groups = (0..self.count).map(|node| Some(usize::from(node == one))).collect();
            }
            Some(Groups::Halves) | None => {
                let mut rest: Vec<usize> = (0..self.count).collect();
                while !rest.is_empty() {
                    let node = rest.swap_remove(random::index(self.generator, rest.len()));
                    groups[node] = Some(rest.len() % 2);
                }
            }
        }
        Ok(groups)
    }

    fn weather(&mut self) -> Weather {
        let fault = self.fault;
        Weather {
            delay: fault.delay.map(|delay| delay.draw(self.generator)),
            jitter: fault.jitter.map(|jitter| jitter.draw(self.generator)),
            loss: fault.loss.map(|loss| loss.0),
            duplicate: fault.duplicate.map(|duplicate| duplicate.0),
            bandwidth: fault.bandwidth.map(|bandwidth| bandwidth.draw(self.generator)),
        }
    }
}
