//! Reloads the configuration while the node runs: SIGHUP reads the file again and applies the options that can change
//! without a restart. Tunnels are not affected.

use std::sync::Arc;

use crate::config::{Config, Live as Changes};
use crate::gateway::bound::RunningGateway;
use crate::local::bound::RunningClient;
use crate::peering::RunningPeering;
use crate::problem::Problem;
use crate::service::Manager;
use crate::transparent::RunningRules;

/// Reads the configuration again, in the same way as at the start.
pub type Reread = dyn Fn() -> Result<Config, Problem> + Send;

/// The parts that a reload updates.
pub struct Live {
    /// The service manager, if any, that is notified of a reload.
    pub manager: Arc<Manager>,
    /// The configuration of the start, with the time to drain that is in force.
    pub config: Config,
    /// Reads the configuration again.
    pub reread: Box<Reread>,
    /// Whether the service manager passed the local proxy's sockets.
    pub is_inherited: bool,
    /// The client side.
    pub client: RunningClient,
    /// The rules of transparent mode.
    pub rules: RunningRules,
    /// The gateway.
    pub gateway: RunningGateway,
    /// This node among the others.
    pub peering: RunningPeering,
}

impl Live {
    /// Reads the configuration again and applies it. An invalid one is rejected as a whole, and the old one stays in
    /// force.
    pub fn reload(&mut self) {
        self.manager.reloading();
        let status = match self.read_and_apply() {
            true => "configuration reloaded",
            false => "configuration refused, the old one stays in force: the log says why",
        };
        self.manager.ready(status);
    }

    fn read_and_apply(&mut self) -> bool {
        let reread = (self.reread)().and_then(|mut new| {
            if self.is_inherited {
                new.local.proxy.clone_from(&self.config.local.proxy);
            }
            new.check().map(|()| new)
        });
        let new = match reread {
            Ok(new) => new,
            Err(problem) => {
                let reason = problem.to_string().replace('\n', "; ");
                tracing::error!(reason, "configuration refused, the old one stays in force");
                self.gateway.telemetry().note_reload(Some(reason));
                return false;
            }
        };
        self.gateway.telemetry().note_reload(None);
        // Compared with the start: what waits for a restart goes on to wait, however often the file is read.
        let (changes, later) = self.config.reload(&new);
        self.config.node.drain = new.node.drain;
        if !later.contains(&"server") {
            self.config.gateway.server.clone_from(&new.gateway.server);
        }
        self.apply(changes);
        tracing::info!("configuration reloaded");
        if !later.is_empty() {
            tracing::warn!(options = later.join(", "), "these options take effect only after a restart");
        }
        for problem in new.unusable_files() {
            let reason = problem.to_string().replace('\n', "; ");
            tracing::warn!(reason, "a file of the configuration cannot be used");
        }
        true
    }

    /// Gives each part what it can change without a restart.
    fn apply(&self, changes: Changes) {
        let Changes { drain, local, transparent, dns, gateway, peers } = changes;
        self.client.apply(local);
        self.client.apply_names(&dns);
        self.client.prefer_names(transparent.prefers_names());
        self.rules.apply(transparent);
        self.peering.apply(peers, drain, &gateway.servers);
        self.gateway.apply(gateway);
    }
}
