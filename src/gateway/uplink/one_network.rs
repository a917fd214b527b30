//! A gateway for any destination on a machine that is connected to one network only, with no route beyond it: it reaches nothing
//! that its clients do not reach themselves.

use std::time::{Duration, Instant};

use crate::limited;
use crate::limits::lines::NOBODY;
use crate::sys::connected;
use crate::telemetry::snapshot::Unreached;

/// What status calls all that such a machine does not reach.
pub const BEYOND: &str = "other networks";
/// Minimum time between two looks at the routes.
const MIN_INTERVAL: Duration = Duration::from_millis(500);

/// What the routes of this machine lead to, when they were looked at last.
#[derive(Debug, Default)]
pub(super) struct OneNetwork {
    /// The interface of its only network, if no route leads on from it.
    interface: Option<String>,
    looked_at: Option<Instant>,
}

impl OneNetwork {
    /// Reads the routes, unless that was just done. Without `counts` they are forgotten: something else tells.
    pub(super) fn look(&mut self, counts: bool) {
        if !counts {
            *self = Self::default();
        } else if self.looked_at.is_none_or(|at| at.elapsed() >= MIN_INTERVAL) {
            self.interface = connected::only_interface();
            self.looked_at = Some(Instant::now());
        }
    }

    /// Whether one network is all that this machine reaches.
    pub(super) fn is_all(&self) -> bool {
        self.interface.is_some()
    }

    /// What is not reached, as status shows it.
    pub(super) fn unreached(&self) -> Option<Unreached> {
        let interface = self.interface.as_ref()?;
        let reason = format!("this machine has no default route, and no network but that of {interface}");
        Some(Unreached { server: BEYOND.into(), reason })
    }

    pub(super) fn log(&self) {
        if let Some(interface) = &self.interface {
            limited!(
                warn,
                NOBODY,
                interface,
                "this machine has no way out: it has no default route, and one network only"
            );
        }
    }
}
