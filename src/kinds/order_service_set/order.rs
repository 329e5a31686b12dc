//! Whose turn it is: who starts, and whose pods are changed. Pure.

use std::collections::BTreeMap;

use mrg_platform_catalog::{Tier, needed_first};

/// What there is of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// What its pods were made from.
    pub revision: String,
    /// Pods that are wanted.
    pub wanted: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods of the newest template, ready or not.
    pub updated: i32,
    /// All pods are of the newest template and ready, and the Deployment's controller has seen it.
    pub settled: bool,
    /// Its controller has given the change up.
    pub stuck: bool,
}

/// A service, as far as turns depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: &'static str,
    /// Its tier.
    pub tier: Tier,
    /// What its pods should be made from.
    pub revision: String,
    /// What there is; `None` before it first started.
    pub live: Option<Live>,
    /// Its change was tried out and taken back.
    pub aborted: bool,
}

/// What happens to a service now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its pods are made from what the spec says.
    Apply,
    /// Its pods stay as they are, for this reason if they should be others.
    Keep(Option<String>),
    /// It does not start yet.
    Wait(String),
}

/// What else turns depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// Whether changes have an order.
    pub ordered: bool,
    /// Why nothing is changed now, such as an open breaker of tier P0.
    pub frozen: Option<String>,
    /// Why the database cannot be used.
    pub database: Option<String>,
    /// Whether services that wait for others have waited long enough.
    pub patience_over: bool,
}

/// Everybody's turn.
pub fn turns(all: &[Candidate], circumstances: &Circumstances) -> BTreeMap<&'static str, Turn> {
    all.iter()
        .map(|candidate| (candidate.name, turn(candidate, all, circumstances)))
        .collect()
}

fn turn(candidate: &Candidate, all: &[Candidate], circumstances: &Circumstances) -> Turn {
    let Some(live) = &candidate.live else {
        return start(candidate, all, circumstances);
    };
    if live.revision == candidate.revision {
        return Turn::Keep(None);
    }
    // Who does not serve has nothing to lose, and this may be what mends it.
    if !circumstances.ordered || live.ready == 0 || live.stuck {
        return Turn::Apply;
    }
    match held_up(candidate, all, circumstances) {
        Some(why) => Turn::Keep(Some(why)),
        None => Turn::Apply,
    }
}

fn start(candidate: &Candidate, all: &[Candidate], circumstances: &Circumstances) -> Turn {
    if circumstances.patience_over {
        return Turn::Apply;
    }
    if let Some(why) = &circumstances.database {
        return Turn::Wait(why.clone());
    }
    let is_missing = |name: &&'static str| {
        let other = all.iter().find(|other| other.name == *name);
        other.is_some_and(|other| other.live.as_ref().is_none_or(|live| live.ready == 0))
    };
    let missing: Vec<&str> = needed_first(candidate.name)
        .into_iter()
        .filter(is_missing)
        .collect();
    if missing.is_empty() {
        Turn::Apply
    } else {
        Turn::Wait(format!("waits for {}", missing.join(", ")))
    }
}

/// Why a service's pods are not changed now: less important ones go first, and those without which
/// nobody can order or pay one at a time.
fn held_up(
    candidate: &Candidate,
    all: &[Candidate],
    circumstances: &Circumstances,
) -> Option<String> {
    if let Some(why) = &circumstances.frozen {
        return Some(format!("frozen: {why}"));
    }
    let changes = |other: &&Candidate| {
        other
            .live
            .as_ref()
            .is_some_and(|live| live.revision != other.revision || !live.settled)
    };
    let before = |other: &&Candidate| {
        let same_tier_first = candidate.tier == Tier::P0
            && other.tier == Tier::P0
            && position(all, other.name) < position(all, candidate.name);
        other.tier > candidate.tier || same_tier_first
    };
    let first = all
        .iter()
        .filter(|other| other.name != candidate.name)
        .filter(changes)
        .find(before)?;
    let stuck = first.live.as_ref().is_some_and(|live| live.stuck);
    if first.aborted {
        return Some(format!(
            "held up by {}, whose change was taken back",
            first.name
        ));
    }
    Some(if stuck {
        format!(
            "held up by {}, whose new pods do not become ready",
            first.name
        )
    } else {
        format!("after {}", first.name)
    })
}

