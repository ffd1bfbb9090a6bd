//! Seeds and the generators that are made of them.
//!
//! One run has one seed and many generators, each for one purpose and keyed by what it is for: a link, a
//! fault, a node's writes. So taking one fault out of a scenario does not reshuffle all the others, and a
//! failure that is being reduced stays the same failure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What everything is drawn with: fast, seeded, the same on every platform.
pub(crate) type Generator = rand::rngs::Xoshiro256PlusPlus;

/// What a run is repeated by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    /// The generator for one purpose and what it is keyed by.
    pub(crate) fn generator(self, purpose: &str, ids: &[u64]) -> Generator {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0.to_le_bytes());
        hasher.update(purpose.as_bytes());
        for id in ids {
            hasher.update(&id.to_le_bytes());
        }
        Generator::from_seed(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for Seed {
    type Err = ParseSeedError;

    fn from_str(text: &str) -> Result<Self, ParseSeedError> {
        let is_commit = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = match text.strip_prefix("0x") {
            // So that continuous integration searches elsewhere with each commit, and can be repeated.
            None if is_commit => u64::from_str_radix(&text[..16], 16),
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.ok().map(Self).ok_or(ParseSeedError)
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Seed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a seed such as 47 or \"0x2f\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Seed, E> {
                let seed = u64::try_from(number).map(Seed).ok();
                seed.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Seed, E> {
                text.parse().ok().ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A text is not a [`Seed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a seed is a number of 64 bits, in decimal or as 0x and hexadecimal digits, or a commit's hash")]
pub(crate) struct ParseSeedError;

/// A duration from `low` to `high`, both included.
pub(crate) fn duration(generator: &mut Generator, low: Duration, high: Duration) -> Duration {
    Duration::from_nanos(number(generator, nanos(low), nanos(high)))
}

/// A number from `low` to `high`, both included.
pub(crate) fn number(generator: &mut Generator, low: u64, high: u64) -> u64 {
    if low >= high { low } else { generator.random_range(low..=high) }
}

/// A number from `low` to `high`, both included, of which every order of magnitude is as likely.
pub(crate) fn magnitude(generator: &mut Generator, low: u64, high: u64) -> u64 {
    let (low, high) = (low.max(1), high.max(1));
    let bits = number(generator, low.ilog2().into(), high.ilog2().max(low.ilog2()).into());
    number(generator, (1 << bits).max(low), (u64::MAX >> (63 - bits)).min(high))
}

/// A place in a list of `len` elements, which is not empty.
pub(crate) fn index(generator: &mut Generator, len: usize) -> usize {
    generator.random_range(0..len)
}

/// Whether something of that probability happens.
pub(crate) fn chance(generator: &mut Generator, probability: f64) -> bool {
    probability > 0.0 && generator.random_bool(probability.min(1.0))
}

/// The time to the next of events that come `per_second` on average, independently of each other.
pub(crate) fn pause(generator: &mut Generator, per_second: f64) -> Duration {
    // `1 - x` is in (0, 1], so that the logarithm exists.
    let drawn: f64 = 1.0 - generator.random::<f64>();
    Duration::from_secs_f64((-drawn.ln() / per_second).min(1e6))
}

/// A duration in nanoseconds; saturates after 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_differ_by_seed_purpose_and_key_and_by_nothing_else() {
        let draw = |seed: u64, purpose, ids: &[u64]| Seed(seed).generator(purpose, ids).random::<u64>();
        assert_eq!(draw(7, "link", &[1, 2]), draw(7, "link", &[1, 2]));
        assert_ne!(draw(7, "link", &[1, 2]), draw(7, "link", &[2, 1]));
        assert_ne!(draw(7, "link", &[1, 2]), draw(7, "fault", &[1, 2]));
        assert_ne!(draw(7, "link", &[1, 2]), draw(8, "link", &[1, 2]));
    }

    #[test]
    fn seeds_are_read_in_decimal_and_hexadecimal() {
        assert_eq!("47".parse(), Ok(Seed(47)));
        assert_eq!("0x2f".parse(), Ok(Seed(47)));
        assert_eq!(Seed(47).to_string(), "0x2f");
        assert_eq!("2f".parse::<Seed>(), Err(ParseSeedError));
        assert_eq!("70e0a49000000001ffffffffffffffffffffffff".parse(), Ok(Seed(0x70e0_a490_0000_0001)));
    }

    #[test]
    fn pauses_have_the_mean_that_was_asked_for() {
        let mut generator = Seed(1).generator("test", &[]);
        let sum: f64 = (0..10_000).map(|_| pause(&mut generator, 10.0).as_secs_f64()).sum();
        assert!((900.0..1_100.0).contains(&sum), "{sum}");
    }
}
