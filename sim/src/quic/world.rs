//! A run of this tier: the script of the first tier, carried out by daemons.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use snomesh::crdt::{Class, Dot, Lane, RangeSet};
use snomesh::gossip::Mesh;
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::mesh::{CommandError, MeshHandle, Written};
use snomesh::replica::{Attributes, WriteError};
use snomesh::time::Moment;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use super::disk::Damage;
use super::machine::{Machine, Process, Surroundings};
use super::panics;
use super::rest;
use crate::checker::{Broken, Checker, Violation};
use crate::coverage::Point;
use crate::fault::Effect;
use crate::scenario::{Action, DiskFate, Durable, Operation, value_of};
use crate::trace::{Keep, Kind, Trace};
use crate::world::{Outcome, Rehearsal, Started, Stranger, Times, header, strangers};

/// How often it is looked whether the nodes agree.
const SAMPLE: Duration = Duration::from_millis(50);
/// How often after the deadline, when nobody is to write: asking fifty nodes more often costs more than what they do.
const SAMPLE_AT_REST: Duration = Duration::from_secs(1);
/// How long after a tunnel was authenticated the hello of its link is sent at the latest.
const GREETING: Duration = Duration::from_secs(5);
/// How long a driver may take to answer a question: it should take no time at all.
const ANSWER: Duration = Duration::from_secs(30);
/// How long after the last shutdown every task must have ended: on a slow path connections linger for three times what a
/// packet and its answer may take.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// How often that is looked at.
const AFTERWARDS_STEP: Duration = Duration::from_millis(500);

/// What is to be done at a time.
#[derive(Debug)]
enum Step {
    Start(Started),
    Act(usize, Action),
    FaultBegins(usize),
    FaultEnds(usize),
    SwitchOff(usize),
    Heal,
    Sample,
    Deadline,
    End,
}

/// What became of a command.
#[derive(Debug)]
struct Answer {
    node: usize,
    /// Who was given it.
    actor: Actor,
    name: String,
    /// Nothing if it took too long.
    outcome: Option<Result<(), CommandError>>,
    /// It was said to be durable, and was not.
    hasty: bool,
}

/// Everything that there is in a run.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) around: Surroundings<'a>,
    pub(super) machines: Vec<Machine>,
    pub(super) rehearsal: Rehearsal,
    agenda: BTreeMap<Moment, VecDeque<Step>>,
    agreed_at: Option<Moment>,
    /// What each node has testified last of lives that are over, or taken back.
    testified: BTreeMap<usize, Dot>,
    /// Whether it has come to its end.
    over: bool,
    /// Frames of state and of control that all nodes had sent at the deadline.
    frames: (u64, u64),
    /// How many packets were lost by then, but for those of which something may be told afterwards.
    lost: u64,
    /// How many were lost, at each sample of that time.
    lost_lately: VecDeque<(Moment, u64)>,
    violations: Vec<Violation>,
    /// Commands that have been given.
    asked: Vec<JoinHandle<Answer>>,
    /// Processes that are coming to their end.
    ending: Vec<JoinHandle<()>>,
}

impl<'a> World<'a> {
    pub(super) fn new(around: Surroundings<'a>, machines: Vec<Machine>, rehearsal: Rehearsal) -> Self {
        let mut world = Self {
            around,
            machines,
            agenda: BTreeMap::new(),
            agreed_at: None,
            testified: BTreeMap::new(),
            over: false,
            frames: (0, 0),
            lost: 0,
            lost_lately: VecDeque::new(),
            violations: Vec::new(),
            asked: Vec::new(),
            ending: Vec::new(),
            rehearsal,
        };
        // Faults before commands of the same moment, as in the first tier.
        for (number, planned) in world.rehearsal.faults.clone().iter().enumerate() {
            world.plan(planned.at, Step::FaultBegins(number));
            planned.until.into_iter().for_each(|until| world.plan(until, Step::FaultEnds(number)));
        }
        for started in world.rehearsal.starts.clone() {
            world.plan(started.at, Step::Start(started));
        }
        for Operation { at, node, action } in
            world.rehearsal.outcome.kept.operations.clone().unwrap_or_default()
        {
            world.plan(Moment(0) + at, Step::Act(node, action));
        }
        world.plan(world.rehearsal.times.heal, Step::Heal);
        world.plan_rest();
        world
    }

