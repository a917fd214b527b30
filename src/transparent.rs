//! Transparent mode as a part of a node: its ports, and the rules that redirect to them if the node manages them.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::failure::with_causes;
use crate::local::endpoint::Endpoint;
use crate::local::port::Port;
use crate::mark;
use crate::net;
use crate::peers::options::changed;
use crate::problem::Problem;
use crate::redirect::{self, Kept, Rules, TRANSPARENT_PORT};
use crate::shared::Part;
use crate::sys::blocking;

/// Interval at which the rules are compared with the machine's networks.
const LOOK: Duration = Duration::from_secs(1);
const INSTALLED: &str = "connections of this machine's software are redirected to the transparent port";

/// Refuses transparent mode on a system that cannot redirect connections.
///
/// # Errors
/// A usage problem that says what to use instead.
pub fn is_supported() -> Result<(), Problem> {
    match net::HAS_REDIRECTION {
        true => Ok(()),
        false => Err(Problem::usage("transparent mode needs Linux").hint(
            "point software at the local proxy: 'laneway env --system on' for browsers and most programs, 'laneway env' \
             for a shell, 'laneway run -- CMD' for one command",
        )),
    }
}

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
    /// With --transparent-rules: redirect also connections to the networks that this machine is connected to
    /// [default: they go there directly]
    #[arg(long, env = "LANEWAY_TRANSPARENT_CONNECTED")]
    pub transparent_connected: bool,
}

impl Options {
    /// Checks that the rules have a port to redirect to, and that only this machine can reach the ports unless
    /// `open_to_lan`.
    ///
    /// # Errors
    /// A usage problem.
    pub fn check(&self, open_to_lan: bool) -> Result<(), Problem> {
        if !self.transparent.is_empty() || self.transparent_rules {
            is_supported()?;
        }
        if let Some(address) = self.transparent.iter().find(|address| !address.ip().is_loopback())
            && !open_to_lan
        {
            return Err(Problem::usage(format!(
                "--transparent {address} would let every machine use this node that redirects its connections there"
            ))
            .hint("listen on 127.0.0.1 and [::1], or set --proxy-open-to-lan"));
        }
        if let Some(name) = self.without_rules() {
            return Err(Problem::usage(format!("{name} does nothing without --transparent-rules"))
                .hint(format!("add --transparent-rules, or leave out {name}")));
        }
        if self.transparent_rules && self.transparent.is_empty() {
            return Err(Problem::usage("--transparent-rules needs a port to redirect connections to")
                .hint(format!("add --transparent 127.0.0.1:{TRANSPARENT_PORT},[::1]:{TRANSPARENT_PORT}")));
        }
        Ok(())
    }

    /// An option that concerns the rules, although there are none.
    fn without_rules(&self) -> Option<&'static str> {
        let set = [
            ("--transparent-only", !self.transparent_only.is_empty()),
            ("--transparent-except", !self.transparent_except.is_empty()),
            ("--transparent-except-private", self.transparent_except_private),
            ("--transparent-connected", self.transparent_connected),
        ];
        set.into_iter().find(|(_, is_set)| *is_set && !self.transparent_rules).map(|(name, _)| name)
    }

    /// What a running node takes from `new`, and the options that differ and take effect at the next start only.
    pub fn reload(&self, new: &Self) -> (Live, Vec<&'static str>) {
        let later = changed([("transparent", self.transparent != new.transparent)]);
        (Live { options: new.clone() }, later)
    }

    /// The rules that redirect to the ports at `addresses`; `None` if the options want none, or there is no port.
    fn rules(&self, addresses: &[SocketAddr]) -> Option<Rules> {
        let port = |v4: bool| {
            // A listener on the IPv6 wildcard address accepts IPv4 too.
            let takes = |address: &SocketAddr| address.is_ipv4() == v4 || v4 && address.ip().is_unspecified();
            addresses.iter().find(|address| takes(address)).map(SocketAddr::port)
        };
        (self.transparent_rules && !addresses.is_empty()).then(|| Rules {
            v4: port(true),
            v6: port(false),
            only: self.transparent_only.clone(),
            except: self.transparent_except.clone(),
            except_private: self.transparent_except_private,
            to_connected: self.transparent_connected,
            user: None,
        })
    }
}

/// What a running node takes from new options.
pub struct Live {
    /// The new options. The ports stay as they are.
    options: Options,
}

