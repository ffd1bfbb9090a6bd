//! From numbers to places and words.

use std::fmt::Write as _;
use std::time::Duration;

/// From values to places on an axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Scale {
    /// Where a value is.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = (value - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE);
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }
}

/// A step that makes from four to ten of a range: 1, 2 or 5 with zeros.
pub(super) fn step(range: f64) -> f64 {
    let mut step = 1e-3;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if range / (step * factor) <= 10.0 {
                return step * factor;
            }
        }
        step *= 10.0;
    }
}

/// A number of bytes, in three digits.
pub(super) fn bytes(count: f64) -> String {
    match count {
        count if count < 1e3 => format!("{count:.0} B"),
        count if count < 1e4 => format!("{:.1} kB", count / 1e3),
        count if count < 1e6 => format!("{:.0} kB", count / 1e3),
        count if count < 1e7 => format!("{:.1} MB", count / 1e6),
        count => format!("{:.0} MB", count / 1e6),
    }
}

/// A duration, in three digits.
pub(super) fn delay(nanos: u64) -> String {
    let seconds = Duration::from_nanos(nanos).as_secs_f64();
    match seconds {
        seconds if seconds < 1e-3 => format!("{:.0} µs", seconds * 1e6),
        seconds if seconds < 1e-2 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds => format!("{seconds:.0} s"),
    }
}

/// A text that cannot be taken for markup.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Control characters are not allowed in XML, written out or not.
            c if c.is_control() => {
                write!(escaped, "\u{fffd}").ok();
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A text of at most so many characters.
pub(super) fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_places_and_words() {
        let scale = Scale { low: 0.0, high: 10.0, from: 100.0, to: 0.0 };
        assert_eq!((scale.at(0.0), scale.at(5.0), scale.at(99.0)), (100.0, 50.0, 0.0));
        assert_eq!((step(45.0), step(3.0), step(0.9)), (5.0, 0.5, 0.1));
        assert_eq!(
            (bytes(999.0).as_str(), bytes(1_500.0).as_str(), bytes(2e6).as_str()),
            ("999 B", "1.5 kB", "2.0 MB")
        );
        assert_eq!(
            (delay(250_000).as_str(), delay(12_000_000).as_str(), delay(2_500_000_000).as_str()),
            ("250 µs", "12 ms", "2.5 s")
        );
        assert_eq!(escaped("<a & \"b\">\u{1}"), "&lt;a &amp; &quot;b&quot;&gt;\u{fffd}");
        assert_eq!(cut("abcdef", 4), "abc…");
    }
}
