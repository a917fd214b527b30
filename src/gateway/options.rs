//! The options of the gateway: where links are accepted, what it reaches, and what one client may take.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::access::{Access, Rule};
use super::clients::Limits;
use super::probe::subject::{Expected, Probe};
use super::upstream::{Upstream, UpstreamProxy};
use crate::cache::store::Store;
use crate::memory::Budget;
use crate::peers::options::changed;
use crate::problem::Problem;
use crate::secret::secret;
use crate::shared::Unused;
use crate::size::{Size, TimeError, seconds, within};
use crate::sys::files;
use crate::wire::target::{Target, configured};

/// The directory of the cache in the state directory.
pub const CACHE: &str = "cache";
/// The index of the cache may take one part in this many of `--memory-limit`.
const INDEX_PART: usize = 8;
/// The disk space of the cache if nothing else is said, in bytes: at most, and at least, because a disk may be full only for a
/// while.
const DEFAULT_CACHE: u64 = 10 << 30;
const LEAST_CACHE: u64 = 64 << 20;

/// The options of the gateway.
// fields: one for each option
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Gateway")]
#[group(skip)]
pub struct Options {
    /// Where links are accepted, TCP [default: every address, port 7420]
    #[arg(long, env = "LANEWAY_LINK", value_name = "ADDR:PORT")]
    pub link: Option<SocketAddr>,
    /// A server that the group is for: gateways probe it, and refuse every other destination that no --allow names;
    /// repeatable
    #[arg(long, env = "LANEWAY_SERVER", value_name = "HOST:PORT", value_delimiter = ',', value_parser = configured)]
    pub server: Vec<Target>,
    /// A destination that this gateway allows beside each --server, like *.example.org:443 or 10.0.0.0/8, or '*' for
    /// all; repeatable [default: any, if there is no --server either]
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
        hide_env_values = true,
        value_parser = secret::<UpstreamProxy>()
    )]
    pub upstream: Vec<UpstreamProxy>,
    /// A destination that this gateway reaches without its --upstream; repeatable [default: none]
    #[arg(long, env = "LANEWAY_UPSTREAM_EXCEPT", value_name = "RULE", value_delimiter = ',')]
    pub upstream_except: Vec<Rule>,
    /// Time limit for connecting to a server, in seconds
    #[arg(long, env = "LANEWAY_CONNECT_TIMEOUT", value_name = "SECS", value_parser = seconds, default_value = "10")]
    pub connect_timeout: Duration,
    /// What proves that this gateway reaches the outside, instead of the servers: an http:// URL that must answer, or an
    /// address that must accept a connection; repeatable, one is enough; 'none' asks nothing [default: each --server;
    /// without one, an answer from beyond this machine's networks]
    #[arg(long, env = "LANEWAY_PROBE", value_name = "URL|HOST:PORT", value_delimiter = ',')]
    pub probe: Vec<Probe>,
    /// What the answer to a --probe URL must be: an HTTP status, or a text that it contains [default: any status from
    /// 200 to 299]
    #[arg(long, env = "LANEWAY_PROBE_EXPECT", value_name = "STATUS|TEXT")]
    pub probe_expect: Option<Expected>,
    /// Interval between two probes, in seconds [default: 5; 30 without --server and --probe]
    #[arg(long, env = "LANEWAY_PROBE_INTERVAL", value_name = "SECS", value_parser = probe_interval)]
    pub probe_interval: Option<Duration>,
    /// Maximum number of open connections of one client
    #[arg(long, env = "LANEWAY_CLIENT_TUNNELS", value_name = "N", default_value = "16384")]
    pub client_tunnels: u32,
    /// Maximum number of new connections of one client per second
    #[arg(long, env = "LANEWAY_CLIENT_OPENS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..), default_value = "20000")]
    pub client_opens: u32,
    /// Maximum number of bytes per second of one client, both directions together, like 10M [default: unlimited]
    #[arg(long, env = "LANEWAY_CLIENT_RATE", value_name = "BYTES")]
    pub client_rate: Option<Size>,
    /// The disk space for the responses of plain HTTP that this gateway stores for all clients, in bytes, like 10G
    /// [default: a tenth of what is free, 64M to 10G]
    #[arg(long, env = "LANEWAY_CACHE_SIZE", value_name = "BYTES")]
    pub cache_size: Option<Size>,
    /// A PEM file with certificates of authorities that this gateway accepts for the servers of fronts, beside those of the
    /// system; repeatable
    #[arg(long, env = "LANEWAY_FRONT_CA", value_name = "FILE", value_delimiter = ',')]
    pub front_ca: Vec<PathBuf>,
    /// Store nothing, and answer no request from a cache
    #[arg(long, env = "LANEWAY_NO_CACHE")]
    pub no_cache: bool,
}

