//! Downloads and uploads that go on until they are stopped.

use super::dial::Route;
use super::server::{Server, discard, send};
use super::{block_on, verb};
use crate::network::Namespace;
use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Which way the bytes go, as the app sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// Tunnels that carry as much as they can, on a thread of their own; they end when this is dropped.
pub(crate) struct Bulk<'a> {
    direction: Direction,
    server: &'a Server,
    /// What the app has received of each download, and written of each upload.
    moved: Vec<Arc<AtomicU64>>,
    broken: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<'a> Bulk<'a> {
    /// Opens the tunnels, and lets them run once all are open.
    pub(crate) fn start(
        client: &Namespace,
        route: Route,
        server: &'a Server,
        direction: Direction,
        tunnels: usize,
    ) -> Result<Self> {
        let moved: Vec<_> = (0..tunnels).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let broken = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = oneshot::channel();
        let (open, is_open) = mpsc::channel();
        let (counters, failed) = (moved.clone(), broken.clone());
        let thread = client.spawn(move || {
            // This cannot fail: errors are sent.
            let _ = block_on(async {
                let mut streams = Vec::new();
                for counter in counters {
                    let verb = if direction == Direction::Down { verb::DOWNLOAD } else { verb::UPLOAD };
                    match route.open_for(&[verb]).await {
                        Ok(stream) => streams.push((stream, counter)),
                        Err(error) => {
                            let _ = open.send(Err(error));
                            return Ok(());
                        }
                    }
                }
                for (stream, counter) in streams {
                    let failed = failed.clone();
                    tokio::spawn(async move {
                        let _ended = match direction {
                            Direction::Down => discard(&stream, &counter).await,
                            Direction::Up => send(&stream, &counter).await,
                        };
                        // None of them ends by itself.
                        failed.store(true, Ordering::Relaxed);
                    });
                }
                let _ = open.send(Ok(()));
                let _ = stopped.await;
                Ok(())
            });
        });
        let bulk = Self { direction, server, moved, broken, stop: Some(stop), thread: Some(thread) };
        is_open.recv().context("the load generator's thread ended")?.context("a tunnel does not open")?;
        Ok(bulk)
    }

    /// All bytes that have arrived so far.
    pub(crate) fn bytes(&self) -> u64 {
        match self.direction {
            Direction::Down => self.each().iter().sum(),
            Direction::Up => self.server.received(),
        }
    }

    /// What each download has received so far, or what of each upload has been written.
    pub(crate) fn each(&self) -> Vec<u64> {
        self.moved.iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
    }

    /// Fails if a tunnel has ended.
    pub(crate) fn unbroken(&self) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            bail!("a tunnel broke under load");
        }
        Ok(())
    }
}

impl Drop for Bulk<'_> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
