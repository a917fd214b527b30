//! A thread with a runtime of its own.

use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::runtime::{Handle, Runtime};

use crate::net;
use crate::problem::Problem;
use crate::threads;

/// Starts `thread`, which runs `run` with a new runtime. Returns the runtime's handle as well.
pub(super) fn start(
    thread: Builder,
    run: impl FnOnce(Runtime) + Send + 'static,
) -> Result<(Handle, JoinHandle<()>), Problem> {
    let runtime = net::runtime().map_err(|error| Problem::new("the runtime cannot start").because(error))?;
    let handle = runtime.handle().clone();
    let (give, given) = mpsc::channel();
    let wait = move || {
        if let Ok(runtime) = given.recv() {
            run(runtime);
        }
    };
    match thread.spawn(wait) {
        Ok(thread) => {
            // It waits for this.
            let _ = give.send(runtime);
            Ok((handle, thread))
        }
        Err(error) => {
            // Dropping it would wait for its end, which panics where other tasks run.
            runtime.shutdown_background();
            Err(threads::refused(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_cannot_start_is_an_error() {
        // No machine has so much memory.
        let problem = start(Builder::new().stack_size(1 << 60), drop).map(drop).unwrap_err().to_string();
        assert!(problem.starts_with("error: cannot start a thread\ncaused by: "), "{problem}");
        assert!(problem.contains("hint: check the limits"), "{problem}");
    }
}
