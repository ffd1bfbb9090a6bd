//! Tokens: one word that says which run is meant, `SCENARIO@SEED+KEY=VALUE+…`.
//!
//! A failure is repeated by what is printed with it, and by nothing else. So whatever the command line changed of
//! a scenario stands in the word, in the same form in which `--set` takes it.

use std::fmt;
use std::str::FromStr;

use toml::Value;

use crate::random::{ParseSeedError, Seed};
use crate::scenario::{Chance, FaultKind, Scenario, ScenarioError};

/// Which run is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// A scenario's name, or a file.
    pub(crate) scenario: String,
    /// With which seed; the file's own without, or 0.
    pub(crate) seed: Option<Seed>,
    /// With what changed.
    pub(crate) overrides: Overrides,
}

impl FromStr for Token {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let (scenario, rest) = text.rsplit_once('@').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let mut parts = rest.into_iter().flat_map(|rest| rest.split('+'));
        let seed = parts
            .next()
            .map(|seed| seed.parse().map_err(|source| OverrideError::Seed { text: seed.to_owned(), source }));
        let overrides = parts.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { scenario: scenario.to_owned(), seed: seed.transpose()?, overrides: Overrides(overrides) })
    }
}

/// What the command line changes of a scenario, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Overrides(pub(crate) Vec<Override>);

/// One change: the path of a field, such as `net.loss` or `fault.0.for`, and what it is instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    key: String,
    value: String,
}

/// The command line changes what cannot be changed so: its author's fault. Nothing was run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverrideError {
    /// It is not a pair.
    #[error("`{text}` is not KEY=VALUE, such as net.loss=0.1 or nodes=5")]
    NoPair {
        /// What it is.
        text: String,
    },
    /// What stands where a seed belongs is none.
    #[error("`{text}` is not a seed in SCENARIO@SEED: {source}")]
    Seed {
        /// What it is.
        text: String,
        /// What it should be.
        source: ParseSeedError,
    },
    /// The scenario makes no sense with it.
    #[error("{change}: {message}")]
    Makes {
        /// The change.
        change: String,
        /// What is wrong then.
        message: String,
    },
    /// The scenario makes no sense without it.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
}

impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let pair =
            text.split_once('=').filter(|(key, value)| !key.trim().is_empty() && !value.trim().is_empty());
        let (key, value) = pair.ok_or_else(|| OverrideError::NoPair { text: text.to_owned() })?;
        Ok(Self::new(key.trim(), value.trim()))
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl fmt::Display for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|change| write!(f, "+{change}"))
    }
}

impl Override {
    /// A change of one field.
    pub(crate) fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned() }
    }

    fn place(&self, root: &mut toml::Table) -> Result<(), String> {
        let bare = toml::from_str::<toml::Table>(&format!("x = {}", self.value)).ok();
        let value = bare.and_then(|mut table| table.remove("x"));
        let value = value.unwrap_or_else(|| Value::String(self.value.clone()));
        let (tables, last) = self.key.rsplit_once('.').unwrap_or(("", &self.key));
        let mut table = root;
        let mut segments = tables.split('.').filter(|segment| !segment.is_empty()).peekable();
        while let Some(segment) = segments.next() {
            let entry = table.entry(segment).or_insert_with(|| Value::Table(toml::Table::new()));
            let inner = match entry {
                Value::Array(list) => {
                    let number = segments.next().and_then(|number| number.parse::<usize>().ok());
                    let count = list.len();
                    number.and_then(|number| list.get_mut(number)).ok_or_else(|| {
                        format!("`{segment}` is a list of {count}: write {segment}.0 for the first and so on")
                    })?
                }
                other => other,
            };
            table = inner.as_table_mut().ok_or_else(|| format!("`{segment}` has no fields"))?;
        }
        table.insert(last.to_owned(), value);
        Ok(())
    }

    fn choose_faults(&self, scenario: &mut Scenario) -> Result<(), String> {
        let certain =
            |scenario: &mut Scenario| scenario.faults.iter_mut().for_each(|fault| fault.chance = None);
        match self.value.as_str() {
            "none" => scenario.faults.clear(),
            "all" => certain(scenario),
            "swarm" => scenario.faults.iter_mut().for_each(|fault| fault.chance = Some(Chance(0.5))),
            list => {
                let known = |name: &str| FaultKind::ALL.iter().copied().find(|kind| kind.name() == name);
                let kinds: Result<Vec<FaultKind>, String> = list
                    .split(',')
                    .map(|name| {
                        known(name.trim()).ok_or_else(|| {
                            let names: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
                            format!(
                                "there is no fault {name}; write all, none, swarm or some of {}",
                                names.join(",")
                            )
                        })
                    })
                    .collect();
                let kinds = kinds?;
                scenario.faults.retain(|fault| kinds.contains(fault.kind.get_ref()));
                certain(scenario);
            }
        }
        // What must have happened was said of other faults.
        if self.value != "all" {
            scenario.expect.at_least.clear();
        }
        Ok(())
    }
}

