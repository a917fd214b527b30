//! The threads that serve links.

use std::thread::{Builder, JoinHandle};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::thread;
use crate::problem::Problem;
use crate::sys::blocking;
use crate::threads;

/// The threads that serve links, each with its own runtime: a link and its tunnels never move to another thread.
pub(super) struct Workers {
    /// Their runtimes.
    pub(super) handles: Vec<Handle>,
    stops: Vec<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads, if the system permits the node all that it needs: these, that of the state directory, the reserve
    /// for what blocks, and another one for it.
    pub(super) fn start(count: usize) -> Result<Self, Problem> {
        blocking::start().map_err(threads::refused)?;
        threads::check(count + 2)?;
        let mut workers = Self { handles: Vec::new(), stops: Vec::new(), threads: Vec::new() };
        for number in 0..count {
            let (stop, stopped) = oneshot::channel::<()>();
            let named = Builder::new().name(format!("link-{number}"));
            let (handle, thread) = thread::start(named, |runtime| drop(runtime.block_on(stopped)))?;
            workers.handles.push(handle);
            workers.stops.push(stop);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Stops them, and waits for their end.
    pub(super) fn stop(self) {
        drop(self.stops);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a link thread failed");
            }
        }
    }
}
