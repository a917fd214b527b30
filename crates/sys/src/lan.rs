//! The LANs of this machine, and the sockets that discovery uses on them.
//!
//! What only one operating system has is in the submodules.

#[cfg(any(windows, test))]
mod control;
mod datagram;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(not(target_os = "linux"))]
#[path = "lan/no_filter.rs"]
mod filter;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;
use crate::interfaces;

/// The TTL or hop limit that discovery sends and requires. Routers decrease it, so a datagram that arrives with 255
/// comes from a neighbour on the same LAN (RFC 5082).
const NEIGHBOUR_TTL: u8 = 255;
/// Length of the UDP header in bytes (RFC 768). A socket filter sees it before the payload.
const UDP_HEADER: usize = 8;
/// The link-local multicast group of discovery, a transient address (RFC 4291 §2.7).
pub const MULTICAST: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x6c61, 0x6e65);

/// One of this machine's addresses on one LAN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lan {
    /// The interface's name.
    pub interface: String,
    /// The interface's index, or 0 where it is not needed.
    pub index: u32,
    /// This machine's address, with the prefix length of the LAN.
    pub net: IpNet,
}

impl Lan {
    /// The destination that reaches every node on this LAN: the broadcast address (IPv4) or the multicast group
    /// (IPv6).
    pub fn everybody(&self, port: u16) -> SocketAddr {
        match self.net {
            IpNet::V4(net) => SocketAddr::new(net.broadcast().into(), port),
            IpNet::V6(_) => SocketAddrV6::new(MULTICAST, port, 0, self.index).into(),
        }
    }

    /// This machine's own socket address on this LAN.
    pub fn own(&self, port: u16) -> SocketAddr {
        match self.net.addr() {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.index).into(),
        }
    }
}

/// The LANs of this machine: every interface that is up and supports broadcast or multicast, except for those that the
/// system has for itself. If `only` is not empty, only those whose interface name or address is listed; it may also list
/// loopback addresses.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn lans(only: &[String]) -> io::Result<Vec<Lan>> {
    let mut found: Vec<Lan> = Vec::new();
    for entry in interfaces::all()?.into_iter().filter(|entry| entry.is_up) {
        let (net, ip, name) = (entry.net, entry.net.addr(), entry.name);
        if entry.is_loopback {
            let chosen = only.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            let chosen = chosen.filter(|ip| net.contains(ip) && ip.is_ipv4());
            found.extend(chosen.filter_map(|ip| {
                let net = IpNet::new(ip, net.prefix_len()).ok()?;
                Some(Lan { interface: name.clone(), index: 0, net })
            }));
            continue;
        }
        let usable = match net {
            IpNet::V4(net) => net.prefix_len() <= 30 && entry.broadcasts,
            IpNet::V6(net) => net.addr().is_unicast_link_local() && entry.multicasts,
        };
        let wanted = only.is_empty() && !entry.is_internal
            || only.iter().any(|text| *text == name || *text == ip.to_string());
        if usable && wanted {
            found.push(Lan { interface: name, index: entry.scope, net });
        }
    }
    found.dedup();
    Ok(found)
}

/// The interfaces of this machine with their addresses, up or not.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn interfaces() -> io::Result<BTreeMap<String, Vec<IpAddr>>> {
    let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for name in interfaces::names()? {
        all.entry(name).or_default();
    }
    for entry in interfaces::all()? {
        all.entry(entry.name).or_default().push(entry.net.addr());
    }
    Ok(all)
}

/// The state of an interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// Its addresses, each with the prefix length of the network.
    pub nets: Vec<IpNet>,
    /// It is switched on and connected.
    pub is_up: bool,
    /// It is switched on, connected or not. Not every system tells one that is switched off from one without a cable.
    pub is_on: bool,
}

/// The states of this machine's interfaces, except loopback and those that the system has for itself. An interface without an
/// address is included only if it is connected.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn interface_states() -> io::Result<Vec<InterfaceState>> {
    let entries = interfaces::all()?;
    let is_known = |name: &String| entries.iter().any(|entry| entry.name == *name);
    // The address of a bridge or a bond is that of its ports.
    let is_port = |name: &String| Path::new("/sys/class/net").join(name).join("master").exists();
    let bare = interfaces::connected()?.into_iter().filter(|name| !is_known(name) && !is_port(name));
    let mut states: BTreeMap<String, InterfaceState> = bare
        .map(|name| (name.clone(), InterfaceState { name, nets: Vec::new(), is_up: true, is_on: true }))
        .collect();
    for entry in entries.into_iter().filter(|entry| !entry.is_loopback && !entry.is_internal) {
        let (name, is_up, is_on) = (entry.name.clone(), entry.is_up, entry.is_on);
        let new = InterfaceState { name, nets: Vec::new(), is_up, is_on };
        states.entry(entry.name).or_insert(new).nets.push(entry.net);
    }
    Ok(states.into_values().collect())
}

