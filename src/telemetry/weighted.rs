//! Histograms of samples that count as many, and sums of seconds, in Prometheus' text format: a sample for each of a million rows a
//! second would cost more than what is done to the rows, and the exporter's counters are whole numbers.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A histogram. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub(super) struct Weighted(Arc<Buckets>);

struct Buckets {
    /// Upper bounds, ascending.
    bounds: &'static [f64],
    /// Samples at most as great as each bound and greater than the one before; the last are greater than all.
    counts: Vec<AtomicU64>,
    sum: Seconds,
}

/// A sum that only grows. Cheap to clone; clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Seconds(Arc<AtomicU64>);

impl Weighted {
    /// One with these upper bounds, ascending.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: Seconds::default() }))
    }

    /// Takes in so many samples of the same value.
    pub(super) fn record(&self, value: f64, count: u64) {
        let Buckets { bounds, counts, sum } = self.0.as_ref();
        if let Some(bucket) = counts.get(bounds.partition_point(|bound| *bound < value)) {
            bucket.fetch_add(count, Ordering::Relaxed);
            sum.add(value * count as f64);
        }
    }

    /// Samples of each bucket.
    pub(super) fn counts(&self) -> Vec<u64> {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Seconds {
    /// Adds some. Nothing is lost where several do so at a time.
    pub(super) fn add(&self, seconds: f64) {
        let added = |bits| Some((f64::from_bits(bits) + seconds).to_bits());
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
    }

    /// What was added.
    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Something that is shown under a name and labels.
pub(super) trait Shown: Clone {
    /// What Prometheus calls its type.
    const TYPE: &'static str;

    /// Writes its lines.
    fn write(&self, name: &str, labels: &str, to: &mut String) -> fmt::Result;
}

impl Shown for Weighted {
    const TYPE: &'static str = "histogram";

    fn write(&self, name: &str, labels: &str, to: &mut String) -> fmt::Result {
        let Buckets { bounds, counts, sum } = self.0.as_ref();
        let mut total = 0;
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            total += count.load(Ordering::Relaxed);
            writeln!(to, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}")?;
        }
        writeln!(to, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {total}", sum.get())
    }
}

impl Shown for Seconds {
    const TYPE: &'static str = "counter";

    fn write(&self, name: &str, labels: &str, to: &mut String) -> fmt::Result {
        writeln!(to, "{name}{{{labels}}} {}", self.get())
    }
}

/// The name and the labels of a metric, such as `stage="a",task="0"`.
type Key = (&'static str, String);

/// All of a kind, with what each means.
pub(super) struct Collection<T>(Mutex<BTreeMap<Key, (&'static str, T)>>);

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Shown> Collection<T> {
    /// What has that name and these labels; it is made where it is not there.
    pub(super) fn get(&self, name: &'static str, help: &'static str, labels: String, new: impl FnOnce() -> T) -> T {
        self.0.lock().entry((name, labels)).or_insert_with(|| (help, new())).1.clone()
    }

    /// Writes all of them.
    pub(super) fn write(&self, to: &mut String) -> fmt::Result {
        let mut last = "";
        for ((name, labels), (help, shown)) in self.0.lock().iter() {
            if *name != last {
                writeln!(to, "# HELP {name} {help}\n# TYPE {name} {}", T::TYPE)?;
                last = name;
            }
            shown.write(name, labels, to)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_counts_in_the_bucket_of_its_bound_and_in_all_above() {
        let collection = Collection::default();
        let histogram = |task: u32| {
            collection.get("lag_seconds", "The lag.", format!("task=\"{task}\""), || Weighted::new(&[0.5, 2.0]))
        };
        histogram(0).record(0.5, 3);
        histogram(0).record(1.0, 2);
        histogram(1).record(9.0, 1);
        let mut text = String::new();
        collection.write(&mut text).unwrap();
        let expected = [
            "# HELP lag_seconds The lag.",
            "# TYPE lag_seconds histogram",
            "lag_seconds_bucket{task=\"0\",le=\"0.5\"} 3",
            "lag_seconds_bucket{task=\"0\",le=\"2\"} 5",
            "lag_seconds_bucket{task=\"0\",le=\"+Inf\"} 5",
            "lag_seconds_sum{task=\"0\"} 3.5",
            "lag_seconds_count{task=\"0\"} 5",
            "lag_seconds_bucket{task=\"1\",le=\"0.5\"} 0",
            "lag_seconds_bucket{task=\"1\",le=\"2\"} 0",
            "lag_seconds_bucket{task=\"1\",le=\"+Inf\"} 1",
            "lag_seconds_sum{task=\"1\"} 9",
            "lag_seconds_count{task=\"1\"} 1",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_sum_is_a_counter() {
        let collection = Collection::default();
        for seconds in [0.25, 0.5] {
            collection.get("busy_seconds_total", "Busy.", "task=\"0\"".into(), Seconds::default).add(seconds);
        }
        let mut text = String::new();
        collection.write(&mut text).unwrap();
        assert!(text.ends_with("# TYPE busy_seconds_total counter\nbusy_seconds_total{task=\"0\"} 0.75\n"), "{text}");
    }
}