impl Live {
    /// Whether the name in an app's first bytes is preferred to the address.
    pub fn prefers_names(&self) -> bool {
        self.options.transparent_names
    }
}

/// Binds the transparent ports.
///
/// # Errors
/// When a port cannot be bound.
pub fn bind(options: &Options) -> Result<Vec<Port>, Problem> {
    let bind = |address: &SocketAddr| {
        Port::bind(&Endpoint::Tcp(*address), 0o600).map_err(|error| {
            Problem::new(format!("the transparent port cannot listen on {address}"))
                .because(error)
                .hint("--transparent ADDR:PORT chooses another port")
        })
    };
    let ports = options.transparent.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    if !ports.is_empty()
        && let Err(error) = mark::begin()
    {
        tracing::debug!(%error, "this node's own connections have no routing mark, only their priority");
    }
    Ok(ports)
}

/// The rules that this node keeps, if it keeps any. Dropping them removes them.
pub struct NodeRules {
    kept: Option<Kept>,
    addresses: Vec<SocketAddr>,
    options: watch::Sender<Options>,
    /// Dropped after the rules.
    here: watch::Sender<()>,
}

/// The rules of a running node, for a reload.
pub struct RunningRules {
    options: watch::Sender<Options>,
    here: watch::Receiver<()>,
}

impl RunningRules {
    /// Applies a reload. Redirected connections stay open.
    pub fn apply(&self, new: Live) {
        self.options.send_replace(new.options);
    }

    /// Waits until the rules are removed, which they are when the node drains.
    pub async fn removed(&mut self) {
        while self.here.changed().await.is_ok() {}
    }
}

impl NodeRules {
    /// Installs the rules that redirect to the ports at `addresses`, if the options say so. In any case those that a killed
    /// node has left are removed.
    ///
    /// # Errors
    /// When the rules are wanted and cannot be installed.
    pub fn install(options: &Options, addresses: Vec<SocketAddr>) -> Result<Self, Problem> {
        let kept =
            match options.rules(&addresses) {
                Some(rules) => {
                    let kept = Kept::install(rules);
                    Some(kept.map_err(|error| {
                        error.problem("the rules of --transparent-rules are not installed")
                    })?)
                }
                None => {
                    if let Err(error) = redirect::clean() {
                        tracing::warn!(
                            error = with_causes(&error),
                            "the rules of transparent mode of an earlier node are not removed"
                        );
                    }
                    None
                }
            };
        if kept.is_some() {
            tracing::info!("{INSTALLED}");
        }
        Ok(Self {
            kept,
            addresses,
            options: watch::Sender::new(options.clone()),
            here: watch::Sender::new(()),
        })
    }

    /// The handle for reloads.
    pub fn running(&self) -> RunningRules {
        RunningRules { options: self.options.clone(), here: self.here.subscribe() }
    }

    /// Keeps them until the node drains.
    pub fn part(self, drain: CancellationToken) -> Part {
        ("transparent rules", Box::pin(self.keep(drain)))
    }

    async fn keep(mut self, drain: CancellationToken) {
        let mut options = self.options.subscribe();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                Ok(()) = options.changed() => {}
                _ = ticks.tick(), if self.kept.is_some() => {
                    if self.kept.as_mut().is_some_and(Kept::is_current) {
                        continue;
                    }
                }
            }
            // The programs that it runs take some milliseconds, which the apps of this node must not wait.
            let turn = blocking::run(move || {
                self.turn();
                self
            });
            match turn.await {
                Ok(rules) => self = rules,
                Err(error) => {
                    return tracing::error!(
                        error = with_causes(&error),
                        "the rules of transparent mode are no longer watched"
                    );
                }
            }
        }
    }

    /// Brings the rules up to date with the options and with the machine.
    fn turn(&mut self) {
        let wanted = self.options.borrow().rules(&self.addresses);
        match (wanted, self.kept.take()) {
            (None, None) => {}
            (None, Some(kept)) => {
                drop(kept);
                tracing::info!("connections are no longer redirected");
            }
            (Some(rules), Some(mut kept)) => {
                kept.change(rules);
                if !kept.is_current() {
                    kept.renew();
                }
                self.kept = Some(kept);
            }
            (Some(rules), None) => match Kept::install(rules) {
                Ok(kept) => {
                    tracing::info!("{INSTALLED}");
                    self.kept = Some(kept);
                }
                Err(error) => tracing::error!(
                    error = with_causes(&error),
                    "the rules of transparent mode are not installed"
                ),
            },
        }
    }
}
