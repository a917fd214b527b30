//! What of the configuration changes while the node runs: on SIGHUP the file is read again, and what can be taken
//! over is. No tunnel notices.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::gateway::access::Access;
use crate::gateway::egress::Egress;
use crate::gateway::state::Gateway;
use crate::gateway::upstream::Upstream;
use crate::local::logins::Logins;
use crate::peers::candidate;
use crate::peers::uplink::Uplink;
use crate::problem::Problem;
use crate::service::Manager;
use crate::wire::target::Target;

/// Reads the configuration again, as it was read at the start.
pub type Reread = dyn Fn() -> Result<Config, Problem> + Send;

/// The parts that follow the configuration.
pub struct Live {
    /// Who asks for it, perhaps.
    pub manager: Arc<Manager>,
    /// The configuration that is in force.
    pub config: Config,
    /// Reads it again.
    pub reread: Box<Reread>,
    /// The way out: rules, servers, time limit.
    pub egress: Arc<Egress>,
    /// What it gives to each client.
    pub gateway: Arc<Gateway>,
    /// Who may use the local proxy.
    pub logins: Arc<Logins>,
    /// Whether the local proxy listens where the service manager said.
    pub inherited: bool,
    /// How long connections are held.
    pub hold: watch::Sender<Duration>,
    /// What is probed.
    pub servers: watch::Sender<Vec<Target>>,
    /// How the group selects, as far as this node is concerned.
    pub candidate: watch::Sender<candidate::Options>,
    /// The commands that bring the uplink up and down.
    pub uplink: Arc<Uplink>,
}

impl Live {
    /// Reads the configuration again and puts it in force. A bad one is refused as a whole: the old one goes on.
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
                new.proxy.clone_from(&self.config.proxy);
            }
            new.check_proxy().map(|()| new)
        });
        let new = match reread {
            Ok(new) => new,
            Err(problem) => {
                let reason = problem.to_string().replace('\n', "; ");
                tracing::error!(reason, "configuration refused, the old one goes on");
                return false;
            }
        };
        let old = &self.config;
        let fixed = [
            ("role", new.role != old.role),
            ("proxy", new.proxy != old.proxy),
            ("proxy-mode", new.proxy_mode != old.proxy_mode),
            ("transparent", new.transparent != old.transparent),
            ("transparent-names", new.transparent_names != old.transparent_names),
            ("transparent-rules", new.transparent_rules != old.transparent_rules),
            ("transparent-only", new.transparent_only != old.transparent_only),
            ("transparent-except", new.transparent_except != old.transparent_except),
            ("transparent-except-private", new.transparent_except_private != old.transparent_except_private),
            ("dns", new.dns != old.dns),
            ("dns-local", new.dns_local != old.dns_local),
            ("pac-direct", new.pac_direct != old.pac_direct),
            ("link", new.link != old.link),
            ("discovery-port", new.discovery_port != old.discovery_port),
            ("lan", new.lans != old.lans),
            ("gateway", new.gateways != old.gateways),
            ("memory-limit", new.memory_limit != old.memory_limit),
            ("threads", new.threads != old.threads),
            ("log", new.log != old.log),
            ("log-format", new.log_format != old.log_format),
            ("on-promote", new.on_promote != old.on_promote),
            ("on-demote", new.on_demote != old.on_demote),
            // Whether there are servers at all decides what a node is.
            ("server", new.servers.is_empty() != old.servers.is_empty()),
        ];
        let later: Vec<_> = fixed.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect();
        self.egress.change(
            Access::new(&new.servers, &new.allow, &new.deny),
            new.connect_timeout,
            new.servers.clone(),
        );
        self.egress.set_upstream(Upstream::new(new.upstream.clone(), new.upstream_except.clone()));
        self.egress.reload_names();
        self.gateway.clients.change(new.clients);
        self.logins.change(&new.logins);
        self.hold.send_replace(new.hold);
        self.uplink.change(new.uplink_terms());
        self.servers.send_if_modified(|servers| {
            let changed = *servers != new.servers;
            servers.clone_from(&new.servers);
            changed
        });
        self.candidate.send_modify(|options| {
            options.selection.policy = new.policy;
            options.selection.active = u8::try_from(new.active).unwrap_or(u8::MAX);
            options.selection.rotate = new.rotate;
            options.selection.weight = new.weight;
        });
        self.config = new;
        tracing::info!("configuration reloaded");
        if !later.is_empty() {
            tracing::warn!(options = later.join(", "), "these options change at the next start only");
        }
        true
    }
}
