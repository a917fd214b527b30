//! The whole system in real processes on loopback addresses: a server, two gateways and a client, each with a state
//! directory of its own and a loopback address as its "machine". Nothing of the user's own group or configuration is
//! read or changed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use laneway_sys::blocking;
use tokio::sync::oneshot;

use crate::download::{Dialect, Download, Pause};
use crate::error::Error;
use crate::machine::{Event, Machine, Sandbox};
use crate::network::{Network, Place};
use crate::origin::Generated;
use crate::report::{Report, Reporter};

/// How long each step may take before the demo gives up.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// The seed of the file's pseudo-random bytes.
const SEED: u64 = 7;
/// What a node logs when it resumes a download.
const RESUMED: &str = "the rest of a download is asked for on the next gateway";
/// How many hexadecimal digits of a SHA-256 are shown.
const SHOWN_DIGITS: usize = 16;

/// The demo's settings.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The laneway program.
    pub executable: PathBuf,
    /// The size of the file that is downloaded, in bytes.
    pub size: u64,
    /// Leave everything running at the end, until the future is dropped.
    pub keep: bool,
}

/// The client, and what it found.
struct Client {
    machine: Machine,
    /// Its local proxy.
    proxy: SocketAddr,
    /// The address of the gateway in use.
    gateway: Option<SocketAddr>,
}

impl Demo {
    /// Runs it.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub async fn run(&self, report: &dyn Fn(Report<'_>)) -> Result<(), Error> {
        let sandbox = Sandbox::new(&self.executable).await?;
        let file = Generated { size: self.size, seed: SEED };
        let hash = blocking::run(move || file.sha256());

        title(
            report,
            "Four machines: one server, two gateways, one client that cannot reach the server itself",
        );
        let (_server, server) = start_server(&sandbox, file, report).await?;
        let mut gateways = start_gateways(&sandbox, server, report).await?;

        title(
            report,
            match sandbox.network {
                Network::Lan(_) => "The client starts and asks its LAN: who is connected to the server?",
                Network::Named => {
                    "The client starts. Loopback has no broadcasts here, so the gateways are named to it"
                }
            },
        );
        let mut client = start_client(&sandbox, &gateways, report).await?;

        title(report, "An app on the client downloads the file");
        report(Report::Waiting("hashing the server's file, to compare with"));
        let hash = hash.await.map_err(|error| Error::new("the file cannot be hashed").because(error))?;
        let download = |dialect| Download {
            proxy: client.proxy,
            server,
            size: file.size,
            sha256: &hash,
            dialect,
            report,
        };
        for dialect in [Dialect::Http, Dialect::Socks5] {
            let done = download(dialect).run(None).await?;
            let rate = megabytes(done.bytes) / done.took.as_secs_f64();
            step(report, &format!("{:<10} {done}, {rate:.0} MB/s; {}", dialect.name(), is_right(&hash)));
        }
        let download = download(Dialect::Http);
        fail_over(&mut client, &mut gateways, &download).await?;

