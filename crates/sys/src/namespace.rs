//! A process on a network of its own (Linux): namespaces of users, networks and mounts that need no permission, and the
//! sockets in them that another process holds.
//!
//! A socket belongs to the network on which it was made, whoever holds it. So a process that stays outside accepts what
//! the one inside connects to, and is the only way out of a network that has no other.

mod error;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
mod sockets;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command};

pub use self::error::EnterError;
#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(not(target_os = "linux"))]
use self::other as system;
pub use self::sockets::{Given, Network, Sockets};

/// Whether this system has namespaces.
pub const IS_SUPPORTED: bool = cfg!(target_os = "linux");
/// The port of the sockets that take what leaves the network. Programs cannot bind it, because it is below 1024.
pub const PORT: u16 = 1;
/// The port of the name server.
const DNS: u16 = 53;

/// This process is in namespaces of its own, whose network has no interface that is up, and may change them.
#[derive(Debug)]
pub struct Inside(system::Inside);

/// Puts this process into namespaces of its own. It must have one thread.
///
/// # Errors
/// [`EnterError`].
pub fn enter() -> Result<Inside, EnterError> {
    system::enter().map(Inside)
}

/// Why something that needs the permissions of [`Inside`] was refused, if AppArmor took them away.
pub fn refused_afterwards() -> Option<EnterError> {
    system::is_restricted_by_apparmor().then_some(EnterError::AppArmor)
}

impl Inside {
    /// Makes 127.0.0.1 the only name server, and hides the sockets by which the C library asks programs outside for names.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn use_own_name_server(&self) -> io::Result<()> {
        self.0.use_own_name_server()
    }

    /// Gives up the permission to change these namespaces, for this process and all that it starts, and makes it the user that
    /// it was before.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn give_up(self) -> io::Result<()> {
        self.0.give_up()
    }
}

impl Sockets {
    /// Makes the sockets on the network of this process, which must have the permissions of [`Inside`]. `proxy` is the address
    /// of the node's local proxy.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn bind(with_v6: bool, proxy: SocketAddr) -> io::Result<Self> {
        let mut families: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
        if with_v6 {
            families.push(Ipv6Addr::LOCALHOST.into());
        }
        let each = || families.iter().map(|ip| SocketAddr::new(*ip, PORT));
        let dns = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS));
        Ok(Self {
            streams: each().map(system::transparent_listener).collect::<io::Result<_>>()?,
            datagrams: each().map(system::transparent_datagrams).collect::<io::Result<_>>()?,
            packets: each().map(system::packets).collect::<io::Result<_>>()?,
            dns_streams: TcpListener::bind(dns)?,
            dns_datagrams: UdpSocket::bind(dns)?,
            proxy: proxy.ip().is_loopback().then(|| TcpListener::bind(proxy)).transpose()?,
        })
    }
}

/// What programs of a network have sent and nobody has taken from its sockets yet.
#[derive(Debug)]
pub struct Unread(system::Unread);

impl Sockets {
    /// Watches these sockets, whoever takes from them.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn unread(&self) -> io::Result<Unread> {
        let datagrams = self.datagrams.iter().chain([&self.dns_datagrams]);
        let streams = self.streams.iter().chain([&self.dns_streams]).chain(&self.proxy);
        system::Unread::new(streams, datagrams).map(Unread)
    }
}

impl Unread {
    /// Whether nothing is unread.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Receives a datagram from one of [`Sockets::datagrams`]: its length, its source, and its destination.
///
/// # Errors
/// The operating system's error; [`io::ErrorKind::WouldBlock`] when there is none.
pub fn receive(
    socket: &tokio::net::UdpSocket,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, SocketAddr)> {
    socket.try_io(tokio::io::Interest::READABLE, || system::receive(socket, buffer))
}

/// The connection between the process inside and the one that holds the sockets.
#[derive(Debug)]
pub struct Control(system::Control);

impl Control {
    /// Starts this same program with these arguments, for it to hold the sockets. Its standard input is the other end of the
    /// connection, and it keeps no terminal, directory or output of this process.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn start(arguments: &[&str]) -> io::Result<(Self, Child)> {
        let (control, child) = system::Control::start(arguments)?;
        Ok((Self(control), child))
    }

    /// The other end, in the process that was started.
    ///
    /// # Errors
    /// When standard input is no such connection.
    pub fn inherited() -> io::Result<Self> {
        system::Control::inherited().map(Self)
    }

    /// Passes the sockets to the other end, and waits until it has them.
    ///
    /// # Errors
    /// The operating system's error; [`io::ErrorKind::UnexpectedEof`] when the other end has failed.
    pub fn give(&self, sockets: &Sockets) -> io::Result<()> {
        self.0.give(sockets)
    }

    /// Takes the sockets from the other end; `None` if it has ended without having any.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn take(&self) -> io::Result<Option<Given>> {
        self.0.take()
    }

    /// Tells the other end that its sockets are served.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn confirm(self) -> io::Result<()> {
        self.0.confirm()
    }
}

/// This program again, with other arguments.
pub fn again(arguments: &[&str]) -> Command {
    let mut command = Command::new(system::own_program());
    command.args(arguments);
    command
}

/// Makes this process, which must not be the head of a process group, one that no terminal reaches.
///
/// # Errors
/// The operating system's error.
pub fn leave_terminal() -> io::Result<()> {
    system::leave_terminal()
}

impl Network {
    /// Whether a process is on it. Cheap while its first process runs, otherwise it looks at every process.
    pub fn is_used(&self) -> bool {
        system::is_on(self.first, &self.id)
            || system::processes().into_iter().any(|process| system::is_on(process, &self.id))
    }
}
