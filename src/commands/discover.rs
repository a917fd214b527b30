//! `laneway discover`: one discovery query, and a table of the gateways that answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::say;
use crate::lan;
use crate::peers::boot::Boot;
use crate::peers::directory::{Directory, Gateway, Source};
use crate::peers::discovery::{self, Discovery};
use crate::peers::options::PORT;
use crate::peers::remembered;
use crate::problem::Problem;
use crate::shared;
use crate::size::{TimeError, within};
use crate::sys::state::StateDir;
use crate::trust::membership::Membership;

/// `laneway discover`
#[derive(Debug, clap::Args)]
pub struct Discover {
    /// How long to collect answers, such as 2s; a number without a unit is in milliseconds
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
    within(text, Duration::from_millis(1), Duration::from_millis(100), Duration::from_secs(60))
}

impl Discover {
    /// Queries and prints.
    ///
    /// # Errors
    /// When no gateway answers: what to check.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        super::check_lan(&self.lan)?;
        let membership = Membership::new(shared::group(&state)?);
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
        let heard: Vec<_> =
            directory.ranked(now).into_iter().filter(|gateway| gateway.heard.is_some()).collect();
        if heard.is_empty() {
            let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
            return Err(no_gateway(&asked, self.discovery_port, &self.lan));
        }
        print(&heard, now);
        Ok(())
    }
}

fn print(gateways: &[Gateway], now: Instant) {
    // Link-local IPv6 addresses are long, as they include the interface.
    let width = gateways.iter().map(|gateway| gateway.link.to_string().len()).fold(21, usize::max);
    say(format_args!(
        "{:<9} {:<width$} {:<10} {:>12} {:>7} {:>7} {:>10}  {}",
        "ID", "ADDRESS", "STATE", "CAPACITY", "LOAD", "TUNNELS", "RTT", "SERVER"
    ));
    for gateway in gateways {
        let Some(advert) = &gateway.advert else { continue };
        let id = gateway.id.map_or_else(|| "?".into(), |id| id.short());
        let state = gateway.state(now).unwrap_or(advert.state).word();
        let round_trip = gateway
            .round_trip
            .map_or_else(|| "-".to_owned(), |time| format!("{:.2} ms", time.as_secs_f64() * 1000.0));
        let capacity = format!("{} Mbit/s", advert.capacity);
        let load = format!("{:.1}%", f64::from(advert.load) / 10.0);
        say(format_args!(
            "{:<9} {:<width$} {:<10} {:>12} {:>7} {:>7} {:>10}  {}",
            id,
            gateway.link.to_string(),
            state,
            capacity,
            load,
            advert.tunnels,
            round_trip,
            advert.reach.word()
        ));
    }
}

/// The error when no gateway answered the query sent from the addresses `asked`.
fn no_gateway(asked: &[String], port: u16, only: &[String]) -> Problem {
    if asked.is_empty() {
        let up = lan::lans(&[]).map(|lans| lans.len()).unwrap_or_default();
        let hint = if only.is_empty() {
            "bring up an interface and give it an address: 'ip addr' shows them".to_owned()
        } else {
            format!("--lan names none of the {up} addresses that are up: 'ip addr' shows them")
        };
        return Problem::new("there is no network interface to query on").hint(hint);
    }
    Problem::new(format!("no gateway of this group answered (queried from {})", asked.join(", "))).hint(format!(
        "check that 'laneway up' runs on a machine that reaches the server, that it is in the same group, and that \
         no firewall on either machine blocks UDP port {port}; if a router is in between, name the gateway: 'laneway up --gateway HOST:{PORT}'"
    ))
}
