//! What makes no sense in a scenario although every field of it can be read, and where it stands.

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::value::Quantity as _;
use super::{Groups, NodeSet, Scenario, ScenarioError};

/// The most that a node may do in a second, and the most often that a thing may come again: more than anybody waits for,
/// and far from where time has no room between two of them.
const MAX_RATE: f64 = 1e6;
const MAX_TIMES: u128 = 1_000_000;

/// A field that makes no sense.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// Which, as `--set` takes it.
    path: String,
    /// What is wrong, and what to write.
    pub(crate) message: String,
}

impl Wrong {
    fn new(path: &str, message: String) -> Self {
        Self { path: path.to_owned(), message }
    }

    /// With the place in the file whose text was read.
    pub(super) fn within(self, file: &str, text: &str) -> ScenarioError {
        let start = self.start(text);
        ScenarioError::new(file, text, start, self.message)
    }

    /// Where its value begins; its table, if it is not written.
    fn start(&self, text: &str) -> usize {
        let Ok(root) = DeTable::parse(text) else { return 0 };
        let root = DeValue::Table(root.into_inner());
        let (mut value, mut start) = (&root, 0);
        for segment in self.path.split('.') {
            let inner =
                segment.parse::<usize>().map_or_else(|_| value.get(segment), |place| value.get(place));
            let Some(inner) = inner else { break };
            (value, start) = (inner.get_ref(), inner.span().start);
        }
        start
    }
}

