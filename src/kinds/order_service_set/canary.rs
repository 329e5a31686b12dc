//! Trying a change out: how much of a service's traffic its new version gets, for how long, and
//! what it is judged by. Pure: a function of what is remembered, what was counted, and the time.
//!
//! The weights are kept by the sidecars of the pods that serve (their inbound side), so that they
//! hold for every caller, customers included, and not by numbers of pods. Both versions are counted
//! at the same place, by the same clock, in the same seconds.

use mrg_api::order_service_set::{Canary, CanaryPhase, CanaryStatus, Command};
use mrg_telemetry::quantile;

/// How a version fared in all pods together, since the trial of this weight began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// Requests.
    pub requests: u64,
    /// Of them failed.
    pub failed: u64,
    /// Answers by how long they took; see [`quantile`].
    pub latencies: Vec<u64>,
}

impl Lane {
    /// Both together.
    pub fn add(&mut self, other: &mrg_policy::LaneReport) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.latencies
            .resize(self.latencies.len().max(other.latencies.len()), 0);
        for (sum, more) in self.latencies.iter_mut().zip(&other.latencies) {
            *sum += more;
        }
    }

    fn errors(&self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            self.failed as f64 / self.requests as f64
        }
    }

    /// Milliseconds within which this share of the answers came.
    fn quantile(&self, share: f64) -> f64 {
        quantile(&self.latencies, share).unwrap_or(0.0)
    }
}

/// What is seen of a trial.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Pods of the new version that are ready.
    pub ready: i32,
    /// How many there should be.
    pub wanted: i32,
    /// Whether they did not become ready in time.
    pub stuck: bool,
    /// How often their containers were restarted.
    pub restarts: i32,
    /// Breakers of the new version, towards what it calls, that are open.
    pub breakers_open: Vec<String>,
    /// Whether every serving pod keeps the weight that was asked for.
    pub weight_kept: bool,
    /// How often a sidecar's breaker towards the new version opened.
    pub opened: u64,
    /// The new version.
    pub canary: Lane,
    /// The version beside it.
    pub stable: Lane,
    /// Why nothing may be changed now.
    pub frozen: Option<String>,
    /// What somebody asked for.
    pub command: Option<Command>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The new version gets this share. The rest is remembered.
    Try(CanaryStatus),
    /// It has passed: all pods become it.
    Promote(CanaryStatus),
    /// It gets nothing, and its pods go. Remembered until the spec changes or somebody says retry.
    Abort(CanaryStatus),
}

/// What comes next for a revision. `before` is what is remembered of the last trial, of whatever
/// revision; `now` is in seconds.
pub fn step(
    spec: &Canary,
    revision: &str,
    before: Option<&CanaryStatus>,
    seen: &Seen,
    now: i64,
) -> Step {
    let fresh = || CanaryStatus {
        revision: revision.to_owned(),
        phase: CanaryPhase::Starting,
        weight: 0,
        step: 0,
        steps: i32::try_from(spec.steps.len()).unwrap_or(i32::MAX) + 1,
        since: now,
        message: "its first pods are starting".to_owned(),
    };
    let state = match before {
        Some(before) if before.revision == revision && seen.command != Some(Command::Retry) => {
            before.clone()
        }
        // Another change, or another try: from the beginning. What serves was not touched.
        _ => return Step::Try(fresh()),
    };
    let aborted = |why: String| {
        Step::Abort(CanaryStatus {
            phase: CanaryPhase::Aborted,
            weight: 0,
            since: now,
            message: why,
            ..state.clone()
        })
    };
    match (state.phase, seen.command) {
        (CanaryPhase::Aborted, _) => return Step::Abort(state),
        (CanaryPhase::Promoting, _) => return Step::Promote(state),
        (_, Some(Command::Abort)) => return aborted("aborted by hand".to_owned()),
        (_, Some(Command::Promote)) => return promote(&state, now, "promoted by hand"),
        (_, Some(Command::Pause)) => {
            return Step::Try(paused(
                &state,
                now,
                "paused by hand; say resume, promote or abort".to_owned(),
            ));
        }
        (CanaryPhase::Paused, Some(Command::Resume)) => return Step::Try(bake(&state, now)),
        _ => {}
    }
    if let Some(why) = fails(spec, seen) {
        return aborted(why);
    }
    match state.phase {
        CanaryPhase::Paused => Step::Try(state),
        CanaryPhase::Starting => start(spec, state, seen, now),
        _ => match too_slow(spec, &state, seen, now) {
            Some(Latency::Slow(figures)) => aborted(figures),
            Some(Latency::Doubtful(figures)) => Step::Try(CanaryStatus {
                message: format!("baked for longer: {figures}"),
                ..state
            }),
            _ => judge(spec, state, seen, now),
        },
    }
}