/// Interfaces in one line, each with its IPv4 addresses.
pub fn listed(interfaces: &BTreeMap<String, Vec<IpAddr>>) -> String {
    let one = |(name, addresses): (&String, &Vec<IpAddr>)| {
        let shown: Vec<_> = addresses.iter().filter(|ip| ip.is_ipv4()).map(IpAddr::to_string).collect();
        if shown.is_empty() { name.clone() } else { format!("{name} ({})", shown.join(" ")) }
    };
    interfaces.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Those of `named` that are neither an interface nor an address of this machine. Any loopback address is one.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn unknown(named: &[String]) -> io::Result<Vec<String>> {
    let all = interfaces()?;
    let is_known = |name: &String| match name.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || all.values().flatten().any(|own| *own == ip),
        Err(_) => all.contains_key(name),
    };
    Ok(named.iter().filter(|name| !is_known(name)).cloned().collect())
}

/// The IPv4 networks, with their interfaces, that are up but have no broadcast, loopback excluded. None of them is
/// among [`lans`].
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn without_broadcast() -> io::Result<Vec<(String, IpNet)>> {
    let up = interfaces::all()?.into_iter().filter(|entry| entry.is_up && !entry.is_loopback);
    let silent =
        up.filter(|entry| entry.net.addr().is_ipv4() && (entry.net.prefix_len() > 30 || !entry.broadcasts));
    Ok(silent.map(|entry| (entry.name, entry.net)).collect())
}

/// The IPv4 networks, with their interfaces, that are switched off or not connected, loopback excluded.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn unconnected() -> io::Result<Vec<(String, IpNet)>> {
    let down = interfaces::all()?.into_iter().filter(|entry| !entry.is_up && !entry.is_loopback);
    Ok(down.filter(|entry| entry.net.addr().is_ipv4()).map(|entry| (entry.name, entry.net)).collect())
}

/// The IPv4 networks, with their interfaces, that would be among [`lans`] if their cables were connected: those that are switched
/// on and have no carrier. A bridge without ports is none: containers and virtual machines come and go.
///
/// # Errors
/// When the operating system cannot list its interfaces.
pub fn without_carrier(only: &[String]) -> io::Result<Vec<(String, IpNet)>> {
    let is_bridge = |name: &str| Path::new("/sys/class/net").join(name).join("bridge").exists();
    let dark = interfaces::all()?.into_iter().filter(|entry| {
        let ip = entry.net.addr();
        let is_lan = ip.is_ipv4() && entry.net.prefix_len() <= 30 && entry.broadcasts && !entry.is_loopback;
        let is_wanted = only.is_empty() && !entry.is_internal
            || only.iter().any(|text| *text == entry.name || *text == ip.to_string());
        entry.is_on && !entry.is_up && is_lan && is_wanted && !is_bridge(&entry.name)
    });
    Ok(dark.map(|entry| (entry.name, entry.net)).collect())
}

/// A UDP socket of discovery. It stores its own address on the LAN, because a socket that is bound to the broadcast
/// address does not reveal it.
#[derive(Debug)]
pub struct LanSocket {
    socket: UdpSocket,
    receiver: system::Receiver,
    /// This machine's address on the LAN, with the socket's port.
    pub own: SocketAddr,
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedFrom {
    /// Size in bytes.
    pub size: usize,
    /// The sender's address.
    pub from: SocketAddr,
    /// True if it arrived with an undiminished TTL, that is, from the same LAN. Also where the system does not tell the
    /// TTL: there the prefix of the LAN has to suffice.
    pub neighbour: bool,
}

impl LanSocket {
    /// Binds the socket that sends and receives unicast. Port 0 takes any free port.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when another node runs on this address, otherwise the operating system's error.
    pub fn unicast(lan: &Lan, port: u16) -> io::Result<Self> {
        let socket = udp(lan)?;
        system::bind_unicast(&socket, lan.own(port))?;
        match lan.net {
            IpNet::V4(_) => socket.set_broadcast(true)?,
            IpNet::V6(_) => socket.set_multicast_if_v6(lan.index)?,
        }
        Self::new(lan, socket, None)
    }

