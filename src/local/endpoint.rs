//! The addresses of the local port, and the other ends of its connections: over TCP, or over a unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use crate::limits::rate::network_of;
use crate::sys::unix_socket;
use crate::sys::users::user_of;

/// The prefix of a unix socket's path.
const UNIX: &str = "unix:";

/// An address to listen on: `ADDR:PORT` or `unix:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Endpoint {
    /// An address of this machine and a TCP port.
    Tcp(SocketAddr),
    /// A socket in the file system; the path is absolute.
    Unix(PathBuf),
}

/// The permissions of a unix socket, in octal like `660`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// Who sends a login. Users of this machine share its addresses, but not their mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginSource {
    /// A user of this machine.
    User(u32),
    /// Another machine: an IPv4 address, or the /64 of an IPv6 address. Also this machine where the system does not tell the
    /// user.
    Network(IpAddr),
}

/// The text is not a mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("permissions are written in octal, up to 777")]
pub struct NotAMode;

/// The text is not an endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotAnEndpoint {
    /// It has another form.
    #[error("neither ADDR:PORT, with an IPv6 address in brackets, nor unix:/PATH")]
    Form,
    /// This system has no unix sockets.
    #[error("Windows has no unix sockets that laneway can use: name a port instead, such as 127.0.0.1:1080")]
    NoUnixSockets,
    /// The path is longer than the system allows.
    #[error(
        "the path of a unix socket has at most {} bytes here: choose a shorter one",
        unix_socket::LONGEST_PATH
    )]
    TooLong,
}

/// The other end of an app's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppPeer {
    /// An address of the network.
    Network(SocketAddr),
    /// A user of this machine over a unix socket, by user id where the system tells it.
    User(Option<u32>),
}

impl Endpoint {
    /// Its TCP address; `None` for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether only users of this machine can reach it.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl AppPeer {
    /// Whether it is a user of this machine.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Network(address) => address.ip().is_loopback(),
            Self::User(_) => true,
        }
    }

    /// Whom limits on logins apply to. `port` is this end of the connection.
    pub fn login_source(&self, port: Option<SocketAddr>) -> LoginSource {
        match self {
            Self::User(Some(user)) => LoginSource::User(*user),
            Self::User(None) => LoginSource::Network(Ipv4Addr::LOCALHOST.into()),
            Self::Network(app) => {
                let port = port.filter(|port| app.ip().is_loopback() || app.ip() == port.ip());
                let user = port.and_then(|port| user_of(*app, port));
                user.map_or_else(|| LoginSource::Network(network_of(app.ip())), LoginSource::User)
            }
        }
    }
}

impl FromStr for Mode {
    type Err = NotAMode;

    fn from_str(text: &str) -> Result<Self, NotAMode> {
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).map(Self).ok_or(NotAMode)
    }
}

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        match text.strip_prefix(UNIX) {
            Some(_) if !unix_socket::IS_SUPPORTED => Err(NotAnEndpoint::NoUnixSockets),
            Some(path) if path.len() > unix_socket::LONGEST_PATH => Err(NotAnEndpoint::TooLong),
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(NotAnEndpoint::Form),
            None => text.parse().map(Self::Tcp).map_err(|_why: std::net::AddrParseError| NotAnEndpoint::Form),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = NotAnEndpoint;

    fn try_from(text: String) -> Result<Self, NotAnEndpoint> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl fmt::Display for AppPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => write!(f, "{address}"),
            Self::User(Some(number)) => write!(f, "uid {number}"),
            Self::User(None) => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_three_forms_and_nothing_else() {
        for text in ["127.0.0.1:1080", "[::1]:0", "unix:/run/laneway/proxy.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("660".parse(), Ok(Mode(0o660)));
        for text in ["", "8", "1777", "+-1"] {
            assert_eq!(text.parse::<Mode>(), Err(NotAMode), "{text}");
        }
        for text in ["1080", "localhost:1080", "::1:1080", "unix:", "unix:proxy.sock", "/run/x", ""] {
            assert_eq!(text.parse::<Endpoint>(), Err(NotAnEndpoint::Form), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_the_system_does_not_take_is_refused_when_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |length: usize| format!("{:a<length$}", format!("{}/", directory.path().display()));
        let longest = path(unix_socket::LONGEST_PATH);
        assert!(format!("unix:{longest}").parse::<Endpoint>().is_ok());
        drop(std::os::unix::net::UnixListener::bind(longest).unwrap());
        let longer = format!("unix:{}", path(unix_socket::LONGEST_PATH + 1));
        assert_eq!(longer.parse::<Endpoint>(), Err(NotAnEndpoint::TooLong));
    }

    #[test]
    fn all_addresses_of_an_ipv6_network_are_one_source_and_users_of_this_machine_are_not() {
        let peer = |text: &str| AppPeer::Network(text.parse().unwrap()).login_source(None);
        assert_eq!(peer("[2001:db8::1]:1"), peer("[2001:db8::2:0:0:9]:2"));
        assert_ne!(peer("[2001:db8::1]:1"), peer("[2001:db8:0:1::1]:1"));
        assert_ne!(peer("192.0.2.1:1"), peer("192.0.2.2:1"));
        let user = |number| AppPeer::User(number).login_source(None);
        assert_ne!(user(Some(1000)), user(Some(1001)));
        assert_eq!(user(None), peer("127.0.0.1:1"));
    }

    proptest! {
        #[test]
        fn what_is_an_endpoint_or_a_mode_reads_back(text in "(unix:)?[/a-z0-9.:\\[\\]+-]{0,20}", mode in 0_u32..=0o777) {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
            }
            if let Ok(Mode(read)) = text.parse::<Mode>() {
                prop_assert!(read <= 0o777);
            }
            prop_assert_eq!(format!("{mode:o}").parse(), Ok(Mode(mode)));
        }
    }
}
