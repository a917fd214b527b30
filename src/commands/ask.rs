//! Reads the status of the node that runs on this machine, through its local port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::proxies::{Fault, Proxies, configured_proxies};
use crate::net;
use crate::peers::options::PORT;
use crate::problem::Problem;
use crate::redirect::{self, Leftover};
use crate::sys::users;
use crate::telemetry::snapshot::Snapshot;

/// The deadline for each step of the request; the node is on this machine.
const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum response size, in bytes.
const MAX_RESPONSE: u64 = 16 << 20;

/// The option that names the local proxy.
#[derive(Clone, Debug, clap::Args)]
pub struct LocalPort {
    /// The local proxy of the node [default: as configured in the file, else 127.0.0.1:1080]
    #[arg(long, env = "LANEWAY_PROXY", value_name = "ADDR:PORT")]
    proxy: Option<SocketAddr>,
}

impl LocalPort {
    /// The TCP addresses where the local proxy listens: the one that was named, else the configured ones. A configuration
    /// that is not valid is a warning on standard error.
    ///
    /// # Errors
    /// When it listens on unix sockets only.
    pub(crate) fn endpoints(&self) -> Result<Vec<SocketAddr>, Problem> {
        let (addresses, fault) = self.found();
        if let Some(fault) = fault {
            // With standard error closed there is nobody to warn.
            let _ = writeln!(io::stderr(), "{}", fault.warning());
        }
        if addresses.is_empty() {
            return Err(Problem::usage("the configuration has the local proxy listen on unix sockets only")
                .hint("let it listen on 127.0.0.1:1080 too, or name a port with --proxy ADDR:PORT"));
        }
        Ok(addresses)
    }

    /// The address at which software on this machine reaches the local proxy, with the same warning.
    ///
    /// # Errors
    /// When it listens on unix sockets only.
    pub fn address(&self) -> Result<SocketAddr, Problem> {
        Ok(reachable(self.endpoints()?[0]))
    }

    /// The same without any message: `None` when it listens on unix sockets only.
    pub fn address_silently(&self) -> Option<SocketAddr> {
        self.found().0.first().copied().map(reachable)
    }

    fn found(&self) -> (Vec<SocketAddr>, Option<Fault>) {
        match self.proxy {
            Some(address) => (vec![address], None),
            None => {
                let Proxies { addresses, fault } = configured_proxies(None);
                (addresses, fault)
            }
        }
    }
}

/// The address at which software on this machine reaches a listening address.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The status of the node behind `proxy`, as one line of JSON in printable ASCII, whatever program has sent it.
///
/// # Errors
/// When no node answers there, or another program does.
pub fn status(proxy: SocketAddr) -> Result<String, Problem> {
    let response =
        fetch_status(proxy).map_err(|error| {
            let problem = Problem::new(format!("no node answers on {proxy}")).because(error);
            problem.hint(hint_without_answer().unwrap_or_else(|| {
                "start it with 'laneway up', or name its port with --proxy ADDR:PORT".into()
            }))
        })?;
    let body = response
        .split_once("\r\n\r\n")
        .filter(|_| response.starts_with("HTTP/1.1 200 "))
        .map(|(_, body)| body);
    // Another program may have put control characters of a terminal into it.
    let is_object =
        |body: &&str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body).is_ok();
    body.filter(is_object).map(in_ascii).ok_or_else(|| {
        let line = response.lines().next().unwrap_or_default();
        Problem::new(format!("what listens on {proxy} is not a laneway node, or not on this machine"))
            .because(io::Error::other(crate::failure::printable(&format!("it answered '{line}'"))))
            .hint(other_port(proxy))
    })
}

/// What to do where another program has the port of the local proxy.
pub(super) fn other_port(taken: SocketAddr) -> String {
    let other = net::free_port_beside(taken);
    format!(
        "if a node runs here, name its port with --proxy ADDR:PORT; else start it on another one: 'laneway up --proxy {other}' (in \
         laneway.toml: proxy = [\"{other}\"], which the other commands then read, too)"
    )
}

/// The status of the node behind `proxy`.
///
/// # Errors
/// Those of [`status`], and when the status cannot be parsed, as that of a node of another version.
pub fn snapshot(proxy: SocketAddr) -> Result<Snapshot, Problem> {
    serde_json::from_str(&status(proxy)?).map_err(|error| {
        Problem::new(format!("this program does not understand the status of the node on {proxy}"))
            .because(error)
            .hint("restart the node: it may be of another version")
    })
}

/// The same JSON text (RFC 8259) on one line of printable ASCII. Outside of strings the only other characters are tabs and
/// line ends, and inside of strings those are escaped already.
fn in_ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii_graphic() || c.is_ascii_whitespace() {
            text.push(if c.is_ascii_graphic() { c } else { ' ' });
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

/// Where the node may be, if something on this machine tells.
fn hint_without_answer() -> Option<String> {
    if let Some(leftover @ (Leftover::Rules(_) | Leftover::Unknown)) = redirect::leftover() {
        return Some(format!("{leftover}; {}", Leftover::HINT));
    }
    let user = users::who_receives(PORT)?;
    let as_user = if Some(user) == users::own() { "" } else { ", or run this as that user" };
    Some(format!(
        "a program of the user {} has the UDP port {PORT} of discovery: if that is the node, name its local port with \
         --proxy ADDR:PORT{as_user}",
        users::name_of(user)
    ))
}

fn fetch_status(proxy: SocketAddr) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&proxy, DEADLINE)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    // A node answers only to a Host of its own machine.
    let host =
        if proxy.ip().is_loopback() { proxy.to_string() } else { format!("127.0.0.1:{}", proxy.port()) };
    // In one write: another program that listens there may close after the first segment.
    let request = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut response = String::new();
    socket.take(MAX_RESPONSE).read_to_string(&mut response)?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    /// What [`status`] makes of this answer of whatever listens there.
    fn answered(answer: &'static str) -> Result<String, Problem> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).unwrap();
            socket.write_all(answer.as_bytes()).unwrap();
        });
        let status = status(address);
        server.join().unwrap();
        status
    }

    #[test]
    fn another_programs_answer_never_reaches_the_terminal_as_it_is() {
        let status = answered(
            "HTTP/1.1 200 OK\r\n\r\n{\"b\": \"\\u001b[31m\u{9b}31m\u{7f}\u{202e}\u{1f600}\",\n\"a\": 1}",
        );
        assert_eq!(status.unwrap(), r#"{"b": "\u001b[31m\u009b31m\u007f\u202e\ud83d\ude00", "a": 1}"#);
        for other in
            ["HTTP/1.1 200 OK\r\n\r\n\u{1b}[31mred", "HTTP/1.1 200 OK\r\n\r\n[1]", "SSH-2.0-\u{1b}[2J", ""]
        {
            let refused = answered(other).unwrap_err().to_string();
            assert!(refused.contains("is not a laneway node"), "{refused}");
            assert!(refused.chars().all(|c| c.is_ascii_graphic() || " \n".contains(c)), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn json_in_ascii_means_the_same(text: String) {
            let value = serde_json::json!({ text.clone(): text });
            let ascii = in_ascii(&value.to_string());
            prop_assert!(ascii.is_ascii());
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&ascii).unwrap(), value);
        }
    }
}
