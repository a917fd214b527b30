//! laneway: one gateway, one client, one link between them, as a user would run them.

use super::peer::{About, Missing, Peer, Place, run, text};
use crate::load::FILES;
use crate::load::dial::Dialect;
use crate::process::Process;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The client's own address where both are on one machine: there, each address is a "machine" of the LAN.
const CLIENT: &str = "127.0.0.3";

pub(super) struct Laneway {
    pub(super) name: String,
    pub(super) binary: PathBuf,
    has_cache: bool,
}

impl Peer for Laneway {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> About {
        About { what: "one link, HTTP/2 over TLS 1.3", dialect: Dialect::Connect, plain_http: true, hops: 2 }
    }

    fn missing(&self) -> Option<Missing> {
        (!self.binary.is_file()).then(|| Missing {
            reason: format!("{} is not there", self.binary.display()),
            install: "cargo build --release",
        })
    }

    fn without_cache(&self) -> Option<Box<dyn Peer>> {
        let name = format!("{}-without-cache", self.name);
        Some(Box::new(Self { name, binary: self.binary.clone(), has_cache: false }))
    }

    /// Makes the group and joins it.
    fn prepare(&self, place: &Place<'_>) -> Result<()> {
        let output = run(self.command(place, "gateway", &["init", "--name", "gateway"])?)?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let code =
            output.split_whitespace().find(|word| word.starts_with("lw1.")).context("no code")?.to_owned();

        let gateway = self.gateway(place)?.context("there is a gateway")?;
        let mut gateway = Process::start(gateway, &place.site.gateway, place.directory, "prepare")?;
        let start = Instant::now();
        while !place.site.client.reaches(place.link) {
            ensure!(!gateway.has_ended(), "the gateway ended: {}", gateway.last_words());
            ensure!(start.elapsed() < super::START, "the gateway does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        let join = ["join", &code, "--name", "client", "--gateway", &place.link.to_string()];
        let join = self.command(place, "client", &join)?;
        place.site.client.inside(|| run(join)).map(drop)
    }

    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let (link, server) = (place.link.to_string(), place.site.server.to_string());
        let address = place.link.ip().to_string();
        // The gateway's own local proxy is not used.
        let proxy = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0)).to_string();
        let discovery = self.discovery(place);
        let files = SocketAddr::new(place.site.server.ip(), FILES).to_string();
        let cache: &[&str] = if self.has_cache { &[] } else { &["--no-cache"] };
        let command = self.command(
            place,
            "gateway",
            &[
                "up",
                "--role",
                "gateway",
                "--server",
                &server,
                "--allow",
                &files,
                "--link",
                &link,
                "--lan",
                &address,
                "--proxy",
                &proxy,
                "--discovery-port",
                &discovery,
                "--log",
                "warn",
            ],
        );
        command.map(|mut command| {
            command.args(cache);
            Some(command)
        })
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let (front, link) = (place.front.to_string(), place.link.to_string());
        let discovery = self.discovery(place);
        let mut arguments = vec![
            "up",
            "--role",
            "client",
            "--proxy",
            &front,
            "--gateway",
            &link,
            "--discovery-port",
            &discovery,
            "--log",
            "warn",
        ];
        if place.link.ip().is_loopback() {
            arguments.extend(["--lan", CLIENT]);
        }
        self.command(place, "client", &arguments).map(Some)
    }
}

impl Laneway {
    /// The program `binary`, called `name` in the tables.
    pub(super) fn new(name: &str, binary: &Path) -> Self {
        Self { name: name.into(), binary: binary.into(), has_cache: true }
    }

    /// Several laneways may run at a time, each group on a port of its own.
    fn discovery(&self, place: &Place<'_>) -> String {
        place.link.port().to_string()
    }

    fn command(&self, place: &Place<'_>, node: &str, arguments: &[&str]) -> Result<Command> {
        let nothing = place.directory.join("empty.toml");
        fs::write(&nothing, "")?;
        let state = place.directory.join(node);
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["--state", text(&state)]).env("LANEWAY_CONFIG", nothing);
        Ok(command)
    }
}
