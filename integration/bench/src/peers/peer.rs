//! What a peer is, and helpers for the files of the peers.

use crate::isolate;
use crate::load::dial::Dialect;
use crate::network::Namespace;
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

/// Deadline for a peer to carry the first byte.
pub(super) const START: Duration = Duration::from_secs(20);
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

/// The directory and the addresses of one peer at a site.
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
    /// `{server_port}`, `{files_port}`, `{directory}`, `{processors}` and `{descriptors}` filled in.
    pub(crate) fn configuration(&self, name: &str, template: &str) -> Result<PathBuf> {
        let filled = template
            .replace("{front_port}", &self.front.port().to_string())
            .replace("{link_address}", &self.link.ip().to_string())
            .replace("{link_port}", &self.link.port().to_string())
            .replace("{server_address}", &self.site.server.ip().to_string())
            .replace("{server_port}", &self.site.server.port().to_string())
            .replace("{files_port}", &crate::load::FILES.to_string())
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
    /// The number of processes that a byte passes: 2 with a client side and a gateway side.
    pub(crate) hops: u8,
}

/// Why a peer is not measured.
pub(crate) struct Missing {
    pub(crate) reason: String,
    pub(crate) install: &'static str,
}

impl Missing {
    /// A missing program that `scripts/bench.sh --install` installs.
    pub(super) fn program(name: &str) -> Self {
        Self { reason: format!("`{name}` is not installed"), install: "scripts/bench.sh --install" }
    }
}

/// Something that carries connections.
pub(crate) trait Peer {
    /// Its name on the command line and in the tables.
    fn name(&self) -> &str;
    fn about(&self) -> About;
    /// What it lacks on this machine.
    fn missing(&self) -> Option<Missing>;
    /// The same peer without a cache, if it has one.
    fn without_cache(&self) -> Option<Box<dyn Peer>> {
        None
    }
    /// Makes keys; once, before the first start.
    fn prepare(&self, _place: &Place<'_>) -> Result<()> {
        Ok(())
    }
    /// The process that accepts links and reaches the server.
    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>>;
    /// The process that apps connect to.
    fn client(&self, place: &Place<'_>) -> Result<Option<Command>>;
}

/// The first of these programs that is not on this machine.
pub(crate) fn lacks(programs: &[&str]) -> Option<Missing> {
    programs.iter().find(|name| isolate::find(name).is_none()).map(|name| Missing::program(name))
}

/// The full path of a program that is there.
pub(crate) fn program(name: &str) -> PathBuf {
    isolate::find(name).unwrap_or_else(|| name.into())
}

/// Runs a command to its end.
pub(super) fn run(mut command: Command) -> Result<Output> {
    let output =
        command.output().with_context(|| format!("{} cannot start", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{} failed: {said}", command.get_program().display());
    Ok(output)
}

/// Makes a key and a certificate for `gateway`, signed by itself, in the peer's directory.
pub(super) fn make_certificate(place: &Place<'_>) -> Result<()> {
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

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the bench's own paths are ASCII")
}
