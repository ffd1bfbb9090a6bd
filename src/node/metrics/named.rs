//! What is counted for each of several names, of which there are never too many, and times by how long they were.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{MAX_LABELS, OTHER};

/// The upper bounds of the buckets of [`Times`], in seconds.
pub(super) const BOUNDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A value for each name; those beyond [`MAX_LABELS`] share the one of [`OTHER`].
#[derive(Debug)]
pub(in crate::node) struct Named<T>(Mutex<BTreeMap<String, T>>);

/// Times by how long they were.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(in crate::node) struct Times {
    /// Each time in one bucket, the last one without an upper bound.
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Default + Clone> Named<T> {
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut T)) {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.get_mut(name) {
            return change(value);
        }
        let named = values.len() - usize::from(values.contains_key(OTHER));
        let name = if named < MAX_LABELS { name } else { OTHER };
        change(values.entry(name.to_owned()).or_default());
    }

    /// That name is not used any more, and its place is free.
    pub(super) fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(super) fn read(&self) -> BTreeMap<String, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.buckets[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum = self.sum.saturating_add(time);
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Upper bounds in seconds, and how many times are in each bucket.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.buckets).collect()
    }
}

/// What came of the health checks of one target.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Checked {
    pub(super) took: Times,
    pub(super) failures: u64,
}

/// Health checks, by tunnel.
#[derive(Debug, Default)]
pub(in crate::node) struct HealthChecks(pub(super) Named<Checked>);

impl HealthChecks {
    pub(in crate::node) fn checked(&self, tunnel: &str, took: Duration, passed: bool) {
        self.0.change(tunnel, |checked| {
            checked.took.add(took);
            checked.failures += u64::from(!passed);
        });
    }

    /// That tunnel is not offered any more.
    pub(in crate::node) fn forget(&self, tunnel: &str) {
        self.0.forget(tunnel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_names_there_are_their_values_are_bounded() {
        let named = Named::<u64>::default();
        for number in 0..1_000 {
            named.change(&format!("tunnel-{number}"), |value| *value += 1);
        }
        assert_eq!(named.read().len(), MAX_LABELS + 1);
        assert_eq!(named.read()[OTHER], 1_000 - MAX_LABELS as u64);
        named.forget("tunnel-0");
        named.change("new", |value| *value += 1);
        named.change("tunnel-1", |value| *value += 1);
        assert_eq!((named.read()["new"], named.read()["tunnel-1"]), (1, 2));
        assert_eq!(named.read().len(), MAX_LABELS + 1);
    }

    #[test]
    fn a_time_is_in_the_bucket_whose_bound_it_does_not_pass() {
        let mut times = Times::default();
        for micros in [0, 500, 501, 10_000_000, 10_000_001] {
            times.add(Duration::from_micros(micros));
        }
        let buckets: Vec<u64> = times.buckets().into_iter().map(|(_, count)| count).collect();
        assert_eq!((buckets[0], buckets[1], buckets[13], buckets[14]), (2, 1, 1, 1));
        assert_eq!(buckets.iter().sum::<u64>(), 5);
        assert!((times.sum() - 20.001_002).abs() < 1e-9);
    }
}
