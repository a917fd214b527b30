//! macOS: what lsof(8) prints. It belongs to the system.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::holder::{Program, Protocol};

/// Where the system has it, whatever `PATH` says.
const PROGRAM: &str = "/usr/sbin/lsof";

/// A process that has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) process: String,
    pub(crate) name: String,
    pub(crate) user: Option<u32>,
}

pub(super) fn find(protocol: Protocol, address: SocketAddr) -> Option<Program> {
    let held = held(protocol, address.port())?;
    Some(Program { name: held.name, process: held.process, is_stopped: false })
}

/// The first process that has this port.
pub(crate) fn held(protocol: Protocol, port: u16) -> Option<Held> {
    let mut command = Command::new(PROGRAM);
    // Numbers instead of names: a name server must not be waited for.
    command.args(["-n", "-P", "-F", "pcu"]).stdin(Stdio::null());
    match protocol {
        Protocol::Tcp => command.arg(format!("-iTCP:{port}")).arg("-sTCP:LISTEN"),
        Protocol::Udp => command.arg(format!("-iUDP:{port}")),
    };
    read(&String::from_utf8_lossy(&command.output().ok()?.stdout))
}

/// Reads the fields of the first process: each is a line, a letter and the value.
fn read(text: &str) -> Option<Held> {
    let process = text.lines().find_map(|line| line.strip_prefix('p'))?.to_owned();
    let own = text.lines().skip(1).take_while(|line| !line.starts_with('p'));
    let field = |letter: char| own.clone().find_map(|line| line.strip_prefix(letter));
    let name = field('c').unwrap_or_default().to_owned();
    Some(Held { process, name, user: field('u').and_then(|user| user.parse().ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_in_the_output_of_lsof_is_the_holder() {
        let text = "p4711\ncControlCe\nu501\nf9\nf10\np4712\ncother\nu0\nf3\n";
        let held = Held { process: "4711".into(), name: "ControlCe".into(), user: Some(501) };
        assert_eq!(read(text), Some(held));
        assert_eq!(read(""), None);
    }
}
