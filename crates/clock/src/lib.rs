//! The clock of agents and poolers: it never steps, and it counts the time that the machine slept.

use nix::time::ClockId;

use mrg_base::{Millis, Moment};

/// Now, by `CLOCK_BOOTTIME`. The same in every process of this boot, so deadlines can be handed
/// over.
///
/// # Panics
/// If the kernel has no such clock (Linux has had it since 2.6.39).
pub fn now() -> Moment {
    let time = ClockId::CLOCK_BOOTTIME
        .now()
        .unwrap_or_else(|error| panic!("CLOCK_BOOTTIME cannot be read: {error}"));
    Moment(time.tv_sec().unsigned_abs() * 1000 + time.tv_nsec().unsigned_abs() / 1_000_000)
}

/// Sleeps until a moment. Re-checked in slices, since the runtime's own clock does not count
/// suspension.
pub async fn sleep_until(moment: Moment) {
    loop {
        let left = moment.since(now());
        if left == Millis(0) {
            return;
        }
        tokio::time::sleep(left.min(Millis(1_000)).duration()).await;
    }
}