        if self.keep {
            title(report, "Everything goes on running. Try, in another terminal:");
            step(report, &format!("curl -x http://{} http://{server}/file | sha256sum", client.proxy));
            step(report, &format!("curl --socks5-hostname {} http://{server}/", client.proxy));
            step(report, &format!("the client's page: http://{}/", client.proxy));
            title(report, "Ctrl-C ends it. Next, with machines of your own:");
            step(report, "laneway init        on the first machine; it prints the line for the others");
            step(report, "laneway up --server HOST:PORT");
            report(Report::Kept);
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// Starts the server; returns its address too.
async fn start_server(
    sandbox: &Sandbox,
    file: Generated,
    report: Reporter<'_>,
) -> Result<(Machine, SocketAddr), Error> {
    let (size, seed) = (file.size.to_string(), file.seed.to_string());
    let arguments = ["origin", "--listen", "127.0.0.1:0", "--seed", &seed, "--size", &size];
    let mut server = sandbox.start("server", &arguments)?;
    report(Report::Waiting("the server starts"));
    let address = server.wait("listening: origin, HTTP", STEP_TIMEOUT).await?.address()?;
    step(report, &format!("server     http://{address}/file ({} MiB)", file.size >> 20));
    Ok((server, address))
}

/// Makes the group of all machines, and starts its gateways.
async fn start_gateways(
    sandbox: &Sandbox,
    server: SocketAddr,
    report: Reporter<'_>,
) -> Result<[Machine; 2], Error> {
    let code = sandbox.make_group("gateway-1").await?;
    let first = start_gateway(sandbox, "gateway-1", Place::FirstGateway, server, report).await?;
    let named = first.address.filter(|_| sandbox.network == Network::Named);
    for (name, place) in [("gateway-2", Place::SecondGateway), ("client", Place::Client)] {
        report(Report::Waiting(&format!("{name} joins the group")));
        sandbox.join_group(name, sandbox.network.address(place), &code, named).await?;
    }
    step(report, "group      made by gateway-1; gateway-2 and the client joined it with its code");
    let second = start_gateway(sandbox, "gateway-2", Place::SecondGateway, server, report).await?;
    Ok([first, second])
}

async fn start_gateway(
    sandbox: &Sandbox,
    name: &'static str,
    place: Place,
    server: SocketAddr,
    report: Reporter<'_>,
) -> Result<Machine, Error> {
    let address = sandbox.network.address(place);
    let any_port = format!("{address}:0");
    let own = [
        "--server".into(),
        server.to_string(),
        "--link".into(),
        any_port.clone(),
        "--proxy".into(),
        any_port,
    ];
    let mut gateway = sandbox.start_node(name, "gateway", address, &own)?;
    report(Report::Waiting(&format!("{name} starts")));
    let link = gateway.wait("listening: links, TCP", STEP_TIMEOUT).await?.address()?;
    gateway.address = Some(link);
    gateway.wait("ready", STEP_TIMEOUT).await?;
    step(report, &format!("{name}  links on {link}"));
    Ok(gateway)
}

/// Starts the client, and waits for its first link.
async fn start_client(
    sandbox: &Sandbox,
    gateways: &[Machine],
    report: Reporter<'_>,
) -> Result<Client, Error> {
    // As if it had never seen the group's machines: only the broadcast can find them.
    sandbox.forget_gateways("client")?;
    let started = Instant::now();
    let mut own = vec!["--proxy".into(), "127.0.0.1:0".into()];
    if sandbox.network == Network::Named {
        own.extend(
            gateways
                .iter()
                .filter_map(|gateway| gateway.address)
                .map(|address| format!("--gateway={address}")),
        );
    }
    let address = sandbox.network.address(Place::Client);
    let mut machine = sandbox.start_node("client", "client", address, &own)?;
    let proxy = machine.wait("listening: local proxy, SOCKS and HTTP", STEP_TIMEOUT).await?.address()?;
    loop {
        let event = machine.next(STEP_TIMEOUT).await?;
        let is_asked = event.message() != "query sent" || sandbox.network != Network::Named;
        if let Some(line) = explain(&event, gateways).filter(|_| is_asked) {
            step(report, &format!("{:6.1} ms  {line}", millis(started.elapsed())));
        }
        if event.message() == "link up" {
            return Ok(Client { machine, proxy, gateway: event.address().ok() });
        }
    }
}

/// Kills the gateway in use in the middle of a download, and waits for its end over the other one.
async fn fail_over(
    client: &mut Client,
    gateways: &mut [Machine],
    download: &Download<'_>,
) -> Result<(), Error> {
    for event in client.machine.unread() {
        if matches!(event.message(), "link up" | "gateway in use") {
            client.gateway = event.address().ok();
        }
    }
    let report = download.report;
    let used = gateways.iter_mut().find(|gateway| gateway.address == client.gateway);
    let used = used.ok_or_else(|| Error::new("the client uses a gateway that is not one of the demo's"))?;
    title(report, &format!("In the middle of a download, {} is killed (kill -9)", used.name));
    let ((reached, marked), (resume, over)) = (oneshot::channel(), oneshot::channel());
    let pause = Pause { at: download.size / 4, reached, over };
    let killed = used.name;
    let first_request = async {
        // If the mark is not reached, the download has failed and says so itself.
        let _ = marked.await;
        used.kill().await?;
        let _ = resume.send(());
        download.small_request().await
    };
    let (done, first_request) = tokio::join!(download.run(Some(pause)), first_request);
    let (done, first_request) = (done?, first_request?);
    let mut resumed = false;
    // The access line of the download is its last event.
    loop {
        let event = client.machine.next(STEP_TIMEOUT).await?;
        if let Some(line) = explain(&event, gateways) {
            step(report, &line);
        }
        match event.message() {
            RESUMED => resumed = true,
            "connection" if event.field("dialect") == "http" && event.number("received") >= download.size => {
                break;
            }
            _ => {}
        }
    }
    let answered = millis(first_request);
    step(report, &format!("first new request after the kill: answered in {answered:.1} ms"));
    let right = is_right(download.sha256);
    let how = match resumed {
        true => "over both gateways".to_owned(),
        false => format!("{killed} had sent all of it before the kill"),
    };
    step(report, &format!("download   {done}, {how}; {right}"));
    Ok(())
}

/// What an event of the client means, for readers who see it for the first time.
fn explain(event: &Event, gateways: &[Machine]) -> Option<String> {
    let name = || {
        let address = event.address().ok();
        let known = gateways.iter().find(|machine| machine.address == address);
        known.map_or("a gateway", |machine| machine.name)
    };
    match event.message() {
        "query sent" => Some("query sent by UDP broadcast".into()),
        "gateway heard" => Some(format!("offer from {}: it is {}", name(), event.field("state"))),
        "gateway chosen" => Some(format!("{} chosen", name())),
        "link up" => Some(format!("link to {} up: one TCP connection, TLS 1.3, HTTP/2", name())),
        "link down" => Some(format!("link to {} lost: {}", name(), event.field("reason"))),
        RESUMED => {
            Some(format!("download resumed on the next gateway, from byte {}", event.number("offset")))
        }
        _ => None,
    }
}

fn is_right(sha256: &str) -> String {
    format!("SHA-256 is right: {}…", &sha256[..SHOWN_DIGITS])
}

fn megabytes(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes.
    bytes as f64 / 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn title(report: Reporter<'_>, text: &str) {
    report(Report::Title(text));
}

fn step(report: Reporter<'_>, text: &str) {
    report(Report::Step(text));
}
