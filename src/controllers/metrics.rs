//! The operator's own numbers for Prometheus: what stands in status and nowhere else. Only the replica that works has any.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// A number with its labels; a label's value may be anything.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Which.
    pub series: Series,
    /// Labels beside `namespace`.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

/// Kind, namespace and name.
type Owner = (&'static str, String, String);

/// The numbers of all objects.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<BTreeMap<Owner, Vec<Sample>>>);

impl Metrics {
    /// Puts an object's numbers in place of those before.
    pub fn set(&self, kind: &'static str, namespace: &str, name: &str, samples: Vec<Sample>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((kind, namespace.to_owned(), name.to_owned()), samples);
    }

    /// The object is gone.
    pub fn forget(&self, kind: &'static str, namespace: &str, name: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(kind, namespace.to_owned(), name.to_owned()));
    }

    /// In Prometheus' text format.
    pub fn page(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_series: BTreeMap<Series, Vec<String>> = BTreeMap::new();
        for ((_, namespace, _), samples) in all.iter() {
            for sample in samples {
                let mut labels = format!("namespace=\"{}\"", escaped(namespace));
                for (name, value) in &sample.labels {
                    let _ = write!(labels, ",{name}=\"{}\"", escaped(value));
                }
                by_series.entry(sample.series).or_default().push(format!("{}{{{labels}}} {}", sample.series.name, sample.value));
            }
        }
        let mut text = String::new();
        for (series, lines) in by_series {
            let _ = writeln!(text, "# HELP {} {}\n# TYPE {} gauge\n{}", series.name, series.help, series.name, lines.join("\n"));
        }
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_stand_together_whoever_they_are_of_and_labels_bear_anything() {
        let depth = Series { name: "mrg_queue_depth", help: "Requests that wait." };
        let metrics = Metrics::default();
        let of = |name: &str, value| vec![Sample { series: depth, labels: vec![("workload", name.to_owned())], value }];
        metrics.set("ServiceResilience", "b", "two", of("two\"\n", 2.0));
        metrics.set("ServiceResilience", "a", "one", of("one", 1.0));
        metrics.set("ServiceResilience", "a", "gone", of("gone", 1.0));
        metrics.forget("ServiceResilience", "a", "gone");
        let expected = "# HELP mrg_queue_depth Requests that wait.\n# TYPE mrg_queue_depth gauge\n\
                        mrg_queue_depth{namespace=\"a\",workload=\"one\"} 1\nmrg_queue_depth{namespace=\"b\",workload=\"two\\\"\\n\"} 2\n";
        assert_eq!(metrics.page(), expected);
    }
}
