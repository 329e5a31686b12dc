//! How far the proxy is on its way out.

/// How far a listener is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It serves, and has callers open another connection for their next request: they reach a pod
    /// that stays.
    Leaving,
    /// No new connections; what is under way ends.
    Stopping,
}
