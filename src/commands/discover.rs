//! `laneway discover`: one discovery query, and a table of the gateways that answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::doctor::OTHER_GROUP;
use super::{beside, say};
use crate::peers::boot::Boot;
use crate::peers::directory::{Directory, Gateway, Source};
use crate::peers::discovery::{self, Discovery};
use crate::peers::options::PORT;
use crate::peers::remembered;
use crate::problem::Problem;
use crate::size::{TimeError, within};
use crate::sys::state::StateDir;
use crate::sys::tools;
use crate::telemetry::report;
use crate::trust::membership::Membership;

/// What the columns mean.
const COLUMNS: &str = "\
Columns:
  STATE         active: new connections go over it; standby: it takes over if an active one fails;
                draining: it takes no new connections; withdrawn: it reaches no server, or is in
                maintenance
  CAPACITY      how fast its processors can encrypt, or the best rate that it has carried
  MACHINE LOAD  the highest of the shares in use of its connections, its capacity and its
                processors, which all programs of that machine use
  TUNNELS       connections that it carries for clients
  RTT           how long its answer took
  SERVER        whether it reaches its servers, or hosts beyond the LAN";

/// `laneway discover`
#[derive(Debug, clap::Args)]
#[command(after_help = COLUMNS)]
pub struct Discover {
    /// How long to collect answers, such as 2s; a number without a unit is in seconds
    #[arg(long, value_name = "TIME", default_value = "1200ms", value_parser = wait)]
    wait: Duration,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or local address to query on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

fn wait(text: &str) -> Result<Duration, TimeError> {
    within(text, Duration::from_secs(1), Duration::from_millis(100), Duration::from_secs(60))
}

impl Discover {
    /// Queries and prints.
    ///
    /// # Errors
    /// When no gateway answers: what to check.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        super::check_lan(&self.lan)?;
        let membership = Membership::new(beside::group(&state)?);
        let directory = Arc::new(Directory::default());
        for address in remembered::load(&state) {
            directory.add_address(address, Source::Remembered);
        }
        let (_adverts, advertised) = watch::channel(None);
        let mut listeners = JoinSet::new();
        let mut own_port = self.discovery_port;
        let (discovery, asked) = loop {
            let options = discovery::Options {
                membership: membership.clone(),
                // Not the node's own id, so that a gateway running on this machine answers, too.
                id: crate::wire::id::NodeId([0; 16]),
                port: self.discovery_port,
                own_port,
                lans: self.lan.clone(),
                joins: None,
                behind: None,
                boot: Arc::new(Boot::observer()),
            };
            let discovery = Discovery::new(options, directory.clone(), advertised.clone());
            match discovery.bind(&mut listeners) {
                Ok(asked) => break (discovery, asked),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && own_port != 0 => {
                    own_port = 0;
                    listeners.abort_all();
                    while listeners.join_next().await.is_some() {}
                }
                Err(error) => return Err(Problem::new("discovery queries cannot be sent").because(error)),
            }
        };
        if own_port == 0 {
            let port = self.discovery_port;
            say(format_args!(
                "A node runs here and uses UDP port {port}: querying from another port, where a firewall may drop the answers."
            ));
        }
        directory.want(true);
        let run = tokio::spawn(discovery.run(listeners));
        tokio::time::sleep(self.wait).await;
        run.abort();

        let now = Instant::now();
        let heard = directory.ranked(now).into_iter().filter(|gateway| gateway.heard.is_some());
        let heard = one_each(heard.collect());
        let others = directory.telemetry().discovery.other_groups.present(now);
        let others: Vec<_> = others.iter().map(ToString::to_string).collect();
        if heard.is_empty() {
            let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
            return Err(no_gateway(&asked, self.discovery_port, &self.lan, &others));
        }
        let own = membership.group().node.id;
        let rows = heard.iter().map(|(gateway, others)| {
            let name = gateway.id.map_or_else(|| "?".into(), |id| directory.telemetry().names.of(id));
            let name = if gateway.id == Some(own) { format!("{name} (this machine)") } else { name };
            row(name, gateway, others, now)
        });
        print(rows.collect());
        if let Some(sentence) = report::other_groups(&others) {
            say(sentence);
        }
        Ok(())
    }
}

/// Each gateway once, with its other addresses.
fn one_each(ranked: Vec<Gateway>) -> Vec<(Gateway, usize)> {
    let mut each: Vec<(Gateway, usize)> = Vec::new();
    for gateway in ranked {
        match each.iter_mut().find(|(known, _)| known.id.is_some() && known.id == gateway.id) {
            Some((_, others)) => *others += 1,
            None => each.push((gateway, 0)),
        }
    }
    each
}

/// The cells of one gateway.
fn row(name: String, gateway: &Gateway, others: &usize, now: Instant) -> [String; 9] {
    let advert = gateway.advert.as_ref();
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let address = match others {
        0 => gateway.link.to_string(),
        more => format!("{} and {more} more", gateway.link),
    };
    [
        name,
        shown(gateway.id.map(|id| id.short())),
        address,
        shown(gateway.state(now).or(advert.map(|advert| advert.state)).map(|state| state.word().to_owned())),
        shown(advert.map(|advert| format!("{} Mbit/s", advert.capacity))),
        shown(advert.map(|advert| format!("{:.1}%", f64::from(advert.load) / 10.0))),
        shown(advert.map(|advert| advert.tunnels.to_string())),
        shown(gateway.round_trip.map(|time| format!("{:.2} ms", time.as_secs_f64() * 1000.0))),
        shown(advert.map(|advert| advert.reach.word().to_owned())),
    ]
}

fn print(rows: Vec<[String; 9]>) {
    let head = ["GATEWAY", "ID", "ADDRESS", "STATE", "CAPACITY", "MACHINE LOAD", "TUNNELS", "RTT", "SERVER"];
    let mut page = String::new();
    report::table(&mut page, head, rows);
    say(page.trim());
}

/// The error when no gateway answered the query sent from the addresses `asked`.
fn no_gateway(asked: &[String], port: u16, only: &[String], others: &[String]) -> Problem {
    if asked.is_empty() {
        let hint = if only.is_empty() {
            format!("bring up an interface and give it an address: '{}' shows them", tools::ADDRESSES)
        } else {
            format!("--lan names no address of this machine that is up: '{}' shows them", tools::ADDRESSES)
        };
        return Problem::new("there is no network interface to query on").hint(hint);
    }
    let problem =
        Problem::new(format!("no gateway of this group answered (queried from {})", asked.join(", ")));
    match report::other_groups(others) {
        Some(sentence) => problem.after(Problem::new(sentence)).hint(OTHER_GROUP),
        None => problem.hint(format!(
            "start 'laneway up --server HOST:PORT' on a machine of this group that reaches the server. 'laneway doctor' tells whether a \
             firewall blocks UDP port {port}; behind a router, name the gateway: 'laneway up --gateway HOST:{PORT}'"
        )),
    }
}
