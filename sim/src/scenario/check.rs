//! What makes no sense in a scenario although every field of it can be read, and where it stands.

use toml::de::{DeTable, DeValue};

use super::{Scenario, ScenarioError};

/// A field that makes no sense.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Which, as `--set` takes it.
    path: String,
    /// What is wrong, and what to write.
    message: String,
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
        match rates.iter().find(|(_, rate)| !rate.is_finite() || *rate < 0.0) {
            Some((path, rate)) => {
                let message = format!("{path} is {rate}: write how many per second, 0.0 or more");
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
        match pauses.iter().find(|(_, every)| every.is_some_and(|every| every.low().is_zero())) {
            Some((path, _)) => {
                let message = format!("{path} must not be zero, or it would never end; write \"3s\" or so");
                Err(Wrong::new(path, message))
            }
            None => Ok(()),
        }
    }
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
        assert_error("[mesh]\nseeds = 0\n", "10:9", "write mesh.seeds = 1 or more");
    }

    #[test]
    fn what_comes_again_at_once_is_an_error() {
        let wanted = "must not be zero, or it would never end";
        assert_error("[workload]\nburst = { every = \"0s\", size = 5 }\n", "10:19", wanted);
        assert_error("[workload.rewrite]\nevery = \"0s..1s\"\n", "10:9", wanted);
        let crash = "[[fault]]\nkind = \"crash\"\nat = \"1s\"\nnodes = 0\nevery = \"0s\"\n";
        assert_error(crash, "13:9", wanted);
    }
}
