//! Selectors: what the attributes of something must be for it to be meant.
//!
//! ```text
//! selector     = requirement { "," requirement } [ "," ]
//! requirement  = KEY                                  it has the attribute
//!              | "!" KEY                              it has not
//!              | KEY "=" VALUE                        it has it with this value
//!              | KEY "!=" VALUE                       it has not, or with another value
//!              | KEY "in" "(" VALUE { "," VALUE } ")"
//!              | KEY "notin" "(" VALUE { "," VALUE } ")"
//! ```
//! All requirements must hold. A selector of one bare key ends with a comma, so that nobody takes it for a name. Blanks
//! around keys, values and signs mean nothing. A key is made of the characters of [`crate::crdt::Key`]; a value may be
//! empty and is compared byte by byte.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Requirements on attributes, such as `service=db,region in (eu,us),!canary`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One requirement of a [`Selector`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The attribute is there.
    Has(String),
    /// The attribute is not there.
    Lacks(String),
    /// The attribute is there and has one of these values.
    In(String, BTreeSet<String>),
    /// The attribute is not there, or has none of these values.
    NotIn(String, BTreeSet<String>),
}

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// It is over [`Selector::MAX_LEN`].
    #[error("a selector has at most {} bytes", Selector::MAX_LEN)]
    TooLong,
    /// There is nothing between two commas, or nothing at all.
    #[error("a requirement is missing: write for instance service=db,region in (eu,us),!canary")]
    Empty,
    /// A requirement does not begin with a key.
    #[error("{requirement:?} does not begin with the name of an attribute")]
    Key {
        /// The requirement.
        requirement: String,
    },
    /// What follows the key is none of `=`, `!=`, `in (…)`, `notin (…)`.
    #[error("behind an attribute's name comes =, !=, in (…) or notin (…), and not {rest:?}")]
    Operator {
        /// What follows.
        rest: String,
    },
    /// A parenthesis is open at the end, or closed before it was opened.
    #[error("the parentheses do not match")]
    Parentheses,
}

impl Selector {
    /// The longest selector as text, in bytes.
    pub const MAX_LEN: usize = 1_024;

    /// What must hold.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The first requirement that does not hold for attributes that are read by `read`; `None` if all do.
    pub fn unmet<'a>(&self, read: impl Fn(&str) -> Option<&'a [u8]>) -> Option<&Requirement> {
        self.requirements.iter().find(|requirement| !requirement.holds(&read))
    }

    /// Whether all requirements hold for attributes that are read by `read`.
    pub fn matches<'a>(&self, read: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
        self.unmet(read).is_none()
    }
}

impl Requirement {
    fn holds<'a>(&self, read: &impl Fn(&str) -> Option<&'a [u8]>) -> bool {
        let among = |key: &str, values: &BTreeSet<String>| {
            read(key).is_some_and(|value| values.iter().any(|wanted| wanted.as_bytes() == value))
        };
        match self {
            Self::Has(key) => read(key).is_some(),
            Self::Lacks(key) => read(key).is_none(),
            Self::In(key, values) => among(key, values),
            Self::NotIn(key, values) => !among(key, values),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values, one, many) = match self {
            Self::Has(key) => return f.write_str(key),
            Self::Lacks(key) => return write!(f, "!{key}"),
            Self::In(key, values) => (key, values, "=", "in"),
            Self::NotIn(key, values) => (key, values, "!=", "notin"),
        };
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        match values[..] {
            [value] => write!(f, "{key}{one}{value}"),
            _ => write!(f, "{key} {many} ({})", values.join(",")),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, requirement) in self.requirements.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        match self.requirements[..] {
            [Requirement::Has(_)] => f.write_str(","),
            _ => Ok(()),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > Self::MAX_LEN {
            return Err(SelectorError::TooLong);
        }
        let mut parts = split(text)?;
        if parts.len() > 1 && parts.last().is_some_and(|last| last.trim().is_empty()) {
            parts.pop();
        }
        let requirements = parts.into_iter().map(requirement).collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }
}