impl Overrides {
    /// The scenario of a file, changed.
    ///
    /// # Errors
    ///
    /// [`OverrideError`], with the change that makes no sense.
    pub(crate) fn apply(&self, file: &str, text: &str) -> Result<Scenario, OverrideError> {
        let mut scenario = Scenario::parse(file, text)?;
        for change in &self.0 {
            let makes = |message: String| OverrideError::Makes { change: change.to_string(), message };
            if change.key == "faults" {
                change.choose_faults(&mut scenario).map_err(makes)?;
                continue;
            }
            let mut table: toml::Table =
                toml::from_str(&scenario.text()).map_err(|error| makes(error.message().to_owned()))?;
            change.place(&mut table).map_err(makes)?;
            let text = toml::to_string(&table).map_err(|error| makes(error.to_string()))?;
            scenario = Scenario::read(file, &text).map_err(|error| makes(error.message().to_owned()))?;
        }
        // Of all together: one may make room for another.
        scenario.check_reach_of_some().map_err(|wrong| OverrideError::Makes {
            change: self.to_string().trim_start_matches('+').to_owned(),
            message: wrong.message,
        })?;
        Ok(scenario)
    }
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/@+=:-".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::builtin;

    fn changed(changes: &str) -> Result<Scenario, OverrideError> {
        let token: Token = format!("swarm@1+{changes}").parse()?;
        token.overrides.apply("swarm", builtin("swarm").unwrap().text)
    }

    #[test]
    fn a_token_says_scenario_seed_and_changes() {
        let token: Token = "some/file@x.toml@0x2f+nodes=5+net.loss=0.1".parse().unwrap();
        assert_eq!((token.scenario.as_str(), token.seed), ("some/file@x.toml", Some(Seed(47))));
        assert_eq!(token.overrides.to_string(), "+nodes=5+net.loss=0.1");
        let bare: Token = "swarm".parse().unwrap();
        assert_eq!((bare.seed, bare.overrides), (None, Overrides::default()));
        assert!("swarm@x".parse::<Token>().unwrap_err().to_string().contains("not a seed"));
        assert!("swarm@1+nodes".parse::<Token>().unwrap_err().to_string().contains("KEY=VALUE"));
    }

    #[test]
    fn changes_reach_their_fields() {
        let scenario = changed("nodes=9+net.loss=0.25+duration=5s..6s+fault.1.chance=1.0").unwrap();
        assert_eq!(scenario.nodes.low(), 9);
        assert_eq!((scenario.net.loss.0, scenario.faults[1].chance.unwrap().0), (0.25, 1.0));
        assert!(!scenario.duration.is_fixed());
    }

    #[test]
    fn a_change_that_makes_no_sense_is_named_with_what_is_wrong() {
        for (change, wanted) in [
            ("net.los=0.1", "net.los=0.1: unknown field `los`"),
            ("nodes=many", "a number such as 3"),
            ("fault.for=1s", "`fault` is a list of"),
            ("nodes.x=1", "has no fields"),
            ("faults=fire", "there is no fault fire; write all, none, swarm or some of partition,"),
        ] {
            let error = changed(change).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn changes_make_sense_together_or_not_at_all() {
        let error = changed("duration=1s+net.loss=0.1").unwrap_err().to_string();
        assert!(error.starts_with("duration=1s+net.loss=0.1: ") && error.contains("begins at "), "{error}");
        assert!(changed("duration=1s+workload.from=0s+faults=none").is_ok());
    }

    #[test]
    fn faults_are_chosen_by_kind_or_altogether() {
        assert!(changed("faults=none").unwrap().faults.is_empty());
        let some = changed("faults=freeze,stall").unwrap();
        assert_eq!(some.faults.len(), 2);
        assert!(some.faults.iter().all(|fault| fault.chance.is_none()));
        assert!(changed("faults=all").unwrap().faults.iter().all(|fault| fault.chance.is_none()));
    }

    #[test]
    fn words_are_quoted_when_a_shell_would_read_more_into_them() {
        assert_eq!(quoted("a@1+b=c"), "a@1+b=c");
        assert_eq!(quoted("a b'c"), "'a b'\\''c'");
    }
}