    fn plan_rest(&mut self) {
        let Times { deadline, end, .. } = self.rehearsal.times;
        self.plan(deadline, Step::Deadline);
        self.plan(end, Step::End);
    }

    fn plan(&mut self, at: Moment, step: Step) {
        self.agenda.entry(at).or_default().push_back(step);
    }

    /// Runs to the end, or to the first thing that does not hold, and ends all daemons.
    pub(super) async fn run(mut self) -> Outcome {
        let carrier = tokio::spawn(self.around.network.clone().carry());
        while !self.over && self.violations.is_empty() {
            let Some((at, steps)) = self.agenda.pop_first() else { break };
            // Timers are as fine as a millisecond; what is between two happens at the first of them.
            let millis = Duration::from_millis(at.0 / 1_000_000);
            sleep_until(self.around.began_at + millis).await;
            for step in steps {
                self.take(at, step).await;
            }
            self.hear_answers().await;
            self.notice_panics();
        }
        if self.over {
            for (node, broken) in rest::at_rest(&self).await {
                self.violated(node, broken);
            }
        }
        let simulated = self.around.network.lock().now();
        self.end_all().await;
        carrier.abort();
        carrier.await.ok();
        self.hear_answers().await;
        self.look_for_tasks();
        self.notice_panics();
        self.finish(simulated)
    }

    /// Does what is planned for a moment, which may lie between two milliseconds.
    async fn take(&mut self, at: Moment, step: Step) {
        match step {
            Step::Start(Started { node, generation, .. }) => self.start(node, generation).await,
            Step::Act(node, action) => self.command(node, action),
            Step::FaultBegins(fault) => self.fault_begins(fault).await,
            Step::FaultEnds(fault) => {
                self.around.network.lock().faults.end(fault);
                self.record(None, Kind::FaultEnds, fault as u64, 0, b"");
                self.stop_clocks();
            }
            Step::SwitchOff(node) => {
                self.crash(node, DiskFate::Keep).await;
                self.machines[node].left = true;
            }
            Step::Heal => {
                self.around.network.lock().healed = true;
                self.record(None, Kind::Heal, 0, 0, b"");
                self.tell_strangers().await;
                self.sample().await;
            }
            Step::Sample => self.sample().await,
            Step::Deadline => {
                self.hear_testimonies().await;
                if at == self.rehearsal.times.deadline {
                    self.deadline().await;
                }
            }
            Step::End => {
                self.hear_testimonies().await;
                self.over = at == self.rehearsal.times.end;
            }
        }
    }

    async fn start(&mut self, node: usize, earliest: Generation) {
        let machine = &mut self.machines[node];
        if machine.process.is_some() || machine.left {
            return;
        }
        if let Err(what) = machine.start(earliest, &self.around) {
            return self.violated(Some(node), Broken::new(Checker::Durability, what));
        }
        self.count_start(node);
        let lost = self.machines[node].disk.lost();
        if let Some(dot) = self.ask(node, move |mesh| lost(mesh.replica().store())).await.flatten() {
            let what = format!("{dot} was confirmed by the disk and is not there after the restart");
            self.violated(Some(node), Broken::new(Checker::Durability, what));
        }
    }

