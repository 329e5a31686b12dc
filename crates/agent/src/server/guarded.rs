use std::sync::Mutex;

use mrg_base::lock;

/// State of one subject. The lock lasts for one closure, so it cannot be held across an `await`.
/// No closure takes another lock: there is no order to keep.
#[derive(Default)]
pub(super) struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&lock(&self.0))
    }

    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut lock(&self.0))
    }
}
