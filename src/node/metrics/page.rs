//! One answer to a scrape, metric by metric.

use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::named::Times;

/// Names and values of one series.
pub(super) type Labels = Vec<(&'static str, String)>;

/// What is going to be answered.
pub(super) struct Page {
    registry: Registry,
}

impl Page {
    pub(super) fn new() -> Self {
        Self { registry: Registry::with_prefix("snomesh") }
    }

    /// A value that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(Labels::new(), value)]);
    }

    /// Such a value for each of several things.
    pub(super) fn gauges(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    /// A value that only grows, for each of several things; `_total` is put behind its name. What has the same labels is added up.
    pub(super) fn counters(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }

    /// A time that only grows.
    pub(super) fn seconds(&mut self, name: &str, help: &str, value: f64) {
        let counter = Counter::<f64, AtomicU64>::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }

    /// Times by how long they were: `buckets` holds upper bounds in seconds, each time in one bucket.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        sum: f64,
        buckets: Vec<(f64, u64)>,
    ) {
        self.histograms(name, help, vec![(Labels::new(), Counted { sum, buckets })]);
    }

    /// Such times for each of several things.
    pub(super) fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: Vec<(Labels, Counted)>,
    ) {
        self.registry.register_collector(Box::new(Histogram { name, help, rows }));
    }

    /// The text, as `text/plain; version=0.0.4` and as OpenMetrics both allow it.
    pub(super) fn finish(self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("a String takes everything");
        text
    }
}

/// Counts that were made elsewhere.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) sum: f64,
    /// Upper bounds in seconds, each time in one bucket.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl From<Times> for Counted {
    fn from(times: Times) -> Self {
        Self { sum: times.sum(), buckets: times.buckets() }
    }
}

#[derive(Debug)]
struct Histogram {
    name: &'static str,
    help: &'static str,
    rows: Vec<(Labels, Counted)>,
}

impl Collector for Histogram {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Histogram)?;
        EncodeMetric::encode(self, metric)
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, Counted { sum, buckets }) in &self.rows {
            let count = buckets.iter().map(|(_, count)| count).sum();
            let mut encoder = encoder.encode_family(labels)?;
            encoder.encode_histogram::<Labels>(*sum, count, buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