    /// Kills a node, unless it does not run.
    async fn crash(&mut self, node: usize, fate: DiskFate) {
        let Some(actor) = self.machines[node].process.as_ref().map(|process| process.actor) else { return };
        // Of two machines with one name neither disk knows what the other one has written.
        if self.around.scenario.durability == Durable::Disk && self.machines[node].double.is_none() {
            self.look_for_haste(node, actor).await;
        }
        if let Some(lived) = self.ask(node, |mesh| mesh.replica().actor()).await {
            self.machines[node].has_lived(lived.generation);
        }
        let Some(process) = self.machines[node].process.take() else { return };
        let generator = self.around.seed.generator("crash", &[node as u64, actor.generation.0]);
        let damage = process.switch_off(fate, generator);
        self.record(Some(node), Kind::Crash, 0, 0, b"");
        let coverage = &mut self.around.network.lock().coverage;
        coverage.hit(Point::Crashes);
        if let Some(Damage { caught, held }) = damage {
            coverage.add(Point::CrashWithUnsyncedWrite, u64::from(caught));
            let point = match fate {
                DiskFate::Keep => Point::RestartFromKeptDisk,
                DiskFate::Lose => Point::WipedRejoin,
                DiskFate::Tail | DiskFate::Stale => Point::RestartFromStaleDisk,
            };
            coverage.add(point, u64::from(held));
        }
        self.ending.push(tokio::spawn(process.clear()));
    }

    /// Nobody knows a write of a node whose disk had not confirmed it.
    async fn look_for_haste(&mut self, node: usize, actor: Actor) {
        for other in 0..self.machines.len() {
            let Machine { disk, before, .. } = &self.machines[node];
            let hasty = disk.hasty(actor, *before);
            if let Some(dot) = self.ask(other, move |mesh| hasty(mesh.replica().store())).await.flatten() {
                let what = format!("n{other} knows {dot}, which the disk of n{node} has not confirmed");
                self.violated(Some(node), Broken::new(Checker::Durability, what));
            }
        }
    }

    /// An operator starts strangers again with the address of one that runs.
    async fn tell_strangers(&mut self) {
        let mut known = BTreeMap::new();
        for node in 0..self.machines.len() {
            let members = |mesh: &Mesh| mesh.members().map(|member| member.node).collect::<BTreeSet<_>>();
            known.extend(self.ask(node, members).await.map(|members| (node, members)));
        }
        let seeds = usize::try_from(self.around.scenario.mesh.seeds).unwrap_or(usize::MAX);
        let knows = |one: usize, other: usize| {
            let members = known.get(&one);
            other < seeds || members.is_some_and(|members| members.contains(&self.machines[other].id))
        };
        for Stranger { node, host } in strangers(known.keys().copied(), knows) {
            self.crash(node, DiskFate::Keep).await;
            self.machines[node].told_of = Some(host);
            self.start(node, Generation(0)).await;
        }
    }

    fn count_start(&self, node: usize) {
        let Machine { lives: life, before, process, .. } = &self.machines[node];
        let is_earlier = process.as_ref().is_some_and(|process| process.actor.generation < *before);
        let mut shared = self.around.network.lock();
        shared.record(Some(node), Kind::Start, u64::from(*life), 0, b"");
        shared.coverage.add(Point::EarlierLives, u64::from(is_earlier));
        let joins = |effect: &Effect| matches!(effect, Effect::Join(nodes) if nodes.contains(&node));
        if *life > 1 {
            shared.coverage.hit(Point::Restarts);
        } else if self.rehearsal.faults.iter().any(|planned| joins(&planned.effect)) {
            shared.coverage.hit(Point::Joins);
        }
    }

