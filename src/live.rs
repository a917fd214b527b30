//! Reloads the configuration while the node runs: SIGHUP reads the file again and applies the options that can change
//! without a restart. Tunnels are not affected.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::gateway::access::Access;
use crate::gateway::egress::Egress;
use crate::gateway::state::Gateway;
use crate::local::logins::Logins;
use crate::peers::candidate;
use crate::peers::uplink::Uplink;
use crate::problem::Problem;
use crate::service::Manager;
use crate::wire::target::Target;

/// Reads the configuration again, in the same way as at the start.
pub type Reread = dyn Fn() -> Result<Config, Problem> + Send;

/// The parts that a reload updates.
pub struct Live {
    /// The service manager, if any, that is notified of a reload.
    pub manager: Arc<Manager>,
    /// The configuration in force.
    pub config: Config,
    /// Reads the configuration again.
    pub reread: Box<Reread>,
    /// Connections to servers: access rules, configured servers, connect timeout.
    pub egress: Arc<Egress>,
    /// The gateway, with its limits for each client.
    pub gateway: Arc<Gateway>,
    /// Who may use the local proxy.
    pub logins: Arc<Logins>,
    /// Whether the service manager passed the local proxy's sockets.
    pub inherited: bool,
    /// How long a connection waits for a gateway.
    pub hold: watch::Sender<Duration>,
    /// The servers that are probed.
    pub servers: watch::Sender<Vec<Target>>,
    /// The uplink: its commands, their timeout and the drain timeout of its tunnels.
    pub uplink: Arc<Uplink>,
    /// This node's options as a candidate.
    pub candidate: watch::Sender<candidate::Options>,
}

impl Live {
    /// Reads the configuration again and applies it. An invalid one is rejected as a whole, and the old one stays in
    /// force.
    pub fn reload(&mut self) {
        self.manager.reloading();
        let status = match self.take_over() {
            true => "configuration reloaded",
            false => "configuration refused, the old one goes on: the log says why",
        };
        self.manager.ready(status);
    }

    fn take_over(&mut self) -> bool {
        let reread = (self.reread)().and_then(|mut new| {
            if self.inherited {
                new.local.proxy.clone_from(&self.config.local.proxy);
            }
            new.check().map(|()| new)
        });
        let applied = reread.and_then(|new| self.apply(&new).map(|()| new));
        let new = match applied {
            Ok(new) => new,
            Err(problem) => {
                let reason = problem.to_string().replace('\n', "; ");
                tracing::error!(reason, "configuration refused, the old one stays in force");
                return false;
            }
        };
        let later = self.config.needing_restart(&new);
        self.config = new;
        tracing::info!("configuration reloaded");
        if !later.is_empty() {
            tracing::warn!(options = later.join(", "), "these options change at the next start only");
        }
        true
    }

    /// Gives each part the options that it can change without a restart.
    fn apply(&self, new: &Config) -> Result<(), Problem> {
        let Config { local, gateway, peers, node: _, transparent: _, dns: _ } = new;
        let upstream = gateway.upstream()?;
        self.egress.change(
            Access::new(&gateway.server, &gateway.allow, &gateway.deny),
            gateway.connect_timeout,
            gateway.server.clone(),
        );
        self.egress.set_upstream(upstream);
        self.egress.reload_names();
        self.gateway.clients.change(gateway.limits());
        self.logins.change(&local.proxy_login);
        self.hold.send_replace(local.hold);
        self.servers.send_if_modified(|servers| {
            let changed = *servers != gateway.server;
            servers.clone_from(&gateway.server);
            changed
        });
        self.uplink.change(new.uplink_terms());
        self.candidate.send_modify(|options| {
            options.selection.policy = peers.policy;
            options.selection.active = u8::try_from(peers.active).unwrap_or(u8::MAX);
            options.selection.rotate = peers.rotate;
            options.selection.weight = peers.weight;
        });
        Ok(())
    }
}
