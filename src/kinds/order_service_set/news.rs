//! What of a change of status is worth an event: transitions, each told once. Pure.

use crate::news::{News, news};
use mrg_api::order_service_set::{
    Alerting, CanaryPhase, CanaryStatus, Language, OrderServiceSetStatus, Phase, ServiceStatus,
};
use mrg_api::service_resilience::Priority;

/// Somebody changed what this operator made.
pub(super) fn corrected(what: String) -> News {
    let about = what.split(": ").next().unwrap_or_default().to_owned();
    news(true, "Drift", about, what)
}

/// What happened between two statuses.
pub(super) fn between(
    old: &OrderServiceSetStatus,
    new: &OrderServiceSetStatus,
    alerting: &Alerting,
) -> Vec<News> {
    let before = |service: &ServiceStatus| {
        old.services
            .iter()
            .find(|before| before.name == service.name)
            .cloned()
    };
    let mut all: Vec<News> = new
        .services
        .iter()
        .filter_map(|service| of_service(&before(service)?, service, alerting))
        .collect();
    all.extend(
        new.services
            .iter()
            .filter_map(|service| of_trial(before(service)?.canary.as_ref(), service)),
    );
    for store in &new.stores {
        let before = old.stores.iter().find(|before| before.name == store.name);
        let about = format!(
            "spec.{}",
            if store.name == "redis" {
                "cache"
            } else {
                "broker"
            }
        );
        match (before.is_none_or(|before| before.answers), store.answers) {
            (true, false) => {
                let why = store.message.as_deref().unwrap_or("-");
                all.push(news(
                    true,
                    "StoreDown",
                    about,
                    format!(
                        "{} does not answer since {}: {why}",
                        store.name, store.since
                    ),
                ));
            }
            (false, true) => all.push(news(
                false,
                "StoreRecovered",
                about,
                format!("{} answers again since {}", store.name, store.since),
            )),
            _ => {}
        }
    }
    for row in new.objectives.iter().filter(|row| row.met == Some(false)) {
        let known = old
            .objectives
            .iter()
            .any(|before| before.part == row.part && before.worst == row.worst);
        if !known {
            let note = format!(
                "{} was away for {}, and {} is its objective",
                row.part,
                row.last.as_deref().unwrap_or("-"),
                row.rto
            );
            all.push(news(
                true,
                "ObjectiveMissed",
                format!("spec.objectives[{}]", row.part),
                note,
            ));
        }
    }
    all
}

fn of_service(before: &ServiceStatus, after: &ServiceStatus, alerting: &Alerting) -> Option<News> {
    let tell = |warning, reason, note: String| {
        Some(news(
            warning,
            reason,
            format!("spec.services[{}]", after.name),
            note,
        ))
    };
    match (before.phase, after.phase) {
        (before, after) if before == after => None,
        (_, Phase::Down) => tell(true, "ServiceDown", down(after, alerting)),
        (Phase::Down, _) => {
            let since = before.down_since.as_deref().unwrap_or("-");
            tell(
                false,
                "ServiceRecovered",
                format!("{} serves again; it was down since {since}", after.name),
            )
        }
        (_, Phase::Stuck) => tell(
            true,
            "RolloutStuck",
            format!(
                "{}: {}",
                after.name,
                after.message.as_deref().unwrap_or("-")
            ),
        ),
        (Phase::Waiting, Phase::Ready | Phase::Progressing) => {
            tell(false, "ServiceStarted", format!("{} serves", after.name))
        }
        (Phase::Progressing, Phase::Ready) => tell(
            false,
            "RolledOut",
            format!(
                "{} runs revision {}",
                after.name,
                after.revision.as_deref().unwrap_or("-")
            ),
        ),
        _ => None,
    }
}

/// A step of a trial.
fn of_trial(before: Option<&CanaryStatus>, after: &ServiceStatus) -> Option<News> {
    let now = after.canary.as_ref()?;
    let same = |before: &CanaryStatus| {
        before.revision == now.revision && before.phase == now.phase && before.weight == now.weight
    };
    if before.is_some_and(same) {
        return None;
    }
    let (warning, reason) = match now.phase {
        CanaryPhase::Starting
            if before.is_some_and(|before| {
                before.revision == now.revision && before.weight == now.weight
            }) =>
        {
            return None;
        }
        CanaryPhase::Starting => (false, "CanaryStep"),
        CanaryPhase::Baking => return None,
        CanaryPhase::Paused => (true, "CanaryPaused"),
        CanaryPhase::Promoting => (false, "CanaryPassed"),
        CanaryPhase::Aborted => (true, "CanaryAborted"),
    };
    let note = format!(
        "{}: revision {} gets {}% of the traffic: {}",
        after.name, now.revision, now.weight, now.message
    );
    Some(news(
        warning,
        reason,
        format!("spec.services[{}]", after.name),
        note,
    ))
}

