//! What a measure is, and what it finds.

use crate::load::dial::Route;
use crate::load::server::Server;
use crate::peers::Running;
use crate::peers::peer::{Peer, Site};
use anyhow::Result;
use std::time::Duration;

/// One result of one measure of one peer in one round.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

/// What a figure is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Whether its quotient by the ceiling's figure is meaningful.
    pub(crate) compared: bool,
    /// Digits after the point.
    pub(crate) digits: usize,
}

impl Metric {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, digits: usize) -> Self {
        Self { name: name.into(), unit, compared: true, digits }
    }

    pub(crate) fn not_compared(self) -> Self {
        Self { compared: false, ..self }
    }
}

/// A peer that is to be measured, running.
pub(crate) struct Subject<'a> {
    pub(crate) peer: &'a dyn Peer,
    /// The number that distinguishes its ports.
    pub(crate) number: u16,
    pub(crate) site: &'a Site,
    pub(crate) server: &'a Server,
    /// A measure may restart it.
    pub(crate) running: &'a mut Running,
    pub(crate) window: Duration,
    /// What has been found.
    pub(crate) figures: Vec<Figure>,
}

impl Subject<'_> {
    pub(crate) fn route(&self) -> Route {
        self.running.route
    }

    /// Adds what was found.
    pub(super) fn found(&mut self, metric: Metric, value: f64) {
        self.figures.push(Figure { metric, value });
    }

    /// Restarts the peer.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.running.restart(self.peer, self.site, self.number)
    }

    /// Whether there is a process of which something can be measured.
    pub(crate) fn has_processes(&self) -> bool {
        self.peer.about().hops > 0
    }
}

/// A measure: its name on the command line, its heading, whether it is part of a short run, and itself.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) quick: bool,
    /// Adds to the subject's figures; what it has added stays when it fails.
    pub(crate) take: fn(&mut Subject<'_>) -> Result<()>,
}
