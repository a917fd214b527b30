//! What is measured: each peer is a client-side process and a gateway-side process, or less.

pub(crate) mod ceiling;
mod dante;
mod envoy;
mod laneway;
mod nghttpx;
mod shadowsocks;
mod squid;
mod ssh;
mod v2ray;

use crate::isolate;
use crate::load::dial::{Dialect, Way};
use crate::network::Namespace;
use crate::options::Options;
use crate::process::Process;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// How long a peer may take until it carries the first byte.
const START: Duration = Duration::from_secs(20);
/// How often is looked whether it does.
const POLL: Duration = Duration::from_millis(1);

/// Where a peer's processes are.
#[derive(Clone)]
pub(crate) struct Site {
    /// What distinguishes its files from those of other sites.
    pub(crate) name: String,
    /// Where the app and the client-side process are.
    pub(crate) client: Namespace,
    /// Where the gateway-side process and the server are.
    pub(crate) gateway: Namespace,
    /// Where the client-side process reaches the gateway-side one.
    pub(crate) gateway_address: Ipv4Addr,
    /// The server as the gateway reaches it.
    pub(crate) server: SocketAddr,
    /// The server as an app would reach it without a proxy.
    pub(crate) server_directly: SocketAddr,
}

/// What one peer has of its own at a site.
pub(crate) struct Place<'a> {
    pub(crate) site: &'a Site,
    /// A directory for its configurations, keys and logs.
    pub(crate) directory: &'a Path,
    /// Where apps connect to.
    pub(crate) front: SocketAddr,
    /// Where the client-side process connects to.
    pub(crate) link: SocketAddr,
}

impl Place<'_> {
    /// Writes a configuration: the template with `{front_port}`, `{link_address}`, `{link_port}`, `{server_address}`,
    /// `{server_port}`, `{directory}`, `{processors}` and `{descriptors}` filled in.
    pub(crate) fn configuration(&self, name: &str, template: &str) -> Result<PathBuf> {
        let filled = template
            .replace("{front_port}", &self.front.port().to_string())
            .replace("{link_address}", &self.link.ip().to_string())
            .replace("{link_port}", &self.link.port().to_string())
            .replace("{server_address}", &self.site.server.ip().to_string())
            .replace("{server_port}", &self.site.server.port().to_string())
            .replace("{processors}", &thread::available_parallelism()?.to_string())
            .replace("{descriptors}", &getrlimit(Resource::RLIMIT_NOFILE)?.0.to_string())
            .replace("{directory}", text(self.directory));
        let path = self.directory.join(format!("{}-{name}", self.site.name));
        fs::write(&path, filled)?;
        Ok(path)
    }
}

/// What a peer is, for the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// In a few words.
    pub(crate) what: &'static str,
    pub(crate) dialect: Dialect,
    /// Whether the same port answers plain HTTP requests.
    pub(crate) plain_http: bool,
    /// How many processes a byte passes: 2 where there is a client side and a gateway side.
    pub(crate) hops: u8,
}

/// Why a peer is not measured.
pub(crate) struct Missing {
    pub(crate) reason: String,
    pub(crate) install: &'static str,
}

impl Missing {
    /// A program that `scripts/bench.sh --install` brings.
    fn program(name: &str) -> Self {
        Self { reason: format!("`{name}` is not installed"), install: "scripts/bench.sh --install" }
    }
}

/// Something that carries connections.
pub(crate) trait Peer {
    /// What it is called on the command line and in the tables.
    fn name(&self) -> &str;
    fn about(&self) -> About;
    /// What it lacks on this machine.
    fn missing(&self) -> Option<Missing>;
    /// Makes keys; once, before the first start.
    fn prepare(&self, _place: &Place<'_>) -> Result<()> {
        Ok(())
    }
    /// The process that accepts links and reaches the server.
    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>>;
    /// The process that apps connect to.
    fn client(&self, place: &Place<'_>) -> Result<Option<Command>>;
}

/// All of them, in the order in which they are measured.
pub(crate) fn all(options: &Options) -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(Direct),
        Box::new(ceiling::Ceiling),
        Box::new(laneway::Laneway { name: "laneway".into(), binary: options.laneway.clone() }),
    ];
    for (name, binary) in &options.also {
        peers.push(Box::new(laneway::Laneway { name: name.clone(), binary: binary.clone() }));
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
    pub(crate) way: Way,
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
        let mut running = Self { way: way(peer, &place), first_byte: Duration::ZERO, processes: Vec::new() };
        // What the preparations cost is not part of the start.
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
        let way = running.way;
        running.wait(start, || crate::load::carries_a_byte(&site.client, way))?;
        running.first_byte = start.elapsed();
        Ok(running)
    }

    /// Stops it, and starts it anew.
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

fn place<'a>(site: &'a Site, directory: &'a Path, number: u16) -> Place<'a> {
    let front = SocketAddr::from((Ipv4Addr::LOCALHOST, 2000 + 10 * number));
    let link = SocketAddr::from((site.gateway_address, 2001 + 10 * number));
    Place { site, directory, front, link }
}

fn way(peer: &dyn Peer, place: &Place<'_>) -> Way {
    let server = place.site.server;
    let dialect = peer.about().dialect;
    if peer.name() == Direct.name() {
        return Way { front: place.site.server_directly, dialect, server };
    }
    Way { front: place.front, dialect, server }
}

/// The first of these programs that is not on this machine.
fn lacks(programs: &[&str]) -> Option<Missing> {
    programs.iter().find(|name| isolate::find(name).is_none()).map(|name| Missing::program(name))
}

/// The full path of a program that is there.
fn program(name: &str) -> PathBuf {
    isolate::find(name).unwrap_or_else(|| name.into())
}

/// Runs a command to its end.
fn run(mut command: Command) -> Result<Output> {
    let output =
        command.output().with_context(|| format!("{} cannot start", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{} failed: {said}", command.get_program().display());
    Ok(output)
}

/// Makes a key and a certificate for `gateway`, signed by itself, in the peer's directory.
fn make_certificate(place: &Place<'_>) -> Result<()> {
    let (key, certificate) = (place.directory.join("key.pem"), place.directory.join("certificate.pem"));
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]);
    make.args(["-subj", "/CN=gateway", "-addext", "subjectAltName=DNS:gateway"]);
    make.args(["-keyout", text(&key), "-out", text(&certificate)]);
    run(make).map(drop)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the bench's own paths are ASCII")
}
