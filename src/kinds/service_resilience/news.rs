//! What of a change of status is worth an event: transitions, each told once. Pure.

use crate::news::{News, news};
use mrg_api::service_resilience::{BreakerStatus, ServiceResilienceStatus};

/// What happened between two statuses.
pub(super) fn between(old: &ServiceResilienceStatus, new: &ServiceResilienceStatus) -> Vec<News> {
    let mut all: Vec<News> = new
        .breakers
        .iter()
        .filter_map(|breaker| of_breaker(old, breaker))
        .collect();
    if old.provider_summary != new.provider_summary && !old.breakers.is_empty() {
        all.push(match &new.provider_summary {
            Some(summary) => news(
                true,
                "FailedOver",
                "spec.dependencies",
                format!("who serves instead of the first provider: {summary}"),
            ),
            None => news(
                false,
                "FailedBack",
                "spec.dependencies",
                "the first providers serve again",
            ),
        });
    }
    all.extend(of_queue(old, new));
    for drift in new.drift.iter().filter(|drift| !old.drift.contains(drift)) {
        let note = format!(
            "{} changed {} of {} to {}: {}",
            drift.manager, drift.field, drift.object, drift.found, drift.outcome
        );
        all.push(news(
            true,
            "Drift",
            format!("{} {}", drift.object, drift.field),
            note,
        ));
    }
    all.extend(
        ["Enforced", "FieldConflict", "QueueOverdue"]
            .into_iter()
            .filter_map(|name| of_condition(old, new, name)),
    );
    all
}

fn of_breaker(old: &ServiceResilienceStatus, breaker: &BreakerStatus) -> Option<News> {
    let same = |other: &&BreakerStatus| {
        other.dependency == breaker.dependency && other.provider == breaker.provider
    };
    // What was not known before, as after the operator's restart, is no change.
    let before = old.breakers.iter().find(same)?.state.as_str();
    let (name, after) = (
        format!("{}/{}", breaker.dependency, breaker.provider),
        breaker.state.as_str(),
    );
    let why = breaker.reason.as_deref().unwrap_or("-");
    let closed = |state: &str| matches!(state, "Closed" | "Unknown");
    match after {
        _ if before == after => None,
        "Open" if closed(before) => Some(news(
            true,
            "BreakerOpened",
            &name,
            format!("{name} is open in {} pods: {why}", breaker.open),
        )),
        "ForcedOpen" | "ForcedClosed" => Some(news(
            false,
            "BreakerForced",
            &name,
            format!("{name}: {after}: {why}"),
        )),
        "Closed" if !closed(before) => Some(news(
            false,
            "BreakerClosed",
            &name,
            format!("{name} is closed in every pod"),
        )),
        // Open, half-open and open again is one story.
        _ => None,
    }
}

fn of_queue(old: &ServiceResilienceStatus, new: &ServiceResilienceStatus) -> Vec<News> {
    let (Some(before), Some(after)) = (&old.queue, &new.queue) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    match (before.depth, after.depth) {
        (0, depth) if depth > 0 => all.push(news(
            true,
            "QueueFilling",
            "spec.queue",
            "requests that nobody took are kept, and sent later",
        )),
        (depth, 0) if depth > 0 => all.push(news(
            false,
            "QueueDrained",
            "spec.queue",
            "nothing waits to be sent any more",
        )),
        _ => {}
    }
    if after.inquiry > before.inquiry {
        let note = format!(
            "{} requests may have been processed; people must ask: see the runbook",
            after.inquiry
        );
        all.push(news(true, "InquiryNeeded", "spec.queue", note));
    }
    if let (None, Some(trouble)) = (&before.trouble, &after.trouble) {
        all.push(news(true, "QueueTrouble", "spec.queue", trouble.clone()));
    }
    all
}

fn of_condition(
    old: &ServiceResilienceStatus,
    new: &ServiceResilienceStatus,
    name: &str,
) -> Option<News> {
    let of = |status: &ServiceResilienceStatus| {
        let condition = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == name)?;
        Some((
            condition.status == "True",
            condition.reason.clone(),
            condition.message.clone(),
        ))
    };
    let (before, (holds, reason, message)) = (of(old)?, of(new)?);
    if before.0 == holds {
        return None;
    }
    // While pods come and go not all have acknowledged: that is no news.
    match (name, holds) {
        ("Enforced", false) if reason == "NotAcknowledged" || reason == "AuditOnly" => None,
        ("Enforced", true) if before.1 == "NotAcknowledged" || before.1 == "AuditOnly" => None,
        ("Enforced", false) => Some(news(true, "NotEnforced", "spec", message)),
        ("Enforced", true) => Some(news(false, "Enforced", "spec", message)),
        ("FieldConflict", true) => Some(news(true, "FieldConflict", "spec", message)),
        ("QueueOverdue", true) => Some(news(true, "QueueOverdue", "spec.queue", message)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_api::service_resilience::QueueStatus;

    fn with(state: &str, depth: i64) -> ServiceResilienceStatus {
        let breaker = BreakerStatus {
            dependency: "tpg-bbd".to_owned(),
            provider: "bbd".to_owned(),
            state: state.to_owned(),
            ..Default::default()
        };
        ServiceResilienceStatus {
            breakers: vec![breaker],
            queue: Some(QueueStatus {
                depth,
                ..QueueStatus::default()
            }),
            ..ServiceResilienceStatus::default()
        }
    }

    fn reasons(old: &ServiceResilienceStatus, new: &ServiceResilienceStatus) -> Vec<&'static str> {
        between(old, new).iter().map(|news| news.reason).collect()
    }

    #[test]
    fn an_outage_is_told_when_it_begins_and_when_it_ends() {
        assert_eq!(
            reasons(&with("Closed", 0), &with("Open", 3)),
            ["BreakerOpened", "QueueFilling"]
        );
        for (from, to) in [("Open", "HalfOpen"), ("HalfOpen", "Open"), ("Open", "Open")] {
            assert!(
                reasons(&with(from, 3), &with(to, 4)).is_empty(),
                "{from} to {to}"
            );
        }
        assert_eq!(
            reasons(&with("HalfOpen", 3), &with("Closed", 0)),
            ["BreakerClosed", "QueueDrained"]
        );
    }

    #[test]
    fn what_was_not_known_before_is_no_news() {
        assert!(reasons(&ServiceResilienceStatus::default(), &with("Open", 3)).is_empty());
        assert!(reasons(&with("Unknown", 0), &with("Closed", 0)).is_empty());
    }

    #[test]
    fn a_person_who_forces_a_breaker_is_heard_of() {
        assert_eq!(
            reasons(&with("Closed", 0), &with("ForcedOpen", 0)),
            ["BreakerForced"]
        );
        assert_eq!(
            reasons(&with("ForcedOpen", 0), &with("Closed", 0)),
            ["BreakerClosed"]
        );
    }
}