impl Scenario {
    /// Says which field makes no sense by itself.
    ///
    /// # Errors
    ///
    /// [`Wrong`].
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.schema != Self::SCHEMA {
            return Err(Wrong::new("schema", format!("schema {} is unknown, write schema = 1", self.schema)));
        }
        if self.nodes.low() == 0 {
            let message = "a mesh has at least one node, write nodes = 3 or so".to_owned();
            return Err(Wrong::new("nodes", message));
        }
        if let Some(mixture) = self.mixture {
            mixture.check().map_err(|message| Wrong::new("mixture", message))?;
        }
        if self.mesh.seeds == 0 && self.nodes.high() > 1 {
            let message = "nobody knows anybody: write mesh.seeds = 1 or more".to_owned();
            return Err(Wrong::new("mesh.seeds", message));
        }
        let (regions, between) = (self.net.regions.len(), &self.net.between);
        if between.len() != regions || between.iter().any(|row| row.len() != regions) {
            let message =
                format!("net.between needs {regions} rows of {regions} delays, one for each of net.regions");
            return Err(Wrong::new("net.between", message));
        }
        for (number, fault) in self.faults.iter().enumerate() {
            fault.check().map_err(|message| Wrong::new(&format!("fault.{number}.kind"), message))?;
        }
        self.check_rates()?;
        self.check_pauses()
    }

    fn check_rates(&self) -> Result<(), Wrong> {
        let rates = [
            ("workload.writes_per_s", self.workload.writes_per_s),
            ("workload.registrations_per_s", self.workload.registrations_per_s),
            ("workload.counts_per_s", self.workload.counts_per_s),
            ("workload.elements_per_s", self.workload.elements_per_s),
        ];
        match rates.iter().find(|(_, rate)| !(0.0..=MAX_RATE).contains(rate)) {
            Some((path, rate)) => {
                let message = format!("{path} is {rate}: write how many per second, from 0.0 to {MAX_RATE}");
                Err(Wrong::new(path, message))
            }
            None => Ok(()),
        }
    }

    /// Time stands still between two that come at once.
    fn check_pauses(&self) -> Result<(), Wrong> {
        let burst = self.workload.burst.as_ref().map(|burst| burst.every);
        let rewrite = self.workload.rewrite.as_ref().map(|rewrite| rewrite.every);
        let mut pauses =
            vec![("workload.burst.every".to_owned(), burst), ("workload.rewrite.every".to_owned(), rewrite)];
        let faults = self.faults.iter().enumerate();
        pauses.extend(faults.map(|(number, fault)| (format!("fault.{number}.every"), fault.every)));
        let lasts = self.duration.high();
        let often = |every: Duration| lasts.as_nanos() / every.as_nanos().max(1);
        for (path, every) in pauses {
            let Some(shortest) = every.map(|every| every.low()) else { continue };
            let message = if shortest.is_zero() {
                format!("{path} must not be zero, or it would never end; write \"3s\" or so")
            } else if often(shortest) > MAX_TIMES {
                let times = often(shortest);
                format!(
                    "{path} is {}: {times} times until everything heals at {}, write \"1s\" or so",
                    shortest.text(),
                    lasts.text()
                )
            } else {
                continue;
            };
            return Err(Wrong::new(&path, message));
        }
        Ok(())
    }

    /// Says which field no seed can reach with the others as they are, so that a run would test nothing of it.
    ///
    /// # Errors
    ///
    /// [`Wrong`].
    pub(crate) fn check_reach(&self) -> Result<(), Wrong> {
        self.check_faults()?;
        self.check_others()
    }

    /// The same of a scenario that was changed: who makes it shorter leaves out what comes later, but not all of it.
    ///
    /// # Errors
    ///
    /// [`Wrong`].
    pub(crate) fn check_reach_of_some(&self) -> Result<(), Wrong> {
        if self.faults.iter().any(|fault| fault.at.low() < self.duration.high()) {
            return self.check_others();
        }
        self.check_reach()
    }

    fn check_faults(&self) -> Result<(), Wrong> {
        let end = self.duration.high();
        match self.faults.iter().enumerate().find(|(_, fault)| fault.at.low() >= end) {
            Some((number, fault)) => {
                let what = format!("the fault `{}` begins at", fault.kind.get_ref().name());
                Err(late(&format!("fault.{number}.at"), &what, fault.at.low(), "everything heals at", end))
            }
            None => Ok(()),
        }
    }

    fn check_others(&self) -> Result<(), Wrong> {
        self.check_times()?;
        self.check_draws()?;
        self.check_groups()
    }

    fn check_times(&self) -> Result<(), Wrong> {
        let (start, end) = (self.mesh.start.low(), self.duration.high());
        if start > end {
            return Err(late("mesh.start", "mesh.start is", start, "everything heals at", end));
        }
        let until = self.workload.until.map_or(end, |until| until.high());
        let from = self.workload.from.low();
        if !self.workload.is_none() && from >= until {
            return Err(late("workload.from", "workload.from is", from, "writing ends at", until));
        }
        Ok(())
    }

    fn check_draws(&self) -> Result<(), Wrong> {
        let mut sets = vec![
            ("workload.writers".to_owned(), Some(&self.workload.writers)),
            ("mesh.absent".to_owned(), Some(&self.mesh.absent)),
        ];
        let regions = self.net.regions.iter().enumerate();
        sets.extend(regions.map(|(number, set)| (format!("net.regions.{number}"), Some(set))));
        for (number, fault) in self.faults.iter().enumerate() {
            let of_fault = [("nodes", &fault.nodes), ("from", &fault.from), ("to", &fault.to)];
            sets.extend(of_fault.map(|(name, set)| (format!("fault.{number}.{name}"), set.as_ref())));
        }
        let most = self.nodes.high();
        for (path, set) in sets {
            let drawn = set.map_or(0, NodeSet::most_drawn);
            if drawn as u64 > most {
                let message = format!("{path} has any {drawn} nodes, but there are {most} at most");
                return Err(Wrong::new(&path, message));
            }
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<(), Wrong> {
        for (number, fault) in self.faults.iter().enumerate() {
            let Some(Groups::Listed(groups)) = &fault.groups else { continue };
            for (place, group) in groups.iter().enumerate() {
                if let Some(node) = groups[..place].iter().find_map(|before| group.shared_with(before)) {
                    let path = format!("fault.{number}.groups");
                    let message = format!("node {node} is in two groups of {path}: name each node once");
                    return Err(Wrong::new(&path, message));
                }
            }
        }
        Ok(())
    }
}

fn late(path: &str, what: &str, at: Duration, limit: &str, end: Duration) -> Wrong {
    let (at, end) = (at.text(), end.text());
    let message = format!(
        "{what} {at} at the earliest, but {limit} {end} at the latest: make it earlier, or that later"
    );
    Wrong::new(path, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
schema = 1
name = "small"
about = "two nodes"
nodes = 2
duration = "5s"
[expect]
converge_within = "10s"
"#;

    /// The error of a scenario with this in it starts with its place and says what to write.
    fn assert_error(extra: &str, place: &str, wanted: &str) {
        let error = Scenario::parse("x.toml", &format!("{SMALL}{extra}")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("x.toml:{place}: ")) && error.contains(wanted), "{error}");
    }

    #[test]
    fn regions_need_a_delay_from_each_to_each() {
        let net = "[net]\nregions = [0, 1]\nbetween = [[\"1ms\", \"80ms\"]]\n";
        assert_error(net, "11:11", "net.between needs 2 rows of 2 delays");
        assert_error("[net]\nregions = [0, 1]\n", "9:1", "net.between needs 2 rows of 2 delays");
    }

    #[test]
    fn a_rate_below_nothing_is_an_error_in_its_line() {
        assert_error("[workload]\nkeys = 3\ncounts_per_s = -1.0\n", "11:16", "workload.counts_per_s is -1");
        let often = "[workload]\nwrites_per_s = 1e12\n";
        assert_error(often, "10:16", "workload.writes_per_s is 1000000000000: write how many per second");
        assert_error("[mesh]\nseeds = 0\n", "10:9", "write mesh.seeds = 1 or more");
    }

    #[test]
    fn what_comes_again_at_once_is_an_error() {
        let wanted = "must not be zero, or it would never end";
        assert_error("[workload]\nburst = { every = \"0s\", size = 5 }\n", "10:19", wanted);
        assert_error("[workload.rewrite]\nevery = \"0s..1s\"\n", "10:9", wanted);
        let crash = "[[fault]]\nkind = \"crash\"\nat = \"1s\"\nnodes = 0\nevery = \"0s\"\n";
        assert_error(crash, "13:9", wanted);
        let often = "workload.burst.every is 1ns: 5000000000 times until everything heals at 5s";
        assert_error("[workload]\nburst = { every = \"1ns\", size = 5 }\n", "10:19", often);
    }

    #[test]
    fn what_no_seed_can_reach_is_an_error() {
        let reset = |at: &str| format!("[[fault]]\nkind = \"reset\"\nnodes = 0\nat = \"{at}\"\n");
        assert_error(
            &reset("5s"),
            "12:6",
            "begins at 5s at the earliest, but everything heals at 5s at the latest",
        );
        assert_error(&reset("6s..9s"), "12:6", "begins at 6s at the earliest");
        assert_error("[mesh]\nstart = \"6s\"\n", "10:9", "mesh.start is 6s at the earliest");
        let late = "[workload]\nwrites_per_s = 1.0\nfrom = \"3s..4s\"\nuntil = \"1s..3s\"\n";
        assert_error(
            late,
            "11:8",
            "workload.from is 3s at the earliest, but writing ends at 3s at the latest",
        );
        let late = "[workload]\nwrites_per_s = 1.0\nfrom = \"5s\"\n";
        assert_error(
            late,
            "11:8",
            "workload.from is 5s at the earliest, but writing ends at 5s at the latest",
        );
        let any = "[workload]\nwriters = [0, \"any 3\"]\n";
        assert_error(any, "10:11", "workload.writers has any 3 nodes, but there are 2 at most");
        let any = "[[fault]]\nkind = \"cut\"\nat = \"1s\"\nfor = \"1s\"\nfrom = 0\nto = \"any 9\"\n";
        assert_error(any, "14:6", "fault.0.to has any 9 nodes, but there are 2 at most");
    }

    #[test]
    fn what_some_seeds_reach_is_no_error() {
        let reset = "[[fault]]\nkind = \"reset\"\nnodes = \"any 2\"\nat = \"4s..9s\"\n";
        let work = "[workload]\nwrites_per_s = 1.0\nfrom = \"1s..9s\"\nuntil = \"2s..3s\"\n";
        let text = format!("{SMALL}[mesh]\nstart = \"0s..9s\"\n{work}{reset}");
        Scenario::parse("x.toml", &text).unwrap_or_else(|error| panic!("{error}"));
        // Nobody writes, so that nothing comes too late.
        Scenario::parse("x.toml", &SMALL.replace("5s", "1s")).unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn a_node_in_two_groups_is_an_error() {
        let split = |groups: &str| {
            format!("[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"1s\"\ngroups = {groups}\n")
        };
        let wanted = "node 1 is in two groups of fault.0.groups: name each node once";
        assert_error(&split("[[0, 1], [1]]"), "13:10", wanted);
        assert_error(&split("[\"1..\", \"all\"]"), "13:10", wanted);
        Scenario::parse("x.toml", &format!("{SMALL}{}", split("[[0, 0], \"any\"]"))).unwrap();
    }
}
