//! Values of scenario files: durations, sizes, counts, each fixed or a range that is drawn per seed.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::random::{self, Generator};

/// One value or a range of them, written `"a..b"`, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drawn<T> {
    low: T,
    high: T,
}

/// What can be written in a scenario file and drawn from a range.
pub(crate) trait Quantity: Copy + Ord {
    /// How it is written, for the error message.
    const EXPECTED: &'static str;

    /// Reads it.
    fn parse(text: &str) -> Option<Self>;

    /// Takes a bare number, if that is a way to write it.
    fn from_number(number: i64) -> Option<Self>;

    /// Draws one.
    fn draw(low: Self, high: Self, generator: &mut Generator) -> Self;

    /// Writes it so that [`parse`](Self::parse) reads exactly it again.
    fn text(self) -> String;

    /// The bare number, if it may be written as one.
    fn number(self) -> Option<i64> {
        None
    }
}

impl<T: Quantity> Drawn<T> {
    /// Always the same.
    pub(crate) const fn fixed(value: T) -> Self {
        Self { low: value, high: value }
    }

    /// The value for one seed.
    pub(crate) fn draw(&self, generator: &mut Generator) -> T {
        T::draw(self.low, self.high, generator)
    }

    /// Whether there is nothing to draw.
    pub(crate) fn is_fixed(&self) -> bool {
        self.low == self.high
    }

    /// The smallest that may be drawn.
    pub(crate) fn low(&self) -> T {
        self.low
    }

    /// Both ends changed in the same way, which must keep their order.
    pub(crate) fn map(self, change: impl Fn(T) -> T) -> Self {
        Self { low: change(self.low), high: change(self.high) }
    }

    /// The largest that may be drawn.
    pub(crate) fn high(&self) -> T {
        self.high
    }

    /// Writes it so that [`parse`](Self::parse) reads exactly it again.
    pub(crate) fn text(&self) -> String {
        if self.is_fixed() { self.low.text() } else { format!("{}..{}", self.low.text(), self.high.text()) }
    }

    /// Reads one value or a range.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some((low, high)) = text.split_once("..") else { return T::parse(text).map(Self::fixed) };
        let (low, high) = (T::parse(low.trim())?, T::parse(high.trim())?);
        (low <= high).then_some(Self { low, high })
    }
}

impl<'de, T: Quantity> Deserialize<'de> for Drawn<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor(PhantomData))
    }
}

impl<T: Quantity> Serialize for Drawn<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.low.number() {
            Some(number) if self.is_fixed() => serializer.serialize_i64(number),
            _ => serializer.serialize_str(&self.text()),
        }
    }
}

struct QuantityVisitor<T>(PhantomData<T>);

impl<T: Quantity> de::Visitor<'_> for QuantityVisitor<T> {
    type Value = Drawn<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a range \"a..b\" with a not above b", T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Drawn<T>, E> {
        Drawn::parse(text.trim()).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Drawn<T>, E> {
        let value = T::from_number(number).map(Drawn::fixed);
        value.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}

impl Quantity for Duration {
    const EXPECTED: &'static str = "a duration such as \"5s\", \"250ms\", \"40us\", \"2m\" or \"1h\"";

    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let nanos = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        // Whole numbers exactly: a schedule is repeated to the nanosecond.
        match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(nanos).map(Self::from_nanos),
            Err(_) => Self::try_from_secs_f64(number.parse::<f64>().ok()? * nanos as f64 / 1e9).ok(),
        }
    }

    fn from_number(_: i64) -> Option<Self> {
        None
    }

    fn draw(low: Self, high: Self, generator: &mut Generator) -> Self {
        random::duration(generator, low, high)
    }

    fn text(self) -> String {
        let nanos = random::nanos(self);
        // Minutes and hours only where they say more: 90 s rather than 1.5 m.
        let fits = |unit: &&(&str, u64)| {
            nanos.is_multiple_of(unit.1) && (unit.1 <= 1_000_000_000 || nanos >= 10 * unit.1)
        };
        let (name, unit) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        if nanos == 0 { "0s".to_owned() } else { format!("{}{name}", nanos / unit) }
    }
}