/// What a running gateway takes from new options.
pub struct Live {
    /// Which destinations are allowed.
    pub access: Access,
    /// The upstream proxies.
    pub upstream: Upstream,
    /// Time limit for connecting to a server.
    pub connect_timeout: Duration,
    /// The servers that are probed.
    pub servers: Vec<Target>,
    /// What one client may take.
    pub limits: Limits,
}

impl Options {
    /// Checks the options of the probe.
    ///
    /// # Errors
    /// A usage problem.
    pub fn check(&self) -> Result<(), Problem> {
        let is_url = |probe: &Probe| matches!(probe, Probe::Url { .. });
        if self.probe.contains(&Probe::Nothing) && self.probe.len() > 1 {
            return Err(Problem::usage("--probe none cannot stand beside another --probe"));
        }
        if self.probe_expect.is_some() && !self.probe.iter().any(is_url) {
            return Err(Problem::usage("--probe-expect does nothing without a URL to probe")
                .hint("add --probe http://HOST/PATH"));
        }
        Ok(())
    }

    /// Whether this node must reach something, a server or what `--probe` names, before it can serve.
    pub fn needs_proof(&self) -> bool {
        !self.server.is_empty() || self.probes().next().is_some()
    }

    /// What `--probe` names.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.probe.iter().filter(|probe| **probe != Probe::Nothing)
    }

    /// The upstream proxies that this gateway connects through.
    pub fn upstream(&self) -> Upstream {
        Upstream::new(self.upstream.clone(), self.upstream_except.clone())
    }

    /// Opens the store of the cache in `directory`, unless there is to be none, or it cannot be used, which is noted in `unused`:
    /// a gateway works without one. What it holds is read by another thread. Its index counts in `memory`.
    pub fn open_cache(&self, directory: &Path, memory: &Budget, unused: &mut Unused) -> Option<Arc<Store>> {
        if self.no_cache {
            return None;
        }
        let limit = match self.cache_size {
            Some(size) => size.0,
            None => {
                let above = directory.parent().unwrap_or(directory);
                let part = files::free_space(above).map_or(DEFAULT_CACHE, |free| free / 10);
                part.clamp(LEAST_CACHE, DEFAULT_CACHE)
            }
        };
        let most = (memory.limit() / INDEX_PART) as u64;
        let opened = Store::open(directory, limit, most, memory.reserve());
        unused.note(CACHE, directory, opened.as_ref());
        match opened {
            Ok(store) => {
                store.later(|store| store.load());
                tracing::info!(directory = %directory.display(), limit, "cache of plain HTTP");
                Some(store)
            }
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "no cache: its directory cannot be used");
                None
            }
        }
    }

    /// What one client may take.
    pub fn limits(&self) -> Limits {
        let rate = self.client_rate.map_or(0, |rate| rate.0);
        Limits { tunnels: self.client_tunnels, opens: self.client_opens, rate }
    }

    /// What a running node takes from `new`, and the options that differ and take effect at the next start only. Every
    /// option is in one of the two, or the compiler warns of an unused one.
    pub fn reload(&self, new: &Self) -> (Live, Vec<&'static str>) {
        let Self {
            link,
            server,
            allow,
            deny,
            upstream,
            upstream_except,
            connect_timeout,
            probe,
            probe_expect,
            probe_interval,
            client_tunnels,
            client_opens,
            client_rate,
            cache_size,
            front_ca,
            no_cache,
        } = new;
        // Whether there are servers at all decides what a node is, and without any every destination is open: which ones can
        // change.
        let is_other = self.server.is_empty() != server.is_empty();
        let server = if is_other { &self.server } else { server };
        let live = Live {
            access: Access::new(server, allow, deny),
            upstream: Upstream::new(upstream.clone(), upstream_except.clone()),
            connect_timeout: *connect_timeout,
            servers: server.clone(),
            limits: Limits {
                tunnels: *client_tunnels,
                opens: *client_opens,
                rate: client_rate.map_or(0, |rate| rate.0),
            },
        };
        let later = changed([
            ("link", self.link != *link),
            ("server", is_other),
            ("probe", self.probe != *probe),
            ("probe-expect", self.probe_expect != *probe_expect),
            ("probe-interval", self.probe_interval != *probe_interval),
            ("cache-size", self.cache_size != *cache_size),
            ("front-ca", self.front_ca != *front_ca),
            ("no-cache", self.no_cache != *no_cache),
        ]);
        (live, later)
    }
}

fn probe_interval(text: &str) -> Result<Duration, TimeError> {
    const DAY: Duration = Duration::from_secs(86_400);
    within(text, Duration::from_secs(1), Duration::from_secs(1), DAY)
}
