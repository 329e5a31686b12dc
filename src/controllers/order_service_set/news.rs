//! What of a change of status is worth an event: transitions, each told once. Pure.

use crate::api::order_service_set::{CanaryPhase, CanaryStatus, OrderServiceSetStatus, Phase, ServiceStatus};
use crate::api::service_resilience::Priority;
use crate::catalog;
use crate::controllers::news::{News, news};

/// Somebody changed what this operator made.
pub fn corrected(what: String) -> News {
    let about = what.split(": ").next().unwrap_or_default().to_owned();
    news(true, "Drift", about, what)
}

/// What happened between two statuses.
pub fn between(old: &OrderServiceSetStatus, new: &OrderServiceSetStatus) -> Vec<News> {
    let before = |service: &ServiceStatus| old.services.iter().find(|before| before.name == service.name).cloned();
    let mut all: Vec<News> = new.services.iter().filter_map(|service| of_service(&before(service)?, service)).collect();
    all.extend(new.services.iter().filter_map(|service| of_trial(before(service)?.canary.as_ref(), service)));
    for row in new.objectives.iter().filter(|row| row.met == Some(false)) {
        let known = old.objectives.iter().any(|before| before.part == row.part && before.worst == row.worst);
        if !known {
            let note = format!("{} was away for {}, and {} is its objective", row.part, row.last.as_deref().unwrap_or("-"), row.rto);
            all.push(news(true, "ObjectiveMissed", format!("spec.objectives[{}]", row.part), note));
        }
    }
    all
}

fn of_service(before: &ServiceStatus, after: &ServiceStatus) -> Option<News> {
    let tell = |warning, reason, note: String| Some(news(warning, reason, format!("spec.services[{}]", after.name), note));
    match (before.phase, after.phase) {
        (before, after) if before == after => None,
        (_, Phase::Down) => tell(true, "ServiceDown", down(after)),
        (Phase::Down, _) => {
            let since = before.down_since.as_deref().unwrap_or("-");
            tell(false, "ServiceRecovered", format!("{} serves again; it was down since {since}", after.name))
        }
        (_, Phase::Stuck) => tell(true, "RolloutStuck", format!("{}: {}", after.name, after.message.as_deref().unwrap_or("-"))),
        (Phase::Waiting, Phase::Ready | Phase::Progressing) => tell(false, "ServiceStarted", format!("{} serves", after.name)),
        (Phase::Progressing, Phase::Ready) => {
            tell(false, "RolledOut", format!("{} runs revision {}", after.name, after.revision.as_deref().unwrap_or("-")))
        }
        _ => None,
    }
}

/// A step of a trial.
fn of_trial(before: Option<&CanaryStatus>, after: &ServiceStatus) -> Option<News> {
    let now = after.canary.as_ref()?;
    let same = |before: &CanaryStatus| before.revision == now.revision && before.phase == now.phase && before.weight == now.weight;
    if before.is_some_and(same) {
        return None;
    }
    let (warning, reason) = match now.phase {
        CanaryPhase::Starting if before.is_some_and(|before| before.revision == now.revision && before.weight == now.weight) => {
            return None;
        }
        CanaryPhase::Starting => (false, "CanaryStep"),
        CanaryPhase::Baking => return None,
        CanaryPhase::Paused => (true, "CanaryPaused"),
        CanaryPhase::Promoting => (false, "CanaryPassed"),
        CanaryPhase::Aborted => (true, "CanaryAborted"),
    };
    let note = format!("{}: revision {} gets {}% of the traffic: {}", after.name, now.revision, now.weight, now.message);
    Some(news(warning, reason, format!("spec.services[{}]", after.name), note))
}

/// In the words of the analysis.
fn down(service: &ServiceStatus) -> String {
    let known = catalog::service(&service.name);
    let (title, impact, flows) =
        known.map_or((service.name.as_str(), "-", "-"), |known| (known.title, known.impact.value, known.flows.value));
    let urgency = match service.tier {
        Priority::P0 => "INSIDEN P0",
        Priority::P1 => "INSIDEN P1",
        Priority::P2 => "INSIDEN P2",
    };
    let since = service.down_since.as_deref().unwrap_or("-");
    format!(
        "{urgency}: {title} Down. Dampak: {impact}. Waktu Mulai: {since}. Service Terpengaruh: {flows}. No pod of {} is ready",
        service.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(phase: Phase) -> OrderServiceSetStatus {
        let service = ServiceStatus { name: "orderorchestrator".to_owned(), phase, ..ServiceStatus::default() };
        OrderServiceSetStatus { services: vec![service], ..OrderServiceSetStatus::default() }
    }

    fn reasons(old: Phase, new: Phase) -> Vec<&'static str> {
        between(&with(old), &with(new)).iter().map(|news| news.reason).collect()
    }

    #[test]
    fn an_outage_is_told_in_the_words_of_the_analysis_when_it_begins_and_when_it_ends() {
        assert_eq!(reasons(Phase::Ready, Phase::Down), ["ServiceDown"]);
        assert!(between(&with(Phase::Ready), &with(Phase::Down))[0].note.contains("Kegagalan total order"));
        assert_eq!(reasons(Phase::Down, Phase::Degraded), ["ServiceRecovered"]);
        assert!(reasons(Phase::Degraded, Phase::Ready).is_empty());
        assert!(reasons(Phase::Down, Phase::Down).is_empty());
    }
}
