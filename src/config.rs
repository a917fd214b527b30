//! What was typed, in flags, environment or file, and what it means.
//!
//! One table, [`Typed`], is the source of the flags, of the `LANEWAY_*` variables and of the TOML file. A flag
//! comes before a variable, a variable before the file, the file before the default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
use ipnet::IpNet;
use serde::Deserialize;

use crate::dns::zone::Zone;
use crate::gateway::access::Rule;
use crate::gateway::clients::Limits;
use crate::gateway::upstream::{UnparsedProxy, UpstreamProxy};
use crate::local::endpoint::{Endpoint, Mode, one_or_more};
use crate::local::logins::Login;
use crate::memory::share_of_machine;
use crate::peers::uplink;
use crate::problem::Problem;
use crate::size::Size;
use crate::sys::state::StateDir;
use crate::telemetry::log::Format;
use crate::wire::datagram::Policy;
use crate::wire::target::Target;

/// The default port of discovery (UDP) and of the link (TCP).
pub const PORT: u16 = 7420;
/// The default port of the local proxy.
pub const PROXY_PORT: u16 = 1080;

/// The usual port of transparent mode.
pub const TRANSPARENT_PORT: u16 = 1081;

/// What this node may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A gateway while it reaches a configured server, else a client.
    #[default]
    Auto,
    /// Never a gateway.
    Client,
    /// A gateway; without configured servers for any destination.
    Gateway,
}

