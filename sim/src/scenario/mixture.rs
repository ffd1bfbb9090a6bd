//! Mixtures: a scenario that is another one with each seed.
//!
//! Some faults hide others: what is cut off cannot be slow. So half of the seeds leave out about half of the faults and
//! vary how strong the rest is by orders of magnitude (Groce et al., "Swarm Testing", ISSTA 2012), a quarter has all of
//! them, and a quarter is one of the scenarios that come with the program, with its faults at other times.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BUILTIN, Bytes, Drawn, Fault, Scenario};
use crate::random::{self, Generator, Seed};

/// How often nodes that are away are evicted while the run goes on, if the scenario does not say when.
const EVICTING: f64 = 0.3;

/// How often nodes seal what they write although the scenario does not say so.
const SEALING: f64 = 0.15;

/// The scenarios that come with the program and are no mixtures themselves.
static NAMED: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
    let scenarios = BUILTIN.iter().filter_map(|found| Scenario::parse(found.name, found.text).ok());
    scenarios.filter(|scenario| scenario.mixture.is_none()).collect()
});

/// How often a seed is what: shares of their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mixture {
    /// Some of the faults, stronger or weaker.
    pub(crate) swarm: u64,
    /// All of them.
    pub(crate) everything: u64,
    /// One of the named scenarios, at other times.
    pub(crate) named: u64,
}

impl Mixture {
    /// Says what is wrong with it.
    pub(super) fn check(self) -> Result<(), String> {
        let sum = [self.swarm, self.everything, self.named]
            .iter()
            .try_fold(0_u64, |sum, share| sum.checked_add(*share));
        if sum.is_none_or(|sum| sum == 0) {
            return Err("mixture needs shares of which one is not 0, such as { swarm = 2, everything = 1, named = 1 }".to_owned());
        }
        Ok(())
    }
}

impl Scenario {
    /// What a seed makes of the scenario: itself, unless it is a mixture.
    pub(crate) fn of_seed(&self, seed: Seed) -> Cow<'_, Self> {
        let Some(Mixture { swarm, everything, named }) = self.mixture else { return Cow::Borrowed(self) };
        let mut generator = seed.generator("mixture", &[]);
        let mut drawn = Self { mixture: None, ..self.clone() };
        let place = random::number(&mut generator, 0, swarm + everything + named - 1);
        if place < swarm {
            drawn.faults.retain(|_| random::chance(&mut generator, 0.5));
            drawn.faults.iter_mut().for_each(|fault| fault.vary(&mut generator));
        } else if place < swarm + everything {
            drawn.faults.iter_mut().for_each(|fault| fault.chance = None);
        } else {
            let (tier, evict_after) = (drawn.tier, drawn.mesh.evict_after);
            drawn = NAMED[random::index(&mut generator, NAMED.len())].clone();
            drawn.tier = tier;
            // Lives that are over take part in whatever else goes wrong.
            drawn.mesh.evict_after = drawn.mesh.evict_after.or(evict_after);
            drawn.faults.iter_mut().for_each(|fault| fault.shift(&mut generator));
            // Both were said of its own times.
            drawn.expect.at_least.clear();
            drawn.expect.at_most.clear();
        }
        if drawn.mesh.evict_after.is_none() && random::chance(&mut generator, EVICTING) {
            let after = Duration::from_millis(random::number(&mut generator, 4_000, 40_000));
            drawn.mesh.evict_after = Some(Drawn::fixed(after));
        }
        drawn.mesh.sealed |= random::chance(&mut generator, SEALING);
        Cow::Owned(drawn)
    }
}

impl Fault {
    /// It happens, and how strongly is drawn so that every order of magnitude is as likely.
    fn vary(&mut self, generator: &mut Generator) {
        self.chance = None;
        for time in [&mut self.lasts, &mut self.delay, &mut self.down, &mut self.up].into_iter().flatten() {
            let [low, high] = [time.low(), time.high()].map(random::nanos);
            *time = Drawn::fixed(Duration::from_nanos(random::magnitude(generator, low, high)));
        }
        if let Some(bandwidth) = &mut self.bandwidth {
            *bandwidth =
                Drawn::fixed(Bytes(random::magnitude(generator, bandwidth.low().0, bandwidth.high().0)));
        }
    }

    /// It happens sooner or later than it was written, by half at most.
    fn shift(&mut self, generator: &mut Generator) {
        let percent = u32::try_from(random::number(generator, 50, 150)).expect("it is at most 150");
        self.at = self.at.map(|at| at * percent / 100);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::builtin;
    use super::*;

    fn chaos() -> Scenario {
        Scenario::parse("chaos", builtin("chaos").unwrap().text).unwrap()
    }

    #[test]
    fn seeds_draw_some_faults_all_faults_and_named_scenarios() {
        let chaos = chaos();
        let (mut all, mut some, mut named, mut sealed) = (0, 0, BTreeSet::new(), 0);
        for seed in 0..200 {
            let drawn = chaos.of_seed(Seed(seed));
            assert!(drawn.mixture.is_none());
            sealed += usize::from(drawn.mesh.sealed);
            assert_eq!(drawn.text(), chaos.of_seed(Seed(seed)).text(), "the same seed draws the same");
            if drawn.name != chaos.name {
                named.insert(drawn.name.clone());
            } else if drawn.faults.len() == chaos.faults.len() {
                all += 1;
            } else {
                some += 1;
            }
        }
        assert!(
            (30..75).contains(&all) && (75..125).contains(&some) && named.len() > 15,
            "{all} {some} {named:?}"
        );
        assert!((15..50).contains(&sealed), "{sealed}");
    }

    #[test]
    fn what_is_no_mixture_is_left_alone() {
        let calm = Scenario::parse("calm", builtin("calm").unwrap().text).unwrap();
        assert_eq!(calm.of_seed(Seed(1)).text(), calm.text());
    }

    #[test]
    fn a_mixture_of_nothing_is_an_error() {
        let text = chaos().text().replace("named = 25", "named = 0").replace("swarm = 50", "swarm = 0");
        let error =
            Scenario::parse("x.toml", &text.replace("everything = 25", "everything = 0")).unwrap_err();
        assert!(error.to_string().contains("mixture needs shares"), "{error}");
    }
}