    fn command(&mut self, node: usize, action: Action) {
        let Some(process) = &self.machines[node].process else { return };
        let (mesh, actor) = (process.mesh.clone(), process.actor);
        let (kind, name) = match &action {
            Action::Set { key, .. } | Action::Repeat(key) => (Kind::Set, key.to_string()),
            Action::Unset(key) => (Kind::Unset, key.to_string()),
            Action::Register(name, _) => (Kind::Register, name.to_string()),
            Action::Deregister(name, _) => (Kind::Deregister, name.to_string()),
            Action::Count(key, _) => (Kind::Count, key.to_string()),
            Action::Add(key, _) => (Kind::Add, key.to_string()),
            Action::Discard(key, _) => (Kind::Discard, key.to_string()),
        };
        self.record(Some(node), kind, 0, 0, name.as_bytes());
        let is_kept = self.around.scenario.durability == Durable::Disk && kind == Kind::Set;
        let disk = Some(self.machines[node].disk.clone()).filter(|_| is_kept);
        self.asked.push(tokio::spawn(async move {
            let before = match disk {
                Some(disk) => last_of(&mesh).await.map(|last| (disk, last)),
                None => None,
            };
            let outcome = timeout(ANSWER, carry_out(mesh, action)).await.ok();
            let is_written = matches!(outcome, Some(Ok(Written::Yes)));
            let hasty = is_written && before.is_some_and(|(disk, last)| !disk.has_confirmed(&last));
            Answer { node, actor, name, outcome: outcome.map(|told| told.map(|_| ())), hasty }
        }));
    }

    /// Looks at the answers that have come.
    async fn hear_answers(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        for asked in asked {
            if !asked.is_finished() {
                self.asked.push(asked);
                continue;
            }
            // A panic has been noticed where it happened.
            let Ok(Answer { node, actor, name, outcome, hasty }) = asked.await else { continue };
            if hasty {
                let what = format!("a write of {name} was acknowledged before the disk had confirmed it");
                self.violated(Some(node), Broken::new(Checker::Durability, what));
            }
            let runs = self.machines[node].process.as_ref().is_some_and(|process| process.actor == actor);
            match outcome {
                Some(Ok(())) => {}
                Some(Err(CommandError::Write(WriteError::ClockOff { .. }))) => {
                    self.around.network.lock().coverage.hit(Point::RefusedForClock);
                }
                // Whoever waited when the machine went off is not answered.
                Some(Err(CommandError::Stopped(_) | CommandError::Failed)) if !runs => {}
                Some(Err(error)) => {
                    let what = format!("a write of {name} was refused: {error}");
                    self.violated(Some(node), Broken::new(Checker::Causality, what));
                }
                None => self.unanswered(node),
            }
        }
    }

    async fn fault_begins(&mut self, fault: usize) {
        let planned = self.rehearsal.faults[fault].clone();
        self.record(None, Kind::FaultBegins, fault as u64, 0, planned.kind.name().as_bytes());
        match planned.effect {
            Effect::Crash { nodes, disk, .. } => {
                for node in nodes {
                    self.crash(node, disk).await;
                }
            }
            Effect::Leave(nodes) => {
                for node in nodes {
                    self.machines[node].left = true;
                    if let Some(process) = self.machines[node].process.take() {
                        self.record(Some(node), Kind::Left, 0, 0, b"");
                        self.around.network.lock().coverage.hit(Point::Leaves);
                        self.ending.push(tokio::spawn(process.leave()));
                    }
                }
            }
            // The script starts them.
            Effect::Join(_) => {}
            Effect::ClockJump(nodes, millis) => {
                for node in nodes {
                    self.machines[node].jump(millis);
                    let coverage = &mut self.around.network.lock().coverage;
                    coverage.hit(Point::ClockJumps);
                    coverage.add(Point::ClockWentBack, u64::from(millis < 0));
                }
            }
            Effect::ClockFreeze(_) => {
                self.around.network.lock().faults.begin(fault);
                self.stop_clocks();
            }
            Effect::Block { from, to, again, .. } => {
                let stands = |one: usize, other: usize| {
                    self.machines[one].process.as_ref().is_some_and(|process| {
                        from[one] && to[other] && !process.peers.node(self.machines[other].id).is_empty()
                    })
                };
                let all = 0..self.machines.len();
                let stand = all.clone().any(|one| all.clone().any(|other| stands(one, other)));
                let mut shared = self.around.network.lock();
                shared.coverage.add(Point::Flaps, u64::from(again && stand));
                shared.faults.begin(fault);
            }
            Effect::Clone { from, to, lives } => self.copy(from, to, lives),
            // `refusal` leaves none of these to this tier.
            Effect::Reset(_) | Effect::Panic(_) => {}
            Effect::Split(_)
            | Effect::Ring(_)
            | Effect::Refuse(_)
            | Effect::Freeze(_)
            | Effect::SlowReader(_)
            | Effect::Weather(..)
            | Effect::Corrupt(..)
            | Effect::Forge(..)
            | Effect::Stall(_) => self.around.network.lock().faults.begin(fault),
        }
    }

