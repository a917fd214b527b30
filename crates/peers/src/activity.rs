//! What this node does for others now, counted by the parts that do it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use tokio::sync::{Notify, watch};

use laneway_telemetry::traffic::Traffic;

/// What this node does for others, and whether it is about to stop.
#[derive(Debug, Default)]
pub struct Activity {
    /// Open tunnels of other nodes.
    pub tunnels: AtomicU32,
    /// Bytes carried for other nodes.
    pub traffic: Arc<Traffic>,
    draining: AtomicBool,
    drain: Notify,
    /// Whether this node is in maintenance: not to serve, although it could.
    maintenance: watch::Sender<bool>,
}

impl Activity {
    /// Starts with no tunnels. `traffic` counts the bytes carried for others.
    pub fn new(traffic: Arc<Traffic>) -> Self {
        Self { traffic, ..Self::default() }
    }

    /// Announces that this node is about to stop. It cannot be undone.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.drain.notify_one();
    }

    /// Sets whether this node is in maintenance. Returns whether that is a change.
    pub fn set_maintenance(&self, wanted: bool) -> bool {
        self.maintenance.send_if_modified(|now| std::mem::replace(now, wanted) != wanted)
    }

    /// Whether this node is in maintenance, and its changes.
    pub fn maintenance(&self) -> watch::Receiver<bool> {
        self.maintenance.subscribe()
    }

    /// Whether this node is in maintenance.
    pub fn is_in_maintenance(&self) -> bool {
        *self.maintenance.borrow()
    }

    /// Whether this node is about to stop.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Waits for [`Activity::drain`].
    pub(super) async fn drained(&self) {
        self.drain.notified().await;
    }
}
