//! `init`, `invite`, `join`: how machines become members of a group.

use std::net::SocketAddr;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{authority, say};
use crate::link::tls;
use crate::mark;
use crate::net::{self, Segments};
use crate::peers::options::PORT;
use crate::peers::{remembered, signer};
use crate::problem::Problem;
use crate::sys::state::StateDir;
use crate::trust::authority::{Authority, Uses};
use crate::trust::clock;
use crate::trust::code::JoinCode;
use crate::trust::group::{self, Group, Role};
use crate::trust::join::{self, EXPORTER_LABEL, JoinError};

/// The deadline of each step of the connection to the signer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The default lifetime of a join code.
const DEFAULT_TTL: &str = "24h";

/// `laneway init`
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The group's name, for display
    #[arg(long, value_name = "NAME", default_value = "lan")]
    group: String,
    /// This machine's name in the group [default: the host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long the join code is valid, such as 30m, 24h, 7d or never
    #[arg(long, value_name = "TIME", default_value = DEFAULT_TTL, value_parser = ttl)]
    ttl: Ttl,
}

/// `laneway invite`
#[derive(Debug, clap::Args)]
pub struct Invite {
    /// Admit machines as clients only: they use gateways but never become one
    #[arg(long)]
    client_only: bool,
    /// How many machines may join with the code: a number, or any
    #[arg(long, value_name = "N|any", default_value = "1", value_parser = uses)]
    uses: Uses,
    /// How long the join code is valid, such as 30m, 24h, 7d or never
    #[arg(long, value_name = "TIME", default_value = DEFAULT_TTL, value_parser = ttl)]
    ttl: Ttl,
    /// The name of the joining machine in the group [default: its host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `laneway join`
#[derive(Debug, clap::Args)]
pub struct Join {
    /// The join code, which starts with lw1.
    #[arg(required = true, num_args = 1.., value_name = "CODE")]
    code: Vec<String>,
    /// The address of the machine that made the group, if discovery cannot find it
    #[arg(long, value_name = "HOST:PORT")]
    gateway: Option<String>,
    /// This machine's name in the group [default: the host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or local address to query on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

/// The lifetime of a join code; `None` for one that does not expire.
#[derive(Clone, Copy, Debug)]
struct Ttl(Option<Duration>);

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl(None));
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("write a number followed by s, m, h or d, or never".into()),
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    let seconds =
        number.and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds <= 86_400 * 36_500);
    seconds
        .map(|seconds| Ttl(Some(Duration::from_secs(seconds))))
        .ok_or_else(|| "not a valid time: from 1s to 36500d".into())
}

fn uses(text: &str) -> Result<Uses, String> {
    match text {
        "any" => Ok(Uses::Any),
        _ => match text.parse() {
            Ok(0) | Err(_) => Err("write a number of at least 1, or any".into()),
            Ok(number) => Ok(Uses::Times(number)),
        },
    }
}

impl Init {
    /// Creates the group, and prints the command that joins it.
    ///
    /// # Errors
    /// When this machine is in a group already, or the group cannot be saved.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let name = self.name.unwrap_or_else(net::host_name);
        let group = Authority::create(state, &self.group, &name)?;
        let code = authority::load(state)?.invite(Role::Gateway, Uses::Any, self.ttl.0, None)?;
        say(format_args!("Created the group '{}'; this machine is '{}'.", group.name, group.node.name));
        say(
            "Start this node with the server that the others should reach:\n\n    laneway up --server HOST:PORT\n",
        );
        say("While it runs, run this on every other machine:\n");
        say(format_args!("    laneway join {code}"));
        Ok(())
    }
}

impl Invite {
    /// Creates one more join code.
    ///
    /// # Errors
    /// When this machine does not hold the authority, or the code cannot be saved.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let role = if self.client_only { Role::Client } else { Role::Gateway };
        let code = authority::load(state)?.invite(role, self.uses, self.ttl.0, self.name)?;
        say(format_args!("laneway join {code}"));
        Ok(())
    }
}