/// Units of time in nanoseconds, the smallest first.
const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl Quantity for u64 {
    const EXPECTED: &'static str = "a number such as 3";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_number(number: i64) -> Option<Self> {
        Self::try_from(number).ok()
    }

    fn draw(low: Self, high: Self, generator: &mut Generator) -> Self {
        random::number(generator, low, high)
    }

    fn text(self) -> String {
        self.to_string()
    }

    fn number(self) -> Option<i64> {
        i64::try_from(self).ok()
    }
}

/// A number of bytes, or of bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) u64);

impl Quantity for Bytes {
    const EXPECTED: &'static str = "a size such as 512, \"64KiB\", \"1MiB\" or \"8MiB/s\"";

    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix("/s").unwrap_or(text);
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(1 << shift).map(Self)
    }

    fn from_number(number: i64) -> Option<Self> {
        u64::try_from(number).ok().map(Self)
    }

    fn draw(low: Self, high: Self, generator: &mut Generator) -> Self {
        Self(random::number(generator, low.0, high.0))
    }

    fn text(self) -> String {
        let unit = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let unit = unit.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        unit.map_or_else(|| self.0.to_string(), |(name, shift)| format!("{}{name}", self.0 >> shift))
    }
}

/// How far a wall clock is off: positive is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Skew {
    /// In milliseconds.
    pub(crate) millis: i64,
}

impl Quantity for Skew {
    const EXPECTED: &'static str = "a shift of a clock such as \"250ms\", \"-90s\" or \"1h\"";

    fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let millis = i64::try_from(Duration::parse(rest)?.as_millis()).ok()?;
        Some(Self { millis: sign * millis })
    }

    fn from_number(number: i64) -> Option<Self> {
        (number == 0).then_some(Self::default())
    }

    fn draw(low: Self, high: Self, generator: &mut Generator) -> Self {
        let drawn = random::number(generator, 0, high.millis.abs_diff(low.millis));
        Self { millis: low.millis.saturating_add_unsigned(drawn) }
    }

    fn text(self) -> String {
        let sign = if self.millis < 0 { "-" } else { "" };
        format!("{sign}{}", Duration::from_millis(self.millis.unsigned_abs()).text())
    }
}

/// A probability from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Chance(pub(crate) f64);

impl<'de> Deserialize<'de> for Chance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let chance = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&chance) {
            Ok(Self(chance))
        } else {
            Err(de::Error::invalid_value(de::Unexpected::Float(chance), &"a probability from 0.0 to 1.0"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seed;

    #[test]
    fn durations_sizes_and_skews_are_read_as_they_are_written() {
        assert_eq!(Duration::parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(Duration::parse("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(Duration::parse("5"), None);
        assert_eq!(Bytes::parse("8MiB/s"), Some(Bytes(8 << 20)));
        assert_eq!(Bytes::parse("8 MB"), None);
        assert_eq!(Skew::parse("-90s"), Some(Skew { millis: -90_000 }));
    }

    #[test]
    fn what_is_written_reads_as_the_same_to_the_last_digit() {
        for nanos in [0, 1, 999, 1_234_567_891, 90_000_000_000, 600_000_000_000, u64::MAX] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(Duration::parse(&duration.text()), Some(duration), "{}", duration.text());
        }
        assert_eq!(Duration::from_secs(90).text(), "90s");
        for bytes in [0, 1, 1_024, 3 << 20, 1_500] {
            assert_eq!(Bytes::parse(&Bytes(bytes).text()), Some(Bytes(bytes)));
        }
        for millis in [0, -90_000, 250] {
            assert_eq!(Skew::parse(&Skew { millis }.text()), Some(Skew { millis }));
        }
    }

    #[test]
    fn ranges_are_drawn_within_their_ends() {
        let range = Drawn::<Skew>::parse("-2s..3s").unwrap();
        let mut generator = Seed(3).generator("test", &[]);
        let drawn: Vec<i64> = (0..100).map(|_| range.draw(&mut generator).millis).collect();
        assert!(drawn.iter().all(|millis| (-2_000..=3_000).contains(millis)));
        assert!(drawn.iter().any(|millis| *millis < 0) && drawn.iter().any(|millis| *millis > 0));
        assert_eq!(Drawn::<u64>::parse("5..3"), None);
    }
}
