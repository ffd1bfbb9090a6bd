//! How many of the visitors of a name a holder wants, against the other holders; said in the registration itself, as
//! [`health`](super::health) is.

use std::fmt;
use std::str::FromStr;

use super::health::mark;
use crate::replica::{Attributes, AttributesError};

/// Set on a registration whose weight is not the default.
const MARK: &str = "snomesh.weight";

/// A holder's share under the policy `weighted`: one of weight 3 gets three visitors where one of weight 1 gets one.
/// From 1 to [`Weight::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

/// A number is no [`Weight`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a weight is from 1 to {}", Weight::MAX)]
pub struct NoWeight;

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl Weight {
    /// The greatest.
    pub const MAX: u16 = 1_000;

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What a registration with these attributes says. What is no weight is none: the default.
    pub fn of(attributes: &Attributes) -> Self {
        let text = attributes.get(MARK).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// These attributes, and that weight.
    ///
    /// # Errors
    ///
    /// [`AttributesError`] if there is no room for it.
    pub fn mark(self, attributes: &Attributes) -> Result<Attributes, AttributesError> {
        let text = (self != Self::default()).then(|| self.to_string());
        mark(attributes, MARK, text.as_ref().map(String::as_bytes))
    }
}

impl TryFrom<u16> for Weight {
    type Error = NoWeight;

    fn try_from(number: u16) -> Result<Self, NoWeight> {
        if (1..=Self::MAX).contains(&number) { Ok(Self(number)) } else { Err(NoWeight) }
    }
}

impl FromStr for Weight {
    type Err = NoWeight;

    fn from_str(text: &str) -> Result<Self, NoWeight> {
        text.parse::<u16>().map_err(|_no_number| NoWeight)?.try_into()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Health;
    use crate::mesh::health::plain;

    #[test]
    fn a_weight_is_read_as_it_was_set_and_stands_beside_the_health() {
        let own = Attributes::new([("env".to_owned(), b"prod".to_vec())].into()).unwrap();
        assert_eq!(Weight::of(&own), Weight::default());
        for number in [1, 2, Weight::MAX] {
            let weight = Weight::try_from(number).unwrap();
            let marked = Health::Failing.mark(&weight.mark(&own).unwrap()).unwrap();
            assert_eq!((Weight::of(&marked), Health::of(&marked)), (weight, Health::Failing));
            assert_eq!(Attributes::new(plain(&marked)).unwrap(), own);
            let unmarked = Weight::default().mark(&Health::Healthy.mark(&marked).unwrap()).unwrap();
            assert_eq!(unmarked, own);
        }
    }

    #[test]
    fn what_is_no_weight_is_refused_where_it_is_said_and_passed_over_where_it_is_read() {
        for text in ["", "0", "1001", "-1", "1.5", "65536"] {
            assert_eq!(text.parse::<Weight>(), Err(NoWeight), "{text}");
            let said = Attributes::new([(MARK.to_owned(), text.into())].into()).unwrap();
            assert_eq!(Weight::of(&said), Weight::default(), "{text}");
        }
    }
}
