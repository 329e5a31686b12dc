//! Room for clusters that run at the same time, each on ports of its own, also where two runs of
//! the tests share a machine.

use std::fs::File;
use std::time::Duration;

/// Clusters wait more than they compute: so many are bearable on two cores.
const SEATS: u16 = 3;
const FIRST_PORT: u16 = 21_000;
const PORTS: u16 = 50;

/// One seat, or all of them; free again when it is dropped, or its process ends.
pub(crate) struct Seat {
    first: u16,
    _locks: Vec<File>,
}

impl Seat {
    /// A seat beside others.
    pub(crate) fn shared() -> Self {
        Self::take(|| (0..SEATS).find_map(|seat| Some((seat, vec![lock(seat)?]))))
    }

    /// All seats: where a test loads the processors, others would fail of it.
    pub(crate) fn alone() -> Self {
        Self::take(|| Some((0, (0..SEATS).map(lock).collect::<Option<_>>()?)))
    }

    fn take(free: impl Fn() -> Option<(u16, Vec<File>)>) -> Self {
        loop {
            if let Some((first, locks)) = free() {
                return Self {
                    first,
                    _locks: locks,
                };
            }
            // A lock that another process releases announces nothing.
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The first of fifty ports.
    pub(crate) fn base_port(&self) -> u16 {
        FIRST_PORT + PORTS * self.first
    }
}

fn lock(seat: u16) -> Option<File> {
    let path = std::env::temp_dir().join(format!("mrg-standalone-{seat}.lock"));
    let file = File::create(path).unwrap();
    file.try_lock().ok().map(|()| file)
}
