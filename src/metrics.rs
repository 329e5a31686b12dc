//! The operator's own numbers for Prometheus: what stands in status and nowhere else. Only the
//! replica that works has any.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};

use crate::kinds::{order_service_set, service_resilience};
use crate::shared::Shared;

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

/// A sample and its namespace.
type Of = (String, Sample);

/// What there is to tell, in Prometheus' text format. Nothing of it is kept: it stands in the
/// statuses.
pub fn page(shared: &Shared) -> String {
    let mut all = samples(&shared.sets.store(), order_service_set::numbers::samples);
    all.extend(samples(
        &shared.resilience.store(),
        service_resilience::numbers::samples,
    ));
    text(all)
}

/// What the objects of a kind tell; those that cannot be read tell nothing.
fn samples<K>(objects: &Store<DeserializeGuard<K>>, of: impl Fn(&K) -> Vec<Sample>) -> Vec<Of>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let told = |object: Arc<DeserializeGuard<K>>| {
        let samples = object.0.as_ref().map(&of).unwrap_or_default();
        let namespace = object.namespace().unwrap_or_default();
        samples
            .into_iter()
            .map(move |sample| (namespace.clone(), sample))
    };
    objects.state().into_iter().flat_map(told).collect()
}

fn text(samples: Vec<Of>) -> String {
    let mut by_series: BTreeMap<Series, Vec<String>> = BTreeMap::new();
    for (namespace, sample) in samples {
        let mut labels = format!("namespace=\"{}\"", escaped(&namespace));
        for (name, value) in &sample.labels {
            let _ = write!(labels, ",{name}=\"{}\"", escaped(value));
        }
        by_series.entry(sample.series).or_default().push(format!(
            "{}{{{labels}}} {}",
            sample.series.name, sample.value
        ));
    }
    let mut text = String::new();
    for (series, mut lines) in by_series {
        lines.sort();
        let _ = writeln!(
            text,
            "# HELP {} {}\n# TYPE {} gauge\n{}",
            series.name,
            series.help,
            series.name,
            lines.join("\n")
        );
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_name_stand_together_and_labels_bear_anything() {
        let depth = Series {
            name: "mrg_queue_depth",
            help: "Requests that wait.",
        };
        let of = |namespace: &str, name: &str, value| {
            (
                namespace.to_owned(),
                Sample {
                    series: depth,
                    labels: vec![("workload", name.to_owned())],
                    value,
                },
            )
        };
        let expected = "# HELP mrg_queue_depth Requests that wait.\n# TYPE mrg_queue_depth gauge\n\
                        mrg_queue_depth{namespace=\"a\",workload=\"one\"} 1\nmrg_queue_depth{namespace=\"b\",workload=\"two\\\"\\n\"} 2\n";
        assert_eq!(
            text(vec![of("b", "two\"\n", 2.0), of("a", "one", 1.0)]),
            expected
        );
    }
}
