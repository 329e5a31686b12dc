//! A service's queue as numbers: it is shared by its pods, so that no single one of them could say.
//! Pure.

use jiff::Timestamp;

use crate::metrics::{Sample, Series};
use mrg_api::ServiceResilience;

const DEPTH: Series = Series {
    name: "mrg_queue_depth",
    help: "Requests that wait to be sent.",
};
const INQUIRY: Series = Series {
    name: "mrg_queue_inquiry",
    help: "Requests about which people must decide.",
};
const OLDEST: Series = Series {
    name: "mrg_queue_oldest_timestamp_seconds",
    help: "Since when the oldest of them waits.",
};

/// The numbers of a service.
pub(crate) fn samples(object: &ServiceResilience) -> Vec<Sample> {
    let Some(queue) = object
        .status
        .as_ref()
        .and_then(|status| status.queue.as_ref())
    else {
        return Vec::new();
    };
    let of = |series, value| Sample {
        series,
        labels: vec![("workload", object.spec.target_ref.name.clone())],
        value,
    };
    let mut all = vec![
        of(DEPTH, queue.depth as f64),
        of(INQUIRY, queue.inquiry as f64),
    ];
    let oldest = queue
        .oldest
        .as_deref()
        .and_then(|text| text.parse::<Timestamp>().ok());
    all.extend(oldest.map(|at| of(OLDEST, at.as_second() as f64)));
    all
}