    /// Opens the socket that receives the broadcasts or multicasts to `port`, beside the one that sends. Several nodes on
    /// one machine can share that port. `None` when `sender` receives them itself.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn broadcast(lan: &Lan, port: u16, sender: &Self) -> io::Result<Option<Self>> {
        let group = lan.net.addr().is_ipv6().then_some((MULTICAST, lan.index));
        if system::hears_broadcasts(&SockRef::from(&sender.socket), sender.own.port() == port, group) {
            return Ok(None);
        }
        let socket = udp(lan)?;
        system::share(&socket)?;
        let everybody = lan.everybody(port);
        socket.bind(&system::broadcast_address(everybody).into())?;
        if let Some((group, index)) = group {
            socket.join_multicast_v6(&group, index)?;
        }
        Self::new(lan, socket, Some(everybody.ip())).map(Some)
    }

    fn new(lan: &Lan, socket: Socket, only_to: Option<IpAddr>) -> io::Result<Self> {
        let receiver = system::Receiver::new(&socket, lan.net.addr().is_ipv4(), only_to)?;
        let socket = UdpSocket::from_std(socket.into())?;
        let own = lan.own(socket.local_addr()?.port());
        Ok(Self { socket, receiver, own })
    }

    /// Makes the kernel drop datagrams that have the given byte at the given offset, and only those. `None` removes
    /// the filter. Where the system has no such filter, all datagrams still arrive.
    pub fn ignore(&self, mark: Option<(usize, u8)>) {
        let socket = SockRef::from(&self.socket);
        let result = match mark.map(|(at, byte)| (u32::try_from(at + UDP_HEADER), byte)) {
            Some((Ok(at), byte)) => filter::drop_where(&socket, at, byte),
            Some((Err(_), _)) => Ok(()),
            None => filter::drop_nothing(&socket),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "no filter in the system");
        }
    }

    /// Waits for the next datagram.
    ///
    /// # Errors
    /// The operating system's error, for example when the interface has disappeared.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<ReceivedFrom> {
        loop {
            let received =
                self.socket.async_io(Interest::READABLE, || self.receiver.receive(&self.socket, buffer));
            if let Some(received) = received.await? {
                let neighbour = received.ttl.is_none_or(|ttl| ttl == NEIGHBOUR_TTL.into());
                return Ok(ReceivedFrom { size: received.size, from: received.from, neighbour });
            }
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// The operating system's error, for example when the network is unreachable.
    pub async fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(bytes, to).await.map(drop)
    }
}

fn udp(lan: &Lan) -> io::Result<Socket> {
    let domain = if lan.net.addr().is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if domain == Domain::IPV4 {
        socket.set_ttl_v4(NEIGHBOUR_TTL.into())?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(NEIGHBOUR_TTL.into())?;
        socket.set_multicast_hops_v6(NEIGHBOUR_TTL.into())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broadcast_on_loopback_reaches_two_nodes_that_share_the_port() {
        let lan = |ip: &str| lans(&[ip.to_owned()]).unwrap().into_iter().next().unwrap();
        let asker = LanSocket::unicast(&lan("127.0.0.2"), 0).unwrap();
        let port = asker.own.port();
        let (one, two) = (lan("127.0.0.3"), lan("127.0.0.4"));
        let receivers = [&one, &two].map(|lan| LanSocket::broadcast(lan, port, &asker).unwrap().unwrap());
        asker.send(b"hello", one.everybody(port)).await.unwrap();
        for receiver in &receivers {
            let mut buffer = [0; 64];
            let heard = receiver.receive(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..heard.size], b"hello");
            assert_eq!(heard.from, asker.own);
            assert!(heard.neighbour);
        }
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn what_is_to_be_ignored_never_wakes_the_node_and_the_rest_does() {
        let lan = |ip: &str| lans(&[ip.to_owned()]).unwrap().into_iter().next().unwrap();
        let (sender, receiver) = (
            LanSocket::unicast(&lan("127.0.0.5"), 0).unwrap(),
            LanSocket::unicast(&lan("127.0.0.6"), 0).unwrap(),
        );
        let mut buffer = [0; 64];
        for (mark, said, heard) in [
            (Some((2, b'x')), [b"abx", b"aby"], b"aby"),
            (Some((2, b'y')), [b"aby", b"abx"], b"abx"),
            (None, [b"abx", b"aby"], b"abx"),
        ] {
            receiver.ignore(mark);
            for said in said {
                sender.send(said, receiver.own).await.unwrap();
            }
            let size = receiver.receive(&mut buffer).await.unwrap().size;
            assert_eq!(&buffer[..size], heard, "{mark:?}");
        }
    }

    #[test]
    fn loopback_is_no_lan_unless_it_is_named() {
        assert!(lans(&[]).unwrap().iter().all(|lan| !lan.net.addr().is_loopback()));
    }
}
