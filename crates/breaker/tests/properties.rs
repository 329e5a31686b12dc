//! What must hold of breakers, budgets and the order of providers, whatever happens.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::collections::VecDeque;
use std::num::NonZeroU32;

use mrg_base::{Millis, Moment};
use mrg_breaker::{
    Admission, Budget, Gate, Mode, Outcome, Override, Providers, Ratio, Refusal, Settings, State,
};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    /// How the oldest request that is under way ends.
    End(Outcome),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        Just(Outcome::Success),
        Just(Outcome::Failure),
        Just(Outcome::Excluded)
    ];
    let step = prop_oneof![4 => Just(Step::Admit), 4 => outcome.prop_map(Step::End), 1 => (0..50_000u64).prop_map(Step::Wait)];
    proptest::collection::vec(step, 0..200)
}

prop_compose! {
    fn settings()(max in 1..6u32, interval in 0..70_000u64, bucket in 0..20_000u64, timeout in 1..60_000u64, min in 0..12u32, ratio in 1..=100u32) -> Settings {
        Settings {
            max_requests: NonZeroU32::new(max).unwrap(), interval: Millis(interval), bucket: Millis(bucket), timeout: Millis(timeout),
            min_requests: min, failure_ratio: Ratio::try_from(f64::from(ratio) / 100.0).unwrap(),
        }
    }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Enforce), Just(Mode::Shadow), Just(Mode::Off)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_open_breaker_refuses_until_its_time_is_over_and_a_half_open_one_lets_no_more_through_than_it_may(settings in settings(), steps in steps()) {
        let mut now = Moment(1_000_000);
        let mut gate = Gate::new(Mode::Enforce, settings, now);
        let mut under_way: VecDeque<Admission> = VecDeque::new();
        let (mut opened, mut probes) = (None, 0);
        for step in steps {
            let before = gate.state(now);
            match step {
                Step::Admit => match gate.admit(now) {
                    Ok(admission) => {
                        prop_assert!(before != State::Open, "an open breaker let a request through");
                        probes += u32::from(before == State::HalfOpen);
                        under_way.push_back(admission);
                    }
                    Err(Refusal::Open { retry_after }) => {
                        prop_assert_eq!(before, State::Open);
                        let ends: Moment = opened.unwrap();
                        prop_assert_eq!(retry_after, ends.since(now), "Retry-After is when it opens again");
                    }
                    Err(Refusal::TooManyProbes) => prop_assert_eq!(before, State::HalfOpen),
                },
                Step::End(outcome) => {
                    if let Some(admission) = under_way.pop_front() {
                        gate.report(now, admission, outcome);
                    }
                }
                Step::Wait(time) => now = now + Millis(time),
            }
            let after = gate.state(now);
            if after != before {
                opened = (after == State::Open).then(|| now + settings.timeout);
                probes = 0;
            }
            // Excluded ones give their permit back: no more than so many are counted at once.
            prop_assert!(after != State::HalfOpen || gate.counts().valid_requests() <= settings.max_requests.get());
            let counts = gate.counts();
            prop_assert!(counts.successes + counts.failures + counts.exclusions <= counts.requests, "{:?}", counts);
        }
        prop_assert!(probes <= 200);
        // Nothing stays stuck: once everybody has answered, time and successes close it.
        while let Some(admission) = under_way.pop_front() {
            gate.report(now, admission, Outcome::Excluded);
        }
        for _ in 0..20 {
            now = now + settings.timeout + Millis(1);
            if let Ok(admission) = gate.admit(now) {
                gate.report(now, admission, Outcome::Success);
            }
        }
        prop_assert_eq!(gate.state(now), State::Closed);
    }

    #[test]
    fn what_is_not_enforced_refuses_nothing_and_what_is_forced_counts_until_its_moment(settings in settings(), mode in mode(), steps in steps(), open: bool, until in 0..100_000u64) {
        let mut now = Moment(1_000_000);
        let mut gate = Gate::new(mode, settings, now);
        let forced = Override { open, until: now + Millis(until) };
        gate.configure(mode, settings, Some(forced), now);
        let mut under_way: VecDeque<Admission> = VecDeque::new();
        for step in steps {
            match step {
                Step::Admit => {
                    let admitted = gate.admit(now);
                    if now < forced.until {
                        prop_assert_eq!(admitted.is_ok(), !open);
                    } else if mode != Mode::Enforce {
                        prop_assert!(admitted.is_ok());
                    }
                    under_way.extend(admitted);
                }
                Step::End(outcome) => {
                    if let Some(admission) = under_way.pop_front() {
                        gate.report(now, admission, outcome);
                    }
                }
                Step::Wait(time) => now = now + Millis(time),
            }
            if mode == Mode::Off {
                prop_assert_eq!(gate.counts().requests, 0);
            }
        }
    }

    #[test]
    fn retries_never_exceed_their_share_of_ten_seconds(percent in 0..100u32, minimum in 0..5u32, asks in proptest::collection::vec((0..3_000u64, any::<bool>()), 0..300)) {
        let mut budget = Budget::new(percent, minimum);
        let (mut now, mut requests, mut retries) = (Moment(1_000_000), Vec::new(), Vec::new());
        for (wait, retry) in asks {
            now = now + Millis(wait);
            if !retry {
                budget.request(now);
                requests.push(now);
                continue;
            }
            // Whole seconds: the one that has begun and the nine before it.
            let since = Moment((now.0 / 1000).saturating_sub(9) * 1000);
            let of = |all: &[Moment]| all.iter().filter(|moment| **moment >= since).count() as u64;
            let allowed = (of(&requests) * u64::from(percent) / 100).max(u64::from(minimum) * 10);
            prop_assert_eq!(budget.take_retry(now), of(&retries) < allowed);
            if of(&retries) < allowed {
                retries.push(now);
            }
        }
    }

    #[test]
    fn every_eligible_provider_is_tried_once_and_a_healthy_one_first(count in 1..6usize, hold in 0..60_000u64, events in proptest::collection::vec((0..6usize, 0..3u8, 0..20_000u64), 0..40), eligible: u8) {
        let mut providers = Providers::new(count, Millis(hold));
        let mut now = Moment(1_000_000);
        let may = |provider: usize| eligible & (1 << provider) != 0;
        for (provider, event, wait) in events {
            now = now + Millis(wait);
            match event {
                0 => providers.left(provider, now),
                1 => providers.checked(provider, false),
                _ => providers.checked(provider, true),
            }
            let order = providers.order(may, None, now);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..count).filter(|provider| may(*provider)).collect::<Vec<_>>());
            if let Some(first) = order.first().filter(|first| providers.is_unhealthy(**first)) {
                let others = order.iter().any(|other| !providers.is_unhealthy(*other) && hold == 0);
                prop_assert!(!others, "{first} is tried first of {order:?} although it is unhealthy");
            }
            prop_assert_eq!(providers.order(may, Some(0), now), vec![0], "what is pinned goes there");
        }
    }
}
