//! The options of discovery and selection.

use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use laneway_limits::size::{TimeError, seconds, within};
use laneway_wire::datagram::Policy;
use laneway_wire::target::{Target, TargetError, configured_with};

/// The default port of discovery (UDP), and of links (TCP).
pub const PORT: u16 = 7420;

/// Reads the address of a gateway, `HOST` or `HOST:PORT`; [`PORT`] is the default.
///
/// # Errors
/// Those of [`configured_with`].
pub fn gateway(text: &str) -> Result<Target, TargetError> {
    configured_with(text, PORT)
}

/// The options of discovery and selection.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Discovery and selection")]
#[group(skip)]
pub struct Options {
    /// The UDP port of discovery; the same on all machines
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value = "7420")]
    pub discovery_port: u16,
    /// An interface or local address to discover on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    pub lan: Vec<String>,
    /// A gateway to try even if discovery does not find it; all addresses of a name are used; repeatable
    #[arg(long, env = "LANEWAY_GATEWAY", value_name = "HOST:PORT", value_delimiter = ',', value_parser = gateway)]
    pub gateway: Vec<Target>,
    /// Number of gateways of the group that are active at a time
    #[arg(long, env = "LANEWAY_ACTIVE", value_name = "N", value_parser = clap::value_parser!(u16).range(1..), default_value = "1")]
    pub active: u16,
    /// Preference for this node as a gateway, in percent of its measured capacity. 0 makes it the last resort, as for a line
    /// that is charged by the byte: it serves only while there is no other gateway
    #[arg(long, env = "LANEWAY_WEIGHT", value_name = "PERCENT", value_parser = percent, default_value = "100")]
    pub weight: u16,
    /// How the active gateways are chosen
    #[arg(long, env = "LANEWAY_POLICY", value_parser = policies(), default_value = "strongest")]
    pub policy: Policy,
    /// How long a turn lasts with the policies round-robin and random, in seconds
    #[arg(long, env = "LANEWAY_ROTATE", value_name = "SECS", value_parser = rotation, default_value = "3600")]
    pub rotate: Duration,
    /// Shell command that brings this gateway's uplink up when it is chosen; it serves once a --server answers
    /// [default: none]
    #[arg(long, env = "LANEWAY_ON_PROMOTE", value_name = "CMD")]
    pub on_promote: Option<String>,
    /// Shell command that brings the uplink down when this gateway is no longer chosen [default: none]
    #[arg(long, env = "LANEWAY_ON_DEMOTE", value_name = "CMD")]
    pub on_demote: Option<String>,
    /// Time limit for --on-promote and --on-demote, in seconds; after it they are killed
    #[arg(long, env = "LANEWAY_COMMAND_TIMEOUT", value_name = "SECS", value_parser = seconds, default_value = "10")]
    pub command_timeout: Duration,
}

/// What a running node takes from new options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Number of gateways of the group that are active at a time.
    pub active: u8,
    /// Preference for this node as a gateway, in percent.
    pub weight: u16,
    /// How the active gateways are chosen.
    pub policy: Policy,
    /// How long a turn lasts.
    pub rotate: Duration,
    /// Time limit for the uplink's commands.
    pub command_timeout: Duration,
}

impl Options {
    /// What a running node takes from `new`, and the options that differ and take effect at the next start only. Every
    /// option is in one of the two, or the compiler warns of an unused one.
    pub fn reload(&self, new: &Self) -> (Live, Vec<&'static str>) {
        let Self {
            discovery_port,
            lan,
            gateway,
            active,
            weight,
            policy,
            rotate,
            on_promote,
            on_demote,
            command_timeout,
        } = new;
        let live = Live {
            active: u8::try_from(*active).unwrap_or(u8::MAX),
            weight: *weight,
            policy: *policy,
            rotate: *rotate,
            command_timeout: *command_timeout,
        };
        let later = changed([
            ("discovery-port", self.discovery_port != *discovery_port),
            ("lan", self.lan != *lan),
            ("gateway", self.gateway != *gateway),
            ("on-promote", self.on_promote != *on_promote),
            ("on-demote", self.on_demote != *on_demote),
        ]);
        (live, later)
    }
}

/// The names of those options that have changed.
pub fn changed<const N: usize>(options: [(&'static str, bool); N]) -> Vec<&'static str> {
    options.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}

/// The words of `--policy`, each with its help.
fn policies() -> impl TypedValueParser<Value = Policy> {
    let values = Policy::ALL.map(|(_, word, help)| PossibleValue::new(word).help(help));
    PossibleValuesParser::new(values).try_map(|word| word.parse::<Policy>())
}

fn rotation(text: &str) -> Result<Duration, TimeError> {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    within(text, Duration::from_secs(1), Duration::from_secs(1), YEAR)
}

/// A whole number, with or without a percent sign.
fn percent(text: &str) -> Result<u16, &'static str> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    number.parse().map_err(|_error: std::num::ParseIntError| "not a whole number of percent from 0 to 65535")
}
