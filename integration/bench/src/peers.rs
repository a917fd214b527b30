//! The peers that are measured: each is a client-side process and a gateway-side process, or less.

pub(crate) mod ceiling;
mod dante;
mod envoy;
mod laneway;
mod nghttpx;
pub(crate) mod peer;
mod shadowsocks;
mod squid;
mod ssh;
mod v2ray;

use crate::isolate;
use crate::load::dial::{Dialect, Route};
use crate::options::Options;
use crate::process::Process;
use anyhow::{Context, Result, bail, ensure};
use peer::{About, Missing, Peer, Place, START, Site};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Interval between two checks of whether a byte comes back.
const POLL: Duration = Duration::from_millis(1);

/// All of them, in the order in which they are measured.
pub(crate) fn all(options: &Options) -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(Direct),
        Box::new(ceiling::Ceiling),
        Box::new(laneway::Laneway::new("laneway", &options.laneway)),
    ];
    for (name, binary) in &options.also {
        peers.push(Box::new(laneway::Laneway::new(name, binary)));
    }
    peers.push(Box::new(shadowsocks::Shadowsocks { binaries: options.cache.join("bin") }));
    peers.push(Box::new(ssh::Ssh));
    peers.push(Box::new(envoy::Envoy { binary: options.cache.join("bin/envoy") }));
    peers.push(Box::new(nghttpx::Nghttpx));
    peers.push(Box::new(v2ray::V2ray));
    peers.push(Box::new(squid::Squid));
    peers.push(Box::new(dante::Dante));
    peers
}

/// No proxy: what the load generator and the kernel can do.
struct Direct;

impl Peer for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn about(&self) -> About {
        About { what: "no proxy", dialect: Dialect::Raw, plain_http: true, hops: 0 }
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn gateway(&self, _: &Place<'_>) -> Result<Option<Command>> {
        Ok(None)
    }

    fn client(&self, _: &Place<'_>) -> Result<Option<Command>> {
        Ok(None)
    }
}

/// A peer that runs.
pub(crate) struct Running {
    pub(crate) route: Route,
    /// From the start of the first process to the first byte through them.
    pub(crate) first_byte: Duration,
    processes: Vec<Process>,
}

impl Running {
    /// Starts both sides, and waits until a byte has come back through them. `number` distinguishes its ports.
    ///
    /// # Errors
    /// With the last lines of what it printed.
    pub(crate) fn start(peer: &dyn Peer, site: &Site, number: u16) -> Result<Self> {
        let directory = directory_of(peer)?;
        let place = place(site, &directory, number);
        let mut running =
            Self { route: route(peer, &place), first_byte: Duration::ZERO, processes: Vec::new() };
        // The time of the preparations is not part of the start.
        let (gateway, client) = (peer.gateway(&place)?, peer.client(&place)?);
        let start = Instant::now();
        if let Some(command) = gateway {
            let name = format!("{}-gateway", site.name);
            running.processes.push(Process::start(command, &site.gateway, &directory, &name)?);
            running.wait(start, || site.client.reaches(place.link)).context("its gateway side")?;
        }
        if let Some(command) = client {
            let name = format!("{}-client", site.name);
            running.processes.push(Process::start(command, &site.client, &directory, &name)?);
        }
        let route = running.route;
        running.wait(start, || crate::load::carries_a_byte(&site.client, route))?;
        running.first_byte = start.elapsed();
        Ok(running)
    }

    /// Restarts the peer.
    pub(crate) fn restart(&mut self, peer: &dyn Peer, site: &Site, number: u16) -> Result<()> {
        self.processes.clear();
        *self = Self::start(peer, site, number)?;
        Ok(())
    }

    fn wait(&mut self, start: Instant, holds: impl Fn() -> bool) -> Result<()> {
        while !holds() {
            for process in &mut self.processes {
                ensure!(!process.has_ended(), "it ended: {}", process.last_words());
            }
            if start.elapsed() > START {
                let words: Vec<_> = self.processes.iter().map(Process::last_words).collect();
                bail!("it carries nothing after {} s: {}", START.as_secs(), words.join(" | "));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// All processes of both sides.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.processes.iter().flat_map(Process::tree).collect()
    }
}

/// Has a peer make its keys at a site.
pub(crate) fn prepare(peer: &dyn Peer, site: &Site, number: u16) -> Result<()> {
    let directory = directory_of(peer)?;
    peer.prepare(&place(site, &directory, number))
}

fn directory_of(peer: &dyn Peer) -> Result<PathBuf> {
    let directory = Path::new(isolate::WORK).join(peer.name());
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The place for the files of a peer that has none of its own in the run.
pub(crate) fn place_of<'a>(site: &'a Site, directory: &'a Path, number: u16) -> Place<'a> {
    place(site, directory, number)
}

fn place<'a>(site: &'a Site, directory: &'a Path, number: u16) -> Place<'a> {
    let front = SocketAddr::from((Ipv4Addr::LOCALHOST, 2000 + 10 * number));
    let link = SocketAddr::from((site.gateway_address, 2001 + 10 * number));
    Place { site, directory, front, link }
}

fn route(peer: &dyn Peer, place: &Place<'_>) -> Route {
    let server = place.site.server;
    let dialect = peer.about().dialect;
    if peer.name() == Direct.name() {
        return Route { front: place.site.server_directly, dialect, server };
    }
    Route { front: place.front, dialect, server }
}
