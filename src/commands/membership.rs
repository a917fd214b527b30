//! `init`, `invite`, `join`: how machines come into a group.

use std::net::SocketAddr;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{authority, say};
use crate::config::PORT;
use crate::link::tls;
use crate::mark;
use crate::net::{self, Segments};
use crate::peers::{remembered, signer};
use crate::problem::Problem;
use crate::trust::authority::{Authority, Uses};
use crate::trust::clock;
use crate::trust::code::JoinCode;
use crate::trust::group::{self, Group, Role};
use crate::trust::join::{self, EXPORTER_LABEL, JoinError};
use crate::trust::state::StateDir;

/// How long a connection to the signer may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an invite lasts if nothing else is said.
const TTL: &str = "24h";

/// `laneway init`
#[derive(Debug, clap::Args)]
pub struct Init {
    /// The group's name, for people
    #[arg(long, value_name = "NAME", default_value = "lan")]
    group: String,
    /// This machine's name in the group [default: the host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long the printed line lets machines join, like 30m, 24h, 7d or never
    #[arg(long, value_name = "TIME", default_value = TTL, value_parser = ttl)]
    ttl: Ttl,
}

/// `laneway invite`
#[derive(Debug, clap::Args)]
pub struct Invite {
    /// Let the machines use gateways, but never be one
    #[arg(long)]
    client_only: bool,
    /// How many machines may join with the line: a number, or any
    #[arg(long, value_name = "N|any", default_value = "1", value_parser = uses)]
    uses: Uses,
    /// How long the line lets machines join, like 30m, 24h, 7d or never
    #[arg(long, value_name = "TIME", default_value = TTL, value_parser = ttl)]
    ttl: Ttl,
    /// The name of the machine that joins [default: its host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `laneway join`
#[derive(Debug, clap::Args)]
pub struct Join {
    /// The code: the word that begins with lw1.
    #[arg(required = true, num_args = 1.., value_name = "CODE")]
    code: Vec<String>,
    /// Where the machine that made the group is, when the LAN cannot be asked
    #[arg(long, value_name = "HOST:PORT")]
    gateway: Option<String>,
    /// This machine's name in the group [default: the host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or a local address to ask on; repeatable [default: all but loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

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
        _ => return Err("write a number with s, m, h or d, or never".into()),
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    let seconds =
        number.and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds <= 86_400 * 36_500);
    seconds.map(|seconds| Ttl(Some(Duration::from_secs(seconds)))).ok_or_else(|| "not a time".into())
}

fn uses(text: &str) -> Result<Uses, String> {
    match text {
        "any" => Ok(Uses::Any),
        _ => match text.parse() {
            Ok(0) | Err(_) => Err("write a number from 1, or any".into()),
            Ok(number) => Ok(Uses::Times(number)),
        },
    }
}

impl Init {
    /// Makes the group.
    ///
    /// # Errors
    /// When there is one already, or it cannot be saved.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let name = self.name.unwrap_or_else(net::host_name);
        let group = Authority::create(state, &self.group, &name)?;
        let code = authority::own(state)?.invite(Role::Gateway, Uses::Any, self.ttl.0, None)?;
        say(format_args!("The group '{}' is made; this machine is '{}'.", group.name, group.node.name));
        say(
            "Start this node, with the server that the others are to reach:\n\n    laneway up --server HOST:PORT\n",
        );
        say("Then, while it runs, on every other machine:\n");
        say(format_args!("    laneway join {code}"));
        Ok(())
    }
}

impl Invite {
    /// Makes one more code.
    ///
    /// # Errors
    /// When this machine did not make the group, or it cannot be saved.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let role = if self.client_only { Role::Client } else { Role::Gateway };
        let code = authority::own(state)?.invite(role, self.uses, self.ttl.0, self.name)?;
        say(format_args!("laneway join {code}"));
        Ok(())
    }
}

impl Join {
    /// Joins.
    ///
    /// # Errors
    /// When nobody who can admit is found, or does not admit.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        let code: JoinCode = self.code.join(" ").parse()?;
        // Rules of transparent mode may be in place already; where this may not mark, they exempt its user.
        let _ = mark::begin();
        group::refuse_second_group(&state)?;
        let name = self.name.clone().unwrap_or_else(net::host_name);
        if code.expired(clock::now()) {
            tracing::warn!("by this machine's clock the code has expired; the group's first machine decides");
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
        say("Start this node:\n\n    laneway up\n\nand point software at it:\n");
        say("    export http_proxy=http://127.0.0.1:1080 https_proxy=http://127.0.0.1:1080");
        Ok(())
    }

    async fn signer(&self, code: &JoinCode) -> Result<SocketAddr, Problem> {
        if let Some(named) = &self.gateway {
            let lost = |error: std::io::Error| {
                Problem::new(format!("cannot find {named}"))
                    .because(error)
                    .hint("write HOST:PORT; the port is 7420")
            };
            let mut found = tokio::net::lookup_host(named.as_str()).await.map_err(lost)?;
            return found.next().ok_or_else(|| lost(std::io::ErrorKind::NotFound.into()));
        }
        let key = code.discovery_key();
        let port = self.discovery_port;
        let mut own_port = port;
        loop {
            match signer::find_signer(code.group, code.invite, &key, port, own_port, &self.lan).await {
                Ok(Some(signer)) => return Ok(signer),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && own_port != 0 => own_port = 0,
                Err(error) => {
                    return Err(Problem::new("the LAN cannot be asked")
                        .because(error)
                        .hint("bring a network interface up, or say where the group's first machine is: --gateway HOST:PORT"));
                }
                Ok(None) => {
                    return Err(Problem::new("no machine on this LAN can admit by this code").hint(format!(
                        "keep 'laneway up' running where 'laneway init' was done; if it is behind a router, or UDP port \
                         {port} is blocked, name it: --gateway HOST:{PORT}"
                    )));
                }
            }
        }
    }
}

async fn enrol(signer: SocketAddr, code: &JoinCode, name: &str, state: &StateDir) -> Result<Group, Problem> {
    let failed = |error: std::io::Error| {
        Problem::new(format!("cannot join at {signer}")).because(error).hint(
            "is this the machine where 'laneway init' was done, with the same group as the code, and 'laneway up' running?",
        )
    };
    let late = || failed(std::io::ErrorKind::TimedOut.into());
    // It is little that is said, and small segments pass where larger ones may vanish.
    let socket = timeout(CONNECT, mark::connect_with(signer, Segments::Small)).await;
    let socket = socket.map_err(|_gone: tokio::time::error::Elapsed| late())?.map_err(failed)?;
    let connector = TlsConnector::from(tls::join_client(code));
    let host: ServerName<'static> = tls::server_name(None);
    let stream = timeout(CONNECT, connector.connect(host, socket)).await;
    let mut stream = stream.map_err(|_gone: tokio::time::error::Elapsed| late())?.map_err(failed)?;
    let exporter = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None);
    let exporter = exporter.map_err(|error| failed(std::io::Error::other(error)))?;
    let key = join::Key::kept_in(state)?;
    let outcome = join::request(&mut stream, &exporter, code, name, key).await;
    if let Err(JoinError::Refused(_)) = &outcome {
        group::forget_attempt(state)?;
    }
    let group = outcome?;
    // The membership is complete; how the connection ends does not matter.
    let _ = timeout(CONNECT, stream.shutdown()).await;
    Ok(group)
}