fn position(all: &[Candidate], name: &str) -> usize {
    all.iter()
        .position(|other| other.name == name)
        .unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_platform_catalog::SERVICES;

    fn live(revision: &str) -> Live {
        Live {
            revision: revision.to_owned(),
            wanted: 2,
            ready: 2,
            updated: 2,
            settled: true,
            stuck: false,
        }
    }

    fn platform(live: Option<&Live>) -> Vec<Candidate> {
        let candidate = |service: &'static mrg_platform_catalog::Service| Candidate {
            name: service.name,
            tier: service.tier.value,
            revision: "new".to_owned(),
            live: live.cloned(),
            aborted: false,
        };
        SERVICES.iter().map(candidate).collect()
    }

    const CALM: Circumstances = Circumstances {
        ordered: true,
        frozen: None,
        database: None,
        patience_over: false,
    };

    fn those(
        all: &[Candidate],
        wanted: impl Fn(&Turn) -> bool,
        circumstances: &Circumstances,
    ) -> Vec<&'static str> {
        let turns = turns(all, circumstances);
        all.iter()
            .map(|candidate| candidate.name)
            .filter(|name| wanted(&turns[name]))
            .collect()
    }

    fn applied(all: &[Candidate], circumstances: &Circumstances) -> Vec<&'static str> {
        those(all, |turn| *turn == Turn::Apply, circumstances)
    }

    #[test]
    fn services_start_after_those_that_they_call_and_all_of_them_start() {
        let mut all = platform(None);
        let mut waves = Vec::new();
        while all.iter().any(|candidate| candidate.live.is_none()) {
            let wave: Vec<&str> = applied(&all, &CALM)
                .into_iter()
                .filter(|name| all.iter().any(|c| c.name == *name && c.live.is_none()))
                .collect();
            assert!(!wave.is_empty(), "nobody may start after {waves:?}");
            for candidate in all
                .iter_mut()
                .filter(|candidate| wave.contains(&candidate.name))
            {
                candidate.live = Some(live("new"));
            }
            waves.push(wave);
        }
        assert_eq!(
            waves[0],
            [
                "paymentprocessor",
                "taxipartnergateway",
                "configservice",
                "notificationcenter",
                "fds"
            ]
        );
        assert_eq!(
            waves.last().map(Vec::as_slice),
            Some(&["orderorchestrator", "authservice"][..]),
            "{waves:?}"
        );
    }

    #[test]
    fn one_that_does_not_come_up_holds_the_others_only_for_a_while() {
        let mut all = platform(None);
        all[6].live = Some(Live {
            ready: 0,
            settled: false,
            ..live("new")
        });
        assert!(!applied(&all, &CALM).contains(&"sessionmanager"));
        assert!(
            applied(
                &all,
                &Circumstances {
                    patience_over: true,
                    ..CALM
                }
            )
            .contains(&"sessionmanager")
        );
    }

    #[test]
    fn without_a_database_nothing_starts_and_the_reason_is_told() {
        let lost = Circumstances {
            database: Some("the pool is not there".to_owned()),
            ..CALM
        };
        assert_eq!(
            turns(&platform(None), &lost)["fds"],
            Turn::Wait("the pool is not there".to_owned())
        );
    }

    #[test]
    fn changes_reach_p2_before_p1_before_p0_and_p0_one_at_a_time() {
        let mut all = platform(Some(&live("old")));
        let mut waves = Vec::new();
        loop {
            let wave = applied(&all, &CALM);
            if wave.is_empty() {
                break;
            }
            for candidate in all
                .iter_mut()
                .filter(|candidate| wave.contains(&candidate.name))
            {
                candidate.live = Some(Live {
                    settled: false,
                    ..live("new")
                });
            }
            assert!(
                applied(&all, &CALM).is_empty(),
                "somebody did not wait for {wave:?}"
            );
            for candidate in all
                .iter_mut()
                .filter(|candidate| wave.contains(&candidate.name))
            {
                candidate.live = Some(live("new"));
            }
            waves.push(wave);
        }
        assert_eq!(
            waves,
            [
                vec!["configservice", "notificationcenter", "fds", "hogateway"],
                vec!["userservice", "sessionmanager", "authservice"],
                vec!["orderorchestrator"],
                vec!["paymentprocessor"],
                vec!["taxipartnergateway"],
            ]
        );
    }

    #[test]
    fn nothing_is_changed_while_it_is_frozen_except_what_does_not_serve() {
        let mut all = platform(Some(&live("old")));
        let frozen = Circumstances {
            frozen: Some("orderorchestrator's breaker is open".to_owned()),
            ..CALM
        };
        assert!(applied(&all, &frozen).is_empty());
        all[3].live = Some(Live {
            ready: 0,
            ..live("old")
        });
        assert_eq!(applied(&all, &frozen), ["userservice"]);
    }

    #[test]
    fn what_is_stuck_holds_up_the_more_important_ones_and_may_be_mended_at_once() {
        let mut all = platform(Some(&live("new")));
        all[8].live = Some(Live {
            settled: false,
            stuck: true,
            ..live("new")
        });
        all[0].live = Some(live("old"));
        assert_eq!(
            turns(&all, &CALM)["orderorchestrator"],
            Turn::Keep(Some(
                "held up by fds, whose new pods do not become ready".to_owned()
            ))
        );
        all[8].revision = "mended".to_owned();
        assert_eq!(applied(&all, &CALM), ["fds"]);
    }
}