/// Splits at the commas outside of parentheses.
fn split(text: &str) -> Result<Vec<&str>, SelectorError> {
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match (character, inside) {
            ('(', false) => inside = true,
            (')', true) => inside = false,
            ('(', true) | (')', false) => return Err(SelectorError::Parentheses),
            (',', false) => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(SelectorError::Parentheses);
    }
    parts.push(&text[begin..]);
    Ok(parts)
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(SelectorError::Empty);
    }
    let (lacks, named) = match text.strip_prefix('!') {
        Some(named) => (true, named.trim_start()),
        None => (false, text),
    };
    let end = named.find(|c: char| !is_key(c)).unwrap_or(named.len());
    let (key, rest) = (named[..end].to_owned(), named[end..].trim_start());
    if key.is_empty() {
        return Err(SelectorError::Key { requirement: text.to_owned() });
    }
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let plain = |value: &str| !value.contains(['(', ')']) && !value.starts_with('=');
    let unknown = || SelectorError::Operator { rest: rest.to_owned() };
    match (lacks, rest) {
        (true, "") => Ok(Requirement::Lacks(key)),
        (true, _) => Err(unknown()),
        (false, "") => Ok(Requirement::Has(key)),
        (false, rest) => {
            if let Some(value) = rest.strip_prefix("!=").filter(|value| plain(value)) {
                Ok(Requirement::NotIn(key, one(value)))
            } else if let Some(value) = rest.strip_prefix('=').filter(|value| plain(value)) {
                Ok(Requirement::In(key, one(value)))
            } else if let Some(list) = rest.strip_prefix("notin").and_then(listed) {
                Ok(Requirement::NotIn(key, list))
            } else if let Some(list) = rest.strip_prefix("in").and_then(listed) {
                Ok(Requirement::In(key, list))
            } else {
                Err(unknown())
            }
        }
    }
}

fn listed(text: &str) -> Option<BTreeSet<String>> {
    let inner = text.trim_start().strip_prefix('(')?.strip_suffix(')')?;
    Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

fn is_key(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._:/@-".contains(character)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn selector(text: &str) -> Selector {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// FEATURES P3.
    #[test]
    fn a_selector_chooses_by_what_is_there_and_what_is_not() {
        let attributes: BTreeMap<&str, &[u8]> =
            [("service", &b"db"[..]), ("region", b"eu"), ("empty", b""), ("raw", b"\xff")].into();
        for (text, matches) in [
            ("service=db", true),
            ("service=web", false),
            ("service = db , region in ( eu , us )", true),
            ("service=db,region in (eu,us),!canary", true),
            ("region notin (eu,us)", false),
            ("region notin(ap)", true),
            ("canary notin (yes)", true),
            ("canary!=yes", true),
            ("region!=eu", false),
            ("canary,", false),
            ("service,", true),
            ("!service", false),
            ("empty=", true),
            ("service=", false),
            ("raw,", true),
            ("raw=x", false),
        ] {
            let read = |name: &str| attributes.get(name).copied();
            assert_eq!(selector(text).matches(read), matches, "{text}");
        }
    }

    #[test]
    fn it_says_which_requirement_does_not_hold() {
        let nothing = |_: &str| None;
        let unmet = selector("!canary,region in (us,eu)").unmet(nothing).map(ToString::to_string);
        assert_eq!(unmet.as_deref(), Some("region in (eu,us)"));
    }

    #[test]
    fn what_is_no_selector_is_refused_with_the_reason() {
        let operator = |rest: &str| SelectorError::Operator { rest: rest.into() };
        for (text, error) in [
            ("", SelectorError::Empty),
            ("a=1,,b=2", SelectorError::Empty),
            (",", SelectorError::Empty),
            ("=x", SelectorError::Key { requirement: "=x".into() }),
            ("a b", operator("b")),
            ("a==b", operator("==b")),
            ("a in eu", operator("in eu")),
            ("a inside (eu)", operator("inside (eu)")),
            ("!a=b", operator("=b")),
            ("a in (eu", SelectorError::Parentheses),
            ("a in eu)", SelectorError::Parentheses),
            ("a in ((eu))", SelectorError::Parentheses),
            ("a=(b)", operator("=(b)")),
            (&"a".repeat(1025), SelectorError::TooLong),
        ] {
            assert_eq!(text.parse::<Selector>(), Err(error), "{text}");
        }
    }

    fn requirements() -> impl Strategy<Value = Requirement> {
        let key = "[a-z./@_:-]{1,6}";
        let values = prop::collection::btree_set("[a-z0-9%ä ]{0,4}", 1..4).prop_map(|values| {
            values.into_iter().map(|value| value.trim().to_owned()).collect::<BTreeSet<_>>()
        });
        prop_oneof![
            key.prop_map(Requirement::Has),
            key.prop_map(Requirement::Lacks),
            (key, values.clone()).prop_map(|(key, values)| Requirement::In(key, values)),
            (key, values).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        ]
    }

    proptest! {
        #[test]
        fn every_selector_survives_its_text(requirements in prop::collection::vec(requirements(), 1..5)) {
            let selector = Selector { requirements };
            prop_assert_eq!(selector.to_string().parse(), Ok(selector));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _parsed = text.parse::<Selector>();
        }
    }
}