/// The analysis' template for those who are concerned, filled in.
fn down(service: &ServiceStatus, alerting: &Alerting) -> String {
    let known = mrg_platform_catalog::service(&service.name);
    let (title, impact, flows) = known.map_or((service.name.as_str(), "-", "-"), |known| {
        (known.title, known.impact.value, known.flows.value)
    });
    let tier = match service.tier {
        Priority::P0 => "P0",
        Priority::P1 => "P1",
        Priority::P2 => "P2",
    };
    let since = service
        .down_since
        .as_deref()
        .and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let every = if service.tier == Priority::P0 {
        "5"
    } else {
        "15"
    };
    let on_call = alerting.on_call.as_deref().unwrap_or("-");
    match alerting.language {
        Language::Indonesian => {
            // Jakarta has had this offset since 1964, without summer time.
            let local = |at: jiff::Timestamp| {
                jiff::tz::offset(7)
                    .to_datetime(at)
                    .strftime("%Y-%m-%d %H:%M WIB")
                    .to_string()
            };
            let since = since.map_or_else(|| "-".to_owned(), local);
            format!(
                "🚨 INSIDEN {tier}: {title} Down\nDampak: {impact}\nWaktu Mulai: {since}\nService Terpengaruh: {flows}\n\
                 ETA: Sedang investigasi (update setiap {every} menit)\nOn-Call: {on_call}"
            )
        }
        Language::English => {
            let since = since.map_or_else(
                || "-".to_owned(),
                |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            );
            let [impact, flows] = [impact, flows].map(english);
            format!(
                "🚨 {tier} INCIDENT: {title} Down\nImpact: {impact}\nStarted: {since}\nAffected: {flows}\n\
                 ETA: under investigation (update every {every} minutes)\nOn call: {on_call}"
            )
        }
    }
}

/// The analysis' words for impacts and flows, in English.
fn english(words: &str) -> &str {
    match words {
        "Kegagalan total order" => "no order can be made",
        "Tidak bisa bayar" => "nobody can pay",
        "Tidak bisa booking taxi" => "no taxi can be booked",
        "Profile/auth blocked" => "profiles and sign-in blocked",
        "Tidak bisa search kendaraan" => "vehicles cannot be searched",
        "Login baru blocked" => "new sign-ins blocked",
        "Update config blocked" => "configuration cannot be changed",
        "Tidak ada notifikasi" => "no notifications",
        "Security disabled" => "fraud checks disabled",
        "Tidak ada sync HO" => "no sync with head office",
        "Semua booking" => "all bookings",
        "Semua pembayaran" => "all payments",
        "Order taxi" => "taxi orders",
        "Semua operasi user" => "everything of users",
        "Booking baru" => "new bookings",
        "Session baru" => "new sessions",
        "Sync HO" => "sync with head office",
        "Komunikasi" => "communication",
        "Pencegahan fraud" => "prevention of fraud",
        "Akuntansi e-wallet" => "accounting of e-wallets",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(phase: Phase) -> OrderServiceSetStatus {
        let service = ServiceStatus {
            name: "orderorchestrator".to_owned(),
            phase,
            ..ServiceStatus::default()
        };
        OrderServiceSetStatus {
            services: vec![service],
            ..OrderServiceSetStatus::default()
        }
    }

    fn reasons(old: Phase, new: Phase) -> Vec<&'static str> {
        between(&with(old), &with(new), &Alerting::default())
            .iter()
            .map(|news| news.reason)
            .collect()
    }

    #[test]
    fn an_outage_is_told_in_the_words_of_the_analysis_when_it_begins_and_when_it_ends() {
        assert_eq!(reasons(Phase::Ready, Phase::Down), ["ServiceDown"]);
        assert!(
            between(
                &with(Phase::Ready),
                &with(Phase::Down),
                &Alerting::default()
            )[0]
            .note
            .contains("Kegagalan total order")
        );
        assert_eq!(reasons(Phase::Down, Phase::Degraded), ["ServiceRecovered"]);
        assert!(reasons(Phase::Degraded, Phase::Ready).is_empty());
        assert!(reasons(Phase::Down, Phase::Down).is_empty());
    }

    #[test]
    fn the_template_of_the_analysis_is_filled_in_in_both_languages() {
        let since = Some("2026-01-08T03:15:00Z".to_owned());
        let service = ServiceStatus {
            name: "orderorchestrator".to_owned(),
            tier: Priority::P0,
            down_since: since,
            ..ServiceStatus::default()
        };
        let in_language = |language| {
            down(
                &service,
                &Alerting {
                    language,
                    on_call: Some("@lukmanulhakim".to_owned()),
                    ..Alerting::default()
                },
            )
        };
        let expected = "🚨 INSIDEN P0: Order Orchestrator Down\nDampak: Kegagalan total order\nWaktu Mulai: 2026-01-08 10:15 WIB\n\
            Service Terpengaruh: Semua booking\nETA: Sedang investigasi (update setiap 5 menit)\nOn-Call: @lukmanulhakim";
        assert_eq!(in_language(Language::Indonesian), expected);
        assert!(in_language(Language::English).contains(
            "Impact: no order can be made\nStarted: 2026-01-08 03:15 UTC\nAffected: all bookings"
        ));
        for service in &mrg_platform_catalog::SERVICES {
            for words in [service.impact.value, service.flows.value] {
                assert_ne!(english(words), words, "`{words}` has no English");
            }
        }
    }
}
