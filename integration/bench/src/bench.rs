//! The run: sites, peers, rounds.

use crate::load::check::check;
use crate::load::server::Server;
use crate::measures::{self, Measure, Subject};
use crate::network::{Facts, Namespace};
use crate::options::Options;
use crate::peers::{self, Peer, Running, Site, ceiling};
use crate::report::Report;
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};

/// The server's port; everything is in namespaces of the bench, so it is free.
const SERVER: u16 = 1999;

/// What a short run is limited to, before what was built besides.
const QUICK_PEERS: [&str; 3] = ["direct", ceiling::NAME, "laneway"];

/// Prints what could be measured.
pub(crate) fn list(options: &Options) {
    println!("measures:");
    for measure in measures::ALL {
        println!("  {:<16} {}", measure.name, measure.title);
    }
    println!("peers:");
    for peer in peers::all(options) {
        let missing =
            peer.missing().map(|missing| format!("; MISSING: {}", missing.reason)).unwrap_or_default();
        println!("  {:<16} {}{missing}", peer.name(), peer.about().what);
    }
}

/// Measures, and reports.
pub(crate) fn run(options: &Options) -> Result<()> {
    let measures = chosen_measures(options)?;
    let namespace = Namespace::own()?;
    let facts = Facts::read(&namespace, &namespace, Ipv4Addr::LOCALHOST)?;
    let mut report = Report::new(options, &facts);

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, SERVER));
    let server = Server::start(&namespace, address)?;
    let site = Site {
        name: "loopback".into(),
        client: namespace.clone(),
        gateway: namespace,
        gateway_address: Ipv4Addr::LOCALHOST,
        server: address,
        server_directly: address,
    };
    let mut entries = entries(options, &site, &mut report)?;

    for round in 1..=options.rounds {
        for measure in &measures {
            for entry in &mut entries {
                eprintln!("round {round}/{}: {}, {}", options.rounds, measure.name, entry.peer.name());
                let figures = entry.measure(measure, &site, &server, options);
                report.add(measure, entry.peer.name(), round, figures);
            }
        }
    }
    report.print()?;
    report.write(&options.json)
}

fn chosen_measures(options: &Options) -> Result<Vec<&'static Measure>> {
    let all = || measures::ALL.iter();
    for name in &options.only {
        ensure!(all().any(|measure| measure.name == name), "there is no measure '{name}': see --list");
    }
    let wanted = |measure: &&Measure| match options.only.as_slice() {
        [] => measure.quick || !options.quick,
        only => only.iter().any(|name| name == measure.name),
    };
    Ok(all().filter(wanted).collect())
}

/// A peer that takes part.
struct Entry {
    peer: Box<dyn Peer>,
    number: u16,
    running: Option<Running>,
}

/// Chooses the peers, starts them, and proves that they carry bytes as they should. Who cannot take part is reported.
fn entries(options: &Options, site: &Site, report: &mut Report) -> Result<Vec<Entry>> {
    let all = peers::all(options);
    for name in &options.peers {
        ensure!(all.iter().any(|peer| peer.name() == name), "there is no peer '{name}': see --list");
    }
    let mut entries = Vec::new();
    for (peer, number) in all.into_iter().zip(1..) {
        let also = options.also.iter().any(|(name, _)| name == peer.name());
        let wanted = match options.peers.as_slice() {
            [] => !options.quick || also || QUICK_PEERS.contains(&peer.name()),
            names => names.iter().any(|name| name == peer.name()),
        };
        if !wanted {
            continue;
        }
        if let Some(missing) = peer.missing() {
            eprintln!("skipped: {}: {}", peer.name(), missing.reason);
            report.skipped(peer.name(), &missing.reason, missing.install);
            continue;
        }
        eprintln!("starting {}", peer.name());
        let mut entry = Entry { peer, number, running: None };
        let started = peers::prepare(&*entry.peer, site, number)
            .and_then(|()| entry.running(site))
            .and_then(|running| check(&site.client, running.way).context("the correctness pass"));
        match started {
            Ok(()) => {
                report.takes_part(&*entry.peer);
                entries.push(entry);
            }
            Err(error) => {
                eprintln!("skipped: {}: {error:#}", entry.peer.name());
                report.skipped(entry.peer.name(), &format!("{error:#}"), "");
            }
        }
    }
    ensure!(!entries.is_empty(), "nobody is left to be measured");
    Ok(entries)
}

impl Entry {
    fn running(&mut self, site: &Site) -> Result<&mut Running> {
        let running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&*self.peer, site, self.number)?,
        };
        Ok(self.running.insert(running))
    }

    /// Takes one measure; when it fails the peer is started anew before the next.
    fn measure(
        &mut self,
        measure: &Measure,
        site: &Site,
        server: &Server,
        options: &Options,
    ) -> Result<Vec<measures::Figure>> {
        self.running(site)?;
        let mut running = self.running.take().context("it was just started")?;
        let figures = (measure.take)(&mut Subject {
            peer: &*self.peer,
            number: self.number,
            site,
            server,
            running: &mut running,
            window: options.window(),
        });
        if figures.is_ok() {
            self.running = Some(running);
        }
        figures
    }
}
