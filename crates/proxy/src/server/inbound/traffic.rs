//! What came of the requests to the workload and to its canary.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;

use crate::counters::Counter;
use mrg_policy::LaneReport;
use mrg_telemetry::Histogram;

/// What came of one request.
pub(super) type Answered = Result<
    Result<Response<Incoming>, hyper_util::client::legacy::Error>,
    tokio::time::error::Elapsed,
>;

/// Whether an answer counts as a failure of the server that gave it.
pub(super) fn failed(answered: &Answered) -> bool {
    !matches!(answered, Ok(Ok(response)) if !response.status().is_server_error())
}

/// What is counted of one of the two.
#[derive(Default)]
pub(super) struct TrafficStats {
    requests: Counter,
    failed: Counter,
    latencies: Histogram,
}

impl TrafficStats {
    pub(super) fn count(&self, took: Duration, failed: bool) {
        self.requests.add();
        self.latencies.record(took);
        if failed {
            self.failed.add();
        }
    }

    pub(super) fn report(&self) -> LaneReport {
        LaneReport {
            requests: self.requests.get(),
            failed: self.failed.get(),
            latencies: self.latencies.counts(),
        }
    }
}