    /// A machine becomes a copy of another one. The script starts it, and it is switched off after a while.
    fn copy(&mut self, from: usize, to: usize, lives: Duration) {
        let [original, copy] = self.machines.get_disjoint_mut([from, to]).expect("they are two machines");
        if copy.process.is_some() || original.lives == 0 {
            return;
        }
        copy.copy(original);
        self.around.network.lock().coverage.hit(Point::Clones);
        let until = self.now() + lives;
        self.plan(until, Step::SwitchOff(to));
    }

    /// Wall clocks stand still or go on, as the faults have it.
    fn stop_clocks(&self) {
        let shared = self.around.network.lock();
        for (node, machine) in self.machines.iter().enumerate() {
            machine.stop_clock(shared.faults.clock_stands_since(node));
        }
    }

    /// Do all nodes that run hold the same?
    async fn sample(&mut self) {
        self.hear_testimonies().await;
        let mut digests = Vec::new();
        for node in 0..self.machines.len() {
            digests.extend(self.ask(node, Mesh::digest).await);
        }
        let agree = digests.windows(2).all(|pair| pair[0] == pair[1]);
        let now = self.now();
        self.note_losses(now);
        match (agree, self.agreed_at) {
            (true, None) => {
                self.agreed_at = Some(now);
                self.record(None, Kind::Agreed, 0, 0, b"");
            }
            (false, Some(_)) => {
                self.agreed_at = None;
                self.record(None, Kind::Diverged, 0, 0, b"");
            }
            (true, Some(_)) | (false, None) => {}
        }
        let rests = now > self.rehearsal.times.deadline;
        self.plan(now + if rests { SAMPLE_AT_REST } else { SAMPLE }, Step::Sample);
    }

    /// Whoever lost a heartbeat shortly before the deadline may ask for the peer after it.
    fn note_losses(&mut self, now: Moment) {
        self.lost_lately.push_back((now, self.around.network.lock().coverage.count(Point::Lost)));
        while self.lost_lately.front().is_some_and(|(at, _)| now.since(*at) > GREETING) {
            self.lost_lately.pop_front();
        }
    }

    /// Rest is put off whenever lives are told to be over, or that is taken back, as in the first tier.
    async fn hear_testimonies(&mut self) {
        let mut is_news = false;
        for node in 0..self.machines.len() {
            let Some(last) = self.ask(node, last_testimony).await.flatten() else { continue };
            let before = self.testified.insert(node, last.clone());
            is_news |= before.is_none_or(|before| before < last);
        }
        let (now, within) = (self.now(), self.around.scenario.expect.converge_within.high());
        if is_news && self.rehearsal.times.put_off(now, within) {
            self.plan_rest();
        }
    }

    async fn deadline(&mut self) {
        self.frames = self.frames_sent();
        self.lost = self.lost_lately.front().map_or(0, |(_, lost)| *lost);
        if self.agreed_at.is_some() {
            return;
        }
        let mut contexts = Vec::new();
        for node in 0..self.machines.len() {
            if let Some(context) = self.ask(node, |mesh| mesh.replica().store().context()).await {
                contexts.push((node, context));
            }
        }
        let lacks = contexts.iter().flat_map(|(here, own)| {
            contexts.iter().filter_map(move |(there, other)| {
                let missing = other.difference(own);
                let (lane, _) = missing.lanes().next()?;
                Some(format!("n{here} lacks writes of {lane}, which n{there} has"))
            })
        });
        let what = lacks.into_iter().next();
        let what = what.unwrap_or_else(|| "all have seen the same, but the digests differ".to_owned());
        self.violated(None, Broken::new(Checker::Convergence, what));
    }

