//! Makes a failing day shorter.

use crate::schedule::{Fault, Schedule};

/// The day with as few faults as still make it fail. (Zeller's delta debugging, one fault at a
/// time: the lists are short.)
pub fn reduce(schedule: &Schedule) -> Schedule {
    let fails = |schedule: &Schedule| super::run(schedule, false).violation.is_some();
    let mut best = schedule.clone();
    let mut index = 0;
    while index < best.faults.len() {
        let mut shorter = best.clone();
        shorter.faults.remove(index);
        if fails(&shorter) {
            best = shorter;
        } else {
            index += 1;
        }
    }
    for simpler in [simplify_poolers, simplify_clocks, simplify_network] {
        let mut other = best.clone();
        simpler(&mut other);
        if fails(&other) {
            best = other;
        }
    }
    best
}

fn simplify_poolers(schedule: &mut Schedule) {
    let ends = schedule.members + 1;
    let without = |fault: &Fault| match fault {
        Fault::Cut(from, to, _) => *from < ends && *to < ends,
        Fault::KillPooler(..) | Fault::PausePooler(..) => false,
        _ => true,
    };
    schedule.faults.retain(|(_, fault)| without(fault));
    schedule.poolers = 0;
}

fn simplify_clocks(schedule: &mut Schedule) {
    schedule.skew.fill(0);
}

fn simplify_network(schedule: &mut Schedule) {
    schedule.delays.lost = 0;
    schedule.delays.network.1 = schedule.delays.network.0;
}
