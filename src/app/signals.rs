//! The signals that the node handles.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::problem::Problem;

/// What a signal requests.
#[derive(PartialEq, Eq)]
pub(super) enum SignalAction {
    Stop,
    Reload,
}

/// The signals that the node handles.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGHUP: reload the configuration.
    hangup: Signal,
}

impl Signals {
    /// Handles them from now on.
    pub(super) fn new() -> Result<Self, Problem> {
        let failed = |error: std::io::Error| Problem::new("signals cannot be handled").because(error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.hangup.recv() => SignalAction::Reload,
        }
    }

    /// Waits for a request to stop.
    pub(super) async fn stop(&mut self) {
        while self.next().await != SignalAction::Stop {}
    }
}
