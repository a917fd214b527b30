//! What one process passes to the other.

use std::net::{TcpListener, UdpSocket};

use socket2::Socket;

/// The sockets of a network by which everything leaves it.
#[derive(Debug)]
pub struct Sockets {
    /// Connections to anywhere. The local address of an accepted one is where it leads.
    pub streams: Vec<TcpListener>,
    /// Datagrams to anywhere; [`receive`](super::receive) tells where.
    pub datagrams: Vec<UdpSocket>,
    /// Take whole IP packets for programs of the network: IPv4, then IPv6 if there is.
    pub packets: Vec<Socket>,
    /// Questions to the name server, by TCP.
    pub dns_streams: TcpListener,
    /// Questions to the name server, by UDP.
    pub dns_datagrams: UdpSocket,
    /// The local proxy of the node, at the same loopback address as outside; `None` if it has no loopback address.
    pub proxy: Option<TcpListener>,
}

/// What the process that holds the sockets is given.
#[derive(Debug)]
pub struct Given {
    /// The sockets.
    pub sockets: Sockets,
    /// The network that they belong to.
    pub network: Network,
}

/// A network, for finding out whether it is still in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The name of its namespace (namespaces(7)).
    pub(super) id: String,
    /// The process that was its first.
    pub(super) first: u32,
}