    fn frames_sent(&self) -> (u64, u64) {
        let traffic = self.running().map(|(_, process)| process.mesh.traffic());
        traffic.fold((0, 0), |(delta, control), traffic| {
            (delta + traffic.delta_frames, control + traffic.control_frames)
        })
    }

    /// Frames since the deadline that a mesh at rest does not send: all but the hello at each end of a tunnel, for
    /// seeds are looked at for ever, and but a question and its answer for each packet that was lost, for whoever misses
    /// two heartbeats asks whether the peer is there.
    pub(super) fn noise(&self) -> u64 {
        let (delta, control) = self.frames_sent();
        let late = self.rehearsal.times.deadline.since(Moment(0)).saturating_sub(GREETING);
        let shared = self.around.network.lock();
        let hellos = shared.joined.iter().filter(|(at, ..)| at.since(Moment(0)) >= late).count() as u64;
        let asked = 2 * (shared.coverage.count(Point::Lost) - self.lost);
        delta - self.frames.0 + (control - self.frames.1).saturating_sub(hellos + asked)
    }

    /// How many tunnels a node has got to a peer that are so new that their links may still be found to be too many.
    pub(super) fn greets(&self, node: usize, peer: NodeId) -> usize {
        let shared = self.around.network.lock();
        let now = shared.now();
        let new = |(at, who, whom): &&(Moment, usize, Option<NodeId>)| {
            *who == node && *whom == Some(peer) && now.since(*at) < GREETING
        };
        shared.joined.iter().filter(new).count()
    }

    /// The nodes that run.
    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.machines.iter().enumerate().filter_map(|(node, machine)| Some((node, machine.process.as_ref()?)))
    }

    /// Asks a node's driver something; `None` if it does not run.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        node: usize,
        read: impl FnOnce(&Mesh) -> T + Send + 'static,
    ) -> Option<T> {
        let mesh = self.machines[node].process.as_ref()?.mesh.clone();
        timeout(ANSWER, mesh.view(read)).await.ok()?.ok()
    }

    fn unanswered(&mut self, node: usize) {
        let what = format!("the driver did not answer within {} s", ANSWER.as_secs());
        self.violated(Some(node), Broken::new(Checker::Discipline, what));
    }

    /// Ends every daemon as the program does, all at once.
    async fn end_all(&mut self) {
        for machine in &mut self.machines {
            self.ending.extend(machine.process.take().map(|process| tokio::spawn(process.leave())));
        }
        for ending in self.ending.drain(..) {
            // A panic has been noticed where it happened.
            ending.await.ok();
        }
        // One is the network.
        let deadline = self.now() + AFTERWARDS;
        while alive_tasks() > 1 && self.now() < deadline {
            sleep(AFTERWARDS_STEP).await;
        }
    }

    /// A daemon that has ended leaves nothing behind.
    fn look_for_tasks(&mut self) {
        let left = alive_tasks();
        if left > 0 {
            let what = format!("{left} tasks live on after all daemons have ended");
            self.violated(None, Broken::new(Checker::Tasks, what));
        }
    }

    fn notice_panics(&mut self) {
        for what in panics::take() {
            self.violated(None, Broken::new(Checker::Panic, what));
        }
    }

    fn now(&self) -> Moment {
        self.around.network.lock().now()
    }

    fn record(&self, node: Option<usize>, kind: Kind, a: u64, b: u64, bytes: &[u8]) {
        self.around.network.lock().record(node, kind, a, b, bytes);
    }

    /// Something does not hold.
    fn violated(&mut self, node: Option<usize>, broken: Broken) {
        let Broken { checker, what } = broken;
        self.record(node, Kind::Violation, checker as u64, 0, what.as_bytes());
        self.violations.push(Violation { checker, at: self.now(), node, what });
    }

    fn finish(self, simulated: Moment) -> Outcome {
        let Self { around, rehearsal, violations, agreed_at, machines, .. } = self;
        let mut shared = around.network.lock();
        for point in super::INHERITED {
            let count = rehearsal.outcome.coverage.count(*point);
            shared.coverage.add(*point, count);
        }
        let expected = around.scenario.expect.at_least.iter();
        let expected =
            expected.filter(|(point, _)| super::COUNTED.contains(point) || super::INHERITED.contains(point));
        let unmet = expected.filter(|(point, least)| shared.coverage.count(**point) < **least);
        let unmet = unmet.map(|(point, least)| (*point, *least)).collect();
        let first = violations.first();
        let tail = first.map(|violation| shared.trace.tail(violation.node, 16)).unwrap_or_default();
        let nothing = Trace::new(&Keep::default(), || {
            header(around.scenario, around.seed, machines.len(), rehearsal.times, &[])
        });
        let trace = std::mem::replace(&mut shared.trace, nothing);
        let (trace_hash, mut kept) = trace.finish();
        kept.operations = rehearsal.outcome.kept.operations;
        Outcome {
            seed: around.seed,
            nodes: machines.len(),
            simulated: simulated.since(Moment(0)),
            events: shared.events,
            trace_hash,
            converged_after: agreed_at.map(|at| at.since(rehearsal.times.heal)),
            violations,
            coverage: shared.coverage.clone(),
            unmet,
            tail,
            kept,
        }
    }
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// The last attribute write of a node in its life that has taken effect there.
async fn last_of(mesh: &MeshHandle) -> Option<Dot> {
    let last = |mesh: &Mesh| {
        let lane = Lane::new(mesh.actor(), Class::Attribute);
        let last = mesh.replica().store().seen_of(&lane).and_then(RangeSet::last);
        lane.dot(last.unwrap_or(0))
    };
    mesh.view(last).await.ok()
}