impl Join {
    /// Joins the group.
    ///
    /// # Errors
    /// When no machine that can admit is found, or it refuses.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        let code: JoinCode = self.code.join(" ").parse()?;
        // Rules of transparent mode may be installed already. Where this process may not set marks, they exempt its user.
        let _ = mark::begin();
        group::refuse_second_group(&state)?;
        let name = self.name.clone().unwrap_or_else(net::host_name);
        if code.expired(clock::now()) {
            tracing::warn!("the code has expired by this machine's clock; the machine that admits decides");
        }
        let signer = self.signer(&code).await?;
        let group = enrol(signer, &code, &name, &state).await?;
        group::remember_membership(&state, &group)?;
        remembered::add(&state, signer);
        let role = match group.node.role {
            Role::Client => "a client",
            Role::Gateway => "a full node",
        };
        say(format_args!("Joined the group '{}' as '{}', {role}.", group.name, group.node.name));
        say("Start this node:\n\n    laneway up\n\nand point software to it:\n");
        say("    export http_proxy=http://127.0.0.1:1080 https_proxy=http://127.0.0.1:1080");
        Ok(())
    }

    /// The address of the machine that admits: as given, else found by discovery.
    async fn signer(&self, code: &JoinCode) -> Result<SocketAddr, Problem> {
        if let Some(named) = &self.gateway {
            let unresolved = |error: std::io::Error| {
                Problem::new(format!("cannot resolve {named}"))
                    .because(error)
                    .hint("write HOST:PORT; the default port is 7420")
            };
            let mut found = tokio::net::lookup_host(named.as_str()).await.map_err(unresolved)?;
            return found.next().ok_or_else(|| unresolved(std::io::ErrorKind::NotFound.into()));
        }
        let key = code.discovery_key();
        let port = self.discovery_port;
        let mut own_port = port;
        loop {
            match signer::find_signer(code.group, code.invite, &key, port, own_port, &self.lan).await {
                Ok(Some(signer)) => return Ok(signer),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && own_port != 0 => own_port = 0,
                Err(error) => {
                    return Err(Problem::new("discovery queries cannot be sent")
                        .because(error)
                        .hint("bring a network interface up, or give the address of the group's first machine: --gateway HOST:PORT"));
                }
                Ok(None) => {
                    return Err(Problem::new("no machine on this LAN admits with this code").hint(format!(
                        "keep 'laneway up' running where 'laneway init' was run; if it is behind a router, or UDP port \
                         {port} is blocked, give its address: --gateway HOST:{PORT}"
                    )));
                }
            }
        }
    }
}

/// Enrols this machine at the signer.
async fn enrol(signer: SocketAddr, code: &JoinCode, name: &str, state: &StateDir) -> Result<Group, Problem> {
    let failed = |error: std::io::Error| {
        Problem::new(format!("cannot join at {signer}")).because(error).hint(
            "is this the machine where 'laneway init' was run, is the code of its group, and does 'laneway up' run there?",
        )
    };
    let timed_out = || failed(std::io::ErrorKind::TimedOut.into());
    // The exchange is short, and small segments pass on paths that drop large ones.
    let socket = timeout(CONNECT_DEADLINE, mark::connect_with(signer, Segments::Small)).await;
    let socket = socket.map_err(|_gone: tokio::time::error::Elapsed| timed_out())?.map_err(failed)?;
    let connector = TlsConnector::from(tls::join_client(code));
    let host: ServerName<'static> = tls::server_name(None);
    let stream = timeout(CONNECT_DEADLINE, connector.connect(host, socket)).await;
    let mut stream = stream.map_err(|_gone: tokio::time::error::Elapsed| timed_out())?.map_err(failed)?;
    let exporter = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None);
    let exporter = exporter.map_err(|error| failed(std::io::Error::other(error)))?;
    let key = join::JoinKey::saved_in(state)?;
    let outcome = join::request(&mut stream, &exporter, code, name, key).await;
    if let Err(JoinError::Refused(_)) = &outcome {
        group::forget_attempt(state)?;
    }
    let group = outcome?;
    // The membership is complete, so an error in closing does not matter.
    let _ = timeout(CONNECT_DEADLINE, stream.shutdown()).await;
    Ok(group)
}