fn promote(state: &CanaryStatus, now: i64, why: &str) -> Step {
    Step::Promote(promoting(state, now, why))
}

fn promoting(state: &CanaryStatus, now: i64, why: &str) -> CanaryStatus {
    CanaryStatus {
        phase: CanaryPhase::Promoting,
        step: state.steps,
        since: now,
        message: why.to_owned(),
        ..state.clone()
    }
}

/// What is remembered of a revision that the service itself has by now: its trial's pods stay until
/// all others are like them. That it passed may not be in the status, if the operator ended between
/// the one and the other.
pub fn passed(before: &CanaryStatus, now: i64) -> Option<CanaryStatus> {
    match before.phase {
        CanaryPhase::Aborted => None,
        CanaryPhase::Promoting => Some(before.clone()),
        _ => Some(promoting(before, now, &before.message)),
    }
}

fn paused(state: &CanaryStatus, now: i64, message: String) -> CanaryStatus {
    if state.phase == CanaryPhase::Paused {
        state.clone()
    } else {
        CanaryStatus {
            phase: CanaryPhase::Paused,
            since: now,
            message,
            ..state.clone()
        }
    }
}

fn bake(state: &CanaryStatus, now: i64) -> CanaryStatus {
    CanaryStatus {
        phase: CanaryPhase::Baking,
        since: now,
        message: "its answers are counted".to_owned(),
        ..state.clone()
    }
}

/// The weight rises when the pods that are to bear it are there.
fn start(spec: &Canary, state: CanaryStatus, seen: &Seen, now: i64) -> Step {
    if let Some(why) = &seen.frozen {
        return Step::Try(CanaryStatus {
            message: format!("frozen: {why}"),
            ..state
        });
    }
    if seen.wanted == 0 || seen.ready < seen.wanted {
        return Step::Try(CanaryStatus {
            message: format!("{} of its {} pods are ready", seen.ready, seen.wanted),
            ..state
        });
    }
    let weight = weight(spec, state.step);
    if state.weight != weight {
        return Step::Try(CanaryStatus {
            weight,
            message: "sidecars are told its weight".to_owned(),
            ..state
        });
    }
    // The clock of a step runs from the moment at which its weight is the truth in every pod.
    if seen.weight_kept {
        Step::Try(bake(&state, now))
    } else {
        Step::Try(state)
    }
}

fn judge(spec: &Canary, state: CanaryStatus, seen: &Seen, now: i64) -> Step {
    if let Some(why) = &seen.frozen {
        return Step::Try(CanaryStatus {
            message: format!("frozen: {why}"),
            ..state
        });
    }
    let baked = now - state.since;
    let (bake, enough) = (
        i64::try_from(spec.bake.as_seconds()).unwrap_or(i64::MAX),
        seen.canary.requests >= spec.minimum_samples,
    );
    let told = format!(
        "{} requests, {:.1}% failed ({:.1}% beside it)",
        seen.canary.requests,
        100.0 * seen.canary.errors(),
        100.0 * seen.stable.errors()
    );
    if baked < bake {
        return Step::Try(state);
    }
    if !enough {
        if baked < 3 * bake {
            return Step::Try(CanaryStatus {
                message: format!(
                    "waits for traffic: {} of {} requests",
                    seen.canary.requests, spec.minimum_samples
                ),
                ..state
            });
        }
        let why = format!(
            "inconclusive: {} requests in {baked} s, and {} are needed to judge; say promote, resume or abort",
            seen.canary.requests, spec.minimum_samples
        );
        return Step::Try(paused(&state, now, why));
    }
    let next = state.step + 1;
    if usize::try_from(next).unwrap_or(usize::MAX) >= spec.steps.len() {
        return promote(&state, now, &told);
    }
    // Its pods first, then its weight.
    Step::Try(CanaryStatus {
        phase: CanaryPhase::Starting,
        step: next,
        since: now,
        message: told,
        ..state
    })
}

