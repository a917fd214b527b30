//! The options of the gateway: where links are accepted, what it reaches, and what one client may take.

use std::net::SocketAddr;
use std::time::Duration;

use super::access::Rule;
use super::clients::Limits;
use super::upstream::{UnparsedProxy, Upstream};
use crate::peers::options::changed;
use crate::problem::Problem;
use crate::size::{Size, seconds};
use crate::wire::target::Target;

/// The options of the gateway.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Gateway")]
#[group(skip)]
pub struct Options {
    /// Where links are accepted, TCP [default: every address, port 7420]
    #[arg(long, env = "LANEWAY_LINK", value_name = "ADDR:PORT")]
    pub link: Option<SocketAddr>,
    /// A server that the group wants to reach: gateways probe it and allow connections to it; repeatable
    #[arg(long, env = "LANEWAY_SERVER", value_name = "HOST:PORT", value_delimiter = ',')]
    pub server: Vec<Target>,
    /// A destination that this gateway allows, like *.example.org:443 or 10.0.0.0/8; repeatable [default: any, if
    /// there is no --server either]
    #[arg(long, env = "LANEWAY_ALLOW", value_name = "RULE", value_delimiter = ',')]
    pub allow: Vec<Rule>,
    /// A destination that this gateway refuses, checked before --server and --allow; repeatable
    #[arg(long, env = "LANEWAY_DENY", value_name = "RULE", value_delimiter = ',')]
    pub deny: Vec<Rule>,
    /// A proxy that this gateway connects through: http:// (CONNECT) or socks5://, which resolves the names;
    /// repeatable, the first one that can be reached is used [default: none]
    #[arg(
        long,
        env = "LANEWAY_UPSTREAM",
        value_name = "http://[USER:PASSWORD@]HOST:PORT",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub upstream: Vec<UnparsedProxy>,
    /// A destination that this gateway reaches without its --upstream; repeatable [default: none]
    #[arg(long, env = "LANEWAY_UPSTREAM_EXCEPT", value_name = "RULE", value_delimiter = ',')]
    pub upstream_except: Vec<Rule>,
    /// Time limit for connecting to a server, in seconds
    #[arg(long, env = "LANEWAY_CONNECT_TIMEOUT", value_name = "SECS", value_parser = seconds, default_value = "10")]
    pub connect_timeout: Duration,
    /// Maximum number of open connections of one client
    #[arg(long, env = "LANEWAY_CLIENT_TUNNELS", value_name = "N", default_value = "16384")]
    pub client_tunnels: u32,
    /// Maximum number of new connections of one client per second
    #[arg(long, env = "LANEWAY_CLIENT_OPENS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..), default_value = "20000")]
    pub client_opens: u32,
    /// Maximum number of bytes per second of one client, both directions together, like 10M [default: unlimited]
    #[arg(long, env = "LANEWAY_CLIENT_RATE", value_name = "BYTES")]
    pub client_rate: Option<Size>,
}

impl Options {
    /// The upstream proxies that this gateway leaves by.
    ///
    /// # Errors
    /// A usage problem that does not repeat a password.
    pub fn upstream(&self) -> Result<Upstream, Problem> {
        let proxies = self.upstream.iter().map(UnparsedProxy::parse).collect::<Result<_, _>>();
        let proxies = proxies.map_err(|error| Problem::usage("--upstream is not a proxy").because(error))?;
        Ok(Upstream::new(proxies, self.upstream_except.clone()))
    }

    /// What one client may take.
    pub fn limits(&self) -> Limits {
        Limits {
            tunnels: self.client_tunnels,
            opens: self.client_opens,
            rate: self.client_rate.map_or(0, |rate| rate.0),
        }
    }

    /// The options that differ in `new` and take effect at the next start only.
    pub fn needing_restart(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            link,
            server,
            // Taken from the new options while the node runs.
            allow: _,
            deny: _,
            upstream: _,
            upstream_except: _,
            connect_timeout: _,
            client_tunnels: _,
            client_opens: _,
            client_rate: _,
        } = self;
        changed([
            ("link", *link != new.link),
            // Whether there are servers at all decides what a node is; which ones can change.
            ("server", server.is_empty() != new.server.is_empty()),
        ])
    }
}
