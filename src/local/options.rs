//! The options of the local part: the port that apps connect to.

use std::path::PathBuf;
use std::time::Duration;

use super::endpoint::{Endpoint, Mode};
use super::logins::Login;
use crate::fronts::options::Upstream;
use crate::peers::options::changed;
use crate::problem::Problem;
use crate::secret::secret;
use crate::sharing::options::PeerCache;
use crate::size::seconds;

/// The options of the local port.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Local proxy")]
#[group(skip)]
pub struct Options {
    /// Where the local SOCKS and HTTP proxy listens; repeatable. Sockets passed by the service manager are used
    /// instead
    #[arg(
        long,
        env = "LANEWAY_PROXY",
        value_name = "ADDR:PORT|unix:/PATH",
        value_delimiter = ',',
        default_value = "127.0.0.1:1080"
    )]
    pub proxy: Vec<Endpoint>,
    /// Permissions of the local proxy's unix sockets, in octal
    #[arg(long, env = "LANEWAY_PROXY_MODE", value_name = "MODE", default_value = "600")]
    pub proxy_mode: Mode,
    /// File of logins that apps must use, one NAME:PASSWORD per line, readable by its owner only (SOCKS5 and HTTP
    /// Basic, neither of which encrypts them) [default: no login is required]
    #[arg(long, env = "LANEWAY_PROXY_LOGINS", value_name = "FILE")]
    pub proxy_logins: Option<PathBuf>,
    /// One more login; repeatable. Every user of this machine can see a password on the command line: prefer
    /// --proxy-logins
    #[arg(
        long,
        env = "LANEWAY_PROXY_LOGIN",
        value_name = "NAME:PASSWORD",
        hide_env_values = true,
        value_parser = secret::<Login>()
    )]
    pub proxy_login: Vec<Login>,
    /// Let other machines use the local proxy without a login, when --proxy is not a loopback address
    #[arg(long, env = "LANEWAY_PROXY_OPEN_TO_LAN")]
    pub proxy_open_to_lan: bool,
    /// Let browsers that use the local port's /proxy.pac connect directly when the proxy does not answer
    #[arg(long, env = "LANEWAY_PAC_DIRECT")]
    pub pac_direct: bool,
    /// A registry that tools on this machine reach at its local port without a proxy, fetched by a gateway and shared through
    /// its cache: apt/NAME, pypi, npm, crates or oci, with its URL; repeatable. 'laneway env --fronts' prints what to tell
    /// each tool
    #[arg(long, env = "LANEWAY_FRONT", value_name = "KIND=URL", value_delimiter = ',')]
    pub front: Vec<Upstream>,
    /// Download each file over one gateway only. Otherwise the pieces of a large one come over all gateways that reach the
    /// server, including standbys
    #[arg(long, env = "LANEWAY_NO_SPREAD")]
    pub no_spread: bool,
    /// The disk space for large downloads of plain HTTP and fronts that this node keeps and gives to other members, in bytes,
    /// like 4G; 'off' keeps nothing, and gets nothing from other members [default: a twentieth of what is free, 64M to 4G]
    #[arg(long, env = "LANEWAY_PEER_CACHE", value_name = "BYTES|off")]
    pub peer_cache: Option<PeerCache>,
    /// How long a new connection waits for a gateway, in seconds
    #[arg(long, env = "LANEWAY_HOLD", value_name = "SECS", value_parser = seconds, default_value = "10")]
    pub hold: Duration,
}

/// What a running node takes from new options.
pub struct Live {
    /// The logins of apps.
    pub logins: Vec<Login>,
    /// How long a new connection waits for a gateway.
    pub hold: Duration,
    /// The registries with a front.
    pub fronts: Vec<Upstream>,
}

impl Options {
    /// Reads the file of logins.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn read_logins(&mut self) -> Result<(), Problem> {
        if let Some(path) = &self.proxy_logins {
            self.proxy_login.extend(Login::read(path)?);
        }
        Ok(())
    }

    /// Makes sure that nobody can use the local proxy by accident.
    ///
    /// # Errors
    /// A usage problem: other machines reach it, need no login, and `--proxy-open-to-lan` is not set.
    pub fn check(&self) -> Result<(), Problem> {
        for (place, front) in self.front.iter().enumerate() {
            let is_same = |other: &Upstream| other.kind == front.kind && other.name == front.name;
            if self.front[..place].iter().any(is_same) {
                return Err(Problem::usage(format!("there are two fronts for {}", front.key()))
                    .hint("each kind has one registry, and apt has one for each name"));
            }
        }
        let open = self.proxy.iter().find(|endpoint| !endpoint.is_of_this_machine());
        match open.filter(|_| self.proxy_login.is_empty() && !self.proxy_open_to_lan) {
            None => Ok(()),
            Some(endpoint) => Err(Problem::usage(format!(
                "--proxy {endpoint} would let every machine that reaches it use this proxy"
            ))
            .hint(
                "listen on 127.0.0.1, require logins with --proxy-logins FILE, or set --proxy-open-to-lan",
            )),
        }
    }

    /// What a running node takes from `new`, and the options that differ and take effect at the next start only. Every
    /// option is in one of the two, or the compiler warns of an unused one.
    pub fn reload(&self, new: &Self) -> (Live, Vec<&'static str>) {
        let Self {
            proxy,
            proxy_mode,
            // Its logins have been read into `proxy_login`.
            proxy_logins: _,
            proxy_login,
            // Only checked, by `check`.
            proxy_open_to_lan: _,
            pac_direct,
            front,
            no_spread,
            peer_cache,
            hold,
        } = new;
        let live = Live { logins: proxy_login.clone(), hold: *hold, fronts: front.clone() };
        let later = changed([
            ("proxy", self.proxy != *proxy),
            ("proxy-mode", self.proxy_mode != *proxy_mode),
            ("pac-direct", self.pac_direct != *pac_direct),
            ("no-spread", self.no_spread != *no_spread),
            ("peer-cache", self.peer_cache != *peer_cache),
        ]);
        (live, later)
    }
}
