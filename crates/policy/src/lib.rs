//! What a workload's calls to its dependencies may cost, and what happens when they fail: the same
//! words in a `ServiceResilience`, in the proxy's file, and in what the operator pushes. Pure:
//! types, defaults, and what makes them wrong.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod call;
mod check;
mod config;
mod dependency;
mod fallback;
mod next;
mod report;
mod settlement;
mod url;
mod values;

pub use call::{Ended, Processed, Reason, Request, grpc_outcome, status_outcome};
pub use check::{
    Checked, CheckedAnswer, CheckedDependency, CheckedInbound, CheckedProvider, Problem, Problems,
};
pub use config::{Canary, Config, Forced, Inbound, OverrideSpec, Route};
pub use dependency::{
    Accepts, Backoff, BreakerPolicy, Credentials, Dependency, Failback, HealthCheck, OnAmbiguous,
    Pin, Provider, Retry, RetryOn, Timeouts,
};
pub use fallback::{Fallback, Queue, Stale, StaticAnswer};
pub use next::{Attempt, Next, next};
pub use report::{CanaryReport, DependencyReport, LaneReport, ProviderReport, QueueReport, Report};
pub use settlement::{Settlement, settlement};
pub use url::{InvalidUrl, Url};
pub use values::{Authority, BasePath, HeaderName, HeaderValue, Method, RequestPath, StatusCode};