/// The options of `laneway up`, as typed.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Typed {
    /// What this node may be [default: auto, a gateway while it reaches a --server]
    #[arg(long, env = "LANEWAY_ROLE", value_enum)]
    pub role: Option<Role>,
    /// Where the local SOCKS and HTTP proxy listens, a TCP address or unix:/PATH; repeatable; sockets that the
    /// service manager passes come instead [default: 127.0.0.1:1080]
    #[arg(long, env = "LANEWAY_PROXY", value_name = "ADDR:PORT|unix:/PATH", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_more")]
    pub proxy: Vec<Endpoint>,
    /// The permissions of a unix socket of the local proxy, in octal [default: 600]
    #[arg(long, env = "LANEWAY_PROXY_MODE", value_name = "MODE")]
    pub proxy_mode: Option<Mode>,
    /// A file of logins that the local proxy asks for, NAME:PASSWORD on each line, readable by its owner alone
    /// (SOCKS5 and HTTP Basic; neither encrypts them) [default: none, nobody is asked]
    #[arg(long, env = "LANEWAY_PROXY_LOGINS", value_name = "FILE")]
    pub proxy_logins: Option<PathBuf>,
    /// One more login; repeatable. Everybody on this machine can read a password that is typed here in the list of
    /// processes: --proxy-logins keeps it private
    #[arg(long, env = "LANEWAY_PROXY_LOGIN", value_name = "NAME:PASSWORD", hide_env_values = true)]
    pub proxy_login: Vec<Login>,
    /// Let other machines use the local proxy without a login, when --proxy is not a loopback address
    #[arg(long, env = "LANEWAY_PROXY_OPEN_TO_LAN")]
    pub proxy_open_to_lan: bool,
    #[allow(rustdoc::broken_intra_doc_links, reason = "an IPv6 address is no link")]
    /// Where connections arrive that the system leads here from software that knows nothing of a proxy (Linux), like
    /// 127.0.0.1:1081,[::1]:1081; repeatable [default: none]
    #[arg(long, env = "LANEWAY_TRANSPARENT", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub transparent: Vec<SocketAddr>,
    /// Go by the name in an app's first bytes (TLS server name, HTTP Host) and by the address only without one, not the
    /// other way round; where an app says nothing, each connection waits 0.3 s for it
    #[arg(long, env = "LANEWAY_TRANSPARENT_NAMES")]
    pub transparent_names: bool,
    /// Install the rules of 'laneway transparent up' at the start, and remove them at the end
    #[arg(long, env = "LANEWAY_TRANSPARENT_RULES")]
    pub transparent_rules: bool,
    /// With --transparent-rules: lead only connections to this network; repeatable [default: to any]
    #[arg(long, env = "LANEWAY_TRANSPARENT_ONLY", value_name = "CIDR", value_delimiter = ',')]
    pub transparent_only: Vec<IpNet>,
    /// With --transparent-rules: lead no connections to this network; repeatable
    #[arg(long, env = "LANEWAY_TRANSPARENT_EXCEPT", value_name = "CIDR", value_delimiter = ',')]
    pub transparent_except: Vec<IpNet>,
    /// With --transparent-rules: lead no connections to private networks
    #[arg(long, env = "LANEWAY_TRANSPARENT_EXCEPT_PRIVATE")]
    pub transparent_except_private: bool,
    /// Where names are resolved for local software, UDP and TCP, as the gateway resolves them; repeatable [default:
    /// nowhere]
    #[arg(long, env = "LANEWAY_DNS", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub dns: Vec<SocketAddr>,
    /// A domain whose names are asked of another name server, not of the gateway, like lan=192.168.1.1; repeatable
    #[arg(long, env = "LANEWAY_DNS_LOCAL", value_name = "SUFFIX=SERVER[:PORT]", value_delimiter = ',')]
    pub dns_local: Vec<Zone>,
    /// Let other machines ask, when --dns is not a loopback address
    #[arg(long, env = "LANEWAY_DNS_OPEN_TO_LAN")]
    pub dns_open_to_lan: bool,
    /// Let browsers that use /proxy.pac of the local port go out directly where the proxy does not answer [default: no]
    #[arg(long, env = "LANEWAY_PAC_DIRECT")]
    pub pac_direct: bool,
    /// Where links are accepted, TCP [default: every address, port 7420]
    #[arg(long, env = "LANEWAY_LINK", value_name = "ADDR:PORT")]
    pub link: Option<SocketAddr>,
    /// The UDP port of discovery [default: 7420]
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT")]
    pub discovery_port: Option<u16>,
    /// An interface or a local address to discover on; repeatable [default: all but loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    pub lan: Vec<String>,
    /// A gateway that is always tried, found or not; every address of a name is one; repeatable
    #[arg(long, env = "LANEWAY_GATEWAY", value_name = "HOST:PORT", value_delimiter = ',')]
    pub gateway: Vec<Target>,
    /// A server that this group is for: probed, and allowed on the gateway; repeatable
    #[arg(long, env = "LANEWAY_SERVER", value_name = "HOST:PORT", value_delimiter = ',')]
    pub server: Vec<Target>,
    /// A destination that the gateway allows, like *.example.org:443 or 10.0.0.0/8; repeatable [default: any, if
    /// there is no --server either]
    #[arg(long, env = "LANEWAY_ALLOW", value_name = "RULE", value_delimiter = ',')]
    pub allow: Vec<Rule>,
    /// A destination that the gateway refuses, judged before --server and --allow; repeatable
    #[arg(long, env = "LANEWAY_DENY", value_name = "RULE", value_delimiter = ',')]
    pub deny: Vec<Rule>,
    /// A proxy that this gateway itself has to leave by: http:// (CONNECT) or socks5://, which resolves the names;
    /// repeatable, the first that can be reached is used [default: none]
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
    /// How many gateways of the group are active at a time [default: 1]
    #[arg(long, env = "LANEWAY_ACTIVE", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub active: Option<u16>,
    /// How strongly this node should be preferred as a gateway, in percent [default: 100]
    #[arg(long, env = "LANEWAY_WEIGHT", value_name = "PERCENT")]
    pub weight: Option<u16>,
    /// How the active gateways are chosen [default: strongest]
    #[arg(long, env = "LANEWAY_POLICY", value_parser = policies())]
    pub policy: Option<Policy>,
    /// How long a turn lasts with the policies round-robin and random, in seconds [default: 3600]
    #[arg(long, env = "LANEWAY_ROTATE", value_name = "SECS", value_parser = rotation)]
    pub rotate: Option<f64>,
    /// A shell command that brings this gateway's uplink up when it is chosen; it serves once a --server
    /// answers [default: none]
    #[arg(long, env = "LANEWAY_ON_PROMOTE", value_name = "CMD")]
    pub on_promote: Option<String>,
    /// A shell command that brings the uplink down when this gateway is no longer chosen [default: none]
    #[arg(long, env = "LANEWAY_ON_DEMOTE", value_name = "CMD")]
    pub on_demote: Option<String>,
    /// How long --on-promote and --on-demote may take before they are killed, in seconds [default: 10]
    #[arg(long, env = "LANEWAY_COMMAND_TIMEOUT", value_name = "SECS", value_parser = seconds)]
    pub command_timeout: Option<f64>,
    /// How long a new connection waits while there is no gateway, in seconds [default: 10]
    #[arg(long, env = "LANEWAY_HOLD", value_name = "SECS", value_parser = seconds)]
    pub hold: Option<f64>,
    /// How long open connections may go on after a request to stop, in seconds [default: 30]
    #[arg(long, env = "LANEWAY_DRAIN", value_name = "SECS", value_parser = seconds)]
    pub drain: Option<f64>,
    /// How long the gateway tries to connect to a server, in seconds [default: 10]
    #[arg(long, env = "LANEWAY_CONNECT_TIMEOUT", value_name = "SECS", value_parser = seconds)]
    pub connect_timeout: Option<f64>,
    /// How many connections one client may have open through this gateway [default: 16384]
    #[arg(long, env = "LANEWAY_CLIENT_TUNNELS", value_name = "N")]
    pub client_tunnels: Option<u32>,
    /// How many connections a second one client may open through this gateway [default: 20000]
    #[arg(long, env = "LANEWAY_CLIENT_OPENS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub client_opens: Option<u32>,
    /// How many bytes a second one client may move through this gateway, both ways together, like 10M [default:
    /// as many as it can]
    #[arg(long, env = "LANEWAY_CLIENT_RATE", value_name = "BYTES")]
    pub client_rate: Option<Size>,
    /// How many bytes connections may hold in this node's memory, like 512M [default: a quarter of what the machine
    /// or the control group has]
    #[arg(long, env = "LANEWAY_MEMORY_LIMIT", value_name = "BYTES", value_parser = memory)]
    pub memory_limit: Option<Size>,
    /// Threads that serve links [default: one per core]
    #[arg(long, env = "LANEWAY_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What to log: error, warn, info, debug, trace, or directives [default: info]
    #[arg(long, env = "LANEWAY_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
    /// How a log line looks [default: text]
    #[arg(long, env = "LANEWAY_LOG_FORMAT", value_enum)]
    pub log_format: Option<Format>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err("not a number of seconds from 0 to 86400".into()),
    }
}

