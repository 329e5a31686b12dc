//! The simulator at a terminal.
//!
//!   sim SEED               one day, as a story
//!   sim --count N [--from SEED]   so many days, and what they found
//!   sim --mutants N        each bug by hand: found in which of the first N days, and how

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use mrg_election::mutant::{self, Mutant};
use mrg_election_sim::{Report, Schedule, reduce, run};

thread_local! {
    /// The day that this thread simulates.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if let Some(count) = number("--mutants") {
        mutants(count);
        return;
    }
    if let ([flag, name, ..], Some(count)) = (arguments.as_slice(), number("--count"))
        && flag == "--mutant"
    {
        search(name, count);
        return;
    }
    let failed = match (
        arguments.first().and_then(|first| first.parse().ok()),
        number("--count"),
    ) {
        (Some(seed), _) => one(seed),
        (None, Some(count)) => many(number("--from").unwrap_or(0), count),
        (None, None) => {
            eprintln!("say a seed, or --count N [--from SEED]");
            std::process::exit(2);
        }
    };
    std::process::exit(i32::from(failed));
}

fn one(seed: u64) -> bool {
    let schedule = Schedule::of(seed);
    let report = run(&schedule, true);
    let shown = if report.violation.is_some() {
        reduce(&schedule)
    } else {
        schedule
    };
    tell(&shown)
}

fn tell(schedule: &Schedule) -> bool {
    println!(
        "seed {}: {} members, {} poolers, {:?}",
        schedule.seed, schedule.members, schedule.poolers, schedule.settings
    );
    println!(
        "clocks off by {:?} ppm, {:?}, a write every {} ms",
        schedule.skew, schedule.delays, schedule.think
    );
    let Report {
        violation,
        story,
        failovers,
        acknowledged,
        lasted,
        ..
    } = run(schedule, true);
    for (at, line) in story {
        println!("{:>4}.{:03}  {line}", at / 1000, at % 1000);
    }
    println!(
        "{:>4}.{:03}  {failovers} failovers, {acknowledged} commits acknowledged",
        lasted / 1000,
        lasted % 1000
    );
    if let Some(what) = &violation {
        println!("VIOLATION  {what}");
    }
    violation.is_some()
}

fn many(from: u64, count: u64) -> bool {
    let began = Instant::now();
    let (next, failing) = (AtomicU64::new(from), Mutex::new(Vec::new()));
    let (failovers, commits, events, slowest) = (
        AtomicU64::new(0),
        AtomicU64::new(0),
        AtomicU64::new(0),
        AtomicU64::new(0),
    );
    let reached = Mutex::new(BTreeSet::new());
    let report_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("seed {}:", SEED.get());
        report_panic(panic);
    }));
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    SEED.set(seed);
                    let report = run(&Schedule::of(seed), false);
                    failovers.fetch_add(report.failovers, Ordering::Relaxed);
                    commits.fetch_add(report.acknowledged, Ordering::Relaxed);
                    events.fetch_add(report.events, Ordering::Relaxed);
                    slowest.fetch_max(report.recovered_in, Ordering::Relaxed);
                    reached
                        .lock()
                        .expect("no panic here")
                        .extend(report.reached);
                    if let Some(what) = report.violation {
                        failing.lock().expect("no panic here").push((seed, what));
                    }
                }
            });
        }
    });
    let took = began.elapsed();
    let failing = failing.into_inner().expect("no panic here");
    let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{count} days, {} failovers, {} commits acknowledged, {} events in {:.1} s: {:.0} failovers a second a core; slowest to be whole again: {:.1} s",
        total(&failovers),
        total(&commits),
        total(&events),
        took.as_secs_f64(),
        total(&failovers) as f64 / took.as_secs_f64() / jobs as f64,
        total(&slowest) as f64 / 1000.0,
    );
    println!(
        "reasons reached: {}",
        reached
            .into_inner()
            .expect("no panic here")
            .iter()
            .map(|reason| reason.label())
            .collect::<Vec<_>>()
            .join(" ")
    );
    for (seed, what) in &failing {
        println!("seed {seed}: {what}");
    }
    !failing.is_empty()
}

/// Prints a line: the bug, the day that found it or `-`, and what was seen. A failing assertion ends
/// the process where a panic aborts, so that this is all that the process does.
fn search(name: &str, count: u64) {
    let mutant = Mutant::ALL
        .iter()
        .find(|mutant| mutant.name() == name)
        .expect("a bug of the list");
    mutant::set(Some(*mutant));
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let message = text
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or_default();
        println!("{}\t{}\t{message}", mutant.name(), SEED.get() + 1);
    }));
    for seed in 0..count {
        SEED.set(seed);
        if let Some(what) = run(&Schedule::of(seed), false).violation {
            println!("{name}\t{}\t{what}", seed + 1);
            return;
        }
    }
    println!("{name}\t-\t");
}

/// A line for each bug, in the order of the list, from a process of its own.
fn mutants(count: u64) {
    let program = std::env::current_exe().expect("the path of this program");
    let next = AtomicUsize::new(0);
    let lines = Mutex::new(Vec::new());
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = Mutant::ALL.get(index) else {
                        return;
                    };
                    let output = Command::new(&program)
                        .args(["--mutant", mutant.name(), "--count", &count.to_string()])
                        .output()
                        .expect("this program again");
                    let line = String::from_utf8_lossy(&output.stdout).into_owned();
                    lines.lock().expect("no panic here").push((index, line));
                }
            });
        }
    });
    let mut lines = lines.into_inner().expect("no panic here");
    lines.sort();
    for (_, line) in &lines {
        print!("{line}");
    }
}
