//! The breaker against gobreaker itself, its permits under concurrency, and what must hold whatever
//! happens.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;

use mrg_base::{Millis, Moment};
use mrg_breaker::{Breaker, Counts, Outcome, Ratio, Refusal, Settings, State, Ticket};

/// splitmix64, by Sebastiano Vigna (public domain).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// FNV-1a over 32-bit words.
struct Digest(u64);

impl Digest {
    fn add(&mut self, words: &[u32]) {
        for word in words {
            self.0 = (self.0 ^ u64::from(*word)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn counts(&mut self, counts: &Counts) {
        self.add(&[
            counts.requests,
            counts.successes,
            counts.failures,
            counts.exclusions,
            counts.consecutive_successes,
            counts.consecutive_failures,
        ]);
    }
}

/// One random trace; `tests/gobreaker/oracle_test.go` does the same with the real library.
fn trace(seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut digest = Digest(0xcbf2_9ce4_8422_2325);
    let max_requests = u32::try_from(random.below(5)).unwrap();
    let interval = Millis(random.pick(&[0, 1, 7, 20, 50]));
    let bucket = Millis(random.pick(&[0, 0, 3, 5, 20, 60]));
    let timeout = Millis(random.pick(&[0, 1, 10, 30]));
    let min_requests = u32::try_from(random.below(6)).unwrap();
    let failure_ratio = Ratio::try_from(random.pick(&[0.1, 0.3, 0.5, 0.75, 1.0])).unwrap();
    let max_requests = NonZeroU32::new(max_requests).unwrap_or(NonZeroU32::MIN);
    let mut now = Moment(1_000_000);
    let mut breaker = Breaker::new(
        Settings {
            max_requests,
            interval,
            bucket,
            timeout,
            min_requests,
            failure_ratio,
        },
        now,
    );
    let mut under_way: Vec<Ticket> = Vec::new();
    for _ in 0..60 {
        match random.below(10) {
            0..4 => match breaker.admit(now) {
                Ok(ticket) => {
                    under_way.push(ticket);
                    digest.add(&[1, 0]);
                }
                Err(Refusal::Open { .. }) => digest.add(&[1, 1]),
                Err(Refusal::TooManyProbes) => digest.add(&[1, 2]),
            },
            4..7 => {
                let outcome = random.pick(&[Outcome::Success, Outcome::Failure, Outcome::Excluded]);
                if !under_way.is_empty() {
                    let at = usize::try_from(random.below(under_way.len() as u64)).unwrap();
                    breaker.report(now, under_way.remove(at), outcome);
                }
            }
            7..9 => now = now + Millis(random.pick(&[0, 1, 1, 2, 3, 5, 7, 10, 20, 30])),
            _ => {
                let state = match breaker.state(now) {
                    State::Closed => 0,
                    State::HalfOpen => 1,
                    State::Open => 2,
                };
                digest.add(&[2, state]);
            }
        }
        digest.counts(&breaker.counts());
    }
    digest.0
}

#[test]
fn a_hundred_thousand_random_traces_end_as_gobreakers_do() {
    const TRACES: u64 = 100_000;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gobreaker");
    let file = tempfile::NamedTempFile::new().unwrap();
    let oracle = Command::new("go")
        .args(["test", "-count=1", "-run=TestTraces", "."])
        .current_dir(&folder)
        .env("ORACLE_FIRST", "0")
        .env("ORACLE_COUNT", TRACES.to_string())
        .env("ORACLE_FILE", file.path())
        .output()
        .expect("Go runs the real gobreaker: `e2e/lab/dependencies packages` installs it");
    assert!(
        oracle.status.success(),
        "{}{}",
        String::from_utf8_lossy(&oracle.stdout),
        String::from_utf8_lossy(&oracle.stderr)
    );
    let digests = std::fs::read_to_string(file.path()).unwrap();
    let mut seeds = 0;
    for (seed, line) in (0..).zip(digests.lines()) {
        assert_eq!(
            format!("{:016x}", trace(seed)),
            line,
            "seed {seed}: `ORACLE_STORY=1 ORACLE_FIRST={seed} ORACLE_COUNT=1 ORACLE_FILE=/dev/null go test -count=1 -v .` in {} tells the real one's story",
            folder.display()
        );
        seeds += 1;
    }
    assert_eq!(seeds, TRACES);
}

/// A half-open breaker, the tickets of its callers, and how many requests were excluded so far.
type Situation = (Breaker, Vec<Option<Ticket>>, u32);

/// Five callers, three permits: every order of admissions, ends, and the passing of time, with the
/// callers' tickets kept until they end.
#[test]
fn no_order_of_five_callers_gets_more_than_three_through_a_half_open_breaker_or_leaves_it_stuck() {
    let settings = Settings {
        interval: Millis(0),
        min_requests: 1,
        timeout: Millis(10),
        ..Settings::default()
    };
    let mut opened = Breaker::new(settings, Moment(0));
    let ticket = opened.admit(Moment(0)).unwrap();
    opened.report(Moment(0), ticket, Outcome::Failure);
    let now = Moment(11);
    assert_eq!(opened.state(now), State::HalfOpen);

    let mut seen = BTreeSet::new();
    let mut queue = VecDeque::from([(opened, vec![None; 5], 0u32)]);
    let (mut closed, mut reopened) = (0, 0);
    while let Some((breaker, mut callers, excluded)) = queue.pop_front() {
        callers.sort();
        if !seen.insert(format!("{breaker:?}{callers:?}{excluded}")) {
            continue;
        }
        match breaker.clone().state(now) {
            State::HalfOpen => {
                assert_has_room(breaker.clone(), &callers, now);
                queue.extend(followers(&(breaker, callers, excluded), now));
            }
            State::Closed => closed += 1,
            State::Open => reopened += 1,
        }
    }
    assert!(closed > 0 && reopened > 0, "both ends are reached");
}

/// Whatever is under way may end as excluded; then there is room again.
fn assert_has_room(mut breaker: Breaker, callers: &[Option<Ticket>], now: Moment) {
    breaker.state(now);
    let held: Vec<Ticket> = callers.iter().copied().flatten().collect();
    assert!(held.len() <= 3, "{} at once", held.len());
    for ticket in held {
        breaker.report(now, ticket, Outcome::Excluded);
    }
    let counts = breaker.counts();
    assert!(
        counts.valid_requests() == counts.successes && counts.successes < 3,
        "{counts:?}"
    );
    assert!(breaker.admit(now).is_ok(), "stuck: {counts:?}");
}

/// What one caller can make of a situation: a request that begins, or one that ends in any way.
fn followers((breaker, callers, excluded): &Situation, now: Moment) -> Vec<Situation> {
    let mut followers = Vec::new();
    for (at, caller) in callers.iter().enumerate() {
        let Some(ticket) = *caller else {
            let (mut breaker, mut callers) = (breaker.clone(), callers.clone());
            let answer = breaker.admit(now);
            let contradiction = Refusal::Open {
                retry_after: Millis(0),
            };
            assert!(answer != Err(contradiction));
            callers[at] = answer.ok();
            followers.push((breaker, callers, *excluded));
            continue;
        };
        for outcome in [Outcome::Success, Outcome::Failure, Outcome::Excluded] {
            if outcome == Outcome::Excluded && *excluded == 3 {
                continue;
            }
            let (mut breaker, mut callers) = (breaker.clone(), callers.clone());
            breaker.report(now, ticket, outcome);
            callers[at] = None;
            let excluded = excluded + u32::from(outcome == Outcome::Excluded);
            followers.push((breaker, callers, excluded));
        }
    }
    followers
}

fn after_ten(failures: u32) -> Breaker {
    let mut breaker = Breaker::new(Settings::default(), Moment(0));
    for number in 0..10 {
        let ticket = breaker.admit(Moment(0)).unwrap();
        breaker.report(
            Moment(0),
            ticket,
            if number < 10 - failures {
                Outcome::Success
            } else {
                Outcome::Failure
            },
        );
    }
    breaker
}

#[test]
fn the_tenth_request_at_half_failures_opens_and_four_failures_of_ten_do_not() {
    assert_eq!(after_ten(5).last_state(), State::Open);
    assert_eq!(after_ten(4).last_state(), State::Closed);
}

#[test]
fn a_success_never_opens_even_if_the_share_is_reached_by_its_admission() {
    let mut breaker = Breaker::new(Settings::default(), Moment(0));
    for outcome in [Outcome::Failure; 5]
        .into_iter()
        .chain([Outcome::Success; 5])
    {
        let ticket = breaker.admit(Moment(0)).unwrap();
        breaker.report(Moment(0), ticket, outcome);
    }
    assert_eq!(breaker.last_state(), State::Closed);
}

#[test]
fn at_its_deadline_an_open_breaker_is_still_open() {
    let mut breaker = after_ten(10);
    assert_eq!(
        breaker.admit(Moment(30_000)),
        Err(Refusal::Open {
            retry_after: Millis(0)
        })
    );
    assert!(breaker.admit(Moment(30_001)).is_ok());
    assert_eq!(breaker.last_state(), State::HalfOpen);
}

#[test]
fn three_successes_close_and_one_failure_opens_again() {
    let mut breaker = after_ten(10);
    let now = Moment(30_001);
    let tickets: Vec<Ticket> = (0..3).map(|_| breaker.admit(now).unwrap()).collect();
    assert_eq!(breaker.admit(now), Err(Refusal::TooManyProbes));
    let mut other = breaker.clone();
    for ticket in &tickets {
        breaker.report(now, *ticket, Outcome::Success);
    }
    assert_eq!(breaker.last_state(), State::Closed);
    other.report(now, tickets[0], Outcome::Success);
    other.report(now, tickets[1], Outcome::Failure);
    assert_eq!(other.last_state(), State::Open);
    other.report(now, tickets[2], Outcome::Failure);
    assert_eq!(
        other.opens_until(),
        Some(Moment(60_001)),
        "a late result of an earlier generation changes nothing"
    );
}