/// Gives a node's mesh a command.
async fn carry_out(mesh: MeshHandle, action: Action) -> Result<Written, CommandError> {
    match action {
        Action::Set { ref key, ref text, len } => mesh.set(key.clone(), value_of(text, len)).await,
        Action::Repeat(key) => {
            let read = key.clone();
            match mesh.view(move |mesh| mesh.replica().attribute(&read)).await? {
                Some(there) => mesh.set(key, there.value).await,
                None => Ok(Written::Unchanged),
            }
        }
        Action::Unset(key) => mesh.unset(key).await,
        Action::Register(name, tunnel) => mesh.register(name, tunnel, Attributes::default()).await,
        Action::Deregister(name, tunnel) => mesh.deregister(name, tunnel).await,
        Action::Count(key, by) => mesh.increment(key, by).await.map(|_value| Written::Yes),
        Action::Add(key, element) => mesh.add(key, value_of(&element, 0)).await,
        Action::Discard(key, element) => mesh.discard(key, value_of(&element, 0)).await,
    }
}

/// What a subscriber says of itself, and of its view.
pub(super) fn followers(process: &Process) -> Vec<(String, Option<String>, crate::subscriber::View)> {
    let read = |follower: &std::sync::Arc<std::sync::Mutex<super::follower::Follower>>| {
        let follower = follower.lock().unwrap_or_else(PoisonError::into_inner);
        (follower.name.clone(), follower.broken.clone(), follower.view().clone())
    };
    process.followers.iter().map(read).collect()
}

/// The last that a node has testified of lives that are over or taken back, as far as it is remembered: what it says counts
/// from when it says it, and not from when all have heard it.
fn last_testimony(mesh: &Mesh) -> Option<Dot> {
    let replica = mesh.replica();
    let is_own = |dot: &&Dot| dot.lane.actor().node == replica.actor().node;
    let rows = replica.store().prefix("retired/");
    rows.filter_map(|row| {
        row.register().entries().iter().map(|entry| &entry.dot).filter(is_own).max().cloned()
    })
    .max()
}
