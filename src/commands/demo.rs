//! `laneway demo`: the whole system, in real processes of this binary, on loopback addresses.
//!
//! A server, two gateways and a client, each with a state directory of its own and a loopback address as its
//! "machine". Nothing of the user's own group or configuration is read or changed.

mod download;
mod machine;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::origin::Generated;
use super::{progress, say};
use crate::problem::Problem;
use download::{Dialect, Download};
use machine::{Event, Machine};

/// How long each step may take before the demo gives up.
const STEP: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;

/// `laneway demo`
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// The size of the file that is downloaded, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    size: u64,
    /// Leave everything running until Ctrl-C, and print a command to try
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Runs it.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub async fn run(self) -> Result<(), Problem> {
        tokio::select! {
            result = self.play() => result,
            _ = tokio::signal::ctrl_c() => Err(Problem::new("the demo was interrupted")),
        }
    }

    async fn play(&self) -> Result<(), Problem> {
        let failed = |error: std::io::Error| Problem::new("the demo cannot start").because(error);
        let directory = tempfile::Builder::new().prefix("laneway-demo-").tempdir().map_err(failed)?;
        let port = free_udp_port().map_err(failed)?.to_string();
        let file = Generated { size: self.size * MIB, seed: 7 };
        let hash = tokio::task::spawn_blocking(move || file.sha256());

        title("Four machines: one server, two gateways, one client that cannot reach the server itself");
        let size = file.size.to_string();
        let mut server = Machine::start(
            &directory,
            "server",
            &["origin", "--listen", "127.0.0.1:0", "--seed", "7", "--size", &size],
        )?;
        let waiting = progress::waiting("the server starts");
        let server_address = server.wait("listening: origin, HTTP", STEP).await?.address()?;
        drop(waiting);
        step(&format!("server     http://{server_address}/file ({} MiB)", self.size));

        let code = machine::make_group(&directory, "gateway-1").await?;
        let first = Self::gateway(&directory, "gateway-1", "127.0.0.2", &port, server_address).await?;
        for (name, lan) in [("gateway-2", "127.0.0.3"), ("client", "127.0.0.4")] {
            let _waiting = progress::waiting(format!("{name} joins the group"));
            machine::join_group(&directory, name, lan, &port, &code).await?;
        }
        step("group      made by gateway-1; gateway-2 and the client joined it with its code");
        let second = Self::gateway(&directory, "gateway-2", "127.0.0.3", &port, server_address).await?;
        let mut gateways = [first, second];

        title("The client starts and asks its LAN: who is connected to the server?");
        // As if it had never seen the group's machines: only the broadcast can find them.
        machine::forget_gateways(&directory, "client")?;
        let started = Instant::now();
        let mut client = Machine::start(
            &directory,
            "client",
            &[
                "up",
                "--role",
                "client",
                "--lan",
                "127.0.0.4",
                "--proxy",
                "127.0.0.1:0",
                "--discovery-port",
                &port,
            ],
        )?;
        let proxy = client.wait("listening: local proxy, SOCKS and HTTP", STEP).await?.address()?;
        let mut used = loop {
            let event = client.next(STEP).await?;
            let millis = started.elapsed().as_secs_f64() * 1000.0;
            if let Some(line) = in_plain_words(&event, &gateways) {
                step(&format!("{millis:6.1} ms  {line}"));
            }
            if event.message() == "link up" {
                break event.address().ok();
            }
        };

        title("An app on the client downloads the file");
        let waiting = progress::waiting("hashing what the server has, to compare with");
        let hash = hash.await.map_err(|error| Problem::new("the file cannot be hashed").because(error))?;
        drop(waiting);
        for dialect in [Dialect::Http, Dialect::Socks5] {
            let download = Download { proxy, server: server_address, size: file.size, dialect };
            let done = download.run(None).await?;
            check(&done.sha256, &hash)?;
            let rate = megabytes(done.bytes) / done.took.as_secs_f64();
            step(&format!(
                "{:<10} {} bytes in {:.2} s, {rate:.0} MB/s; SHA-256 is right: {}…",
                dialect.name(),
                done.bytes,
                done.took.as_secs_f64(),
                &hash[..16]
            ));
        }

        for event in client.heard() {
            if matches!(event.message(), "link up" | "gateway in use") {
                used = event.address().ok();
            }
        }
        let lost = gateways.iter_mut().find(|gateway| gateway.address == used);
        let lost =
            lost.ok_or_else(|| Problem::new("the client uses a gateway that is none of the demo's"))?;
        title(&format!("In the middle of a download, {} is killed (kill -9)", lost.name));
        let download = Download { proxy, server: server_address, size: file.size, dialect: Dialect::Http };
        let (mark, marked) = oneshot::channel();
        let takeover = async {
            // Without a mark the download has failed, and says so itself.
            let _ = marked.await;
            lost.kill().await?;
            download.small_request().await
        };
        let (done, first_request) = tokio::join!(download.run(Some((file.size / 4, mark))), takeover);
        let (done, first_request) = (done?, first_request?);
        check(&done.sha256, &hash)?;
        let mut gateways_used = 1;
        // The access line of the download comes after all else that happened to it.
        loop {
            let event = client.next(STEP).await?;
            if let Some(line) = in_plain_words(&event, &gateways) {
                step(&line);
            }
            match event.message() {
                "download resumed on the next gateway" => gateways_used += 1,
                "connection" if event.field("dialect") == "http" && event.number("received") >= file.size => {
                    break;
                }
                _ => {}
            }
        }
        step(&format!(
            "first new request after the kill: answered in {:.1} ms",
            first_request.as_secs_f64() * 1000.0
        ));
        step(&format!(
            "download   {} bytes in {:.2} s over {gateways_used} gateway(s); SHA-256 is right: {}…",
            done.bytes,
            done.took.as_secs_f64(),
            &hash[..16]
        ));

        if self.keep {
            title("Everything goes on running. Try, in another terminal:");
            say(format_args!("  curl -x http://{proxy} http://{server_address}/file | sha256sum"));
            say(format_args!("  curl --socks5-hostname {proxy} http://{server_address}/"));
            say("\nCtrl-C ends it.");
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn gateway(
        directory: &TempDir,
        name: &'static str,
        lan: &str,
        port: &str,
        server: SocketAddr,
    ) -> Result<Machine, Problem> {
        let (any_port, server) = (format!("{lan}:0"), server.to_string());
        let mut gateway = Machine::start(
            directory,
            name,
            &[
                "up",
                "--role",
                "gateway",
                "--server",
                &server,
                "--lan",
                lan,
                "--link",
                &any_port,
                "--proxy",
                &any_port,
                "--discovery-port",
                port,
            ],
        )?;
        let waiting = progress::waiting(format!("{name} starts"));
        let link = gateway.wait("listening: links, TCP", STEP).await?.address()?;
        gateway.address = Some(link);
        gateway.wait("ready", STEP).await?;
        drop(waiting);
        step(&format!("{name}  links on {link}"));
        Ok(gateway)
    }
}

/// What an event of the client means, for somebody who reads it for the first time.
fn in_plain_words(event: &Event, gateways: &[Machine]) -> Option<String> {
    let name = || {
        let address = event.address().ok();
        let known = gateways.iter().find(|machine| machine.address == address);
        known.map_or_else(|| "a gateway".to_owned(), |machine| machine.name.to_owned())
    };
    match event.message() {
        "query sent" => Some("query sent by UDP broadcast".into()),
        "gateway heard" => Some(format!("offer from {}: it is {}", name(), event.field("state"))),
        "gateway chosen" => Some(format!("{} chosen", name())),
        "link up" => Some(format!("link to {} up: one TCP connection, TLS 1.3, HTTP/2", name())),
        "link down" => Some(format!("link to {} lost: {}", name(), event.field("reason"))),
        "download resumed on the next gateway" => {
            Some(format!("download goes on over the next gateway, from byte {}", event.number("offset")))
        }
        _ => None,
    }
}

fn check(found: &str, expected: &str) -> Result<(), Problem> {
    if found == expected {
        return Ok(());
    }
    Err(Problem::new(format!("the download is damaged: its SHA-256 is {found}, not {expected}")))
}

fn megabytes(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes.
    bytes as f64 / 1e6
}

fn title(text: &str) {
    say(format_args!("\n{text}"));
}

fn step(text: &str) {
    say(format_args!("  {text}"));
}

/// A UDP port that nobody uses now, for the demo's own discovery.
fn free_udp_port() -> std::io::Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}
