//! What a breaker's word costs: nanoseconds a decision, with the lock and the clock that the proxy
//! has around it.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use mrg_base::Millis;
use mrg_breaker::{Gate, Mode, Outcome, Settings};

const ROUNDS: u32 = 2_000_000;

fn nanoseconds(mut decide: impl FnMut()) -> f64 {
    // The median of a few, since something else may run meanwhile.
    let mut took: Vec<f64> = (0..7)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..ROUNDS {
                decide();
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

fn admit(gate: &Mutex<Gate>, outcome: Outcome) {
    let mut locked = gate.lock().unwrap_or_else(|error| panic!("{error}"));
    let now = mrg_clock::now();
    if let Ok(admission) = black_box(locked.admit(now)) {
        drop(locked);
        // The answer comes at another time.
        let mut locked = gate.lock().unwrap_or_else(|error| panic!("{error}"));
        locked.report(mrg_clock::now(), black_box(admission), outcome);
    }
}

fn main() {
    let fixed = Settings::default();
    let rolling = Settings {
        bucket: Millis(1_000),
        ..fixed
    };
    println!("| a decision and its report | ns |\n|---|---|");
    for (name, settings) in [
        ("fixed window", fixed),
        ("rolling window, 60 buckets", rolling),
    ] {
        let gate = Mutex::new(Gate::new(Mode::Enforce, settings, mrg_clock::now()));
        println!(
            "| closed, {name} | {:.0} |",
            nanoseconds(|| admit(&gate, Outcome::Success))
        );
    }
    let gate = Mutex::new(Gate::new(
        Mode::Enforce,
        Settings {
            timeout: Millis(3_600_000),
            ..fixed
        },
        mrg_clock::now(),
    ));
    for _ in 0..10 {
        admit(&gate, Outcome::Failure);
    }
    println!(
        "| open: refused, nothing to report | {:.0} |",
        nanoseconds(|| admit(&gate, Outcome::Failure))
    );
    println!(
        "| the clock alone, of which a decision and its report need two | {:.0} |",
        nanoseconds(|| {
            black_box(mrg_clock::now());
        })
    );
}