/// Percent of the traffic in a step.
fn weight(spec: &Canary, step: i32) -> i32 {
    usize::try_from(step)
        .ok()
        .and_then(|step| spec.steps.get(step))
        .copied()
        .unwrap_or(0)
}

/// Pods of the new version: enough for its share of the traffic at every step, counted from the
/// version beside it.
pub fn pods(spec: &Canary, state: &CanaryStatus, stable: i32) -> i32 {
    let share = weight(spec, state.step.min(state.steps - 2)).max(state.weight);
    // Rounded up: a canary of one pod in three carries up to a third.
    ((stable * share + 99) / 100).max(1)
}

/// What speaks against the new version at once. Failed answers do as soon as there are enough of
/// them.
fn fails(spec: &Canary, seen: &Seen) -> Option<String> {
    if seen.stuck {
        return Some("its pods did not become ready in time".to_owned());
    }
    if seen.restarts > 0 {
        return Some(format!(
            "its containers were restarted {} times",
            seen.restarts
        ));
    }
    if seen.opened > 0 {
        return Some(format!(
            "breakers opened: {} of {} requests failed",
            seen.canary.failed, seen.canary.requests
        ));
    }
    if let Some(open) = seen.breakers_open.first() {
        return Some(format!(
            "its breaker {open} opened, and that of the version beside it did not"
        ));
    }
    if seen.canary.requests < spec.minimum_samples {
        return None;
    }
    let (bad, usual) = (100.0 * seen.canary.errors(), 100.0 * seen.stable.errors());
    if bad > usual + f64::from(spec.maximum_error_increase) {
        return Some(format!(
            "{bad:.1}% of its {} requests failed, and {usual:.1}% beside it",
            seen.canary.requests
        ));
    }
    None
}

/// The step's latency, once its bake time is over. A doubtful one gets three times the bake time, in
/// which a disturbance of a few seconds is outweighed; one that is doubtful still is slow.
fn too_slow(spec: &Canary, state: &CanaryStatus, seen: &Seen, now: i64) -> Option<Latency> {
    let bake = i64::try_from(spec.bake.as_seconds()).unwrap_or(i64::MAX);
    let baked = now - state.since;
    if baked < bake {
        return None;
    }
    Some(match latency(spec, seen) {
        Latency::Doubtful(figures) if baked >= bake.saturating_mul(3) => Latency::Slow(figures),
        latency => latency,
    })
}

/// What the new version's latency says about it, with the figures.
enum Latency {
    /// Nothing against it, or too few answers to compare.
    Acceptable,
    /// One answer in a hundred is too slow: the change, or a disturbance of the pod or its node.
    Doubtful(String),
    /// Already one answer in twenty is too slow, which no short disturbance explains.
    Slow(String),
}

