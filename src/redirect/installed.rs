//! What is installed on this machine, by whom, and whether somebody still looks after it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::Instant;

use super::error::RedirectError;
use super::interface::{self, INTERFACE};
use super::owner::{END, POLL};
use super::program::run;
use super::rules::{ANY, Maker, OF_NODE, TABLE};
use crate::sys::process;

/// The name of this program's processes.
const PROGRAM: &str = "laneway";
/// The conventional port of transparent mode.
pub const TRANSPARENT_PORT: u16 = 1081;

/// The table that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Who has installed it.
    pub maker: Maker,
    /// The ports that connections are redirected to.
    pub ports: Vec<u16>,
    /// The table in the syntax of nft.
    pub text: String,
}

impl Maker {
    /// Whether it still looks after the table.
    pub fn is_alive(self) -> bool {
        match self {
            Self::Hand => false,
            Self::Owner(_) => true,
            Self::Node(id) => id != std::process::id() && process::is_running(id, PROGRAM),
        }
    }
}

/// The installed table, or `None` if there is none.
///
/// # Errors
/// [`RedirectError`].
pub fn installed() -> Result<Option<Installed>, RedirectError> {
    match run("nft", &["list", "table", "inet", TABLE], "") {
        Ok(text) => Ok(Some(read(text))),
        Err(RedirectError::Refused { complaint, .. }) if complaint.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(text: String) -> Installed {
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<u32>().ok()
    };
    let maker = match text.split_once(OF_NODE).and_then(|(_, rest)| digits(rest)) {
        Some(process) if text.lines().any(|line| line.trim() == "flags owner") => Maker::Owner(process),
        Some(process) => Maker::Node(process),
        None => Maker::Hand,
    };
    let mut ports: Vec<u16> =
        text.split("redirect to :").skip(1).filter_map(|rest| u16::try_from(digits(rest)?).ok()).collect();
    ports.dedup();
    Installed { maker, ports, text }
}

/// Removes the table and the interface.
pub(super) fn remove_all() -> Result<(), RedirectError> {
    run("nft", &["-f", "-"], &format!("{ANY}delete table inet {TABLE}\n"))?;
    interface::remove()
}

/// Fails if a running node keeps rules: nobody else can change them, or the node would install them again. Rules of a node that
/// was just killed and is started anew are waited for: they go with the process that owns them.
pub(super) fn refuse_another_keeper() -> Result<(), RedirectError> {
    let until = Instant::now() + END;
    loop {
        match installed()?.map(|installed| installed.maker) {
            Some(Maker::Owner(process))
                if Instant::now() < until && !process::is_running(process, PROGRAM) =>
            {
                std::thread::sleep(POLL);
            }
            Some(maker @ (Maker::Node(process) | Maker::Owner(process))) if maker.is_alive() => {
                return Err(RedirectError::Kept(process));
            }
            _ => return Ok(()),
        }
    }
}

/// What a killed node, or somebody who forgot it, has left of the redirection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Connections are redirected to this port, where nothing listens: all of them fail.
    Rules(u16),
    /// The interface with its route of last resort, which harms nothing.
    Interface,
    /// The interface, and only root can tell whether there are rules.
    Unknown,
}

impl Leftover {
    /// What ends it.
    pub const HINT: &str = "'sudo laneway transparent down' ends that";
}

/// Says what is left and what that does.
impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(port) => write!(
                f,
                "this machine's connections are redirected to port {port}, where nothing listens: they are refused"
            ),
            Self::Interface => {
                write!(f, "the interface {INTERFACE} is left of a node that was killed; it does no harm")
            }
            Self::Unknown => write!(
                f,
                "this machine's connections may be redirected to a node that does not run: {INTERFACE} exists, and only \
                 root can see the rules"
            ),
        }
    }
}

/// What is left of a redirection that nobody serves any more. Cheap where there is nothing.
pub fn leftover() -> Option<Leftover> {
    if !interface::exists() {
        return None;
    }
    match installed() {
        Ok(None) => Some(Leftover::Interface),
        Ok(Some(Installed { maker, ports, .. })) => {
            ports.into_iter().find(|port| !maker.is_alive() && is_free(*port)).map(Leftover::Rules)
        }
        Err(_) => is_free(TRANSPARENT_PORT).then_some(Leftover::Unknown),
    }
}

/// Whether nothing listens on this port of the loopback addresses. A connection there would count as a loop.
fn is_free(port: u16) -> bool {
    !listens(Ipv4Addr::LOCALHOST.into(), port) && !listens(Ipv6Addr::LOCALHOST.into(), port)
}

/// Whether something listens on this port of a loopback address. Nothing is sent there.
pub fn listens(loopback: IpAddr, port: u16) -> bool {
    TcpListener::bind((loopback, port)).is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::rules::Rules;

    #[test]
    fn the_maker_of_a_table_is_read_from_its_listing() {
        for maker in [Maker::Hand, Maker::Node(42), Maker::Owner(42)] {
            let text = Rules { v4: Some(1081), v6: Some(1082), ..Rules::default() }.text(maker, &[]);
            let listed = text.replace("; ", "\n");
            let installed = read(listed.replace("{ flags", "{\nflags"));
            assert_eq!((installed.maker, installed.ports), (maker, vec![1081, 1082]), "{listed}");
        }
    }
}
