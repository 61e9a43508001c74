//! What threads share, and how they end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What `mutex` holds, even if a thread died with it: nothing here is ever half changed.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a thread that is about to end, but not for ever: it may be held up by somebody who does not read, or by a
/// command, and who was told to end has to. Returns whether it has ended.
pub fn join_soon<T>(thread: JoinHandle<T>) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    let start = Instant::now();
    while !thread.is_finished() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = thread.join();
    true
}
