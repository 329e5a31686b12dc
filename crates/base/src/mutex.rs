//! The one way to take a mutex in this workspace.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the mutex, also after a thread panicked while it held it.
///
/// # Assumptions
/// What is behind the mutex is whole between any two statements of its holders, so a panic leaves
/// nothing half done.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
