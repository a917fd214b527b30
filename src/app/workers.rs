//! The threads that serve links.

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::net;
use crate::problem::Problem;

/// The threads that serve links, each with its own runtime: a link and its tunnels never move to another thread.
pub(super) struct Workers {
    /// Their runtimes.
    pub(super) handles: Vec<Handle>,
    stops: Vec<oneshot::Sender<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> Result<Self, Problem> {
        let failed = |error: std::io::Error| Problem::new("cannot start a thread").because(error);
        let mut workers = Self { handles: Vec::new(), stops: Vec::new(), threads: Vec::new() };
        for number in 0..count {
            let runtime = net::runtime().map_err(failed)?;
            let (stop, stopped) = oneshot::channel::<()>();
            workers.handles.push(runtime.handle().clone());
            workers.stops.push(stop);
            let thread = std::thread::Builder::new().name(format!("link-{number}"));
            let thread = thread.spawn(move || drop(runtime.block_on(stopped))).map_err(failed)?;
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
