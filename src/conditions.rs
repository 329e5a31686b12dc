//! Conditions, as `metav1.Condition` wants them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition before it is compared with what stands there.
pub(crate) struct Verdict {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: &'static str,
    /// What the on-call wants to know.
    pub message: String,
}

/// A verdict.
pub(crate) fn verdict(
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> Verdict {
    Verdict {
        kind,
        holds,
        reason,
        message: message.into(),
    }
}

/// Merges verdicts into the conditions that stand there; the time moves only when the truth does.
pub(crate) fn conditions(
    old: &[Condition],
    verdicts: Vec<Verdict>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |verdict: Verdict| {
        let status = if verdict.holds { "True" } else { "False" };
        let since = old
            .iter()
            .find(|old| old.type_ == verdict.kind && old.status == status)
            .map(|old| old.last_transition_time.clone());
        Condition {
            type_: verdict.kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: verdict.message,
            last_transition_time: since.unwrap_or(Time(now)),
            observed_generation: generation,
        }
    };
    verdicts.into_iter().map(condition).collect()
}