/// The least that a node can work with: some tunnels, and a whole window for one of them.
const LEAST_MEMORY: Size = Size(4 << 20);

fn memory(text: &str) -> Result<Size, String> {
    match text.parse::<Size>() {
        Ok(size) if size >= LEAST_MEMORY => Ok(size),
        Ok(_) => Err(format!("less than {LEAST_MEMORY}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The words of `--policy`, each with its help.
fn policies() -> impl clap::builder::TypedValueParser<Value = Policy> {
    let values = Policy::ALL.map(|(_, word, help)| PossibleValue::new(word).help(help));
    PossibleValuesParser::new(values).try_map(|word| word.parse::<Policy>())
}

fn rotation(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (1.0..=31_536_000.0).contains(&value) => Ok(value),
        _ => Err("not a number of seconds from 1 to 31536000".into()),
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Config {
    /// What this node may be.
    pub role: Role,
    /// Where the local proxy listens; never empty.
    pub proxy: Vec<Endpoint>,
    /// The permissions of its unix sockets.
    pub proxy_mode: u32,
    /// Who may use it; anybody who reaches it where there are none.
    pub logins: Vec<Login>,
    /// Whether other machines may use it without a login.
    pub proxy_open_to_lan: bool,
    /// Where connections arrive that the system leads here.
    pub transparent: Vec<SocketAddr>,
    /// Whether they go by name first.
    pub transparent_names: bool,
    /// Whether this node installs the rules that lead them.
    pub transparent_rules: bool,
    /// Networks that these rules are about; all where it is empty.
    pub transparent_only: Vec<IpNet>,
    /// Networks that they are not about.
    pub transparent_except: Vec<IpNet>,
    /// Whether they leave private networks alone.
    pub transparent_except_private: bool,
    /// Where the local name server listens.
    pub dns: Vec<SocketAddr>,
    /// Whose names it asks elsewhere.
    pub dns_local: Vec<Zone>,
    /// Whether /proxy.pac lets browsers go out directly where the proxy does not answer.
    pub pac_direct: bool,
    /// Where links are accepted; `None` means every address.
    pub link: Option<SocketAddr>,
    /// The UDP port of discovery.
    pub discovery_port: u16,
    /// Interfaces or addresses to discover on; empty for all.
    pub lans: Vec<String>,
    /// Gateways that are always tried.
    pub gateways: Vec<Target>,
    /// The group's servers.
    pub servers: Vec<Target>,
    /// What a gateway allows besides.
    pub allow: Vec<Rule>,
    /// What a gateway refuses.
    pub deny: Vec<Rule>,
    /// The proxies that a gateway leaves by.
    pub upstream: Vec<UpstreamProxy>,
    /// What it leaves for directly all the same.
    pub upstream_except: Vec<Rule>,
    /// How many gateways are active at a time.
    pub active: usize,
    /// This node's weight in percent.
    pub weight: u16,
    /// How the active gateways are chosen.
    pub policy: Policy,
    /// How long a turn lasts.
    pub rotate: Duration,
    /// Brings this gateway's uplink up.
    pub on_promote: Option<String>,
    /// Brings it down.
    pub on_demote: Option<String>,
    /// How long either may take.
    pub command_timeout: Duration,
    /// How long a connection is held.
    pub hold: Duration,
    /// How long open connections may go on at the end.
    pub drain: Duration,
    /// The deadline of a connection to a server.
    pub connect_timeout: Duration,
    /// What one client may take of this gateway.
    pub clients: Limits,
    /// What connections may hold in memory, in bytes.
    pub memory_limit: u64,
    /// Threads that serve links.
    pub threads: usize,
    /// What to log.
    pub log: String,
    /// How a log line looks.
    pub log_format: Format,
}

impl Config {
    /// Joins what was typed with the file: the one named, else the user's or the system's if there is one.
    ///
    /// # Errors
    /// A usage problem, with the file, line and column where it has one.
    pub fn new(typed: Typed, file: Option<&Path>) -> Result<Self, Problem> {
        let file = match file {
            Some(path) => read(path)?,
            None => match default_files().into_iter().find(|path| path.exists()) {
                Some(path) => read(&path)?,
                None => Typed::default(),
            },
        };
        let mut typed = typed.or(file);
        if let Some(path) = &typed.proxy_logins {
            typed.proxy_login.extend(Login::read(path)?);
        }
        Self::of(typed)
    }

    /// Whether nobody can use the local proxy who was not meant to.
    ///
    /// # Errors
    /// A usage problem: other machines reach it, are not asked for a login, and nobody said that this is meant.
    pub fn check_proxy(&self) -> Result<(), Problem> {
        if let Some(address) = self.transparent.iter().find(|address| !address.ip().is_loopback())
            && !self.proxy_open_to_lan
        {
            return Err(Problem::usage(format!(
                "--transparent {address} would let every machine use this node that leads its connections there"
            ))
            .hint("listen on 127.0.0.1 and [::1], or say --proxy-open-to-lan"));
        }
        let open = self.proxy.iter().find(|endpoint| !endpoint.is_of_this_machine());
        match open.filter(|_| self.logins.is_empty() && !self.proxy_open_to_lan) {
            None => Ok(()),
            Some(endpoint) => Err(Problem::usage(format!(
                "--proxy {endpoint} would let every machine that reaches it use this proxy"
            ))
            .hint(
                "listen on 127.0.0.1, ask for logins with --proxy-logins FILE, or say --proxy-open-to-lan",
            )),
        }
    }

    /// What the commands of the uplink run under.
    pub fn uplink_terms(&self) -> uplink::Terms {
        let servers: Vec<_> = self.servers.iter().map(Target::to_string).collect();
        uplink::Terms { command_timeout: self.command_timeout, drain: self.drain, server: servers.join(",") }
    }

    /// What this means, wherever it was typed; the file of logins has been read already.
    ///
    /// # Errors
    /// A usage problem.
    pub fn of(typed: Typed) -> Result<Self, Problem> {
        name_server(&typed)?;
        let upstream = typed.upstream.iter().map(UnparsedProxy::parse).collect::<Result<_, _>>();
        let upstream =
            upstream.map_err(|error| Problem::usage("--upstream is not a proxy").because(error))?;
        if let Some(value) = typed.rotate {
            rotation(&value.to_string()).map_err(|error| Problem::usage(format!("rotate: {error}")))?;
        }
        if let Some(limit) = typed.memory_limit {
            memory(&limit.to_string()).map_err(|error| Problem::usage(format!("memory-limit: {error}")))?;
        }
        for (name, value, most) in [("active", typed.active, u16::MAX), ("threads", typed.threads, 1024)] {
            if value.is_some_and(|value| !(1..=most).contains(&value)) {
                return Err(Problem::usage(format!("{name}: not a number from 1 to {most}")));
            }
        }
        if typed.client_opens == Some(0) {
            return Err(Problem::usage("client-opens: not a number from 1 on"));
        }
        for (name, value) in [
            ("hold", typed.hold),
            ("drain", typed.drain),
            ("connect-timeout", typed.connect_timeout),
            ("command-timeout", typed.command_timeout),
        ] {
            if let Some(value) = value {
                seconds(&value.to_string()).map_err(|error| Problem::usage(format!("{name}: {error}")))?;
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let duration = |value: Option<f64>, default: f64| Duration::from_secs_f64(value.unwrap_or(default));
        let proxy = match typed.proxy.is_empty() {
            true => vec![Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], PROXY_PORT)))],
            false => typed.proxy,
        };
        let config = Self {
            role: typed.role.unwrap_or_default(),
            proxy,
            proxy_mode: typed.proxy_mode.map_or(0o600, |mode| mode.0),
            logins: typed.proxy_login,
            proxy_open_to_lan: typed.proxy_open_to_lan,
            transparent: typed.transparent,
            transparent_names: typed.transparent_names,
            transparent_rules: typed.transparent_rules,
            transparent_only: typed.transparent_only,
            transparent_except: typed.transparent_except,
            transparent_except_private: typed.transparent_except_private,
            dns: typed.dns,
            dns_local: typed.dns_local,
            pac_direct: typed.pac_direct,
            link: typed.link,
            discovery_port: typed.discovery_port.unwrap_or(PORT),
            lans: typed.lan,
            gateways: typed.gateway,
            servers: typed.server,
            allow: typed.allow,
            deny: typed.deny,
            upstream,
            upstream_except: typed.upstream_except,
            active: typed.active.unwrap_or(1).into(),
            weight: typed.weight.unwrap_or(100),
            policy: typed.policy.unwrap_or_default(),
            rotate: duration(typed.rotate, 3600.0),
            on_promote: typed.on_promote,
            on_demote: typed.on_demote,
            command_timeout: duration(typed.command_timeout, 10.0),
            hold: duration(typed.hold, 10.0),
            drain: duration(typed.drain, 30.0),
            connect_timeout: duration(typed.connect_timeout, 10.0),
            clients: Limits {
                tunnels: typed.client_tunnels.unwrap_or(16_384),
                opens: typed.client_opens.unwrap_or(20_000),
                rate: typed.client_rate.map_or(0, |rate| rate.0),
            },
            memory_limit: typed.memory_limit.map_or_else(share_of_machine, |limit| limit.0),
            threads: typed.threads.map_or(cores, usize::from),
            log: typed.log.unwrap_or_else(|| "info".into()),
            log_format: typed.log_format.unwrap_or_default(),
        };
        config.check_proxy()?;
        if config.transparent_rules && config.transparent.is_empty() {
            return Err(Problem::usage("--transparent-rules leads connections to a port that there is not")
                .hint(format!("add --transparent 127.0.0.1:{TRANSPARENT_PORT},[::1]:{TRANSPARENT_PORT}")));
        }
        Ok(config)
    }
}

impl Typed {
    /// What this says, and what `other` says where this says nothing.
    fn or(self, other: Self) -> Self {
        fn list<T>(mine: Vec<T>, other: Vec<T>) -> Vec<T> {
            if mine.is_empty() { other } else { mine }
        }
        Self {
            role: self.role.or(other.role),
            proxy: list(self.proxy, other.proxy),
            proxy_mode: self.proxy_mode.or(other.proxy_mode),
            proxy_logins: self.proxy_logins.or(other.proxy_logins),
            proxy_login: list(self.proxy_login, other.proxy_login),
            proxy_open_to_lan: self.proxy_open_to_lan || other.proxy_open_to_lan,
            transparent: list(self.transparent, other.transparent),
            transparent_names: self.transparent_names || other.transparent_names,
            transparent_rules: self.transparent_rules || other.transparent_rules,
            transparent_only: list(self.transparent_only, other.transparent_only),
            transparent_except: list(self.transparent_except, other.transparent_except),
            transparent_except_private: self.transparent_except_private || other.transparent_except_private,
            dns: list(self.dns, other.dns),
            dns_local: list(self.dns_local, other.dns_local),
            dns_open_to_lan: self.dns_open_to_lan || other.dns_open_to_lan,
            pac_direct: self.pac_direct || other.pac_direct,
            link: self.link.or(other.link),
            discovery_port: self.discovery_port.or(other.discovery_port),
            lan: list(self.lan, other.lan),
            gateway: list(self.gateway, other.gateway),
            server: list(self.server, other.server),
            allow: list(self.allow, other.allow),
            deny: list(self.deny, other.deny),
            upstream: list(self.upstream, other.upstream),
            upstream_except: list(self.upstream_except, other.upstream_except),
            active: self.active.or(other.active),
            weight: self.weight.or(other.weight),
            policy: self.policy.or(other.policy),
            rotate: self.rotate.or(other.rotate),
            on_promote: self.on_promote.or(other.on_promote),
            on_demote: self.on_demote.or(other.on_demote),
            command_timeout: self.command_timeout.or(other.command_timeout),
            hold: self.hold.or(other.hold),
            drain: self.drain.or(other.drain),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            client_tunnels: self.client_tunnels.or(other.client_tunnels),
            client_opens: self.client_opens.or(other.client_opens),
            client_rate: self.client_rate.or(other.client_rate),
            memory_limit: self.memory_limit.or(other.memory_limit),
            threads: self.threads.or(other.threads),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// Where the local name server may listen.
fn name_server(typed: &Typed) -> Result<(), Problem> {
    for address in &typed.dns {
        if address.ip().is_unspecified() {
            let what = format!("--dns {address}: answers must come from the address that was asked");
            return Err(
                Problem::usage(what).hint("name each address, like --dns 127.0.0.1:53,192.168.1.10:53")
            );
        }
        if !address.ip().is_loopback() && !typed.dns_open_to_lan {
            let what = format!("--dns {address} would let every machine that reaches it ask the gateway");
            return Err(Problem::usage(what)
                .hint("listen on 127.0.0.1, or say --dns-open-to-lan if that is what you want"));
        }
    }
    if typed.dns.is_empty() && (!typed.dns_local.is_empty() || typed.dns_open_to_lan) {
        return Err(Problem::usage("--dns-local and --dns-open-to-lan do nothing without --dns")
            .hint("add --dns 127.0.0.1:53"));
    }
    Ok(())
}

/// Where the local proxy of this machine's node listens for TCP, as far as the configuration file says.
///
/// # Errors
/// When there is a file, and it is not valid or names unix sockets only.
pub fn configured_proxy() -> Result<SocketAddr, Problem> {
    let config = Config::new(Typed::default(), None)?;
    let tcp = config.proxy.iter().find_map(|endpoint| match endpoint {
        Endpoint::Tcp(address) => Some(*address),
        Endpoint::Unix(_) => None,
    });
    tcp.ok_or_else(|| {
        Problem::usage("the configuration has the local proxy listen on unix sockets only")
            .hint("let it listen on 127.0.0.1:1080 too, or name a port with --proxy ADDR:PORT")
    })
}

fn read(path: &Path) -> Result<Typed, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Problem::usage(format!("cannot read the configuration {}", path.display())).because(error)
    })?;
    toml::from_str(&text).map_err(|error| {
        Problem::usage(format!("the configuration {} is not valid", path.display())).because(error).hint(
            "'laneway up --help' lists the options; in the file they are written without the dashes in front",
        )
    })
}

fn default_files() -> Vec<PathBuf> {
    let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    let user = home.map(|home| home.join("laneway/laneway.toml"));
    user.into_iter().chain([PathBuf::from("/etc/laneway/laneway.toml")]).collect()
}

/// The state directory that was named, or the default one.
///
/// # Errors
/// When it cannot be used.
pub fn state_directory(named: Option<&Path>) -> Result<StateDir, Problem> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => StateDir::default_path()?,
    };
    Ok(StateDir::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Problem> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("laneway.toml");
        std::fs::write(&path, text).unwrap();
        Config::new(Typed::default(), Some(&path))
    }

    #[test]
    fn the_file_takes_what_the_flags_take() {
        let config = parse(
            "role = 'gateway'\nserver = ['10.0.0.5:80']\nallow = ['*.corp:443']\nhold = 2.5\nproxy = '127.0.0.1:1'\n",
        )
        .unwrap();
        assert_eq!(config.role, Role::Gateway);
        assert_eq!(config.servers[0].to_string(), "10.0.0.5:80");
        assert_eq!(config.allow[0].to_string(), "*.corp:443");
        assert_eq!(config.hold, Duration::from_millis(2500));
        assert_eq!(config.proxy, ["127.0.0.1:1".parse().unwrap()]);
    }

    #[test]
    fn the_file_has_the_bounds_that_the_flags_have() {
        for (text, good) in [
            ("active = 1", true),
            ("active = 0", false),
            ("threads = 1024", true),
            ("threads = 0", false),
            ("threads = 1025", false),
            ("rotate = 0.5", false),
            ("hold = 86401", false),
            ("drain = nan", false),
        ] {
            assert_eq!(parse(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn a_flag_comes_before_the_file() {
        let typed = Typed { hold: Some(1.0), ..Typed::default() };
        let file = Typed { hold: Some(2.0), drain: Some(3.0), ..Typed::default() };
        let joined = typed.or(file);
        assert_eq!((joined.hold, joined.drain), (Some(1.0), Some(3.0)));
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line_and_column() {
        for (text, place) in [
            ("rolle = 'gateway'", "line 1, column 1"),
            ("hold = 1\nserver = ['10.0.0.5']", "line 2, column 10"),
            ("hold = ", "line 1, column 8"),
        ] {
            let problem = parse(text).unwrap_err().to_string();
            assert!(problem.contains(place), "{problem}");
            assert!(problem.contains("laneway.toml"), "{problem}");
        }
        assert!(parse("hold = -1").is_err());
    }

    #[test]
    fn what_is_wrong_with_an_upstream_proxy_is_said_without_its_password() {
        let problem = parse("upstream = ['http://me:secret@proxy']").unwrap_err().to_string();
        assert!(problem.contains("--upstream") && !problem.contains("secret"), "{problem}");
        let config = parse("upstream = ['http://me:secret@proxy:80', 'socks5://10.0.0.1:1080']").unwrap();
        assert_eq!(config.upstream.len(), 2);
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn the_name_server_is_not_opened_to_others_by_accident() {
        for (text, hint) in [
            ("dns = ['192.0.2.1:53']", "--dns-open-to-lan"),
            ("dns = ['0.0.0.0:53']\ndns-open-to-lan = true", "name each address"),
            ("dns-local = ['lan=10.0.0.1']", "--dns 127.0.0.1:53"),
        ] {
            let problem = parse(text).unwrap_err().to_string();
            assert!(problem.contains(hint), "{problem}");
        }
        let open =
            "dns = ['127.0.0.1:53', '192.0.2.1:53']\ndns-open-to-lan = true\ndns-local = ['lan=10.0.0.1']";
        assert_eq!(parse(open).unwrap().dns.len(), 2);
    }

    #[test]
    fn the_proxy_is_not_opened_to_others_by_accident() {
        assert!(parse("proxy = '0.0.0.0:1080'").unwrap_err().to_string().contains("--proxy-open-to-lan"));
        assert!(parse("proxy = '0.0.0.0:1080'\nproxy-open-to-lan = true").is_ok());
        assert!(parse("proxy = '0.0.0.0:1080'\nproxy-login = ['ann:secret']").is_ok());
        assert!(parse("proxy = ['[::1]:1080', '[::]:1080']").is_err());
        let config = parse("proxy = ['[::1]:1', 'unix:/run/x.sock']\nproxy-mode = '660'").unwrap();
        assert_eq!((config.proxy.len(), config.proxy_mode), (2, 0o660));
        let problem = parse("hold = 1\nproxy = 'x'").unwrap_err().to_string();
        assert!(problem.contains("line 2, column 9") && problem.contains("unix:/PATH"), "{problem}");
    }
}
