//! Room for clusters that run at the same time, each on ports of its own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Clusters wait more than they compute: so many are bearable on two cores.
const SEATS: usize = 3;
const FIRST_PORT: u16 = 21_000;
const PORTS: u16 = 50;

static TAKEN: Mutex<[bool; SEATS]> = Mutex::new([false; SEATS]);
static FREED: Condvar = Condvar::new();

/// One seat, or all of them; free again when it is dropped.
pub(crate) struct Seat {
    first: usize,
    count: usize,
}

fn taken() -> MutexGuard<'static, [bool; SEATS]> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seat {
    /// A seat beside others.
    pub(crate) fn shared() -> Self {
        Self::take(1)
    }

    /// All seats: where a test loads the processors, others would fail of it.
    pub(crate) fn alone() -> Self {
        Self::take(SEATS)
    }

    fn take(count: usize) -> Self {
        let mut taken = taken();
        loop {
            let free = taken
                .windows(count)
                .position(|seats| !seats.contains(&true));
            if let Some(first) = free {
                taken[first..first + count].fill(true);
                return Self { first, count };
            }
            taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The first of fifty ports.
    pub(crate) fn base_port(&self) -> u16 {
        FIRST_PORT + PORTS * u16::try_from(self.first).unwrap()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        taken()[self.first..self.first + self.count].fill(false);
        FREED.notify_all();
    }
}
