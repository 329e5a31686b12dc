//! The PgBouncer processes of the pod, by their reports.

use std::collections::BTreeMap;

use mrg_pgbouncer::Pools;

/// What is known of one process.
#[derive(Default)]
struct Process {
    /// The number of the target that it has reached; `None` while it does not run.
    settled: Option<u64>,
    drained: u64,
    pools: Pools,
}

/// What is known of all of them.
pub(crate) struct Processes {
    /// How many there are to be.
    expected: usize,
    known: BTreeMap<u16, Process>,
}

impl Processes {
    /// Nothing known yet of this many processes.
    pub(crate) fn new(expected: u16) -> Self {
        Self {
            expected: usize::from(expected),
            known: BTreeMap::new(),
        }
    }

    /// A process has reached a target.
    pub(crate) fn note_settled(&mut self, process: u16, target: u64) {
        self.known.entry(process).or_default().settled = Some(target);
    }

    /// A process has no transaction under way under a target.
    pub(crate) fn note_drained(&mut self, process: u16, target: u64) {
        self.known.entry(process).or_default().drained = target;
    }

    /// The state of a process's pools.
    pub(crate) fn note_pools(&mut self, process: u16, pools: Pools) {
        self.known.entry(process).or_default().pools = pools;
    }

    /// A process ended.
    pub(crate) fn note_end(&mut self, process: u16) {
        self.known.insert(process, Process::default());
    }

    /// The newest target under which no process has a transaction under way. One that does not run
    /// has none: with no process at all it is `u64::MAX`.
    pub(crate) fn drained(&self) -> u64 {
        self.known
            .values()
            .filter(|process| process.settled.is_some())
            .map(|process| process.drained)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Whether every process runs and has reached a target.
    pub(crate) fn all_settled(&self) -> bool {
        let settled = |process: &&Process| process.settled.is_some();
        self.known.values().filter(settled).count() == self.expected
    }

    /// The sums over all processes, and the longest of the waits.
    pub(crate) fn pools(&self) -> Pools {
        let add = |sum: Pools, process: &Process| Pools {
            clients: sum.clients + process.pools.clients,
            waiting: sum.waiting + process.pools.waiting,
            servers_active: sum.servers_active + process.pools.servers_active,
            servers_idle: sum.servers_idle + process.pools.servers_idle,
            longest_wait_us: sum.longest_wait_us.max(process.pools.longest_wait_us),
        };
        self.known.values().fold(Pools::default(), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_drained_when_all_running_processes_are() {
        let mut processes = Processes::new(2);
        assert_eq!(processes.drained(), u64::MAX);
        processes.note_settled(1, 3);
        processes.note_settled(2, 3);
        assert_eq!(processes.drained(), 0);
        processes.note_drained(1, 3);
        assert_eq!(processes.drained(), 0);
        processes.note_end(2);
        assert_eq!(processes.drained(), 3);
        assert!(!processes.all_settled());
    }

    #[test]
    fn counts_are_added_and_the_longest_wait_is_the_longest_of_one() {
        let mut processes = Processes::new(2);
        for (process, longest_wait_us) in [(1, 5), (2, 9)] {
            let pools = Pools {
                clients: 2,
                longest_wait_us,
                ..Pools::default()
            };
            processes.note_pools(process, pools);
        }
        let pools = processes.pools();
        assert_eq!((pools.clients, pools.longest_wait_us), (4, 9));
    }
}
