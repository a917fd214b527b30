//! Reads the status of the node that runs on this machine, through its local port.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::hung;
use crate::failure::printable;
use crate::local::http::PAGE_IS_RESERVED;
use crate::peers::options::PORT;
use crate::problem::Problem;
use crate::redirect::{self, Leftover};
use crate::sys::paths;
use crate::sys::port_holder::{self, Protocol};
use crate::sys::state::quoted;
use crate::sys::users::{self, Whose};
use crate::telemetry::snapshot::Snapshot;
use crate::{config, net};

/// The deadline for the connection, and for the whole answer; the node is on this machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum response size, in bytes.
const MAX_RESPONSE: usize = 16 << 20;

/// The address at which software on this machine reaches a listening address.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Why an address has no status of a node.
#[derive(Debug)]
pub(super) enum NoStatus {
    /// No connection can be made.
    Nobody(io::Error),
    /// Something accepts connections there, and sends nothing in time.
    Silent,
    /// Something listens there, and sends no whole answer.
    Mute(io::Error),
    /// Something listens there, and answers with this line.
    Foreign(String),
    /// It is a node, which shows its status at its other addresses only.
    Reserved,
    /// It is a node of another version.
    Unknown(serde_json::Error),
}

impl NoStatus {
    /// What a command that asked at `proxy` says.
    pub(super) fn problem(self, proxy: SocketAddr) -> Problem {
        let foreign = || {
            let program = port_holder::find(Protocol::Tcp, proxy);
            let program = program
                .map(|found| format!(": it is {} (process {})", printable(&found.name), found.process));
            let program = program.unwrap_or_default();
            Problem::new(format!(
                "what listens on {proxy} is not a laneway node, or not on this machine{program}"
            ))
        };
        match self {
            Self::Nobody(error) => {
                let problem = Problem::new(format!("no node answers on {proxy}")).because(error);
                problem.hint(hint_without_answer().unwrap_or_else(|| {
                    let start = match is_of_the_machine() {
                        true => "'sudo laneway service start', or 'sudo laneway up' with its options in a terminal",
                        false => "'laneway up' and its options, such as --server HOST:PORT on a gateway",
                    };
                    format!("start it with {start}, or name its port with --proxy ADDR:PORT")
                }))
            }
            Self::Silent => hung::at(proxy, DEADLINE).unwrap_or_else(|| {
                let why = io::Error::other(format!("it does not answer within {} s", DEADLINE.as_secs()));
                foreign().because(why).hint(other_port(proxy))
            }),
            Self::Mute(error) => {
                let why = io::Error::other(format!("it does not answer: {error}"));
                foreign().because(why).hint(other_port(proxy))
            }
            Self::Foreign(line) => {
                let why = match line.is_empty() {
                    true => "it ended the connection without an answer".to_owned(),
                    false => format!("it answered '{line}'"),
                };
                foreign().because(io::Error::other(why)).hint(other_port(proxy))
            }
            Self::Reserved => {
                Problem::new(format!("the node on {proxy} does not show its status at this address"))
                    .hint("ask at its address on loopback, such as --proxy 127.0.0.1:1080")
            }
            Self::Unknown(error) => {
                Problem::new(format!("this program does not understand the status of the node on {proxy}"))
                    // It repeats words of whatever program has answered.
                    .because(io::Error::other(printable(&error.to_string())))
                    .hint("restart the node: it may be of another version")
            }
        }
    }
}

/// The status of the node behind `proxy`, as one line of JSON in printable ASCII, whatever program has sent it.
///
/// # Errors
/// When no node answers there, or another program does.
pub fn status(proxy: SocketAddr) -> Result<String, Problem> {
    json(proxy).map_err(|error| error.problem(proxy))
}

/// The status of the node behind `proxy`.
///
/// # Errors
/// Those of [`status`], and when the status cannot be parsed, as that of a node of another version.
pub fn snapshot(proxy: SocketAddr) -> Result<Snapshot, Problem> {
    about(proxy).map_err(|error| error.problem(proxy))
}

/// The status of the node behind `proxy`.
///
/// # Errors
/// Why there is none.
pub(super) fn about(proxy: SocketAddr) -> Result<Snapshot, NoStatus> {
    serde_json::from_str(&json(proxy)?).map_err(NoStatus::Unknown)
}

