//! `laneway speedtest`: the round trip to each gateway, and the speed of the link to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::{beside, gateways, progress, say};
use crate::failure::Failure;
use crate::link::client::Link;
use crate::link::speed::{self, Direction, Measured};
use crate::link::{gateway_info, tls};
use crate::peers::options::{self, PORT};
use crate::peers::remembered;
use crate::problem::Problem;
use crate::size::{TimeError, within};
use crate::sys::state::StateDir;
use crate::trust::group::Group;
use crate::trust::membership::Membership;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// Number of round trips of which the median is taken.
const ROUND_TRIPS: usize = 15;

/// `laneway speedtest`
#[derive(Debug, clap::Args)]
pub struct Speedtest {
    /// Measure only this gateway; repeatable [default: every gateway that answers on the LAN]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = options::gateway)]
    gateway: Vec<Target>,
    /// Duration of the measurement in each direction, in seconds, from 1 to 60
    #[arg(long, value_name = "SECS", default_value = "3", value_parser = duration)]
    seconds: Duration,
    /// Print the results as one line of JSON: rates in bytes per second, times in seconds
    #[arg(long)]
    json: bool,
    /// The UDP port of discovery
    #[arg(long, env = "LANEWAY_DISCOVERY_PORT", value_name = "PORT", default_value_t = PORT)]
    discovery_port: u16,
    /// An interface or local address to query on; repeatable [default: all except loopback]
    #[arg(long, env = "LANEWAY_LAN", value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
}

/// The results for one gateway.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Its name; `None` when only its address is known.
    name: Option<String>,
    /// Its short id; `None` when only its address is known.
    id: Option<String>,
    /// The address at which it accepts links.
    address: String,
    /// The median round trip of a small request, in seconds.
    round_trip: Option<f64>,
    /// Bytes per second from the gateway.
    down: Option<f64>,
    /// Bytes per second to the gateway.
    up: Option<f64>,
    /// What went wrong.
    error: Option<String>,
}

fn duration(text: &str) -> Result<Duration, TimeError> {
    let second = Duration::from_secs(1);
    within(text, second, second, 60 * second)
}

impl Speedtest {
    /// Measures one gateway after another, and prints the results.
    ///
    /// # Errors
    /// When there is no gateway, or one could not be measured.
    pub async fn run(self, state: StateDir) -> Result<(), Problem> {
        super::check_lan(&self.lan)?;
        let group = beside::group(&state)?;
        let gateways = self.gateways(&group, &state).await?;
        let mut reports = Vec::new();
        for (address, known) in gateways {
            let id = known.as_ref().map(|(id, _)| *id);
            let mut report = Report {
                name: known.map(|(_, name)| name),
                id: id.map(|id| id.short()),
                address: address.to_string(),
                ..Report::default()
            };
            if let Err(problem) = self.measure(&group, address, id, &mut report).await {
                self.say(format_args!("  failed      {problem}"));
                report.error = Some(problem);
            }
            reports.push(report);
        }
        if self.json {
            let line = serde_json::to_string(&reports);
            say(line.map_err(|error| Problem::new("the results cannot be written").because(error))?);
        }
        match reports.iter().filter(|report| report.error.is_some()).count() {
            0 => Ok(()),
            failed => Err(Problem::new(match (failed, reports.len()) {
                (1, 1) => "the gateway could not be measured".to_owned(),
                (failed, all) => format!("{failed} of {all} gateways could not be measured"),
            })
            .hint("'laneway doctor' shows what is wrong")),
        }
    }

    /// The gateways of --gateway, else those that answer on the LAN.
    async fn gateways(
        &self,
        group: &Group,
        state: &StateDir,
    ) -> Result<BTreeMap<SocketAddr, Option<(NodeId, String)>>, Problem> {
        let mut found = gateways::named(&self.gateway).await?;
        if !self.gateway.is_empty() {
            return Ok(found);
        }
        let _waiting = progress::waiting("asking the LAN for gateways");
        let survey = gateways::look(group, remembered::load(state), self.discovery_port, &self.lan).await;
        let survey =
            survey.map_err(|error| Problem::new("discovery queries cannot be sent").because(error))?;
        found.extend(survey.links().into_iter().map(|seen| (seen.link, Some((seen.id, seen.name.clone())))));
        if found.is_empty() {
            return Err(Problem::new("no gateway of this group answers on the LAN").hint(format!(
                "'laneway doctor' shows why; if a router is in between, name the gateway: 'laneway speedtest --gateway HOST:{PORT}'"
            )));
        }
        Ok(found)
    }

    async fn measure(
        &self,
        group: &Group,
        address: SocketAddr,
        id: Option<NodeId>,
        report: &mut Report,
    ) -> Result<(), String> {
        let membership = Membership::new(group.clone());
        let config = tls::link_client(group).map_err(|error| error.to_string())?;
        let tasks = TaskTracker::new();
        let name = report.name.as_deref();
        self.say(format_args!(
            "gateway {}{address}",
            name.map_or_else(String::new, |name| format!("{name} at "))
        ));
        let link =
            Link::dial(address, id, config, membership, &tasks).await.map_err(|error| error.to_string())?;
        if report.name.is_none() {
            self.say(format_args!("  name        {}", link.gateway.name));
        }
        (report.id, report.name) = (Some(link.gateway.id.short()), Some(link.gateway.name.to_string()));
        let sentence = |failure: Failure| failure.sentence;
        let round_trip = round_trip(&link).await.map_err(sentence)?;
        report.round_trip = Some(round_trip.as_secs_f64());
        let millis = round_trip.as_secs_f64() * 1000.0;
        self.say(format_args!("  round trip  {millis:.2} ms, the median of {ROUND_TRIPS}"));
        report.down = Some(self.rate(&link, "down", Direction::Down).await.map_err(sentence)?);
        report.up = Some(self.rate(&link, "up", Direction::Up).await.map_err(sentence)?);
        link.retire();
        Ok(())
    }

    async fn rate(&self, link: &Link, name: &str, direction: Direction) -> Result<f64, Failure> {
        let time = self.seconds;
        let bar = progress::time(name, time);
        let start = Instant::now();
        let measured = speed::measure(link, direction, time, |bytes| {
            let took = start.elapsed();
            bar.set_position(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            bar.set_prefix(megabits(Measured { bytes, took }.rate()));
        });
        let measured = measured.await;
        bar.finish_and_clear();
        let measured = measured?;
        self.say(format_args!(
            "  {name:<10}  {}, {:.1} MB in {:.2} s",
            megabits(measured.rate()),
            measured.bytes as f64 / 1e6,
            measured.took.as_secs_f64()
        ));
        Ok(measured.rate())
    }

    fn say(&self, text: impl std::fmt::Display) {
        if !self.json {
            say(text);
        }
    }
}

/// The median round trip of a request that the gateway answers at once.
async fn round_trip(link: &Link) -> Result<Duration, Failure> {
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        gateway_info::fetch(link).await?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[ROUND_TRIPS / 2])
}

fn megabits(rate: f64) -> String {
    format!("{:.1} Mbit/s", rate * 8.0 / 1e6)
}
