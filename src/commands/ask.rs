//! Asks the node that runs on this machine what it sees, through its local port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::problem::Problem;
use crate::telemetry::snapshot::Snapshot;

/// How long the node may take to answer; it is on this machine.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Which node to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct LocalPort {
    /// The local proxy of the node [default: what the configuration file says, else 127.0.0.1:1080]
    #[arg(long, env = "LANEWAY_PROXY", value_name = "ADDR:PORT")]
    proxy: Option<SocketAddr>,
}

impl LocalPort {
    /// Where the local proxy of this machine's node is reached from this machine.
    ///
    /// # Errors
    /// When there is a configuration file that is not valid.
    pub fn address(&self) -> Result<SocketAddr, Problem> {
        let address = match self.proxy {
            Some(address) => address,
            None => crate::config::configured_proxy()?,
        };
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Ok(SocketAddr::new(ip, address.port()))
    }
}

/// What the node behind `proxy` sees: one line of JSON.
///
/// # Errors
/// When no node runs there, or something else does.
pub fn status(proxy: SocketAddr) -> Result<String, Problem> {
    let answer = request(proxy).map_err(|error| {
        let nobody = Problem::new(format!("no node answers on {proxy}")).because(error);
        nobody.hint("start it with 'laneway up', or name its port with --proxy ADDR:PORT")
    })?;
    let body =
        answer.split_once("\r\n\r\n").filter(|_| answer.starts_with("HTTP/1.1 200 ")).map(|(_, body)| body);
    body.map(str::to_owned).ok_or_else(|| {
        let told = answer.lines().next().unwrap_or_default();
        Problem::new(format!(
            "what listens on {proxy} is no laneway node, or a proxy that is not on this machine"
        ))
        .because(io::Error::other(crate::failure::printable(&format!("it answered '{told}'"))))
        .hint("name the port of the node with --proxy ADDR:PORT")
    })
}

/// The same, read.
///
/// # Errors
/// Those of [`status`], and when the node is of another version that says other things.
pub fn snapshot(proxy: SocketAddr) -> Result<Snapshot, Problem> {
    serde_json::from_str(&status(proxy)?).map_err(|error| {
        Problem::new(format!("the node on {proxy} says what this program does not understand"))
            .because(error)
            .hint("restart the node: it may be of another version")
    })
}

fn request(proxy: SocketAddr) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&proxy, DEADLINE)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    // A Host that is an address of this machine's own; a node answers to no other.
    let host =
        if proxy.ip().is_loopback() { proxy.to_string() } else { format!("127.0.0.1:{}", proxy.port()) };
    // In one piece: whoever else listens there may hang up after the first.
    let request = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.take(LARGEST).read_to_string(&mut answer)?;
    Ok(answer)
}