fn json(proxy: SocketAddr) -> Result<String, NoStatus> {
    let response = fetch_status(proxy)?;
    if response.starts_with("HTTP/1.1 403 ") && response.contains(PAGE_IS_RESERVED) {
        return Err(NoStatus::Reserved);
    }
    let body = response
        .split_once("\r\n\r\n")
        .filter(|_| response.starts_with("HTTP/1.1 200 "))
        .map(|(_, body)| body);
    // Another program may have put control characters of a terminal into it.
    let is_object =
        |body: &&str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body).is_ok();
    body.filter(is_object).map(in_ascii).ok_or_else(|| {
        let line = response.lines().next().unwrap_or_default();
        NoStatus::Foreign(printable(line))
    })
}

/// What to do where another program has the port of the local proxy.
pub(super) fn other_port(taken: SocketAddr) -> String {
    let other = net::free_port_beside(taken);
    format!(
        "start the node on another port with 'laneway up --proxy {other}'; to keep that, write  proxy = \"{other}\"  to {}",
        quoted(&config::file_to_change())
    )
}

/// A JSON text (RFC 8259) on one line of printable ASCII. Outside of strings the only other characters are tabs and line ends,
/// and inside of strings those are escaped already.
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

/// Whether the node of this machine is root's, as far as this user can tell: the user has none.
pub(super) fn is_of_the_machine() -> bool {
    let has_group = |directory: PathBuf| directory.join("group.json").exists();
    let exists = |directory: PathBuf| directory.symlink_metadata().is_ok();
    !paths::is_administrator()
        && !paths::state().is_some_and(has_group)
        && paths::machine_state().is_some_and(exists)
}

fn fetch_status(proxy: SocketAddr) -> Result<String, NoStatus> {
    let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    // The listen queue of a program that accepts nothing fills up.
    let is_full = |error: &io::Error| {
        is_late(error) && !matches!(users::whose(proxy), Whose::Nobody | Whose::Elsewhere)
    };
    let connected = TcpStream::connect_timeout(&proxy, DEADLINE);
    let socket = connected.map_err(|error| match is_full(&error) {
        true => NoStatus::Silent,
        false => NoStatus::Nobody(error),
    })?;
    let mut response = Vec::new();
    match answer(socket, proxy, &mut response) {
        Ok(()) => Ok(String::from_utf8_lossy(&response).into_owned()),
        Err(error) if is_late(&error) && response.is_empty() => Err(NoStatus::Silent),
        Err(error) => Err(NoStatus::Mute(error)),
    }
}

/// Asks, and appends what comes to `response` until its end.
fn answer(mut socket: TcpStream, proxy: SocketAddr, response: &mut Vec<u8>) -> io::Result<()> {
    let end = Instant::now() + DEADLINE;
    socket.set_write_timeout(Some(DEADLINE))?;
    // A node answers only to a Host of its own machine.
    let host =
        if proxy.ip().is_loopback() { proxy.to_string() } else { format!("127.0.0.1:{}", proxy.port()) };
    // In one write: another program that listens there may close after the first segment.
    let request = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes())?;
    let mut bytes = [0; 16 * 1024];
    loop {
        // Another program may send a byte now and then, forever.
        let left = end.saturating_duration_since(Instant::now());
        let late = || {
            let seconds = DEADLINE.as_secs();
            io::Error::new(io::ErrorKind::TimedOut, format!("it takes more than {seconds} s"))
        };
        let left = (!left.is_zero()).then_some(left).ok_or_else(late)?;
        socket.set_read_timeout(Some(left))?;
        let count = match socket.read(&mut bytes) {
            Ok(count) => count,
            // A signal, such as that of a terminal that gets another size.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(late());
            }
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(());
        }
        response.extend_from_slice(&bytes[..count]);
        if response.len() > MAX_RESPONSE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends more than a status has"));
        }
    }
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

    /// Each byte comes in time, and there is no end of them.
    #[test]
    fn a_program_that_sends_a_byte_now_and_then_is_not_waited_for_without_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            while socket.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let refused = status(address).unwrap_err().to_string();
        assert!(refused.contains("is not a laneway node"), "{refused}");
        server.join().unwrap();
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
