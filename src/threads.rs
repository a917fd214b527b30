//! Threads, of which the system may permit only a few.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

use crate::problem::Problem;

/// Fails unless this many more threads can run at the same time. A runtime that needs one later and gets none panics.
///
/// # Errors
/// [`refused`].
pub fn check(count: usize) -> Result<(), Problem> {
    let gate = Mutex::new(());
    let started = thread::scope(|scope| {
        // They end when this does.
        let _closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        (0..count).try_for_each(|_| {
            let wait = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
            Builder::new().spawn_scoped(scope, wait).map(drop)
        })
    });
    started.map_err(refused)
}

/// The problem of a thread that the system does not permit.
pub fn refused(error: io::Error) -> Problem {
    Problem::new("cannot start a thread").because(error).hint(
        "check the limits of threads and memory: 'ulimit -u', 'ulimit -v'; for a service TasksMax=, for a container pids.max",
    )
}
