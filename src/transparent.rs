//! Transparent mode as a part of a node: its ports, and the rules that redirect to them if the node manages them.

use std::net::SocketAddr;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::local::endpoint::Endpoint;
use crate::local::port::Port;
use crate::mark;
use crate::peers::options::changed;
use crate::problem::Problem;
use crate::redirect::{self, Rules};
use crate::shared::Part;
use crate::sys::state::StateDir;

/// The conventional port of transparent mode.
pub const TRANSPARENT_PORT: u16 = 1081;
/// File in the state directory that exists while a node's rules are installed. It reveals rules that a killed node
/// left behind.
const FILE: &str = "redirected";

/// The options of transparent mode.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Transparent mode")]
#[group(skip)]
pub struct Options {
    #[allow(rustdoc::broken_intra_doc_links, reason = "an IPv6 address is no link")]
    /// Where redirected connections arrive (Linux), like 127.0.0.1:1081,[::1]:1081: those of software that is not
    /// configured to use a proxy; repeatable [default: none]
    #[arg(long, env = "LANEWAY_TRANSPARENT", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub transparent: Vec<SocketAddr>,
    /// Prefer the name in an app's first bytes (TLS server name, HTTP Host) to the address. Connections of apps
    /// that send nothing are delayed by 0.3 s
    #[arg(long, env = "LANEWAY_TRANSPARENT_NAMES")]
    pub transparent_names: bool,
    /// Install the rules of 'laneway transparent up' at the start, and remove them at the end
    #[arg(long, env = "LANEWAY_TRANSPARENT_RULES")]
    pub transparent_rules: bool,
    /// With --transparent-rules: redirect only connections to this network; repeatable [default: to any]
    #[arg(long, env = "LANEWAY_TRANSPARENT_ONLY", value_name = "CIDR", value_delimiter = ',')]
    pub transparent_only: Vec<IpNet>,
    /// With --transparent-rules: do not redirect connections to this network; repeatable
    #[arg(long, env = "LANEWAY_TRANSPARENT_EXCEPT", value_name = "CIDR", value_delimiter = ',')]
    pub transparent_except: Vec<IpNet>,
    /// With --transparent-rules: do not redirect connections to private networks
    #[arg(long, env = "LANEWAY_TRANSPARENT_EXCEPT_PRIVATE")]
    pub transparent_except_private: bool,
}

impl Options {
    /// Checks that the rules have a port to redirect to, and that only this machine can reach the ports unless
    /// `open_to_lan`.
    ///
    /// # Errors
    /// A usage problem.
    pub fn check(&self, open_to_lan: bool) -> Result<(), Problem> {
        if let Some(address) = self.transparent.iter().find(|address| !address.ip().is_loopback())
            && !open_to_lan
        {
            return Err(Problem::usage(format!(
                "--transparent {address} would let every machine use this node that redirects its connections there"
            ))
            .hint("listen on 127.0.0.1 and [::1], or set --proxy-open-to-lan"));
        }
        if self.transparent_rules && self.transparent.is_empty() {
            return Err(Problem::usage("--transparent-rules needs a port to redirect connections to")
                .hint(format!("add --transparent 127.0.0.1:{TRANSPARENT_PORT},[::1]:{TRANSPARENT_PORT}")));
        }
        Ok(())
    }

    /// The options that differ in `new` and take effect only after a restart.
    pub fn needing_restart(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            transparent,
            transparent_names,
            transparent_rules,
            transparent_only,
            transparent_except,
            transparent_except_private,
        } = self;
        changed([
            ("transparent", *transparent != new.transparent),
            ("transparent-names", *transparent_names != new.transparent_names),
            ("transparent-rules", *transparent_rules != new.transparent_rules),
            ("transparent-only", *transparent_only != new.transparent_only),
            ("transparent-except", *transparent_except != new.transparent_except),
            ("transparent-except-private", *transparent_except_private != new.transparent_except_private),
        ])
    }
}

/// Binds the transparent ports and starts to mark this node's own connections. `serves` says that this node dials
/// servers itself: without the mark, the rules would redirect its own connections back to it.
///
/// # Errors
/// When a port cannot be bound, or when a node that serves cannot mark its connections.
pub fn bind(options: &Options, serves: bool) -> Result<Vec<Port>, Problem> {
    // Marks in any case: the rules may come from 'laneway transparent up' and outlast the node.
    let marked = mark::begin();
    let bind = |address: &SocketAddr| {
        Port::bind(&Endpoint::Tcp(*address), 0o600).map_err(|error| {
            Problem::new(format!("the transparent port cannot listen on {address}"))
                .because(error)
                .hint("--transparent ADDR:PORT chooses another port")
        })
    };
    let ports = options.transparent.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    match marked {
        Err(error) if serves && !ports.is_empty() => {
            return Err(Problem::new(
                "transparent mode on a gateway would redirect its own connections back to it",
            )
            .because(error)
            .hint(
                "give it CAP_NET_ADMIN (AmbientCapabilities= in its unit, or setcap), or use --role client",
            ));
        }
        Err(error) if !ports.is_empty() => tracing::warn!(
            %error, "this node cannot mark its connections: exempt its user, laneway transparent up --user NAME"
        ),
        _ => {}
    }
    Ok(ports)
}

/// The rules that this node has installed. Dropping it removes them.
pub struct InstalledRules {
    state: StateDir,
}

impl InstalledRules {
    /// Installs the rules that redirect to the ports at `addresses`, if the options say so; otherwise removes those that
    /// a killed node left behind.
    ///
    /// # Errors
    /// When the rules are wanted and cannot be installed.
    pub fn install(
        options: &Options,
        addresses: &[SocketAddr],
        state: &StateDir,
    ) -> Result<Option<Self>, Problem> {
        let installed = || Self { state: state.clone() };
        if !options.transparent_rules {
            if state.read(FILE).is_ok_and(|left| left.is_some()) {
                tracing::info!("rules that a killed node has left are removed");
                drop(installed());
            }
            return Ok(None);
        }
        let port = |v4: bool| {
            // A listener on the IPv6 wildcard address accepts IPv4 too.
            let takes = |address: &SocketAddr| address.is_ipv4() == v4 || v4 && address.ip().is_unspecified();
            addresses.iter().find(|address| takes(address)).map(SocketAddr::port)
        };
        let rules = Rules {
            v4: port(true),
            v6: port(false),
            only: options.transparent_only.clone(),
            except: options.transparent_except.clone(),
            except_private: options.transparent_except_private,
            user: None,
        };
        if let Err(error) = state.write(FILE, b"") {
            tracing::warn!(%error, "if this node is killed, its rules will not be noticed at the next start");
        }
        match rules.install() {
            Ok(()) => tracing::info!(
                "connections of this machine's software are redirected to the transparent port"
            ),
            Err(error) => {
                let _ = state.remove(FILE);
                return Err(error.problem("the rules of --transparent-rules are not installed"));
            }
        }
        Ok(Some(installed()))
    }

    /// Keeps them until the node drains.
    pub fn part(self, drain: CancellationToken) -> Part {
        let until = async move {
            drain.cancelled_owned().await;
            drop(self);
        };
        ("transparent rules", Box::pin(until))
    }
}

impl Drop for InstalledRules {
    fn drop(&mut self) {
        match redirect::remove() {
            Ok(()) => drop(self.state.remove(FILE)),
            Err(error) => tracing::error!(%error, "rules not removed: run 'laneway transparent down'"),
        }
    }
}