/// Compares the tails of both versions. It is asked when a step's bake time is over, since whatever
/// has just started is slow at first, and only about a hundred answers or more: fewer have no 99th
/// percentile.
fn latency(spec: &Canary, seen: &Seen) -> Latency {
    let enough = spec.minimum_samples.max(100);
    if seen.canary.requests < enough || seen.stable.requests < enough {
        return Latency::Acceptable;
    }
    let limit = |usual: f64| {
        // Where answers take a few milliseconds, twice as long is no harm.
        (usual * f64::from(spec.maximum_latency_percent) / 100.0).max(usual + 50.0)
    };
    let (tail, usual) = (seen.canary.quantile(0.99), seen.stable.quantile(0.99));
    if tail <= limit(usual) {
        return Latency::Acceptable;
    }
    let figures =
        format!("99% of its answers come within {tail:.0} ms, and within {usual:.0} ms beside it");
    if seen.canary.quantile(0.95) > limit(seen.stable.quantile(0.95)) {
        Latency::Slow(figures)
    } else {
        Latency::Doubtful(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_api::Duration;

    fn spec() -> Canary {
        Canary {
            bake: Duration::seconds(60),
            ..Canary::default()
        }
    }

    fn lane(requests: u64, failed: u64, ms: usize) -> Lane {
        let mut latencies = vec![0; 16];
        latencies[ms] = requests;
        Lane {
            requests,
            failed,
            latencies,
        }
    }

    fn well() -> Seen {
        Seen {
            ready: 1,
            wanted: 1,
            weight_kept: true,
            canary: lane(200, 0, 3),
            stable: lane(1800, 2, 3),
            ..Seen::default()
        }
    }

    fn run(
        spec: &Canary,
        seen: impl Fn(i64, &CanaryStatus) -> Seen,
        until: i64,
    ) -> (Vec<(i64, i32)>, Step) {
        let (mut state, mut weights, mut last) = (None::<CanaryStatus>, Vec::new(), None);
        for now in 0..until {
            let current = state.clone().unwrap_or_else(|| CanaryStatus {
                revision: "new".into(),
                ..CanaryStatus::default()
            });
            let next = step(spec, "new", state.as_ref(), &seen(now, &current), now);
            let (Step::Try(new) | Step::Promote(new) | Step::Abort(new)) = &next;
            if weights
                .last()
                .is_none_or(|(_, weight)| *weight != new.weight)
            {
                weights.push((now, new.weight));
            }
            state = Some(new.clone());
            let ended = !matches!(next, Step::Try(_));
            last = Some(next);
            if ended {
                break;
            }
        }
        (
            weights,
            last.unwrap_or_else(|| unreachable!("at least one step")),
        )
    }

    #[test]
    fn a_good_change_gets_ten_twenty_five_and_fifty_percent_each_for_its_time_and_then_all() {
        let (weights, end) = run(&spec(), |_, _| well(), 600);
        assert_eq!(
            weights
                .iter()
                .map(|(_, weight)| *weight)
                .collect::<Vec<_>>(),
            [0, 10, 25, 50]
        );
        let times: Vec<i64> = weights.iter().skip(1).map(|(at, _)| *at).collect();
        assert!(
            times.windows(2).all(|pair| pair[1] - pair[0] >= 60),
            "{times:?}"
        );
        assert!(matches!(end, Step::Promote(state) if state.step == 4 && state.steps == 4));
    }

    #[test]
    fn a_bad_change_is_aborted_by_each_of_the_gates_and_stays_so() {
        type Spoil = fn(&mut Seen);
        let against: [(&str, Spoil); 6] = [
            ("restarted", |seen| seen.restarts = 1),
            ("did not become ready", |seen| seen.stuck = true),
            ("breakers opened", |seen| seen.opened = 1),
            ("tpg-bbd", |seen| {
                seen.breakers_open = vec!["tpg-bbd/bbd".into()];
            }),
            ("requests failed", |seen| seen.canary = lane(200, 5, 3)),
            ("answers come within", |seen| seen.canary = lane(200, 0, 9)),
        ];
        for (expected, spoil) in against {
            let (weights, end) = run(
                &spec(),
                |_, state| {
                    let mut seen = well();
                    if state.weight > 0 {
                        spoil(&mut seen);
                    }
                    seen
                },
                600,
            );
            assert!(
                weights.iter().all(|(_, weight)| *weight <= 10),
                "{expected}: {weights:?}"
            );
            let Step::Abort(state) = end else {
                panic!("{expected}: {end:?}")
            };
            assert!(
                state.message.contains(expected) && state.weight == 0,
                "{state:?}"
            );
            assert_eq!(
                step(&spec(), "new", Some(&state), &well(), 900),
                Step::Abort(state.clone()),
                "an abort stays"
            );
            assert!(
                matches!(step(&spec(), "newer", Some(&state), &well(), 900), Step::Try(fresh) if fresh.weight == 0 && fresh.revision == "newer")
            );
            let retry = Seen {
                command: Some(Command::Retry),
                ..well()
            };
            assert!(
                matches!(step(&spec(), "new", Some(&state), &retry, 900), Step::Try(fresh) if fresh.phase == CanaryPhase::Starting)
            );
        }
    }

    #[test]
    fn a_slow_hundredth_has_three_bake_times_to_pass_and_a_slow_twentieth_none() {
        let tail = |slow: u64| {
            let mut latencies = vec![0; 16];
            (latencies[3], latencies[9]) = (2_000 - slow, slow);
            Lane {
                requests: 2_000,
                failed: 0,
                latencies,
            }
        };
        let ended = |slow: fn(i64) -> u64| {
            let since = std::cell::Cell::new(None);
            let observed = |now: i64, state: &CanaryStatus| {
                let mut seen = well();
                if state.weight > 0 {
                    let began = since.get().unwrap_or(now);
                    since.set(Some(began));
                    seen.canary = tail(slow(now - began));
                }
                seen
            };
            let (weights, end) = run(&spec(), observed, 1_200);
            (weights, since.get().unwrap_or(0), end)
        };
        // A disturbance at the beginning is outweighed by what comes after it.
        let (_, _, end) = ended(|age| if age < 100 { 40 } else { 10 });
        assert!(matches!(end, Step::Promote(_)), "{end:?}");
        // Two in a hundred all the time are the change.
        let (weights, _, end) = ended(|_| 40);
        assert!(weights.iter().all(|(_, weight)| *weight <= 10));
        let Step::Abort(state) = end else {
            panic!("{end:?}")
        };
        assert!(state.message.contains("answers come within"), "{state:?}");
        let doubted = state.since;
        // One in ten is seen at the end of the bake time.
        let (_, _, end) = ended(|_| 200);
        let Step::Abort(state) = end else {
            panic!("{end:?}")
        };
        assert!(
            doubted >= state.since + 110,
            "{doubted} and {}",
            state.since
        );
    }

    #[test]
    fn as_bad_as_what_is_there_already_is_no_reason() {
        let both_bad = |_: i64, _: &CanaryStatus| Seen {
            canary: lane(200, 20, 9),
            stable: lane(1800, 180, 9),
            ..well()
        };
        assert!(matches!(run(&spec(), both_bad, 600).1, Step::Promote(_)));
    }

    #[test]
    fn without_traffic_nothing_is_judged_and_people_are_asked() {
        let (weights, end) = run(
            &spec(),
            |_, _| Seen {
                canary: lane(7, 7, 3),
                ..well()
            },
            900,
        );
        assert_eq!(weights.last().map(|(_, weight)| *weight), Some(10));
        let Step::Try(state) = end else {
            panic!("{end:?}")
        };
        assert!(
            state.phase == CanaryPhase::Paused && state.message.contains("7 requests"),
            "{state:?}"
        );
        let said = |command| {
            step(
                &spec(),
                "new",
                Some(&state),
                &Seen {
                    command: Some(command),
                    canary: lane(7, 0, 3),
                    ..well()
                },
                1000,
            )
        };
        assert!(matches!(said(Command::Promote), Step::Promote(_)));
        assert!(matches!(said(Command::Abort), Step::Abort(_)));
        assert!(
            matches!(said(Command::Resume), Step::Try(state) if state.phase == CanaryPhase::Baking && state.since == 1000)
        );
    }

    #[test]
    fn a_step_s_clock_starts_when_every_pod_keeps_its_weight_and_stands_still_while_frozen() {
        let slow = |now: i64, _: &CanaryStatus| Seen {
            weight_kept: now > 100,
            ..well()
        };
        let (weights, _) = run(&spec(), slow, 600);
        assert!(weights[2].0 > 160, "{weights:?}");
        let frozen = |now: i64, _: &CanaryStatus| Seen {
            frozen: (now > 10).then(|| "a breaker is open".to_owned()),
            ..well()
        };
        let (weights, end) = run(&spec(), frozen, 600);
        assert_eq!(weights.last().map(|(_, weight)| *weight), Some(10));
        assert!(matches!(end, Step::Try(state) if state.message.contains("a breaker is open")));
    }

    #[test]
    fn there_are_pods_for_the_share_before_the_share_is_given() {
        let state = |step, weight| CanaryStatus {
            step,
            weight,
            steps: 4,
            ..CanaryStatus::default()
        };
        let pods = |step, weight| super::pods(&spec(), &state(step, weight), 10);
        assert_eq!(
            [
                pods(0, 0),
                pods(1, 10),
                pods(2, 25),
                pods(2, 50),
                pods(4, 50)
            ],
            [1, 3, 5, 5, 5]
        );
        assert_eq!(super::pods(&spec(), &state(0, 0), 2), 1);
    }

    #[test]
    fn a_revision_that_serves_has_passed_though_the_status_does_not_say_so_yet() {
        let baking = CanaryStatus {
            phase: CanaryPhase::Baking,
            weight: 50,
            step: 2,
            steps: 4,
            message: "told".into(),
            ..CanaryStatus::default()
        };
        let promoting = passed(&baking, 9).unwrap();
        assert_eq!(
            (promoting.phase, promoting.step, promoting.since),
            (CanaryPhase::Promoting, 4, 9)
        );
        assert_eq!(passed(&promoting, 20), Some(promoting));
        assert_eq!(
            passed(
                &CanaryStatus {
                    phase: CanaryPhase::Aborted,
                    ..baking
                },
                9
            ),
            None
        );
    }
}
