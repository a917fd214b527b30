//! The run: sites, peers, rounds.

use crate::line::Line;
use crate::load::check::check;
use crate::load::server::Server;
use crate::measures;
use crate::measures::distance::{self, Distance};
use crate::measures::measure::{Figure, Measure, Subject};
use crate::network::{Facts, Namespace};
use crate::options::Options;
use crate::peers::peer::{Peer, Site};
use crate::peers::{self, Running, ceiling};
use crate::report::Report;
use anyhow::{Context, Error, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};

/// The server's port; everything is in namespaces of the bench, so it is free.
const SERVER: u16 = 1999;

/// The peers of a short run, in addition to those of --also.
const QUICK_PEERS: [&str; 3] = ["direct", ceiling::NAME, "laneway"];

/// Prints what could be measured.
pub(crate) fn list(options: &Options) {
    println!("measures:");
    for measure in measures::ALL {
        println!("  {:<20} {}{}", measure.name, measure.title, if measure.quick { " (quick)" } else { "" });
    }
    for distance in distance::ALL {
        println!("  {:<20} {}", distance.name, distance.title);
    }
    println!("peers:");
    for peer in peers::all(options) {
        let missing =
            peer.missing().map(|missing| format!("; MISSING: {}", missing.reason)).unwrap_or_default();
        println!("  {:<20} {}{missing}", peer.name(), peer.about().what);
    }
}

/// Measures, and reports.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (measures, distances) = chosen(options)?;
    let namespace = Namespace::own()?;
    let facts = Facts::read(&namespace, &namespace, Ipv4Addr::LOCALHOST)?;
    let mut report = Report::new(options, &facts);
    let server = Server::start(&namespace, SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER)))?;
    let site = site("loopback", &namespace, &namespace, Ipv4Addr::LOCALHOST);
    let mut entries = entries(options, &site, &mut report)?;

    for round in 1..=options.rounds {
        for measure in &measures {
            for entry in &mut entries {
                eprintln!("round {round}/{}: {}, {}", options.rounds, measure.name, entry.peer.name());
                let (figures, failed) = entry.measure(measure, &site, &server, options);
                report.add((measure.name, measure.title), entry.peer.name(), round, figures, failed);
            }
        }
        // Each round starts new processes, because the memory layout of one process is worth a tenth.
        for entry in &mut entries {
            entry.running = None;
        }
    }
    for round in 1..=options.rounds {
        for distance in &distances {
            over(distance, &entries, round, options, &mut report)?;
        }
    }
    report.print();
    report.write(&options.json)
}

/// The selected measures on loopback and over lines.
fn chosen(options: &Options) -> Result<(Vec<&'static Measure>, Vec<&'static Distance>)> {
    let names =
        || measures::ALL.iter().map(|measure| measure.name).chain(distance::ALL.iter().map(|line| line.name));
    for name in &options.only {
        ensure!(names().any(|known| known == name), "there is no measure '{name}': see --list");
    }
    let wanted = |name: &str, quick: bool| match options.only.as_slice() {
        [] => quick || !options.quick,
        only => only.iter().any(|one| one == name),
    };
    let measures = measures::ALL.iter().filter(|measure| wanted(measure.name, measure.quick)).collect();
    let distances = distance::ALL.iter().filter(|distance| wanted(distance.name, false)).collect();
    Ok((measures, distances))
}

fn site(name: &str, client: &Namespace, gateway: &Namespace, gateway_address: Ipv4Addr) -> Site {
    Site {
        name: name.into(),
        client: client.clone(),
        gateway: gateway.clone(),
        gateway_address,
        server: SocketAddr::from((Ipv4Addr::LOCALHOST, SERVER)),
        server_directly: SocketAddr::from((gateway_address, SERVER)),
    }
}

/// Measures every peer that has two sides over a line, one after the other.
fn over(
    distance: &Distance,
    entries: &[Entry],
    round: u8,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let line = Line::new(distance.kind)?;
    Facts::read(&line.client, &line.gateway, line.gateway_address).context(distance.name)?;
    let server = Server::start(&line.gateway, SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER)))?;
    let site = site(distance.name, &line.client, &line.gateway, line.gateway_address);
    for Entry { peer, number, .. } in entries.iter().filter(|entry| entry.peer.about().hops != 1) {
        eprintln!("round {round}/{}: {}, {}", options.rounds, distance.name, peer.name());
        let mut figures = Vec::new();
        let went = Running::start(&**peer, &site, *number).and_then(|mut running| {
            let mut subject = subject(&**peer, *number, &site, &server, &mut running, options);
            let went = (distance.take)(&mut subject, distance.kind);
            figures = subject.figures;
            went
        });
        report.add((distance.name, distance.title), peer.name(), round, figures, went.err());
    }
    Ok(())
}

fn subject<'a>(
    peer: &'a dyn Peer,
    number: u16,
    site: &'a Site,
    server: &'a Server,
    running: &'a mut Running,
    options: &Options,
) -> Subject<'a> {
    Subject { peer, number, site, server, running, window: options.window(), figures: Vec::new() }
}

/// A peer that takes part.
struct Entry {
    peer: Box<dyn Peer>,
    number: u16,
    running: Option<Running>,
}

/// Chooses the peers, starts them, and checks that they carry data unharmed. Peers that cannot take part are reported.
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
        match started(&*peer, number, site) {
            Ok(running) => {
                report.takes_part(&*peer);
                entries.push(Entry { peer, number, running: Some(running) });
            }
            Err(error) => {
                eprintln!("skipped: {}: {error:#}", peer.name());
                report.skipped(peer.name(), &format!("{error:#}"), "");
            }
        }
    }
    ensure!(!entries.is_empty(), "no peer is left to be measured");
    Ok(entries)
}

/// Has a peer make its keys, starts it, and checks that data arrives complete and in order.
fn started(peer: &dyn Peer, number: u16, site: &Site) -> Result<Running> {
    peers::prepare(peer, site, number)?;
    let running = Running::start(peer, site, number)?;
    check(&site.client, running.route).context("the correctness pass")?;
    Ok(running)
}

impl Entry {
    /// Takes one measure; when it fails, the peer is restarted before the next.
    fn measure(
        &mut self,
        measure: &Measure,
        site: &Site,
        server: &Server,
        options: &Options,
    ) -> (Vec<Figure>, Option<Error>) {
        let started = self.running.take().map_or_else(|| Running::start(&*self.peer, site, self.number), Ok);
        let mut running = match started {
            Ok(running) => running,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut subject = subject(&*self.peer, self.number, site, server, &mut running, options);
        let went = (measure.take)(&mut subject);
        let figures = subject.figures;
        if went.is_ok() {
            self.running = Some(running);
        }
        (figures, went.err())
    }
}
